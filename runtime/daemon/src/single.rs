//! Sequences on a bare network, without the engine: for logits and measurements.

use engine::{Batch, Forward, ForwardError, Logits, Row, RowLogits, Span, Want};
use protocol::TokenId;

use crate::error::AssembleError;

/// Where a sequence lies in the cache: it takes pages in order from its first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its first page of the cache.
    pub(crate) first_page: u32,
    /// Its tokens so far.
    pub(crate) context_tokens: u32,
}

/// Appends to each sequence its tokens, in one step; the outcome of each one's last token comes
/// back in the same order.
///
/// The caller has seen to it that pages do not overlap and that the network can take the step.
///
/// Errors: the network rejects the step, or its device is lost.
pub(crate) fn step(
    network: &mut dyn Forward,
    parts: &mut [(&mut Place, &[TokenId])],
    want: Want,
) -> Result<Logits, AssembleError> {
    let batch = batch(parts, network.capacity().page_tokens, want);
    let logits = network.forward(&batch).map_err(|error| match error {
        ForwardError::Rejected { .. } => AssembleError::Input { message: error.to_string() },
        _ => AssembleError::Configuration { message: error.to_string() },
    })?;
    for (place, tokens) in parts {
        place.context_tokens += tokens.len() as u32;
    }
    Ok(logits)
}

fn batch(parts: &[(&mut Place, &[TokenId])], page_tokens: u32, want: Want) -> Batch {
    let mut batch = Batch::default();
    for (place, tokens) in parts {
        let (start, count) = (batch.tokens.len() as u32, tokens.len() as u32);
        let context_tokens = place.context_tokens + count;
        batch.spans.push(Span {
            query_start: start,
            query_tokens: count,
            context_tokens,
            first_page: batch.pages.len() as u32,
        });
        batch.tokens.extend_from_slice(tokens);
        batch.positions.extend(place.context_tokens..context_tokens);
        // Pages are taken in order, so slots follow each other as positions do.
        let first_slot = place.first_page * page_tokens;
        batch.slots.extend(first_slot + place.context_tokens..first_slot + context_tokens);
        let pages = context_tokens.div_ceil(page_tokens);
        batch.pages.extend(place.first_page..place.first_page + pages);
        batch.rows.push(Row { token: start + count - 1, want });
    }
    batch
}

/// A sequence that owns the whole cache and grows from its first page on.
pub(crate) struct Single<'a> {
    network: &'a mut dyn Forward,
    place: Place,
}

impl<'a> Single<'a> {
    /// An empty sequence; what the cache held before is overwritten.
    pub(crate) fn new(network: &'a mut dyn Forward) -> Self {
        Self { network, place: Place { first_page: 0, context_tokens: 0 } }
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
        let wanted = self.place.context_tokens as usize + tokens.len();
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
            last = step(self.network, &mut [(&mut self.place, chunk)], want)?.rows.pop();
        }
        last.ok_or_else(|| AssembleError::Input { message: "the network gave no logits".into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_of_one_step_keep_to_their_own_pages() {
        let mut long = Place { first_page: 0, context_tokens: 5 };
        let mut short = Place { first_page: 3, context_tokens: 0 };
        let ids: Vec<TokenId> = (10..13).map(TokenId).collect();
        let batch = batch(&[(&mut long, &ids[..1]), (&mut short, &ids[1..])], 4, Want::Argmax);
        assert_eq!(
            batch,
            Batch {
                tokens: ids.clone(),
                positions: vec![5, 0, 1],
                slots: vec![5, 12, 13],
                spans: vec![
                    Span { query_start: 0, query_tokens: 1, context_tokens: 6, first_page: 0 },
                    Span { query_start: 1, query_tokens: 2, context_tokens: 2, first_page: 2 },
                ],
                pages: vec![0, 1, 3],
                rows: vec![
                    Row { token: 0, want: Want::Argmax },
                    Row { token: 2, want: Want::Argmax }
                ],
            }
        );
    }
}
