//! Two devices that are not there: each listens for calls at the broker and remembers what it was told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mqtt_transport::Endpoint;
use protocol::ToolSpec;
use serde_json::{Value, json};

use crate::error::AssembleError;

/// Things and their states, by name.
type Memory = BTreeMap<String, Value>;

/// Things that a device remembers.
const THINGS_MAX: usize = 256;
/// How often a device looks whether it shall end.
const LOOK: Duration = Duration::from_millis(100);
/// What a room has that nobody set a temperature for, in degrees.
const UNHEATED: f64 = 18.0;

/// A device: its name in topics, what it can do, and how it does it.
#[derive(Clone, Copy)]
pub(super) struct Device {
    pub(super) name: &'static str,
    pub(super) functions: fn() -> Vec<ToolSpec>,
    act: fn(&mut Memory, &str, &Value) -> Value,
}

pub(super) const DEVICES: [Device; 2] = [
    Device { name: "switches", functions: switch_functions, act: switch },
    Device { name: "thermostat", functions: thermostat_functions, act: thermostat },
];

/// A device that runs; it ends when this is dropped.
pub(super) struct Running {
    stop: Option<flume::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of a device had ended in a panic");
        }
    }
}

impl Device {
    /// Connects it to a broker.
    pub(super) fn start(self, broker: SocketAddr) -> Result<Running, AssembleError> {
        let calls = format!("demo/{}/call", self.name);
        let endpoint = Endpoint::connect(broker, &format!("demo-{}", self.name), &[&calls])?;
        let (stop, stopped) = flume::bounded::<()>(1);
        let thread = std::thread::Builder::new()
            .name(format!("demo-{}", self.name))
            .spawn(move || self.run(&endpoint, &stopped))?;
        Ok(Running { stop: Some(stop), thread: Some(thread) })
    }

    fn run(self, endpoint: &Endpoint, stopped: &flume::Receiver<()>) {
        let mut memory = Memory::new();
        let results = format!("demo/{}/result", self.name);
        while !stopped.is_disconnected() {
            let Some((_, payload)) = endpoint.receive(Instant::now() + LOOK) else { continue };
            let Ok(call) = serde_json::from_slice::<Value>(&payload) else { continue };
            let function = call["function"].as_str().unwrap_or_default();
            let result = (self.act)(&mut memory, function, &call["arguments"]);
            let body = json!({"id": call["id"], "result": result}).to_string();
            if endpoint.publish(&results, body, false).is_err() {
                return;
            }
        }
    }
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

fn switch(memory: &mut Memory, function: &str, arguments: &Value) -> Value {
    let text = |name: &str| arguments[name].as_str().unwrap_or_default().to_lowercase();
    let thing = format!("{} / {}", text("device"), text("room"));
    match function {
        "switch_device" => remember(memory, thing, arguments["state"].clone()),
        _ => json!({"state": memory.get(&thing).cloned().unwrap_or_else(|| json!("off"))}),
    }
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

fn thermostat(memory: &mut Memory, function: &str, arguments: &Value) -> Value {
    let room = arguments["room"].as_str().unwrap_or_default().to_lowercase();
    match function {
        "set_temperature" => match arguments["temperature"].as_f64() {
            Some(degrees) if (5.0..=35.0).contains(&degrees) => {
                remember(memory, room, json!(degrees))
            }
            _ => json!({"error": "out of range"}),
        },
        _ => json!({"temperature": memory.get(&room).cloned().unwrap_or_else(|| json!(UNHEATED))}),
    }
}

fn remember(memory: &mut Memory, thing: String, state: Value) -> Value {
    if memory.len() >= THINGS_MAX && !memory.contains_key(&thing) {
        return json!({"error": "too many devices"});
    }
    memory.insert(thing, state);
    json!({"ok": true})
}
