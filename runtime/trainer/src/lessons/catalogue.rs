//! The tools that a box offers, in many spellings.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use protocol::ToolSpec;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::intents::{INTENTS, Intent, Slot};
use super::parts::{Frames, ParameterParts, Parts};
use super::phrase::Slots;
use super::schema::{described_schema, number_schema, parameters};
use super::{Call, Share, Shares};
use crate::dice::Dice;

/// The share of names that are invented in lessons: what occurs once cannot be known, so that it has to be
/// read. No test has such, because no box has.
const INVENTED: f64 = 0.1;
/// The same of the names of parameters: what is said of them is read where their names say nothing.
const INVENTED_PARAMETERS: f64 = 0.2;
/// The share of parameters that have the name of something else, and a description that says what they are: a
/// name that is a word is believed, where nothing teaches that it can be wrong.
const MISNAMED: f64 = 0.15;
/// The share of tools that can be called without their room, in lessons as in tests: with twice as many, rooms
/// that are required are made up.
const ROOM_OPTIONAL: f64 = 0.15;
/// The share of names, values and descriptions that are put together.
const COMPOSED: f64 = 0.5;

/// What `tools.toml` holds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Catalogue {
    prefixes: Vec<String>,
    held_prefixes: Vec<String>,
    pub(super) systems: Vec<String>,
    frames: Frames,
    parameters: BTreeMap<String, Spellings>,
    kinds: BTreeMap<String, Kind>,
    /// Words of what parameters and functions are called, by which others are misnamed.
    #[serde(skip)]
    words: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spellings {
    names: Vec<String>,
    #[serde(default)]
    descriptions: Vec<String>,
    held: Option<Box<Self>>,
    parts: Option<ParameterParts>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kind {
    names: Vec<String>,
    descriptions: Vec<String>,
    thing: Option<Spellings>,
    number: Option<Spellings>,
    choice: Option<Choice>,
    yes: Option<Spellings>,
    split: Option<Split>,
    held: Spellings,
    parts: Parts,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Choice {
    names: Vec<String>,
    values: Vec<[String; 2]>,
    held: Option<Box<Self>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Split {
    names: Vec<[String; 2]>,
    descriptions: Vec<[String; 2]>,
    held: Option<Box<Self>>,
}

/// How a tool is told which of two deeds is meant.
#[derive(Debug, Clone)]
enum Deed {
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

/// What a value of a call is: what the user named, or which of two deeds is meant.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    Slot(Slot),
    Deed(usize),
}

/// How a box spells the names of its functions.
#[derive(Debug, Clone)]
pub(super) struct Manner {
    prefix: String,
    style: usize,
    /// As in a wish.
    unheard_of: f64,
}

/// One tool as a box offers it: its functions, and how to call them.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) kind: String,
    pub(super) specs: Vec<ToolSpec>,
    deed: Deed,
    /// The names of its parameters, by slot.
    names: BTreeMap<Slot, String>,
    /// Its number is an integer.
    pub(super) whole: bool,
    /// It can be called without a room.
    pub(super) room_optional: bool,
    /// The rooms that it knows, if it says.
    pub(super) rooms: Option<Vec<String>>,
}

impl Catalogue {
    pub(crate) fn read() -> Result<Self> {
        let mut read: Self =
            toml::from_str(include_str!("../../data/tools.toml")).context("data/tools.toml")?;
        read.words = read.taught_words();
        Ok(read)
    }

    /// Single words of names that are taught and not held.
    fn taught_words(&self) -> Vec<String> {
        let kinds = self.kinds.values();
        let own = kinds.clone().flat_map(|kind| kind.thing.iter().chain(&kind.number));
        let all: Vec<_> = self.parameters.values().chain(own).collect();
        let held = |word: &&str| {
            all.iter().any(|own| {
                own.held.as_ref().is_some_and(|held| held.names.iter().any(|name| name == word))
            })
        };
        let names = all.iter().flat_map(|own| &own.names).chain(kinds.flat_map(|kind| &kind.names));
        let words = names.flat_map(|name| name.split([' ', '_'])).filter(|word| word.len() > 2);
        let words: BTreeSet<&str> = words.filter(|word| !held(word)).collect();
        words.into_iter().map(str::to_owned).collect()
    }

    pub(super) fn kinds(&self) -> Vec<&str> {
        self.kinds.keys().map(String::as_str).collect()
    }

    pub(super) fn manner(&self, shares: Shares, unheard_of: f64, dice: &mut Dice) -> Manner {
        let held = shares.tools == Share::Held;
        let prefixes = if held { &self.held_prefixes } else { &self.prefixes };
        Manner { prefix: dice.pick(prefixes).clone(), style: dice.below(5), unheard_of }
    }

    /// A tool of this kind. `rooms`: the only ones that it knows.
    pub(super) fn offer(
        &self,
        kind: &str,
        manner: &Manner,
        shares: Shares,
        rooms: Option<Vec<String>>,
        dice: &mut Dice,
    ) -> Offer {
        let share = shares.tools;
        let data = &self.kinds[kind];
        let intent = INTENTS.iter().find(|intent| intent.kind == kind).expect("an intent of it");
        let whole = !matches!(kind, "heat_room" | "heat_thing") || dice.chance(0.3);
        let mut names = BTreeMap::new();
        let mut properties = Vec::new();
        let mut put = |slot: Slot, spellings: &Spellings, schema: Value, dice: &mut Dice| {
            let spellings = spellings.share(share);
            let (name, described) = spellings.draw(self, share, manner, names.values(), dice);
            names.insert(slot, name.clone());
            properties.push((Some(slot), name, described_schema(schema, described, dice)));
        };
        let text = || json!({"type": "string"});
        if let Some(thing) = &data.thing {
            put(Slot::Thing, thing, text(), dice);
        }
        if intent.room {
            let schema =
                rooms.as_ref().map_or_else(text, |rooms| json!({"type": "string", "enum": rooms}));
            put(Slot::Room, &self.parameters["room"], schema, dice);
        }
        if let Some(number) = &data.number {
            put(Slot::Number, number, number_schema(whole, kind, dice), dice);
        }
        if kind == "delay" {
            put(Slot::Number, &self.parameters["minutes"], json!({"type": "integer"}), dice);
        }
        if intent.time {
            put(Slot::Time, &self.parameters["time"], text(), dice);
        }
        if intent.is_message() {
            put(Slot::Message, &self.parameters["message"], text(), dice);
        }
        let deed = self.deed(data, share, manner, &names, dice);
        match &deed {
            Deed::Choice { name, values } => {
                let schema = json!({"type": "string", "enum": values});
                properties.push((None, name.clone(), schema));
            }
            Deed::Yes { name } => {
                properties.push((None, name.clone(), json!({"type": "boolean"})));
            }
            Deed::Only | Deed::Split => (),
        }
        dice.shuffle(&mut properties);
        let room_optional = intent.room && intent.things.is_some() && dice.chance(ROOM_OPTIONAL);
        let optional = room_optional.then_some(Slot::Room);
        let parameters = parameters(&properties, optional, dice);
        let specs = self.functions(data, &deed, manner, share, dice).into_iter().map(
            |(name, description)| ToolSpec {
                name,
                description,
                parameters: parameters.clone(),
                strict: false,
            },
        );
        let specs = specs.collect();
        Offer { kind: kind.into(), specs, deed, names, whole, room_optional, rooms }
    }

    /// How a tool of this kind is told its deed, with a name that none of its parameters has.
    fn deed(
        &self,
        data: &Kind,
        share: Share,
        manner: &Manner,
        taken: &BTreeMap<Slot, String>,
        dice: &mut Dice,
    ) -> Deed {
        let Some(choice) = &data.choice else { return Deed::Only };
        let at = dice.unit();
        if let Some(yes) = data.yes.as_ref().filter(|_| at < 0.2) {
            let name = fresh(&yes.share(share).names, taken.values(), dice);
            return Deed::Yes { name };
        }
        if data.split.is_some() && at < 0.45 {
            return Deed::Split;
        }
        let choice = share.or_held(choice, choice.held.as_deref());
        let name = match dice.chance(manner.unheard_of * INVENTED) {
            true => invent(1, 2, dice).replace(' ', "_"),
            false => fresh(&choice.names, taken.values(), dice),
        };
        let values = self.one(share, &choice.values, |dice| data.parts.values(dice), dice);
        Deed::Choice { name, values }
    }
    /// Names and descriptions: one, or one for each deed.
    fn functions(
        &self,
        data: &Kind,
        deed: &Deed,
        manner: &Manner,
        share: Share,
        dice: &mut Dice,
    ) -> Vec<(String, String)> {
        let Manner { prefix, style, unheard_of } = manner;
        let spelled = |words: &str| spell(&format!("{prefix}{words}"), *style);
        let invented = dice.chance(unheard_of * INVENTED);
        let (names, descriptions) = if let (Deed::Split, Some(split)) = (deed, &data.split) {
            let split = split.share(share);
            let names = match invented {
                true => [invent(2, 3, dice), invent(2, 3, dice)],
                false => self.one(share, &split.names, |dice| data.parts.names(dice), dice),
            };
            let composed = |dice: &mut Dice| data.parts.descriptions(&self.frames, dice);
            (names.to_vec(), self.one(share, &split.descriptions, composed, dice).to_vec())
        } else {
            let (names, descriptions) = match share {
                Share::Taught => (&data.names, &data.descriptions),
                Share::Held => (&data.held.names, &data.held.descriptions),
            };
            let name = match invented {
                true => invent(1, 3, dice),
                false => self.one(share, names, |dice| data.parts.name(dice), dice),
            };
            let composed = |dice: &mut Dice| data.parts.description(&self.frames, dice);
            (vec![name], vec![self.one(share, descriptions, composed, dice)])
        };
        names.iter().map(|name| spelled(name)).zip(descriptions).collect()
    }

    /// One of a list or, where it is taught, one that is put together and not held.
    fn one<T: Spelled + Clone>(
        &self,
        share: Share,
        list: &[T],
        composed: impl Fn(&mut Dice) -> T,
        dice: &mut Dice,
    ) -> T {
        if share == Share::Taught && dice.chance(COMPOSED) {
            let spelling = composed(dice);
            if !self.holds(&spelling) {
                return spelling;
            }
        }
        dice.pick(list).clone()
    }

    /// Whether a name, value or description is kept from training, whatever kind has it.
    fn holds(&self, spelling: &impl Spelled) -> bool {
        let is = |held: &String| spelling.words().any(|word| word.eq_ignore_ascii_case(held));
        self.kinds.values().any(|kind| {
            let own = kind.held.names.iter().chain(&kind.held.descriptions);
            let split = kind.split.iter().filter_map(|split| split.held.as_ref());
            let split =
                split.flat_map(|held| held.names.iter().chain(&held.descriptions).flatten());
            let choice = kind.choice.iter().filter_map(|choice| choice.held.as_ref());
            let values = choice.flat_map(|held| held.values.iter().flatten());
            own.chain(split).chain(values).any(is)
        })
    }

    /// Whether a description of a parameter is kept from training, whatever parameter has it.
    fn holds_for_parameter(&self, description: &String) -> bool {
        let kinds = self.kinds.values();
        let of_kinds = kinds.flat_map(|kind| kind.thing.iter().chain(&kind.number));
        let mut all = self.parameters.values().chain(of_kinds).filter_map(|own| own.held.as_ref());
        all.any(|held| held.descriptions.contains(description))
    }
}

/// A name, a value or a description, or two of them.
trait Spelled {
    fn words(&self) -> impl Iterator<Item = &str>;
}

impl Spelled for String {
    fn words(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.as_str())
    }
}

impl Spelled for [String; 2] {
    fn words(&self) -> impl Iterator<Item = &str> {
        self.iter().map(String::as_str)
    }
}

impl Spellings {
    /// A name that no other parameter has, and now and then what it means.
    fn draw<'a>(
        &self,
        catalogue: &Catalogue,
        share: Share,
        manner: &Manner,
        taken: impl Iterator<Item = &'a String> + Clone,
        dice: &mut Dice,
    ) -> (String, Option<String>) {
        let parts = self.parts.as_ref().filter(|_| share == Share::Taught);
        let composes = |dice: &mut Dice| parts.filter(|_| dice.chance(COMPOSED));
        let at = dice.unit();
        let invented = at < manner.unheard_of * INVENTED_PARAMETERS;
        let misnamed = !invented && at < manner.unheard_of * (INVENTED_PARAMETERS + MISNAMED);
        let name = if invented {
            invent(1, 2, dice).replace(' ', "_")
        } else if misnamed {
            fresh(&catalogue.words, taken, dice)
        } else {
            let composed = composes(dice).map(|parts| parts.name(&catalogue.frames, dice));
            let is_held =
                |name: &String| self.held.as_ref().is_some_and(|held| held.names.contains(name));
            let is_free =
                |name: &String| !is_held(name) && !taken.clone().any(|other| other == name);
            composed.filter(is_free).unwrap_or_else(|| fresh(&self.names, taken.clone(), dice))
        };
        // What a name means that nobody could know stands beside it.
        let described = invented || misnamed || share == Share::Held || dice.chance(0.5);
        let description = described.then(|| {
            let composed = composes(dice).map(|parts| parts.description(&catalogue.frames, dice));
            let composed = composed.filter(|text| !catalogue.holds_for_parameter(text));
            composed.unwrap_or_else(|| dice.pick(&self.descriptions).clone())
        });
        (name, description)
    }

    fn share(&self, share: Share) -> &Self {
        share.or_held(self, self.held.as_deref())
    }
}

impl Split {
    fn share(&self, share: Share) -> &Self {
        share.or_held(self, self.held.as_deref())
    }
}

impl Offer {
    /// The call that does what the slots say; a slot that they lack is left out.
    pub(super) fn call(&self, intent: &Intent, slots: &Slots) -> Call {
        let function = if matches!(self.deed, Deed::Split) { intent.deed } else { 0 };
        let spec = &self.specs[function];
        let noun =
            |noun: &Option<super::language::Noun>| noun.as_ref().map(|noun| json!(noun.bare));
        let properties = spec.parameters["properties"].as_object().expect("an object");
        let mut arguments = Map::new();
        for name in properties.keys() {
            let value = match self.slot(name) {
                Some(Slot::Thing) => noun(&slots.thing).or_else(|| noun(&slots.person)),
                Some(Slot::Room) => noun(&slots.room),
                Some(Slot::Number) => slots.number.map(super::phrase::Number::json),
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
        slot != Slot::Room || !self.room_optional
    }
}

/// So many words of no language.
fn invent(least: usize, most: usize, dice: &mut Dice) -> String {
    let words = least + dice.below(most - least + 1);
    (0..words).map(|_| super::phrase::word(dice)).collect::<Vec<_>>().join(" ")
}

/// A name that no other parameter has.
fn fresh<'a>(
    names: &[String],
    taken: impl Iterator<Item = &'a String> + Clone,
    dice: &mut Dice,
) -> String {
    let free: Vec<&String> =
        names.iter().filter(|name| !taken.clone().any(|other| other == *name)).collect();
    (*dice.pick(&free)).clone()
}

/// Words as the name of a function.
fn spell(words: &str, style: usize) -> String {
    let capital = |word: &str| super::phrase::capital(word);
    let mut words = words.split_whitespace();
    match style {
        0 => {
            let first = words.next().unwrap_or_default().to_owned();
            words.fold(first, |name, word| name + &capital(word))
        }
        1 => words.collect::<Vec<_>>().join("-"),
        _ => words.collect::<Vec<_>>().join("_"),
    }
}
