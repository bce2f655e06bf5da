//! The configuration as the program sees it: every value present, typed and in range.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::{
    ClassifierConfig, ClientConfig, Expect, HardwareFacts, McpServerConfig, ModelFacts, OnnxConfig,
    Origin, PluginsSection, RouterConfig, Secret,
};

/// Everything that this box is told about itself.
///
/// [`Profile::load`](crate::Sources) is the only way to one; it is complete and checked.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The device profile below the settings, such as `jetson-agx-orin-64`.
    pub id: String,
    /// Where the network computes.
    pub device: DeviceConfig,
    /// How much memory may be used.
    pub memory: MemoryConfig,
    /// How many requests, and how they are cut into steps.
    pub engine: EngineConfig,
    /// What answers.
    pub model: ModelConfig,
    /// The HTTP entrance.
    pub http: HttpSection,
    /// The MQTT entrance.
    pub mqtt: MqttSection,
    /// Functions on this box that the model may call.
    pub tools: ToolsSection,
    /// Plugins of others.
    pub plugins: PluginsSection,
    /// Programs beside this one that bring more of them.
    pub mcp_servers: Vec<McpServerConfig>,
    /// What looks at requests and answers, in this order.
    pub filters: Vec<FilterConfig>,
    /// What is told apart, by the names that requests ask for.
    pub classifiers: Vec<ClassifierConfig>,
    /// Small networks beside the model.
    pub onnx: Vec<OnnxConfig>,
    /// What decides before the model.
    pub router: Option<RouterConfig>,
    /// Who may ask, and how much.
    pub clients: Vec<ClientConfig>,
    /// What is written down.
    pub log: LogSection,
    /// The profile's statement of the machine.
    pub hardware: HardwareFacts,
    /// The model that the profile is made for; generic profiles name none.
    pub usual_model: Option<ModelFacts>,
    /// What the device should reach with that model.
    pub expect: Option<Expect>,
}

/// Where the network computes.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceConfig {
    /// `auto`, `flex`, `ndarray`, `vulkan`, `wgpu`, `metal` or `cuda`.
    pub backend: String,
    /// What `auto` tries, best first.
    pub backend_order: Vec<String>,
    /// Blocks of the model that a GPU computes, from the first on; the CPU computes the others and the
    /// output. At least as many as the model has means all of it.
    pub gpu_layers: u32,
    /// Bytes of a GPU's memory for weights and cache; what they do not hold, the CPU computes. 0 means
    /// what the GPU's driver says of its own memory; where it says nothing, and where the memory is that
    /// of the box, everything goes there.
    pub gpu_memory_bytes: u64,
    /// What happens when a GPU is lost and does not come back.
    pub on_lost: LostDevice,
    /// Threads of CPU backends; 0 means one for each core.
    pub threads: u32,
    /// Threads that small networks beside the model compute on, all together.
    pub onnx_threads: u32,
}

/// What happens when a GPU is lost while it computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LostDevice {
    /// Requests are refused, and whoever started the program starts it again.
    #[default]
    Stop,
    /// The model is loaded again on the CPU.
    Cpu,
}

/// Numbers of the cache of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvDtype {
    /// 16-bit floats.
    #[default]
    F16,
    /// 8-bit integers with a scale for each token and head: about half the memory.
    Int8,
    /// 32-bit floats: twice the memory, for comparisons.
    F32,
}

/// How much memory may be used.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryConfig {
    /// Weights, cache and activations together.
    pub model_budget_bytes: u64,
    /// At most this for the paged cache of keys and values, taken once at start.
    pub kv_pool_bytes: u64,
    /// How keys and values are kept there.
    pub kv_dtype: KvDtype,
    /// What the rest of the system keeps.
    pub reserve_bytes: u64,
}

/// Who may reuse what was computed of whose prompts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PrefixSharing {
    /// Everybody.
    #[default]
    All,
    /// Each client its own.
    Client,
    /// Nobody.
    Off,
}

/// How many requests, and how they are cut into steps.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    /// Answers computed at the same time.
    pub sequences_max: u32,
    /// Tokens in one step, prompts and answers together.
    pub batch_tokens_max: u32,
    /// Requests that wait; one more is refused with `queue_full`.
    pub queue_requests_max: u32,
    /// Tokens in one page of the cache; a power of two.
    pub page_tokens: u32,
    /// Tokens of one prompt in one step, so that running answers never wait for a whole prompt.
    pub prompt_chunk_tokens: u32,
    /// How many times as long as a step of answers alone one with prompts may take; 0 for any.
    pub slowdown_max: f64,
    /// Tokens that are guessed behind an answer's last one, at most; 0 for none.
    pub draft_tokens_max: u32,
    /// Who may reuse what was computed of whose prompts.
    pub prefix_sharing: PrefixSharing,
    /// Where beginnings that several requests share are kept over a restart; in memory alone where
    /// no folder is named. They are what clients sent, as the model sees it.
    pub prefix_folder: Option<PathBuf>,
    /// Bytes of the files there, at most.
    pub prefix_folder_bytes: u64,
    /// Prompt and answer together; 0 means what the model was made for.
    pub context_tokens_max: u32,
    /// Events that a slow reader may leave lying before its answer is paused.
    pub reply_events_max: u32,
}

/// What answers.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// A file or a folder with weights.
    pub path: Option<PathBuf>,
    /// A smaller model of the same vocabulary, which guesses what answers say next.
    pub draft_path: Option<PathBuf>,
    /// The name that answers carry; without it, the file's own.
    pub name: Option<String>,
    /// Prompt encoding `v1`, `v2`, `v3`, `v3-tekken` or `v7`, where the file's own is wrong.
    pub encoding: Option<String>,
    /// Other names under which it answers.
    pub aliases: Vec<AliasConfig>,
    /// The temperature of requests that name none; without it, the model's own.
    pub default_temperature: Option<f32>,
}

/// One more name for the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasConfig {
    /// What clients ask for.
    pub name: String,
    /// The prompt encoding of that name, where it differs.
    pub encoding: Option<String>,
}

/// How a body with unknown fields is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Unknown fields are ignored and listed in the answer's header.
    Lenient,
    /// Unknown fields are refused, at every level.
    MistralStrict,
}

/// The files of an encrypted entrance, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those up to its authority.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
    /// The authorities whose certificates clients must show; none asks for no certificate.
    pub client_ca_file: Option<PathBuf>,
}

/// The HTTP entrance.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpSection {
    /// Whether it is open.
    pub enabled: bool,
    /// Where it listens; anything but loopback needs keys or client certificates, and TLS.
    pub address: SocketAddr,
    /// A socket in the file system, open besides the address.
    pub unix_socket: Option<PathBuf>,
    /// Whether it listens on `address`; without it, on the socket alone.
    pub tcp: bool,
    /// How it encrypts, if it does.
    pub tls: Option<TlsFiles>,
    /// Listens beyond loopback without TLS.
    pub insecure: bool,
    /// SHA-256 of each bearer token of a client without a name. With neither these nor keys of
    /// clients, everybody on this box is let in.
    pub token_sha256: Vec<[u8; 32]>,
    /// How unknown fields are taken.
    pub strictness: Strictness,
    /// A larger body is refused.
    pub body_bytes_max: u32,
    /// Connections at the same time.
    pub connections_max: u32,
    /// How long running answers may take to end after a stop.
    pub drain: Duration,
    /// Where files and batches are kept over a restart; in memory where no folder is named. They
    /// are what clients sent and were answered.
    pub batch_folder: Option<PathBuf>,
    /// Bytes of files and batches together, at most.
    pub batch_bytes_max: u64,
}

/// Which MQTT is spoken to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MqttVersion {
    /// 5, and 3.1.1 where the broker refuses that.
    Auto,
    /// MQTT 5.
    V5,
    /// MQTT 3.1.1.
    V311,
}

/// The MQTT entrance.
#[derive(Debug, Clone)]
pub struct MqttSection {
    /// Whether it is open.
    pub enabled: bool,
    /// The broker, as `mqtt://host:port` or `mqtts://host:port`; `None` starts the embedded one.
    pub url: Option<String>,
    /// Where the embedded broker listens; loopback only.
    pub broker_address: SocketAddr,
    /// First levels of every topic.
    pub root: String,
    /// The topic level behind the root.
    pub site: String,
    /// This box's topic level.
    pub node: String,
    /// How this box names itself to the broker.
    pub client_id: String,
    /// The shared work queue that it takes from, if any.
    pub pool: Option<String>,
    /// Which MQTT is spoken.
    pub version: MqttVersion,
    /// Name at the broker.
    pub username: Option<String>,
    /// Password at the broker: a credential, never in a configuration file.
    pub password: Option<Secret>,
    /// The CA that signed the broker's certificate, in PEM; needed by `mqtts://`.
    pub ca_file: Option<PathBuf>,
    /// This box's own certificate, in PEM, for brokers that want one.
    pub cert_file: Option<PathBuf>,
    /// Its private key, in PEM; only its owner may read it.
    pub key_file: Option<PathBuf>,
    /// Describes this box to Home Assistant, and answers what is asked there.
    pub home_assistant: bool,
    /// Allows `mqtt://` to a broker on another box, which sends everything unencrypted.
    pub insecure: bool,
    /// Takes requests whose topic names no client. True where only this box can reach the broker.
    pub plain_requests: bool,
    /// Topic filters of reply topics allowed besides the clients' own.
    pub reply_filters: Vec<String>,
    /// A larger request is refused.
    pub request_bytes_max: u32,
    /// A larger answer is cut.
    pub send_bytes_max: u32,
    /// Requests of this entrance that wait or run.
    pub queue_requests_max: u32,
    /// Of these, requests of one client that its topics name.
    pub client_requests_max: u32,
    /// How long running answers may take to end after a stop.
    pub drain: Duration,
    /// Without a broker for this long, running answers are cancelled.
    pub detach_grace: Duration,
    /// The file in which accepted requests and undelivered finals survive a restart; `None` keeps
    /// them in memory alone.
    pub journal: Option<PathBuf>,
}

/// Functions on this box that the model may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolsSection {
    /// Their names; empty offers none.
    pub enabled: Vec<String>,
    /// How often one request may go back to the model with results.
    pub rounds_max: u32,
    /// How long one request may go on calling functions.
    pub duration_max: Duration,
    /// A larger result becomes an error that the model reads.
    pub result_bytes_max: u32,
    /// Requests that may use functions at the same time.
    pub requests_max: u32,
    /// What the operator has approved of the tools of other programs.
    pub approvals_file: PathBuf,
}

/// One filter and its settings.
#[derive(Debug, Clone, PartialEq)]
pub struct FilterConfig {
    /// Which filter.
    pub kind: String,
    /// Its settings, for the filter to check.
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// Where it is configured, for the error if the filter refuses them.
    pub origin: Origin,
}

/// What is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSection {
    /// `off`, `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
}
