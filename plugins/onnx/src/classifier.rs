//! Scores of labels for texts.

use std::path::PathBuf;

use crate::OnnxError;
use crate::text_network::{TextConfig, TextNetwork};

/// Outputs that hold one number for each label.
const OUTPUTS: &[&str] = &["logits", "output", "probabilities"];
/// Most pieces of one text.
const PIECES_MAX: usize = 64;

/// How the network's numbers become scores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scoring {
    /// One label fits: the scores are shares of 1.
    #[default]
    Softmax,
    /// Any number of labels fits: each score stands for itself.
    Sigmoid,
}

/// What a classifier is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextClassifierConfig {
    /// Its files.
    pub text: TextConfig,
    /// What it tells apart, in the order of its outputs.
    pub labels: Vec<String>,
    /// How its numbers become scores.
    pub scoring: Scoring,
}

/// A network that says how well labels fit a text.
pub struct TextClassifier {
    network: TextNetwork,
    path: PathBuf,
    labels: Vec<String>,
    scoring: Scoring,
}

/// What a text got. Long ones are read in pieces that overlap, to their end.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The mean over the pieces, in the order of the labels: what the whole text is.
    pub mean: Vec<f64>,
    /// The greatest over the pieces: what is anywhere in the text.
    pub greatest: Vec<f64>,
    /// Tokens that were read.
    pub tokens: u32,
}

impl TextClassifier {
    /// Loads the files and runs the network once.
    ///
    /// Errors: files that are not right, and networks that do not give one number for each label.
    pub fn open(config: &TextClassifierConfig) -> Result<Self, OnnxError> {
        let network = TextNetwork::open(&config.text, OUTPUTS, config.text.tokens_max / 8)?;
        let classifier = Self {
            network,
            path: config.text.network.clone(),
            labels: config.labels.clone(),
            scoring: config.scoring,
        };
        classifier.judge("a")?;
        Ok(classifier)
    }

    /// How well each label fits the text.
    ///
    /// Errors: `TooLong` for more than 64 pieces; `Run` where the network fails.
    /// Threads: any, several at a time; computes on the caller's.
    pub fn judge(&self, text: &str) -> Result<Judged, OnnxError> {
        let pieces = self.network.pieces(text)?;
        if pieces.len() > PIECES_MAX {
            let tokens_max = PIECES_MAX as u32 * (self.network.tokens_max * 7 / 8);
            return Err(OnnxError::TooLong { tokens_max });
        }
        let labels = self.labels.len();
        let (mut sums, mut greatest, mut tokens) = (vec![0.0; labels], vec![0.0_f64; labels], 0);
        for piece in &pieces {
            let output = self.network.run(piece)?;
            if output.shape != [1, labels] {
                let shape = output.shape;
                let message =
                    format!("it has an output of the shape {shape:?} for {labels} labels");
                return Err(OnnxError::Unfit { path: self.path.clone(), message });
            }
            let scores = self.scores(&output.values);
            if !scores.iter().all(|score| score.is_finite()) {
                let message = "a score is no number".to_owned();
                return Err(OnnxError::Run { message });
            }
            for (at, score) in scores.into_iter().enumerate() {
                sums[at] += score;
                greatest[at] = greatest[at].max(score);
            }
            tokens += u32::try_from(piece.ids.len()).unwrap_or(u32::MAX);
        }
        let mean = sums.into_iter().map(|sum| sum / pieces.len() as f64).collect();
        Ok(Judged { mean, greatest, tokens })
    }

    /// What it tells apart.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// How its numbers become scores.
    pub fn scoring(&self) -> Scoring {
        self.scoring
    }

    fn scores(&self, logits: &[f32]) -> Vec<f64> {
        let logits = logits.iter().map(|logit| f64::from(*logit));
        match self.scoring {
            Scoring::Sigmoid => logits.map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
            Scoring::Softmax => {
                let greatest = logits.clone().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = logits.map(|logit| (logit - greatest).exp()).collect();
                let total: f64 = weights.iter().sum();
                weights.into_iter().map(|weight| weight / total).collect()
            }
        }
    }
}
