//! Sequences that grow together, and can be set back to where they were.

use engine::{Forward, Want};
use protocol::TokenId;

use crate::error::AssembleError;
use crate::single::{Place, step};

/// Sequences side by side in the cache, each with pages of its own.
pub(super) struct Group<'a> {
    network: &'a mut dyn Forward,
    places: Vec<Place>,
}

impl<'a> Group<'a> {
    /// So many empty sequences, each with room for `context_tokens`.
    ///
    /// The caller has seen to it that the cache has the pages.
    pub(super) fn new(network: &'a mut dyn Forward, sequences: u32, context_tokens: u32) -> Self {
        let pages = context_tokens.div_ceil(network.capacity().page_tokens);
        let place = |index| Place { first_page: index * pages, context_tokens: 0 };
        Self { network, places: (0..sequences).map(place).collect() }
    }

    /// Sets every sequence back to its first `tokens`; what follows them is overwritten.
    pub(super) fn rewind(&mut self, tokens: u32) {
        for place in &mut self.places {
            place.context_tokens = place.context_tokens.min(tokens);
        }
    }

    /// Each sequence reads so many tokens, one sequence after the other, in steps as large as the
    /// network takes.
    ///
    /// Errors: the network's.
    pub(super) fn read(&mut self, tokens: u32) -> Result<(), AssembleError> {
        let capacity = self.network.capacity();
        for (index, place) in (0..).zip(&mut self.places) {
            let ids: Vec<TokenId> = (place.context_tokens..place.context_tokens + tokens)
                .map(|position| token(index, position, capacity.vocabulary))
                .collect();
            for chunk in ids.chunks(capacity.batch_tokens_max.max(1) as usize) {
                step(self.network, &mut [(&mut *place, chunk)], Want::Argmax)?;
            }
        }
        Ok(())
    }

    /// All sequences write so many tokens, each one token a step.
    ///
    /// Errors: the network's.
    pub(super) fn write(&mut self, tokens: u32) -> Result<(), AssembleError> {
        let vocabulary = self.network.capacity().vocabulary;
        for _ in 0..tokens {
            let ids: Vec<[TokenId; 1]> = (0..)
                .zip(&self.places)
                .map(|(index, place)| [token(index, place.context_tokens, vocabulary)])
                .collect();
            let mut parts: Vec<(&mut Place, &[TokenId])> =
                self.places.iter_mut().zip(&ids).map(|(place, id)| (place, &id[..])).collect();
            step(self.network, &mut parts, Want::Argmax)?;
        }
        Ok(())
    }
}

/// Any ids do, as the work does not depend on them; two sequences differ.
fn token(sequence: u32, position: u32, vocabulary: u32) -> TokenId {
    let scattered = (position + 1).wrapping_mul(2_654_435_761).wrapping_add(sequence * 977);
    TokenId(scattered % vocabulary)
}

#[cfg(test)]
mod tests {
    use engine::{Batch, Capacity, ForwardError, Logits, RowLogits};

    use super::*;

    /// Keeps what it is asked, and answers with token 0.
    #[derive(Default)]
    struct Recorder(Vec<Batch>);

    impl Forward for Recorder {
        fn capacity(&self) -> Capacity {
            Capacity {
                vocabulary: 50,
                pages: 8,
                page_tokens: 4,
                context_tokens_max: 32,
                batch_tokens_max: 4,
                tile_tokens: 1,
            }
        }

        fn forward(&mut self, batch: &Batch) -> Result<Logits, ForwardError> {
            self.0.push(batch.clone());
            Ok(Logits { rows: batch.rows.iter().map(|_| RowLogits::All(Vec::new())).collect() })
        }
    }

    #[test]
    fn sequences_read_one_by_one_and_write_together() {
        let mut network = Recorder::default();
        let mut group = Group::new(&mut network, 2, 7);
        group.read(5).unwrap();
        group.write(2).unwrap();
        let sizes: Vec<(usize, usize)> =
            network.0.iter().map(|batch| (batch.spans.len(), batch.tokens.len())).collect();
        assert_eq!(sizes, [(1, 4), (1, 1), (1, 4), (1, 1), (2, 2), (2, 2)]);
        let last = &network.0[5];
        assert_eq!(last.positions, [6, 6]);
        assert_eq!(last.slots, [6, 14], "the second one has pages 2 and 3");
        assert_eq!(last.pages, [0, 1, 2, 3]);
        assert_ne!(last.tokens[0], last.tokens[1]);
        assert!(last.tokens.iter().all(|token| token.0 < 50));
    }

    #[test]
    fn a_repetition_starts_where_the_one_before_it_did() {
        let mut network = Recorder::default();
        let mut group = Group::new(&mut network, 1, 8);
        group.read(3).unwrap();
        for _ in 0..2 {
            group.rewind(3);
            group.write(2).unwrap();
        }
        assert_eq!(network.0[1], network.0[3]);
        assert_eq!(network.0[2], network.0[4]);
    }
}
