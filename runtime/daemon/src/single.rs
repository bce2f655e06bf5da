//! One sequence on a bare network, without the engine: for logits and measurements.

use engine::{Batch, Forward, ForwardError, Row, RowLogits, Span, Want};
use model::Network;
use protocol::TokenId;

use crate::error::AssembleError;

/// A sequence that owns the whole cache and grows from its first page on.
pub(crate) struct Single<'a> {
    network: &'a mut Network,
    context_tokens: u32,
}

impl<'a> Single<'a> {
    /// An empty sequence; what the cache held before is overwritten.
    pub(crate) fn new(network: &'a mut Network) -> Self {
        Self { network, context_tokens: 0 }
    }

    /// Appends `tokens` in steps that the network can take, and gives the outcome of the last one.
    ///
    /// Errors: no tokens, an id outside the vocabulary, or more tokens than the context holds.
    pub(crate) fn feed(
        &mut self,
        tokens: &[TokenId],
        want: Want,
    ) -> Result<RowLogits, AssembleError> {
        let capacity = self.network.capacity();
        let limit = capacity.context_tokens_max.min(capacity.pages * capacity.page_tokens);
        let wanted = self.context_tokens as usize + tokens.len();
        if tokens.is_empty() || wanted > limit as usize {
            return Err(AssembleError::Input {
                message: format!("a sequence of {wanted} tokens: give 1 to {limit}"),
            });
        }
        if let Some(token) = tokens.iter().find(|token| token.0 >= capacity.vocabulary) {
            return Err(AssembleError::Input {
                message: format!(
                    "token {} is outside the vocabulary of {} tokens",
                    token.0, capacity.vocabulary
                ),
            });
        }
        let mut last = None;
        for chunk in tokens.chunks(capacity.batch_tokens_max.max(1) as usize) {
            last = self.step(chunk, capacity.page_tokens, want)?.rows.pop();
        }
        last.ok_or_else(|| AssembleError::Input { message: "the network gave no logits".into() })
    }

    fn step(
        &mut self,
        tokens: &[TokenId],
        page_tokens: u32,
        want: Want,
    ) -> Result<engine::Logits, AssembleError> {
        let count = tokens.len() as u32;
        let positions: Vec<u32> = (self.context_tokens..self.context_tokens + count).collect();
        self.context_tokens += count;
        let batch = Batch {
            tokens: tokens.to_vec(),
            // Pages are taken in order, so a token's slot is its position.
            slots: positions.clone(),
            positions,
            spans: vec![Span {
                query_start: 0,
                query_tokens: count,
                context_tokens: self.context_tokens,
                first_page: 0,
            }],
            pages: (0..self.context_tokens.div_ceil(page_tokens)).collect(),
            rows: vec![Row { token: count - 1, want }],
        };
        self.network.forward(&batch).map_err(|error| match error {
            ForwardError::Rejected { .. } => AssembleError::Input { message: error.to_string() },
            _ => AssembleError::Configuration { message: error.to_string() },
        })
    }
}
