//! Clients of the real program: keys, limits over HTTP and MQTT together, and what one can learn of
//! another.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops where something is wrong, and tells what it skips"
)]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use suite::{
    Daemon, NODE, Subscriber, http_with, installed, run_with, stdout_of, tiny_gguf, zonda,
};

/// A key that `zonda key new` made, and the configuration's lines that know it.
fn key(name: &str) -> (String, String) {
    let output = run_with(zonda().args(["key", "new", name]), "");
    assert!(output.status.success());
    let shown = String::from_utf8(output.stderr).unwrap();
    let key = shown.lines().find(|line| line.starts_with("zonda-")).unwrap().to_owned();
    let lines = String::from_utf8(output.stdout).unwrap();
    assert!(!lines.contains(&key), "the key itself is not written down");
    (key, lines)
}

fn configured(folder: &Path, text: &str) -> String {
    let path = folder.join("zonda.toml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Status, head and body of a chat with a key.
fn chat(daemon: &Daemon, key: &str, prompt: &str) -> (u16, String, Value) {
    let body = json!({
        "model": "default", "temperature": 0, "max_tokens": 8,
        "messages": [{ "role": "user", "content": prompt }],
    });
    let header = format!("Authorization: Bearer {key}\r\n");
    let (status, head, body) =
        http_with(daemon.http, "POST /v1/chat/completions", &header, body.to_string().as_bytes());
    (status, head, serde_json::from_str(&body).unwrap_or_default())
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[test]
fn limits_hold_over_both_entrances_and_the_wait_that_is_told_is_true() {
    let folder = tempfile::tempdir().unwrap();
    let (key, lines) = key("plc7");
    let config = configured(folder.path(), &format!("{lines}requests_per_minute = 15\n"));
    let daemon = Daemon::start(&tiny_gguf(), &["--config", &config]);
    assert_eq!(chat(&daemon, "zonda-guess", "hi").0, 401);
    for left in (0..15).rev() {
        let (status, head, _) = chat(&daemon, &key, "hi");
        assert_eq!(status, 200, "{head}");
        // A request comes back every four seconds, which a slow machine may take.
        let told: u32 = header(&head, "x-ratelimit-remaining-requests").unwrap().parse().unwrap();
        assert!(told >= left, "{head}");
        if told == 0 {
            break;
        }
    }
    let (head, body) = (0..100)
        .find_map(|_| match chat(&daemon, &key, "hi") {
            (429, head, body) => Some((head, body)),
            (status, head, _) => {
                assert_eq!(status, 200, "{head}");
                None
            }
        })
        .expect("the limit is reached");
    assert_eq!(body["code"], "rate_limited");
    if installed("mosquitto_pub").is_some() {
        let mut replies =
            Subscriber::start("311", daemon.mqtt_port, "zonda/v1/plant1/client/plc7/reply/+");
        let message = json!({ "messages": [{ "role": "user", "content": "hi" }] }).to_string();
        stdout_of(
            Command::new("mosquitto_pub")
                .args(["-V", "311", "-q", "1", "-p", &daemon.mqtt_port.to_string()])
                .args(["-t", &format!("{NODE}/chat/request/plc7/1"), "-m", &message]),
        );
        let refused = replies.last();
        assert_eq!(refused["ext"]["status"], 429, "{refused}");
        assert_eq!(refused["error"]["code"], "rate_limited");
        assert!(refused["ext"]["retry_after_ms"].as_u64().unwrap() <= 4_000, "{refused}");
    } else {
        println!("skipped: no mosquitto_pub");
    }
    let wait: u64 = header(&head, "retry-after-ms").unwrap().parse().unwrap();
    let seconds: u64 = header(&head, "retry-after").unwrap().parse().unwrap();
    assert!(wait <= 4_000 && seconds == wait.div_ceil(1000), "{head}");
    std::thread::sleep(Duration::from_millis(wait));
    assert_eq!(chat(&daemon, &key, "hi").0, 200, "it waited as long as it was told");
    let log = daemon.log();
    assert!(log.contains("client=\"plc7\""), "{log}");
    assert!(!log.contains(&key) && !log.contains("\"hi\""), "{log}");
}

#[test]
fn one_client_learns_nothing_of_what_another_asked() {
    let folder = tempfile::tempdir().unwrap();
    let ((a, first), (b, second)) = (key("a"), key("b"));
    let config = configured(folder.path(), &format!("{first}{second}"));
    let daemon = Daemon::start(&tiny_gguf(), &["--config", &config]);
    let secret =
        "Turn on the kitchen light, the hall light, the garden light and the attic light. "
            .repeat(4);
    let cached = |key: &str| {
        let (status, head, body) = chat(&daemon, key, &secret);
        assert_eq!(status, 200, "{head}");
        body["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0)
    };
    assert_eq!(cached(&a), 0);
    assert_eq!(cached(&b), 0, "b is not told that somebody has asked this before");
    let began = Instant::now();
    while cached(&a) == 0 {
        assert!(began.elapsed() < suite::PATIENCE, "a's own beginning is known again");
    }
}

#[test]
fn a_client_that_floods_leaves_the_others_their_turn() {
    let folder = tempfile::tempdir().unwrap();
    let ((greedy, first), (modest, second)) = (key("greedy"), key("modest"));
    let config = configured(folder.path(), &format!("{first}requests_max = 2\n{second}"));
    let daemon = Daemon::start(&tiny_gguf(), &["--config", &config]);
    let refused = std::thread::scope(|scope| {
        let flood: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| (0..6).filter(|_| chat(&daemon, &greedy, "hi").0 == 429).count())
            })
            .collect();
        for _ in 0..6 {
            assert_eq!(chat(&daemon, &modest, "hi").0, 200, "the queue has room for it");
        }
        flood.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    assert!(refused > 0, "eight at a time are more than two");
    assert_eq!(chat(&daemon, &greedy, "hi").0, 200, "every place has come back");
}

#[test]
fn the_program_listens_at_a_socket_beside_its_address() {
    let Some(curl) = installed("curl") else {
        println!("skipped: no curl");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("http.sock");
    let setting = format!("http.unix_socket={}", socket.display());
    // The address in the ready line ends where the socket begins.
    let mut child = zonda()
        .args(["serve", "--http", "127.0.0.1:0", "--set", "mqtt.enabled=false"])
        .args(["--set", &setting, "--model"])
        .arg(tiny_gguf())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    let stdout = child.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut ready).unwrap();
    assert!(ready.contains(&format!(",unix:{}", socket.display())), "{ready}");
    let models = stdout_of(
        Command::new(curl)
            .args(["-sS", "-m", "60", "--unix-socket"])
            .arg(&socket)
            .arg("http://localhost/v1/models"),
    );
    let models: Value = serde_json::from_str(&models).unwrap();
    assert_eq!(models["object"], "list");
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!socket.exists());
}
