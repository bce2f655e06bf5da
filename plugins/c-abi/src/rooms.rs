//! What this crate needs of the rooms behind it, so that its own rules can be tested without them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::{Request, Service, TokenId, Toolbox};
use serde_json::Value;

use crate::status::Refusal;

/// How an engine is set up: layers of configuration, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub(crate) config: Option<PathBuf>,
    pub(crate) profile: Option<String>,
    /// Laid over all else.
    pub(crate) overrides: Vec<Laid>,
}

/// One value of the configuration, set by a field of a parameter struct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Laid {
    pub(crate) key: &'static str,
    pub(crate) value: String,
    /// As the header names it, for whoever has to mend it.
    pub(crate) field: &'static str,
}

/// Makes rooms.
pub(crate) trait Builder: Send + Sync {
    /// Checks the configuration; gives its warnings.
    fn check(&self, settings: &Settings) -> Result<Vec<String>, Refusal>;

    /// Loads a model; without a path the configured one, else the one that is built in. The model
    /// may call what is in `toolbox`. `progress` hears a share from 0 to 1; after `false` the caller
    /// has no use for the rooms, and the load may end early.
    fn build(
        &self,
        settings: &Settings,
        model: Option<&Path>,
        toolbox: Arc<dyn Toolbox>,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Arc<dyn Rooms>, Refusal>;

    /// Checks the files of what `build` would load, and tells what it found.
    fn verify(&self, settings: &Settings, model: Option<&Path>) -> Result<Value, Refusal>;
}

/// One thing to compute on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Device {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) api: String,
    pub(crate) memory_total: u64,
    pub(crate) memory_free: u64,
    pub(crate) unified: bool,
}

/// One loaded model and all that answers with it.
pub(crate) trait Rooms: Send + Sync {
    fn service(&self) -> Arc<dyn Service>;

    fn tokenize(&self, text: &str) -> Result<Vec<TokenId>, Refusal>;

    /// Refuses tokens that the vocabulary does not have.
    fn detokenize(&self, tokens: &[TokenId]) -> Result<String, Refusal>;

    /// Tokens of the prompt that this request would run.
    fn prompt_tokens(&self, request: &Request) -> Result<usize, Refusal>;

    fn figures(&self) -> Figures;

    /// The model, as the program's `model inspect` tells it.
    fn facts(&self) -> Value;

    /// Ends what runs after `drain`, and every thread.
    fn shutdown(&self, drain: Duration);
}

/// What has been done since the model was loaded.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Figures {
    pub(crate) requests_ok: u64,
    pub(crate) requests_failed: u64,
    pub(crate) requests_cancelled: u64,
    pub(crate) tokens_prompt: u64,
    pub(crate) tokens_generated: u64,
    pub(crate) sequences_max: u32,
    pub(crate) model_bytes: u64,
}

impl Figures {
    /// Adds what was done; what is held now is not summed up.
    pub(crate) fn add(&mut self, other: &Self) {
        self.requests_ok += other.requests_ok;
        self.requests_failed += other.requests_failed;
        self.requests_cancelled += other.requests_cancelled;
        self.tokens_prompt += other.tokens_prompt;
        self.tokens_generated += other.tokens_generated;
    }
}
