//! One conversation and the answer that is wanted.

use anyhow::Result;
use protocol::{Message, ToolCall, ToolSpec};
use serde_json::{Map, Value};
use text::calls_text;

use super::intents::{Slot, are_kindred, of_kind};
use super::language::{Language, Noun};
use super::narrow::{Known, Narrow};
use super::offer::Offer;
use super::speaker::Speaker;
use super::topics::Topics;
use super::{Catalogue, Shares, field};
use crate::dice::Dice;

/// A call of a function.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) arguments: Map<String, Value>,
}

impl Call {
    /// As it stands in a conversation.
    pub(super) fn named(&self, id: &str) -> ToolCall {
        let arguments = Value::Object(self.arguments.clone()).to_string();
        ToolCall { id: id.to_owned(), name: self.name.clone(), arguments }
    }

    /// Whether it keeps to the schema of its function among `tools`, as far as these schemas go: names,
    /// what is required, types and lists of values.
    pub(crate) fn keeps_to(&self, tools: &[ToolSpec]) -> bool {
        let Some(tool) = tools.iter().find(|tool| tool.name == self.name) else { return false };
        let required = tool.parameters["required"].as_array().into_iter().flatten();
        let mut required = required.filter_map(Value::as_str);
        required.all(|name| self.arguments.contains_key(name))
            && self.arguments.iter().all(|(name, value)| {
                let schema = &tool.parameters["properties"][name];
                let listed = schema["enum"].as_array();
                listed.is_none_or(|values| values.contains(value))
                    && match schema["type"].as_str() {
                        Some("string") => value.is_string(),
                        Some("boolean") => value.is_boolean(),
                        Some("integer") => value.is_i64() || value.is_u64(),
                        Some("number") => value.is_number(),
                        _ => false,
                    }
            })
    }
}

/// What the model shall say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    Text(String),
    Calls(Vec<Call>),
}

impl Answer {
    /// As the model writes it, without control tokens.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Calls(calls) => {
                calls_text(&calls.iter().map(|call| call.named("")).collect::<Vec<_>>())
            }
        }
    }
}

/// What a lesson teaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Sort {
    /// One command or question: one call.
    One,
    /// Several in a sentence: several calls.
    Several,
    /// Something is missing: a question back.
    Lack,
    /// The user says what was missing: a call.
    Supplied,
    /// What the tool gave back: a report.
    Report,
    /// No tool for it: it says so.
    NoTool,
    /// A tool for another thing than the one that is meant: it says so. Lessons have it as [`Self::NoTool`].
    OtherThing,
    /// Nothing that devices do: it says so.
    OffTopic,
    /// Who it is, what it can do.
    Talk,
}

/// What lessons are wanted of a teacher.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    pub(crate) shares: Shares,
    /// The only sort.
    pub(crate) sort: Option<Sort>,
    /// The only language spoken, by its number.
    pub(crate) language: Option<usize>,
    /// Kinds of tools that a box has at most.
    pub(crate) kinds: usize,
    /// How much of what nobody can know occurs: names and words of no language, nouns and messages that are put
    /// together. 1: all that lessons have.
    pub(crate) unheard_of: f64,
    /// How many tools ask for less than others.
    pub(crate) narrow: Narrow,
}

impl Wish {
    /// Everything that training sees.
    pub(crate) const TAUGHT: Self = Self {
        shares: Shares::TAUGHT,
        sort: None,
        language: None,
        kinds: Self::KINDS_MAX,
        unheard_of: 1.0,
        narrow: Narrow::SOME,
    };
    /// What tests ask: what people say, and what boxes have.
    pub(crate) const ASKED: Self = Self { unheard_of: 0.0, narrow: Narrow::NONE, ..Self::TAUGHT };
    /// What the largest boxes have.
    pub(crate) const KINDS_MAX: usize = 9;
}

/// One conversation and its answer.
#[derive(Debug, Clone)]
pub(crate) struct Lesson {
    pub(crate) sort: Sort,
    /// What the user says that the answer is about.
    pub(crate) asked: String,
    /// Code of the user's language.
    pub(crate) language: String,
    pub(crate) messages: Vec<Message>,
    pub(crate) tools: Vec<ToolSpec>,
    pub(crate) answer: Answer,
    pub(crate) topics: Topics,
}

/// Makes lessons. Immutable: share it.
#[derive(Debug)]
pub(crate) struct Teacher {
    pub(crate) languages: Vec<Language>,
    catalogue: Catalogue,
}

/// The tools of one box, and who speaks with it.
pub(super) struct Place {
    pub(super) offers: Vec<Offer>,
    pub(super) tools: Vec<ToolSpec>,
    /// The only language spoken there, where a tool names rooms.
    language: Option<usize>,
}

/// What a lesson adds to a conversation before its answer.
pub(super) struct Turn {
    pub(super) sort: Sort,
    pub(super) messages: Vec<Message>,
    pub(super) answer: Answer,
    /// The kind of tool for what the user wants, where no call says it.
    pub(super) kind: Option<&'static str>,
    /// What the answer asks for.
    pub(super) lacks: Option<Slot>,
}

impl Turn {
    pub(super) fn new(sort: Sort, messages: Vec<Message>, answer: Answer) -> Self {
        Self { sort, messages, answer, kind: None, lacks: None }
    }

    /// What the user says first.
    fn asked(&self) -> String {
        let said = self.messages.iter().find_map(|message| match message {
            Message::User { content } => Some(content.concat()),
            _ => None,
        });
        said.unwrap_or_default()
    }
}

impl Teacher {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { languages: Language::all()?, catalogue: Catalogue::read()? })
    }

    /// What tools can be for, those that are kept from training last.
    #[cfg(test)]
    pub(super) fn classes(&self) -> Vec<&str> {
        self.catalogue.classes.iter().map(|class| class.name.as_str()).collect()
    }

    /// Boxes and wishes that were put down by hand.
    pub(crate) fn field(&self) -> Result<Vec<Lesson>> {
        field::lessons(&self.languages)
    }

    /// Lessons that share their tools.
    pub(crate) fn group(&self, lessons: usize, wish: &Wish, dice: &mut Dice) -> Vec<Lesson> {
        let place = self.place(wish, dice);
        let mut made = Vec::with_capacity(lessons);
        // A few draws give nothing: the tools do not allow the sort, or the sentence is kept for tests.
        for _ in 0..lessons * 40 {
            if made.len() == lessons {
                break;
            }
            let at = place.language.unwrap_or_else(|| dice.below(self.languages.len()));
            let language = &self.languages[at];
            let sort = wish.sort.unwrap_or_else(|| draw_sort(&place, dice));
            let Wish { shares, unheard_of, .. } = *wish;
            let (place, catalogue) = (&place, &self.catalogue);
            let mut speaker = Speaker { language, place, catalogue, shares, unheard_of, dice };
            let Some(turn) = speaker.turn(sort) else { continue };
            let asked = turn.asked();
            let tools = (&*place.offers, &*place.tools);
            let topics = Topics::new(&self.catalogue.kinds(), tools, &turn);
            let mut messages = speaker.earlier().unwrap_or_default();
            messages.extend(turn.messages);
            if dice.chance(0.2) {
                let system = dice.pick(&self.catalogue.systems).clone();
                messages.insert(0, Message::System { content: vec![system] });
            }
            made.push(Lesson {
                topics,
                sort: turn.sort,
                asked,
                language: language.code.clone(),
                messages,
                tools: place.tools.clone(),
                answer: turn.answer,
            });
        }
        made
    }

    fn place(&self, wish: &Wish, dice: &mut Dice) -> Place {
        let Wish { shares, sort, language, kinds: most, narrow, .. } = *wish;
        let one = dice.chance(0.3).then(|| dice.below(self.languages.len()));
        let language = language.or(one);
        let mut kinds = self.catalogue.kinds();
        dice.shuffle(&mut kinds);
        if narrow.is_of_kin(dice) {
            let first = kinds[0];
            kinds.sort_by_key(|kind| !are_kindred(kind, first));
        }
        let none = sort.is_none() && dice.chance(0.02);
        let count = if none {
            0
        } else {
            let count = 1 + dice.below(3) + dice.below(3) + if dice.chance(0.1) { 4 } else { 0 };
            count.min(most)
        };
        let manner = self.catalogue.manner(wish, dice);
        let mut offers: Vec<Offer> = Vec::new();
        for kind in kinds {
            if offers.len() == count {
                break;
            }
            let some_of = |list: &[Noun], dice: &mut Dice| {
                let list = shares.nouns.of(list);
                let start = dice.below(list.len());
                let names = list.iter().cycle().skip(start).take(3 + dice.below(4));
                names.map(|noun| noun.bare.clone()).collect::<Vec<_>>()
            };
            let rooms = language
                .filter(|_| dice.chance(0.2))
                .map(|at| some_of(&self.languages[at].rooms, dice));
            let things = language.zip(of_kind(kind).things).filter(|_| narrow.is_listed(dice));
            let things =
                things.map(|(at, list)| some_of(&self.languages[at].things.lists[list], dice));
            let known = Known { rooms, things };
            // Functions of one box mostly look alike.
            let other = dice.chance(0.2).then(|| self.catalogue.manner(wish, dice));
            let manner = other.as_ref().unwrap_or(&manner);
            let offer = self.catalogue.offer(kind, manner, shares, known, dice);
            let taken = |spec: &ToolSpec| {
                offers.iter().flat_map(|offer| &offer.specs).any(|other| other.name == spec.name)
            };
            if !offer.specs.iter().any(taken) {
                offers.push(offer);
            }
        }
        let mut tools: Vec<ToolSpec> =
            offers.iter().flat_map(|offer| offer.specs.clone()).collect();
        dice.shuffle(&mut tools);
        Place { offers, tools, language }
    }
}

fn draw_sort(place: &Place, dice: &mut Dice) -> Sort {
    if place.tools.is_empty() {
        let sorts = [Sort::NoTool, Sort::NoTool, Sort::OffTopic, Sort::Talk];
        return *dice.pick(&sorts);
    }
    match dice.below(100) {
        0..46 => Sort::One,
        46..57 => Sort::Several,
        57..73 => Sort::Lack,
        73..77 => Sort::Supplied,
        77..84 => Sort::Report,
        84..93 => Sort::NoTool,
        93..97 => Sort::OffTopic,
        _ => Sort::Talk,
    }
}
