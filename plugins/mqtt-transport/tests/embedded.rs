//! The embedded broker under stock clients.
#![cfg(feature = "embedded-broker")]

mod stage;

use mqtt_transport::EmbeddedBroker;
use stage::{CLIENT, Ear, NODE, Node, Wire, answer_of, ask, config, has_clients, say};

fn broker() -> Option<EmbeddedBroker> {
    has_clients().then(|| EmbeddedBroker::start(([127, 0, 0, 1], 0).into()).expect("starts"))
}

#[test]
fn both_versions_meet_on_one_port() {
    let Some(broker) = broker() else { return };
    let port = broker.address().port();
    for listening in ["311", "5"] {
        for speaking in ["311", "5"] {
            let ear = Ear::on(port, listening, &["a/+/c"]);
            say(port, speaking, "a/b/c", "hi", &[]);
            let heard = ear.next();
            assert_eq!((heard.payload.as_str(), heard.qos, heard.retained), ("hi", 1, false));
        }
    }
}

#[test]
fn retained_messages_wait_and_vanish() {
    let Some(broker) = broker() else { return };
    let port = broker.address().port();
    say(port, "311", "kept", "here", &["-r"]);
    let heard = Ear::on(port, "5", &["kept"]).next();
    assert_eq!((heard.payload.as_str(), heard.retained), ("here", true));
    say(port, "5", "kept", "", &["-r"]);
    say(port, "5", "other", "x", &["-r"]);
    assert_eq!(Ear::on(port, "311", &["kept", "other"]).next().topic, "other");
}

#[test]
fn a_node_answers_through_it_and_its_will_is_published() {
    let Some(broker) = broker() else { return };
    let port = broker.address().port();
    let wire = Wire::to(port, false);
    let node = Node::start(config(wire.port));
    let status = Ear::on(port, "311", &[&format!("{NODE}/status")]);
    assert_eq!(status.next().payload, "online");
    let plain = r#"{"messages":[{"role":"user","content":"hello"}]}"#;
    let reply = format!("{CLIENT}/me/reply/1");
    let asking = ask(port, &format!("{NODE}/chat/request"), &reply, plain, &[]);
    node.asked().answer(&["well"]);
    assert_eq!(answer_of(asking)["choices"][0]["message"]["content"], "well");
    let ear = Ear::on(port, "311", &[&format!("{CLIENT}/plc7/reply/+")]);
    say(port, "311", &format!("{NODE}/chat/request/plc7/1"), plain, &[]);
    assert_eq!(ear.next().status(), 202);
    node.asked().answer(&["a ", "stream"]);
    assert_eq!(ear.next_where(|heard| heard.status() == 200).text(), "a stream");
    wire.cut();
    assert_eq!(status.next().payload, "offline");
    wire.mend();
    assert_eq!(status.next().payload, "online");
}
