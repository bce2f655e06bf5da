//! What a sentence is about, and how it is put.

use super::Share;
use super::intents::{INTENTS, Intent, Measure, Slot, intent};
use super::lacks::{LACKS, Lack};
use super::language::{Language, Noun, Wordings};
use super::narrow::{Known, OneThing};
use super::offer::Offer;
use super::phrase::{Number, Slots, capital, fill, tag, word};
use super::speaker::Speaker;

/// The share of sentences that are a frame around an act or a state.
const FRAMED: f64 = 0.4;
/// The share of things and rooms that nobody knows: what cannot be known has to be copied.
const UNHEARD_OF: f64 = 0.45;
/// Of these places, and of people, the share whose word is of no language.
const INVENTED: f64 = 0.4;
/// The share of nouns that are described in words of another one: what belongs to a noun has to be seen.
const DESCRIBED: f64 = 0.3;
/// Of those, the share that is mixed with another noun as well: what describes need not be known either.
const DESCRIBED_ANEW: f64 = 0.4;
/// The share of things that tools can be for, among those of tools for many.
const OF_CLASSES: f64 = 0.08;
/// The share of messages that begin as one and end as another.
const MIXED_MESSAGES: f64 = 0.6;

impl Speaker<'_> {
    pub(super) fn intent_of(&mut self, kind: &str) -> &'static Intent {
        let fitting: Vec<&Intent> = INTENTS.iter().filter(|intent| intent.kind == kind).collect();
        self.dice.pick::<&Intent>(&fitting)
    }

    pub(super) fn slots(&mut self, intent: &Intent, offer: &Offer) -> Option<Slots> {
        let mut slots = self.draw(intent, offer.whole, &offer.known)?;
        if let Some(OneThing { class, .. }) =
            offer.one_thing.as_ref().filter(|_| intent.things.is_some())
        {
            slots.thing = Some(self.of_class(&class.name));
        }
        if offer.roomless {
            slots.room = None;
        }
        Some(slots)
    }

    /// What a sentence of this intent is about.
    pub(super) fn draw(&mut self, intent: &Intent, whole: bool, known: &Known) -> Option<Slots> {
        let mut slots = Slots::default();
        if let Some(list) = intent.things {
            slots.thing = Some(match &known.things {
                None => self.thing(list),
                Some(names) => {
                    let name = self.dice.pick(names);
                    let list = &self.language.things.lists[list];
                    list.iter().find(|noun| noun.bare == *name)?.clone()
                }
            });
        }
        if intent.room {
            slots.room = Some(match &known.rooms {
                None => self.room(),
                Some(rooms) => {
                    let name = self.dice.pick(rooms);
                    self.language.rooms.iter().find(|noun| noun.bare == *name)?.clone()
                }
            });
        }
        if let Some(measure) = intent.measure {
            slots.number =
                Some(Number::draw(measure, whole || measure == Measure::Minutes, self.dice));
        }
        if intent.time {
            // One o'clock has an article of its own in some languages.
            let hour = *self
                .dice
                .pick(&[0, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23]);
            let minute =
                if self.dice.chance(0.7) { 5 * self.dice.below(12) } else { self.dice.below(60) };
            slots.time = Some((hour, minute as u8));
        }
        if intent.is_message() {
            let people = self.shares.nouns.of(&self.language.people);
            let person = self.dice.pick(people).clone();
            slots.person = Some(self.unheard_of(person, people, true));
            slots.message = Some(self.message());
        }
        Some(slots)
    }

    /// A noun for what a tool can be for.
    pub(super) fn of_class(&mut self, name: &str) -> Noun {
        self.dice.pick::<Noun>(&self.language.things.classes[name]).clone()
    }

    /// What a tool can be for as one thing among others, in lessons; nothing where its word is one for any of
    /// them.
    fn in_a_class(&mut self, list: &str) -> Option<Noun> {
        if self.unheard_of == 0.0 || !self.dice.chance(OF_CLASSES) {
            return None;
        }
        let names = self.catalogue.classes_among(list);
        let name = (!names.is_empty()).then(|| *self.dice.pick(&names))?;
        let noun = self.language.things.classes[name][0].clone();
        let general = self.language.vague.things.get(list);
        let is_general = general.into_iter().flatten().any(|own| own.bare == noun.bare);
        (!is_general).then_some(noun)
    }

    fn thing(&mut self, list: &str) -> Noun {
        if let Some(noun) = self.in_a_class(list) {
            return noun;
        }
        let things = &self.language.things;
        // Lamps are switched as well as dimmed.
        let list = if list == "switched" && self.dice.chance(0.2) { "dimmed" } else { list };
        // What is numbered is taught.
        let numbers = self.shares.nouns == Share::Taught;
        let numbered = things.numbered.get(list).filter(|_| numbers && self.dice.chance(0.3));
        if let Some(numbered) = numbered {
            return self.dice.pick(numbered).tagged(&tag(self.dice));
        }
        let nouns = self.shares.nouns.of(&things.lists[list]);
        let noun = self.dice.pick(nouns).clone();
        let noun = self.unheard_of(noun, nouns, false);
        if self.dice.chance(0.3) && list != "modes" { noun.tagged(&tag(self.dice)) } else { noun }
    }

    /// Now and then, in lessons that are taught, a noun that nobody knows: half of one and half of another, or
    /// one that is described as others are. A place needs nothing of a word that is known: its sentence tells
    /// that it is one.
    fn unheard_of(&mut self, noun: Noun, nouns: &[Noun], is_place: bool) -> Noun {
        let other = self.dice.chance(self.unheard_of * UNHEARD_OF).then(|| self.dice.pick(nouns));
        let unheard_of = other.and_then(|other| match is_place && self.dice.chance(INVENTED) {
            true => noun.renamed(&word(self.dice)),
            false => noun.mixed(other, self.dice),
        });
        let noun = unheard_of.unwrap_or(noun);
        if !self.dice.chance(self.unheard_of * DESCRIBED) {
            return noun;
        }
        let lists: Vec<&Vec<Noun>> = self.language.things.lists.values().collect();
        let list = *self.dice.pick(&lists);
        let other = self.dice.pick(Share::Taught.of(list));
        let described = noun.described(other, self.language.describes_before);
        let described = match self.dice.chance(DESCRIBED_ANEW) {
            true => described.and_then(|noun| noun.mixed(self.dice.pick(nouns), self.dice)),
            false => described,
        };
        // What is kept from training may be put together as well.
        let is_new = |noun: &Noun| nouns.iter().all(|other| other.bare != noun.bare);
        described.filter(|noun| is_new(noun) && !self.is_of_tests(noun)).unwrap_or(noun)
    }

    /// Whether it is one of the nouns of the tests.
    fn is_of_tests(&self, noun: &Noun) -> bool {
        let Language { rooms, things, people, .. } = self.language;
        let lists = things.lists.values().chain([rooms, people]);
        lists.flat_map(|list| Share::Held.of(list)).any(|held| held.bare == noun.bare)
    }

    /// What shall be told to somebody.
    fn message(&mut self) -> String {
        let messages = self.shares.nouns.of(&self.language.messages);
        let message = self.dice.pick(messages);
        if !self.dice.chance(self.unheard_of * MIXED_MESSAGES) {
            return message.clone();
        }
        let other: Vec<_> = self.dice.pick(messages).split(' ').collect();
        let own: Vec<_> = message.split(' ').collect();
        let (head, tail) = (1 + self.dice.below(own.len()), self.dice.below(other.len()));
        [&own[..head], &other[tail..]].concat().join(" ")
    }

    fn room(&mut self) -> Noun {
        if self.shares.nouns == Share::Taught && self.dice.chance(0.25) {
            return self.dice.pick(&self.language.numbered_rooms).tagged(&tag(self.dice));
        }
        let nouns = self.shares.nouns.of(&self.language.rooms);
        let noun = self.dice.pick(nouns).clone();
        let noun = self.unheard_of(noun, nouns, true);
        if self.dice.chance(0.12) { noun.tagged(&tag(self.dice)) } else { noun }
    }

    /// A wording, and whether it is a clause.
    pub(super) fn template(&mut self, intent: &Intent) -> (String, bool) {
        let wordings = &self.language.intents[intent.name];
        if self.shares.wordings == Share::Held {
            return (self.dice.pick(&wordings.held).clone(), false);
        }
        let is_framed = self.dice.chance(FRAMED);
        let framed = is_framed.then(|| self.framed(wordings));
        if let Some(sentence) = framed.filter(|sentence| !wordings.held.contains(sentence)) {
            return (sentence, false);
        }
        let at = self.dice.below(wordings.say.len() + wordings.ask.len());
        match wordings.say.get(at) {
            Some(clause) => (clause.clone(), true),
            None => (wordings.ask[at - wordings.say.len()].clone(), false),
        }
    }

    /// A frame of the language around an act of the intent, or around a state that it brings about.
    fn framed(&mut self, wordings: &Wordings) -> String {
        let Language { frames, frames_to, frames_that, .. } = self.language;
        let Wordings { acts, acts_to, states, .. } = wordings;
        let forms = [(frames, acts), (frames_to, acts_to), (frames_that, states)];
        let forms: Vec<_> = forms.into_iter().filter(|(_, acts)| !acts.is_empty()).collect();
        let (frames, acts) = *self.dice.pick(&forms);
        let act = self.dice.pick(acts).as_str();
        self.dice.pick(frames).replace("{act}", act).replace("{state}", act)
    }

    /// A clause that can be joined to others. None is kept from training: what is held are whole
    /// sentences.
    pub(super) fn clause(&mut self, intent: &Intent) -> Option<(String, bool)> {
        let say = &self.language.intents[intent.name].say;
        (self.shares.wordings == Share::Taught).then(|| (self.dice.pick(say).clone(), true))
    }

    /// A wording as it is said where no room is meant; nothing where it does not do without.
    pub(super) fn as_said(
        &mut self,
        (template, is_clause): (String, bool),
        intent: &Intent,
        slots: &Slots,
    ) -> Option<(String, bool)> {
        if slots.room.is_some() || !template.contains("{room") {
            return Some((template, is_clause));
        }
        let is_it = |lack: &Lack| lack.intent == intent.name && lack.slot == Slot::Room;
        let lack = LACKS.into_iter().find(is_it)?;
        let vague = &self.language.vague;
        let template = vague.without(Slot::Room, &template, intent, self.dice)?;
        let is_kept = self.is_of_the_other_share(&lack, intent, &template);
        (!is_kept).then_some((template, is_clause))
    }

    /// A sentence that lacks something, and its template.
    pub(super) fn lacking(&mut self, lack: &Lack, slots: &Slots) -> Option<(String, String)> {
        let (template, is_clause) = match lack.list {
            Some(list) => (self.listed(list), false),
            None => {
                let intent = intent(lack.intent);
                let (template, is_clause) = self.template(intent);
                let vague = &self.language.vague;
                let template = vague.without(lack.slot, &template, intent, self.dice)?;
                let is_kept = self.is_of_the_other_share(lack, intent, &template);
                (!is_kept).then_some((template, is_clause))?
            }
        };
        let (template, is_clause) =
            self.as_said((template, is_clause), intent(lack.intent), slots)?;
        let filled = fill(&template, slots, self.language, self.dice)?;
        Some((self.sentence(vec![(filled, is_clause)]), template))
    }

    /// A wording of a list that lacks something.
    fn listed(&mut self, list: &str) -> String {
        let wordings = &self.language.lacks[list];
        let last = wordings.len() - 1;
        match self.shares.wordings {
            Share::Held => wordings[last].clone(),
            Share::Taught => self.dice.pick(&wordings[..last]).clone(),
        }
    }

    /// Whether a wording that lacks something may be had from what this share may not use.
    fn is_of_the_other_share(&mut self, lack: &Lack, intent: &Intent, template: &str) -> bool {
        let words =
            |text: &str| text.trim_matches(|mark: char| " .?!¿¡".contains(mark)).to_lowercase();
        let is_same = |other: &String| words(other) == words(template);
        let listed = |list: &Vec<String>| match self.shares.wordings {
            Share::Taught => list.last().is_some_and(is_same),
            Share::Held => list[..list.len() - 1].iter().any(is_same),
        };
        if self.language.lacks.values().any(listed) {
            return true;
        }
        let held = &self.language.intents[intent.name].held;
        let vague = &self.language.vague;
        let made = |text: &String| vague.without(lack.slot, text, intent, self.dice);
        self.shares.wordings == Share::Taught
            && held.iter().filter_map(made).any(|own| is_same(&own))
    }

    pub(super) fn sentence(&mut self, mut clauses: Vec<(String, bool)>) -> String {
        let first = clauses.remove(0);
        if !first.1 {
            return capital(&first.0);
        }
        let mut text = first.0;
        let quotes = text.contains(['"', '”', '“', '»', ':']);
        for (clause, _) in clauses {
            text = text + self.dice.pick(&self.language.join).as_str() + &clause;
        }
        match self.dice.below(20) {
            0..6 => text = self.dice.pick(&self.language.before).clone() + &text,
            6..9 if !quotes => text += self.dice.pick(&self.language.after).as_str(),
            _ => (),
        }
        let end = *self.dice.pick(&[".", ".", ".", ".", "", "", "!"]);
        let end = if quotes { "" } else { end };
        if self.dice.chance(0.9) { capital(&text) + end } else { text + end }
    }
}
