//! Tools that ask for other things than most: they are for one thing, for all of a house or for things that
//! they list, they can do without what nobody says, or stand beside others that are near.

use serde::Deserialize;
use serde_json::{Value, json};

use super::Share;
use super::intents::Intent;
use crate::dice::Dice;

/// Of how many tools this is so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Narrow {
    /// Of those for things, the share that is for one thing and has no parameter for it.
    one_thing: f64,
    /// Of those for something in a room, the share that has no parameter for the room.
    roomless: f64,
    /// Where one language is spoken, the share that lists the things it knows.
    listed: f64,
    /// The share that has a parameter which it can do without.
    spare: f64,
    /// Of boxes, the share whose tools are near to each other.
    kindred: f64,
}

impl Narrow {
    /// No tool.
    pub(crate) const NONE: Self =
        Self { one_thing: 0.0, roomless: 0.0, listed: 0.0, spare: 0.0, kindred: 0.0 };
    /// Some, as lessons have them.
    pub(crate) const SOME: Self =
        Self { one_thing: 0.25, roomless: 0.12, listed: 0.15, spare: 0.15, kindred: 0.3 };
    /// Each that can be, as tests have them that ask for that.
    pub(crate) const MOST: Self =
        Self { one_thing: 1.0, roomless: 0.4, listed: 0.0, spare: 0.0, kindred: 0.0 };

    pub(super) fn is_of_one_thing(self, dice: &mut Dice) -> bool {
        is_so(self.one_thing, dice)
    }

    pub(super) fn is_roomless(self, dice: &mut Dice) -> bool {
        is_so(self.roomless, dice)
    }

    pub(super) fn has_spare(self, dice: &mut Dice) -> bool {
        is_so(self.spare, dice)
    }

    pub(super) fn is_of_kin(self, dice: &mut Dice) -> bool {
        is_so(self.kindred, dice)
    }

    pub(super) fn is_listed(self, dice: &mut Dice) -> bool {
        is_so(self.listed, dice)
    }
}

/// Without dice where it is never so: tests of other tools stay what they were.
fn is_so(share: f64, dice: &mut Dice) -> bool {
    share > 0.0 && dice.chance(share)
}

/// Things that a function can be for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Class {
    pub(super) name: String,
    /// The lists of things that it is among.
    things: Vec<String>,
    /// As names of functions have it.
    pub(super) nouns: Vec<String>,
    /// As descriptions have it.
    pub(super) it: Vec<String>,
}

impl Class {
    pub(super) fn is_among(&self, list: &str) -> bool {
        self.things.iter().any(|things| things == list)
    }
}

/// The one thing that a tool is for.
#[derive(Debug, Clone)]
pub(super) struct OneThing {
    pub(super) class: Class,
    /// Other things like it, which the tool is not for.
    pub(super) others: Vec<String>,
}

impl OneThing {
    /// A thing that users of this intent may speak of; nothing where there is none in this share.
    pub(super) fn draw(
        classes: &[Class],
        intent: &Intent,
        share: Share,
        dice: &mut Dice,
    ) -> Option<Self> {
        /// What the rooms' own tools may be meant for as well.
        const OF_ROOMS: [&str; 2] = ["heating", "air conditioning"];
        let list = intent.things.unwrap_or("rooms");
        let fitting = share.of(classes).iter().filter(|class| class.is_among(list));
        let fitting: Vec<&Class> = fitting.collect();
        if fitting.is_empty() {
            return None;
        }
        let class: Class = (*dice.pick(&fitting)).clone();
        // Of tools that are kept for tests no two are alike; users speak of taught things there.
        let others = Share::Taught.of(classes).iter().filter(|other| other.is_among(list));
        let others = others.map(|other| &other.name);
        let others =
            others.filter(|name| **name != class.name && !OF_ROOMS.contains(&name.as_str()));
        Some(Self { others: others.cloned().collect(), class })
    }
}

/// A parameter that a tool can do without.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spare {
    pub(super) name: String,
    description: Option<String>,
    r#type: String,
}

impl Spare {
    pub(super) fn schema(&self) -> Value {
        match &self.description {
            Some(description) => json!({"type": self.r#type, "description": description}),
            None => json!({"type": self.r#type}),
        }
    }
}

/// What a tool lists.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// The rooms that it knows, if it says.
    pub(super) rooms: Option<Vec<String>>,
    /// The things.
    pub(super) things: Option<Vec<String>>,
}
