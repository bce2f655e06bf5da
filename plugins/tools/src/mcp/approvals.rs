//! What the operator has approved, in a file.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{Listed, McpError};

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 8 << 20;
const VERSION: u32 = 1;

/// Approved tools by their server and their name there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approvals {
    version: u32,
    servers: BTreeMap<String, BTreeMap<String, Approved>>,
}

/// One tool as it was when it was approved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approved {
    /// The digest of everything below, in hexadecimal digits.
    pub sha256: String,
    /// What the model reads of it.
    pub description: String,
    /// JSON Schema of its arguments.
    pub parameters: Value,
    /// Whether it states that it changes nothing.
    pub reads_only: bool,
}

impl Default for Approvals {
    fn default() -> Self {
        Self { version: VERSION, servers: BTreeMap::new() }
    }
}

impl Approvals {
    /// Reads the file; one that is not there approves nothing.
    ///
    /// Errors: it cannot be read, or a digest in it is not that of its text.
    pub fn load(path: &Path) -> Result<Self, McpError> {
        let refuse = |message: String| McpError::Approvals { path: path.to_owned(), message };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(refuse(format!("cannot be read: {error}"))),
        };
        let mut text = String::new();
        let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
        read.map_err(|error| refuse(format!("cannot be read: {error}")))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(refuse(format!("is larger than {FILE_BYTES_MAX} bytes")));
        }
        let approvals: Self = serde_json::from_str(&text)
            .map_err(|error| refuse(format!("is no file of approvals: {error}")))?;
        if approvals.version != VERSION {
            let version = approvals.version;
            return Err(refuse(format!("has version {version}; this program reads {VERSION}")));
        }
        for (server, tools) in &approvals.servers {
            for (name, tool) in tools {
                if tool.sha256 != fingerprint(name, tool) {
                    return Err(refuse(format!(
                        "{server}: {name}: the text is not the one that was approved; remove the \
                         entry and run zonda tool approve {server}"
                    )));
                }
            }
        }
        Ok(approvals)
    }

    /// What is approved of a tool.
    pub fn of(&self, server: &str, tool: &str) -> Option<&Approved> {
        self.servers.get(server)?.get(tool)
    }

    /// Approves a tool as it is listed now.
    pub fn approve(&mut self, server: &str, tool: &Listed) {
        let tools = self.servers.entry(server.to_owned()).or_default();
        tools.insert(tool.name.clone(), tool.as_approved());
    }

    /// Writes the file: all of it or, if that fails, nothing.
    pub fn save(&self, path: &Path) -> Result<(), McpError> {
        let write = || -> std::io::Result<()> {
            let mut text = serde_json::to_string_pretty(self)?;
            text.push('\n');
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(format!(".{}.new", std::process::id()));
            let fresh = path.with_file_name(name);
            let mut file = OpenOptions::new().write(true).create_new(true).open(&fresh)?;
            let written = file
                .write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
                .and_then(|()| std::fs::rename(&fresh, path));
            if written.is_err() {
                // The file is of no use; the error that is told is the first one.
                let _removed = std::fs::remove_file(&fresh);
            }
            written?;
            match path.parent() {
                Some(folder) => File::open(folder)?.sync_all(),
                None => Ok(()),
            }
        };
        write().map_err(|error| McpError::Approvals {
            path: path.to_owned(),
            message: format!("cannot be written: {error}; tools.approvals_file names another"),
        })
    }
}

/// The digest of what a tool tells the model and of what its approval rests on. The order of keys,
/// which some servers change from run to run, does not count.
pub(super) fn fingerprint(name: &str, tool: &Approved) -> String {
    let all =
        serde_json::json!([name, tool.description, sorted(&tool.parameters), tool.reads_only]);
    let digest = Sha256::digest(all.to_string().as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(sorted).collect(),
        Value::Object(entries) => {
            let mut pairs: Vec<_> = entries.iter().collect();
            pairs.sort_by_key(|(key, _)| *key);
            let entries = pairs.into_iter().map(|(key, value)| (key.clone(), sorted(value)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}
