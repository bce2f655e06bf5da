//! `format`: what a text has to look like.

use serde_json::Value;

use super::{Care, Members, Reducer, Refusal};

/// What `format` may name; every other format is no grammar's.
const FORMATS: [&str; 8] =
    ["date", "date-time", "duration", "email", "ipv4", "ipv6", "time", "uuid"];
/// RFC 3339 with leap years, which the compiler does not count, and without leap seconds, which it
/// allows in any minute.
const DATE: &str = concat!(
    "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|",
    "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|",
    "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
);
const TIME: &str = concat!(
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?",
    "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
);

impl Reducer<'_> {
    /// Dates and times become a `pattern` of `reduced`.
    pub(super) fn format(
        &self,
        value: &Value,
        members: &Members,
        reduced: &mut Members,
    ) -> Result<Option<Value>, Refusal> {
        let format = value.as_str().ok_or_else(|| self.malformed("format must be a string"))?;
        let may_be_text = match members.get("type") {
            None => true,
            Some(Value::Array(types)) => types.iter().any(|name| name == "string"),
            Some(name) => name == "string",
        };
        // Formats are about strings; on a number they are notes, such as OpenAPI's int32.
        if !may_be_text {
            return Ok(None);
        }
        let pattern = match format {
            "date" => format!("^{DATE}$"),
            "time" => format!("^{TIME}$"),
            "date-time" => format!("^{DATE}T{TIME}$"),
            _ if FORMATS.contains(&format) => return Ok(Some(value.clone())),
            // The standard lets a format be a mere note.
            _ if self.care == Care::Rest => return Ok(None),
            _ => return Err(self.unknown_format()),
        };
        if members.contains_key("pattern") {
            if self.care == Care::Rest {
                return Ok(None);
            }
            return Err(self.refused("format and pattern together are not supported for dates"));
        }
        reduced.insert("pattern".into(), pattern.into());
        Ok(None)
    }

    fn unknown_format(&self) -> Refusal {
        self.refused(format!(
            "this format is not supported; leave it out, use pattern, or one of {}",
            FORMATS.join(", ")
        ))
    }
}
