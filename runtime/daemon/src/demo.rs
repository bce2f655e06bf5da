//! `zonda demo`: a broker, two devices and the model in one program. A sentence becomes a call, the call goes
//! to its device over MQTT, and what the device says becomes the answer.

use std::io::{BufRead, IsTerminal, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use firmware_config::Profile;
use mqtt_transport::{EmbeddedBroker, Endpoint};
use protocol::{Event, Input, Message, Request, Service, Tool, ToolError, ToolSpec, Toolbox};
use serde_json::{Value, json};

use crate::assemble::House;
use crate::error::AssembleError;
use crate::model_files::ModelFiles;

mod devices;

use devices::{DEVICES, Device};

/// Lines of what goes over MQTT that wait to be shown.
const SHOWN_MAX: usize = 64;
/// The longest answer, in tokens: a call or a sentence.
const ANSWER_TOKENS_MAX: u32 = 256;

/// Answers `sentences`, or what is typed until the input ends.
pub(crate) fn demo(
    profile: &Profile,
    model: &ModelFiles,
    sentences: &[String],
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<(), AssembleError> {
    let broker = EmbeddedBroker::start(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let devices = DEVICES.map(|device| device.start(broker.address()));
    let _devices = devices.into_iter().collect::<Result<Vec<_>, _>>()?;
    let (shown_in, shown) = flume::bounded(SHOWN_MAX);
    let remotes = Arc::new(Remotes::connect(broker.address(), &shown_in)?);
    let mut bar = crate::progress::bar("loading");
    let toolbox = Arc::clone(&remotes) as Arc<dyn Toolbox>;
    let house = House::build_with(profile, model, Some(toolbox), &mut bar)?;
    writeln!(output, "broker   mqtt://{}", broker.address())?;
    for tool in remotes.tools() {
        writeln!(output, "tool     {} {}", tool.spec().name, tool.spec().description)?;
    }
    let mut talk = Talk { service: house.service(), shown, history: Vec::new() };
    for sentence in sentences {
        writeln!(output, "\nyou      {sentence}")?;
        talk.say(sentence, output)?;
    }
    if sentences.is_empty() {
        talk.listen(input, output)?;
    }
    house.shutdown(Duration::ZERO);
    Ok(())
}

/// One person and the model.
struct Talk {
    service: Arc<dyn Service>,
    shown: flume::Receiver<String>,
    /// What was said since the model asked something back.
    history: Vec<Message>,
}

impl Talk {
    fn listen(
        &mut self,
        input: &mut dyn BufRead,
        output: &mut dyn Write,
    ) -> Result<(), AssembleError> {
        let person = std::io::stdin().is_terminal();
        if person {
            writeln!(output, "Say what to do, in English, French, German, Italian or Spanish.")?;
            writeln!(output, "Ctrl-D ends.")?;
        }
        let mut line = String::new();
        loop {
            write!(output, "\nyou      ")?;
            output.flush()?;
            line.clear();
            if input.read_line(&mut line)? == 0 {
                return Ok(writeln!(output)?);
            }
            let sentence = line.trim();
            if !person {
                writeln!(output, "{sentence}")?;
            }
            if !sentence.is_empty() {
                self.say(sentence, output)?;
            }
        }
    }

    fn say(&mut self, sentence: &str, output: &mut dyn Write) -> Result<(), AssembleError> {
        self.history.push(Message::User { content: vec![sentence.to_owned()] });
        let mut request = Request::new("demo", Input::Chat(self.history.clone()));
        request.sampling.temperature = Some(0.0);
        request.limits.max_tokens = Some(ANSWER_TOKENS_MAX);
        let start = Instant::now();
        let answer = self.answer(request, output)?;
        writeln!(output, "answer   {answer}   ({} ms)", start.elapsed().as_millis())?;
        if answer.ends_with('?') {
            let content = Some(vec![answer]);
            self.history.push(Message::Assistant { content, tool_calls: vec![], prefix: false });
        } else {
            self.history.clear();
        }
        Ok(output.flush()?)
    }

    /// The text of the answer; what went over MQTT is shown before it.
    fn answer(&self, request: Request, output: &mut dyn Write) -> Result<String, AssembleError> {
        let mut reply = self.service.submit(request)?;
        let mut answer = String::new();
        while let Some(event) = reply.recv() {
            for line in self.shown.drain() {
                writeln!(output, "{line}")?;
            }
            match event {
                Event::Text { text, .. } => answer += &text,
                Event::Failed(fault) => return Err(fault.into()),
                _ => {}
            }
        }
        Ok(answer)
    }
}

/// The functions of all devices, as the model sees them.
struct Remotes {
    tools: Vec<Arc<dyn Tool>>,
}

impl Remotes {
    fn connect(broker: SocketAddr, shown: &flume::Sender<String>) -> Result<Self, AssembleError> {
        let endpoint = Endpoint::connect(broker, "zonda-demo", &["demo/+/result"])?;
        let wire = Arc::new(Mutex::new(Wire { endpoint, calls: 0, shown: shown.clone() }));
        let remote = |device: &Device, spec: ToolSpec| {
            let (device, wire) = (device.name, Arc::clone(&wire));
            Arc::new(Remote { device, spec, wire }) as Arc<dyn Tool>
        };
        let tools = DEVICES
            .iter()
            .flat_map(|device| (device.functions)().into_iter().map(move |spec| (device, spec)))
            .map(|(device, spec)| remote(device, spec))
            .collect();
        Ok(Self { tools })
    }
}

impl Toolbox for Remotes {
    fn tools(&self) -> Vec<Arc<dyn Tool>> {
        self.tools.clone()
    }
}

/// The model's side of the broker: one call at a time.
struct Wire {
    endpoint: Endpoint,
    calls: u64,
    shown: flume::Sender<String>,
}

impl Wire {
    fn call(
        &mut self,
        device: &str,
        function: &str,
        arguments: &Value,
        deadline: Instant,
    ) -> Result<Value, ToolError> {
        self.calls += 1;
        let id = self.calls;
        let topic = format!("demo/{device}/call");
        let body = json!({"id": id, "function": function, "arguments": arguments}).to_string();
        self.show(format!("publish  {topic} {body}"));
        self.endpoint.publish(&topic, body, false).map_err(|error| ToolError(error.to_string()))?;
        while let Some((topic, payload)) = self.endpoint.receive(deadline) {
            let result: Value = serde_json::from_slice(&payload).unwrap_or_default();
            // An answer that came too late for its call is nobody's any more.
            if result["id"] == id {
                self.show(format!("receive  {topic} {}", String::from_utf8_lossy(&payload)));
                return Ok(result["result"].clone());
            }
        }
        Err(ToolError("the device did not answer".into()))
    }

    fn show(&self, line: String) {
        // More than is waited for was not asked for by a person.
        let _shown = self.shown.try_send(line);
    }
}

/// A function of a device behind the broker.
struct Remote {
    device: &'static str,
    spec: ToolSpec,
    wire: Arc<Mutex<Wire>>,
}

impl Tool for Remote {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, arguments: &str, deadline: Instant) -> Result<String, ToolError> {
        let mut wire = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        let call = format!("{} {arguments}", self.spec.name);
        let read = serde_json::from_str(arguments)
            .map_err(|error| error.to_string())
            .and_then(|arguments: Value| check(&self.spec, &arguments).map(|()| arguments));
        let arguments = match read {
            Ok(arguments) => arguments,
            Err(why) => {
                wire.show(format!("call     {call}   refused: {why}"));
                return Err(ToolError(why));
            }
        };
        wire.show(format!("call     {call}   keeps its schema"));
        Ok(wire.call(self.device, &self.spec.name, &arguments, deadline)?.to_string())
    }
}

/// Whether arguments keep to the schemas that the devices have: every parameter is required, a text, a
/// number, or one of a list.
fn check(spec: &ToolSpec, arguments: &Value) -> Result<(), String> {
    let given = arguments.as_object().ok_or("arguments are an object")?;
    let empty = serde_json::Map::new();
    let wanted = spec.parameters["properties"].as_object().unwrap_or(&empty);
    if let Some(name) = given.keys().find(|name| !wanted.contains_key(*name)) {
        return Err(format!("{} has no parameter {name:?}", spec.name));
    }
    for (name, schema) in wanted {
        let value = given.get(name).ok_or_else(|| format!("{name} is missing"))?;
        let listed = schema["enum"].as_array();
        let right = match schema["type"].as_str() {
            Some("number") => value.is_number(),
            _ => value.is_string() && listed.is_none_or(|values| values.contains(value)),
        };
        if !right {
            return Err(format!("{name} cannot be {value}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_reaches_its_device_and_comes_back() {
        let broker = EmbeddedBroker::start(SocketAddr::from(([127, 0, 0, 1], 0))).expect("starts");
        let _devices = DEVICES.map(|device| device.start(broker.address()).expect("starts"));
        let (shown_in, shown) = flume::bounded(SHOWN_MAX);
        let remotes = Remotes::connect(broker.address(), &shown_in).expect("connects");
        let call = |name: &str, arguments: Value| {
            let tools = remotes.tools();
            let tool = tools.iter().find(|tool| tool.spec().name == name).expect("is there");
            tool.call(&arguments.to_string(), Instant::now() + Duration::from_secs(10))
        };
        let lamp = json!({"device": "desk lamp", "room": "office"});
        assert_eq!(call("get_state", lamp.clone()).expect("answers"), r#"{"state":"off"}"#);
        let on = json!({"device": "Desk lamp", "room": "office", "state": "on"});
        assert_eq!(call("switch_device", on).expect("answers"), r#"{"ok":true}"#);
        assert_eq!(call("get_state", lamp).expect("answers"), r#"{"state":"on"}"#);
        let warm = json!({"room": "office", "temperature": 21.5});
        assert_eq!(call("set_temperature", warm).expect("answers"), r#"{"ok":true}"#);
        let read = call("get_temperature", json!({"room": "office"})).expect("answers");
        assert_eq!(read, r#"{"temperature":21.5}"#);
        let hot = json!({"room": "office", "temperature": 90});
        assert!(call("set_temperature", hot).expect("answers").contains("error"));
        let lines: Vec<String> = shown.drain().collect();
        assert_eq!(lines.iter().filter(|line| line.starts_with("receive")).count(), 6);
    }

    #[test]
    fn what_does_not_keep_its_schema_is_not_sent() {
        let functions: Vec<ToolSpec> =
            DEVICES.iter().flat_map(|device| (device.functions)()).collect();
        let spec = |name| functions.iter().find(|spec| spec.name == name).expect("is there");
        let switch = spec("switch_device");
        let right = json!({"device": "lamp", "room": "hall", "state": "off"});
        assert_eq!(check(switch, &right), Ok(()));
        for (key, value) in [("state", json!("dim")), ("room", json!(3)), ("more", json!("x"))] {
            let mut wrong = right.clone();
            wrong[key] = value;
            assert!(check(switch, &wrong).is_err(), "{wrong}");
        }
        assert!(check(switch, &json!({"device": "lamp", "state": "on"})).is_err());
        assert!(check(spec("set_temperature"), &json!({"room": "a", "temperature": "1"})).is_err());
    }
}
