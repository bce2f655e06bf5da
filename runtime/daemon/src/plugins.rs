//! The table of what is compiled in: every transport, tool and filter by its name.

use std::sync::Arc;
use std::time::Duration;

use firmware_config::{
    ClientConfig, FilterConfig, HttpSection, McpApproval, McpServerConfig, McpToolConfig,
    MqttSection, MqttVersion, Profile, Strictness,
};
use http_transport::{HttpClient, HttpConfig, HttpTransport};
use mqtt_transport::{EmbeddedBroker, MqttConfig, MqttTransport, TlsFiles};
use protocol::{Filter, Tool, ToolSpec, Transport};
use tools::mcp::{Approval, Grant, ServerConfig, Servers};

use crate::error::AssembleError;
use crate::guard::{self, Guard, GuardSettings};
use crate::networks::Networks;
use crate::sensing::Sensing;
use crate::tool_loop::ToolLimits;

/// A transport that is ready to serve, and what to tell people of it.
pub(crate) struct Entrance {
    /// The transport.
    pub(crate) transport: Box<dyn Transport>,
    /// Its address, as the ready line shows it.
    pub(crate) address: String,
    /// Kept alive for as long as the transport serves.
    pub(crate) broker: Option<EmbeddedBroker>,
}

/// Builds one entrance; `None` when the profile turns it off.
type Build = fn(&Profile, &mut Sensing) -> Result<Option<Entrance>, AssembleError>;

/// Every transport of this build, in the order of the ready line.
const TRANSPORTS: &[(&str, Build)] = &[("http", http), ("mqtt", mqtt)];

/// Opens every entrance that the profile turns on; addresses are taken from here on.
pub(crate) fn entrances(
    profile: &Profile,
    sensing: &mut Sensing,
) -> Result<Vec<(&'static str, Entrance)>, AssembleError> {
    let mut entrances = Vec::new();
    for (name, build) in TRANSPORTS {
        if let Some(entrance) = build(profile, sensing)? {
            entrances.push((*name, entrance));
        }
    }
    Ok(entrances)
}

fn http(profile: &Profile, _: &mut Sensing) -> Result<Option<Entrance>, AssembleError> {
    let section: &HttpSection = &profile.http;
    if !section.enabled {
        return Ok(None);
    }
    let transport = HttpTransport::bind(HttpConfig {
        address: section.address,
        tcp: section.tcp,
        unix_socket: section.unix_socket.clone(),
        tls: section.tls.as_ref().map(|files| http_transport::TlsFiles {
            cert_file: files.cert_file.clone(),
            key_file: files.key_file.clone(),
            client_ca_file: files.client_ca_file.clone(),
        }),
        insecure: section.insecure,
        token_sha256: section.token_sha256.clone(),
        clients: profile.clients.iter().map(http_client).collect(),
        body_bytes_max: section.body_bytes_max as usize,
        connections_max: section.connections_max as usize,
        strictness: strictness(section.strictness),
        timeouts: http_transport::Timeouts::default(),
        drain: section.drain,
        batch_folder: section.batch_folder.clone(),
        batch_bytes_max: section.batch_bytes_max,
    })?;
    let address = transport.entrances();
    Ok(Some(Entrance { transport: Box::new(transport), address, broker: None }))
}

fn http_client(client: &ClientConfig) -> HttpClient {
    HttpClient {
        name: client.name.clone(),
        key_sha256: client.key_sha256.clone(),
        strictness: client.strictness.map(strictness),
    }
}

fn strictness(strictness: Strictness) -> chat_json::Strictness {
    match strictness {
        Strictness::Lenient => chat_json::Strictness::Lenient,
        Strictness::MistralStrict => chat_json::Strictness::MistralStrict,
    }
}

fn mqtt(profile: &Profile, sensing: &mut Sensing) -> Result<Option<Entrance>, AssembleError> {
    let section: &MqttSection = &profile.mqtt;
    if !section.enabled {
        return Ok(None);
    }
    let broker = match &section.url {
        Some(_) => None,
        None => Some(EmbeddedBroker::start(section.broker_address)?),
    };
    let url = match (&section.url, &broker) {
        (Some(url), _) => url.clone(),
        (None, Some(broker)) => format!("mqtt://{}", broker.address()),
        (None, None) => unreachable!("a broker was started because no URL is configured"),
    };
    let mut config = mqtt_config(section, url.clone());
    config.sources = sensing.topics();
    let transport = MqttTransport::new(config)?;
    let transport = transport.with_news(sensing.lookout(), sensing.take_feed());
    let address = if broker.is_some() { format!("{url} (embedded broker)") } else { url };
    Ok(Some(Entrance { transport: Box::new(transport), address, broker }))
}

/// What mosquitto must be told for this configuration: access rules, or a drop-in that uses them.
pub(crate) fn broker_rules(profile: &Profile, drop_in: bool) -> String {
    let section = &profile.mqtt;
    let mut config = mqtt_config(section, section.url.clone().unwrap_or_default());
    config.sources = Sensing::new(profile).topics();
    if drop_in { config.broker_drop_in() } else { config.broker_acl() }
}

fn mqtt_config(section: &MqttSection, url: String) -> MqttConfig {
    let mut config = MqttConfig::new(url, &section.site, &section.node);
    config.root.clone_from(&section.root);
    config.client_id.clone_from(&section.client_id);
    config.username.clone_from(&section.username);
    config.password = section.password.as_ref().map(|secret| secret.reveal().to_owned());
    config.version = match section.version {
        MqttVersion::Auto => mqtt_transport::MqttVersion::Auto,
        MqttVersion::V5 => mqtt_transport::MqttVersion::V5,
        MqttVersion::V311 => mqtt_transport::MqttVersion::V311,
    };
    config.tls = TlsFiles {
        ca_file: section.ca_file.clone(),
        cert_file: section.cert_file.clone(),
        key_file: section.key_file.clone(),
    };
    config.home_assistant = section.home_assistant;
    config.insecure = section.insecure;
    config.plain_requests = section.plain_requests;
    config.pool.clone_from(&section.pool);
    config.reply_filters.clone_from(&section.reply_filters);
    config.request_bytes_max = section.request_bytes_max as usize;
    config.send_bytes_max = section.send_bytes_max as usize;
    config.queue_requests_max = section.queue_requests_max as usize;
    config.client_requests_max = section.client_requests_max as usize;
    config.drain = section.drain;
    config.detach_grace = section.detach_grace;
    config.journal.clone_from(&section.journal);
    config
}

/// The filters that the profile lists, in its order. `networks`: what it has beside the model.
pub(crate) fn filters(
    profile: &Profile,
    networks: Option<&Arc<Networks>>,
) -> Result<Vec<Box<dyn Filter>>, AssembleError> {
    let build = |filter: &FilterConfig| {
        let wrong = |message: String| AssembleError::Configuration {
            message: format!("{}: {message}", filter.origin),
        };
        match guard_settings(filter)? {
            Some(settings) => match Guard::new(networks, settings) {
                Ok(guard) => Ok(Box::new(guard) as Box<dyn Filter>),
                Err(message) => Err(wrong(format!("filter {}: {message}", guard::KIND))),
            },
            None => filters::build(&filter.kind, &filter.settings)
                .map_err(|error| wrong(error.to_string())),
        }
    };
    profile.filters.iter().map(build).collect()
}

/// The settings of a filter that needs a network; `None` for any other filter.
fn guard_settings(filter: &FilterConfig) -> Result<Option<GuardSettings>, AssembleError> {
    if filter.kind != guard::KIND {
        return Ok(None);
    }
    GuardSettings::read(&filter.settings).map(Some).map_err(|message| {
        let message = format!("{}: filter {}: {message}", filter.origin, guard::KIND);
        AssembleError::Configuration { message }
    })
}

/// The tools that the profile lists.
pub(crate) fn tools(profile: &Profile) -> Result<Vec<Box<dyn Tool>>, AssembleError> {
    profile
        .tools
        .enabled
        .iter()
        .map(|name| {
            tools::build(name)
                .map_err(|error| AssembleError::Configuration { message: error.to_string() })
        })
        .collect()
}

/// The servers of tools that the profile names, started; `None` where it names none.
pub(crate) fn servers(profile: &Profile) -> Result<Option<Servers>, AssembleError> {
    if profile.mcp_servers.is_empty() {
        return Ok(None);
    }
    let configs = profile.mcp_servers.iter().map(server_config).collect();
    let file = &profile.tools.approvals_file;
    let servers = Servers::start(configs, file, check_function)?;
    Ok(Some(servers))
}

/// How a server of the profile is started, with this program's own values of the variables that it
/// may have.
pub(crate) fn server_config(server: &McpServerConfig) -> ServerConfig {
    let variable = |text: &String| match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => std::env::var(text).ok().map(|value| (text.clone(), value)),
    };
    let grant = |tool: &McpToolConfig| Grant {
        name: tool.name.clone(),
        function: tool.function.clone(),
        approval: match tool.approval {
            McpApproval::Client => Approval::Client,
            McpApproval::Never => Approval::Never,
            McpApproval::Always => Approval::Always,
        },
    };
    ServerConfig {
        name: server.name.clone(),
        command: server.command.clone(),
        args: server.args.clone(),
        env: server.env.iter().filter_map(variable).collect(),
        working_folder: server.working_folder.clone(),
        handshake: server.handshake,
        call: server.call,
        grants: server.tools.iter().map(grant).collect(),
    }
}

/// Whether prompts can hold a function.
pub(crate) fn check_function(function: &ToolSpec) -> Result<(), String> {
    text::check_function(function).map_err(|error| error.to_string())
}

/// What the profile names exists, without opening anything.
pub(crate) fn check(profile: &Profile) -> Result<(), AssembleError> {
    for filter in &profile.filters {
        // Networks are not loaded here; a name that nothing has shows at the start.
        if guard_settings(filter)?.is_none() {
            filters::build(&filter.kind, &filter.settings).map_err(|error| {
                AssembleError::Configuration { message: format!("{}: {error}", filter.origin) }
            })?;
        }
    }
    tools(profile)?;
    crate::foreign::check(profile)?;
    profile.device.backend.parse::<model::BackendChoice>()?;
    Ok(())
}

/// How far one request may go with tools.
pub(crate) fn tool_limits(profile: &Profile) -> ToolLimits {
    let section = &profile.tools;
    ToolLimits {
        rounds_max: section.rounds_max,
        duration_max: section.duration_max.max(Duration::from_secs(1)),
        result_bytes_max: section.result_bytes_max as usize,
        requests_max: section.requests_max,
    }
}
