//! Which pages hold which beginnings of conversations: what was computed once is found again.
//!
//! Full pages form a tree: a page is known by the page before it and by its own tokens, so equal
//! beginnings are one path, compared token by token and never by a hash alone. A page that nobody
//! holds stays until its memory is wanted; the one that was left longest goes first. Whoever holds a
//! page holds all before it, and leaves the deeper one first, so a page never goes before the pages
//! that continue it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use protocol::TokenId;

use crate::pages::PageId;

/// Who may find each other's beginnings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Scope(pub(crate) Arc<str>);

/// A page's place in the tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Link {
    parent: Parent,
    tokens: Box<[TokenId]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Parent {
    Start(Scope),
    Page(PageId),
}

/// The tree of known pages, and the order in which those that nobody holds are given up.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    pages: HashMap<Arc<Link>, PageId>,
    known: HashMap<PageId, Known>,
    /// Pages that nobody holds, by the moment at which they were left.
    idle: BTreeMap<u64, PageId>,
    clock: u64,
}

#[derive(Debug)]
struct Known {
    link: Arc<Link>,
    /// Its place among the idle ones.
    left: Option<u64>,
}

impl Link {
    /// The page of `tokens` behind `parent`, or at the start of a conversation.
    pub(crate) fn new(scope: &Scope, parent: Option<PageId>, tokens: &[TokenId]) -> Self {
        let parent = parent.map_or_else(|| Parent::Start(scope.clone()), Parent::Page);
        Self { parent, tokens: tokens.into() }
    }
}

impl Prefixes {
    /// The page in this place.
    pub(crate) fn find(&self, link: &Link) -> Option<PageId> {
        self.pages.get(link).copied()
    }

    /// How many first tokens of `tokens` some page behind `parent` has; `None` where there is none.
    /// Looks at every known page.
    pub(crate) fn nearest(
        &self,
        scope: &Scope,
        parent: Option<PageId>,
        tokens: &[TokenId],
    ) -> Option<usize> {
        let parent = Link::new(scope, parent, &[]).parent;
        let siblings = self.pages.keys().filter(|link| link.parent == parent);
        let common = |link: &Arc<Link>| {
            link.tokens.iter().zip(tokens).take_while(|(known, own)| known == own).count()
        };
        siblings.map(common).max()
    }

    /// Makes a held page known. Its place is empty, and its holder holds the page before it.
    pub(crate) fn insert(&mut self, link: Link, page: PageId) {
        let link = Arc::new(link);
        self.pages.insert(Arc::clone(&link), page);
        self.known.insert(page, Known { link, left: None });
    }

    /// Notes that a page is held.
    pub(crate) fn hold(&mut self, page: PageId) {
        if let Some(left) = self.known.get_mut(&page).and_then(|known| known.left.take()) {
            self.idle.remove(&left);
        }
    }

    /// Notes that nobody holds a page any more; whether it is known and stays.
    pub(crate) fn leave(&mut self, page: PageId) -> bool {
        let Some(known) = self.known.get_mut(&page) else {
            return false;
        };
        self.clock += 1;
        known.left = Some(self.clock);
        self.idle.insert(self.clock, page);
        true
    }

    /// Gives up the page that was left longest.
    pub(crate) fn evict(&mut self) -> Option<PageId> {
        let (_, page) = self.idle.pop_first()?;
        let known = self.known.remove(&page)?;
        self.pages.remove(&known.link);
        Some(page)
    }

    /// Known pages that nobody holds.
    pub(crate) fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Known pages.
    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }
}
