//! A model on disk: Mistral's own layout, and beside it what training needs to go on.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use burn::optim::ModuleOptimizer;
use burn::tensor::Device;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde::{Deserialize, Serialize};
use serde_json::json;
use weights::{Container, Hyper, TensorName, Vocabulary};

use crate::parameters::Parameters;
use crate::training::{Progress, Recipe};
use crate::vocabulary;

const WEIGHTS: &str = "consolidated.safetensors";
const VOCABULARY: &str = "vocabulary.json";
const OPTIMIZER: &str = "optimizer.bpk";
const PARAMS: &str = "params.json";
const STATE: &str = "training.json";

/// Where training stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) recipe: Recipe,
    /// What each step came to.
    pub(crate) steps: Vec<Progress>,
    /// The plans it went by, one after the other.
    #[serde(default)]
    pub(crate) parts: Vec<Part>,
}

/// A part of a run with plans of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// Its first step.
    pub(crate) first: usize,
    /// How many steps were planned in all, by which the rate falls.
    pub(crate) planned: usize,
    /// Boxes of a step; nothing where it was not kept.
    #[serde(default)]
    pub(crate) boxes: Option<usize>,
    /// The mark of its lessons; nothing where none was kept.
    pub(crate) lessons: Option<String>,
}

impl State {
    pub(crate) fn new(recipe: Recipe) -> Self {
        Self { recipe, steps: Vec::new(), parts: Vec::new() }
    }

    /// Goes on by this recipe, with lessons of this mark.
    pub(crate) fn go_on(&mut self, recipe: &Recipe, lessons: String) {
        let first = self.steps.len();
        if self.parts.is_empty() && first > 0 {
            let Recipe { steps: planned, .. } = self.recipe;
            self.parts.push(Part { first: 0, planned, boxes: None, lessons: None });
        }
        // Plans that no step was made by.
        self.parts.retain(|part| part.first < first);
        let (planned, boxes) = (recipe.steps, Some(recipe.groups));
        let part = Part { first, planned, boxes, lessons: Some(lessons) };
        let is_same = |last: &Part| Part { first, ..last.clone() } == part;
        if first < recipe.steps && !self.parts.last().is_some_and(is_same) {
            self.parts.push(part);
        }
        self.recipe = recipe.clone();
    }
}

/// A folder of one run.
#[derive(Debug, Clone)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    /// Whether something was saved there.
    pub(crate) fn is_begun(&self) -> bool {
        self.0.join(STATE).exists()
    }

    /// Writes everything that does not change while it learns.
    ///
    /// Errors: a run that was begun there with another shape.
    pub(crate) fn begin(&self, hyper: &Hyper, vocabulary: &Vocabulary) -> Result<()> {
        if self.is_begun() {
            let kept: serde_json::Value = serde_json::from_slice(&self.read(PARAMS)?)?;
            ensure!(
                kept == params(hyper),
                "{} has a run of another shape: go on with its own, or take another folder",
                self.0.display()
            );
            return Ok(());
        }
        fs::create_dir_all(&self.0).with_context(|| format!("{}", self.0.display()))?;
        self.write(VOCABULARY, &serde_json::to_vec(&vocabulary.tokens)?)?;
        self.write("tokenizer.json", vocabulary::tokenizer_json(vocabulary).as_bytes())?;
        self.write(PARAMS, format!("{:#}\n", params(hyper)).as_bytes())
    }

    /// The vocabulary that it was begun with.
    pub(crate) fn vocabulary(&self) -> Result<Vocabulary> {
        let tokens: Vec<String> = serde_json::from_slice(&self.read(VOCABULARY)?)?;
        Ok(vocabulary::of_tokens(tokens))
    }

    /// Where training stands.
    pub(crate) fn state(&self) -> Result<State> {
        serde_json::from_slice(&self.read(STATE)?).context(STATE)
    }

    /// A file of the folder.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.0.join(name);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// The weights, and what the optimizer knows of them.
    pub(crate) fn save(
        &self,
        hyper: &Hyper,
        parameters: &Parameters,
        optimizer: &ModuleOptimizer,
        state: &State,
    ) -> Result<()> {
        let bytes = optimizer.into_bytes().context("the optimizer's state")?;
        self.write(OPTIMIZER, &bytes)?;
        let values = parameters.values(hyper)?;
        let packed: Vec<(TensorName, Vec<u8>)> = values
            .into_iter()
            .map(|(name, values)| {
                (name, values.iter().flat_map(|value| value.to_le_bytes()).collect())
            })
            .collect();
        let views = packed
            .iter()
            .map(|(name, bytes)| {
                let view = TensorView::new(Dtype::F32, hyper.shape_of(*name), bytes)?;
                Ok((name.spelled(Container::Mistral), view))
            })
            .collect::<Result<Vec<_>>>()?;
        let part = self.0.join(format!("{WEIGHTS}.part"));
        serialize_to_file(views, None, &part)?;
        fs::rename(&part, self.0.join(WEIGHTS))?;
        // Written last: what it counts is there.
        self.write(STATE, &serde_json::to_vec(state)?)
    }

    /// What was saved last; nothing where nothing was.
    pub(crate) fn resume(
        &self,
        hyper: &Hyper,
        optimizer: impl FnOnce(&Parameters) -> ModuleOptimizer,
        device: &Device,
    ) -> Result<Option<(Parameters, ModuleOptimizer, State)>> {
        if !self.is_begun() {
            return Ok(None);
        }
        let state = self.state()?;
        let parameters = Parameters::from_values(hyper, &mut self.values(hyper)?, device)?;
        let optimizer =
            optimizer(&parameters).load(self.0.join(OPTIMIZER)).context("the optimizer's state")?;
        Ok(Some((parameters, optimizer, state)))
    }

    /// The weights that were saved last.
    pub(crate) fn values(&self, hyper: &Hyper) -> Result<HashMap<TensorName, Vec<f32>>> {
        values(&*weights::open(&self.0)?, hyper)
    }

    /// Writes a file under its name once it is whole.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let part = self.0.join(format!("{name}.part"));
        fs::write(&part, bytes).with_context(|| format!("{}", part.display()))?;
        fs::rename(&part, self.0.join(name))?;
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

/// Every tensor of an archive of this shape.
pub(crate) fn values(
    archive: &dyn weights::Archive,
    hyper: &Hyper,
) -> Result<HashMap<TensorName, Vec<f32>>> {
    let (matrices, gains) = crate::parameters::names(hyper);
    matrices
        .into_iter()
        .chain(gains)
        .map(|name| {
            let raw = archive.tensor(name)?;
            let shape = hyper.shape_of(name);
            ensure!(raw.shape == shape, "{name:?} is {:?}; this run has {shape:?}", raw.shape);
            let mut values = vec![0.0; raw.shape.iter().product()];
            raw.encoding.unpack(&raw.bytes, &mut values)?;
            Ok((name, values))
        })
        .collect()
}

fn params(hyper: &Hyper) -> serde_json::Value {
    json!({
        "dim": hyper.hidden,
        "n_layers": hyper.layers,
        "head_dim": hyper.head_dim,
        "hidden_dim": hyper.feed_forward,
        "n_heads": hyper.heads,
        "n_kv_heads": hyper.kv_heads,
        "norm_eps": hyper.rms_epsilon,
        "vocab_size": hyper.vocabulary,
        "rope_theta": hyper.rope_theta,
        "max_seq_len": hyper.context_tokens_max,
        "tied_embeddings": hyper.tied_embeddings,
    })
}
