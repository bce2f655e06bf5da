//! The command line: what can be typed, and nothing of what it does.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use weights::{Mix, ModelShape};

/// Runs the Mistral family on this box: over MQTT, HTTP, a C ABI and this command line.
#[derive(Debug, Parser)]
#[command(name = "zonda", version = crate::VERSION, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The verbs of the program.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answer requests over MQTT and HTTP until told to stop
    Serve(Serve),
    /// Answer one prompt on standard output
    Run(Run),
    /// Talk with the model in this terminal
    Chat(Chat),
    /// Say sentences, and see them become calls to two simulated devices over MQTT
    Demo(Demo),
    /// Turn JSON lines of conversations and texts into token ids
    Encode(Encode),
    /// Turn JSON lines of token ids into logits of the next token
    Logits(Logits),
    /// Measure prefill and decode speed
    Bench(Bench),
    /// Look at model files, and prepare them
    #[command(subcommand)]
    Model(ModelCommand),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Prepare a broker for this node
    #[command(subcommand)]
    Mqtt(MqttCommand),
    /// Look at the tools of other programs, and approve them
    #[command(subcommand)]
    Tool(ToolCommand),
    /// Make keys for clients of the HTTP API
    #[command(subcommand)]
    Key(KeyCommand),
    /// List the compute devices of this box and this build
    Devices(Devices),
    /// Say what each backend needs, and what of it is here
    Doctor,
    /// Look at plugins of others, and switch them on and off
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// What the program starts for each plugin
    #[command(hide = true)]
    PluginHost {
        /// The plugin's id, for lists of processes
        id: Option<String>,
    },
}

/// Where the model and the configuration come from, and what computes.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Setup {
    /// GGUF file, safetensors file, or folder of a Hugging Face or Mistral checkpoint
    #[arg(long, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,
    /// What computes: auto, flex, ndarray, vulkan, wgpu, metal or cuda
    #[arg(long, value_name = "BACKEND")]
    pub(crate) backend: Option<String>,
    /// Configuration file, in the place of /etc/zonda/zonda.toml
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Device profile; detected when left out
    #[arg(long, value_name = "ID")]
    pub(crate) profile: Option<String>,
    /// Threads that compute; 0 takes all cores
    #[arg(short = 't', long, value_name = "N")]
    pub(crate) threads: Option<u32>,
    /// Any other key of the configuration, as section.key=value; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

/// How an answer is drawn, and how long it may be.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Drawing {
    /// Longest answer, in tokens
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// 0 always takes the likeliest token
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// Same seed, same answer
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
}

/// Arguments of `zonda serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Model, configuration, backend.
    #[command(flatten)]
    pub(crate) setup: Setup,
    /// Address of the HTTP API, for example 127.0.0.1:8080
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<SocketAddr>,
    /// Broker, for example mqtt://192.168.1.10:1883; without it one is started on loopback
    #[arg(long, value_name = "URL")]
    pub(crate) mqtt: Option<String>,
}

/// Arguments of `zonda run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Model, configuration, backend.
    #[command(flatten)]
    pub(crate) setup: Setup,
    /// What the user says
    #[arg(
        long,
        value_name = "TEXT",
        conflicts_with = "request",
        required_unless_present = "request"
    )]
    pub(crate) prompt: Option<String>,
    /// Continue the prompt as it is, without the conversation template
    #[arg(long, requires = "prompt")]
    pub(crate) raw: bool,
    /// A chat-completions request in JSON; - reads standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) request: Option<PathBuf>,
    /// How the answer is drawn.
    #[command(flatten)]
    pub(crate) drawing: Drawing,
    /// Print the chat.completion object instead of the text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `zonda chat`.
#[derive(Debug, Args)]
pub(crate) struct Chat {
    /// Model, configuration, backend.
    #[command(flatten)]
    pub(crate) setup: Setup,
    /// Instructions before the conversation
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// How answers are drawn.
    #[command(flatten)]
    pub(crate) drawing: Drawing,
}

/// Arguments of `zonda demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Model, configuration, backend.
    #[command(flatten)]
    pub(crate) setup: Setup,
    /// What to say, each a sentence; typed or read from standard input when left out
    pub(crate) sentences: Vec<String>,
}

/// Arguments of `zonda encode`.
#[derive(Debug, Args)]
pub(crate) struct Encode {
    /// tokenizer.model, tekken.json, tokenizer.json, or a GGUF file
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: PathBuf,
    /// Prompt encoding: v1, v2, v3, v3-tekken or v7
    #[arg(long, value_name = "VERSION")]
    pub(crate) version: String,
}

/// Arguments of `zonda logits`.
#[derive(Debug, Args)]
pub(crate) struct Logits {
    /// Model, configuration, backend.
    #[command(flatten)]
    pub(crate) setup: Setup,
}

/// Arguments of `zonda bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Model, configuration, backend.
    #[command(flatten)]
    pub(crate) setup: Setup,
    /// Lengths of prompts to read, in tokens; 0 for none
    #[arg(short = 'p', long, value_name = "N,…", default_value = "512", value_delimiter = ',')]
    pub(crate) prompt_tokens: Vec<u32>,
    /// Lengths of answers to write, in tokens; 0 for none
    #[arg(short = 'n', long, value_name = "N,…", default_value = "64", value_delimiter = ',')]
    pub(crate) generated_tokens: Vec<u32>,
    /// Tokens of context before the clock starts; each gives all rows again
    #[arg(short = 'd', long, value_name = "N,…", default_value = "0", value_delimiter = ',')]
    pub(crate) depth: Vec<u32>,
    /// Sequences that write together, one token of each in a step
    #[arg(short = 'b', long, value_name = "N,…", default_value = "1", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) sequences: Vec<u32>,
    /// Measure random weights of this size instead of a model: what a model will do, before it is here
    #[arg(long, value_name = "SIZE", value_parser = shape, conflicts_with = "model")]
    pub(crate) size: Option<ModelShape>,
    /// Encoding of those weights
    #[arg(long, value_name = "NAME", default_value = "q4_k_m", value_parser = mix, requires = "size")]
    pub(crate) encoding: Mix,
    /// Times that each is repeated
    #[arg(short = 'r', long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repetitions: u32,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// `zonda model …`
#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Print what a model file states and holds, without loading it
    Inspect {
        /// GGUF file, safetensors file, or folder; the model in the program when left out
        path: Option<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// Also list every tensor
        #[arg(long)]
        tensors: bool,
    },
    /// Write a model as the CPU reads it, so that loading maps it and moves nothing
    Prepare {
        /// GGUF file to read
        #[arg(long, value_name = "FILE")]
        model: PathBuf,
        /// GGUF file to write, which only this program reads
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        /// Replace the file that is there
        #[arg(long)]
        force: bool,
    },
}

/// `zonda config …`
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check the configuration; exit code 78 when it is wrong
    Check {
        /// Model, configuration, backend.
        #[command(flatten)]
        setup: Setup,
    },
    /// Print every value of the configuration and where it comes from
    Dump {
        /// Model, configuration, backend.
        #[command(flatten)]
        setup: Setup,
    },
    /// List the device profiles
    Profiles,
}

/// `zonda mqtt …`
#[derive(Debug, Subcommand)]
pub(crate) enum MqttCommand {
    /// Print mosquitto's access rules for this node and its clients
    Acl {
        /// Model, configuration, backend.
        #[command(flatten)]
        setup: Setup,
        /// Print the drop-in that goes with them
        #[arg(long)]
        drop_in: bool,
    },
}

/// `zonda tool …`
#[derive(Debug, Subcommand)]
pub(crate) enum ToolCommand {
    /// Ask every server of [[mcp_servers]] for its tools, and print how they stand
    List {
        /// Model, configuration, backend.
        #[command(flatten)]
        setup: Setup,
    },
    /// Approve tools as their server lists them now; a running program takes it up by itself
    Approve {
        /// Name of the server
        server: String,
        /// Names of tools at the server; all that the configuration grants when left out
        tools: Vec<String>,
        /// Model, configuration, backend.
        #[command(flatten)]
        setup: Setup,
    },
}

/// `zonda key …`
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Print a fresh key on standard error, once, and its [[clients]] entry on standard output
    New {
        /// The client's name: 1 to 64 letters, digits, _ . or -
        name: String,
    },
}

/// Arguments of `zonda devices`.
#[derive(Debug, Args)]
pub(crate) struct Devices {
    /// Print one JSON array
    #[arg(long)]
    pub(crate) json: bool,
}

/// `zonda plugin …`
#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// List the plugins of plugins.folder, without running them
    List {
        /// Model, configuration, backend.
        #[command(flatten)]
        setup: Setup,
    },
    /// Check manifests and SHA-256, without running anything; exit code 65 when one is wrong
    Verify {
        /// One plugin; all of them when left out
        id: Option<String>,
        /// Model, configuration, backend.
        #[command(flatten)]
        setup: Setup,
    },
    /// Take back a disable, and end a quarantine
    Enable {
        /// Which plugin
        id: String,
        /// Model, configuration, backend.
        #[command(flatten)]
        setup: Setup,
    },
    /// Keep a plugin from starting, whatever the configuration says
    Disable {
        /// Which plugin
        id: String,
        /// Model, configuration, backend.
        #[command(flatten)]
        setup: Setup,
    },
    /// Print what a plugin logged, and what became of it
    Logs {
        /// Which plugin
        id: String,
        /// Model, configuration, backend.
        #[command(flatten)]
        setup: Setup,
    },
}

/// A size of the family by its name.
fn shape(word: &str) -> Result<ModelShape, String> {
    named(word, ModelShape::ALL, ModelShape::name)
}

/// A mix of encodings by its name.
fn mix(word: &str) -> Result<Mix, String> {
    named(word, Mix::ALL, Mix::name)
}

fn named<T: Copy, const N: usize>(
    word: &str,
    all: [T; N],
    name: impl Fn(T) -> &'static str,
) -> Result<T, String> {
    let names = || all.map(&name).join(", ");
    all.into_iter().find(|one| name(*one) == word).ok_or_else(|| format!("use one of {}", names()))
}
