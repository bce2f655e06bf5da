//! Texts among which the model chooses, as the tokens of whole answers.

use protocol::{Classify, TokenId};

use crate::codec::{Codec, Prompt};
use crate::{TextError, Tokenizer};

/// Most tokens of one label, the end-of-sequence token included.
pub const LABEL_TOKENS_MAX: usize = 64;
/// Most tokens of all labels of one request.
pub const LABELS_TOKENS_MAX: usize = 4096;

/// The field that carries labels.
const PARAM: &str = "labels";

impl Codec {
    /// The tokens of each label as the whole answer to `prompt`, the end-of-sequence token last: by
    /// it a label and a longer one that begins with it are told apart.
    ///
    /// Errors: no labels or too many, and labels that are empty, too long, or the same to the model.
    pub fn encode_labels(
        &self,
        prompt: &Prompt,
        labels: &[String],
    ) -> Result<Vec<Vec<TokenId>>, TextError> {
        let most = Classify::LABELS_MAX;
        if labels.is_empty() || labels.len() > most {
            let message = format!("there are {} labels; send 1 to {most}", labels.len());
            return Err(TextError::rule(PARAM, message));
        }
        let mut encoded: Vec<Vec<TokenId>> = Vec::with_capacity(labels.len());
        for (index, label) in labels.iter().enumerate() {
            let param = || format!("{PARAM}[{index}]");
            if label.trim().is_empty() {
                return Err(TextError::rule(param(), "a label is empty"));
            }
            let mut tokens = match prompt.continues_text {
                true => self.tokenizer().encode_continued(label)?,
                false => self.tokenizer().encode(label)?,
            };
            if tokens.is_empty() {
                return Err(TextError::rule(param(), "a label is empty"));
            }
            tokens.push(self.tokenizer().eos());
            if tokens.len() > LABEL_TOKENS_MAX {
                let found = tokens.len();
                let message =
                    format!("a label has {found} tokens, the limit is {LABEL_TOKENS_MAX}");
                return Err(TextError::rule(param(), message));
            }
            if encoded.contains(&tokens) {
                let message = "a label is the same to the model as one before it";
                return Err(TextError::rule(param(), message));
            }
            encoded.push(tokens);
        }
        let total: usize = encoded.iter().map(Vec::len).sum();
        if total > LABELS_TOKENS_MAX {
            let message = format!(
                "the labels have {total} tokens together, the limit is {LABELS_TOKENS_MAX}"
            );
            return Err(TextError::rule(PARAM, message));
        }
        Ok(encoded)
    }
}

impl Tokenizer {
    /// What a token says by itself, or its name where it steers the model. Bytes that are no UTF-8
    /// become U+FFFD.
    pub fn spell(&self, token: TokenId) -> String {
        match self.vocabulary().name(token) {
            Some(name) => name.to_owned(),
            None => String::from_utf8_lossy(self.says(token)).into_owned(),
        }
    }
}
