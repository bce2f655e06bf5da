//! Conversations of an appliance, made by a grammar: what users say in five languages, the tools that
//! a box offers, and what its model answers.
//!
//! Sentences come from the files of `data/languages`, tools from `data/tools.toml`; both say what is
//! kept from training. Which part of them a lesson may use is its [`Shares`].

mod catalogue;
mod field;
mod intents;
mod lacks;
mod language;
mod lesson;
mod narrow;
mod offer;
mod parts;
mod phrase;
mod results;
mod schema;
mod speaker;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests;
mod topics;
mod wording;

pub(crate) use catalogue::Catalogue;
pub(crate) use lesson::{Answer, Call, Lesson, Sort, Teacher, Wish};
pub(crate) use narrow::Narrow;
pub(crate) use speaker::hash;
pub(crate) use topics::{Meaning, Topics};

/// Which part of a list may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// What training sees.
    Taught,
    /// What it does not see.
    Held,
}

/// What a lesson is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    pub(crate) wordings: Share,
    pub(crate) nouns: Share,
    pub(crate) tools: Share,
}

impl Shares {
    /// Everything that training sees.
    pub(crate) const TAUGHT: Self =
        Self { wordings: Share::Taught, nouns: Share::Taught, tools: Share::Taught };
}

impl Share {
    /// What is held, where there is something, or else what is taught.
    fn or_held<'a, T>(self, taught: &'a T, held: Option<&'a T>) -> &'a T {
        held.filter(|_| self == Self::Held).unwrap_or(taught)
    }

    /// The part of a list whose last quarter is kept from training.
    fn of<T>(self, list: &[T]) -> &[T] {
        let taught = list.len() - list.len() / 4;
        match self {
            Self::Taught => &list[..taught],
            Self::Held => &list[taught..],
        }
    }
}
