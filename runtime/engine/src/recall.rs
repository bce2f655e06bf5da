//! Beginnings that come back from disk before their requests are queued, and those that go there.
//!
//! What was found by a second request is worth keeping: it is written once, a few pages beside each
//! step. A new request's beginning is read the same way, so that answers in writing hardly wait.

use std::collections::VecDeque;

use protocol::TokenId;

use crate::batch::PageBytes;
use crate::pages::{Lease, Pages};
use crate::prefixes::Scope;
use crate::sequence::Submission;
use crate::store::{Key, PrefixStore};

/// Bytes of pages that are read or written beside one step, at least one page.
pub(crate) const STEP_BYTES: usize = 32 << 20;
/// Beginnings that wait to be written, at most.
const FOUND_MAX: usize = 64;

/// A request whose beginning is looked for on disk.
pub(crate) struct Arrival {
    pub(crate) request: Box<Submission>,
    keys: Option<Vec<Key>>,
    lease: Option<Lease>,
}

/// A beginning that was found in memory by another request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) scope: Scope,
    pub(crate) tokens: Vec<TokenId>,
}

/// Beginnings that are worth keeping.
#[derive(Default)]
pub(crate) struct Keeper {
    found: VecDeque<Found>,
    kept: u64,
}

impl Arrival {
    pub(crate) fn new(request: Box<Submission>) -> Self {
        Self { request, keys: None, lease: None }
    }

    /// Brings pages of its beginning back, as far as `left` bytes go; whether that was all. Gives how
    /// many.
    pub(crate) fn recall(
        &mut self,
        store: &mut PrefixStore,
        pages: &mut Pages,
        network: &mut dyn PageBytes,
        left: &mut usize,
    ) -> (bool, u64) {
        let Some(scope) = &self.request.scope else {
            return (true, 0);
        };
        let prompt = &self.request.prompt;
        // The last token has to be computed, because its outcome is wanted.
        let full = &prompt[..prompt.len().saturating_sub(1)];
        let keys = self.keys.get_or_insert_with(|| store.keys(scope, full));
        let page_tokens = pages.page_tokens() as usize;
        let mut recalled = 0;
        loop {
            let known = match &mut self.lease {
                None => pages.known_tokens(Some(scope), prompt),
                Some(lease) => {
                    // Somebody may have computed it since the last step.
                    pages.catch_up(lease, prompt);
                    lease.published_tokens()
                }
            } as usize;
            let Some(key) = keys.get(known / page_tokens).filter(|key| store.holds(key)) else {
                return (true, recalled);
            };
            if *left == 0 {
                return (false, recalled);
            }
            *left = left.saturating_sub(store.page_bytes());
            if self.lease.is_none() {
                self.lease = pages.lease(Some(scope.clone()), prompt, prompt.len() as u32);
            }
            let next = known..known + page_tokens;
            let (Some(lease), Some(bytes)) =
                (&mut self.lease, store.read(key, &prompt[next.clone()]))
            else {
                return (true, recalled);
            };
            if pages.extend(lease, next.end as u32).is_err() {
                return (true, recalled);
            }
            let page = lease.pages(next.end as u32)[next.start / page_tokens];
            network.write(page.0, &bytes);
            pages.publish(lease, prompt, next.end as u32);
            recalled += 1;
        }
    }

    /// The request, and what was found of its beginning left to be found by it.
    pub(crate) fn into_request(self, pages: &mut Pages) -> Box<Submission> {
        if let Some(lease) = self.lease {
            pages.release(lease);
        }
        self.request
    }

    /// Forgets pages of a book that is no more.
    pub(crate) fn forget_pages(&mut self) {
        self.lease = None;
    }
}

impl Keeper {
    /// Notes a beginning; where too many wait already, this one is not kept.
    pub(crate) fn note(&mut self, found: Found) {
        if self.found.len() < FOUND_MAX && !self.found.contains(&found) {
            self.found.push_back(found);
        }
    }

    /// Hands some pages over to be written, those that are not on disk yet.
    pub(crate) fn keep(
        &mut self,
        store: &mut PrefixStore,
        pages: &Pages,
        network: &mut dyn PageBytes,
    ) {
        let page_tokens = pages.page_tokens() as usize;
        let mut left = STEP_BYTES;
        while let Some(Found { scope, tokens }) = self.found.front() {
            let path = pages.path(scope, tokens);
            let keys = store.keys(scope, tokens);
            // The deeper ones first, so that the beginning of a path is the last one to go.
            keys.iter().rev().for_each(|key| store.touch(key));
            let steps = path.iter().zip(&keys).zip(tokens.chunks_exact(page_tokens));
            for ((page, key), tokens) in steps {
                if store.holds(key) {
                    continue;
                }
                if left == 0 || !store.has_room() {
                    return;
                }
                left = left.saturating_sub(store.page_bytes());
                match network.read(page.0) {
                    Ok(bytes) => store.keep(*key, tokens, &bytes),
                    Err(error) => {
                        tracing::warn!(%error, "a page cannot be read from the device");
                        break;
                    }
                }
                self.kept += 1;
            }
            self.found.pop_front();
        }
    }

    /// Whether nothing waits to be written.
    pub(crate) fn is_idle(&self) -> bool {
        self.found.is_empty()
    }

    /// Pages that were handed over.
    pub(crate) fn kept(&self) -> u64 {
        self.kept
    }

    /// Forgets what waits.
    pub(crate) fn clear(&mut self) {
        self.found.clear();
    }
}
