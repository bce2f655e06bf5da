//! What a server says of its tools now, beside what was approved.

use rmcp::model::Tool;
use serde_json::Value;

use super::approvals::{Approvals, Approved, fingerprint};
use super::{Check, Grant};

/// Longest description, in bytes: it is read by the model with every prompt.
const DESCRIPTION_BYTES_MAX: usize = 8 << 10;
/// Largest schema, in bytes of JSON.
const SCHEMA_BYTES_MAX: usize = 32 << 10;

/// A tool as its server lists it.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// Its name there.
    pub name: String,
    /// What it says it does.
    pub description: String,
    /// JSON Schema of its arguments.
    pub parameters: Value,
    /// Whether it states that it changes nothing.
    pub reads_only: bool,
}

/// How a tool that may be offered stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// It is what was approved, and is offered.
    Approved(Approved),
    /// Nobody has approved it yet.
    New,
    /// It is not what was approved.
    Changed,
    /// The server does not list it.
    Missing,
    /// The server lists it more than once.
    Ambiguous,
    /// It cannot be offered, whoever approves it.
    Unfit(String),
}

impl Listed {
    pub(super) fn from_wire(tool: &Tool) -> Self {
        let annotations = tool.annotations.as_ref();
        Self {
            name: tool.name.clone().into_owned(),
            description: tool.description.clone().unwrap_or_default().into_owned(),
            parameters: Value::Object(tool.input_schema.as_ref().clone()),
            reads_only: annotations.and_then(|notes| notes.read_only_hint).unwrap_or(false),
        }
    }

    /// What an approval of it says.
    pub fn as_approved(&self) -> Approved {
        let mut approved = Approved {
            sha256: String::new(),
            description: self.description.clone(),
            parameters: self.parameters.clone(),
            reads_only: self.reads_only,
        };
        approved.sha256 = fingerprint(&self.name, &approved);
        approved
    }

    /// The digest that an approval of it would carry.
    pub fn sha256(&self) -> String {
        self.as_approved().sha256
    }

    fn unfit(&self, function: &str, check: Check) -> Option<String> {
        let described = self.description.len();
        if described > DESCRIPTION_BYTES_MAX {
            let most = DESCRIPTION_BYTES_MAX;
            return Some(format!("its description has {described} bytes, at most {most} may be"));
        }
        let bytes = self.parameters.to_string().len();
        if bytes > SCHEMA_BYTES_MAX {
            let most = SCHEMA_BYTES_MAX;
            return Some(format!("its schema has {bytes} bytes, at most {most} may be"));
        }
        if self.parameters["type"] != "object" {
            return Some("its schema is not of type object".into());
        }
        check(&super::tool::spec(function, &self.as_approved())).err()
    }
}

impl Standing {
    /// How `grant` stands with a server that lists `tools`.
    pub fn of(
        server: &str,
        grant: &Grant,
        tools: &[Listed],
        approvals: &Approvals,
        check: Check,
    ) -> Self {
        let mut named = tools.iter().filter(|tool| tool.name == grant.name);
        let Some(tool) = named.next() else {
            return Self::Missing;
        };
        if named.next().is_some() {
            return Self::Ambiguous;
        }
        if let Some(reason) = tool.unfit(&grant.function, check) {
            return Self::Unfit(reason);
        }
        match approvals.of(server, &grant.name) {
            None => Self::New,
            Some(approved) if approved.sha256 == tool.sha256() => Self::Approved(approved.clone()),
            Some(_) => Self::Changed,
        }
    }
}
