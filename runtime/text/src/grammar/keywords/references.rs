//! `$ref`: what it points to becomes an entry of `$defs`, once.

use serde_json::{Value, json};

use super::{REFERENCES_MAX, Reducer, Refusal};

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
