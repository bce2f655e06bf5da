//! Byte-pair merging: joins the two neighbours that the vocabulary ranks best, until none are left.
//!
//! SentencePiece and tekken differ in how they cut text and in what ranks a piece; the merging is
//! the same, so it is here once. Short words, nearly all there are, take a scan over a small array;
//! long ones take a heap, so that a megabyte without a space costs n log n and not n².

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Symbols up to which a scan is faster than a heap.
const SCANNED_SYMBOLS_MAX: usize = 48;
const NONE: u32 = u32::MAX;

/// A piece of the vocabulary that merging may produce.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) id: u32,
    /// Lower merges first; equal ranks merge left to right.
    pub(crate) rank: u32,
}

/// The pieces, by their bytes.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    by_bytes: HashMap<Box<[u8]>, Piece>,
    piece_bytes_max: usize,
}

impl Pieces {
    pub(crate) fn with_capacity(pieces: usize) -> Self {
        Self { by_bytes: HashMap::with_capacity(pieces), piece_bytes_max: 0 }
    }

    /// Adds a piece; gives the one that had these bytes before, if any.
    pub(crate) fn insert(&mut self, bytes: &[u8], piece: Piece) -> Option<Piece> {
        self.piece_bytes_max = self.piece_bytes_max.max(bytes.len());
        self.by_bytes.insert(bytes.into(), piece)
    }

    pub(crate) fn find(&self, bytes: &[u8]) -> Option<Piece> {
        if bytes.len() > self.piece_bytes_max {
            return None;
        }
        self.by_bytes.get(bytes).copied()
    }

    fn rank(&self, bytes: &[u8]) -> u32 {
        self.find(bytes).map_or(NONE, |piece| piece.rank)
    }

    /// Merges the symbols of `word` that begin at `starts`, in order, and leaves the starts of what
    /// remains.
    pub(crate) fn merge(&self, word: &[u8], starts: &mut Vec<u32>) {
        if starts.len() <= SCANNED_SYMBOLS_MAX {
            self.merge_by_scan(word, starts);
        } else {
            self.merge_by_heap(word, starts);
        }
    }

    fn merge_by_scan(&self, word: &[u8], starts: &mut Vec<u32>) {
        let rank_at = |starts: &[u32], symbol: usize| {
            let Some(&_right) = starts.get(symbol + 1) else {
                return NONE;
            };
            let end = starts.get(symbol + 2).map_or(word.len(), |&end| end as usize);
            self.rank(&word[starts[symbol] as usize..end])
        };
        let mut ranks = [NONE; SCANNED_SYMBOLS_MAX];
        for (symbol, rank) in ranks.iter_mut().enumerate().take(starts.len()) {
            *rank = rank_at(starts, symbol);
        }
        loop {
            let count = starts.len();
            // `min_by_key` gives the first of equals: the leftmost.
            let Some((best, &rank)) = ranks[..count].iter().enumerate().min_by_key(|(_, r)| **r)
            else {
                return;
            };
            if rank == NONE {
                return;
            }
            starts.remove(best + 1);
            ranks.copy_within(best + 2..count, best + 1);
            ranks[best] = rank_at(starts, best);
            if best > 0 {
                ranks[best - 1] = rank_at(starts, best - 1);
            }
        }
    }

    fn merge_by_heap(&self, word: &[u8], starts: &mut Vec<u32>) {
        let count = starts.len();
        let end_of = |next: &[u32], symbol: u32| match next[symbol as usize] {
            NONE => word.len(),
            next => starts[next as usize] as usize,
        };
        let mut next: Vec<u32> = (1..=count as u32).collect();
        next[count - 1] = NONE;
        let mut previous: Vec<u32> = (0..count as u32).map(|i| i.wrapping_sub(1)).collect();
        let mut alive = vec![true; count];
        // (rank, left symbol, end of the pair): an entry is stale when its pair no longer ends there.
        let mut heap = BinaryHeap::with_capacity(count);
        let push = |heap: &mut BinaryHeap<_>, next: &[u32], left: u32| {
            let right = next[left as usize];
            if right == NONE {
                return;
            }
            let end = end_of(next, right);
            let rank = self.rank(&word[starts[left as usize] as usize..end]);
            if rank != NONE {
                heap.push(Reverse((rank, left, end)));
            }
        };
        for left in 0..count as u32 {
            push(&mut heap, &next, left);
        }
        while let Some(Reverse((_, left, end))) = heap.pop() {
            let right = next[left as usize];
            if !alive[left as usize] || right == NONE || end_of(&next, right) != end {
                continue;
            }
            let after = next[right as usize];
            alive[right as usize] = false;
            next[left as usize] = after;
            if after != NONE {
                previous[after as usize] = left;
            }
            push(&mut heap, &next, left);
            if previous[left as usize] != NONE {
                push(&mut heap, &next, previous[left as usize]);
            }
        }
        let mut symbol = 0;
        starts.retain(|_| {
            symbol += 1;
            alive[symbol - 1]
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(words: &[&str]) -> Pieces {
        let mut pieces = Pieces::default();
        for (rank, word) in words.iter().enumerate() {
            pieces.insert(word.as_bytes(), Piece { id: rank as u32, rank: rank as u32 });
        }
        pieces
    }

    fn merged<'a>(pieces: &Pieces, word: &'a str) -> Vec<&'a str> {
        let mut starts: Vec<u32> = word.char_indices().map(|(at, _)| at as u32).collect();
        pieces.merge(word.as_bytes(), &mut starts);
        let ends = starts.iter().skip(1).map(|&s| s as usize).chain([word.len()]);
        starts.iter().zip(ends).map(|(&start, end)| &word[start as usize..end]).collect()
    }

    #[test]
    fn best_rank_merges_first_and_equals_from_the_left() {
        let pieces = pieces(&["ab", "aa", "aab"]);
        assert_eq!(merged(&pieces, "aab"), ["aab"]);
        assert_eq!(merged(&pieces, "aaa"), ["aa", "a"]);
        assert_eq!(merged(&pieces, "bba"), ["b", "b", "a"]);
    }

    proptest! {
        #[test]
        fn heap_and_scan_agree(word in "[abc]{1,48}") {
            let pieces = pieces(&["ab", "bc", "aa", "abc", "ca", "aab", "caab", "bcbc", "cc"]);
            let all: Vec<u32> = (0..word.len() as u32).collect();
            let (mut scanned, mut heaped) = (all.clone(), all);
            pieces.merge_by_scan(word.as_bytes(), &mut scanned);
            pieces.merge_by_heap(word.as_bytes(), &mut heaped);
            prop_assert_eq!(scanned, heaped);
        }
    }
}
