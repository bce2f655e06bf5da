//! The shared work queue, against a real mosquitto.

mod stage;

use std::collections::BTreeMap;

use mqtt_transport::{MqttConfig, MqttVersion};
use protocol::{Fault, FaultCode, FinishReason};
use stage::{CLIENT, Ear, Heard, Mosquitto, Node, Wire, answer_of, ask, config, say, until};

const HELLO: &str = r#"{"messages":[{"role":"user","content":"hello"}],"ext":{"mode":"final"}}"#;
const POOL: &str = "zonda/v1/plant1/pool/gpu";

macro_rules! mosquitto {
    () => {
        match Mosquitto::start() {
            Some(broker) => broker,
            None => return,
        }
    };
}

fn member(port: u16, name: &str) -> MqttConfig {
    let mut config = MqttConfig::new(format!("mqtt://127.0.0.1:{port}"), "plant1", name);
    let usual = stage::config(port);
    (config.backoff_min, config.backoff_max) = (usual.backoff_min, usual.backoff_max);
    config.drain = usual.drain;
    config.pool = Some("gpu".into());
    config.client_requests_max = 32;
    config
}

fn join(config: MqttConfig) -> Node {
    let node = Node::start(config);
    until("it is a member", || node.gauge.tally().pooled);
    node
}

fn request(rid: u32) -> String {
    format!("{POOL}/chat/request/plc7/{rid}")
}

fn finals(ear: &Ear, count: usize) -> BTreeMap<String, Heard> {
    let mut finals = BTreeMap::new();
    while finals.len() < count {
        let heard = ear.next_where(|heard| heard.status() == 200);
        let id = heard.ext()["id"].as_str().expect("an id").to_owned();
        assert!(finals.insert(id.clone(), heard).is_none(), "{id} came twice");
    }
    finals
}

/// Each request runs on one member; answers say which.
fn shares_over(version: MqttVersion) {
    let broker = mosquitto!();
    let nodes = ["jet-1", "jet-2"].map(|name| {
        let mut config = member(broker.port, name);
        config.version = version;
        join(config)
    });
    let ear = Ear::on(broker.port, "5", &[&format!("{CLIENT}/plc7/reply/+")]);
    for rid in 0..6 {
        say(broker.port, "311", &request(rid), HELLO, &[]);
    }
    let both = |node: &Node| node.gauge.tally().accepted;
    until("all arrived", || nodes.iter().map(both).sum::<u64>() == 6);
    assert!(nodes.iter().all(|node| both(node) > 0), "one member got everything");
    for node in &nodes {
        for _ in 0..both(node) {
            node.asked().answer(&["done"]);
        }
    }
    let finals = finals(&ear, 6);
    for name in ["jet-1", "jet-2"] {
        assert!(finals.values().any(|heard| heard.ext()["node"] == name), "{name}");
    }
}

#[test]
fn members_share_the_queue_in_5() {
    shares_over(MqttVersion::V5);
}

#[test]
fn members_share_the_queue_in_311() {
    shares_over(MqttVersion::V311);
}

#[test]
fn a_member_without_room_gives_a_request_back() {
    let broker = mosquitto!();
    let mut small = member(broker.port, "jet-1");
    small.queue_requests_max = 1;
    let (full, free) = (join(small), join(member(broker.port, "jet-2")));
    let ear = Ear::on(broker.port, "5", &[&format!("{CLIENT}/plc7/reply/+")]);
    let own = "zonda/v1/plant1/jet-1/chat/request/plc7/own";
    say(broker.port, "5", own, HELLO, &[]);
    let held = full.asked();
    for rid in 0..4 {
        say(broker.port, "311", &request(rid), HELLO, &[]);
        free.asked().answer(&["from the other"]);
    }
    let finals = finals(&ear, 4);
    assert!(finals.values().all(|heard| heard.ext()["node"] == "jet-2"), "{finals:?}");
    assert!(full.gauge.tally().passed_on > 0, "round robin gave it none");
    assert_eq!((full.gauge.tally().refused, free.gauge.tally().refused), (0, 0));
    held.answer(&["at last"]);
    assert_eq!(ear.next_where(|heard| heard.status() == 200).text(), "at last");
}

#[test]
fn an_engine_without_room_gives_a_request_back_with_all_it_came_with() {
    let broker = mosquitto!();
    let (full, free) = (join(member(broker.port, "jet-1")), join(member(broker.port, "jet-2")));
    let busy = Fault::new(FaultCode::Busy, "the engine's queue is full");
    *full.service.refuses.lock().expect("not poisoned") = Some(busy);
    let reply = format!("{CLIENT}/plc7/reply/rr");
    for data in ["one", "two"] {
        let named = [
            "-D",
            "publish",
            "correlation-data",
            data,
            "-D",
            "publish",
            "content-type",
            "text/plain",
        ];
        let asking = ask(broker.port, &format!("{POOL}/chat/request"), &reply, "hi", &named);
        free.asked().answer(&["text ", "too"]);
        let answer = answer_of(asking);
        assert_eq!(answer["choices"][0]["message"]["content"], "text too");
        assert_eq!((&answer["ext"]["id"], &answer["ext"]["node"]), (&data.into(), &"jet-2".into()));
    }
    assert!(full.gauge.tally().accepted > 0, "round robin gave it none");
}

#[test]
fn a_queue_without_room_anywhere_says_so() {
    let broker = mosquitto!();
    let nodes = ["jet-1", "jet-2"].map(|name| {
        let mut config = member(broker.port, name);
        config.queue_requests_max = 1;
        join(config)
    });
    let ear = Ear::on(broker.port, "5", &[&format!("{CLIENT}/plc7/reply/+")]);
    for name in ["jet-1", "jet-2"] {
        let own = format!("zonda/v1/plant1/{name}/chat/request/plc7/{name}");
        say(broker.port, "5", &own, HELLO, &[]);
    }
    let held = nodes.each_ref().map(Node::asked);
    say(broker.port, "5", &request(1), HELLO, &[]);
    let busy = ear.next();
    assert_eq!((busy.status(), busy.ext()["id"].as_str()), (429, Some("1")));
    assert!(busy.ext()["retry_after_ms"].is_u64());
    assert_eq!(nodes.iter().map(|node| node.gauge.tally().passed_on).sum::<u64>(), 2);
    for asked in held {
        asked.answer(&["done"]);
    }
    assert_eq!(finals(&ear, 2).len(), 2);
}

#[test]
fn a_cancel_finds_the_member_that_runs_the_request() {
    let broker = mosquitto!();
    let nodes = ["jet-1", "jet-2"].map(|name| join(member(broker.port, name)));
    let ear = Ear::on(broker.port, "5", &[&format!("{CLIENT}/plc7/reply/+")]);
    for rid in 0..2 {
        say(broker.port, "311", &request(rid), HELLO, &[]);
    }
    let asked = nodes.each_ref().map(Node::asked);
    for rid in 0..2 {
        say(broker.port, "311", &format!("{POOL}/chat/cancel/plc7/{rid}"), "", &[]);
    }
    for one in asked {
        until("the engine hears of it", || one.sink.is_cancelled());
        one.end(FinishReason::Cancelled);
        assert_eq!(ear.next().status(), 499);
    }
}

#[test]
fn a_dead_member_gets_nothing_more() {
    let broker = mosquitto!();
    let wire = Wire::to(broker.port, false);
    let (dead, alive) = (join(member(wire.port, "jet-1")), join(member(broker.port, "jet-2")));
    wire.cut();
    dead.offline();
    let ear = Ear::on(broker.port, "5", &[&format!("{CLIENT}/plc7/reply/+")]);
    for rid in 0..4 {
        say(broker.port, "5", &request(rid), HELLO, &[]);
        alive.asked().answer(&["alive"]);
    }
    assert_eq!(finals(&ear, 4).len(), 4);
    wire.mend();
    until("it is a member again", || dead.gauge.tally().pooled);
    assert_eq!(dead.gauge.tally().accepted, 0);
}

#[test]
fn a_node_that_stops_leaves_the_queue_first() {
    let broker = mosquitto!();
    let (mut leaving, staying) =
        (join(member(broker.port, "jet-1")), join(member(broker.port, "jet-2")));
    let ear = Ear::on(broker.port, "5", &[&format!("{CLIENT}/plc7/reply/+")]);
    let own = "zonda/v1/plant1/jet-1/chat/request/plc7/own";
    say(broker.port, "5", own, HELLO, &[]);
    let held = leaving.asked();
    let status = Ear::on(broker.port, "5", &["zonda/v1/plant1/jet-1/status"]);
    assert_eq!(status.next().payload, "online");
    leaving.raise_stop();
    until("it left the queue", || !leaving.gauge.tally().pooled);
    for rid in 0..4 {
        say(broker.port, "5", &request(rid), HELLO, &[]);
        staying.asked().answer(&["staying"]);
    }
    held.answer(&["the last one"]);
    assert_eq!(finals(&ear, 5).len(), 5);
    assert_eq!(status.next().payload, "offline");
    leaving.join();
}

#[test]
fn a_request_without_a_client_is_dropped_where_they_are_not_served() {
    let broker = mosquitto!();
    let mut config = member(broker.port, "jet-1");
    config.plain_requests = false;
    let node = join(config);
    let reply = format!("{CLIENT}/hmi/reply/1");
    let named = ["-D", "publish", "response-topic", &reply];
    say(broker.port, "5", &format!("{POOL}/chat/request"), HELLO, &named);
    until("it is counted", || node.gauge.tally().unanswerable == 1);
    assert!(!node.was_asked());
}

#[test]
fn a_node_without_a_queue_has_one_connection() {
    let broker = mosquitto!();
    let node = Node::start(config(broker.port));
    assert!(!node.gauge.tally().pooled);
    assert_eq!(node.gauge.tally().connections, 1);
}
