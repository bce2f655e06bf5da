//! One engine: its configuration, its models, its threads.

use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use protocol::Description;
use serde_json::Value;

use crate::border::{Life, Log};
use crate::layout::{self, Stats};
use crate::lock;
use crate::model::{Model, ModelHandle};
use crate::request::Workers;
use crate::rooms::{Builder, Figures, Laid, Settings};
use crate::session::Sessions;
use crate::status::{self, Refusal};
use crate::stream::Speed;
use crate::tools::{HostTools, Offers};

/// Models of one engine that are loaded at the same time.
pub(crate) const MODELS_MAX: usize = 16;

/// `zonda_stats.health` of an engine that is out of use.
const FAILED: i32 = 2;

/// What stands behind a `zonda_engine`; its models hold it too.
pub(crate) struct Engine {
    pub(crate) life: Arc<Life>,
    pub(crate) log: Log,
    pub(crate) workers: Workers,
    pub(crate) speed: Speed,
    pub(crate) tools: Arc<HostTools>,
    pub(crate) sessions: Sessions,
    /// What models did that are gone.
    pub(crate) past: Mutex<Figures>,
    settings: Settings,
    builder: Box<dyn Builder>,
    models: Mutex<Vec<Weak<Model>>>,
}

/// A configuration, its models, their threads.
pub struct EngineHandle(pub(crate) Arc<Engine>);

impl Engine {
    /// Checks the configuration; loads nothing.
    pub(crate) fn create(
        builder: Box<dyn Builder>,
        settings: Settings,
        log: Log,
    ) -> Result<EngineHandle, Refusal> {
        let life = Life::new();
        for warning in builder.check(&settings)? {
            log.write(&life, Log::WARNING, &warning);
        }
        Ok(EngineHandle(Arc::new(Self {
            tools: HostTools::new(Arc::clone(&life)),
            life,
            log,
            workers: Workers::default(),
            speed: Speed::default(),
            sessions: Sessions::default(),
            past: Mutex::default(),
            settings,
            builder,
            models: Mutex::default(),
        })))
    }

    /// Loads a model with `overrides` laid over the engine's configuration.
    pub(crate) fn load(
        self: &Arc<Self>,
        path: Option<&Path>,
        overrides: Vec<Laid>,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<ModelHandle, Refusal> {
        self.life.check_open()?;
        path.map_or(Ok(()), check_file)?;
        if self.living().len() >= MODELS_MAX {
            return Err(Refusal::new(
                status::OVERLOADED,
                format!("{MODELS_MAX} models are loaded; free one"),
            ));
        }
        let mut settings = self.settings.clone();
        settings.overrides.extend(overrides);
        let mut aborted = false;
        let toolbox = Arc::new(Offers(Arc::clone(&self.tools)));
        let built = self.builder.build(&settings, path, toolbox, &mut |share| {
            aborted = aborted || !progress(share);
            !aborted
        });
        if aborted {
            return Err(Refusal::new(status::CANCELLED, "the progress callback ended the load"));
        }
        let model = Arc::new(Model { engine: Arc::clone(self), rooms: built? });
        lock(&self.models).push(Arc::downgrade(&model));
        // A shutdown that came before this line did not see the model; the engine must not keep it.
        self.life.check_open()?;
        let name = path.map_or_else(|| "the configured model".into(), Path::to_string_lossy);
        self.log.write(&self.life, Log::DETAIL, &format!("loaded {name}"));
        Ok(ModelHandle(model))
    }

    /// Whether the files of a model are whole.
    pub(crate) fn verify(&self, path: Option<&Path>) -> Result<Value, Refusal> {
        self.life.check_open()?;
        path.map_or(Ok(()), check_file)?;
        self.builder.verify(&self.settings, path)
    }

    /// The loaded models, as `/v1/models` lists them.
    pub(crate) fn list(&self) -> Value {
        let mut all = Description::default();
        for model in self.living() {
            let mut told = model.rooms.service().describe();
            all.models.append(&mut told.models);
            all.classifiers.append(&mut told.classifiers);
            all.embedders.append(&mut told.embedders);
        }
        chat_json::models_body(&all)
    }

    /// Takes nothing more; ends what runs after `drain`.
    pub(crate) fn shutdown(&self, drain: Duration) {
        self.life.close();
        let deadline = Instant::now() + drain;
        for model in self.living() {
            model.rooms.shutdown(deadline.saturating_duration_since(Instant::now()));
        }
        // Behind the rooms: an answer that waits for a call finds no way on, and is cancelled.
        self.tools.close();
    }

    /// Ends everything, joins the threads.
    pub(crate) fn end(&self) {
        self.life.close();
        self.workers.cancel_all();
        self.shutdown(Duration::ZERO);
        self.workers.join_all();
        self.tools.join();
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut sums = *lock(&self.past);
        let mut stats = layout::zeroed::<Stats>();
        for model in self.living() {
            let figures = model.rooms.figures();
            sums.add(&figures);
            let load = model.rooms.service().describe().load;
            stats.active = stats.active.saturating_add(load.active);
            stats.queue_depth = stats.queue_depth.saturating_add(load.queued);
            stats.max_active = stats.max_active.saturating_add(figures.sequences_max);
            stats.model_bytes += figures.model_bytes;
        }
        stats.requests_ok = sums.requests_ok;
        stats.requests_failed = sums.requests_failed;
        stats.requests_cancelled = sums.requests_cancelled;
        stats.tokens_prompt = sums.tokens_prompt;
        stats.tokens_generated = sums.tokens_generated;
        stats.health = if self.life.is_poisoned() { FAILED } else { 0 };
        (stats.prefill_tokens_per_s, stats.decode_tokens_per_s) = self.speed.tokens_per_s();
        stats
    }

    fn living(&self) -> Vec<Arc<Model>> {
        let mut models = lock(&self.models);
        models.retain(|model| model.strong_count() > 0);
        models.iter().filter_map(Weak::upgrade).collect()
    }
}

fn check_file(path: &Path) -> Result<(), Refusal> {
    let Err(error) = std::fs::metadata(path) else {
        return Ok(());
    };
    let status = match error.kind() {
        std::io::ErrorKind::NotFound => status::NOT_FOUND,
        _ => status::IO,
    };
    Err(Refusal::new(status, format!("model {}: {error}", path.display())))
}
