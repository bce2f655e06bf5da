//! Vectors of texts.

use std::path::PathBuf;

use crate::OnnxError;
use crate::plans::Output;
use crate::text_network::{TextConfig, TextNetwork};

/// Outputs that hold one vector, then those that hold one for each token.
const OUTPUTS: &[&str] = &[
    "sentence_embedding",
    "text_embeds",
    "embeddings",
    "last_hidden_state",
    "token_embeddings",
    "hidden_states",
];

/// How the vectors of the tokens become one. Of no effect where the network gives one itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// The first token's.
    Cls,
}

/// What an embedder is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbedderConfig {
    /// Its files.
    pub text: TextConfig,
    /// How tokens become one vector.
    pub pooling: Pooling,
    /// Whether vectors get unit length.
    pub normalize: bool,
}

/// A network that makes a vector of a text.
pub struct Embedder {
    network: TextNetwork,
    path: PathBuf,
    pooling: Pooling,
    normalize: bool,
    dimensions: usize,
}

/// One text's vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// As many numbers as [`Embedder::dimensions`].
    pub vector: Vec<f32>,
    /// Tokens that were read.
    pub tokens: u32,
    /// The text went on behind them.
    pub is_truncated: bool,
}

impl Embedded {
    /// Keeps the first numbers of the vector, in unit length.
    pub fn shorten(&mut self, dimensions: usize) {
        self.vector.truncate(dimensions);
        to_unit_length(&mut self.vector);
    }
}

impl Embedder {
    /// Loads the files and runs the network once.
    ///
    /// Errors: files that are not right, and networks that give no vectors.
    /// Threads: computes on the caller's, a second or so for 30 million parameters.
    pub fn open(config: &EmbedderConfig) -> Result<Self, OnnxError> {
        let network = TextNetwork::open(&config.text, OUTPUTS, 0)?;
        let mut embedder = Self {
            network,
            path: config.text.network.clone(),
            pooling: config.pooling,
            normalize: config.normalize,
            dimensions: 0,
        };
        embedder.dimensions = embedder.embed("a")?.vector.len();
        Ok(embedder)
    }

    /// The vector of the beginning of a text, as far as the network reads.
    ///
    /// Errors: `Run` where the network fails, or gives what is no number.
    /// Threads: any, several at a time; computes on the caller's.
    pub fn embed(&self, text: &str) -> Result<Embedded, OnnxError> {
        let pieces = self.network.pieces(text)?;
        let piece = pieces.first().ok_or_else(|| run_error("the tokenizer gave nothing"))?;
        let tokens = u32::try_from(piece.ids.len()).unwrap_or(u32::MAX);
        let mut vector = self.pooled(self.network.run(piece)?)?;
        if self.normalize {
            to_unit_length(&mut vector);
        }
        if !vector.iter().all(|number| number.is_finite()) {
            return Err(run_error("its vector holds what is no number"));
        }
        Ok(Embedded { vector, tokens, is_truncated: pieces.len() > 1 })
    }

    /// Numbers of a vector.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Tokens of a text that are read.
    pub fn tokens_max(&self) -> u32 {
        self.network.tokens_max
    }

    /// Whether vectors have unit length.
    pub fn normalizes(&self) -> bool {
        self.normalize
    }

    /// Seconds since 1970 at which the network's file was last changed.
    pub fn created(&self) -> u64 {
        self.network.created
    }

    /// The lengths in tokens that texts are padded to; empty where none is padded.
    pub fn padded_lengths(&self) -> Vec<usize> {
        self.network.padded_lengths()
    }

    fn pooled(&self, output: Output) -> Result<Vec<f32>, OnnxError> {
        match output.shape[..] {
            [1, width] | [width] if width > 0 => Ok(output.values),
            [1, tokens, width] if tokens > 0 && width > 0 => Ok(match self.pooling {
                Pooling::Cls => output.values[..width].to_vec(),
                Pooling::Mean => mean(&output.values, width),
            }),
            ref other => Err(OnnxError::Unfit {
                path: self.path.clone(),
                message: format!(
                    "an embedder gives one vector for each text or token; this output has the \
                     shape {other:?}"
                ),
            }),
        }
    }
}

/// Gives a vector unit length; one of zeros stays as it is.
fn to_unit_length(vector: &mut [f32]) {
    let square: f64 = vector.iter().map(|number| f64::from(*number).powi(2)).sum();
    if square > 0.0 {
        let length = square.sqrt();
        vector.iter_mut().for_each(|number| *number = (f64::from(*number) / length) as f32);
    }
}

fn mean(values: &[f32], width: usize) -> Vec<f32> {
    let rows = values.len() / width;
    let mut sums = vec![0.0_f64; width];
    for row in values.chunks_exact(width) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    sums.into_iter().map(|sum| (sum / rows as f64) as f32).collect()
}

fn run_error(message: &str) -> OnnxError {
    OnnxError::Run { message: message.to_owned() }
}
