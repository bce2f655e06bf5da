//! What the faults strike: a broker, a line, the program, and clients with sessions.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use suite::history::What;
use suite::{NODE, PATIENCE, free_port, installed, root, tiny_gguf, zonda};

/// A cheap generator, so that a failure comes again.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Less than `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % bound
    }
}

/// Sends a signal to a process of ours.
pub(crate) fn signal(name: &str, id: u32) {
    let sent = Command::new("kill").args([format!("-{name}"), id.to_string()]).status().unwrap();
    assert!(sent.success(), "kill -{name} {id}");
}

/// A mosquitto that can be killed and started again on its port.
pub(crate) struct Broker {
    child: Option<Child>,
    folder: tempfile::TempDir,
    pub(crate) port: u16,
}

impl Broker {
    /// One that writes down every change, or nothing at all.
    pub(crate) fn start(keeps: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut text = format!("listener {port} 127.0.0.1\nallow_anonymous true\n");
        if keeps {
            let place = folder.path().display();
            text += &format!(
                "persistence true\npersistence_location {place}/\nautosave_on_changes true\n\
                 autosave_interval 1\nuser root\n",
            );
        }
        std::fs::write(folder.path().join("mosquitto.conf"), text).unwrap();
        let mut broker = Self { child: None, folder, port };
        broker.run();
        broker
    }

    /// Waits until the node says that it is there.
    pub(crate) fn wait_for_online(&self) {
        let began = Instant::now();
        loop {
            let output = Command::new(installed("mosquitto_sub").unwrap())
                .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-C", "1", "-W", "2"])
                .args(["-t", &format!("{NODE}/status")])
                .output()
                .unwrap();
            if output.stdout.trim_ascii() == b"online" {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "the node does not come online");
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn run(&mut self) {
        let child = Command::new(installed("mosquitto").unwrap())
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            assert!(began.elapsed() < PATIENCE, "mosquitto does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A line to the broker that can be cut without a goodbye.
pub(crate) struct Wire {
    pub(crate) port: u16,
    cut: Arc<AtomicBool>,
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let own = listener.local_addr().unwrap().port();
        let wire = Self { port: own, cut: Arc::default(), ends: Arc::default() };
        let (cut, ends) = (Arc::clone(&wire.cut), Arc::clone(&wire.ends));
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if cut.load(Ordering::SeqCst) {
                    continue;
                }
                let far = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
                let Ok(far) = far else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let _ended = std::io::copy(&mut from, &mut to);
                        let _closed = to.shutdown(Shutdown::Both);
                        let _closed = from.shutdown(Shutdown::Both);
                    });
                }
                let mut ends = ends.lock().unwrap();
                ends.retain(|end| end.peer_addr().is_ok());
                ends.extend([near, far]);
            }
        });
        wire
    }

    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        for end in self.ends.lock().unwrap().drain(..) {
            let _closed = end.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

/// The program, with a state folder that survives it.
pub(crate) struct Program {
    child: Option<Child>,
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    starts: Arc<Mutex<Duration>>,
}

impl Program {
    pub(crate) fn start(broker: u16, version: &str, settings: &[&str]) -> Self {
        let mut arguments: Vec<String> =
            ["serve", "--http", "127.0.0.1:0", "--mqtt"].map(str::to_owned).into();
        arguments.push(format!("mqtt://127.0.0.1:{broker}"));
        let version = format!("mqtt.version={version}");
        let names = ["mqtt.site=plant1", "mqtt.node=box1", &version];
        for setting in names.iter().chain(settings) {
            arguments.extend(["--set".to_owned(), (*setting).to_owned()]);
        }
        arguments.extend(["--model".to_owned(), tiny_gguf().display().to_string()]);
        let folder = tempfile::tempdir().unwrap();
        let mut program = Self { child: None, folder, arguments, starts: Arc::default() };
        program.run();
        program
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn run(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file());
        let began = Instant::now();
        let mut child = zonda()
            .args(&self.arguments)
            .env("STATE_DIRECTORY", self.folder.path())
            .current_dir(self.folder.path())
            .stdout(Stdio::piped())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let starts = Arc::clone(&self.starts);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if line.starts_with("zonda ready: ") {
                    let mut slowest = starts.lock().unwrap();
                    *slowest = slowest.max(began.elapsed());
                }
            }
        });
        self.child = Some(child);
    }

    /// The longest time from a start to the ready line.
    pub(crate) fn slowest_start(&self) -> Duration {
        *self.starts.lock().unwrap()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Clients with sessions, in one process.
pub(crate) struct Crew {
    child: Child,
    input: ChildStdin,
    events: Receiver<Value>,
    /// How long a test waits for them.
    pub(crate) patience: Duration,
}

impl Crew {
    pub(crate) fn start(python: &Path, broker: u16, version: &str, names: &[&str]) -> Self {
        let mut child = Command::new(python)
            .arg(root().join("tests/suite/clients/fault_client.py"))
            .args([&broker.to_string(), version, "zonda/v1/plant1"])
            .args(names)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, events) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _heard = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        let input = child.stdin.take().unwrap();
        for _ in names {
            let ready: Value = events.recv_timeout(PATIENCE).unwrap();
            assert_eq!(ready["e"], "ready");
        }
        Self { child, input, events, patience: PATIENCE }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn publish(&mut self, client: &str, topic: &str, rid: &str, body: &str) {
        let order = json!({ "client": client, "topic": topic, "rid": rid, "body": body });
        writeln!(self.input, "{order}").unwrap();
        self.input.flush().unwrap();
    }

    /// The next thing that a client saw, pieces of answers apart.
    pub(crate) fn next(&self, patience: Duration) -> Option<((String, String), What)> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left).ok()?;
            if let Some(seen) = seen(&event) {
                return Some(seen);
            }
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn seen(event: &Value) -> Option<((String, String), What)> {
    let text = |name: &str| event[name].as_str().map(str::to_owned);
    let request = (text("client")?, text("rid")?);
    if event["e"] == "confirmed" {
        return Some((request, What::Confirmed));
    }
    let payload = text("payload")?;
    let value: Value = serde_json::from_str(&payload).unwrap();
    let status = u16::try_from(value["ext"]["status"].as_u64()?).unwrap();
    let what = match status {
        202 => What::Accepted,
        429 | 503 | 507 => What::Refused(status),
        _ => What::Final(status, payload),
    };
    Some((request, what))
}
