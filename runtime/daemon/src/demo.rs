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

use devices::{DEVICES, Device, Order};

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
    DEVICES.iter().try_for_each(|device| device.start(broker.address()))?;
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
        let answer = match self.answer(request, output) {
            Ok(answer) => answer,
            Err(AssembleError::Fault(fault)) => {
                self.history.clear();
                return Ok(writeln!(output, "! {fault}")?);
            }
            Err(error) => return Err(error),
        };
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
    fn call(&mut self, device: &str, order: Order, deadline: Instant) -> Result<Value, ToolError> {
        let failed = |error: &dyn std::fmt::Display| ToolError(error.to_string());
        self.calls += 1;
        let id = self.calls;
        let topic = format!("demo/{device}/call");
        let mut body = serde_json::to_value(order).map_err(|error| failed(&error))?;
        body["id"] = json!(id);
        self.show(format!("publish  {topic} {body}"));
        self.endpoint.publish(&topic, body.to_string()).map_err(|error| failed(&error))?;
        while let Some((topic, payload)) =
            self.endpoint.receive(deadline).map_err(|error| failed(&error))?
        {
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
        let order = serde_json::from_str(arguments)
            .and_then(|arguments| Order::new(&self.spec.name, arguments))
            .map_err(|error| {
                wire.show(format!("refused  {call}: {error}"));
                ToolError(error.to_string())
            })?;
        wire.show(format!("valid    {call}"));
        Ok(wire.call(self.device, order, deadline)?.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_reaches_its_device_and_comes_back() {
        let broker = EmbeddedBroker::start(SocketAddr::from(([127, 0, 0, 1], 0))).expect("starts");
        DEVICES.iter().for_each(|device| device.start(broker.address()).expect("starts"));
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
        assert!(call("set_temperature", hot).expect("answers").contains("5 to 35"));
        let lines: Vec<String> = shown.drain().collect();
        assert_eq!(lines.iter().filter(|line| line.starts_with("receive")).count(), 6);

        let dim = json!({"device": "desk lamp", "room": "office", "state": "dim"});
        assert!(call("switch_device", dim).expect_err("is refused").0.contains("dim"));
        let lines: Vec<String> = shown.drain().collect();
        assert!(lines.len() == 1 && lines[0].starts_with("refused"), "{lines:?}");
        drop(broker);
        let gone = call("get_temperature", json!({"room": "office"})).expect_err("nobody is there");
        assert!(gone.0.contains("over"), "{}", gone.0);
    }

    #[test]
    fn an_order_of_another_shape_is_none() {
        let right = json!({"device": "lamp", "room": "hall", "state": "off"});
        let read = |function: &str, arguments: &Value| Order::new(function, arguments.clone());
        read("switch_device", &right).expect("is one");
        for (key, value) in [("state", json!("dim")), ("room", json!(3)), ("more", json!("x"))] {
            let mut wrong = right.clone();
            wrong[key] = value;
            read("switch_device", &wrong).expect_err("another shape");
        }
        read("switch_device", &json!({"device": "lamp", "state": "on"})).expect_err("no room");
        read("set_temperature", &json!({"room": "a", "temperature": "1"})).expect_err("a text");
        read("explode", &json!({})).expect_err("no function");
    }

    #[test]
    fn every_function_that_is_offered_is_an_order() {
        let functions = DEVICES.iter().flat_map(|device| (device.functions)());
        for spec in functions {
            let properties = spec.parameters["properties"].as_object().expect("an object");
            let value = |schema: &Value| match schema["type"].as_str() {
                Some("number") => json!(20),
                _ => schema["enum"].get(0).cloned().unwrap_or_else(|| json!("x")),
            };
            let arguments: serde_json::Map<_, _> =
                properties.iter().map(|(name, schema)| (name.clone(), value(schema))).collect();
            Order::new(&spec.name, Value::from(arguments)).expect("is one");
        }
    }
}
