//! Sentences that leave something out: those that are written down, and ordinary ones without one of
//! their parts.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::intents::{Intent, Slot, intent};
use super::language::Noun;
use crate::dice::Dice;

/// A way to leave something out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lack {
    /// The list of the sentences, where they are written down.
    pub(super) list: Option<&'static str>,
    pub(super) intent: &'static str,
    /// What is missing.
    pub(super) slot: Slot,
    /// What is asked back.
    pub(super) question: &'static str,
}

impl Lack {
    const fn listed(
        list: &'static str,
        intent: &'static str,
        slot: Slot,
        question: &'static str,
    ) -> Self {
        Self { list: Some(list), intent, slot, question }
    }

    const fn made(intent: &'static str, slot: Slot, question: &'static str) -> Self {
        Self { list: None, intent, slot, question }
    }

    /// Whether question and answer together say all that the call needs: lists of general words name
    /// nothing else.
    pub(super) fn names_the_rest(&self) -> bool {
        let Intent { room, measure, .. } = *intent(self.intent);
        self.slot != Slot::Thing || room || self.intent == "notify" || measure.is_none()
    }

    /// Whether a tool for something near would do without what is missing.
    pub(super) fn is_of_a_number(&self) -> bool {
        self.list.is_none() && matches!(self.slot, Slot::Number | Slot::Time)
    }
}

pub(super) const LACKS: [Lack; 51] = [
    Lack::listed("switch_on_room", "switch_on", Slot::Room, "room"),
    Lack::listed("switch_off_room", "switch_off", Slot::Room, "room"),
    Lack::listed("switch_on_thing", "switch_on", Slot::Thing, "thing"),
    Lack::listed("dim_number", "dim", Slot::Number, "percent"),
    Lack::listed("heat_room_number", "heat_room", Slot::Number, "degrees"),
    Lack::listed("heat_room_room", "heat_room", Slot::Room, "room"),
    Lack::listed("cover_open_room", "cover_open", Slot::Room, "room"),
    Lack::listed("valve_open_thing", "valve_open", Slot::Thing, "thing"),
    Lack::listed("pump_speed_number", "pump_speed", Slot::Number, "percent"),
    Lack::listed("machine_speed_number", "machine_speed", Slot::Number, "speed"),
    Lack::listed("machine_start_thing", "machine_start", Slot::Thing, "thing"),
    Lack::listed("door_lock_thing", "door_lock", Slot::Thing, "thing"),
    Lack::listed("mode_thing", "mode", Slot::Thing, "mode"),
    Lack::listed("delay_off_number", "delay_off", Slot::Number, "minutes"),
    Lack::listed("at_on_time", "at_on", Slot::Time, "time"),
    Lack::listed("notify_person", "notify", Slot::Thing, "person"),
    Lack::listed("notify_message", "notify", Slot::Message, "message"),
    Lack::listed("meter_thing", "meter", Slot::Thing, "meter"),
    Lack::made("switch_on", Slot::Room, "room"),
    Lack::made("switch_off", Slot::Room, "room"),
    Lack::made("dim", Slot::Room, "room"),
    Lack::made("heat_room", Slot::Room, "room"),
    Lack::made("cover_open", Slot::Room, "room"),
    Lack::made("cover_close", Slot::Room, "room"),
    Lack::made("cover_move", Slot::Room, "room"),
    Lack::made("alarm_arm", Slot::Room, "room"),
    Lack::made("alarm_disarm", Slot::Room, "room"),
    Lack::made("state", Slot::Room, "room"),
    Lack::made("temperature", Slot::Room, "room"),
    Lack::made("delay_on", Slot::Room, "room"),
    Lack::made("delay_off", Slot::Room, "room"),
    Lack::made("at_on", Slot::Room, "room"),
    Lack::made("at_off", Slot::Room, "room"),
    Lack::made("dim", Slot::Number, "percent"),
    Lack::made("heat_room", Slot::Number, "degrees"),
    Lack::made("heat_thing", Slot::Number, "degrees"),
    Lack::made("pump_speed", Slot::Number, "percent"),
    Lack::made("machine_speed", Slot::Number, "speed"),
    Lack::made("delay_on", Slot::Number, "minutes"),
    Lack::made("delay_off", Slot::Number, "minutes"),
    Lack::made("at_on", Slot::Time, "time"),
    Lack::made("at_off", Slot::Time, "time"),
    Lack::made("valve_open", Slot::Thing, "thing"),
    Lack::made("valve_close", Slot::Thing, "thing"),
    Lack::made("pump_start", Slot::Thing, "thing"),
    Lack::made("pump_stop", Slot::Thing, "thing"),
    Lack::made("machine_start", Slot::Thing, "thing"),
    Lack::made("machine_stop", Slot::Thing, "thing"),
    Lack::made("door_lock", Slot::Thing, "thing"),
    Lack::made("door_unlock", Slot::Thing, "thing"),
    Lack::made("meter", Slot::Thing, "meter"),
];

/// How templates name a room that they can do without.
const PLACES: [&str; 5] = [" {room.in}", " {room.of}", "{room.in}, ", "{room.in} ", "{room.bare} "];

/// How a language leaves something out of a sentence.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Vague {
    /// What stands around a number that is taken out.
    number: Around,
    /// What is said in place of a delay.
    minutes: Instead,
    /// What is said in place of a time of day.
    time: Instead,
    /// Words for anything of a list of things.
    pub(super) things: BTreeMap<String, Vec<Noun>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Around {
    before: Vec<String>,
    behind: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Instead {
    said: Vec<String>,
    instead: Vec<String>,
}

impl Instead {
    fn put(&self, template: &str, dice: &mut Dice) -> Option<String> {
        let said = self.said.iter().find(|said| template.contains(*said))?;
        Some(template.replacen(said, dice.pick::<String>(&self.instead), 1))
    }
}

impl Vague {
    /// A wording of an intent without one of its slots; nothing where it does not do without.
    pub(super) fn without(
        &self,
        slot: Slot,
        template: &str,
        intent: &Intent,
        dice: &mut Dice,
    ) -> Option<String> {
        let text = match slot {
            Slot::Room => {
                let place = PLACES.iter().find(|place| template.contains(*place))?;
                template.replacen(place, "", 1)
            }
            Slot::Number if intent.kind == "delay" => self.minutes.put(template, dice)?,
            Slot::Number => self.number.taken_out(template)?,
            Slot::Time => self.time.put(template, dice)?,
            Slot::Thing => self.in_general(template, intent, dice)?,
            Slot::Message => return None,
        };
        let named = match slot {
            Slot::Room => "{room",
            Slot::Number => "{number",
            Slot::Time => "{time",
            Slot::Thing | Slot::Message => "{thing",
        };
        let is_broken = [" ,", " .", "  "].iter().any(|mark| text.contains(mark));
        // Some wordings name a slot twice.
        (!is_broken && !text.contains(named)).then(|| text.trim_end().to_owned())
    }

    /// The wording with a word for anything of the list in place of its thing.
    fn in_general(&self, template: &str, intent: &Intent, dice: &mut Dice) -> Option<String> {
        let noun = dice.pick(self.things.get(intent.things?)?);
        let mut text = template.to_owned();
        for form in ["bare", "the", "of", "is"] {
            text = text.replace(&format!("{{thing.{form}}}"), noun.form(form)?);
        }
        Some(text)
    }
}

impl Around {
    /// The wording without its number, and what stands around that.
    fn taken_out(&self, template: &str) -> Option<String> {
        let (before, behind) = template.split_once("{number}")?;
        let before = before.trim_end();
        let before = self.before.iter().find_map(|word| before.strip_suffix(word.as_str()))?;
        let behind = self.behind.iter().find_map(|word| behind.strip_prefix(word.as_str()))?;
        let ends = behind.chars().next().is_none_or(|next| !next.is_alphanumeric());
        ends.then(|| format!("{before}{behind}"))
    }
}
