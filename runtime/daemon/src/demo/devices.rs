//! Two devices that are not there: each listens for orders at the broker and remembers what it was told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mqtt_transport::Endpoint;
use protocol::ToolSpec;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::AssembleError;

/// Things and their states, by name.
type Memory = BTreeMap<String, Value>;

/// Things that a device remembers.
const THINGS_MAX: usize = 256;
/// How long a device listens at a time.
const LISTEN: Duration = Duration::from_secs(60);
/// What a room has that nobody set a temperature for, in degrees.
const UNHEATED: f64 = 18.0;

/// What a device can be told, as it stands in a message: an order of another shape is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "function", content = "arguments", rename_all = "snake_case")]
pub(super) enum Order {
    SwitchDevice(Switching),
    GetState(Thing),
    SetTemperature(Heating),
    GetTemperature(Room),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Switching {
    device: String,
    room: String,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    On,
    Off,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Thing {
    device: String,
    room: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Heating {
    room: String,
    temperature: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Room {
    room: String,
}

impl Order {
    /// A call as an order. Errors: what is wrong with its function or arguments.
    pub(super) fn new(function: &str, arguments: Value) -> Result<Self, serde_json::Error> {
        serde_json::from_value(json!({"function": function, "arguments": arguments}))
    }

    /// Reads an order and the number that its result is known by.
    fn read(payload: &[u8]) -> Result<(u64, Self), serde_json::Error> {
        #[derive(Deserialize)]
        struct Message {
            id: u64,
            function: String,
            arguments: Value,
        }
        let Message { id, function, arguments } = serde_json::from_slice(payload)?;
        Ok((id, Self::new(&function, arguments)?))
    }
}

/// A device: its name in topics, and the functions it has.
#[derive(Clone, Copy)]
pub(super) struct Device {
    pub(super) name: &'static str,
    pub(super) functions: fn() -> Vec<ToolSpec>,
}

pub(super) const DEVICES: [Device; 2] = [
    Device { name: "switches", functions: switch_functions },
    Device { name: "thermostat", functions: thermostat_functions },
];

impl Device {
    /// Connects it to a broker; it ends with that.
    pub(super) fn start(self, broker: SocketAddr) -> Result<(), AssembleError> {
        let orders = format!("demo/{}/call", self.name);
        let endpoint = Endpoint::connect(broker, &format!("demo-{}", self.name), &[&orders])?;
        let name = format!("demo-{}", self.name);
        std::thread::Builder::new().name(name).spawn(move || self.run(&endpoint))?;
        Ok(())
    }

    fn run(self, endpoint: &Endpoint) {
        let mut memory = Memory::new();
        let results = format!("demo/{}/result", self.name);
        while let Ok(heard) = endpoint.receive(Instant::now() + LISTEN) {
            let Some((_, payload)) = heard else { continue };
            let reply = match Order::read(&payload) {
                Ok((id, order)) => json!({"id": id, "result": act(&mut memory, order)}),
                Err(error) => json!({"error": error.to_string()}),
            };
            if endpoint.publish(&results, reply.to_string()).is_err() {
                return;
            }
        }
    }
}

fn act(memory: &mut Memory, order: Order) -> Value {
    let named = |device: &str, room: &str| format!("{device} / {room}").to_lowercase();
    match order {
        Order::SwitchDevice(Switching { device, room, state }) => {
            remember(memory, named(&device, &room), json!(state))
        }
        Order::GetState(Thing { device, room }) => {
            let state = memory.get(&named(&device, &room));
            json!({"state": state.cloned().unwrap_or_else(|| json!(State::Off))})
        }
        Order::SetTemperature(Heating { room, temperature }) => {
            if !(5.0..=35.0).contains(&temperature) {
                return json!({"error": "a temperature is 5 to 35 degrees"});
            }
            remember(memory, room.to_lowercase(), json!(temperature))
        }
        Order::GetTemperature(Room { room }) => {
            let degrees = memory.get(&room.to_lowercase());
            json!({"temperature": degrees.cloned().unwrap_or_else(|| json!(UNHEATED))})
        }
    }
}

fn remember(memory: &mut Memory, thing: String, state: Value) -> Value {
    if memory.len() >= THINGS_MAX && !memory.contains_key(&thing) {
        return json!({"error": "too many devices"});
    }
    memory.insert(thing, state);
    json!({"ok": true})
}

fn function(name: &str, description: &str, parameters: &[(&str, Value)]) -> ToolSpec {
    let required: Vec<&str> = parameters.iter().map(|(name, _)| *name).collect();
    let properties: serde_json::Map<String, Value> =
        parameters.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    ToolSpec {
        name: name.into(),
        description: description.into(),
        parameters: json!({"type": "object", "properties": properties, "required": required}),
        strict: true,
    }
}

fn text() -> Value {
    json!({"type": "string"})
}

fn switch_functions() -> Vec<ToolSpec> {
    let states = json!({"type": "string", "enum": ["on", "off"]});
    vec![
        function(
            "switch_device",
            "Switches a device on or off.",
            &[("device", text()), ("room", text()), ("state", states)],
        ),
        function(
            "get_state",
            "Tells whether a device is on or off.",
            &[("device", text()), ("room", text())],
        ),
    ]
}

fn thermostat_functions() -> Vec<ToolSpec> {
    let degrees = json!({"type": "number", "description": "Degrees Celsius."});
    vec![
        function(
            "set_temperature",
            "Sets the temperature of a room.",
            &[("room", text()), ("temperature", degrees)],
        ),
        function("get_temperature", "Reads the temperature of a room.", &[("room", text())]),
    ]
}
