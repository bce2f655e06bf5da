//! A network that reads texts: its graph and its tokenizer.

use std::path::PathBuf;

use crate::OnnxError;
use crate::plans::{Output, Plans};
use crate::words::{Piece, Words};
use crate::{files, graph};

/// Fewest tokens that a network reads at once: the control tokens and a word.
pub const TOKENS_MIN: u32 = 8;
/// Most tokens that a network reads at once.
pub const TOKENS_MAX: u32 = 8192;

/// Files and length of a network that reads texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextConfig {
    /// The network.
    pub network: PathBuf,
    /// Its `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// Tokens of a text that are read at once, control tokens among them.
    pub tokens_max: u32,
}

pub(crate) struct TextNetwork {
    words: Words,
    plans: Plans,
    pub(crate) tokens_max: u32,
    pub(crate) created: u64,
}

impl TextNetwork {
    /// `outputs`: the names that the output may have, best first. `overlap_tokens`: how many tokens
    /// the pieces of a long text have in common.
    pub(crate) fn open(
        config: &TextConfig,
        outputs: &[&str],
        overlap_tokens: u32,
    ) -> Result<Self, OnnxError> {
        let tokens_max = config.tokens_max.clamp(TOKENS_MIN, TOKENS_MAX);
        let words = Words::open(&config.tokenizer, tokens_max as usize, overlap_tokens as usize)?;
        let model = graph::open(&config.network)?;
        let plans = Plans::new(&config.network, model, outputs, tokens_max as usize)?;
        let created = files::modified_unix(&config.network);
        Ok(Self { words, plans, tokens_max, created })
    }

    pub(crate) fn pieces(&self, text: &str) -> Result<Vec<Piece>, OnnxError> {
        self.words.pieces(text)
    }

    pub(crate) fn run(&self, piece: &Piece) -> Result<Output, OnnxError> {
        self.plans.run(piece)
    }

    /// The lengths that texts are padded to; empty where none is padded.
    pub(crate) fn padded_lengths(&self) -> Vec<usize> {
        self.plans.lengths()
    }
}
