//! Names, values and descriptions of functions and their parameters, put together: there are more ways to
//! spell a function than anybody writes down.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::narrow::Class;
use super::phrase::capital;
use crate::dice::Dice;

/// What a kind of function is spelled with.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parts {
    /// What it is done to: `{it}`.
    it: Vec<String>,
    /// What it does, with `{s}` and `{es}` where a third person has them.
    does: Vec<String>,
    /// The same of the first of two deeds, and of the second.
    #[serde(default)]
    first: Vec<String>,
    #[serde(default)]
    second: Vec<String>,
    /// Where, when or in what unit.
    at: Vec<String>,
    /// What it is about.
    about: Vec<String>,
    /// Words of its names.
    verbs: Vec<String>,
    nouns: Vec<String>,
    /// Words of two deeds.
    #[serde(default)]
    pairs: Vec<[String; 2]>,
    /// What stands behind the noun where it is the one thing that a function is for.
    #[serde(default)]
    aspects: Vec<String>,
}

/// What stands around the parts of a description.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Frames {
    act: Vec<String>,
    about: Vec<String>,
    /// By the form of their parts.
    parameters: BTreeMap<String, ParameterFrames>,
}

/// What stands around the parts of a parameter.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ParameterFrames {
    names: Vec<String>,
    descriptions: Vec<String>,
}

/// What a parameter is spelled with.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ParameterParts {
    /// Which frames fit.
    form: String,
    /// What it is.
    what: Vec<String>,
    /// What is done to what it names.
    #[serde(default)]
    done: Vec<String>,
    /// What it says, as a clause.
    #[serde(default)]
    how: Vec<String>,
    /// What it is counted in, or how it is written.
    #[serde(default)]
    unit: Vec<String>,
}

impl ParameterParts {
    /// The name of a parameter.
    pub(super) fn name(&self, frames: &Frames, dice: &mut Dice) -> String {
        self.fill(&frames.parameters[&self.form].names, dice).replace(' ', "_")
    }

    /// What a parameter means.
    pub(super) fn description(&self, frames: &Frames, dice: &mut Dice) -> String {
        capital(&self.fill(&frames.parameters[&self.form].descriptions, dice))
    }

    /// One of the frames that there are parts for.
    fn fill(&self, frames: &[String], dice: &mut Dice) -> String {
        let parts = [
            ("{what}", &self.what),
            ("{done}", &self.done),
            ("{how}", &self.how),
            ("{unit}", &self.unit),
        ];
        let lacks = |frame: &&String| {
            parts.iter().any(|(slot, words)| words.is_empty() && frame.contains(slot))
        };
        let fitting: Vec<&String> = frames.iter().filter(|frame| !lacks(frame)).collect();
        let mut text = (*dice.pick(&fitting)).clone();
        for (slot, words) in parts {
            if text.contains(slot) {
                text = text.replace(slot, pick(words, dice));
            }
        }
        text
    }
}

impl Parts {
    /// Those of a function for one thing.
    pub(super) fn of(&self, class: &Class) -> Self {
        let nouns = class.nouns.iter().flat_map(|noun| match &self.aspects[..] {
            [] => vec![noun.clone()],
            aspects => {
                aspects.iter().map(|aspect| format!("{noun} {aspect}").trim_end().into()).collect()
            }
        });
        Self { nouns: nouns.collect(), it: class.it.clone(), ..self.clone() }
    }

    /// Those of a function that knows of no room.
    pub(super) fn roomless(mut self) -> Self {
        for list in [&mut self.it, &mut self.at, &mut self.about] {
            let rest: Vec<String> =
                list.iter().filter(|words| !words.contains("room")).cloned().collect();
            if !rest.is_empty() {
                *list = rest;
            }
        }
        self
    }

    /// The name of a function, in words.
    pub(super) fn name(&self, dice: &mut Dice) -> String {
        let (verb, noun) = (pick(&self.verbs, dice), pick(&self.nouns, dice));
        match dice.below(10) {
            0 => noun.to_owned(),
            1..3 => format!("{noun} {verb}"),
            _ => format!("{verb} {noun}"),
        }
    }

    /// What a function does.
    pub(super) fn description(&self, frames: &Frames, dice: &mut Dice) -> String {
        if dice.chance(0.25) {
            let about = pick(&self.about, dice).replace("{it}", pick(&self.it, dice));
            return capital(&pick(&frames.about, dice).replace("{about}", &about));
        }
        let frame = pick(&frames.act, dice);
        described(pick(&self.does, dice), pick(&self.it, dice), pick(&self.at, dice), frame)
    }

    /// The names of two functions, one for each deed.
    pub(super) fn names(&self, dice: &mut Dice) -> [String; 2] {
        let (pair, noun) = (dice.pick(&self.pairs), pick(&self.nouns, dice));
        let noun_is_first = dice.chance(0.25);
        pair.each_ref().map(|deed| match noun_is_first {
            true => format!("{noun} {deed}"),
            false => format!("{deed} {noun}"),
        })
    }

    /// What two functions do, one for each deed.
    pub(super) fn descriptions(&self, frames: &Frames, dice: &mut Dice) -> [String; 2] {
        let frame = pick(&frames.act, dice);
        let (it, at) = (pick(&self.it, dice), pick(&self.at, dice));
        [&self.first, &self.second].map(|acts| described(pick(acts, dice), it, at, frame))
    }

    /// The values of a parameter that says which deed is meant.
    pub(super) fn values(&self, dice: &mut Dice) -> [String; 2] {
        let pair = dice.pick(&self.pairs);
        let noun = dice.chance(0.2).then(|| pick(&self.nouns, dice));
        let is_loud = dice.chance(0.2);
        pair.each_ref().map(|deed| {
            let words = match noun {
                Some(noun) => format!("{deed} {noun}"),
                None => deed.clone(),
            };
            let value = words.replace(' ', "_");
            if is_loud { value.to_uppercase() } else { value }
        })
    }
}

/// What is done, to what, and where, in a frame.
fn described(act: &str, it: &str, at: &str, frame: &str) -> String {
    let act = act.replace("{it}", it) + at;
    let with = |s: &str, es: &str| act.replace("{s}", s).replace("{es}", es);
    capital(&frame.replace("{acts}", &with("s", "es")).replace("{act}", &with("", "")))
}

fn pick<'a>(list: &'a [String], dice: &mut Dice) -> &'a str {
    dice.pick::<String>(list)
}
