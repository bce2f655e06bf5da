//! The rooms behind the border, as the program's library builds them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use daemon::{AssembleError, AssembleKind, House, ModelFiles};
use protocol::{Request, Service, TokenId, Toolbox};
use serde_json::Value;

use crate::rooms::{Builder, Device, Figures, Rooms, Settings};
use crate::status::{self, Refusal};

/// Builds what `zonda serve` would serve.
pub(crate) struct Builds;

impl Builder for Builds {
    fn check(&self, settings: &Settings) -> Result<Vec<String>, Refusal> {
        let loaded = load(settings)?;
        Ok(loaded.warnings.iter().map(ToString::to_string).collect())
    }

    fn build(
        &self,
        settings: &Settings,
        model: Option<&Path>,
        toolbox: Arc<dyn Toolbox>,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Arc<dyn Rooms>, Refusal> {
        let profile = load(settings)?.profile;
        let path = model.map(Path::to_owned).or_else(|| profile.model.path.clone());
        // The load itself goes on to its end; `Engine::load` then drops what nobody wants.
        let mut tell = |share| {
            let _wanted = progress(share);
        };
        let files = ModelFiles::from(path);
        let house = House::build_with(&profile, &files, Some(toolbox), &mut tell);
        let house = house.map_err(refusal)?;
        Ok(Arc::new(Home { house, sequences_max: profile.engine.sequences_max }))
    }

    fn verify(&self, settings: &Settings, model: Option<&Path>) -> Result<Value, Refusal> {
        let profile = load(settings)?.profile;
        let path = model.map(Path::to_owned).or(profile.model.path);
        ModelFiles::from(path).verify().map_err(refusal)
    }
}

/// What this box computes on.
pub(crate) fn devices() -> Vec<Device> {
    let seen = daemon::devices();
    let described = seen.into_iter().map(|device| Device {
        // The CPU has more than one backend; C knows it by one name.
        api: match device.id.as_str() {
            "flex" | "ndarray" => "cpu".to_owned(),
            other => other.to_owned(),
        },
        id: device.id,
        name: device.name,
        memory_total: device.memory_total_bytes.unwrap_or(0),
        memory_free: device.memory_free_bytes.unwrap_or(0),
        unified: false,
    });
    described.collect()
}

fn load(settings: &Settings) -> Result<daemon::Loaded, Refusal> {
    let overrides = settings.overrides.iter().map(|laid| daemon::Override {
        key: laid.key.to_owned(),
        value: laid.value.clone(),
        flag: laid.field.to_owned(),
    });
    daemon::load_profile(
        settings.config.as_deref(),
        settings.profile.as_deref(),
        overrides.collect(),
    )
    .map_err(refusal)
}

fn refusal(error: AssembleError) -> Refusal {
    let status = match error.kind() {
        AssembleKind::Configuration => status::INVALID_ARGUMENT,
        AssembleKind::Device => status::DEVICE,
        AssembleKind::Model => status::MODEL_FORMAT,
        AssembleKind::Memory => status::OUT_OF_MEMORY,
        AssembleKind::Other if matches!(error, AssembleError::Io(_)) => status::IO,
        AssembleKind::Other => status::INTERNAL,
    };
    Refusal::new(status, error.to_string())
}

struct Home {
    house: House,
    sequences_max: u32,
}

impl Rooms for Home {
    fn service(&self) -> Arc<dyn Service> {
        self.house.service()
    }

    fn tokenize(&self, text: &str) -> Result<Vec<TokenId>, Refusal> {
        let tokens = self.house.codec().tokenizer().encode(text);
        tokens.map_err(|error| protocol::Fault::from(error).into())
    }

    fn detokenize(&self, tokens: &[TokenId]) -> Result<String, Refusal> {
        let tokenizer = self.house.codec().tokenizer();
        let vocabulary = tokenizer.vocabulary_size();
        let foreign = tokens.iter().find(|token| token.0 as usize >= vocabulary);
        if let Some(token) = foreign {
            return Err(Refusal::argument(format!(
                "token {} is not in the vocabulary of {vocabulary}",
                token.0
            )));
        }
        Ok(tokenizer.decode(tokens))
    }

    fn prompt_tokens(&self, request: &Request) -> Result<usize, Refusal> {
        Ok(self.house.service().encode(request.clone())?.tokens.len())
    }

    fn figures(&self) -> Figures {
        let counters = self.house.counters();
        let bytes = self.house.facts();
        Figures {
            requests_ok: counters.requests_ok,
            requests_failed: counters.requests_failed,
            requests_cancelled: counters.requests_cancelled,
            tokens_prompt: counters.prompt_tokens,
            tokens_generated: counters.answer_tokens,
            sequences_max: self.sequences_max,
            model_bytes: bytes["file_bytes"].as_u64().unwrap_or(0),
        }
    }

    fn facts(&self) -> Value {
        self.house.facts()
    }

    fn shutdown(&self, drain: Duration) {
        self.house.shutdown(drain);
    }
}
