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

    /// The set as it is kept: token `t` is bit `t % 64` of word `t / 64`; bits behind the
    /// vocabulary are 0.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Tokens of the vocabulary, in or out.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary_size
    }

    /// Number of tokens that are in.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The tokens that are in, in order.
    pub fn tokens(&self) -> impl Iterator<Item = TokenId> {
        let ids = |(index, &word): (usize, &u64)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros();
                // Clears the lowest bit.
                rest &= rest.checked_sub(1)?;
                Some(TokenId(index as u32 * 64 + bit))
            })
        };
        self.words.iter().enumerate().flat_map(ids)
    }

    /// Takes everything out.
    pub(crate) fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Takes over a set that is kept in words of 32 bits; what lies behind the vocabulary is left.
    pub(crate) fn copy_halves(&mut self, halves: &[u32]) {
        for (index, word) in self.words.iter_mut().enumerate() {
            let half = |at: usize| u64::from(halves.get(at).copied().unwrap_or(0));
            *word = half(2 * index) | half(2 * index + 1) << 32;
        }
        let rest = self.vocabulary_size % 64;
        if let Some(last) = self.words.last_mut().filter(|_| rest > 0) {
            *last &= (1 << rest) - 1;
        }
    }
}

/// Says, token by token, what keeps the answer in shape.
pub trait Constraint: Send {
    /// The tokens that may come next; `None` where any answer will do here.
    ///
    /// The token that ends the answer is in the set exactly where the answer may end.
    /// Errors: the grammar cannot go on: a limit of its parser was reached, or it has a defect.
    fn mask(&mut self) -> Result<Option<&TokenMask>, ConstraintError>;

    /// Moves on by the token that was drawn.
    ///
    /// Errors: the token is not in the mask, and nothing has moved; or as [`Self::mask`].
    fn accept(&mut self, token: TokenId) -> Result<(), ConstraintError>;

    /// Tokens that the shape leaves no choice about, in order, not yet accepted; empty where there
    /// is a choice. At most 64; the last one may be the token that ends the answer.
    fn forced(&mut self) -> Vec<TokenId>;

    /// Takes back the last `tokens` accepted ones.
    ///
    /// Errors: there are fewer, and nothing has moved; or as [`Self::mask`].
    fn rollback(&mut self, tokens: usize) -> Result<(), ConstraintError>;
}

/// The answer does not keep its shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConstraintError {
    /// A token was drawn that the shape does not allow.
    #[error("token {} does not fit the shape of the answer", .0.0)]
    Unfit(TokenId),
    /// More tokens were to be taken back than were accepted.
    #[error("{tokens} tokens cannot be taken back, {accepted} were accepted")]
    TooFar {
        /// Asked for.
        tokens: usize,
        /// There are.
        accepted: usize,
    },
    /// The grammar is too ambiguous for the limits of its parser, or the parser has a defect.
    #[error("the grammar of the answer cannot go on: {message}; simplify the schema or grammar")]
    Stuck {
        /// What the parser says; never the text.
        message: String,
    },
}

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
        assert_eq!(mask.tokens().collect::<Vec<_>>(), [TokenId(0), TokenId(69)]);
        assert_eq!((mask.count(), mask.words()), (2, &[1, 1 << 5][..]));
        mask.clear();
        assert_eq!(mask, TokenMask::none(70));
    }

    #[test]
    fn halves_become_words_up_to_the_end_of_the_vocabulary() {
        let mut mask = TokenMask::none(70);
        mask.copy_halves(&[1, 1 << 31, u32::MAX, u32::MAX]);
        let held: Vec<u32> = mask.tokens().map(|token| token.0).collect();
        assert_eq!(held, [0, 63, 64, 65, 66, 67, 68, 69]);
        mask.copy_halves(&[2]);
        assert_eq!(mask.tokens().collect::<Vec<_>>(), [TokenId(1)]);
    }
}
