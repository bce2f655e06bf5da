//! The small networks that the profile names, loaded, and the threads that they compute on.

use std::sync::Arc;
use std::time::Instant;

use firmware_config::{OnnxCategory, OnnxConfig, OnnxPooling, OnnxRole, OnnxScores, Profile};
use onnx::{
    Detector, DetectorConfig, Embedder, EmbedderConfig, Judged, OnnxError, Pooling, Scoring,
    TextClassifier, TextClassifierConfig, TextConfig, WorkError, Workers,
};
use protocol::{CategoryScore, Description, Fault, FaultCode, ModelCard};

use crate::error::AssembleError;

/// Callers that wait for a small network at the same time.
const CALLERS_MAX: u32 = 64;
/// When somebody who was refused may come again.
const RETRY_AFTER_MS: u64 = 1000;

/// Every small network of the profile.
pub(crate) struct Networks {
    /// Those that make vectors, each with its name.
    pub(crate) embedders: Vec<(String, Arc<Embedder>)>,
    /// Those that tell texts apart.
    pub(crate) classifiers: Vec<Classifier>,
    /// Those that watch numbers, each with its name.
    pub(crate) detectors: Vec<(String, Arc<Detector>)>,
    workers: Workers,
}

/// A network that tells texts apart, and what is made of its scores.
pub(crate) struct Classifier {
    /// What requests ask for.
    pub(crate) name: String,
    /// A best score below it is no decision.
    pub(crate) abstain_below: f64,
    /// What moderations are told of.
    pub(crate) categories: Vec<OnnxCategory>,
    network: Arc<TextClassifier>,
}

impl Networks {
    /// Loads them; `None` where the profile names none.
    ///
    /// Errors: files that are not right, and networks that do not do what they are named for.
    /// Threads: blocks until each has run once.
    pub(crate) fn open(profile: &Profile) -> Result<Option<Arc<Self>>, AssembleError> {
        if profile.onnx.is_empty() {
            return Ok(None);
        }
        let (mut embedders, mut classifiers, mut detectors) = (Vec::new(), Vec::new(), Vec::new());
        for config in &profile.onnx {
            let unusable = |error: OnnxError| {
                let message = format!("{}: onnx {:?}: {error}", config.origin, config.name);
                AssembleError::Configuration { message }
            };
            match &config.role {
                OnnxRole::Embedding { pooling, normalize } => {
                    let embedder = embedder(config, *pooling, *normalize).map_err(unusable)?;
                    embedders.push((config.name.clone(), Arc::new(embedder)));
                }
                OnnxRole::Classifier { labels, scores, abstain_below, categories } => {
                    let network = classifier(config, labels, *scores).map_err(unusable)?;
                    classifiers.push(Classifier {
                        name: config.name.clone(),
                        abstain_below: *abstain_below,
                        categories: categories.clone(),
                        network: Arc::new(network),
                    });
                }
                OnnxRole::Detector(settings) => {
                    let (network, window) = (config.path.clone(), settings.window);
                    let detector = Detector::open(&DetectorConfig { network, window });
                    let detector = detector.map_err(unusable)?;
                    detectors.push((config.name.clone(), Arc::new(detector)));
                }
            }
        }
        let workers = Workers::start(profile.device.onnx_threads, CALLERS_MAX)?;
        Ok(Some(Arc::new(Self { embedders, classifiers, detectors, workers })))
    }

    /// Runs `work` once for each of `items`, in their order, on the threads of the networks. Other
    /// callers get their turn between two of them.
    ///
    /// Errors: the first fault; [`FaultCode::Busy`] and [`FaultCode::Deadline`] among them.
    pub(crate) fn each<I: Send + 'static, T: Send + 'static>(
        &self,
        deadline: Option<Instant>,
        items: Vec<I>,
        work: impl Fn(I) -> Result<T, OnnxError> + Clone + Send + 'static,
    ) -> Result<Vec<T>, Fault> {
        let caller = self.workers.caller().map_err(refusal)?;
        let mut done = Vec::with_capacity(items.len());
        for item in items {
            let work = work.clone();
            let outcome = caller.run(deadline, move || work(item)).map_err(refusal)?;
            done.push(outcome.map_err(|error| fault(&error))?);
        }
        Ok(done)
    }

    /// How odd a window of numbers is.
    ///
    /// Errors: as [`Self::each`].
    pub(crate) fn detect(&self, detector: &Arc<Detector>, window: Vec<f32>) -> Result<f64, Fault> {
        let detector = Arc::clone(detector);
        let scores = self.each(None, vec![window], move |window: Vec<f32>| detector.score(&window));
        Ok(scores?.into_iter().next().expect("one window has one score"))
    }

    /// The classifier of this name.
    pub(crate) fn classifier(&self, name: &str) -> Option<&Classifier> {
        self.classifiers.iter().find(|classifier| classifier.name == name)
    }

    /// What a classifier says of each text.
    ///
    /// Errors: as [`Self::each`]; `ContextLength` for a text that is too long.
    pub(crate) fn judge(
        &self,
        classifier: &Classifier,
        deadline: Option<Instant>,
        texts: Vec<String>,
    ) -> Result<Vec<Judged>, Fault> {
        let network = Arc::clone(&classifier.network);
        self.each(deadline, texts, move |text: String| network.judge(&text))
    }
}

/// Refuses a network that is named like a model or a classifier that is there already; its
/// configuration says where.
pub(crate) fn refuse_taken_names<'a>(
    mut networks: impl Iterator<Item = &'a OnnxConfig>,
    there: &Description,
) -> Result<(), AssembleError> {
    let names = |card: &ModelCard, name: &str| {
        name == "default" || card.id == name || card.aliases.iter().any(|alias| alias == name)
    };
    let taken = |config: &&OnnxConfig| {
        there.models.iter().any(|card| names(card, &config.name))
            || there.classifiers.iter().any(|card| card.name == config.name)
    };
    match networks.find(taken) {
        None => Ok(()),
        Some(OnnxConfig { name, origin, .. }) => {
            let message = format!("{origin}: something else is named {name:?}; rename the network");
            Err(AssembleError::Configuration { message })
        }
    }
}

impl Classifier {
    /// What it tells apart.
    pub(crate) fn labels(&self) -> &[String] {
        self.network.labels()
    }

    /// How much a text is of each category, wherever in it that stands.
    pub(crate) fn categories(&self, judged: &Judged) -> Vec<CategoryScore> {
        let one = |category: &OnnxCategory| {
            let meant = self.labels().iter().zip(&judged.greatest);
            let scores = meant.filter(|(label, _)| category.labels.contains(label));
            let scores = scores.map(|(_, score)| *score);
            let score = match self.network.scoring() {
                // One label fits, so those of a category add up.
                Scoring::Softmax => scores.sum::<f64>().min(1.0),
                Scoring::Sigmoid => scores.fold(0.0, f64::max),
            };
            let is_flagged = score >= category.threshold;
            CategoryScore { category: category.name.clone(), score, is_flagged }
        };
        self.categories.iter().map(one).collect()
    }
}

fn embedder(
    config: &OnnxConfig,
    pooling: OnnxPooling,
    normalize: bool,
) -> Result<Embedder, OnnxError> {
    let pooling = match pooling {
        OnnxPooling::Mean => Pooling::Mean,
        OnnxPooling::Cls => Pooling::Cls,
    };
    Embedder::open(&EmbedderConfig { text: text_config(config), pooling, normalize })
}

fn classifier(
    config: &OnnxConfig,
    labels: &[String],
    scores: OnnxScores,
) -> Result<TextClassifier, OnnxError> {
    let scoring = match scores {
        OnnxScores::Softmax => Scoring::Softmax,
        OnnxScores::Sigmoid => Scoring::Sigmoid,
    };
    let (text, labels) = (text_config(config), labels.to_vec());
    TextClassifier::open(&TextClassifierConfig { text, labels, scoring })
}

fn text_config(config: &OnnxConfig) -> TextConfig {
    TextConfig {
        network: config.path.clone(),
        tokenizer: config.tokenizer.clone(),
        tokens_max: config.tokens_max,
    }
}

fn refusal(error: WorkError) -> Fault {
    let code = match error {
        WorkError::Busy { .. } => FaultCode::Busy,
        WorkError::Late => FaultCode::Deadline,
        WorkError::Stopped => FaultCode::Unavailable,
        _ => FaultCode::Internal,
    };
    let fault = Fault::new(code, format!("networks beside the model: {error}"));
    match code {
        FaultCode::Busy => fault.retry_after_ms(RETRY_AFTER_MS),
        _ => fault,
    }
}

/// What a network says when it fails may repeat what it read, so a client is not told.
fn fault(error: &OnnxError) -> Fault {
    if let OnnxError::TooLong { .. } = error {
        return Fault::new(FaultCode::ContextLength, error.to_string()).at("input");
    }
    tracing::error!("a network beside the model failed on a text");
    Fault::new(FaultCode::Internal, "a network beside the model failed on a text of this request")
}
