//! A cancel over HTTP, MQTT 5, MQTT 3.1.1 and C, before the first piece of an answer and in the middle
//! of it: what each entrance shows, what came before it, and that the engine is free behind it.
//!
//! | entrance | a cancel is | its end |
//! |---|---|---|
//! | HTTP | the client closes its connection | nobody is left to be told; the log's line of the request says `gone` |
//! | MQTT | a message on the cancel topic | a final with status 499 and all of the text so far; the log says `cancelled` |
//! | C | `zonda_request_cancel` | the terminal event, `cancelled`: an error where the answer had not begun, else a completion; the stats count it |
//!
//! A completion says `error` as its reason, for clients know no other word of a cancel.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops where something is wrong, and tells what it skips"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use suite::library::Library;
use suite::{Daemon, NODE, PATIENCE, Subscriber, installed, tiny_gguf};

/// One answer runs, the others wait, and nothing is shared between them.
const SETTINGS: &[(&str, &str)] = &[
    ("engine.sequences_max", "1"),
    ("engine.queue_requests_max", "64"),
    ("engine.prefix_sharing", "off"),
];
/// Tokens of an answer that nobody cancels: most of what the model takes.
const TOKENS: u64 = 900;
/// Answers that keep the engine's place; each is as long.
const BEFORE: usize = 24;
/// An answer may be over before its cancel comes. Then the test asks again, so often.
const TRIES: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// It waits for its turn.
    Early,
    /// Its first piece was read.
    Middle,
}

fn body() -> Value {
    json!({
        "messages": [{ "role": "user", "content": "Turn on the kitchen light." }],
        "temperature": 0, "min_tokens": TOKENS, "max_tokens": TOKENS, "stream": true,
    })
}

/// What can be compared of a cancelled answer.
#[derive(Debug, PartialEq)]
struct Cancelled {
    /// In the entrance's own words.
    end: String,
    finish_reason: Value,
    text: String,
    prompt_tokens: u64,
    answer_tokens: u64,
}

/// The answer that nobody cancels.
fn whole(daemon: &Daemon) -> Cancelled {
    let mut body = body();
    body["stream"] = json!(false);
    let (status, answer) = daemon.post("/v1/chat/completions", &body.to_string());
    assert_eq!(status, 200, "{answer}");
    of_json("200", &answer)
}

fn of_json(end: &str, answer: &Value) -> Cancelled {
    let usage = &answer["usage"];
    Cancelled {
        end: end.to_owned(),
        finish_reason: answer["choices"][0]["finish_reason"].clone(),
        text: answer["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned(),
        prompt_tokens: usage["prompt_tokens"].as_u64().unwrap(),
        answer_tokens: usage["completion_tokens"].as_u64().unwrap(),
    }
}

impl Cancelled {
    /// That it is what `moment` leaves of `whole`.
    fn check(&self, moment: Moment, whole: &Self, end: &str, finish_reason: &Value) {
        assert_eq!((self.end.as_str(), &self.finish_reason), (end, finish_reason), "{self:?}");
        assert!(whole.text.starts_with(&self.text), "{self:?} is no beginning of {whole:?}");
        match moment {
            Moment::Early => assert_eq!((self.text.as_str(), self.answer_tokens), ("", 0)),
            Moment::Middle => {
                assert_eq!(self.prompt_tokens, whole.prompt_tokens, "{self:?}");
                assert!(!self.text.is_empty() && self.text.len() < whole.text.len(), "{self:?}");
                assert!((1..whole.answer_tokens).contains(&self.answer_tokens), "{self:?}");
            }
        }
    }
}

/// A stream over HTTP, of which the test reads as much as it likes. Dropping it is a client that closes.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn start(address: SocketAddr) -> Self {
        let body = body().to_string();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        write!(
            stream,
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        Self(BufReader::new(stream))
    }

    /// The next text; `None` at the end.
    fn text(&mut self) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line).unwrap() == 0 || line.trim() == "data: [DONE]" {
                return None;
            }
            let Some(data) = line.strip_prefix("data: ") else { continue };
            let chunk: Value = serde_json::from_str(data).unwrap();
            let text = chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
            if !text.is_empty() {
                return Some(text.to_owned());
            }
        }
    }
}

/// How many answers run, and how many wait.
fn load(daemon: &Daemon) -> (u64, u64) {
    let (_, _, told) = daemon.http("GET /health", b"");
    let load = &serde_json::from_str::<Value>(&told).unwrap()["load"];
    let number = |name: &str| load[name].as_u64().unwrap();
    (number("active"), number("queued"))
}

/// Waits until the engine answers so many and so many wait.
fn wait_for_load(daemon: &Daemon, wanted: impl Fn(u64, u64) -> bool) {
    let began = Instant::now();
    loop {
        let (active, queued) = load(daemon);
        if wanted(active, queued) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{active} run, {queued} wait");
    }
}

/// What the log says of a client's requests that are over, the latest last: how they ended, and their
/// tokens. Over HTTP nobody has a name.
fn logged(daemon: &Daemon, client: &str) -> Vec<Cancelled> {
    let client = format!(" client=\"{client}\" ");
    let field = |line: &str, name: &str| {
        let at = line.find(name)? + name.len();
        let value = line[at..].split_whitespace().next()?;
        Some(value.trim_matches('"').to_owned())
    };
    let number =
        |line: &str, name: &str| field(line, name).and_then(|text| text.parse().ok()).unwrap_or(0);
    let log = daemon.log();
    let lines = log.lines().filter(|line| line.contains(&client)).filter_map(|line| {
        Some(Cancelled {
            end: field(line, " status=")?,
            finish_reason: Value::Null,
            text: String::new(),
            prompt_tokens: number(line, " prompt_tokens="),
            answer_tokens: number(line, " completion_tokens="),
        })
    });
    lines.collect()
}

/// The log's line of the client's request that ended behind the first `seen` ones.
fn logged_behind(daemon: &Daemon, client: &str, seen: usize) -> Cancelled {
    let began = Instant::now();
    loop {
        let mut lines = logged(daemon, client);
        if lines.len() > seen {
            return lines.swap_remove(seen);
        }
        assert!(began.elapsed() < PATIENCE, "no line of the request in {}", daemon.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn over_http(daemon: &Daemon, moment: Moment) -> Cancelled {
    wait_for_load(daemon, |active, queued| active + queued == 0);
    let seen = logged(daemon, "-").len();
    let mut text = String::new();
    let before: Vec<Stream> = match moment {
        Moment::Middle => Vec::new(),
        Moment::Early => (0..BEFORE).map(|_| Stream::start(daemon.http)).collect(),
    };
    wait_for_load(daemon, |active, queued| active + queued >= before.len() as u64);
    let mut stream = Stream::start(daemon.http);
    match moment {
        Moment::Middle => text += &stream.text().unwrap(),
        Moment::Early => wait_for_load(daemon, |_, queued| queued >= BEFORE as u64),
    }
    drop(stream);
    // Of those that wait before it, one may have come to its end; then this was not in time.
    let line = logged_behind(daemon, "-", seen);
    drop(before);
    Cancelled { text, ..line }
}

/// A publisher that is connected before it is needed: what is written to it goes out at once.
struct Publisher {
    child: Child,
    stdin: ChildStdin,
}

impl Publisher {
    fn to(daemon: &Daemon, version: &str, topic: &str) -> Self {
        let mut child = Command::new("stdbuf")
            .args(["-oL", "mosquitto_pub", "-V", version, "-h", "127.0.0.1", "-d", "-l", "-q", "1"])
            .args(["-p", &daemon.mqtt_port.to_string(), "-t", topic])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("CONNACK")), "no connection");
        // What it says from here on is of no interest, but it must not wait for a reader.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let stdin = child.stdin.take().unwrap();
        Self { child, stdin }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
        self.stdin.flush().unwrap();
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn over_mqtt(daemon: &Daemon, version: &str, moment: Moment, number: usize) -> Cancelled {
    wait_for_load(daemon, |active, queued| active + queued == 0);
    let client = format!("stop{version}{moment:?}");
    let rid = format!("{number}");
    let reply = format!("zonda/v1/plant1/client/{client}/reply/+");
    let mut replies = Subscriber::start(version, daemon.mqtt_port, &reply);
    let of = |verb: &str, rid: &str| format!("{NODE}/chat/{verb}/{client}/{rid}");
    let mut requests = Publisher::to(daemon, version, &of("request", &rid));
    let mut cancels = Publisher::to(daemon, version, &of("cancel", &rid));
    let before: Vec<Stream> = match moment {
        Moment::Middle => Vec::new(),
        Moment::Early => (0..BEFORE).map(|_| Stream::start(daemon.http)).collect(),
    };
    wait_for_load(daemon, |active, queued| active + queued >= before.len() as u64);
    let seen = logged(daemon, &client).len();
    requests.say(&body().to_string());
    let accepted = replies.next_message();
    assert_eq!(accepted["ext"]["status"], 202, "{accepted}");
    let mut pieces = Vec::new();
    if moment == Moment::Middle {
        pieces.push(replies.next_message());
    }
    cancels.say("cancel");
    let last = loop {
        let message = replies.next_message();
        assert!(!message.is_null(), "no end over MQTT {version}");
        if message["ext"]["fin"] == true {
            break message;
        }
        pieces.push(message);
    };
    let line = logged_behind(daemon, &client, seen);
    drop(before);
    let status = last["ext"]["status"].to_string();
    let cancelled = of_json(&status, &last);
    if status == "499" {
        assert_eq!(line.end, "cancelled");
        assert_eq!(line.answer_tokens, cancelled.answer_tokens, "the log and the final differ");
        behind(daemon, version, &client, &mut replies, &last, pieces);
    }
    cancelled
}

/// All pieces belong to the text of the final, and none comes behind it: another answer has all of its
/// messages in between.
fn behind(
    daemon: &Daemon,
    version: &str,
    client: &str,
    replies: &mut Subscriber,
    last: &Value,
    mut pieces: Vec<Value>,
) {
    let mut next = Publisher::to(daemon, version, &format!("{NODE}/chat/request/{client}/next"));
    next.say(r#"{"messages":[{"role":"user","content":"hello"}],"max_tokens":1}"#);
    loop {
        let message = replies.next_message();
        assert!(!message.is_null(), "no answer behind the cancelled one");
        let ext = &message["ext"];
        if ext["id"] == "next" && ext["fin"] == true {
            assert_eq!(ext["status"], 200, "{message}");
            break;
        }
        if ext["id"] == last["ext"]["id"] {
            pieces.push(message);
        }
    }
    let seq = |message: &Value| message["ext"]["seq"].as_u64().unwrap();
    pieces.sort_by_key(seq);
    // The acceptance is the first of all, and is not among the pieces.
    assert_eq!(pieces.len() as u64 + 1, seq(last), "a piece is lost, or is behind the end");
    let text = |piece: &Value| piece["choices"][0]["delta"]["content"].as_str().unwrap().to_owned();
    let joined: String = pieces.iter().map(text).collect();
    assert_eq!(last["choices"][0]["message"]["content"], joined);
}

fn over_c(library: &mut Library, moment: Moment) -> Cancelled {
    let way = if moment == Moment::Early { "early" } else { "cancel" };
    let before = stats(library);
    let said = library.play(way, &body().to_string());
    let of = |kind: &str| -> String {
        said.iter().filter(|(other, _)| other == kind).map(|(_, text)| text.as_str()).collect()
    };
    let mut cancelled = if of("done").is_empty() {
        let error: Value = serde_json::from_str(&of("error")).unwrap();
        assert_eq!((&error["code"], &error["raw_status_code"]), (&json!("cancelled"), &json!(499)));
        let (finish_reason, text) = (Value::Null, String::new());
        Cancelled { end: of("reason"), finish_reason, text, prompt_tokens: 0, answer_tokens: 0 }
    } else {
        of_json(&of("reason"), &serde_json::from_str(&of("done")).unwrap())
    };
    if cancelled.end == "cancelled" {
        let kinds: Vec<&str> = said.iter().map(|(kind, _)| kind.as_str()).collect();
        let behind = kinds.iter().position(|kind| *kind == "cancelled").unwrap() + 1;
        let end = if moment == Moment::Early { "error" } else { "done" };
        assert_eq!(kinds[behind..], ["reason", end], "only the end follows a cancel");
    }
    cancelled.text = of("text");
    // The answer that had the only place is cancelled, too, unless it had come to its end.
    let more = if moment == Moment::Early { 2 } else { 1 };
    if cancelled.end == "cancelled" {
        let began = Instant::now();
        loop {
            let now = stats(library);
            let counted = |name: &str| now[name].as_u64().unwrap() - before[name].as_u64().unwrap();
            let is_idle = (&now["active"], &now["queued"]) == (&json!(0), &json!(0));
            // The numbers are of one moment each.
            if is_idle && counted("cancelled") + counted("ok") == more {
                assert!(counted("cancelled") >= 1, "{before} {now}");
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{before} {now}");
        }
    }
    cancelled
}

fn stats(library: &mut Library) -> Value {
    let said = library.play("stats", "");
    serde_json::from_str(&said[0].1).unwrap()
}

/// The first try whose cancel came in time.
fn in_time(end: &str, attempt: impl FnMut(usize) -> Cancelled) -> Cancelled {
    let mut tries = (0..TRIES).map(attempt);
    tries.find(|seen| seen.end == end).unwrap_or_else(|| panic!("no cancel came in time"))
}

fn daemon() -> Daemon {
    let settings: Vec<String> =
        SETTINGS.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let arguments: Vec<&str> =
        settings.iter().flat_map(|setting| ["--set", setting.as_str()]).collect();
    Daemon::start(&tiny_gguf(), &arguments)
}

#[test]
fn every_entrance_ends_a_cancelled_answer() {
    let daemon = daemon();
    let names: Vec<(String, &str)> = SETTINGS
        .iter()
        .map(|(key, value)| (format!("ZONDA__{}", key.to_uppercase().replace('.', "__")), *value))
        .collect();
    let model = tiny_gguf().display().to_string();
    let mut names: Vec<(&str, &str)> =
        names.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    names.push(("ZONDA__MODEL__PATH", &model));
    let mut library = Library::start(&names);
    let whole = whole(&daemon);
    assert_eq!((whole.answer_tokens, &whole.finish_reason), (TOKENS, &json!("length")));
    let versions: &[&str] = if installed("mosquitto_pub").is_some() && installed("stdbuf").is_some()
    {
        &["5", "311"]
    } else {
        println!("skipped: no mosquitto_pub or stdbuf");
        &[]
    };
    for moment in [Moment::Early, Moment::Middle] {
        let seen = in_time("gone", |_| over_http(&daemon, moment));
        // The log is all there is, and it counts the pieces that were read or wait for it.
        if moment == Moment::Early {
            assert_eq!((seen.text.as_str(), seen.answer_tokens), ("", 0), "{seen:?}");
        } else {
            seen.check(moment, &whole, "gone", &Value::Null);
        }
        for version in versions {
            let seen = in_time("499", |number| over_mqtt(&daemon, version, moment, number));
            seen.check(moment, &whole, "499", &json!("error"));
        }
        if let Some(library) = &mut library {
            let seen = in_time("cancelled", |_| over_c(library, moment));
            let reason = if moment == Moment::Early { Value::Null } else { json!("error") };
            seen.check(moment, &whole, "cancelled", &reason);
        }
    }
    wait_for_load(&daemon, |active, queued| active + queued == 0);
    assert_eq!(self::whole(&daemon), whole, "answers behind cancels are as before");
}

#[test]
fn clients_that_close_leave_the_engine_free() {
    let daemon = daemon();
    let began = Instant::now();
    let whole = whole(&daemon);
    let alone = began.elapsed();
    assert_eq!(whole.answer_tokens, TOKENS);
    const MANY: u32 = 24;
    // A test that is not let run for a while finds them all answered.
    let mut tries = (0..TRIES).map(|_| {
        let mut streams: Vec<Stream> = (0..MANY).map(|_| Stream::start(daemon.http)).collect();
        assert!(streams[0].text().is_some());
        let (active, queued) = load(&daemon);
        (streams, active + queued)
    });
    let found = tries.find(|(_, busy)| *busy >= u64::from(MANY) / 2);
    let (streams, _) = found.expect("streams that are under way");
    let began = Instant::now();
    drop(streams);
    wait_for_load(&daemon, |active, queued| active + queued == 0);
    let taken = began.elapsed();
    // If they ran on, they would take most of as many times as long.
    assert!(taken < alone * MANY / 4, "{taken:?} where one answer takes {alone:?}");
}
