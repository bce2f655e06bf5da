//! Leaving out what no grammar keeps, for tools that are not strict.
//!
//! Whatever is left out only lets more through: a schema is a list of things that must all hold. The
//! exception is `oneOf`, where a wider case takes values away from its neighbours; beside anything
//! that was left out it becomes `anyOf`.

use serde_json::{Map, Value, json};

use super::references::for_each_below;
use super::{Reducer, Refusal, weight};

/// What becomes of keywords that no grammar keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::grammar) enum Care {
    /// They are refused: what is written keeps the whole schema.
    Whole,
    /// They are left out: what is written keeps the rest.
    Rest,
}

impl Reducer<'_> {
    /// Goes on without what was refused, where that is allowed; `depth` is that of the path there.
    pub(super) fn leave_out(&mut self, refusal: Refusal, depth: usize) -> Result<(), Refusal> {
        if self.care == Care::Whole || refusal.cause != super::Cause::Unsupported {
            return Err(refusal);
        }
        self.path.truncate(depth);
        self.left_out += 1;
        Ok(())
    }

    /// Sees that the compiler can bear the whole schema.
    pub(super) fn lighten(&self, reduced: &mut Map<String, Value>) -> Result<(), Refusal> {
        if self.left_out > 0 {
            loosen(reduced, &[]);
        }
        while let Err(excess) = weight::check(reduced) {
            let is_lighter = self.care == Care::Rest && loosen(reduced, excess.keywords);
            if !is_lighter {
                return Err(self.refused(excess.message));
            }
        }
        Ok(())
    }
}

/// Leaves these keywords out of a reduced schema, wherever they are; whether anything changed.
///
/// `$ref` is left out where something else stands beside it.
pub(in crate::grammar) fn loosen(schema: &mut Map<String, Value>, keywords: &[&str]) -> bool {
    let mut has_changed = false;
    if let Some(cases) = schema.remove("oneOf") {
        has_changed = true;
        if schema.contains_key("anyOf") {
            let all = schema.entry("allOf").or_insert_with(|| json!([]));
            all.as_array_mut().into_iter().for_each(|all| all.push(json!({ "anyOf": cases })));
        } else {
            schema.insert("anyOf".into(), cases);
        }
    }
    for &keyword in keywords {
        let is_alone = schema.keys().all(|name| name == "$ref" || name == "$defs");
        if (keyword != "$ref" || !is_alone) && schema.remove(keyword).is_some() {
            has_changed = true;
            if keyword == "patternProperties" {
                // It would hold for the names that the lost patterns are about.
                schema.remove("additionalProperties");
            }
        }
    }
    for_each_below(schema, &mut |inner| has_changed |= loosen(inner, keywords));
    has_changed
}
