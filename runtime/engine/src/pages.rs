//! The book of the cache's pages: which sequence holds which, and what is promised to whom.
//!
//! A lease promises pages and takes them one by one as its sequence grows; what is promised is never
//! promised twice. A sequence of stated length is promised all that it can need before it begins, so
//! it can always end. One without a stated length gets its promise raised while there is room.
//! Pages that are promised but not yet taken stay free, or with a beginning that nobody holds.
//!
//! A page whose tokens are all computed is published, and whoever has the same tokens before it takes
//! it instead of computing it: pages are shared whole and never written again, so none is copied.

use protocol::{ReuseEnd, TokenId};

use crate::Capacity;
use crate::prefixes::{Link, Prefixes, Scope};

/// One page of the cache, by its place in the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PageId(pub(crate) u32);

/// The pages of one sequence. Goes back by [`Pages::release`].
#[derive(Debug)]
#[must_use = "a lease that is dropped keeps its pages for ever"]
pub(crate) struct Lease {
    taken: Vec<PageId>,
    promised: u32,
    /// The first pages, which others may find; those behind them are its own.
    published: u32,
    /// Whose beginnings it finds; `None` where it looks for none.
    scope: Option<Scope>,
    page_tokens: u32,
}

/// All pages of the cache.
#[derive(Debug)]
pub(crate) struct Pages {
    /// Leases that hold each page.
    holders: Vec<u32>,
    free: Vec<PageId>,
    prefixes: Prefixes,
    /// Pages that are promised and not taken.
    untaken: u32,
    page_tokens: u32,
    evicted: u64,
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
            holders: vec![0; capacity.pages as usize],
            free: (0..capacity.pages).rev().map(PageId).collect(),
            prefixes: Prefixes::default(),
            untaken: 0,
            page_tokens: capacity.page_tokens.max(1),
            evicted: 0,
        }
    }

    /// Promises the pages of `tokens_max` tokens to a sequence that begins with `tokens`; those of
    /// its tokens that are known it has at once. `None` while others hold too many.
    pub(crate) fn lease(
        &mut self,
        scope: Option<Scope>,
        tokens: &[TokenId],
        tokens_max: u32,
    ) -> Option<Lease> {
        let page_tokens = self.page_tokens;
        let mut lease = Lease { taken: Vec::new(), promised: 0, published: 0, scope, page_tokens };
        self.raise(&mut lease, tokens, tokens_max).then_some(lease)
    }

    /// Raises a promise to `tokens_max` tokens, and takes what is known of `tokens`; whether there
    /// was room. Without room nothing changes.
    pub(crate) fn raise(&mut self, lease: &mut Lease, tokens: &[TokenId], tokens_max: u32) -> bool {
        let more = tokens_max.div_ceil(self.page_tokens).saturating_sub(lease.promised);
        // At best, all pages of the prompt are held by others already.
        let shareable = tokens.len() as u32 / self.page_tokens;
        if more.saturating_sub(shareable) > self.available() {
            return false;
        }
        let found = self.known(lease, tokens);
        let held = found.iter().filter(|page| self.holders[page.0 as usize] > 0).count() as u32;
        if more.saturating_sub(held) > self.available() {
            return false;
        }
        lease.promised += more;
        self.untaken += more;
        self.adopt(lease, &found);
        true
    }

    /// Takes, out of what is promised already, the pages that others have computed meanwhile.
    pub(crate) fn catch_up(&mut self, lease: &mut Lease, tokens: &[TokenId]) {
        let found = self.known(lease, tokens);
        self.adopt(lease, &found);
    }

    /// Takes pages until the lease holds `tokens` tokens.
    pub(crate) fn extend(&mut self, lease: &mut Lease, tokens: u32) -> Result<(), BeyondLease> {
        let wanted = tokens.div_ceil(self.page_tokens);
        if wanted > lease.promised {
            return Err(BeyondLease { tokens, pages_max: lease.promised });
        }
        while lease.taken.len() < wanted as usize {
            let page = self.free.pop().or_else(|| self.evict());
            let page = page.expect("a promised page is free, or held by nobody");
            self.holders[page.0 as usize] = 1;
            self.untaken -= 1;
            lease.taken.push(page);
        }
        Ok(())
    }

    /// Lets others find the full pages among the first `computed` of its tokens. Where another did
    /// so first, the lease takes that page and gives its own back.
    pub(crate) fn publish(&mut self, lease: &mut Lease, tokens: &[TokenId], computed: u32) {
        while lease.published < computed / self.page_tokens {
            let Some(link) = lease.next_link(tokens) else {
                return;
            };
            let own = lease.taken[lease.published as usize];
            match self.prefixes.find(&link) {
                None => self.prefixes.insert(link, own),
                Some(other) => {
                    self.hold(other);
                    lease.taken[lease.published as usize] = other;
                    self.leave(own);
                }
            }
            lease.published += 1;
        }
    }

    /// Takes everything back; what was published stays to be found until its memory is wanted.
    pub(crate) fn release(&mut self, mut lease: Lease) {
        self.strip(&mut lease);
    }

    /// Takes everything back and leaves a lease of nothing.
    pub(crate) fn strip(&mut self, lease: &mut Lease) {
        self.untaken -= std::mem::take(&mut lease.promised) - lease.taken.len() as u32;
        lease.published = 0;
        for page in lease.taken.drain(..).rev() {
            self.leave(page);
        }
    }

    /// Tokens of a prompt that are known, its last one apart.
    pub(crate) fn known_tokens(&self, scope: Option<&Scope>, tokens: &[TokenId]) -> u32 {
        let known = scope.map_or(0, |scope| self.follow(scope, None, tokens).len());
        known as u32 * self.page_tokens
    }

    /// Where the known part of a prompt ends, and why.
    pub(crate) fn reuse_end(&self, scope: Option<&Scope>, tokens: &[TokenId]) -> (u32, ReuseEnd) {
        let Some(scope) = scope else {
            return (0, ReuseEnd::Off);
        };
        let known = self.follow(scope, None, tokens);
        let from = known.len() * self.page_tokens as usize;
        let rest = &tokens[from..];
        let end = match self.prefixes.nearest(scope, known.last().copied(), rest) {
            _ if rest.len() <= self.page_tokens as usize => ReuseEnd::Complete,
            Some(common) => ReuseEnd::Differs { token: (from + common) as u32 },
            None => ReuseEnd::Unknown,
        };
        (from as u32, end)
    }

    /// The known pages of `tokens`, from the first one on.
    pub(crate) fn path(&self, scope: &Scope, tokens: &[TokenId]) -> Vec<PageId> {
        self.walk(scope, None, tokens)
    }

    /// Tokens that a page holds.
    pub(crate) fn page_tokens(&self) -> u32 {
        self.page_tokens
    }

    /// Pages of beginnings that can be found.
    pub(crate) fn known_pages(&self) -> usize {
        self.prefixes.len()
    }

    /// Pages of beginnings that had to make room, since the start.
    pub(crate) fn evicted_pages(&self) -> u64 {
        self.evicted
    }

    /// Pages that can be promised.
    fn available(&self) -> u32 {
        (self.free.len() + self.prefixes.idle()) as u32 - self.untaken
    }

    /// The pages that are known behind those of a lease.
    fn known(&self, lease: &Lease, tokens: &[TokenId]) -> Vec<PageId> {
        // Behind a page of its own nothing can follow.
        let ends_published = lease.taken.len() == lease.published as usize;
        let rest = tokens.get(lease.taken.len() * self.page_tokens as usize..).unwrap_or_default();
        match &lease.scope {
            Some(scope) if ends_published => self.follow(scope, lease.taken.last().copied(), rest),
            _ => Vec::new(),
        }
    }

    /// The known pages of `tokens` behind `parent`, but for the last token's: it has to be computed,
    /// because its outcome is wanted.
    fn follow(&self, scope: &Scope, parent: Option<PageId>, tokens: &[TokenId]) -> Vec<PageId> {
        self.walk(scope, parent, &tokens[..tokens.len().saturating_sub(1)])
    }

    /// The known pages that `tokens` fill behind `parent`.
    fn walk(&self, scope: &Scope, parent: Option<PageId>, tokens: &[TokenId]) -> Vec<PageId> {
        let (mut found, mut parent) = (Vec::new(), parent);
        for page in tokens.chunks_exact(self.page_tokens as usize) {
            let Some(next) = self.prefixes.find(&Link::new(scope, parent, page)) else {
                break;
            };
            found.push(next);
            parent = Some(next);
        }
        found
    }

    /// Takes known pages out of what is promised.
    fn adopt(&mut self, lease: &mut Lease, found: &[PageId]) {
        for page in found.iter().take((lease.promised as usize).saturating_sub(lease.taken.len())) {
            self.hold(*page);
            self.untaken -= 1;
            lease.taken.push(*page);
            lease.published += 1;
        }
    }

    fn evict(&mut self) -> Option<PageId> {
        self.evicted += 1;
        self.prefixes.evict()
    }

    fn hold(&mut self, page: PageId) {
        self.holders[page.0 as usize] += 1;
        self.prefixes.hold(page);
    }

    fn leave(&mut self, page: PageId) {
        let holders = &mut self.holders[page.0 as usize];
        *holders -= 1;
        if *holders == 0 && !self.prefixes.leave(page) {
            self.free.push(page);
        }
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

    /// Tokens of the pages that others find, too: they are computed.
    pub(crate) fn published_tokens(&self) -> u32 {
        self.published * self.page_tokens
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

    /// The place of the first page that is not published; `None` where `tokens` do not fill it, or
    /// nobody looks for it.
    pub(crate) fn next_link(&self, tokens: &[TokenId]) -> Option<Link> {
        let from = self.published as usize * self.page_tokens as usize;
        let page = tokens.get(from..from + self.page_tokens as usize)?;
        let parent = self.published.checked_sub(1).map(|last| self.taken[last as usize]);
        Some(Link::new(self.scope.as_ref()?, parent, page))
    }
}

#[cfg(test)]
impl Pages {
    /// Whether nobody holds a page and none is promised.
    pub(crate) fn all_free(&self) -> bool {
        self.untaken == 0
            && self.holders.iter().all(|holders| *holders == 0)
            && self.free.len() + self.prefixes.idle() == self.holders.len()
    }
}

#[cfg(test)]
#[path = "pages_tests.rs"]
mod tests;
