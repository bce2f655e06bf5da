//! One tool of a box, and how it is called.

use std::collections::BTreeMap;

use protocol::ToolSpec;
use serde_json::{Map, Value, json};

use super::Call;
use super::intents::{Intent, Slot};
use super::language::Noun;
use super::narrow::{Known, OneThing};
use super::phrase::{Number, Slots};

/// How a tool is told which of two deeds is meant.
#[derive(Debug, Clone)]
pub(super) enum Deed {
    /// It has one deed.
    Only,
    Choice {
        name: String,
        values: [String; 2],
    },
    Yes {
        name: String,
    },
    /// Each deed is a function.
    Split,
}

impl Deed {
    /// The parameter that says it, if one does.
    pub(super) fn property(&self) -> Option<(String, Value)> {
        match self {
            Self::Choice { name, values } => {
                Some((name.clone(), json!({"type": "string", "enum": values})))
            }
            Self::Yes { name } => Some((name.clone(), json!({"type": "boolean"}))),
            Self::Only | Self::Split => None,
        }
    }
}

/// What a value of a call is: what the user named, or which of two deeds is meant.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    Slot(Slot),
    Deed(usize),
}

/// One tool as a box offers it: its functions, and how to call them.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) kind: String,
    pub(super) specs: Vec<ToolSpec>,
    pub(super) deed: Deed,
    /// The names of its parameters, by slot.
    pub(super) names: BTreeMap<Slot, String>,
    /// The name of the parameter that nobody says anything for.
    pub(super) spare: Option<String>,
    /// Its number is an integer.
    pub(super) whole: bool,
    /// It can be called without a room.
    pub(super) room_optional: bool,
    /// The one thing that it is for, where it has no parameter for things.
    pub(super) one_thing: Option<OneThing>,
    /// It has no parameter for a room, where others of its kind have one.
    pub(super) roomless: bool,
    pub(super) known: Known,
}

impl Offer {
    /// The call that does what the slots say; a slot that they lack is left out.
    pub(super) fn call(&self, intent: &Intent, slots: &Slots) -> Call {
        let function = if matches!(self.deed, Deed::Split) { intent.deed } else { 0 };
        let spec = &self.specs[function];
        let noun = |noun: &Option<Noun>| noun.as_ref().map(|noun| json!(noun.bare));
        let properties = spec.parameters["properties"].as_object().expect("an object");
        let mut arguments = Map::new();
        for name in properties.keys().filter(|name| self.spare.as_ref() != Some(*name)) {
            let value = match self.slot(name) {
                Some(Slot::Thing) => noun(&slots.thing).or_else(|| noun(&slots.person)),
                Some(Slot::Room) => noun(&slots.room),
                Some(Slot::Number) => slots.number.map(Number::json),
                Some(Slot::Time) => {
                    slots.time.map(|(hour, minute)| json!(format!("{hour:02}:{minute:02}")))
                }
                Some(Slot::Message) => slots.message.as_ref().map(|message| json!(message)),
                None => match &self.deed {
                    Deed::Choice { values, .. } => Some(json!(values[intent.deed])),
                    Deed::Yes { .. } => Some(json!(intent.deed == 0)),
                    Deed::Only | Deed::Split => None,
                },
            };
            if let Some(value) = value {
                arguments.insert(name.clone(), value);
            }
        }
        Call { name: spec.name.clone(), arguments }
    }

    /// Which of its functions has this name.
    pub(super) fn function(&self, name: &str) -> Option<usize> {
        self.specs.iter().position(|spec| spec.name == name)
    }

    /// The slot of a parameter; nothing where it says the deed.
    pub(super) fn slot(&self, parameter: &str) -> Option<Slot> {
        self.names.iter().find(|(_, own)| *own == parameter).map(|(slot, _)| *slot)
    }

    /// What a value of a call is.
    pub(super) fn role(&self, parameter: &str, value: &Value) -> Role {
        let is_second = match &self.deed {
            Deed::Choice { values, .. } => value == &values[1],
            _ => value == &json!(false),
        };
        let deed = Role::Deed(usize::from(is_second));
        self.slot(parameter).map_or(deed, Role::Slot)
    }

    /// The values that it lists for its two deeds.
    pub(super) fn deeds(&self) -> Option<&[String; 2]> {
        match &self.deed {
            Deed::Choice { values, .. } => Some(values),
            _ => None,
        }
    }

    /// Whether a call needs this slot.
    pub(super) fn needs(&self, slot: Slot) -> bool {
        match slot {
            Slot::Room => !self.room_optional && !self.roomless,
            Slot::Thing => self.one_thing.is_none(),
            Slot::Number | Slot::Time | Slot::Message => true,
        }
    }
}
