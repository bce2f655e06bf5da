//! What is spoken about, whatever the words.

use protocol::ToolSpec;

use super::catalogue::Offer;
use super::lesson::{Answer, Call};

/// Numbers below [`Topics::COUNT`], the same for a function and for who wants it called.
#[derive(Debug, Clone, Default)]
pub(crate) struct Topics {
    /// Of each tool.
    pub(crate) tools: Vec<u8>,
    /// Of each call of the answer.
    pub(crate) calls: Vec<u8>,
    /// Of what the user wants first.
    pub(crate) wanted: Option<u8>,
}

impl Topics {
    /// A kind of tool has one for all it does, and one for each of two deeds.
    const OF_KIND: usize = 3;
    /// More than all kinds have.
    pub(crate) const COUNT: usize = 96;

    /// Of an answer to what a user of these tools wants. `kinds`: all that there are; `kind`: what the user wants,
    /// where no call says it.
    pub(super) fn new(
        kinds: &[&str],
        (offers, tools): (&[Offer], &[ToolSpec]),
        answer: &Answer,
        kind: Option<&str>,
    ) -> Self {
        let found = |name: &str| {
            let mut found = offers.iter().filter_map(|offer| Some((offer, offer.function(name)?)));
            found.next().expect("a function of the place")
        };
        let of = |name: &str| {
            let (offer, at) = found(name);
            Self::of(kinds, &offer.kind, (offer.specs.len() > 1).then_some(at))
        };
        let called: &[Call] = match answer {
            Answer::Calls(calls) => calls,
            Answer::Text(_) => &[],
        };
        let calls: Vec<u8> = called.iter().map(|call| of(&call.name)).collect();
        let missed = || kind.map(|kind| Self::of(kinds, kind, None));
        Self {
            tools: tools.iter().map(|tool| of(&tool.name)).collect(),
            wanted: calls.first().copied().or_else(missed),
            calls,
        }
    }

    fn of(kinds: &[&str], kind: &str, deed: Option<usize>) -> u8 {
        let at = kinds.iter().position(|own| *own == kind).expect("a kind of the catalogue");
        (Self::OF_KIND * at + deed.map_or(0, |deed| 1 + deed)) as u8
    }
}
