//! Programs beside this one that bring tools, spoken to in the Model Context Protocol.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::layer::Layer;
use crate::reader::Reader;
use crate::{Origin, Problem};

/// Most servers.
const SERVERS_MAX: usize = 16;
/// Most tools of one server.
const TOOLS_MAX: usize = 64;
/// Most arguments, and most variables, of one server's command line.
const WORDS_MAX: usize = 64;
/// Longest of them, in bytes.
const WORD_BYTES_MAX: usize = 4096;
/// Longest name of a server, so that most tools' names fit behind it.
const NAME_BYTES_MAX: usize = 24;
/// Longest name of a function, as the models' vendor has it.
const FUNCTION_BYTES_MAX: usize = 64;

const APPROVALS: &[(&str, McpApproval)] = &[
    ("client", McpApproval::Client),
    ("never", McpApproval::Never),
    ("always", McpApproval::Always),
];

/// Whether whoever asked must agree before a call is run on this box.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum McpApproval {
    /// For every call of a tool that does not state that it only reads.
    #[default]
    Client,
    /// For no call.
    Never,
    /// For every call.
    Always,
}

/// One server: how it is started, and which of its tools are offered.
#[derive(Debug, Clone, PartialEq)]
pub struct McpServerConfig {
    /// Its name; its tools are `name__tool` for the model.
    pub name: String,
    /// The program; an absolute path.
    pub command: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment: `NAME` passes this program's own value on, `NAME=value` sets one.
    pub env: Vec<String>,
    /// The folder that it runs in; an absolute path.
    pub working_folder: PathBuf,
    /// How long it may take from its start until its tools are known.
    pub handshake: Duration,
    /// How long one call may take.
    pub call: Duration,
    /// The tools that may be offered; others of this server are not.
    pub tools: Vec<McpToolConfig>,
    /// Where it is configured.
    pub origin: Origin,
}

/// One tool that may be offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct McpToolConfig {
    /// As its server names it.
    pub name: String,
    /// As the model sees it.
    pub function: String,
    /// Who must agree to a call.
    pub approval: McpApproval,
}

/// Every `[[mcp_servers]]` of the configuration.
pub(crate) fn read(reader: &mut Reader) -> Vec<McpServerConfig> {
    let tables = reader.tables("mcp_servers", SERVERS_MAX);
    let mut servers: Vec<McpServerConfig> = Vec::with_capacity(tables.len());
    for (layer, origin) in tables {
        let Some(server) = server(reader, layer, origin.clone()) else {
            continue;
        };
        if servers.iter().any(|other| other.name == server.name) {
            reader.problem(origin, format!("mcp_servers: {:?} is there twice", server.name));
        }
        servers.push(server);
    }
    servers
}

fn server(reader: &mut Reader, layer: Layer, origin: Origin) -> Option<McpServerConfig> {
    let mut inner = Reader::default();
    inner.overlay(layer);
    let rule = "a name of 1 to 24 of a-z, 0-9 and -";
    let name = inner.text("name", rule, is_server_name);
    let command = inner.text("command", "an absolute path", is_absolute);
    for (key, value, rule) in [("name", &name, rule), ("command", &command, "an absolute path")] {
        if value.is_none() && inner.problems.is_empty() {
            inner.problem(origin.clone(), format!("{key} is missing: {rule}"));
        }
    }
    let is_word = |text: &str| text.len() <= WORD_BYTES_MAX && !text.contains('\0');
    let args = inner.texts("args", "a text of at most 4096 bytes", WORDS_MAX, is_word);
    let variable = "NAME or NAME=value";
    let env = inner.texts("env", variable, WORDS_MAX, |text| is_word(text) && is_variable(text));
    let folder = inner.text_or("working_folder", "/", "an absolute path", is_absolute);
    let handshake = inner.milliseconds("handshake_ms_max", 20_000, 100..=600_000);
    let call = inner.milliseconds("call_ms_max", 30_000, 100..=3_600_000);
    let tools = tools(&mut inner, name.as_deref().unwrap_or_default(), &origin);
    pass_on(reader, inner, "mcp_servers");
    Some(McpServerConfig {
        name: name?,
        command: command?.into(),
        args,
        env,
        working_folder: folder.into(),
        handshake,
        call,
        tools,
        origin,
    })
}

fn tools(reader: &mut Reader, server: &str, origin: &Origin) -> Vec<McpToolConfig> {
    let mut tools: Vec<McpToolConfig> = Vec::new();
    for (layer, origin) in reader.tables("tools", TOOLS_MAX) {
        let Some(tool) = tool(reader, layer, origin.clone(), server) else {
            continue;
        };
        if tools.iter().any(|other| other.function == tool.function) {
            reader.problem(origin, format!("tools: {:?} is there twice", tool.function));
        }
        tools.push(tool);
    }
    if tools.is_empty() && reader.problems.is_empty() {
        let message = "tools is missing; such as tools = [{ name = \"search\" }]";
        reader.problem(origin.clone(), message);
    }
    tools
}

fn tool(reader: &mut Reader, layer: Layer, origin: Origin, server: &str) -> Option<McpToolConfig> {
    let mut inner = Reader::default();
    inner.overlay(layer);
    let most = FUNCTION_BYTES_MAX - server.len() - "__".len();
    let rule = format!("a name of 1 to {most} of A-Z a-z 0-9 _ - . and /");
    let is_name = |text: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
        (1..=most).contains(&text.len()) && text.bytes().all(is_allowed)
    };
    let name = inner.text("name", &rule, is_name);
    if name.is_none() && inner.problems.is_empty() {
        inner.problem(origin, format!("name is missing: {rule}"));
    }
    let approval = inner.choice("approval", APPROVALS);
    pass_on(reader, inner, "tools");
    let name = name?;
    // Functions have neither dots nor slashes in their names.
    let function = format!("{server}__{}", name.replace(['.', '/'], "_"));
    Some(McpToolConfig { name, function, approval })
}

fn is_server_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_allowed)
}

fn is_absolute(text: &str) -> bool {
    Path::new(text).is_absolute() && text.len() <= WORD_BYTES_MAX && !text.contains('\0')
}

fn is_variable(text: &str) -> bool {
    let name = text.split('=').next().unwrap_or_default();
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty()
        && name.bytes().all(is_allowed)
        && !name.starts_with(|first: char| first.is_ascii_digit())
}

/// Hands the problems of a table on, each with the list that it stands in.
fn pass_on(reader: &mut Reader, inner: Reader, list: &str) {
    let (_, problems, _) = inner.finish();
    let prefixed =
        |problem: Problem| Problem { message: format!("{list}: {}", problem.message), ..problem };
    reader.problems.extend(problems.into_iter().map(prefixed));
}
