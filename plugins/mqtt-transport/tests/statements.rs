//! What a node says of itself, to anybody and to Home Assistant, against a real mosquitto.

mod stage;

use std::time::Duration;

use protocol::FinishReason;
use serde_json::Value;
use stage::{CLIENT, Ear, Mosquitto, NODE, Node, config, say, until};

macro_rules! mosquitto {
    () => {
        match Mosquitto::start() {
            Some(broker) => broker,
            None => return,
        }
    };
}

#[test]
fn birth_and_state_tell_what_a_client_chooses_by() {
    let broker = mosquitto!();
    let _node = Node::start(config(broker.port));
    let birth = Ear::on(broker.port, "5", &[&format!("{NODE}/birth")]).next();
    assert!(birth.retained && birth.qos == 1);
    let birth = birth.json();
    assert_eq!(birth["models"][0]["id"], "tiny");
    assert_eq!(birth["protocol"], serde_json::json!({"zonda": 1, "mqtt": "5.0"}));
    assert_eq!(birth["session_seq"], 1);
    assert_eq!(birth["limits"]["request_bytes_max"], 256 << 10);
    for key in ["node", "site", "boot_id", "time_s", "software", "hardware"] {
        assert!(!birth[key].is_null(), "{key}");
    }
    let state = Ear::on(broker.port, "5", &[&format!("{NODE}/state")]).next();
    let json = state.json();
    assert!(state.retained);
    assert_eq!(json["boot_id"], birth["boot_id"]);
    for key in ["active", "queued", "slots_free", "queue_s", "tokens_per_s", "uptime_s", "time_s"] {
        assert!(json[key].is_number(), "{key}");
    }
    assert_eq!(json["problem"], false);
    for key in ["memory", "temperature_c", "power_mode"] {
        assert!(json.get(key).is_some(), "{key}");
    }
    if cfg!(target_os = "linux") {
        assert!(json["memory"]["used_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20));
    }
}

#[test]
fn a_state_vanishes_when_its_node_does_not_renew_it() {
    let broker = mosquitto!();
    let _node = Node::start(config(broker.port));
    let state = Ear::on(broker.port, "5", &[&format!("{NODE}/state")]).next();
    let expiry = state.expiry.expect("an expiry");
    assert!((100..=120).contains(&expiry), "{expiry}");
}

#[test]
fn another_connection_is_another_session_of_the_same_boot() {
    let broker = mosquitto!();
    let wire = stage::Wire::to(broker.port, false);
    let node = Node::start(config(wire.port));
    let ear = Ear::on(broker.port, "5", &[&format!("{NODE}/birth"), &format!("{NODE}/status")]);
    let first = ear.next_where(|heard| heard.topic.ends_with("/birth")).json();
    wire.cut();
    assert_eq!(ear.next_where(|heard| heard.payload == "offline").topic, format!("{NODE}/status"));
    wire.mend();
    let second = ear.next_where(|heard| heard.topic.ends_with("/birth")).json();
    assert_eq!((&first["session_seq"], &second["session_seq"]), (&1.into(), &2.into()));
    assert_eq!(first["boot_id"], second["boot_id"]);
    node.online();
}

#[test]
fn another_model_is_told_as_an_event_and_a_new_birth() {
    let broker = mosquitto!();
    let node = Node::start(config(broker.port));
    let ear = Ear::on(broker.port, "5", &[&format!("{NODE}/event/+"), &format!("{NODE}/birth")]);
    assert_eq!(ear.next().json()["models"][0]["id"], "tiny");
    *node.service.model.lock().expect("not poisoned") = "large".into();
    let event = ear.next();
    assert_eq!(
        (event.topic, event.qos, event.retained),
        (format!("{NODE}/event/model_changed"), 1, false)
    );
    let birth = ear.next().json();
    assert_eq!((&birth["models"][0]["id"], &birth["session_seq"]), (&"large".into(), &1.into()));
}

fn home(port: u16) -> mqtt_transport::MqttConfig {
    let mut config = config(port);
    config.home_assistant = true;
    config
}

#[test]
fn home_assistant_hears_of_the_node_and_again_when_it_begins() {
    let broker = mosquitto!();
    let _node = Node::start(home(broker.port));
    let topic = "homeassistant/device/jet-03/config";
    let ear = Ear::on(broker.port, "5", &["homeassistant/device/+/config"]);
    let described = ear.next();
    assert_eq!((described.topic.as_str(), described.retained), (topic, true));
    let body = described.json();
    assert_eq!(body["availability"][0]["topic"], format!("{NODE}/status"));
    assert_eq!(body["cmps"]["ask"]["p"], "notify");
    say(broker.port, "311", "homeassistant/status", "offline", &[]);
    say(broker.port, "311", "homeassistant/status", "online", &[]);
    let again = ear.next();
    assert_eq!(again.payload, described.payload);
    assert!(ear.is_silent_for(Duration::from_millis(20)));
}

#[test]
fn without_the_option_home_assistant_hears_nothing() {
    let broker = mosquitto!();
    let node = Node::start(config(broker.port));
    say(broker.port, "5", &format!("{NODE}/ha/ask"), "hello", &[]);
    let ear = Ear::on(broker.port, "5", &["homeassistant/#", &format!("{NODE}/status")]);
    assert_eq!(ear.next().topic, format!("{NODE}/status"));
    assert!(ear.is_silent_for(Duration::from_millis(20)));
    assert!(!node.was_asked());
}

#[test]
fn a_notification_is_a_prompt_and_the_sensor_hears_its_answer() {
    let broker = mosquitto!();
    let node = Node::start(home(broker.port));
    let device = Ear::on(broker.port, "5", &["homeassistant/device/+/config"]).next().json();
    let topic_of = |component: &str, key: &str| {
        device["cmps"][component][key].as_str().expect("a topic").to_owned()
    };
    let answers = topic_of("last_answer", "state_topic");
    assert_eq!(answers, topic_of("last_answer", "json_attributes_topic"));
    let ear = Ear::on(broker.port, "311", &[&answers]);
    let ask = topic_of("ask", "command_topic");
    say(broker.port, "311", &ask, "What is {\"warm\"}?", &[]);
    let asked = node.asked();
    assert_eq!(asked.request.client.as_deref(), Some("homeassistant"));
    let protocol::Input::Chat(messages) = &asked.request.input else { panic!("a chat") };
    let expected = protocol::Message::User { content: vec!["What is {\"warm\"}?".into()] };
    assert_eq!(messages, &[expected]);
    asked.answer(&["The ", "stove"]);
    let heard = ear.next();
    assert_eq!((heard.text().as_str(), heard.retained), ("The stove", false));
    assert!(heard.ext()["status"] == 200 && heard.json()["model"].is_string());
    say(broker.port, "311", &ask, "Write a book", &[]);
    let asked = node.asked();
    asked.accept();
    asked.text("Once");
    say(broker.port, "311", &topic_of("cancel_all", "command_topic"), "PRESS", &[]);
    until("the engine hears of it", || asked.sink.is_cancelled());
    asked.end(FinishReason::Cancelled);
    let heard = ear.next();
    assert_eq!((heard.status(), heard.text().as_str()), (499, "Once"));
}

#[test]
fn a_notification_that_fails_says_why_to_the_sensor() {
    let broker = mosquitto!();
    let mut config = home(broker.port);
    config.request_bytes_max = 16;
    let node = Node::start(config);
    let ear = Ear::on(broker.port, "5", &[&format!("{NODE}/ha/answer")]);
    say(broker.port, "311", &format!("{NODE}/ha/ask"), "more than sixteen bytes", &[]);
    let heard = ear.next();
    assert_eq!(heard.status(), 413);
    let message: Value = heard.json()["error"]["message"].clone();
    assert!(message.as_str().is_some_and(|text| text.contains("16")), "{message}");
    say(broker.port, "311", &format!("{NODE}/ha/ask"), "", &[]);
    until("it is dropped", || node.gauge.tally().unanswerable == 1);
    assert!(!node.was_asked());
    assert_ne!(heard.topic, format!("{CLIENT}/homeassistant/reply/1"));
}
