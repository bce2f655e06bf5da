//! What users want, and which kind of tool does it.

/// What a number in a sentence means, and so its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    Percent,
    RoomDegrees,
    Degrees,
    Speed,
    Minutes,
}

/// One intent of the language files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Intent {
    pub(super) name: &'static str,
    /// The kind of tool, as in `tools.toml`.
    pub(super) kind: &'static str,
    /// Which of the tool's two deeds, where it has two.
    pub(super) deed: usize,
    /// The list of nouns of its thing.
    pub(super) things: Option<&'static str>,
    pub(super) room: bool,
    pub(super) measure: Option<Measure>,
    pub(super) time: bool,
}

impl Intent {
    const fn of(name: &'static str, kind: &'static str) -> Self {
        Self { name, kind, deed: 0, things: None, room: false, measure: None, time: false }
    }

    const fn second(mut self) -> Self {
        self.deed = 1;
        self
    }

    const fn things(mut self, list: &'static str) -> Self {
        self.things = Some(list);
        self
    }

    const fn room(mut self) -> Self {
        self.room = true;
        self
    }

    const fn measure(mut self, measure: Measure) -> Self {
        self.measure = Some(measure);
        self
    }

    const fn time(mut self) -> Self {
        self.time = true;
        self
    }

    /// Whether it passes on a text of the user.
    pub(super) fn is_message(&self) -> bool {
        self.kind == "notify"
    }
}

pub(super) const INTENTS: [Intent; 32] = [
    Intent::of("switch_on", "switch").things("switched").room(),
    Intent::of("switch_off", "switch").second().things("switched").room(),
    Intent::of("dim", "dim").things("dimmed").room().measure(Measure::Percent),
    Intent::of("heat_room", "heat_room").room().measure(Measure::RoomDegrees),
    Intent::of("heat_thing", "heat_thing").things("heated").measure(Measure::Degrees),
    Intent::of("cover_open", "cover").things("covers").room(),
    Intent::of("cover_close", "cover").second().things("covers").room(),
    Intent::of("cover_move", "cover_move").things("covers").room().measure(Measure::Percent),
    Intent::of("valve_open", "valve").things("valves"),
    Intent::of("valve_close", "valve").second().things("valves"),
    Intent::of("valve_move", "valve_move").things("valves").measure(Measure::Percent),
    Intent::of("pump_start", "pump").things("pumps"),
    Intent::of("pump_stop", "pump").second().things("pumps"),
    Intent::of("pump_speed", "pump_speed").things("pumps").measure(Measure::Percent),
    Intent::of("machine_start", "machine").things("machines"),
    Intent::of("machine_stop", "machine").second().things("machines"),
    Intent::of("machine_speed", "machine_speed").things("machines").measure(Measure::Speed),
    Intent::of("door_lock", "door").things("doors"),
    Intent::of("door_unlock", "door").second().things("doors"),
    Intent::of("alarm_arm", "alarm").room(),
    Intent::of("alarm_disarm", "alarm").second().room(),
    Intent::of("alarm_clear", "alarm_clear").things("alarms"),
    Intent::of("mode", "mode").things("modes"),
    Intent::of("delay_on", "delay").things("switched").room().measure(Measure::Minutes),
    Intent::of("delay_off", "delay").second().things("switched").room().measure(Measure::Minutes),
    Intent::of("at_on", "at").things("switched").room().time(),
    Intent::of("at_off", "at").second().things("switched").room().time(),
    Intent::of("notify", "notify"),
    Intent::of("state", "state").things("switched").room(),
    Intent::of("temperature", "temperature").room(),
    Intent::of("meter", "meter").things("meters"),
    Intent::of("status", "status").things("machines"),
];

/// What a sentence leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Slot {
    Thing,
    Room,
    Number,
    Time,
    Message,
}

impl Slot {
    pub(super) const COUNT: usize = 5;
}

/// Kinds of tools that a sentence for one of them may be taken to mean as well.
const KINDRED: [&[&str]; 7] = [
    &["switch", "delay", "at", "dim", "state"],
    &["cover", "cover_move"],
    &["valve", "valve_move"],
    &["pump", "pump_speed"],
    &["machine", "machine_speed", "status"],
    &["heat_room", "heat_thing", "temperature"],
    &["alarm", "alarm_clear"],
];

pub(super) fn are_kindred(one: &str, other: &str) -> bool {
    one == other || KINDRED.iter().any(|kin| kin.contains(&one) && kin.contains(&other))
}

/// The first intent of a kind of tool.
pub(super) fn of_kind(kind: &str) -> &'static Intent {
    INTENTS.iter().find(|intent| intent.kind == kind).expect("an intent of each kind")
}

pub(super) fn intent(name: &str) -> &'static Intent {
    INTENTS.iter().find(|intent| intent.name == name).expect("a listed intent")
}
