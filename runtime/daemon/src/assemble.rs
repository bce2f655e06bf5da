//! Builds the line of rooms from a profile: file → weights → network → engine → layers.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{
    Alias, Counters, EngineLimits, EngineService, Extras, Forward, PrefixFolder, PrefixSharing,
    Serving,
};
use firmware_config::{KvDtype, Loaded, Profile};
use model::{BackendChoice, CacheLimits, KvEncoding, Network, OpenDevice, Placement};
use protocol::{ModelCard, NewsSink, Service, Toolbox};
use text::{Codec, TemplateVersion, TextError};
use tools::mcp::Servers;
use weights::Archive;

use crate::classifying::Classifying;
use crate::embedding::Embedding;
use crate::error::AssembleError;
use crate::filtered::Filtered;
use crate::foreign::Foreign;
use crate::judging::Judging;
use crate::model_files::ModelFiles;
use crate::networks::Networks;
use crate::quotas::Quotas;
use crate::reviving::Reviving;
use crate::routing::Routing;
use crate::tool_loop::ToolLoop;

/// One loaded model with its line of rooms. Dropping it stops the engine.
pub struct House {
    archive: Arc<dyn Archive>,
    codec: Codec,
    card: ModelCard,
    device: String,
    engine: Arc<EngineService>,
    tools: Arc<ToolLoop>,
    /// Programs that bring tools.
    servers: Option<Arc<Servers>>,
    networks: Option<Arc<Networks>>,
    service: Arc<dyn Service>,
}

/// What others bring to the line of rooms.
#[derive(Default)]
struct Guests {
    /// Functions of the program that loads this library.
    toolbox: Option<Arc<dyn Toolbox>>,
    /// Who hears of what happens.
    news: Option<NewsSink>,
}

/// What comes out of the files before anything is computed: a network, and what reads and writes
/// its tokens.
pub(crate) struct Opened {
    /// The files.
    pub(crate) archive: Arc<dyn Archive>,
    /// The weights on a device.
    pub(crate) network: Reviving,
    /// What computes, as it names itself.
    pub(crate) device: String,
    /// Bytes that one token takes in the cache.
    pub(crate) cache_token_bytes: u64,
}

/// Loads the weights of `files` onto the profile's device.
///
/// `progress` receives the loaded share, 0 to 1.
pub(crate) fn open_model(
    profile: &Profile,
    files: &ModelFiles,
    progress: &mut dyn FnMut(f32),
) -> Result<Opened, AssembleError> {
    let device = open_device(profile)?;
    let archive = files.open()?;
    let cache = cache_limits(profile, archive.as_ref());
    check_budget(profile, archive.as_ref(), cache)?;
    let cache_token_bytes = CacheLimits::token_bytes(archive.hyper(), cache.encoding);
    let placement = placement(profile, device, archive.as_ref(), cache)?;
    let network = Network::load(archive.as_ref(), &placement, cache, progress)?;
    let device = placement.describe(archive.hyper().layers);
    let network = Reviving::new(network, Arc::clone(&archive), placement, cache, profile);
    Ok(Opened { archive, network, device, cache_token_bytes })
}

/// Which blocks a GPU computes: those that the profile says, otherwise those that its memory holds.
fn placement(
    profile: &Profile,
    device: OpenDevice,
    archive: &dyn Archive,
    cache: CacheLimits,
) -> Result<Placement, AssembleError> {
    let config = &profile.device;
    if device.is_cpu() {
        return Ok(Placement::whole(device));
    }
    if config.gpu_layers < archive.hyper().layers {
        let rest = model::open_device(BackendChoice::Flex)?;
        return Ok(Placement::split(device, config.gpu_layers, rest));
    }
    let room = match config.gpu_memory_bytes {
        0 => Placement::room(&device, archive, cache)?,
        bytes => Some(bytes),
    };
    let Some(room) = room else { return Ok(Placement::whole(device)) };
    let rest = model::open_device(BackendChoice::Flex)?;
    Ok(Placement::fitting(device, room, rest, archive, cache)?)
}

/// The second network that guesses, where the profile names one.
fn open_draft(
    profile: &Profile,
    codec: &Codec,
    progress: &mut dyn FnMut(f32),
) -> Result<Option<Box<dyn Forward>>, AssembleError> {
    let Some(path) = &profile.model.draft_path else {
        return Ok(None);
    };
    let files = ModelFiles::Path(path.clone());
    let Opened { archive, network, .. } = open_model(profile, &files, progress)?;
    if !codec.tokenizer().speaks_like(&files.tokenizer(archive.as_ref())?) {
        let message = format!(
            "model.draft_path: the tokens of {} are not those of the model; take a smaller model of \
             the same family and version",
            path.display()
        );
        return Err(AssembleError::Configuration { message });
    }
    Ok(Some(Box::new(network)))
}

/// `auto` takes the first of the profile's order that this build has and that is real hardware.
pub(crate) fn open_device(profile: &Profile) -> Result<OpenDevice, AssembleError> {
    model::use_threads(profile.device.threads);
    let choice: BackendChoice = profile.device.backend.parse()?;
    if choice == BackendChoice::Auto {
        for name in &profile.device.backend_order {
            if let Ok(device) = model::open_device(name.parse()?)
                && !device.software
            {
                return Ok(device);
            }
        }
    }
    Ok(model::open_device(choice)?)
}

/// Weights and cache against what the profile grants, before anything is allocated.
fn check_budget(
    profile: &Profile,
    archive: &dyn Archive,
    cache: CacheLimits,
) -> Result<(), AssembleError> {
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let weights = archive.file_bytes();
    let token_bytes = CacheLimits::token_bytes(archive.hyper(), cache.encoding);
    let slots = u64::from(cache.pages) * u64::from(cache.page_tokens);
    let pool = slots.saturating_mul(token_bytes);
    let wanted = weights.saturating_add(pool);
    let budget = profile.memory.model_budget_bytes;
    let reserve = profile.memory.reserve_bytes;
    let granted = match model::available_bytes() {
        Some(available) => budget.min(available.saturating_sub(reserve)),
        None => budget,
    };
    if wanted <= granted {
        return Ok(());
    }
    Err(AssembleError::Memory {
        message: format!(
            "the model does not fit: weights {:.2} GiB + cache {:.2} GiB, but {:.2} GiB are granted \
             (memory.model_budget_bytes {:.2} GiB, {:.2} GiB kept free by memory.reserve_bytes). \
             Take a smaller encoding, or lower memory.kv_pool_bytes: {} tokens of cache would fit",
            gib(weights),
            gib(pool),
            gib(granted),
            gib(budget),
            gib(reserve),
            granted.saturating_sub(weights) / token_bytes.max(1)
        ),
    })
}

/// Tokens of one conversation: what the model can, and not more than the profile allows.
fn context_tokens_max(profile: &Profile, archive: &dyn Archive) -> u32 {
    let model = archive.hyper().context_tokens_max;
    match profile.engine.context_tokens_max {
        0 => model,
        limit => limit.min(model),
    }
}

/// The cache that the profile's budget pays for, and not more than its sequences can use.
fn cache_limits(profile: &Profile, archive: &dyn Archive) -> CacheLimits {
    let engine = &profile.engine;
    let encoding = match profile.memory.kv_dtype {
        KvDtype::F16 => KvEncoding::F16,
        KvDtype::Int8 => KvEncoding::Int8,
        KvDtype::F32 => KvEncoding::F32,
    };
    let token_bytes = CacheLimits::token_bytes(archive.hyper(), encoding);
    let page_bytes = token_bytes.saturating_mul(engine.page_tokens.into()).max(1);
    let affordable = profile.memory.kv_pool_bytes / page_bytes;
    let context_pages = context_tokens_max(profile, archive).div_ceil(engine.page_tokens.max(1));
    let usable = u64::from(context_pages) * u64::from(engine.sequences_max);
    CacheLimits {
        pages: u32::try_from(affordable.min(usable)).unwrap_or(u32::MAX),
        page_tokens: engine.page_tokens,
        batch_tokens_max: engine.batch_tokens_max,
        encoding,
    }
}

/// How the model's conversations are encoded, and under which names it answers.
fn serving(
    profile: &Profile,
    files: &ModelFiles,
    archive: &dyn Archive,
) -> Result<Serving, AssembleError> {
    let tokenizer = files.tokenizer(archive)?;
    let hyper = archive.hyper();
    if tokenizer.vocabulary_size() > hyper.vocabulary as usize {
        return Err(AssembleError::Configuration {
            message: format!(
                "the tokenizer has {} tokens, the model {}: they do not belong together",
                tokenizer.vocabulary_size(),
                hyper.vocabulary
            ),
        });
    }
    let version: TemplateVersion = match &profile.model.encoding {
        Some(name) => name.parse()?,
        None => tokenizer.likely_version(),
    };
    let codec = Codec::new(Arc::new(tokenizer), version)?;
    let aliases = profile
        .model
        .aliases
        .iter()
        .map(|alias| {
            let version = alias.encoding.as_deref().map(str::parse).transpose()?;
            Ok(Alias { name: alias.name.clone(), version })
        })
        .collect::<Result<Vec<_>, TextError>>()?;
    let card = ModelCard {
        id: model_name(profile, files, archive),
        aliases: aliases.iter().map(|alias| alias.name.clone()).collect(),
        context_tokens_max: context_tokens_max(profile, archive),
        fill: codec.knows_fill(),
        tools: codec.knows_tools(),
        default_temperature: profile.model.default_temperature.unwrap_or(DEFAULT_TEMPERATURE),
        created: archive.modified_unix(),
        encoding: version.to_string(),
    };
    Ok(Serving { card, codec, aliases })
}

/// What Mistral's cloud takes for its instruct models.
const DEFAULT_TEMPERATURE: f32 = 0.7;

/// The configured name, else the file's own, else what the file states.
fn model_name(profile: &Profile, files: &ModelFiles, archive: &dyn Archive) -> String {
    let configured = profile.model.name.clone();
    configured
        .or_else(|| files.name())
        .or_else(|| archive.hyper().name.clone())
        .unwrap_or_else(|| "model".to_owned())
}

impl House {
    /// Loads the model of `files` and starts its engine.
    ///
    /// `progress` receives the loaded share, 0 to 1.
    ///
    /// Threads: blocks until the weights are in place; the engine then runs on its own thread.
    pub fn build(
        profile: &Profile,
        files: &ModelFiles,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self, AssembleError> {
        Self::build_all(profile, files, Guests::default(), progress)
    }

    /// As [`build`](Self::build), and `news` hears of what happens to plugins.
    pub(crate) fn build_telling(
        profile: &Profile,
        files: &ModelFiles,
        news: &NewsSink,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self, AssembleError> {
        let guests = Guests { news: Some(news.clone()), ..Guests::default() };
        Self::build_all(profile, files, guests, progress)
    }

    /// As [`build`](Self::build), with functions of the program that loads this library.
    pub fn build_with(
        profile: &Profile,
        files: &ModelFiles,
        toolbox: Option<Arc<dyn Toolbox>>,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self, AssembleError> {
        Self::build_all(profile, files, Guests { toolbox, news: None }, progress)
    }

    fn build_all(
        profile: &Profile,
        files: &ModelFiles,
        guests: Guests,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self, AssembleError> {
        let Guests { toolbox, news } = guests;
        // What is cheap to check comes before what takes minutes.
        let networks = Networks::open(profile)?;
        let mut filters = crate::plugins::filters(profile, networks.as_ref())?;
        let mut tools = crate::plugins::tools(profile)?;
        let mut foreign = Foreign::start(profile, news.as_ref())?;
        filters.append(&mut foreign.filters);
        foreign.add_tools(&mut tools);
        // They start while the weights load.
        let servers = crate::plugins::servers(profile)?.map(Arc::new);
        let serving = {
            let archive = files.open()?;
            serving(profile, files, archive.as_ref())?
        };
        let Opened { archive, network, device, .. } = open_model(profile, files, progress)?;
        let limits = engine_limits(profile);
        let (codec, card) = (serving.codec.clone(), serving.card.clone());
        let bytes_max = profile.engine.prefix_folder_bytes;
        let prefix_folder = profile.engine.prefix_folder.clone();
        let extras = Extras {
            prefix_folder: prefix_folder.map(|path| PrefixFolder { path, bytes_max }),
            draft_model: open_draft(profile, &serving.codec, progress)?,
        };
        let engine = EngineService::start_with(Box::new(network), serving, limits, extras)?;
        let engine = Arc::new(engine);
        let mut service: Arc<dyn Service> = Arc::clone(&engine) as Arc<dyn Service>;
        if let Some(servers) = &servers {
            let longest = profile.mcp_servers.iter().map(|server| server.handshake).max();
            servers.wait(longest.unwrap_or_default());
        }
        let theirs = servers.iter().map(|servers| Arc::clone(servers) as Arc<dyn Toolbox>);
        let boxes: Vec<Arc<dyn Toolbox>> = toolbox.into_iter().chain(theirs).collect();
        // Without tools too: approvals of calls that nobody can run are refused there.
        let limits = crate::plugins::tool_limits(profile);
        let tools = Arc::new(ToolLoop::new(service, tools, boxes, limits));
        service = Arc::clone(&tools) as Arc<dyn Service>;
        let classifiers = profile.classifiers.clone();
        service = Arc::new(Classifying::new(service, classifiers, answers_max(profile))?);
        if let Some(networks) = &networks {
            service = Arc::new(Judging::new(service, Arc::clone(networks), &profile.onnx)?);
            service = Arc::new(Embedding::new(service, Arc::clone(networks), &profile.onnx)?);
        }
        if let Some(router) = &profile.router {
            service = Arc::new(Routing::new(service, networks.as_ref(), router)?);
        }
        if !filters.is_empty() || !foreign.observers.is_empty() {
            let observers = foreign.observers;
            service = Arc::new(Filtered::new(service, filters, observers, answers_max(profile)));
        }
        service = Arc::new(Quotas::new(service, profile.clients.clone()));
        let card = engine.describe().models.into_iter().next().unwrap_or(card);
        Ok(Self { archive, codec, card, device, engine, tools, servers, networks, service })
    }

    /// What answers requests.
    pub fn service(&self) -> Arc<dyn Service> {
        Arc::clone(&self.service)
    }

    /// Small networks beside the model.
    pub(crate) fn networks(&self) -> Option<&Arc<Networks>> {
        self.networks.as_ref()
    }

    /// How this model's conversations become tokens.
    pub fn codec(&self) -> &Codec {
        &self.codec
    }

    /// What clients may know of the model.
    pub fn card(&self) -> &ModelCard {
        &self.card
    }

    /// What computes, as it names itself.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// What the engine has done so far.
    pub fn counters(&self) -> Counters {
        self.engine.counters()
    }

    /// What the files state, as `zonda model inspect --json` prints it.
    pub fn facts(&self) -> serde_json::Value {
        crate::inspect::facts(self.archive.as_ref(), false)
    }

    /// Takes nothing new, lets what runs end within `drain`, then cancels it and stops the engine.
    pub fn shutdown(&self, drain: Duration) {
        let deadline = Instant::now() + drain;
        // Between two rounds with tools the engine has nothing to drain, and would not take the next.
        self.tools.wait_until_idle(deadline);
        self.engine.shutdown(deadline.saturating_duration_since(Instant::now()));
        if let Some(servers) = &self.servers {
            servers.stop();
        }
    }
}

/// What the profile grants the engine.
fn engine_limits(profile: &Profile) -> EngineLimits {
    EngineLimits {
        sequences_max: profile.engine.sequences_max,
        queue_requests_max: profile.engine.queue_requests_max,
        batch_tokens_max: profile.engine.batch_tokens_max,
        prompt_chunk_tokens: profile.engine.prompt_chunk_tokens,
        slowdown_max: profile.engine.slowdown_max,
        draft_tokens_max: profile.engine.draft_tokens_max,
        prefix_sharing: match profile.engine.prefix_sharing {
            firmware_config::PrefixSharing::All => PrefixSharing::All,
            firmware_config::PrefixSharing::Client => PrefixSharing::Client,
            firmware_config::PrefixSharing::Off => PrefixSharing::Off,
        },
        reply_events_max: profile.engine.reply_events_max,
    }
}

/// Answers that can be under way at once: those that run and those that wait.
fn answers_max(profile: &Profile) -> u32 {
    profile.engine.queue_requests_max.saturating_add(profile.engine.sequences_max)
}

/// The profile that flags, environment, files and the device add up to.
///
pub fn load_profile(
    config: Option<&Path>,
    profile: Option<&str>,
    overrides: Vec<firmware_config::Override>,
) -> Result<Loaded, AssembleError> {
    let sources = firmware_config::Sources {
        config,
        profile,
        overrides,
        ..firmware_config::Sources::system()
    };
    Ok(Profile::load(&sources)?)
}
