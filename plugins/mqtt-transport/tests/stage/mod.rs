//! The stage for tests over a wire: a broker as a process, stock clients as processes, a service
//! whose answers the test gives by hand, and a line that can be cut.
// Each test target uses its own part of the stage.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mqtt_transport::{MqttConfig, MqttGauge, MqttTransport};
use protocol::{
    Description, EmbedRequest, Embeddings, Event, EventSink, Fault, FinishReason, Load, ModelCard,
    Reply, Request, Service, Stop, StopHandle, Transport, TransportError, Usage, reply_pair,
};
use serde_json::Value;

pub const PATIENCE: Duration = Duration::from_secs(20);
pub const NODE: &str = "zonda/v1/plant1/jet-03";
pub const CLIENT: &str = "zonda/v1/plant1/client";

/// Looks again and again until `holds`.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("bound").port()
}

fn installed(program: &str) -> bool {
    let mut help = Command::new(program);
    let found = help.arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("skipped: no {program}");
    }
    found
}

/// Whether the stock clients are here; says so when they are not.
pub fn has_clients() -> bool {
    installed("mosquitto_pub")
}

/// A mosquitto of our own, in memory, on loopback.
pub struct Mosquitto {
    child: Option<Child>,
    directory: tempfile::TempDir,
    pub port: u16,
    /// More lines of its configuration.
    more: String,
}

impl Mosquitto {
    /// `None`, and a line about it, where mosquitto is not installed.
    pub fn start() -> Option<Self> {
        Self::with("allow_anonymous true\n")
    }

    /// With these lines of configuration besides its listener.
    pub fn with(more: &str) -> Option<Self> {
        if !installed("mosquitto") || !installed("mosquitto_pub") {
            return None;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut broker = Self { child: None, directory, port: 0, more: more.into() };
        // Another test may take a port between its choice and its use.
        until("a port is had", || {
            broker.port = free_port();
            broker.begins(&broker.text())
        });
        Some(broker)
    }

    /// With this configuration alone, which listens on `port`.
    pub fn with_whole(text: &str, port: u16) -> Option<Self> {
        if !installed("mosquitto") || !installed("mosquitto_pub") {
            return None;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut broker = Self { child: None, directory, port, more: String::new() };
        assert!(broker.begins(text), "port {port} is taken");
        Some(broker)
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ended = child.kill();
            child.wait().expect("gone");
        }
    }

    pub fn restart(&mut self) {
        let text = self.text();
        assert!(self.begins(&text), "port {} is taken", self.port);
    }

    fn text(&self) -> String {
        format!(
            "per_listener_settings false\npersistence false\nlog_type none\nlistener {} 127.0.0.1\n{}",
            self.port, self.more,
        )
    }

    /// Whether the broker listens; otherwise it has ended, since somebody else has the port.
    fn begins(&mut self, text: &str) -> bool {
        self.kill();
        let text = format!("user root\n{text}");
        let config = self.directory.path().join("mosquitto.conf");
        std::fs::write(&config, text).expect("written");
        let mut child = Command::new("mosquitto")
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto starts");
        let mut has_ended = false;
        until("mosquitto listens, or ends", || {
            has_ended = child.try_wait().expect("a state").is_some();
            has_ended || is_heard(self.port)
        });
        // Who takes connections may be somebody else.
        std::thread::sleep(Duration::from_millis(20));
        has_ended = has_ended || child.try_wait().expect("a state").is_some();
        self.child = Some(child);
        !has_ended
    }
}

/// Whether somebody takes connections; a socket that was connected to itself is nobody.
fn is_heard(port: u16) -> bool {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
    stream.is_ok_and(|stream| stream.local_addr().ok() != stream.peer_addr().ok())
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One message, as `mosquitto_sub` saw it.
#[derive(Debug, Clone)]
pub struct Heard {
    pub topic: String,
    pub qos: u8,
    pub retained: bool,
    pub correlation: String,
    pub properties: String,
    /// Seconds that are left of it.
    pub expiry: Option<u32>,
    pub payload: String,
}

impl Heard {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.payload).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub fn ext(&self) -> Value {
        self.json()["ext"].clone()
    }

    pub fn status(&self) -> u64 {
        let json: Value = serde_json::from_str(&self.payload).unwrap_or_default();
        json["ext"]["status"].as_u64().unwrap_or(0)
    }

    pub fn text(&self) -> String {
        let choice = &self.json()["choices"][0];
        let content = [&choice["delta"]["content"], &choice["message"]["content"]];
        content.iter().find_map(|value| value.as_str()).unwrap_or_default().to_owned()
    }
}

/// A `mosquitto_sub` that is subscribed.
pub struct Ear {
    child: Child,
    heard: flume::Receiver<Heard>,
}

impl Ear {
    pub fn on(port: u16, version: &str, filters: &[&str]) -> Self {
        // What the broker keeps is sent when a subscription is made: the mark says that it is.
        static MARKS: AtomicU32 = AtomicU32::new(0);
        let mark = format!("mark/{}", MARKS.fetch_add(1, Ordering::SeqCst));
        say(port, "311", &mark, "subscribed", &["-r"]);
        Self::listen(port, version, filters, &mark, &[])
    }

    /// As a user of a broker with access rules, whose password is its name. What is kept under
    /// `mark` says that the subscription is made, and is not told.
    pub fn of_user(port: u16, user: &str, version: &str, filters: &[&str], mark: &str) -> Self {
        Self::listen(port, version, filters, mark, &["-u", user, "-P", user])
    }

    fn listen(port: u16, version: &str, filters: &[&str], mark: &str, more: &[&str]) -> Self {
        let mark = mark.to_owned();
        let mut command = Command::new("mosquitto_sub");
        command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-V", version, "-q", "1"]);
        command.args(more);
        command.args(["-F", "heard\\t%t\\t%q\\t%r\\t%D\\t%P\\t%E\\t%p"]);
        for filter in filters.iter().chain([&mark.as_str()]) {
            command.args(["-t", filter]);
        }
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (sender, heard) = flume::unbounded();
        let (ready_in, ready) = flume::bounded(1);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let fields: Vec<&str> = line.splitn(8, '\t').collect();
                if let ["heard", topic, qos, retained, correlation, properties, expiry, payload] =
                    fields[..]
                {
                    if topic == mark {
                        let _first = ready_in.try_send(());
                        continue;
                    }
                    let _open = sender.send(Heard {
                        topic: topic.into(),
                        qos: qos.parse().unwrap_or(9),
                        retained: retained == "1",
                        correlation: correlation.into(),
                        properties: properties.into(),
                        expiry: expiry.parse().ok(),
                        payload: payload.into(),
                    });
                }
            }
        });
        ready.recv_timeout(PATIENCE).expect("subscribed");
        Self { child, heard }
    }

    pub fn next(&self) -> Heard {
        self.heard.recv_timeout(PATIENCE).expect("a message")
    }

    /// The next message that satisfies `wanted`; others are passed over.
    pub fn next_where(&self, wanted: impl Fn(&Heard) -> bool) -> Heard {
        loop {
            let heard = self.next();
            if wanted(&heard) {
                return heard;
            }
        }
    }

    /// Nothing has come, and nothing comes while `so_long`.
    pub fn is_silent_for(&self, so_long: Duration) -> bool {
        self.heard.recv_timeout(so_long).is_err()
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Publishes with `mosquitto_pub` at QoS 1.
pub fn say(port: u16, version: &str, topic: &str, payload: &str, more: &[&str]) {
    let mut child = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-V", version, "-q", "1"])
        .args(["-t", topic, if payload.is_empty() { "-n" } else { "-s" }])
        .args(more)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let mut input = child.stdin.take().expect("piped");
    if !payload.is_empty() {
        input.write_all(payload.as_bytes()).expect("written");
    }
    drop(input);
    assert!(child.wait().expect("ends").success(), "mosquitto_pub to {topic}");
}

/// Begins to ask with `mosquitto_rr`.
pub fn ask(port: u16, topic: &str, reply: &str, payload: &str, more: &[&str]) -> Child {
    Command::new("mosquitto_rr")
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-V", "5", "-q", "1", "-W", "20"])
        .args(["-t", topic, "-e", reply, "-m", payload])
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts")
}

pub fn answer_of(asking: Child) -> Value {
    let Output { stdout, .. } = asking.wait_with_output().expect("ends");
    serde_json::from_slice(&stdout)
        .unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&stdout)))
}

/// A service whose answers the test gives.
pub struct ByHand {
    requests: flume::Sender<(Request, EventSink)>,
    pub refuses: Mutex<Option<Fault>>,
    pub model: Mutex<String>,
    /// Each request for vectors waits here until the test opens the door.
    pub door: Mutex<Option<flume::Receiver<()>>>,
    pub embedded: AtomicU32,
}

impl Service for ByHand {
    fn submit(&self, request: Request) -> Result<Reply, Fault> {
        if let Some(fault) = self.refuses.lock().expect("not poisoned").clone() {
            return Err(fault);
        }
        let (sink, reply) = reply_pair(request.id.clone(), 64);
        self.requests.send((request, sink)).expect("the test listens");
        Ok(reply)
    }

    fn embed(&self, request: EmbedRequest) -> Result<Embeddings, Fault> {
        self.embedded.fetch_add(1, Ordering::SeqCst);
        if let Some(fault) = self.refuses.lock().expect("not poisoned").clone() {
            return Err(fault);
        }
        let door = self.door.lock().expect("not poisoned").clone();
        if let Some(door) = door {
            door.recv_timeout(PATIENCE).expect("opened");
        }
        let client = request.client.map_or(0, |client| client.len());
        let dimensions = request.dimensions.unwrap_or(2) as usize;
        let vector = |text: &String| {
            let mut vector = vec![0.5; dimensions];
            vector[0] = text.len() as f32;
            vector
        };
        Ok(Embeddings {
            model: "vectors".into(),
            vectors: request.texts.iter().map(vector).collect(),
            prompt_tokens: client as u32,
            truncated_texts: request.texts.iter().filter(|text| text.len() > 100).count() as u32,
        })
    }

    fn describe(&self) -> Description {
        let id = self.model.lock().expect("not poisoned").clone();
        let card = ModelCard { id, context_tokens_max: 64, ..ModelCard::default() };
        let load = Load { active: 0, queued: 0, queue_requests_max: 8, ..Load::default() };
        Description { models: vec![card], load, ..Description::default() }
    }
}

/// A service that refuses everything.
pub struct Nobody;

impl Service for Nobody {
    fn submit(&self, _: Request) -> Result<Reply, Fault> {
        Err(Fault::bad_request("nobody is here"))
    }

    fn describe(&self) -> Description {
        Description::default()
    }
}

/// One request that the test answers.
pub struct Asked {
    pub request: Request,
    pub sink: EventSink,
}

impl Asked {
    pub fn accept(&self) {
        self.send(Event::Accepted {
            id: self.request.id.clone(),
            model: "tiny".into(),
            prompt_tokens: 3,
            cached_tokens: 0,
        });
    }

    pub fn text(&self, text: &str) {
        self.send(Event::text(text, 1));
    }

    pub fn finish(&self) {
        self.end(FinishReason::Stop);
    }

    pub fn end(&self, reason: FinishReason) {
        let usage = Usage { prompt_tokens: 3, completion_tokens: 2, ..Usage::default() };
        self.send(Event::Finished { reason, usage });
    }

    pub fn send(&self, event: Event) {
        assert_eq!(self.sink.send(event), protocol::SendOutcome::Sent);
    }

    /// Accepts, says the words, ends.
    pub fn answer(&self, words: &[&str]) {
        self.accept();
        for word in words {
            self.text(word);
        }
        self.finish();
    }
}

/// A transport that serves on a thread.
pub struct Node {
    pub gauge: MqttGauge,
    pub service: Arc<ByHand>,
    requests: flume::Receiver<(Request, EventSink)>,
    stop: Option<StopHandle>,
    thread: Option<JoinHandle<Result<(), TransportError>>>,
}

pub fn config(port: u16) -> MqttConfig {
    let mut config = MqttConfig::new(format!("mqtt://127.0.0.1:{port}"), "plant1", "jet-03");
    config.backoff_min = Duration::from_millis(20);
    config.backoff_max = Duration::from_millis(100);
    config.drain = Duration::from_secs(2);
    config.client_requests_max = config.queue_requests_max;
    config
}

impl Node {
    pub fn start(config: MqttConfig) -> Self {
        let transport = Box::new(MqttTransport::new(config).expect("a valid configuration"));
        let gauge = transport.gauge();
        let (sender, requests) = flume::unbounded();
        let service = Arc::new(ByHand {
            requests: sender,
            refuses: Mutex::new(None),
            model: Mutex::new("tiny".into()),
            door: Mutex::new(None),
            embedded: AtomicU32::new(0),
        });
        let (handle, stop) = Stop::pair();
        let served: Arc<dyn Service> = Arc::clone(&service) as Arc<dyn Service>;
        let thread = std::thread::spawn(move || transport.serve(served, stop));
        let node = Self { gauge, service, requests, stop: Some(handle), thread: Some(thread) };
        node.online();
        node
    }

    pub fn online(&self) {
        until("the node is online", || self.gauge.tally().online);
    }

    pub fn offline(&self) {
        until("the node is offline", || !self.gauge.tally().online);
    }

    pub fn asked(&self) -> Asked {
        let (request, sink) = self.requests.recv_timeout(PATIENCE).expect("a request");
        Asked { request, sink }
    }

    pub fn was_asked(&self) -> bool {
        !self.requests.is_empty()
    }

    pub fn raise_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.raise();
        }
    }

    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic").expect("no error");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.raise_stop();
        if !std::thread::panicking() {
            self.join();
        }
    }
}

/// A line to the broker that can be cut without a goodbye.
pub struct Wire {
    pub port: u16,
    cut: Arc<AtomicBool>,
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    /// Forwards to the broker's port. A deaf wire hangs up on clients that speak MQTT 5.
    pub fn to(port: u16, deaf: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let wire = Self {
            port: listener.local_addr().expect("bound").port(),
            cut: Arc::new(AtomicBool::new(false)),
            ends: Arc::new(Mutex::new(Vec::new())),
        };
        let (cut, ends) = (Arc::clone(&wire.cut), Arc::clone(&wire.ends));
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if cut.load(Ordering::SeqCst) || (deaf && speaks_5(&near)) {
                    continue;
                }
                let far = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
                let Ok(far) = far else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (twin(from), twin(to));
                    std::thread::spawn(move || {
                        let _ended = std::io::copy(&mut from, &mut to);
                        let _closed = to.shutdown(Shutdown::Both);
                    });
                }
                ends.lock().expect("not poisoned").extend([near, far]);
            }
        });
        wire
    }

    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        for end in self.ends.lock().expect("not poisoned").drain(..) {
            let _closed = end.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

fn twin(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a second handle")
}

/// The protocol level of CONNECT is its ninth byte, behind a header of two.
fn speaks_5(stream: &TcpStream) -> bool {
    let mut head = [0; 9];
    until("CONNECT came", || stream.peek(&mut head).is_ok_and(|count| count == head.len()));
    if head[8] != 5 {
        return false;
    }
    let _read = twin(stream).read(&mut head);
    true
}
