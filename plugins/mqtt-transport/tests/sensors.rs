//! Numbers of sensors in, news out, against a real mosquitto with its own clients.

mod stage;

use std::sync::Arc;

use mqtt_transport::{MqttConfig, MqttTransport, MqttVersion};
use protocol::{Lookout, News, NewsSink, Stop, StopHandle, Transport, news_pair};
use stage::{Ear, Mosquitto, NODE, Nobody, Wire, config, say, until};

/// Writes down what it hears.
struct Notebook(flume::Sender<(String, String)>);

impl Lookout for Notebook {
    fn hear(&self, source: &str, payload: &[u8]) {
        let text = String::from_utf8_lossy(payload).into_owned();
        self.0.send((source.to_owned(), text)).expect("the test listens");
    }
}

struct Listening {
    heard: flume::Receiver<(String, String)>,
    news: NewsSink,
    stop: Option<StopHandle>,
    thread: Option<std::thread::JoinHandle<()>>,
    online: Box<dyn Fn() -> bool>,
}

fn listen(mut config: MqttConfig, sources: &[&str]) -> Listening {
    config.sources = sources.iter().map(|source| (*source).to_owned()).collect();
    let (sender, heard) = flume::unbounded();
    let (news, feed) = news_pair(8);
    let transport = MqttTransport::new(config).expect("a valid configuration");
    let gauge = transport.gauge();
    let transport = Box::new(transport.with_news(Some(Arc::new(Notebook(sender))), Some(feed)));
    let (handle, stop) = Stop::pair();
    let thread =
        std::thread::spawn(move || transport.serve(Arc::new(Nobody), stop).expect("no error"));
    let online = Box::new(move || gauge.tally().online);
    until("the node is online", &online);
    Listening { heard, news, stop: Some(handle), thread: Some(thread), online }
}

impl Listening {
    /// Publishes until it is heard: the subscription comes behind the connection.
    fn hears(&self, port: u16, topic: &str, payload: &str) {
        let expected = (topic.to_owned(), payload.to_owned());
        until("it is heard", || {
            say(port, "311", topic, payload, &[]);
            self.heard.drain().any(|heard| heard == expected)
        });
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.raise();
        }
        if let Some(thread) = self.thread.take()
            && !std::thread::panicking()
        {
            thread.join().expect("no panic");
        }
    }
}

fn state(body: &str) -> News {
    News::State { kind: "alarm".into(), name: "pump".into(), body: body.into() }
}

fn over(version: MqttVersion) {
    let Some(broker) = Mosquitto::start() else { return };
    let port = broker.port;
    say(port, "311", "plant/pump/1", "kept", &["-r"]);
    let mut config = config(port);
    config.version = version;
    let node = listen(config, &["plant/pump/1", "plant/pump/2"]);
    node.hears(port, "plant/pump/1", "1.5");
    node.hears(port, "plant/pump/2", "not a number, and none of the transport's business");
    say(port, "311", "plant/pump/3", "foreign", &[]);
    node.hears(port, "plant/pump/1", "2.5");
    assert!(node.heard.drain().all(|(topic, text)| topic != "plant/pump/3" && text != "kept"));

    let ear = Ear::on(port, "5", &[&format!("{NODE}/alarm/+"), &format!("{NODE}/event/+")]);
    node.news.tell(state(r#"{"state":"alarm"}"#));
    node.news.tell(News::Event { kind: "alarm".into(), body: r#"{"score":2}"#.into() });
    let (told, event) = (ear.next(), ear.next());
    assert_eq!((told.topic, told.qos), (format!("{NODE}/alarm/pump"), 1));
    assert_eq!(told.payload, r#"{"state":"alarm"}"#);
    assert_eq!((event.topic, event.qos), (format!("{NODE}/event/alarm"), 1));
    assert!(!event.retained);
    // Whoever comes later hears how it stands, and not what happened.
    let late = Ear::on(port, "311", &[&format!("{NODE}/alarm/+"), &format!("{NODE}/event/+")]);
    let heard = late.next();
    assert!(heard.retained && heard.payload == r#"{"state":"alarm"}"#, "{heard:?}");
}

#[test]
fn sensors_are_heard_and_news_told_over_5() {
    over(MqttVersion::V5);
}

#[test]
fn sensors_are_heard_and_news_told_over_311() {
    over(MqttVersion::V311);
}

#[test]
fn a_new_connection_listens_again_and_says_how_things_stand() {
    let Some(broker) = Mosquitto::start() else { return };
    let wire = Wire::to(broker.port, false);
    let node = listen(config(wire.port), &["plant/pump/1"]);
    node.hears(broker.port, "plant/pump/1", "1");
    wire.cut();
    until("the node is offline", || !(node.online)());
    // What is published meanwhile is worth nothing later.
    say(broker.port, "311", "plant/pump/1", "missed", &[]);
    node.news.tell(state("1"));
    node.news.tell(state("2"));
    let ear = Ear::on(broker.port, "5", &[&format!("{NODE}/alarm/+")]);
    wire.mend();
    assert_eq!(ear.next().payload, "2", "the last word alone");
    until("it hears again", || {
        say(broker.port, "311", "plant/pump/1", "2", &[]);
        let heard: Vec<_> = node.heard.drain().collect();
        assert!(heard.iter().all(|(_, text)| text != "missed"));
        !heard.is_empty()
    });
}

/// The broker keeps subscriptions over a restart; one that nobody needs any more is given back.
#[test]
fn a_sensor_that_is_not_configured_any_more_is_left_alone() {
    let Some(broker) = Mosquitto::start() else { return };
    let node = listen(config(broker.port), &["plant/pump/1"]);
    node.hears(broker.port, "plant/pump/1", "1");
    drop(node);
    let transport = MqttTransport::new(config(broker.port)).expect("a valid configuration");
    let gauge = transport.gauge();
    let (handle, stop) = Stop::pair();
    let thread = std::thread::spawn(move || Box::new(transport).serve(Arc::new(Nobody), stop));
    until("it is online", || gauge.tally().online);
    let mut dropped = 0;
    until("the broker sends nothing more", || {
        say(broker.port, "311", "plant/pump/1", "1", &[]);
        let before = std::mem::replace(&mut dropped, gauge.tally().unanswerable);
        dropped > 0 && dropped == before
    });
    handle.raise();
    thread.join().expect("no panic").expect("no error");
}
