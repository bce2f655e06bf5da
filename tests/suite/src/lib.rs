//! The stage of the system tests: the built program, a real broker, real clients.
//!
//! Everything runs on loopback and in temporary folders. What is not installed shows as a line
//! `skipped: …` of the test that wants it; `cargo xtask check` counts those lines.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

pub mod history;
pub mod library;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for anything that must come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The root of the checkout. Tests run in the folder of their crate.
pub fn root() -> PathBuf {
    std::env::current_dir().unwrap().ancestors().nth(2).unwrap().to_owned()
}

/// Real weights and golden vectors beside the checkout, where they are.
pub fn shared() -> Option<PathBuf> {
    let folder =
        std::env::var_os("ZONDA_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    folder.join("data/MANIFEST.md").is_file().then_some(folder)
}

/// The folder of built programs and libraries.
pub fn built() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_owned()
}

/// The program.
pub fn zonda() -> Command {
    let program = built().join("zonda");
    assert!(program.is_file(), "{} is missing: cargo build --release", program.display());
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// The trained fixture as a Hugging Face folder.
pub fn tiny_hf() -> PathBuf {
    root().join("tests/fixtures/tiny/hf")
}

/// The same weights as GGUF.
pub fn tiny_gguf() -> PathBuf {
    root().join("tests/fixtures/tiny/tiny.gguf")
}

/// A configuration of the fixtures' embedder and classifier.
pub fn small_networks() -> String {
    let fixtures = root().join("tests/fixtures/onnx");
    let path = |name: &str| fixtures.join(name).display().to_string();
    format!(
        "[[onnx]]\nname = \"vectors\"\nrole = \"embedding\"\npath = {:?}\ntokens_max = 64\n\n\
         [[onnx]]\nname = \"guard\"\nrole = \"classifier\"\npath = {:?}\ntokens_max = 64\n\
         labels = [\"harmless\", \"injection\", \"personal\"]\n\n\
         [[onnx.categories]]\nname = \"pii\"\nlabels = [\"personal\"]\n\n\
         [[onnx.categories]]\nname = \"dangerous_and_criminal_content\"\nlabels = [\"injection\"]\n\
         threshold = 0.9\n\n",
        path("embedder.onnx"),
        path("classifier.onnx"),
    )
}

/// Runs a command to its end, feeding it `input`.
pub fn run_with(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A program that answers while it reads must not wait for us.
    let writer = std::thread::spawn(move || {
        // A program that refuses its arguments does not read; its exit code says so.
        let _written = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// Standard output of a command that must succeed.
pub fn stdout_of(command: &mut Command) -> String {
    let output = run_with(command, "");
    assert!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The Python of `cargo xtask setup`, else the system's, if it has the module.
pub fn python_with(module: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let candidates = std::env::var_os("ZONDA_PYTHON")
        .map(PathBuf::from)
        .into_iter()
        .chain(cache.iter().map(|cache| cache.join("zonda/python/bin/python3")))
        .chain(cache.iter().map(|cache| cache.join("zonda/python-clients/bin/python3")))
        .chain(cache.iter().map(|cache| cache.join("zonda/python-home/bin/python3")))
        .chain([PathBuf::from("python3")]);
    candidates.into_iter().find(|python| {
        Command::new(python)
            .args(["-c", &format!("import {module}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

/// The path of an installed program.
pub fn installed(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A running `zonda serve`. Killed when dropped.
pub struct Daemon {
    child: Child,
    /// Where its HTTP API listens.
    pub http: SocketAddr,
    /// The broker that it uses.
    pub mqtt_port: u16,
    /// The line that it printed when it was ready.
    pub ready: String,
    folder: tempfile::TempDir,
}

/// The node name of every daemon of the tests.
pub const NODE: &str = "zonda/v1/plant1/box1";

impl Daemon {
    /// Starts the program with a free HTTP port; waits until it is ready and online at its broker.
    pub fn start(model: &Path, arguments: &[&str]) -> Self {
        Self::start_with(&[&["--model", model.to_str().unwrap()], arguments].concat())
    }

    /// The same with the model that the program carries.
    pub fn embedded() -> Self {
        Self::start_with(&[])
    }

    fn start_with(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = zonda();
        command
            .args(["serve", "--http", "127.0.0.1:0", "--set", "mqtt.broker_address=127.0.0.1:0"])
            .args(["--set", "mqtt.site=plant1", "--set", "mqtt.node=box1"])
            .args(arguments)
            .env("STATE_DIRECTORY", folder.path())
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(folder.path().join("log")).unwrap());
        let mut child = command.spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let log = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        assert!(ready.starts_with("zonda ready: "), "no ready line but {ready:?} and {}", log());
        let value = |key: &str| {
            let start = ready.find(key).unwrap_or_else(|| panic!("no {key} in {ready:?}"));
            ready[start + key.len()..].split_whitespace().next().unwrap().to_owned()
        };
        let http = value("http=http://").parse().unwrap();
        let mqtt_port = value("mqtt=mqtt://").rsplit(':').next().unwrap().parse().unwrap();
        let daemon = Self { child, http, mqtt_port, ready, folder };
        if installed("mosquitto_sub").is_some() {
            daemon.wait_for_status("online");
        }
        daemon
    }

    /// Waits until the broker holds this status of the daemon.
    pub fn wait_for_status(&self, wanted: &str) {
        let began = Instant::now();
        loop {
            let output = Command::new("mosquitto_sub")
                .args(["-h", "127.0.0.1", "-p", &self.mqtt_port.to_string()])
                .args(["-t", &format!("{NODE}/status"), "-C", "1", "-W", "2"])
                .output()
                .unwrap();
            if String::from_utf8_lossy(&output.stdout).trim() == wanted {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "the status did not become {wanted}");
        }
    }

    /// One HTTP exchange: status, headers and body.
    pub fn http(&self, request: &str, body: &[u8]) -> (u16, String, String) {
        http_exchange(self.http, request, body)
    }

    /// Posts a JSON body.
    pub fn post(&self, path: &str, body: &str) -> (u16, serde_json::Value) {
        let (status, _, body) = self.http(&format!("POST {path}"), body.as_bytes());
        let value = serde_json::from_str(&body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {body:?}"));
        (status, value)
    }

    /// The text of a chat answer at temperature 0.
    pub fn chat(&self, prompt: &str) -> String {
        let body = serde_json::json!({
            "model": "default", "temperature": 0, "max_tokens": 48,
            "messages": [{ "role": "user", "content": prompt }],
        });
        let (status, answer) = self.post("/v1/chat/completions", &body.to_string());
        assert_eq!(status, 200, "{answer}");
        answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    }

    /// All that it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Tells it to stop, without waiting.
    pub fn tell_to_stop(&self) {
        let sent = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.tell_to_stop();
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        let _killed = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// One HTTP/1.1 exchange on a connection of its own. `request` is method and path.
pub fn http_exchange(address: SocketAddr, request: &str, body: &[u8]) -> (u16, String, String) {
    http_with(address, request, "", body)
}

/// As [`http_exchange`], with further header lines, each with its end.
pub fn http_with(
    address: SocketAddr,
    request: &str,
    headers: &str,
    body: &[u8],
) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "{request} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // The server may refuse before it has read all of a large body.
    let _sent = stream.write_all(body);
    let mut answer = Vec::new();
    let _closed = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        unchunk(body)
    } else {
        body.to_owned()
    };
    (status, head.to_owned(), body)
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            break;
        }
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

/// A real mosquitto on loopback. Killed when dropped.
pub struct Broker {
    child: Child,
    /// Its port.
    pub port: u16,
    folder: tempfile::TempDir,
}

impl Broker {
    /// Starts one, where it is installed.
    pub fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let child = spawn_broker(folder.path(), port)?;
        Some(Self { child, port, folder })
    }

    /// Kills it as a power cut would, and starts it again on the same port with nothing kept.
    pub fn restart(&mut self, pause: impl FnOnce()) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        pause();
        self.child = spawn_broker(self.folder.path(), self.port).unwrap();
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its address as the daemon wants it.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn spawn_broker(folder: &Path, port: u16) -> Option<Child> {
    let program = installed("mosquitto")?;
    let config = folder.join("mosquitto.conf");
    std::fs::write(&config, format!("listener {port} 127.0.0.1\nallow_anonymous true\n")).unwrap();
    let child = Command::new(program)
        .arg("-c")
        .arg(config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        assert!(began.elapsed() < PATIENCE, "mosquitto does not listen");
        std::thread::yield_now();
    }
    Some(child)
}

/// A `mosquitto_sub` whose subscription stands. Killed when dropped.
pub struct Subscriber {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Subscriber {
    /// Subscribes as `version` (`5` or `311`), and waits for the broker's word that it stands.
    pub fn start(version: &str, port: u16, topic: &str) -> Self {
        // mosquitto_sub keeps what it writes into a pipe until it ends; stdbuf makes it let go.
        let mut child = Command::new("stdbuf")
            .args(["-oL", "mosquitto_sub", "-V", version, "-h", "127.0.0.1", "-d"])
            .args(["-p", &port.to_string(), "-t", topic, "-W", "60"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let stands = lines.any(|line| line.unwrap().contains("Subscribed"));
        assert!(stands, "no subscription to {topic}");
        Self { child, lines }
    }

    /// The next message; `Null` when none comes.
    pub fn next_message(&mut self) -> serde_json::Value {
        let lines = self.lines.by_ref().map_while(Result::ok);
        lines.filter_map(|line| serde_json::from_str(&line).ok()).next().unwrap_or_default()
    }

    /// The next message that ends an answer; `Null` when none comes.
    pub fn last(&mut self) -> serde_json::Value {
        self.lines
            .by_ref()
            .map_while(Result::ok)
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok())
            .find(|value| value["ext"]["fin"] == true)
            .unwrap_or_default()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _ended = self.child.wait();
    }
}
