//! The book of the cache's pages: which sequence holds which, and what is promised to whom.
//!
//! A lease promises pages and takes them one by one as its sequence grows; what is promised is never
//! promised twice. A sequence of stated length is promised all that it can need before it begins, so
//! it can always end. One without a stated length gets its promise raised while there is room.
//! Pages that are promised but not yet taken stay in the free list.

use crate::Capacity;

/// One page of the cache, by its place in the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PageId(pub(crate) u32);

/// The pages of one sequence. Goes back by [`Pages::release`].
#[derive(Debug)]
#[must_use = "a lease that is dropped keeps its pages for ever"]
pub(crate) struct Lease {
    taken: Vec<PageId>,
    promised: u32,
    page_tokens: u32,
}

/// All pages of the cache.
#[derive(Debug)]
pub(crate) struct Pages {
    free: Vec<PageId>,
    /// Pages of all leases, those not yet taken included.
    promised: u32,
    pages_max: u32,
    page_tokens: u32,
}

/// A lease was asked for more tokens than it was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sequence of {tokens} tokens outgrew its lease of {pages_max} pages")]
pub(crate) struct BeyondLease {
    pub(crate) tokens: u32,
    pub(crate) pages_max: u32,
}

impl Pages {
    /// A book in which every page is free.
    pub(crate) fn new(capacity: &Capacity) -> Self {
        Self {
            free: (0..capacity.pages).rev().map(PageId).collect(),
            promised: 0,
            pages_max: capacity.pages,
            page_tokens: capacity.page_tokens.max(1),
        }
    }

    /// Promises the pages of `tokens_max` tokens; `None` while others hold too many.
    pub(crate) fn lease(&mut self, tokens_max: u32) -> Option<Lease> {
        let mut lease = Lease { taken: Vec::new(), promised: 0, page_tokens: self.page_tokens };
        self.raise(&mut lease, tokens_max).then_some(lease)
    }

    /// Raises a promise to `tokens_max` tokens; whether it now holds that many.
    pub(crate) fn raise(&mut self, lease: &mut Lease, tokens_max: u32) -> bool {
        let wanted = tokens_max.div_ceil(self.page_tokens);
        let more = wanted.saturating_sub(lease.promised);
        if more > self.pages_max - self.promised {
            return false;
        }
        self.promised += more;
        lease.promised += more;
        true
    }

    /// Takes pages until the lease holds `tokens` tokens.
    pub(crate) fn extend(&mut self, lease: &mut Lease, tokens: u32) -> Result<(), BeyondLease> {
        let wanted = tokens.div_ceil(self.page_tokens);
        if wanted > lease.promised {
            return Err(BeyondLease { tokens, pages_max: lease.promised });
        }
        while lease.taken.len() < wanted as usize {
            lease.taken.push(self.free.pop().expect("a promised page is in the free list"));
        }
        Ok(())
    }

    /// Takes everything back.
    pub(crate) fn release(&mut self, mut lease: Lease) {
        self.strip(&mut lease);
    }

    /// Takes everything back and leaves a lease of nothing.
    pub(crate) fn strip(&mut self, lease: &mut Lease) {
        self.promised -= std::mem::take(&mut lease.promised);
        self.free.extend(lease.taken.drain(..).rev());
    }
}

impl Lease {
    /// Whether anything is promised to it.
    pub(crate) fn is_empty(&self) -> bool {
        self.promised == 0
    }

    /// Whether the pages of `tokens` tokens are promised to it.
    pub(crate) fn holds(&self, tokens: u32) -> bool {
        tokens.div_ceil(self.page_tokens) <= self.promised
    }

    /// The pages of the first `tokens` tokens, in order.
    pub(crate) fn pages(&self, tokens: u32) -> &[PageId] {
        &self.taken[..tokens.div_ceil(self.page_tokens) as usize]
    }

    /// Where the token at `position` keeps its key and value.
    pub(crate) fn slot(&self, position: u32) -> u32 {
        let page = self.taken[(position / self.page_tokens) as usize];
        page.0 * self.page_tokens + position % self.page_tokens
    }
}

#[cfg(test)]
impl Pages {
    /// Pages that nobody was promised.
    pub(crate) fn unpromised(&self) -> u32 {
        self.pages_max - self.promised
    }

    /// Whether the book is as on its first day.
    pub(crate) fn all_free(&self) -> bool {
        self.promised == 0 && self.free.len() == self.pages_max as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn pages(pages: u32, page_tokens: u32) -> Pages {
        Pages::new(&Capacity {
            vocabulary: 8,
            pages,
            page_tokens,
            context_tokens_max: pages * page_tokens,
            batch_tokens_max: 8,
        })
    }

    #[test]
    fn a_promise_is_kept_after_others_took_theirs() {
        let mut book = pages(4, 16);
        let mut first = book.lease(32).unwrap();
        let mut second = book.lease(32).unwrap();
        assert!(book.lease(1).is_none(), "four pages are promised");
        book.extend(&mut second, 32).unwrap();
        book.extend(&mut first, 32).unwrap();
        assert_eq!(first.pages(32).len(), 2);
        book.release(first);
        assert_eq!(book.unpromised(), 2);
        book.release(second);
        assert!(book.all_free());
    }

    #[test]
    fn a_lease_gives_no_page_beyond_its_promise() {
        let mut book = pages(4, 16);
        let mut lease = book.lease(17).unwrap();
        book.extend(&mut lease, 32).unwrap();
        let refused = book.extend(&mut lease, 33);
        assert_eq!(refused, Err(BeyondLease { tokens: 33, pages_max: 2 }));
        book.release(lease);
    }

    #[test]
    fn a_promise_is_raised_while_there_is_room() {
        let mut book = pages(4, 16);
        let mut growing = book.lease(16).unwrap();
        let other = book.lease(32).unwrap();
        assert!(book.raise(&mut growing, 32));
        assert!(!book.raise(&mut growing, 33), "the other holds the rest");
        book.release(other);
        assert!(book.raise(&mut growing, 64));
        book.extend(&mut growing, 64).unwrap();
        book.strip(&mut growing);
        assert!(growing.is_empty() && book.all_free());
    }

    #[test]
    fn slots_follow_the_page_table() {
        let mut book = pages(4, 4);
        let mut other = book.lease(4).unwrap();
        book.extend(&mut other, 1).unwrap();
        let mut lease = book.lease(8).unwrap();
        book.extend(&mut lease, 6).unwrap();
        let slots: Vec<u32> = (0..6).map(|position| lease.slot(position)).collect();
        assert_eq!(slots, [4, 5, 6, 7, 8, 9]);
        book.release(other);
        book.release(lease);
    }

    #[derive(Debug, Clone)]
    enum Deed {
        Lease(u32),
        Extend(usize, u32),
        Strip(usize),
        Release(usize),
    }

    fn deeds() -> impl Strategy<Value = Vec<Deed>> {
        let deed = prop_oneof![
            (0u32..80).prop_map(Deed::Lease),
            (any::<usize>(), 0u32..80).prop_map(|(which, tokens)| Deed::Extend(which, tokens)),
            any::<usize>().prop_map(Deed::Strip),
            any::<usize>().prop_map(Deed::Release),
        ];
        prop::collection::vec(deed, 0..60)
    }

    proptest! {
        #[test]
        fn no_page_is_lost_or_held_twice(deeds in deeds(), count in 1u32..12, tokens in 1u32..9) {
            let mut book = pages(count, tokens);
            let mut leases: Vec<(Lease, u32)> = Vec::new();
            for deed in deeds {
                match deed {
                    Deed::Lease(tokens_max) => {
                        leases.extend(book.lease(tokens_max).map(|lease| (lease, tokens_max)));
                    }
                    Deed::Extend(which, tokens) if !leases.is_empty() => {
                        let at = which % leases.len();
                        let (lease, tokens_max) = &mut leases[at];
                        if book.raise(lease, tokens) {
                            *tokens_max = tokens.max(*tokens_max);
                        }
                        let extended = book.extend(lease, tokens.min(*tokens_max));
                        prop_assert!(extended.is_ok(), "a promise holds whatever the others do");
                    }
                    Deed::Strip(which) if !leases.is_empty() => {
                        let at = which % leases.len();
                        let (lease, tokens_max) = &mut leases[at];
                        book.strip(lease);
                        *tokens_max = 0;
                        prop_assert!(lease.is_empty());
                    }
                    Deed::Release(which) if !leases.is_empty() => {
                        let at = which % leases.len();
                        book.release(leases.swap_remove(at).0);
                    }
                    Deed::Extend(..) | Deed::Strip(_) | Deed::Release(_) => {}
                }
                let held: Vec<PageId> =
                    leases.iter().flat_map(|(lease, _)| lease.taken.iter().copied()).collect();
                let distinct: BTreeSet<PageId> =
                    held.iter().chain(&book.free).copied().collect();
                prop_assert_eq!(distinct.len(), held.len() + book.free.len());
                prop_assert_eq!(distinct.len(), count as usize);
            }
            for (lease, _) in leases {
                book.release(lease);
            }
            prop_assert!(book.all_free());
        }
    }
}
