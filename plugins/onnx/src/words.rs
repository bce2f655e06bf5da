//! A text as the tokens of a small network, by its `tokenizer.json`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use tokenizers::{Encoding, Tokenizer, TruncationParams};

use crate::OnnxError;
use crate::files::{TOKENIZER_BYTES_MAX, read};

/// One part of a text, as long as the network reads at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) ids: Vec<i64>,
    pub(crate) types: Vec<i64>,
}

/// Cuts texts.
pub(crate) struct Words {
    tokenizer: Tokenizer,
}

impl Words {
    /// Reads the file; pieces have at most `tokens_max` tokens and overlap by `overlap_tokens`.
    pub(crate) fn open(
        path: &Path,
        tokens_max: usize,
        overlap_tokens: usize,
    ) -> Result<Self, OnnxError> {
        let bytes = read(path, TOKENIZER_BYTES_MAX)?;
        let malformed = |message: String| OnnxError::Malformed { path: path.to_owned(), message };
        let parsed = guarded(|| Tokenizer::from_bytes(&bytes));
        let mut tokenizer =
            parsed.map_err(|error| malformed(format!("not a usable tokenizer.json: {error}")))?;
        // The crate's word for: control tokens in a text are text.
        tokenizer.set_encode_special_tokens(true);
        tokenizer.with_padding(None);
        let truncation = TruncationParams {
            max_length: tokens_max,
            stride: overlap_tokens,
            ..TruncationParams::default()
        };
        guarded(|| tokenizer.with_truncation(Some(truncation)).map(|_| ()))
            .map_err(|error| malformed(format!("{tokens_max} tokens are too few: {error}")))?;
        Ok(Self { tokenizer })
    }

    /// The pieces of a text in their order, at least one.
    pub(crate) fn pieces(&self, text: &str) -> Result<Vec<Piece>, OnnxError> {
        let encoding = guarded(|| self.tokenizer.encode(text, true))
            .map_err(|message| OnnxError::Run { message: format!("tokenizer: {message}") })?;
        let mut pieces = vec![piece(&encoding)];
        pieces.extend(encoding.get_overflowing().iter().map(piece));
        Ok(pieces)
    }
}

fn piece(encoding: &Encoding) -> Piece {
    let wide = |numbers: &[u32]| numbers.iter().map(|number| i64::from(*number)).collect();
    Piece { ids: wide(encoding.get_ids()), types: wide(encoding.get_type_ids()) }
}

/// Runs the crate's code, which panics on some files that contradict themselves.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| error.to_string().chars().take(400).collect()),
        Err(_) => Err("it contradicts itself".to_owned()),
    }
}
