//! What an accepted request and its final survive: a crash, a broker that is away, both.

mod stage;

use std::path::{Path, PathBuf};

use mqtt_transport::MqttConfig;
use stage::{Asked, CLIENT, Ear, Mosquitto, NODE, Node, Wire, config, say, until};

const HELLO: &str =
    r#"{"messages":[{"role":"user","content":"hello"}],"stream":true,"ext":{"ttl_s":300}}"#;

macro_rules! mosquitto {
    () => {
        match Mosquitto::start() {
            Some(broker) => broker,
            None => return,
        }
    };
}

fn request(rid: &str) -> String {
    format!("{NODE}/chat/request/plc7/{rid}")
}

fn replies(port: u16) -> Ear {
    Ear::on(port, "311", &[&format!("{CLIENT}/plc7/reply/+"), &format!("{NODE}/deadletter")])
}

fn durable(port: u16, journal: &Path) -> MqttConfig {
    MqttConfig { journal: Some(journal.to_owned()), ..config(port) }
}

/// The journal as a power cut would leave it now.
fn torn_away(journal: &Path, name: &str) -> PathBuf {
    let copy = journal.with_file_name(name);
    for suffix in ["", "-wal"] {
        let of = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        if of(journal).exists() {
            std::fs::copy(of(journal), of(&copy)).expect("copied");
        }
    }
    copy
}

/// A node behind a wire, with one request that it has promised to answer.
struct Accepted {
    ear: Ear,
    wire: Wire,
    node: Node,
    asked: Asked,
}

fn accepted(broker: u16, journal: &Path) -> Accepted {
    let ear = replies(broker);
    let wire = Wire::to(broker, false);
    let node = Node::start(durable(wire.port, journal));
    say(broker, "311", &request("1"), HELLO, &[]);
    let asked = node.asked();
    assert_eq!(ear.next().status(), 202);
    Accepted { ear, wire, node, asked }
}

#[test]
fn an_accepted_request_runs_again_and_its_final_is_the_same_for_ever() {
    let broker = mosquitto!();
    let folder = tempfile::tempdir().expect("a folder");
    let journal = folder.path().join("a");
    let Accepted { ear, wire, node: _dying, asked: lost } = accepted(broker.port, &journal);
    wire.cut();
    let left = torn_away(&journal, "b");

    let mut next = Node::start(durable(broker.port, &left));
    let again = next.asked();
    assert_eq!(again.request.client.as_deref(), Some("plc7"));
    assert_eq!(next.gauge.tally().resumed, 1);
    again.answer(&["Hello"]);
    let last = ear.next_where(|heard| heard.status() == 200);
    assert_eq!((last.text().as_str(), last.ext()["id"].as_str()), ("Hello", Some("1")));
    next.raise_stop();
    next.join();

    let third = Node::start(durable(broker.port, &left));
    say(broker.port, "311", &request("1"), HELLO, &[]);
    assert_eq!(ear.next_where(|heard| heard.status() == 200).payload, last.payload);
    say(broker.port, "311", &request("1"), &HELLO.replace("hello", "other"), &[]);
    assert_eq!(ear.next_where(|heard| heard.status() >= 400).status(), 409);
    assert!(!third.was_asked());
    lost.finish();
}

#[test]
fn a_final_that_nobody_took_is_sent_by_the_next_life() {
    let broker = mosquitto!();
    let folder = tempfile::tempdir().expect("a folder");
    let journal = folder.path().join("a");
    let Accepted { ear, wire, mut node, asked } = accepted(broker.port, &journal);
    wire.cut();
    node.offline();
    asked.answer(&["kept"]);
    node.raise_stop();
    node.join();
    let _next = Node::start(durable(broker.port, &journal));
    assert_eq!(ear.next_where(|heard| heard.status() == 200).text(), "kept");
}

#[test]
fn what_ends_the_program_twice_is_told_and_left() {
    let broker = mosquitto!();
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = folder.path().join("a");
    let ear = replies(broker.port);
    let mut dying = Vec::new();
    for name in ["b", "c"] {
        let wire = Wire::to(broker.port, false);
        let node = Node::start(durable(wire.port, &journal));
        if name == "b" {
            say(broker.port, "311", &request("1"), HELLO, &[]);
        }
        let asked = node.asked();
        assert_eq!(ear.next_where(|heard| heard.status() == 202).status(), 202);
        wire.cut();
        journal = torn_away(&journal, name);
        dying.push((node, asked));
    }
    let last = Node::start(durable(broker.port, &journal));
    let (first, second) = (ear.next(), ear.next());
    let (dead, told) = match first.topic.ends_with("/deadletter") {
        true => (first, second),
        false => (second, first),
    };
    assert_eq!((told.status(), told.ext()["id"].as_str()), (500, Some("1")));
    let record = dead.json();
    assert_eq!((record["client"].as_str(), record["id"].as_str()), (Some("plc7"), Some("1")));
    assert_eq!(record["attempts"], 2);
    assert_eq!(record["sha256"].as_str().map(str::len), Some(64));
    assert!(!dead.payload.contains("hello"), "no content: {}", dead.payload);
    assert!(!last.was_asked());
    assert_eq!(last.gauge.tally().poisoned, 1);
    for (_, asked) in &dying {
        asked.finish();
    }
}

#[test]
fn a_cancel_is_not_forgotten_by_a_crash() {
    let broker = mosquitto!();
    let folder = tempfile::tempdir().expect("a folder");
    let journal = folder.path().join("a");
    let Accepted { ear, wire, node: _dying, asked } = accepted(broker.port, &journal);
    say(broker.port, "311", &format!("{NODE}/chat/cancel/plc7/1"), "", &[]);
    until("the answer is cancelled", || asked.sink.is_cancelled());
    // The mark is written at the moment the answer hears of it; the copy must have it whole.
    let mut left = torn_away(&journal, "b0");
    for copy in 1.. {
        let marked = std::fs::read(format!("{}-wal", left.display()))
            .is_ok_and(|log| log.windows(5).filter(|window| window == b"plc71").count() > 1);
        if marked || copy > 50 {
            break;
        }
        std::thread::yield_now();
        left = torn_away(&journal, &format!("b{copy}"));
    }
    wire.cut();
    let next = Node::start(durable(broker.port, &left));
    assert_eq!(ear.next_where(|heard| heard.status() >= 400).status(), 499);
    assert!(!next.was_asked());
    asked.finish();
}

#[test]
fn the_birth_says_what_survives() {
    let broker = mosquitto!();
    let folder = tempfile::tempdir().expect("a folder");
    let journal = folder.path().join("a");
    for (config, durable) in [(config(broker.port), false), (durable(broker.port, &journal), true)]
    {
        let node = Node::start(config);
        let ear = Ear::on(broker.port, "5", &[&format!("{NODE}/birth")]);
        let birth = ear.next_where(|heard| heard.json()["durable"] == durable);
        assert_eq!(birth.json()["node"], "jet-03");
        drop(node);
    }
}

#[test]
fn one_journal_has_one_node() {
    let broker = mosquitto!();
    let folder = tempfile::tempdir().expect("a folder");
    let journal = folder.path().join("a");
    let _node = Node::start(durable(broker.port, &journal));
    let second = mqtt_transport::MqttTransport::new(durable(broker.port, &journal));
    let error = second.expect_err("must be refused").to_string();
    assert!(error.contains("another process") && error.contains("mqtt.journal"), "{error}");
}
