//! The access rules that we print, in a real mosquitto with users.

mod stage;

use std::path::Path;
use std::process::Command;

use mqtt_transport::MqttConfig;
use stage::{CLIENT, Ear, Mosquitto, NODE, Node, answer_of, ask, config, free_port, say, until};

const HELLO: &str = r#"{"messages":[{"role":"user","content":"hello"}],"ext":{"mode":"final"}}"#;
const USERS: [&str; 4] = ["plc7", "plc8", "zonda", "watcher"];

struct Ruled {
    broker: Mosquitto,
    _folder: tempfile::TempDir,
}

fn passwords(folder: &Path) -> bool {
    let path = folder.join("zonda.passwd");
    USERS.iter().enumerate().all(|(index, user)| {
        let mut command = Command::new("mosquitto_passwd");
        command.args(if index == 0 { &["-c", "-b"][..] } else { &["-b"][..] });
        command.arg(&path).args([user, user]).output().is_ok_and(|output| output.status.success())
    })
}

/// A mosquitto with our rules, and one more user that hears everything.
fn ruled(config: &MqttConfig) -> Option<Ruled> {
    let folder = tempfile::tempdir().expect("a temporary directory");
    if !stage::has_clients() || !passwords(folder.path()) {
        eprintln!("skipped: no mosquitto_passwd");
        return None;
    }
    let watcher = "\nuser watcher\ntopic read #\n";
    std::fs::write(folder.path().join("zonda.acl"), config.broker_acl() + watcher)
        .expect("written");
    let show = |name: &str| folder.path().join(name).display().to_string();
    let more = format!(
        "allow_anonymous false\npassword_file {}\nacl_file {}\n",
        show("zonda.passwd"),
        show("zonda.acl"),
    );
    Some(Ruled { broker: Mosquitto::with(&more)?, _folder: folder })
}

fn node_config(port: u16) -> MqttConfig {
    let mut config = config(port);
    config.username = Some("zonda".into());
    config.password = Some("zonda".into());
    config.pool = Some("gpu".into());
    config.plain_requests = false;
    config
}

/// A node at a broker with rules, and an ear that hears everything that passes them.
fn open() -> Option<(Ruled, Node, Ear)> {
    let ruled = ruled(&node_config(1))?;
    let port = ruled.broker.port;
    let node = Node::start(node_config(port));
    until("it is a member", || node.gauge.tally().pooled);
    let ear = Ear::of_user(port, "watcher", "5", &["zonda/v1/plant1/#"], &format!("{NODE}/birth"));
    Some((ruled, node, ear))
}

fn say_as(port: u16, user: &str, topic: &str, payload: &str) {
    say(port, "311", topic, payload, &["-u", user, "-P", user]);
}

#[test]
fn a_client_reaches_what_is_its_own_and_nothing_else() {
    let Some((ruled, node, ear)) = open() else { return };
    let port = ruled.broker.port;
    let mark = format!("{CLIENT}/plc7/status");
    for forbidden in [
        format!("{NODE}/status"),
        format!("{NODE}/birth"),
        format!("{NODE}/chat/request"),
        format!("{NODE}/chat/request/plc8/1"),
        format!("{NODE}/chat/cancel/plc8/1"),
        format!("{NODE}/embed/request"),
        format!("{NODE}/embed/request/plc8/1"),
        format!("{CLIENT}/plc7/reply/1"),
        format!("{CLIENT}/plc8/reply/1"),
        format!("{CLIENT}/plc8/status"),
        "zonda/v1/plant1/pool/gpu/chat/request/plc8/1".into(),
        "zonda/v1/plant2/jet-03/chat/request/plc8/1".into(),
        "plc/valve/set".into(),
    ] {
        say_as(port, "plc7", &forbidden, "forbidden");
        // What the rules let through stands in order: nothing came before the mark.
        say_as(port, "plc7", &mark, &forbidden);
        let heard = ear.next_where(|heard| heard.topic == mark || heard.payload == "forbidden");
        assert_eq!((&heard.topic, &heard.payload), (&mark, &forbidden));
    }
    assert!(!node.was_asked());
}

#[test]
fn another_client_sees_nothing_of_it() {
    let Some((ruled, node, _ear)) = open() else { return };
    let port = ruled.broker.port;
    let mark = format!("{CLIENT}/plc8/status");
    let curious = Ear::of_user(port, "plc8", "5", &["#"], &format!("{NODE}/birth"));
    let own = Ear::of_user(
        port,
        "plc7",
        "311",
        &[&format!("{CLIENT}/plc7/#"), &format!("{NODE}/status")],
        &format!("{NODE}/birth"),
    );
    assert_eq!(own.next().payload, "online", "what nodes state is for all");
    for topic in [
        format!("{NODE}/chat/request/plc7/1"),
        "zonda/v1/plant1/pool/gpu/chat/request/plc7/2".into(),
    ] {
        say_as(port, "plc7", &topic, HELLO);
        node.asked().answer(&["for plc7"]);
        assert_eq!(own.next_where(|heard| heard.status() == 200).text(), "for plc7");
        say_as(port, "plc7", &topic.replace("request", "cancel"), "");
        say_as(port, "plc8", &mark, "mark");
        let foreign = |heard: &stage::Heard| heard.topic.contains("plc7");
        let heard = curious.next_where(|heard| foreign(heard) || heard.payload == "mark");
        assert!(!foreign(&heard), "{heard:?}");
    }
}

#[test]
fn the_stock_requester_gets_its_answer_through_the_rules() {
    let Some((ruled, node, _ear)) = open() else { return };
    let port = ruled.broker.port;
    let reply = format!("{CLIENT}/plc7/reply/rr");
    let named = ["-u", "plc7", "-P", "plc7"];
    let asking = ask(port, &format!("{NODE}/chat/request/plc7/1"), &reply, HELLO, &named);
    node.asked().answer(&["through ", "the rules"]);
    assert_eq!(answer_of(asking)["choices"][0]["message"]["content"], "through the rules");
}

#[test]
fn vectors_come_through_the_rules() {
    let Some((ruled, _node, _ear)) = open() else { return };
    let reply = format!("{CLIENT}/plc7/reply/rr");
    let named = ["-u", "plc7", "-P", "plc7"];
    let topic = format!("{NODE}/embed/request/plc7/1");
    let asking = ask(ruled.broker.port, &topic, &reply, r#"{"input":"four"}"#, &named);
    assert_eq!(answer_of(asking)["ext"]["status"], 200);
}

#[test]
fn a_full_member_gives_requests_back_through_the_rules() {
    let Some(ruled) = ruled(&node_config(1)) else { return };
    let mut config = node_config(ruled.broker.port);
    config.queue_requests_max = 1;
    let node = Node::start(config);
    until("it is a member", || node.gauge.tally().pooled);
    let port = ruled.broker.port;
    say_as(port, "plc7", &format!("{NODE}/chat/request/plc7/1"), HELLO);
    let held = node.asked();
    say_as(port, "plc7", "zonda/v1/plant1/pool/gpu/chat/request/plc7/2", HELLO);
    until("it came back twice", || node.gauge.tally().passed_on == 2);
    until("it was refused", || node.gauge.tally().refused == 1);
    held.answer(&["done"]);
}

#[test]
fn a_node_with_a_wrong_password_says_so() {
    let Some(ruled) = ruled(&node_config(1)) else { return };
    let mut config = node_config(ruled.broker.port);
    config.password = Some("wrong".into());
    let transport = Box::new(mqtt_transport::MqttTransport::new(config).expect("valid"));
    let gauge = transport.gauge();
    let (handle, stop) = protocol::Stop::pair();
    let service = std::sync::Arc::new(stage::Nobody);
    let serving = std::thread::spawn(move || protocol::Transport::serve(transport, service, stop));
    until("it says why", || gauge.trouble().is_some());
    let trouble = gauge.trouble().unwrap_or_default();
    assert!(trouble.contains("mqtt.username"), "{trouble}");
    handle.raise();
    serving.join().expect("no panic").expect("no error");
}

#[test]
fn the_drop_in_starts_a_broker() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let config = node_config(1);
    if !stage::has_clients() || !passwords(folder.path()) {
        return;
    }
    std::fs::write(folder.path().join("zonda.acl"), config.broker_acl()).expect("written");
    let port = free_port();
    let place = folder.path().display().to_string();
    let drop_in = config.broker_drop_in();
    let (here, _elsewhere) = drop_in.split_once("# Other boxes").expect("two listeners");
    let text = here
        .replace("/etc/mosquitto", &place)
        .replace("persistence true", "persistence false")
        .replace("listener 1883", &format!("listener {port}"));
    let broker = Mosquitto::with_whole(&text, port).expect("mosquitto is here");
    let node = Node::start(node_config(broker.port));
    let ear = Ear::of_user(
        port,
        "plc7",
        "5",
        &[&format!("{CLIENT}/plc7/reply/+")],
        &format!("{NODE}/birth"),
    );
    say_as(port, "plc7", &format!("{NODE}/chat/request/plc7/1"), HELLO);
    node.asked().answer(&["by drop-in"]);
    assert_eq!(ear.next().text(), "by drop-in");
}
