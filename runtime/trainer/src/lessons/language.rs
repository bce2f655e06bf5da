//! What a language file holds.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::lacks::Vague;
use super::phrase::capital;
use crate::dice::Dice;

/// A noun with the forms that sentences need; `bare` is what a call carries.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Noun {
    pub(crate) bare: String,
    /// As an object.
    pub(crate) the: String,
    /// As a place.
    #[serde(default, rename = "in")]
    pub(crate) place: String,
    /// As an owner.
    #[serde(default)]
    pub(crate) of: String,
    /// As a subject; nothing of what is many, so that no sentence has it for one.
    #[serde(default)]
    pub(crate) is: String,
    /// As a receiver.
    #[serde(default)]
    pub(crate) to: String,
}

impl Noun {
    /// The same with a name or number behind it: `pump 3`.
    pub(crate) fn tagged(&self, tag: &str) -> Self {
        let with = |form: &String| {
            if form.is_empty() { String::new() } else { format!("{form} {tag}") }
        };
        Self {
            bare: with(&self.bare),
            the: with(&self.the),
            place: with(&self.place),
            of: with(&self.of),
            is: with(&self.is),
            to: with(&self.to),
        }
    }

    /// The same with another longest word, which begins as its own and ends as that of another noun; nothing
    /// where a form changes the word.
    pub(crate) fn mixed(&self, other: &Self, dice: &mut Dice) -> Option<Self> {
        let own = longest_word(&self.bare);
        let mut part = |word: &str| {
            let letters = word.chars().count();
            2 + dice.below(letters.saturating_sub(3).max(1))
        };
        let (head, tail) = (part(own), part(longest_word(&other.bare)));
        let word: String = own.chars().take(head).collect();
        let word = word + &longest_word(&other.bare).chars().skip(tail).collect::<String>();
        self.with(own, &word)
    }

    /// The same with a word of no language in place of its longest one.
    pub(crate) fn renamed(&self, word: &str) -> Option<Self> {
        let own = longest_word(&self.bare);
        let is_capital = own.chars().next().is_some_and(char::is_uppercase);
        self.with(own, &if is_capital { capital(word) } else { word.to_owned() })
    }

    /// The same with what another noun of several words has besides its main word, where the language puts
    /// it: `coffee kettle`, `bollitore di sentina`. Nothing where the other is one word.
    pub(crate) fn described(&self, other: &Self, is_before: bool) -> Option<Self> {
        if !is_before {
            return other.bare.split_once(' ').map(|(_, rest)| self.tagged(rest));
        }
        let (rest, _) = other.bare.rsplit_once(' ')?;
        self.with(&self.bare, &format!("{rest} {}", self.bare))
    }

    /// The same with other words for some, in all its forms; nothing where a form changes them.
    fn with(&self, own: &str, other: &str) -> Option<Self> {
        let with = |form: &String| {
            let fits = form.is_empty() || form.contains(own);
            fits.then(|| form.replace(own, other))
        };
        Some(Self {
            bare: with(&self.bare)?,
            the: with(&self.the)?,
            place: with(&self.place)?,
            of: with(&self.of)?,
            is: with(&self.is)?,
            to: with(&self.to)?,
        })
    }

    pub(crate) fn form(&self, form: &str) -> Option<&str> {
        match form {
            "bare" => Some(&self.bare),
            "the" => Some(&self.the),
            "in" => Some(&self.place),
            "of" => Some(&self.of),
            "is" => Some(&self.is),
            "to" => Some(&self.to),
            _ => None,
        }
    }
}

fn longest_word(text: &str) -> &str {
    text.split(' ').max_by_key(|word| word.len()).unwrap_or(text)
}

/// The wordings of one intent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wordings {
    /// Clauses that others can be joined to.
    pub(crate) say: Vec<String>,
    /// Whole sentences.
    pub(crate) ask: Vec<String>,
    /// Whole sentences that are kept from training.
    pub(crate) held: Vec<String>,
    /// What stands in frames.
    pub(crate) acts: Vec<String>,
    /// The same for the other frames of a language that has two forms of it.
    #[serde(default)]
    pub(crate) acts_to: Vec<String>,
    /// What shall be, for frames around a state.
    #[serde(default)]
    pub(crate) states: Vec<String>,
    /// Reports, by outcome; `ok` where there is one outcome.
    pub(crate) done: Done,
}

/// What is said when a call came back.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Done {
    One(Vec<String>),
    ByOutcome(BTreeMap<String, Vec<String>>),
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Things {
    #[serde(flatten)]
    pub(crate) lists: BTreeMap<String, Vec<Noun>>,
    pub(crate) numbered: BTreeMap<String, Vec<Noun>>,
    /// The things that a function can be for, by their class in `tools.toml`.
    pub(crate) classes: BTreeMap<String, Vec<Noun>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Talk {
    pub(crate) hello: Vec<String>,
    pub(crate) hello_answer: String,
    pub(crate) who: Vec<String>,
    pub(crate) who_answer: String,
    pub(crate) what: Vec<String>,
    pub(crate) what_answer: String,
    pub(crate) thanks: Vec<String>,
    pub(crate) thanks_answer: String,
    pub(crate) bye: Vec<String>,
    pub(crate) bye_answer: String,
    pub(crate) off_topic: Vec<String>,
    pub(crate) off_topic_answer: String,
    pub(crate) no_tool_answer: String,
    pub(crate) no_tools_answer: String,
    pub(crate) failed_answer: String,
}

/// One language.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Language {
    pub(crate) code: String,
    pub(crate) name: String,
    /// Between whole numbers and decimals.
    pub(crate) decimal: String,
    pub(crate) time_formats: Vec<String>,
    /// Whether what describes a noun stands before it.
    #[serde(default)]
    pub(crate) describes_before: bool,
    pub(crate) join: Vec<String>,
    /// Sentences around an act.
    pub(crate) frames: Vec<String>,
    #[serde(default)]
    pub(crate) frames_to: Vec<String>,
    /// The same around a state.
    pub(crate) frames_that: Vec<String>,
    pub(crate) before: Vec<String>,
    pub(crate) after: Vec<String>,
    /// Applied to whole sentences, in order.
    #[serde(default)]
    pub(crate) rewrites: Vec<(String, String)>,
    pub(crate) rooms: Vec<Noun>,
    pub(crate) numbered_rooms: Vec<Noun>,
    pub(crate) things: Things,
    pub(crate) people: Vec<Noun>,
    pub(crate) messages: Vec<String>,
    pub(crate) intents: BTreeMap<String, Wordings>,
    /// Whole sentences that leave something out; the last of each is kept from training.
    pub(crate) lacks: BTreeMap<String, Vec<String>>,
    /// How other sentences leave something out.
    pub(crate) vague: Vague,
    pub(crate) questions: BTreeMap<String, Vec<String>>,
    pub(crate) talk: Talk,
}

const FILES: [(&str, &str); 5] = [
    ("en", include_str!("../../data/languages/en.toml")),
    ("fr", include_str!("../../data/languages/fr.toml")),
    ("de", include_str!("../../data/languages/de.toml")),
    ("it", include_str!("../../data/languages/it.toml")),
    ("es", include_str!("../../data/languages/es.toml")),
];

impl Language {
    /// All of them.
    pub(crate) fn all() -> Result<Vec<Self>> {
        let read = |(code, text): &(&str, &str)| {
            toml::from_str(text).with_context(|| format!("data/languages/{code}.toml"))
        };
        FILES.iter().map(read).collect()
    }
}
