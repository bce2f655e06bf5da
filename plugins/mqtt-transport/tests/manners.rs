//! What one client may do beside others, against a real mosquitto.

mod stage;

use std::time::Duration;

use protocol::FinishReason;
use stage::{CLIENT, Ear, Mosquitto, NODE, Node, config, say, until};

const HELLO: &str = r#"{"messages":[{"role":"user","content":"hello"}],"ext":{"mode":"final"}}"#;

macro_rules! mosquitto {
    () => {
        match Mosquitto::start() {
            Some(broker) => broker,
            None => return,
        }
    };
}

fn request(client: &str, rid: &str) -> String {
    format!("{NODE}/chat/request/{client}/{rid}")
}

fn bound(topic: &str) -> String {
    format!(
        r#"{{"messages":[{{"role":"user","content":"hello"}}],"ext":{{"cancel_on_offline":"{topic}"}}}}"#,
    )
}

#[test]
fn one_client_does_not_take_every_place() {
    let broker = mosquitto!();
    let mut config = config(broker.port);
    config.client_requests_max = 2;
    let node = Node::start(config);
    let ear = Ear::on(broker.port, "5", &[&format!("{CLIENT}/+/reply/+")]);
    let mut running = Vec::new();
    for rid in ["1", "2"] {
        say(broker.port, "5", &request("plc7", rid), HELLO, &[]);
        running.push(node.asked());
    }
    say(broker.port, "5", &request("plc7", "3"), HELLO, &[]);
    let busy = ear.next();
    assert_eq!((busy.status(), busy.ext()["id"].as_str()), (429, Some("3")));
    assert!(busy.json()["error"]["message"].as_str().is_some_and(|m| m.contains("its limit")));
    say(broker.port, "5", &request("plc8", "1"), HELLO, &[]);
    node.asked().answer(&["another client"]);
    assert_eq!(ear.next().text(), "another client");
    running.remove(0).answer(&["room"]);
    assert_eq!(ear.next().text(), "room");
    say(broker.port, "5", &request("plc7", "3"), HELLO, &[]);
    node.asked().answer(&["now"]);
    assert_eq!(ear.next().text(), "now");
    running.remove(0).answer(&["end"]);
    assert_eq!(ear.next().text(), "end");
}

#[test]
fn a_client_that_vanishes_ends_its_requests() {
    let broker = mosquitto!();
    for (version, word) in [("5", "offline"), ("311", "Offline\n")] {
        let node = Node::start(config(broker.port));
        let ear = Ear::on(broker.port, "5", &[&format!("{CLIENT}/plc7/reply/+")]);
        let status = format!("{CLIENT}/plc7/status");
        say(broker.port, version, &status, "online", &["-r"]);
        say(broker.port, version, &request("plc7", "1"), &bound(&status), &[]);
        let asked = node.asked();
        assert_eq!(ear.next().status(), 202);
        say(broker.port, version, &status, word, &["-r"]);
        until("the engine hears of it", || asked.sink.is_cancelled());
        asked.end(FinishReason::Cancelled);
        assert_eq!(ear.next().status(), 499);
        // Nothing is bound to it any more: the next word is not heard, or not ours.
        say(broker.port, version, &request("plc7", "2"), HELLO, &[]);
        node.asked().answer(&["back"]);
        assert_eq!(ear.next().text(), "back");
    }
}

#[test]
fn a_client_that_had_vanished_before_ends_its_request_too() {
    let broker = mosquitto!();
    let node = Node::start(config(broker.port));
    let ear = Ear::on(broker.port, "5", &[&format!("{CLIENT}/plc7/reply/+")]);
    let status = format!("{CLIENT}/plc7/status");
    say(broker.port, "5", &status, "offline", &["-r"]);
    say(broker.port, "5", &request("plc7", "1"), &bound(&status), &[]);
    let asked = node.asked();
    until("the engine hears of it", || asked.sink.is_cancelled());
    asked.end(FinishReason::Cancelled);
    assert_eq!(ear.next_where(|heard| heard.status() != 202).status(), 499);
}

#[test]
fn a_request_is_not_bound_to_what_another_says() {
    let broker = mosquitto!();
    let node = Node::start(config(broker.port));
    let ear = Ear::on(broker.port, "5", &[&format!("{CLIENT}/plc7/reply/+")]);
    for (rid, topic) in
        [("1", format!("{CLIENT}/plc8/status")), ("2", format!("{NODE}/status")), ("3", "x".into())]
    {
        say(broker.port, "5", &request("plc7", rid), &bound(&topic), &[]);
        let refused = ear.next();
        assert_eq!((refused.status(), refused.ext()["id"].as_str()), (400, Some(rid)));
        assert_eq!(refused.json()["error"]["param"], "ext.cancel_on_offline");
    }
    assert!(!node.was_asked());
    assert!(ear.is_silent_for(Duration::from_millis(20)));
}
