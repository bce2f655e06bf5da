//! Sentences from templates.

use super::intents::Measure;
use super::language::{Language, Noun};
use crate::dice::Dice;

/// What a sentence is about; what its template does not name is absent.
#[derive(Debug, Clone, Default)]
pub(super) struct Slots {
    pub(super) thing: Option<Noun>,
    pub(super) room: Option<Noun>,
    pub(super) number: Option<Number>,
    pub(super) time: Option<(u8, u8)>,
    pub(super) person: Option<Noun>,
    pub(super) message: Option<String>,
    pub(super) value: Option<String>,
    pub(super) unit: Option<String>,
    pub(super) error: Option<String>,
}

/// A number with one decimal at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) tenths: i64,
}

impl Number {
    /// One that a sentence of this kind may name.
    pub(super) fn draw(measure: Measure, whole: bool, dice: &mut Dice) -> Self {
        let coarse = dice.chance(0.6);
        let mut steps = |from: i64, to: i64, step: i64| {
            let step = if coarse { step } else { 1 };
            10 * step * dice.range((from + step - 1) / step, to / step)
        };
        let tenths = match measure {
            Measure::Percent => steps(2, 100, 5),
            Measure::RoomDegrees => steps(5, 30, 1),
            Measure::Degrees => steps(2, 250, 5),
            Measure::Speed => steps(20, 6000, 50),
            Measure::Minutes => steps(2, 180, 5),
        };
        let halves = matches!(measure, Measure::RoomDegrees | Measure::Degrees) && !whole;
        Self { tenths: tenths + if halves && dice.chance(0.25) { dice.range(1, 9) } else { 0 } }
    }

    /// With this mark between whole numbers and tenths.
    pub(super) fn text(self, decimal: &str) -> String {
        let (whole, tenth) = (self.tenths / 10, self.tenths % 10);
        if tenth == 0 { whole.to_string() } else { format!("{whole}{decimal}{tenth}") }
    }

    pub(super) fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.text(".")).expect("a number")
    }
}

/// Puts the slots into a template; nothing where it names one that is absent, or a form that a noun lacks.
pub(super) fn fill(
    template: &str,
    slots: &Slots,
    language: &Language,
    dice: &mut Dice,
) -> Option<String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once('{') {
        let (slot, behind) = behind.split_once('}')?;
        text += before;
        let (name, form) = slot.split_once('.').unwrap_or((slot, "bare"));
        let noun = |noun: &Option<Noun>| {
            noun.as_ref()?.form(form).filter(|form| !form.is_empty()).map(str::to_owned)
        };
        text += &match name {
            "thing" => noun(&slots.thing)?,
            "room" => noun(&slots.room)?,
            "person" => noun(&slots.person)?,
            "number" => slots.number?.text(&language.decimal),
            "time" => time(slots.time?, language, dice),
            "message" => slots.message.clone()?,
            "value" => slots.value.clone()?,
            "unit" => slots.unit.clone()?,
            "error" => slots.error.clone()?,
            _ => return None,
        };
        rest = behind;
    }
    text += rest;
    for (from, to) in &language.rewrites {
        text = text.replace(from, to);
    }
    Some(text)
}

fn time((hour, minute): (u8, u8), language: &Language, dice: &mut Dice) -> String {
    let format = dice.pick(&language.time_formats);
    let hour = if hour < 10 && dice.chance(0.4) { format!("{hour:02}") } else { hour.to_string() };
    format.replace("{h}", &hour).replace("{m}", &format!("{minute:02}"))
}

/// With a capital first letter.
pub(super) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    // Spanish sentences may begin with a mark.
    let mark = letters.clone().next().filter(|first| matches!(first, '¿' | '¡'));
    if mark.is_some() {
        letters.next();
    }
    let first: String =
        letters.next().map(|first| first.to_uppercase().collect()).unwrap_or_default();
    mark.into_iter().collect::<String>() + &first + letters.as_str()
}

/// A name such as `7`, `P-101` or `Velora`.
pub(super) fn tag(dice: &mut Dice) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHKLMNPRSTVWXZ";
    match dice.below(6) {
        0 | 1 => dice.range(1, 30).to_string(),
        2 => {
            let letter = char::from(*dice.pick(LETTERS));
            format!("{letter}{}", dice.range(1, 40))
        }
        3 => {
            let letters: String =
                (0..1 + dice.below(2)).map(|_| char::from(*dice.pick(LETTERS))).collect();
            format!("{letters}-{}", dice.range(1, 400))
        }
        _ => capital(&word(dice)),
    }
}

/// A word of no language, such as `velora`: what is read in it can only be copied.
pub(super) fn word(dice: &mut Dice) -> String {
    const STARTS: [&str; 18] = [
        "b", "br", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "v", "z",
    ];
    const VOWELS: [&str; 7] = ["a", "e", "i", "o", "u", "ei", "ou"];
    const ENDS: [&str; 9] = ["", "n", "r", "s", "l", "x", "nd", "m", "t"];
    let mut word = String::new();
    for _ in 0..2 + dice.below(2) {
        word = word + *dice.pick(&STARTS) + *dice.pick(&VOWELS);
    }
    word + *dice.pick(&ENDS)
}
