//! `$ref`: what it points to becomes an entry of `$defs`, once.

use serde_json::{Value, json};

use super::{Members, REFERENCES_MAX, Reducer, Refusal};

/// Bytes of definitions that are written out in place.
const INLINED_BYTES_MAX: usize = 64 << 10;

impl<'a> Reducer<'a> {
    pub(super) fn reference(&mut self, reference: &str) -> Result<Value, Refusal> {
        let is_local = reference == "#" || reference.starts_with("#/");
        if !is_local || self.named > 0 {
            return Err(self.refused(
                "$ref is supported from the root of the document (\"#/$defs/name\"); other \
                 documents, anchors and references below an $id are not",
            ));
        }
        let known = self.references.iter().position(|known| known == reference);
        let index = known.unwrap_or(self.references.len());
        if known.is_none() {
            if index >= REFERENCES_MAX {
                return Err(self.too_large(format!(
                    "more than {REFERENCES_MAX} different references are not supported"
                )));
            }
            self.references.push(reference.into());
        }
        Ok(json!(format!("#/$defs/{index}")))
    }

    /// The schema that a reference names; the path becomes its place.
    pub(super) fn resolve(&mut self, reference: &str) -> Result<&'a Value, Refusal> {
        let mut target = self.root;
        for (index, step) in reference.split('/').skip(1).enumerate() {
            if index > 0 && target.get("$id").is_some_and(Value::is_string) {
                return Err(self.refused("$ref into a schema with an $id is not supported"));
            }
            let step = percent_decoded(step).replace("~1", "/").replace("~0", "~");
            let found = match target {
                Value::Array(items) => step.parse().ok().and_then(|at: usize| items.get(at)),
                other => other.get(&step),
            };
            self.path.push(step);
            target =
                found.ok_or_else(|| self.malformed("a $ref names this place, which is empty"))?;
        }
        Ok(target)
    }
}

/// The definition that a reduced schema refers to.
fn target<'a>(schema: &Value, definitions: &'a Members) -> Option<&'a Value> {
    definitions.get(schema.get("$ref")?.as_str()?.rsplit('/').next()?)
}

/// Whether some definition is a reference to itself, at once or by others.
pub(super) fn lead_nowhere(definitions: &Members) -> bool {
    definitions.values().any(|definition| {
        let next = |schema: &&Value| target(schema, definitions);
        std::iter::successors(Some(definition), next).nth(definitions.len()).is_some()
    })
}

/// Writes out what cases of `oneOf` refer to: the compiler does not look behind references to see that
/// cases exclude each other.
pub(super) fn inline_cases(reduced: &mut Members, definitions: &mut Members) {
    let known = definitions.clone();
    let mut bytes_left = INLINED_BYTES_MAX;
    inline_below(reduced, &known, &mut bytes_left);
    for definition in definitions.values_mut().filter_map(Value::as_object_mut) {
        inline_below(definition, &known, &mut bytes_left);
    }
}

fn inline_below(schema: &mut Members, known: &Members, bytes_left: &mut usize) {
    for case in schema.get_mut("oneOf").and_then(Value::as_array_mut).into_iter().flatten() {
        let is_alone = case.as_object().is_some_and(|members| members.len() == 1);
        let Some(target) = target(case, known).filter(|_| is_alone) else {
            continue;
        };
        let bytes = target.to_string().len();
        if bytes <= *bytes_left {
            *bytes_left -= bytes;
            *case = target.clone();
        }
    }
    for_each_below(schema, &mut |inner| inline_below(inner, known, bytes_left));
}

/// Visits the schemas right below a reduced one.
pub(super) fn for_each_below(schema: &mut Members, visit: &mut dyn FnMut(&mut Members)) {
    for (name, value) in schema.iter_mut() {
        let inner: Vec<&mut Value> = match (name.as_str(), value) {
            ("properties" | "patternProperties" | "$defs", Value::Object(members)) => {
                members.values_mut().collect()
            }
            ("allOf" | "anyOf" | "oneOf" | "prefixItems", Value::Array(schemas)) => {
                schemas.iter_mut().collect()
            }
            ("items" | "additionalProperties", value) => vec![value],
            _ => Vec::new(),
        };
        inner.into_iter().filter_map(Value::as_object_mut).for_each(&mut *visit);
    }
}

/// `%41` as `A`; what is no such escape stays.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped.filter(|_| byte == b'%') {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
