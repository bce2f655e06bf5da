//! Vectors of texts, against a real mosquitto with its own clients.

mod stage;

use std::sync::atomic::Ordering;

use mqtt_transport::MqttVersion;
use protocol::{Fault, FaultCode};
use serde_json::{Value, json};
use stage::{CLIENT, Ear, Mosquitto, NODE, Node, Wire, answer_of, ask, config, say, until};

macro_rules! mosquitto {
    () => {
        match Mosquitto::start() {
            Some(broker) => broker,
            None => return,
        }
    };
}

fn topic(rid: &str) -> String {
    format!("{NODE}/embed/request/plc7/{rid}")
}

fn replies(port: u16, version: &str) -> Ear {
    Ear::on(port, version, &[&format!("{CLIENT}/plc7/reply/+")])
}

/// Holds every request for vectors back until something is sent.
fn close_door(node: &Node) -> flume::Sender<()> {
    let (open, door) = flume::unbounded();
    *node.service.door.lock().expect("not poisoned") = Some(door);
    open
}

fn embedded(node: &Node) -> u32 {
    node.service.embedded.load(Ordering::SeqCst)
}

fn vector(answer: &Value, at: usize) -> Vec<f64> {
    let numbers = answer["data"][at]["embedding"].as_array().expect("a vector");
    numbers.iter().map(|number| number.as_f64().expect("a number")).collect()
}

fn vectors_over(client: &str, node: MqttVersion) {
    let broker = mosquitto!();
    let mut config = config(broker.port);
    config.version = node;
    let _node = Node::start(config);
    let ear = replies(broker.port, client);
    let body = json!({"input": ["four", "eleven char"], "model": "vectors"}).to_string();
    say(broker.port, client, &topic("17"), &body, &[]);
    let heard = ear.next();
    assert_eq!((heard.topic.as_str(), heard.qos), (&*format!("{CLIENT}/plc7/reply/17"), 1));
    assert!(!heard.retained);
    let answer = heard.json();
    let ext = json!({"id": "17", "seq": 1, "fin": true, "status": 200, "node": "jet-03"});
    assert_eq!(answer["ext"], ext);
    assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("vectors")));
    assert_eq!((vector(&answer, 0), vector(&answer, 1)), (vec![4.0, 0.5], vec![11.0, 0.5]));
    assert_eq!(answer["usage"]["prompt_tokens"], 4, "the client of the topic asks");
}

#[test]
fn vectors_come_from_5_to_5() {
    vectors_over("5", MqttVersion::V5);
}

#[test]
fn vectors_come_from_311_to_311() {
    vectors_over("311", MqttVersion::V311);
}

#[test]
fn the_stock_requester_gets_vectors() {
    let broker = mosquitto!();
    let _node = Node::start(config(broker.port));
    let reply = format!("{CLIENT}/plc7/reply/rr");
    let named = ["-D", "publish", "correlation-data", "cd-1"];
    let long = "x".repeat(101);
    let body = json!({"input": ["a", long], "encoding_format": "base64"}).to_string();
    let asking = ask(broker.port, &format!("{NODE}/embed/request"), &reply, &body, &named);
    let answer = answer_of(asking);
    assert_eq!(answer["ext"]["id"], "cd-1");
    assert_eq!(answer["ext"]["truncated_inputs"], 1);
    assert_eq!(answer["data"][0]["embedding"], "AACAPwAAAD8=");
    let plain = ["-D", "publish", "content-type", "text/plain"];
    let asking = ask(broker.port, &topic("18"), &reply, "bare words", &plain);
    assert_eq!(vector(&answer_of(asking), 0), [10.0, 0.5]);
}

#[test]
fn what_is_wrong_is_told_in_the_same_shape() {
    let broker = mosquitto!();
    let mut config = config(broker.port);
    config.request_bytes_max = 2000;
    config.send_bytes_max = 1024;
    let node = Node::start(config);
    let ear = replies(broker.port, "311");
    let long = "x".repeat(2000);
    for (rid, body, status, says) in [
        ("1", "{".to_owned(), 400, "JSON"),
        ("2", r#"{"input":[]}"#.to_owned(), 422, "empty"),
        ("3", format!(r#"{{"input":"{long}"}}"#), 413, "limit is 2000"),
        ("4", r#"{"input":"a","dimensions":400}"#.to_owned(), 413, "holds 1024"),
        ("5", r#"{"input":"a","ext":{"mode":"text"}}"#.to_owned(), 400, "ext.mode"),
        ("6", r#"{"input":"a","ext":{"reply_to":"plc/valve"}}"#.to_owned(), 400, "not allowed"),
    ] {
        say(broker.port, "311", &topic(rid), &body, &[]);
        let heard = ear.next();
        let told = heard.json();
        assert_eq!((heard.status(), &told["ext"]["fin"]), (status, &json!(true)), "{rid}: {told}");
        assert_eq!(told["ext"]["id"], rid);
        let message = told["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(says), "{rid}: {message}");
    }
    let refusal = Fault::new(FaultCode::UnknownModel, "no such embedder");
    *node.service.refuses.lock().expect("not poisoned") = Some(refusal);
    say(broker.port, "311", &topic("8"), r#"{"input":"a"}"#, &[]);
    assert_eq!(ear.next().status(), 404);
    assert!(!node.was_asked(), "no prompt was made of it");
}

#[test]
fn one_id_is_computed_once_at_a_time() {
    let broker = mosquitto!();
    let node = Node::start(config(broker.port));
    let ear = replies(broker.port, "311");
    let open = close_door(&node);
    for (body, tally) in [(r#"{"input":"a"}"#, 0), (r#"{"input":"a"}"#, 1)] {
        say(broker.port, "311", &topic("17"), body, &[]);
        until("it came", || node.gauge.tally().repeated == tally && embedded(&node) == 1);
    }
    say(broker.port, "311", &topic("17"), r#"{"input":"b"}"#, &[]);
    assert_eq!(ear.next().status(), 409, "another body");
    // A prompt has no place under this id either.
    let prompt = r#"{"messages":[{"role":"user","content":"hello"}]}"#;
    say(broker.port, "311", &format!("{NODE}/chat/request/plc7/17"), prompt, &[]);
    assert_eq!(ear.next().status(), 409);
    open.send(()).expect("it waits");
    assert_eq!(ear.next().status(), 200);
    drop(open);
    *node.service.door.lock().expect("not poisoned") = None;
    until("its id is free", || {
        say(broker.port, "311", &topic("17"), r#"{"input":"bb"}"#, &[]);
        ear.next().status() == 200
    });
    assert!(embedded(&node) >= 2, "the end is not kept");
}

#[test]
fn a_cancel_and_a_deadline_end_the_wait() {
    let broker = mosquitto!();
    let node = Node::start(config(broker.port));
    let ear = replies(broker.port, "311");
    let open = close_door(&node);
    say(broker.port, "311", &topic("17"), r#"{"input":"a"}"#, &[]);
    until("it runs", || embedded(&node) == 1);
    say(broker.port, "311", &format!("{NODE}/chat/cancel/plc7/17"), "", &[]);
    assert_eq!(ear.next().status(), 499);
    say(broker.port, "311", &topic("18"), r#"{"input":"a","ext":{"ttl_s":1}}"#, &[]);
    assert_eq!(ear.next().status(), 408);
    drop(open);
}

#[test]
fn many_at_once_are_refused_and_prompts_come_through() {
    let broker = mosquitto!();
    let node = Node::start(config(broker.port));
    let ear = replies(broker.port, "311");
    let open = close_door(&node);
    for rid in 0..6 {
        say(broker.port, "311", &topic(&rid.to_string()), r#"{"input":"a"}"#, &[]);
    }
    say(broker.port, "311", &topic("more"), r#"{"input":"a"}"#, &[]);
    let refused = ear.next();
    assert_eq!((refused.status(), refused.ext()["id"].as_str()), (429, Some("more")));
    assert_eq!(refused.ext()["retry_after_ms"], 1000);
    let prompt = r#"{"messages":[{"role":"user","content":"hello"}],"ext":{"mode":"final"}}"#;
    say(broker.port, "311", &format!("{NODE}/chat/request/plc7/p"), prompt, &[]);
    node.asked().answer(&["here"]);
    assert_eq!(ear.next().text(), "here");
    assert!(embedded(&node) <= 2, "two run at a time");
    for _ in 0..6 {
        open.send(()).expect("they wait");
        assert_eq!(ear.next().status(), 200);
    }
}

/// It is confirmed to the broker when its answer is, so a node that dies before gets it again.
#[test]
fn what_is_not_answered_is_not_confirmed() {
    let broker = mosquitto!();
    let wire = Wire::to(broker.port, false);
    let node = Node::start(config(wire.port));
    let ear = replies(broker.port, "5");
    let open = close_door(&node);
    let body = r#"{"input":"four","ext":{"ttl_s":120}}"#;
    say(broker.port, "5", &topic("17"), body, &[]);
    until("it runs", || embedded(&node) == 1);
    // The node is gone for the broker, which keeps its session.
    wire.cut();
    node.offline();
    let mut dead = node;
    drop(open);
    dead.raise_stop();
    dead.join();
    let heir = Node::start(config(broker.port));
    let answer = ear.next_where(|heard| heard.status() == 200);
    assert_eq!(answer.ext()["id"], "17");
    assert_eq!(embedded(&heir), 1);
}
