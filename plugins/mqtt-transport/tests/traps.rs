//! What the client library gets wrong, one test for each way, where no other test has it.

mod stage;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mqtt_transport::{MqttTransport, MqttVersion};
use protocol::{Stop, Transport};
use stage::{CLIENT, Ear, Mosquitto, NODE, Nobody, Node, Wire, config, say, until};

const HELLO: &str = r#"{"messages":[{"role":"user","content":"hello"}],"ext":{"mode":"final"}}"#;

macro_rules! mosquitto {
    ($more:expr) => {
        match Mosquitto::with(&format!("allow_anonymous true\n{}", $more)) {
            Some(broker) => broker,
            None => return,
        }
    };
}

fn request(rid: &str) -> String {
    format!("{NODE}/chat/request/plc7/{rid}")
}

/// One packet: its head and the rest.
fn packet(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut byte = [0];
    let mut next = |stream: &mut TcpStream| {
        stream.read_exact(&mut byte).expect("the node speaks");
        byte[0]
    };
    let head = next(stream);
    let (mut length, mut shift) = (0, 0);
    loop {
        let more = next(stream);
        length |= usize::from(more & 127) << shift;
        shift += 7;
        if more < 128 {
            break;
        }
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).expect("a whole packet");
    (head, rest)
}

/// The properties of CONNECT by their ids; every one that we send is a number.
fn numbers(mut bytes: &[u8]) -> Vec<(u8, u32)> {
    let mut found = Vec::new();
    while let [id, rest @ ..] = bytes {
        let width = match id {
            0x11 | 0x27 => 4,
            0x21 | 0x22 => 2,
            0x17 | 0x19 => 1,
            other => panic!("property {other:#x} is none of ours"),
        };
        let number = rest[..width].iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        found.push((*id, number));
        bytes = &rest[width..];
    }
    found
}

#[test]
fn the_greeting_allows_large_packets_and_no_aliases() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let mut config = config(listener.local_addr().expect("bound").port());
    config.version = MqttVersion::V5;
    config.drain = Duration::from_millis(10);
    let transport = Box::new(MqttTransport::new(config).expect("valid"));
    let (handle, stop) = Stop::pair();
    let serving = std::thread::spawn(move || transport.serve(Arc::new(Nobody), stop));
    let (mut node, _) = listener.accept().expect("the node comes");
    let (head, connect) = packet(&mut node);
    assert_eq!((head, &connect[..7]), (0x10, &b"\x00\x04MQTT\x05"[..]));
    assert_eq!(connect[7] & 0b10, 0, "the session goes on");
    assert_eq!(connect[7] & 0b100, 0b100, "there is a will");
    let length = usize::from(connect[10]);
    let properties = numbers(&connect[11..11 + length]);
    let told = |id: u8| properties.iter().find(|(known, _)| *known == id).map(|(_, n)| *n);
    assert_eq!(told(0x11), Some(3600), "session expiry");
    assert_eq!(told(0x21), Some(32), "receive maximum");
    assert!(told(0x27).is_some_and(|bytes| bytes >= 1 << 20), "packets of 10 KiB would be all");
    assert_eq!(told(0x22).unwrap_or(0), 0, "an alias hides the topic");
    handle.raise();
    drop((node, listener));
    serving.join().expect("no panic").expect("no error");
}

#[test]
fn a_broker_that_hangs_up_is_not_hammered() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let mut config = config(listener.local_addr().expect("bound").port());
    config.version = MqttVersion::V311;
    config.backoff_min = Duration::from_millis(100);
    config.backoff_max = Duration::from_millis(200);
    config.drain = Duration::from_millis(10);
    let transport = Box::new(MqttTransport::new(config).expect("valid"));
    let (handle, stop) = Stop::pair();
    let serving = std::thread::spawn(move || transport.serve(Arc::new(Nobody), stop));
    let came: Vec<Instant> = (0..8)
        .map(|_| {
            let (mut node, _) = listener.accept().expect("the node comes");
            packet(&mut node);
            let _sent = node.write_all(&[0x20, 2, 0, 0]);
            Instant::now()
        })
        .collect();
    let gaps: Vec<Duration> = came.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(gaps.iter().all(|gap| *gap >= Duration::from_millis(9)), "{gaps:?}");
    handle.raise();
    drop(listener);
    serving.join().expect("no panic").expect("no error");
}

#[test]
fn a_large_request_that_waited_in_the_session_is_read() {
    let broker = mosquitto!("");
    for version in [MqttVersion::V5, MqttVersion::V311] {
        let wire = Wire::to(broker.port, false);
        let mut config = config(wire.port);
        config.version = version;
        config.accept_stale = true;
        let node = Node::start(config);
        let ear = Ear::on(broker.port, "311", &[&format!("{CLIENT}/plc7/reply/+")]);
        wire.cut();
        node.offline();
        let rid = format!("{version:?}");
        let large = HELLO.replace("hello", &"word ".repeat(12_000));
        say(broker.port, "311", &request(&rid), &large, &[]);
        wire.mend();
        node.asked().answer(&["read"]);
        assert_eq!(ear.next().text(), "read");
        assert_eq!(node.gauge.tally().connections, 2);
    }
}

#[test]
fn an_answer_is_cut_to_what_the_broker_takes() {
    let broker = mosquitto!("max_packet_size 4096\n");
    let mut config = config(broker.port);
    config.version = MqttVersion::V5;
    let node = Node::start(config);
    let ear = Ear::on(broker.port, "5", &[&format!("{CLIENT}/plc7/reply/+")]);
    say(broker.port, "5", &request("1"), HELLO, &[]);
    let words = "many words ".repeat(1000);
    node.asked().answer(&[&words]);
    let last = ear.next();
    assert_eq!((last.status(), last.ext()["truncated"].as_bool()), (200, Some(true)));
    assert!((1000..4096).contains(&last.payload.len()), "{}", last.payload.len());
    assert_eq!(node.gauge.tally().connections, 1, "it was not thrown out for it");
}

/// More at once than any window, queue or channel on the way holds.
fn flood(more: &str, version: MqttVersion) {
    const REQUESTS: usize = 150;
    let broker = mosquitto!(format!("max_queued_messages 1000\n{more}"));
    let mut config = config(broker.port);
    config.version = version;
    config.queue_requests_max = 1000;
    config.client_requests_max = 1000;
    let node = Node::start(config);
    let ear = Ear::on(broker.port, "311", &[&format!("{CLIENT}/plc7/reply/+")]);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, broker.port)).expect("connected");
    stream.write_all(b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05flood").expect("sent");
    assert_eq!(packet(&mut stream).0, 0x20);
    for rid in 0..REQUESTS {
        let topic = request(&rid.to_string());
        let mut body = (topic.len() as u16).to_be_bytes().to_vec();
        body.extend(topic.as_bytes());
        body.extend((rid as u16 + 1).to_be_bytes());
        body.extend(HELLO.as_bytes());
        let length = body.len();
        let mut whole = vec![0x32, (length % 128) as u8 | 0x80, (length / 128) as u8];
        whole.extend(body);
        stream.write_all(&whole).expect("sent");
    }
    for _ in 0..REQUESTS {
        node.asked().answer(&["done"]);
    }
    let answered: BTreeSet<String> = (0..REQUESTS)
        .map(|_| ear.next_where(|heard| heard.status() == 200).ext()["id"].to_string())
        .collect();
    assert_eq!(answered.len(), REQUESTS, "each once");
    assert_eq!((node.gauge.tally().connections, node.gauge.tally().replies_lost), (1, 0));
}

#[test]
fn a_flood_is_confirmed_and_answered_to_the_last_in_5() {
    flood("", MqttVersion::V5);
}

#[test]
fn a_flood_is_confirmed_and_answered_to_the_last_in_311() {
    flood("", MqttVersion::V311);
}

#[test]
fn a_flood_goes_through_a_broker_that_takes_two_at_once() {
    flood("max_inflight_messages 2\n", MqttVersion::V5);
}

#[test]
fn a_broker_that_forgot_us_is_told_what_we_want_again() {
    let mut broker = mosquitto!("");
    for version in [MqttVersion::V5, MqttVersion::V311] {
        let mut config = config(broker.port);
        config.version = version;
        let node = Node::start(config);
        broker.kill();
        node.offline();
        broker.restart();
        node.online();
        let ear = Ear::on(broker.port, "311", &[&format!("{CLIENT}/plc7/reply/+")]);
        say(broker.port, "311", &request(&format!("{version:?}")), HELLO, &[]);
        node.asked().answer(&["heard"]);
        assert_eq!(ear.next().text(), "heard");
    }
}

#[test]
fn a_reply_that_the_broker_refuses_is_counted() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let rules = folder.path().join("rules.acl");
    let text = format!("topic readwrite {NODE}/#\ntopic read {CLIENT}/#\ntopic readwrite mark/#\n");
    std::fs::write(&rules, text).expect("written");
    let broker = mosquitto!(format!("acl_file {}\n", rules.display()));
    let mut config = config(broker.port);
    config.version = MqttVersion::V5;
    let node = Node::start(config);
    say(broker.port, "5", &request("1"), HELLO, &[]);
    node.asked().answer(&["to nobody"]);
    until("it is counted", || node.gauge.tally().replies_lost == 1);
    assert!(node.gauge.tally().online);
}

#[test]
fn a_reset_line_does_not_cost_what_the_broker_keeps() {
    let broker = mosquitto!("");
    for version in [MqttVersion::V5, MqttVersion::V311] {
        let wire = Wire::to(broker.port, false);
        let mut config = config(wire.port);
        config.version = version;
        config.accept_stale = true;
        let node = Node::start(config);
        let ear = Ear::on(broker.port, "311", &[&format!("{CLIENT}/plc7/reply/+")]);
        for round in 0..3 {
            wire.cut();
            node.offline();
            let rid = format!("{version:?}-{round}");
            say(broker.port, "311", &request(&rid), HELLO, &[]);
            wire.mend();
            node.asked().answer(&[&rid]);
            // A final whose confirmation the cut took along comes twice.
            ear.next_where(|heard| heard.ext()["id"] == rid.as_str());
        }
    }
}
