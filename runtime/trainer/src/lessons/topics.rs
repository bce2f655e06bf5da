//! What is spoken about, whatever the words.

use protocol::ToolSpec;

use super::intents::Slot;
use super::lesson::{Answer, Call, Turn};
use super::offer::{Offer, Role};

/// Numbers below [`Topics::COUNT`], the same for a function and for who wants it called.
#[derive(Debug, Clone, Default)]
pub(crate) struct Topics {
    /// Of each tool.
    pub(crate) tools: Vec<u8>,
    /// Of each call of the answer.
    pub(crate) calls: Vec<u8>,
    /// Of what the user wants first.
    pub(crate) wanted: Option<u8>,
    /// Of what is missing for a call, or that nothing is.
    pub(crate) lacks: Option<u8>,
    /// Of each value in the calls of the answer, in their order.
    pub(crate) values: Vec<Meaning>,
    /// Of the values that a tool lists for its two deeds.
    pub(crate) deeds: Vec<[Meaning; 2]>,
    /// Of the parameters of each tool: what is said of each of them, or else its name.
    pub(crate) parameters: Vec<Vec<(String, u8)>>,
}

/// What a value of a call means.
#[derive(Debug, Clone)]
pub(crate) struct Meaning {
    /// As it stands in the call, without quotes.
    pub(crate) text: String,
    /// Whether the user has said it, and not only meant it.
    pub(crate) is_said: bool,
    pub(crate) topic: u8,
}

impl Topics {
    /// The first ones are of values: one for each slot, one for each of two deeds.
    pub(crate) const OF_VALUES: usize = Slot::COUNT + 2;
    /// Behind them one for each slot that may be missing, and one for none.
    const OF_LACKS: usize = Slot::COUNT + 1;
    /// A kind of tool has one for all it does, and one for each of two deeds.
    const OF_KIND: usize = 3;
    /// More than all kinds and values have.
    pub(crate) const COUNT: usize = 96;

    /// Of an answer to what a user of these tools wants. `kinds`: all that there are.
    pub(super) fn new(
        kinds: &[&str],
        (offers, tools): (&[Offer], &[ToolSpec]),
        turn: &Turn,
    ) -> Self {
        let found = |name: &str| {
            let mut found = offers.iter().filter_map(|offer| Some((offer, offer.function(name)?)));
            found.next().expect("a function of the place")
        };
        let of = |name: &str| {
            let (offer, at) = found(name);
            Self::of(kinds, &offer.kind, (offer.specs.len() > 1).then_some(at))
        };
        let called: &[Call] = match &turn.answer {
            Answer::Calls(calls) => calls,
            Answer::Text(_) => &[],
        };
        let calls: Vec<u8> = called.iter().map(|call| of(&call.name)).collect();
        let missed = || turn.kind.map(|kind| Self::of(kinds, kind, None));
        let values = called.iter().flat_map(|call| Self::values(found(&call.name).0, call));
        let deeds = tools.iter().filter_map(|tool| Self::deeds(found(&tool.name).0));
        let parameters = tools.iter().map(|tool| Self::parameters(found(&tool.name).0, tool));
        Self {
            values: values.collect(),
            deeds: deeds.collect(),
            parameters: parameters.collect(),
            tools: tools.iter().map(|tool| of(&tool.name)).collect(),
            wanted: calls.first().copied().or_else(missed),
            lacks: (turn.lacks.is_some() || !called.is_empty()).then(|| Self::of_lack(turn.lacks)),
            calls,
        }
    }

    fn of(kinds: &[&str], kind: &str, deed: Option<usize>) -> u8 {
        let at = kinds.iter().position(|own| *own == kind).expect("a kind of the catalogue");
        (Self::OF_VALUES + Self::OF_LACKS + Self::OF_KIND * at + deed.map_or(0, |deed| 1 + deed))
            as u8
    }

    fn of_lack(slot: Option<Slot>) -> u8 {
        (Self::OF_VALUES + slot.map_or(Slot::COUNT, |slot| slot as usize)) as u8
    }

    fn values(offer: &Offer, call: &Call) -> Vec<Meaning> {
        let meaning = |(name, value): (&String, &serde_json::Value)| {
            let role = offer.role(name, value);
            Meaning {
                text: value.as_str().map_or_else(|| value.to_string(), str::to_owned),
                is_said: matches!(role, Role::Slot(_)),
                topic: Self::of_value(role),
            }
        };
        call.arguments.iter().map(meaning).collect()
    }

    fn parameters(offer: &Offer, tool: &ToolSpec) -> Vec<(String, u8)> {
        let properties = tool.parameters["properties"].as_object().into_iter().flatten();
        let told = |(name, schema): (&String, &serde_json::Value)| {
            let text = schema["description"].as_str().unwrap_or(name);
            Some((text.to_owned(), Self::of_value(Role::Slot(offer.slot(name)?))))
        };
        properties.filter_map(told).collect()
    }

    /// Of the values that the offer lists, if it does.
    fn deeds(offer: &Offer) -> Option<[Meaning; 2]> {
        let values = offer.deeds()?;
        Some([0, 1].map(|at| Meaning {
            text: values[at].clone(),
            is_said: false,
            topic: Self::of_value(Role::Deed(at)),
        }))
    }

    fn of_value(role: Role) -> u8 {
        let at = match role {
            Role::Slot(slot) => slot as usize,
            Role::Deed(deed) => Slot::COUNT + deed,
        };
        at as u8
    }
}
