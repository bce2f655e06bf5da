//! What a user of a place says, and what is to be answered.

use protocol::Message;

use super::catalogue::Catalogue;
use super::intents::{INTENTS, Intent, Slot, are_kindred, intent};
use super::lacks::{LACKS, Lack};
use super::language::{Done, Language};
use super::lesson::{Place, Turn};
use super::narrow::Known;
use super::offer::Offer;
use super::phrase::{Slots, capital, fill};
use super::results::{call_id, failure, success};
use super::{Answer, Call, Share, Shares, Sort};
use crate::dice::Dice;

/// Whether a sentence is kept for tests, whatever it is made of: one in thirty-two.
pub(crate) fn is_kept(sentence: &str) -> bool {
    (hash(sentence) >> 24).is_multiple_of(32)
}

/// Source: FNV-1a.
pub(crate) fn hash(bytes: impl AsRef<[u8]>) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.as_ref().iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The share of sentences with something missing that are made of ordinary ones.
const MADE: f64 = 0.6;

/// The share of wishes that no tool is for which are about another thing, where a tool is for one.
const OF_ANOTHER_THING: f64 = 0.4;

/// A user of a place, in one language.
pub(super) struct Speaker<'a> {
    pub(super) language: &'a Language,
    pub(super) place: &'a Place,
    pub(super) catalogue: &'a Catalogue,
    pub(super) shares: Shares,
    /// As in a wish.
    pub(super) unheard_of: f64,
    pub(super) dice: &'a mut Dice,
}

impl Speaker<'_> {
    /// A conversation of this sort; nothing where the tools do not allow it, or where the sentence belongs
    /// to the other part.
    pub(super) fn turn(&mut self, sort: Sort) -> Option<Turn> {
        match sort {
            Sort::One => self.commands(1),
            Sort::Several => {
                let count = if self.dice.chance(0.12) { 3 } else { 2 };
                self.commands(count)
            }
            Sort::Lack => self.lack(false),
            Sort::Supplied => self.lack(true),
            Sort::Report => self.report(),
            Sort::NoTool => self.no_tool(),
            Sort::OtherThing => {
                let (intent, slots) = self.of_another_thing()?;
                self.refused(sort, intent, &slots, None)
            }
            Sort::OffTopic => {
                let wordings = &self.language.talk.off_topic;
                let sentence = self.dice.pick(self.shares.wordings.of(wordings)).clone();
                self.says(sort, sentence, self.language.talk.off_topic_answer.clone())
            }
            Sort::Talk => {
                let talk = &self.language.talk;
                let topics = [
                    (&talk.hello, &talk.hello_answer),
                    (&talk.who, &talk.who_answer),
                    (&talk.what, &talk.what_answer),
                    (&talk.thanks, &talk.thanks_answer),
                    (&talk.bye, &talk.bye_answer),
                ];
                let (wordings, answer) = *self.dice.pick(&topics);
                let sentence = self.dice.pick(self.shares.wordings.of(wordings)).clone();
                self.says(sort, sentence, answer.clone())
            }
        }
    }

    /// Now and then, what was said and answered before.
    pub(super) fn earlier(&mut self) -> Option<Vec<Message>> {
        if !self.dice.chance(0.08) {
            return None;
        }
        let sorts = [Sort::Report, Sort::Report, Sort::Report, Sort::NoTool, Sort::Talk];
        let sort = *self.dice.pick(&sorts);
        let turn = self.turn(sort)?;
        let Answer::Text(answer) = turn.answer else { return None };
        let mut messages = turn.messages;
        messages.push(assistant(answer));
        Some(messages)
    }

    /// Talk is a closed list of sentences: none of them is kept by its hash.
    fn says(&self, sort: Sort, sentence: String, answer: String) -> Option<Turn> {
        let answer = Answer::Text(answer);
        Some(Turn::new(sort, vec![user(sentence)], answer))
    }

    /// Whether a sentence of this template is for those who are asked: tests take what cannot have been
    /// taught, for its words or its nouns, and of the rest what is kept for them.
    fn wanted(&self, sentence: &str, template: &str) -> bool {
        let Shares { wordings, nouns, .. } = self.shares;
        let named = ["{thing", "{room", "{person", "{message"];
        let has_nouns = named.iter().any(|slot| template.contains(slot));
        let is_new = wordings == Share::Held || (nouns == Share::Held && has_nouns);
        match self.shares == Shares::TAUGHT {
            true => !is_kept(sentence),
            false => is_new || is_kept(sentence),
        }
    }

    fn commands(&mut self, count: usize) -> Option<Turn> {
        if self.place.offers.is_empty() {
            return None;
        }
        let (mut clauses, mut calls) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let offer = self.dice.pick(&self.place.offers).clone();
            let intent = self.intent_of(&offer.kind);
            if count > 1 && intent.is_message() {
                return None;
            }
            let slots = self.slots(intent, &offer)?;
            // Where a room may be left out, people do.
            if (offer.roomless || offer.room_optional && self.dice.chance(0.4)) && count == 1 {
                return self.without_room(intent, &offer, slots);
            }
            let template = if count > 1 { self.clause(intent)? } else { self.template(intent) };
            let template = self.as_said(template, intent, &slots)?;
            clauses.push((fill(&template.0, &slots, self.language, self.dice)?, template.1));
            let call = offer.call(intent, &slots);
            // Nobody wants the same twice.
            if calls.contains(&call) {
                return None;
            }
            calls.push(call);
        }
        let sentence = self.sentence(clauses);
        // Every command names something.
        if !self.wanted(&sentence, "{thing") {
            return None;
        }
        let sort = if count == 1 { Sort::One } else { Sort::Several };
        let answer = Answer::Calls(calls);
        Some(Turn::new(sort, vec![user(sentence)], answer))
    }

    fn without_room(&mut self, intent: &Intent, offer: &Offer, mut slots: Slots) -> Option<Turn> {
        let fits = |lack: &Lack| lack.intent == intent.name && lack.slot == Slot::Room;
        let lack = self.draw_lack(fits)?;
        slots.room = None;
        let (sentence, template) = self.lacking(&lack, &slots)?;
        let calls = vec![offer.call(intent, &slots)];
        self.wanted(&sentence, &template)
            .then(|| Turn::new(Sort::One, vec![user(sentence)], Answer::Calls(calls)))
    }

    fn lack(&mut self, supplied: bool) -> Option<Turn> {
        let place = self.place;
        let offer = |lack: &Lack| {
            let kind = intent(lack.intent).kind;
            place.offers.iter().find(|offer| offer.kind == kind)
        };
        // What a tool for something near would do without a number is no question.
        let is_done = |lack: &Lack| {
            let kind = intent(lack.intent).kind;
            let others = || place.offers.iter().filter(|offer| offer.kind != kind);
            lack.is_of_a_number() && others().any(|offer| are_kindred(&offer.kind, kind))
        };
        let fits =
            |lack: &Lack| offer(lack).is_some_and(|offer| offer.needs(lack.slot)) && !is_done(lack);
        let lack = self.draw_lack(fits)?;
        let (intent, offer) = (intent(lack.intent), offer(&lack)?);
        let whole = self.slots(intent, offer)?;
        let mut slots = whole.clone();
        match lack.slot {
            Slot::Thing => (slots.thing, slots.person) = (None, None),
            Slot::Room => slots.room = None,
            Slot::Number => slots.number = None,
            Slot::Time => slots.time = None,
            Slot::Message => slots.message = None,
        }
        let (sentence, template) = self.lacking(&lack, &slots)?;
        if !self.wanted(&sentence, &template) {
            return None;
        }
        let question = self.language.questions[lack.question][0].clone();
        let mut messages = vec![user(sentence)];
        if !supplied {
            let turn = Turn::new(Sort::Lack, messages, Answer::Text(question));
            return Some(Turn { kind: Some(intent.kind), lacks: Some(lack.slot), ..turn });
        }
        // What a person would leave out of a sentence entirely cannot be told apart by its answer.
        let complete = lack.names_the_rest();
        let reply = self.reply(&whole, lack.slot)?;
        messages.push(assistant(question));
        messages.push(user(reply));
        let answer = Answer::Calls(vec![offer.call(intent, &whole)]);
        complete.then(|| Turn::new(Sort::Supplied, messages, answer))
    }

    /// One that is written down, or one that is made, whichever of them fit.
    fn draw_lack(&mut self, fits: impl Fn(&Lack) -> bool) -> Option<Lack> {
        let (listed, made): (Vec<Lack>, Vec<Lack>) =
            LACKS.into_iter().filter(fits).partition(|lack| lack.list.is_some());
        let drawn = if self.dice.chance(MADE) { [made, listed] } else { [listed, made] };
        let drawn = drawn.into_iter().find(|lacks| !lacks.is_empty())?;
        Some(*self.dice.pick(&drawn))
    }

    /// What the user says when asked for one slot.
    fn reply(&mut self, slots: &Slots, slot: Slot) -> Option<String> {
        let templates: &[&str] = match slot {
            Slot::Thing if slots.person.is_some() => {
                &["{person.bare}", "{person.the}", "{person.to}"]
            }
            Slot::Thing => &["{thing.bare}", "{thing.the}"],
            Slot::Room => &["{room.bare}", "{room.in}", "{room.the}"],
            Slot::Number => &["{number}"],
            Slot::Time => &["{time}"],
            Slot::Message => &["{message}"],
        };
        let template = *self.dice.pick(templates);
        let reply = fill(template, slots, self.language, self.dice)?;
        let reply = if self.dice.chance(0.7) { capital(&reply) } else { reply };
        let end = if slot != Slot::Message && self.dice.chance(0.4) { "." } else { "" };
        Some(reply + end)
    }

    fn report(&mut self) -> Option<Turn> {
        if self.place.offers.is_empty() {
            return None;
        }
        let offer = self.dice.pick(&self.place.offers).clone();
        let intent = self.intent_of(&offer.kind);
        let slots = self.slots(intent, &offer)?;
        let template = self.template(intent);
        let template = self.as_said(template, intent, &slots)?;
        let clause = (fill(&template.0, &slots, self.language, self.dice)?, template.1);
        let sentence = self.sentence(vec![clause]);
        let calls = vec![offer.call(intent, &slots)];
        if !self.wanted(&sentence, &template.0) {
            return None;
        }
        self.reported(intent, slots, sentence, calls)
    }

    fn reported(
        &mut self,
        intent: &Intent,
        mut slots: Slots,
        sentence: String,
        calls: Vec<Call>,
    ) -> Option<Turn> {
        let failed = self.dice.chance(0.15);
        let (result, text) = if failed {
            let (result, error) = failure(self.dice);
            slots.error = Some(error);
            (result, fill(&self.language.talk.failed_answer, &slots, self.language, self.dice)?)
        } else {
            let (result, outcome) = success(intent, &mut slots, self.language, self.dice);
            let list = match &self.language.intents[intent.name].done {
                Done::One(list) => list,
                Done::ByOutcome(lists) => &lists[outcome],
            };
            (result, fill(&list[0], &slots, self.language, self.dice)?)
        };
        let id = call_id(self.dice);
        let stored = calls.iter().map(|call| call.named(&id));
        let messages = vec![
            user(sentence),
            Message::Assistant { content: None, tool_calls: stored.collect(), prefix: false },
            Message::Tool {
                content: vec![result],
                call_id: Some(id),
                name: Some(calls[0].name.clone()),
            },
        ];
        let answer = Answer::Text(capital(&text));
        Some(Turn::new(Sort::Report, messages, answer))
    }

    /// A command that none of the tools does.
    fn no_tool(&mut self) -> Option<Turn> {
        let offers = &self.place.offers;
        let is_narrow = offers.iter().any(|offer| offer.one_thing.is_some());
        if is_narrow && self.dice.chance(OF_ANOTHER_THING) {
            let (intent, slots) = self.of_another_thing()?;
            return self.refused(Sort::NoTool, intent, &slots, None);
        }
        let intent = self.dice.pick(&INTENTS);
        if offers.iter().any(|offer| are_kindred(&offer.kind, intent.kind)) {
            return None;
        }
        let slots = self.draw(intent, true, &Known::default())?;
        self.refused(Sort::NoTool, intent, &slots, Some(intent.kind))
    }

    /// A wish, and that no tool does it. `kind`: that of the tool that would.
    fn refused(
        &mut self,
        sort: Sort,
        intent: &Intent,
        slots: &Slots,
        kind: Option<&'static str>,
    ) -> Option<Turn> {
        let template = self.template(intent);
        let clause = (fill(&template.0, slots, self.language, self.dice)?, template.1);
        let sentence = self.sentence(vec![clause]);
        let talk = &self.language.talk;
        let answer =
            if self.place.tools.is_empty() { &talk.no_tools_answer } else { &talk.no_tool_answer };
        let answer = Answer::Text(answer.clone());
        self.wanted(&sentence, &template.0)
            .then(|| Turn { kind, ..Turn::new(sort, vec![user(sentence)], answer) })
    }

    /// What a tool for one thing would do with another one, which no other tool is for.
    fn of_another_thing(&mut self) -> Option<(&'static Intent, Slots)> {
        let offers = &self.place.offers;
        let is_alone = |own: &Offer| {
            offers
                .iter()
                .all(|other| other.kind == own.kind || !are_kindred(&other.kind, &own.kind))
        };
        if offers.is_empty() {
            return None;
        }
        let offer = self.dice.pick(offers);
        let one_thing = offer.one_thing.as_ref().filter(|_| is_alone(offer))?;
        if one_thing.others.is_empty() {
            return None;
        }
        let intent = self.intent_of(&offer.kind);
        let mut slots = self.draw(intent, true, &Known::default())?;
        let other = self.dice.pick::<String>(&one_thing.others);
        slots.thing = Some(self.of_class(other));
        Some((intent, slots))
    }
}

fn user(text: String) -> Message {
    Message::User { content: vec![text] }
}

fn assistant(text: String) -> Message {
    Message::Assistant { content: Some(vec![text]), tool_calls: Vec::new(), prefix: false }
}
