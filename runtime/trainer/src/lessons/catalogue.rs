//! The tools that a box offers, in many spellings.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use protocol::ToolSpec;
use serde::Deserialize;
use serde_json::{Value, json};

use super::intents::{Intent, Slot, of_kind};
use super::lesson::Wish;
use super::narrow::{Class, Known, Narrow, OneThing, Spare};
use super::offer::{Deed, Offer};
use super::parts::{Frames, ParameterParts, Parts};
use super::schema::{described_schema, number_schema, parameters};
use super::{Share, Shares};
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
    spare: Vec<Spare>,
    frames: Frames,
    parameters: BTreeMap<String, Spellings>,
    pub(super) classes: Vec<Class>,
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

/// How a box spells the names of its functions.
#[derive(Debug, Clone)]
pub(super) struct Manner {
    prefix: String,
    style: usize,
    /// As in a wish.
    unheard_of: f64,
    narrow: Narrow,
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

    /// What tools can be for that is taught and one of a list of things.
    pub(super) fn classes_among(&self, list: &str) -> Vec<&str> {
        let taught = Share::Taught.of(&self.classes).iter();
        taught.filter(|class| class.is_among(list)).map(|class| class.name.as_str()).collect()
    }

    pub(super) fn manner(&self, wish: &Wish, dice: &mut Dice) -> Manner {
        let Wish { shares, unheard_of, narrow, .. } = *wish;
        let held = shares.tools == Share::Held;
        let prefixes = if held { &self.held_prefixes } else { &self.prefixes };
        Manner { prefix: dice.pick(prefixes).clone(), style: dice.below(5), unheard_of, narrow }
    }

    /// A tool of this kind. `known`: the only rooms and things that it knows.
    pub(super) fn offer(
        &self,
        kind: &str,
        manner: &Manner,
        shares: Shares,
        known: Known,
        dice: &mut Dice,
    ) -> Offer {
        let share = shares.tools;
        let data = &self.kinds[kind];
        let intent = of_kind(kind);
        let (one_thing, roomless) = self.narrow(intent, manner.narrow, share, dice);
        let narrowed =
            (one_thing.is_some() || roomless).then(|| data.narrowed(&one_thing, roomless));
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
        let one_of = |names: &Option<Vec<String>>| match names {
            Some(names) => json!({"type": "string", "enum": names}),
            None => text(),
        };
        if let Some(thing) = data.thing.as_ref().filter(|_| one_thing.is_none()) {
            put(Slot::Thing, thing, one_of(&known.things), dice);
        }
        if intent.room && !roomless {
            put(Slot::Room, &self.parameters["room"], one_of(&known.rooms), dice);
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
        properties.extend(deed.property().map(|(name, schema)| (None, name, schema)));
        let spare = self.spare(&mut properties, manner.narrow, dice);
        dice.shuffle(&mut properties);
        let room_optional =
            intent.room && intent.things.is_some() && dice.chance(ROOM_OPTIONAL) && !roomless;
        let optional = room_optional.then_some(Slot::Room);
        let parameters = parameters(&properties, optional, spare.as_deref(), dice);
        let data = narrowed.as_ref().unwrap_or(data);
        let specs = self.functions(data, &deed, manner, share, dice).into_iter().map(
            |(name, description)| ToolSpec {
                name,
                description,
                parameters: parameters.clone(),
                strict: false,
            },
        );
        let specs = specs.collect();
        let kind = kind.into();
        Offer { kind, specs, deed, names, spare, whole, room_optional, one_thing, roomless, known }
    }

    /// Puts a parameter that nobody says anything for among others, and gives its name.
    fn spare(
        &self,
        properties: &mut Vec<(Option<Slot>, String, Value)>,
        narrow: Narrow,
        dice: &mut Dice,
    ) -> Option<String> {
        let spare = narrow.has_spare(dice).then(|| dice.pick(&self.spare))?;
        if properties.iter().any(|(_, name, _)| *name == spare.name) {
            return None;
        }
        properties.push((None, spare.name.clone(), spare.schema()));
        Some(spare.name.clone())
    }

    /// Whether a tool is for one thing, and which, and whether it is without a room.
    fn narrow(
        &self,
        intent: &Intent,
        narrow: Narrow,
        share: Share,
        dice: &mut Dice,
    ) -> (Option<OneThing>, bool) {
        let draw = |dice: &mut Dice| OneThing::draw(&self.classes, intent, share, dice);
        if intent.things.is_none() {
            // For all of a house.
            let is_of_rooms = matches!(intent.kind, "heat_room" | "temperature");
            let house = (is_of_rooms && narrow.is_roomless(dice)).then(|| draw(dice)).flatten();
            let roomless = house.is_some();
            return (house, roomless);
        }
        let one_thing = narrow.is_of_one_thing(dice).then(|| draw(dice)).flatten();
        let may_be = intent.room && (share == Share::Taught || one_thing.is_some());
        let roomless = may_be && narrow.is_roomless(dice);
        (one_thing, roomless)
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
        let Manner { prefix, style, unheard_of, .. } = manner;
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

    /// One of a list or, where it is taught or the list is empty, one that is put together and not held.
    fn one<T: Spelled + Clone>(
        &self,
        share: Share,
        list: &[T],
        composed: impl Fn(&mut Dice) -> T,
        dice: &mut Dice,
    ) -> T {
        let composes = list.is_empty() || share == Share::Taught && dice.chance(COMPOSED);
        loop {
            if composes {
                let spelling = composed(dice);
                if !self.holds(&spelling) {
                    return spelling;
                }
            }
            if !list.is_empty() {
                return dice.pick(list).clone();
            }
        }
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

impl Kind {
    /// The same for one thing or without a room: nothing of how it is called is written down.
    fn narrowed(&self, one_thing: &Option<OneThing>, roomless: bool) -> Self {
        let parts =
            one_thing.as_ref().map_or_else(|| self.parts.clone(), |one| self.parts.of(&one.class));
        let parts = if roomless { parts.roomless() } else { parts };
        let nothing =
            Spellings { names: Vec::new(), descriptions: Vec::new(), held: None, parts: None };
        let split = Split { names: Vec::new(), descriptions: Vec::new(), held: None };
        Self {
            names: Vec::new(),
            descriptions: Vec::new(),
            split: self.split.is_some().then_some(split),
            held: nothing,
            parts,
            ..self.clone()
        }
    }
}

impl Split {
    fn share(&self, share: Share) -> &Self {
        share.or_held(self, self.held.as_deref())
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
