use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn pages(pages: u32, page_tokens: u32) -> Pages {
    Pages::new(&Capacity {
        vocabulary: 8,
        pages,
        page_tokens,
        context_tokens_max: pages * page_tokens,
        batch_tokens_max: 8,
        tile_tokens: 1,
    })
}

fn tokens(ids: &[u32]) -> Vec<TokenId> {
    ids.iter().copied().map(TokenId).collect()
}

fn everybody() -> Option<Scope> {
    Some(Scope("".into()))
}

/// A lease of somebody who looks for nothing.
fn plain(book: &mut Pages, tokens_max: u32) -> Option<Lease> {
    book.lease(None, &[], tokens_max)
}

/// A lease whose tokens are all computed and published.
fn computed(book: &mut Pages, tokens: &[TokenId]) -> Lease {
    let count = tokens.len() as u32;
    let mut lease = book.lease(everybody(), tokens, count).unwrap();
    book.extend(&mut lease, count).unwrap();
    book.publish(&mut lease, tokens, count);
    lease
}

#[test]
fn a_promise_is_kept_after_others_took_theirs() {
    let mut book = pages(4, 16);
    let mut first = plain(&mut book, 32).unwrap();
    let mut second = plain(&mut book, 32).unwrap();
    assert!(plain(&mut book, 1).is_none(), "four pages are promised");
    book.extend(&mut second, 32).unwrap();
    book.extend(&mut first, 32).unwrap();
    assert_eq!(first.pages(32).len(), 2);
    book.release(first);
    assert_eq!(book.available(), 2);
    book.release(second);
    assert!(book.all_free());
}

#[test]
fn a_lease_gives_no_page_beyond_its_promise() {
    let mut book = pages(4, 16);
    let mut lease = plain(&mut book, 17).unwrap();
    book.extend(&mut lease, 32).unwrap();
    let refused = book.extend(&mut lease, 33);
    assert_eq!(refused, Err(BeyondLease { tokens: 33, pages_max: 2 }));
    book.release(lease);
}

#[test]
fn a_promise_is_raised_while_there_is_room() {
    let mut book = pages(4, 16);
    let mut growing = plain(&mut book, 16).unwrap();
    let other = plain(&mut book, 32).unwrap();
    assert!(book.raise(&mut growing, &[], 32));
    assert!(!book.raise(&mut growing, &[], 33), "the other holds the rest");
    book.release(other);
    assert!(book.raise(&mut growing, &[], 64));
    book.extend(&mut growing, 64).unwrap();
    book.strip(&mut growing);
    assert!(growing.is_empty() && book.all_free());
}

#[test]
fn slots_follow_the_page_table() {
    let mut book = pages(4, 4);
    let mut other = plain(&mut book, 4).unwrap();
    book.extend(&mut other, 1).unwrap();
    let mut lease = plain(&mut book, 8).unwrap();
    book.extend(&mut lease, 6).unwrap();
    let slots: Vec<u32> = (0..6).map(|position| lease.slot(position)).collect();
    assert_eq!(slots, [4, 5, 6, 7, 8, 9]);
    book.release(other);
    book.release(lease);
}

#[test]
fn shared_prefix_is_leased_once() {
    let mut book = pages(6, 2);
    let first = computed(&mut book, &tokens(&[1, 2, 3, 4, 5]));
    let other = tokens(&[1, 2, 3, 4, 6, 7]);
    let second = book.lease(everybody(), &other, 8).unwrap();
    assert_eq!(second.published_tokens(), 4);
    assert_eq!(second.pages(4), first.pages(4));
    assert_eq!(book.available(), 1, "three pages of the first, two more of the second");
    book.release(first);
    book.release(second);
    assert!(book.all_free());
}

#[test]
fn what_was_released_is_found_until_its_memory_is_wanted() {
    let mut book = pages(3, 2);
    let prompt = tokens(&[1, 2, 3, 4, 5]);
    let first = computed(&mut book, &prompt);
    book.release(first);
    let again = book.lease(everybody(), &prompt, 6).unwrap();
    assert_eq!(again.published_tokens(), 4);
    book.release(again);
    let mut wide = plain(&mut book, 4).unwrap();
    book.extend(&mut wide, 4).unwrap();
    assert_eq!((book.known_pages(), book.evicted_pages()), (1, 1));
    let again = book.lease(everybody(), &tokens(&[1, 2, 9]), 2).unwrap();
    assert_eq!(again.published_tokens(), 2, "the deeper page went first");
    book.release(wide);
    book.release(again);
    assert!(book.all_free());
}

#[test]
fn the_last_token_is_always_left_to_compute() {
    let mut book = pages(4, 2);
    let prompt = tokens(&[1, 2, 3, 4]);
    let first = computed(&mut book, &prompt);
    let again = book.lease(everybody(), &prompt, 4).unwrap();
    assert_eq!(again.published_tokens(), 2);
    book.release(first);
    book.release(again);
}

#[test]
fn tenants_do_not_find_each_others_beginnings() {
    let mut book = pages(4, 2);
    let prompt = tokens(&[1, 2, 3]);
    let first = computed(&mut book, &prompt);
    for scope in [Some(Scope("other".into())), None] {
        let lease = book.lease(scope, &prompt, 3).unwrap();
        assert_eq!(lease.published_tokens(), 0);
        book.release(lease);
    }
    book.release(first);
}

#[test]
fn equal_pages_that_were_computed_twice_become_one() {
    let mut book = pages(4, 2);
    let prompt = tokens(&[1, 2, 3]);
    let mut first = book.lease(everybody(), &prompt, 3).unwrap();
    let mut second = book.lease(everybody(), &prompt, 3).unwrap();
    book.extend(&mut first, 3).unwrap();
    book.extend(&mut second, 3).unwrap();
    book.publish(&mut first, &prompt, 3);
    book.publish(&mut second, &prompt, 3);
    assert_eq!(first.pages(2), second.pages(2));
    assert_ne!(first.pages(3)[1], second.pages(3)[1]);
    assert_eq!(book.available(), 1);
    book.release(first);
    book.release(second);
    assert!(book.all_free());
}

#[test]
fn a_lease_catches_up_with_what_another_computed() {
    let mut book = pages(6, 2);
    let prompt = tokens(&[1, 2, 3, 4, 5]);
    let mut late = book.lease(everybody(), &prompt, 6).unwrap();
    let first = computed(&mut book, &prompt);
    assert_eq!((late.published_tokens(), book.available()), (0, 0));
    book.catch_up(&mut late, &prompt);
    assert_eq!((late.published_tokens(), book.available()), (4, 2));
    book.release(first);
    book.release(late);
    assert!(book.all_free());
}

#[derive(Debug, Clone)]
enum Deed {
    Lease { prompt: Vec<u32>, more: u32, scope: u8 },
    Compute(usize, u32),
    Raise(usize, u32),
    CatchUp(usize),
    Strip(usize),
    Release(usize),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    // Few tokens, so that beginnings are often equal.
    let prompt = prop::collection::vec(0u32..2, 1..24);
    let deed = prop_oneof![
        3 => (prompt, 0u32..12, 0u8..3)
            .prop_map(|(prompt, more, scope)| Deed::Lease { prompt, more, scope }),
        4 => (any::<usize>(), 1u32..12).prop_map(|(which, count)| Deed::Compute(which, count)),
        1 => (any::<usize>(), 0u32..40).prop_map(|(which, tokens)| Deed::Raise(which, tokens)),
        2 => any::<usize>().prop_map(Deed::CatchUp),
        1 => any::<usize>().prop_map(Deed::Strip),
        2 => any::<usize>().prop_map(Deed::Release),
    ];
    prop::collection::vec(deed, 0..80)
}

/// One sequence of the property test: what it wants, and how far it is.
struct Holder {
    lease: Lease,
    tokens: Vec<TokenId>,
    tokens_max: u32,
    computed: u32,
}

/// The book beside the content that a device would have.
struct Shelf {
    book: Pages,
    /// What each page holds: the scope and the tokens up to its end.
    content: BTreeMap<PageId, (Option<Scope>, Vec<TokenId>)>,
    holders: Vec<Holder>,
}

impl Shelf {
    fn deed(&mut self, deed: Deed) {
        let count = self.holders.len();
        match deed {
            Deed::Lease { prompt, more, scope } => {
                let scope =
                    [None, everybody(), Some(Scope("a".into()))][usize::from(scope)].clone();
                let tokens = tokens(&prompt);
                let tokens_max = tokens.len() as u32 + more;
                let lease = self.book.lease(scope, &tokens, tokens_max);
                self.holders.extend(lease.map(|lease| {
                    let computed = lease.published_tokens();
                    Holder { lease, tokens, tokens_max, computed }
                }));
            }
            _ if count == 0 => {}
            Deed::Compute(which, tokens) => self.compute(which % count, tokens),
            Deed::Raise(which, tokens_max) => {
                let holder = &mut self.holders[which % count];
                if self.book.raise(&mut holder.lease, &holder.tokens, tokens_max) {
                    holder.tokens_max = holder.tokens_max.max(tokens_max);
                    holder.computed = holder.computed.max(holder.lease.published_tokens());
                }
            }
            Deed::CatchUp(which) => {
                let holder = &mut self.holders[which % count];
                self.book.catch_up(&mut holder.lease, &holder.tokens);
                holder.computed = holder.computed.max(holder.lease.published_tokens());
            }
            Deed::Strip(which) => {
                let holder = &mut self.holders[which % count];
                self.book.strip(&mut holder.lease);
                (holder.computed, holder.tokens_max) = (0, 0);
            }
            Deed::Release(which) => {
                let holder = self.holders.swap_remove(which % count);
                self.book.release(holder.lease);
            }
        }
    }

    /// Computes tokens of a sequence as an engine does, and draws a new one where it has none.
    fn compute(&mut self, which: usize, count: u32) {
        let Holder { lease, tokens, tokens_max, computed } = &mut self.holders[which];
        let until = (*computed + count).min(*tokens_max);
        if until == *computed {
            return;
        }
        while (tokens.len() as u32) < until {
            tokens.push(TokenId(tokens.len() as u32 % 2));
        }
        self.book.extend(lease, until).expect("a promise holds whatever the others do");
        for page in *computed / lease.page_tokens..until.div_ceil(lease.page_tokens) {
            let id = lease.taken[page as usize];
            assert_eq!(self.book.holders[id.0 as usize], 1, "a shared page is written");
            let end = until.min((page + 1) * lease.page_tokens) as usize;
            self.content.insert(id, (lease.scope.clone(), tokens[..end].to_vec()));
        }
        *computed = until;
        self.book.publish(lease, tokens, until);
    }

    fn check(&self) {
        for Holder { lease, tokens, computed, .. } in &self.holders {
            for page in 0..*computed / lease.page_tokens {
                let end = ((page + 1) * lease.page_tokens) as usize;
                let content = self.content.get(&lease.taken[page as usize]);
                assert_eq!(content, Some(&(lease.scope.clone(), tokens[..end].to_vec())));
            }
        }
        let held: usize = self.book.holders.iter().filter(|holders| **holders > 0).count();
        let spare = self.book.free.len() + self.book.prefixes.idle();
        assert_eq!(held + spare, self.book.holders.len());
        assert!(spare >= self.book.untaken as usize);
        let untaken: usize =
            self.holders.iter().map(|h| h.lease.promised as usize - h.lease.taken.len()).sum();
        assert_eq!(untaken, self.book.untaken as usize);
    }
}

proptest! {
    #[test]
    fn pages_hold_what_their_lease_says_and_none_is_lost(
        deeds in deeds(),
        count in 1u32..14,
        page_tokens in 1u32..5,
    ) {
        let book = pages(count, page_tokens);
        let mut all = Shelf { book, content: BTreeMap::new(), holders: Vec::new() };
        for deed in deeds {
            all.deed(deed);
            all.check();
        }
        for holder in std::mem::take(&mut all.holders) {
            all.book.release(holder.lease);
        }
        prop_assert!(all.book.all_free());
    }
}
