//! A text as the tokens of a small network, by its `tokenizer.json`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use tokenizers::{Encoding, PostProcessor, Tokenizer, TruncationDirection};

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
    /// Tokens of a piece without those that the pipeline puts around it.
    text_tokens_max: usize,
    overlap_tokens: usize,
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
        let parsed = guarded(|| {
            let mut tokenizer = Tokenizer::from_bytes(&bytes)?;
            // The crate's word for: control tokens in a text are text.
            tokenizer.set_encode_special_tokens(true);
            tokenizer.with_padding(None);
            // With a limit the crate stops reading there, and the rest would not be known.
            tokenizer.with_truncation(None)?;
            Ok(tokenizer)
        });
        let tokenizer =
            parsed.map_err(|error| malformed(format!("not a usable tokenizer.json: {error}")))?;
        let around = tokenizer.get_post_processor().map_or(0, |post| post.added_tokens(false));
        let text_tokens_max = tokens_max.saturating_sub(around);
        if text_tokens_max <= overlap_tokens {
            let message =
                format!("tokens_max {tokens_max} is too few: {around} stand around a text");
            return Err(malformed(message));
        }
        Ok(Self { tokenizer, text_tokens_max, overlap_tokens })
    }

    /// The pieces of a text in their order, at least one.
    pub(crate) fn pieces(&self, text: &str) -> Result<Vec<Piece>, OnnxError> {
        let pieces = guarded(|| {
            let mut encoding = self.tokenizer.encode(text, false)?;
            let direction = TruncationDirection::Right;
            encoding.truncate(self.text_tokens_max, self.overlap_tokens, direction);
            let rest = encoding.take_overflowing();
            let whole = |part| Ok(piece(&self.tokenizer.post_process(part, None, true)?));
            std::iter::once(encoding).chain(rest).map(whole).collect()
        });
        pieces.map_err(|message| OnnxError::Run { message: format!("tokenizer: {message}") })
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
