//! A microcontroller: MQTT 3.1.1 over a bare socket, and a buffer of 256 bytes that a packet must
//! fit into, as the common library there has it.

mod stage;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use protocol::{Fault, FaultCode};
use serde_json::Value;
use stage::{CLIENT, Mosquitto, NODE, Node, PATIENCE, config};

const BUFFER_BYTES: usize = 256;

struct Controller {
    stream: TcpStream,
    name: &'static str,
}

#[derive(Debug)]
struct Arrived {
    topic: String,
    payload: Vec<u8>,
}

impl Controller {
    fn connect(port: u16, name: &'static str) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut controller = Self { stream, name };
        let mut connect = text("MQTT");
        connect.extend([4, 2, 0, 60]);
        connect.extend(text(name));
        controller.send(0x10, &connect);
        assert_eq!(controller.packet(), (0x20, vec![0, 0]));
        controller
    }

    fn listen(&mut self, filter: &str) {
        let mut subscribe = vec![0, 1];
        subscribe.extend(text(filter));
        subscribe.push(1);
        self.send(0x82, &subscribe);
        assert_eq!(self.packet(), (0x90, vec![0, 1, 1]));
    }

    fn ask(&mut self, rid: &str, body: &str) {
        let mut publish = text(&format!("{NODE}/chat/request/{}/{rid}", self.name));
        publish.extend([0, 2]);
        publish.extend(body.as_bytes());
        self.send(0x32, &publish);
        assert_eq!(self.packet(), (0x40, vec![0, 2]));
    }

    /// The next message, confirmed.
    fn next(&mut self) -> Arrived {
        let (head, body) = self.packet();
        assert_eq!(head & 0xf0, 0x30, "a message");
        let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let topic = String::from_utf8(body[2..2 + length].to_vec()).expect("UTF-8");
        let mut payload = body[2 + length..].to_vec();
        if head & 6 != 0 {
            let id: Vec<u8> = payload.drain(..2).collect();
            self.send(0x40, &id);
        }
        Arrived { topic, payload }
    }

    fn send(&mut self, head: u8, body: &[u8]) {
        let mut packet = vec![head];
        let mut rest = body.len();
        loop {
            let more = u8::from(rest > 127) << 7;
            packet.push((rest % 128) as u8 | more);
            rest /= 128;
            if more == 0 {
                break;
            }
        }
        packet.extend(body);
        assert!(packet.len() <= BUFFER_BYTES, "our own packet is too long");
        self.stream.write_all(&packet).expect("sent");
    }

    /// Head and rest of a packet, all of which must fit.
    fn packet(&mut self) -> (u8, Vec<u8>) {
        let mut byte = [0];
        let mut next = |stream: &mut TcpStream| {
            stream.read_exact(&mut byte).expect("the broker speaks");
            byte[0]
        };
        let head = next(&mut self.stream);
        let (mut length, mut shift, mut header) = (0, 0, 1);
        loop {
            let more = next(&mut self.stream);
            length |= usize::from(more & 127) << shift;
            shift += 7;
            header += 1;
            if more < 128 {
                break;
            }
        }
        let mut rest = vec![0; length];
        self.stream.read_exact(&mut rest).expect("a whole packet");
        assert!(
            header + length < BUFFER_BYTES,
            "{} bytes do not fit: {}",
            header + length,
            String::from_utf8_lossy(&rest),
        );
        (head, rest)
    }
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

const TEXT: &str = r#"{"messages":[{"role":"user","content":"hi"}],"ext":{"mode":"text"}}"#;

#[test]
fn an_answer_comes_in_packets_that_fit() {
    let Some(broker) = Mosquitto::start() else { return };
    let node = Node::start(config(broker.port));
    let mut controller = Controller::connect(broker.port, "esp32-0042");
    controller.listen(&format!("{CLIENT}/esp32-0042/reply/#"));
    controller.ask("7", TEXT);
    let asked = node.asked();
    let place = format!("{CLIENT}/esp32-0042/reply/7");
    let accepted = controller.next();
    assert_eq!(accepted.topic, place);
    let long = "Öl, 🌊 and \"quotes\"\n".repeat(40);
    asked.answer(&[&long, "the end"]);
    let mut heard = String::new();
    let end = loop {
        let arrived = controller.next();
        if arrived.topic == format!("{place}/end") {
            break arrived;
        }
        assert_eq!(arrived.topic, format!("{place}/t"));
        heard += std::str::from_utf8(&arrived.payload).expect("cut between characters");
    };
    assert_eq!(heard, format!("{long}the end"));
    let end: Value = serde_json::from_slice(&end.payload).expect("JSON");
    assert_eq!(end["choices"][0]["finish_reason"], "stop");
    assert_eq!((&end["ext"]["status"], &end["ext"]["fin"]), (&200.into(), &true.into()));
}

#[test]
fn an_answer_is_cut_to_what_the_client_can_hold() {
    let Some(broker) = Mosquitto::start() else { return };
    let node = Node::start(config(broker.port));
    let mut controller = Controller::connect(broker.port, "esp32");
    controller.listen(&format!("{CLIENT}/esp32/reply/#"));
    let body = TEXT.replace("\"text\"", "\"text\",\"max_reply_bytes\":9");
    controller.ask("8", &body);
    node.asked().answer(&["grün und blau"]);
    let accepted = controller.next();
    assert!(accepted.topic.ends_with("/8"));
    assert_eq!(String::from_utf8(controller.next().payload).expect("UTF-8"), "grün und");
    let end: Value = serde_json::from_slice(&controller.next().payload).expect("JSON");
    assert_eq!(end["ext"]["truncated"], true);
}

#[test]
fn an_error_fits_too() {
    let Some(broker) = Mosquitto::start() else { return };
    let node = Node::start(config(broker.port));
    let mut controller = Controller::connect(broker.port, "esp32");
    controller.listen(&format!("{CLIENT}/esp32/reply/#"));
    let fault = Fault::new(FaultCode::Busy, "come back later, ".repeat(30)).retry_after_ms(1500);
    *node.service.refuses.lock().expect("not poisoned") = Some(fault);
    controller.ask("9", TEXT);
    let refused = controller.next();
    assert!(refused.topic.ends_with("/9/end"));
    let error: Value = serde_json::from_slice(&refused.payload).expect("JSON");
    assert_eq!(error["ext"]["status"], 429);
    assert_eq!(error["ext"]["retry_after_ms"], 1500);
    assert!(error["error"]["message"].as_str().is_some_and(|m| m.starts_with("come back")));
}
