//! What may be drawn next, when the answer has to have a shape.

use protocol::TokenId;

/// The set of tokens that may be drawn next, one bit for each of the vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMask {
    words: Vec<u64>,
    vocabulary_size: usize,
}

impl TokenMask {
    /// A set that holds nothing.
    pub fn none(vocabulary_size: usize) -> Self {
        Self { words: vec![0; vocabulary_size.div_ceil(64)], vocabulary_size }
    }

    /// The bits, 64 tokens in each word, the lowest id in the lowest bit.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Puts a token in; one outside the vocabulary is ignored.
    pub fn allow(&mut self, token: TokenId) {
        let index = token.0 as usize;
        if index < self.vocabulary_size {
            self.words[index / 64] |= 1 << (index % 64);
        }
    }

    /// Whether a token is in.
    pub fn allows(&self, token: TokenId) -> bool {
        let index = token.0 as usize;
        self.words.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }
}

/// Says, token by token, what keeps the answer in shape.
pub trait Constraint: Send {
    /// The tokens that may come next; `None` where any answer will do.
    ///
    /// Errors: the shape cannot go on, because a limit of its parser is reached.
    fn mask(&mut self) -> Result<Option<&TokenMask>, ConstraintError>;

    /// Moves on by the token that was drawn.
    ///
    /// Errors: the token was not in the mask.
    fn accept(&mut self, token: TokenId) -> Result<(), ConstraintError>;

    /// Tokens that the shape leaves no choice about, in order; they are not accepted by this.
    fn forced(&mut self) -> Vec<TokenId>;

    /// Takes back the last `tokens` accepted ones.
    ///
    /// Errors: fewer were accepted.
    fn rollback(&mut self, tokens: usize) -> Result<(), ConstraintError>;
}

/// A token was drawn that the shape of the answer does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("token {} does not fit the shape of the answer", .0.0)]
pub struct ConstraintError(pub TokenId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mask_holds_what_was_allowed_and_nothing_else() {
        let mut mask = TokenMask::none(70);
        mask.allow(TokenId(0));
        mask.allow(TokenId(69));
        mask.allow(TokenId(70));
        let held: Vec<u32> = (0..200).filter(|&t| mask.allows(TokenId(t))).collect();
        assert_eq!(held, [0, 69]);
    }
}
