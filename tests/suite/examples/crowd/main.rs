//! Many clients at once, over HTTP and MQTT, against a service without a model that writes one token
//! for each answer in each step, as an engine does: what the entrances cost, and what clients that
//! hardly read do to the others.
//!
//! `cargo run --release -p suite --example crowd -- [CLIENTS [SECONDS [READERS [TURNS [EVERY_MS]]]]] [mosquitto]`
//!
//! Each kind of round comes as often, in turns: alone, beside READERS that read long answers as they
//! come, beside as many that hardly read. A fifth of those over MQTT are subscribed to the answers of
//! all clients. EVERY_MS is the least time between two requests of a client: with 0 they take all that
//! the machine has, and any work more is theirs less. `mosquitto` takes a real broker, and the node
//! keeps its journal.
#![allow(clippy::unwrap_used, reason = "a measurement that cannot be taken ends here")]
#![allow(clippy::print_stdout, reason = "it is what the program is for")]

mod clients;
mod house;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clients::{Pace, Served, http_client, http_reader, mqtt_client, mqtt_reader};

/// Between two rounds: what was cancelled ends.
const PAUSE: Duration = Duration::from_secs(2);
/// One reader in so many watches all answers.
const WATCHERS: usize = 5;

/// What the clients of one kind saw in one round.
struct Row {
    kind: &'static str,
    latencies: Vec<Duration>,
    failed: usize,
    elapsed: Duration,
}

/// How much of everything there is.
struct Plan {
    clients: usize,
    time: Duration,
    readers: usize,
    turns: usize,
    /// Between two requests of a client, at least.
    every: Duration,
}

/// The kinds of rounds.
const KINDS: [(&str, Option<Pace>); 3] =
    [("alone", None), ("brisk", Some(Pace::Brisk)), ("slow", Some(Pace::Slow))];

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "serve") {
        return house::serve(&arguments[1], arguments.get(2).map(String::as_str));
    }
    let mosquitto = arguments.pop_if(|last| last == "mosquitto").is_some();
    let number = |at: usize, default: usize| {
        arguments.get(at).map_or(default, |text| text.parse().expect("a number"))
    };
    let plan = Plan {
        clients: number(0, 200),
        time: Duration::from_secs(number(1, 10) as u64),
        readers: number(2, 20),
        turns: number(3, 3),
        every: Duration::from_millis(number(4, 0) as u64),
    };
    let mut house = House::start(mosquitto);
    let Plan { clients, time, readers, turns, every } = &plan;
    println!(
        "{clients} clients of each kind, a request each {every:?}; {readers} readers; {turns} turns of {time:?}"
    );
    // By the kind of round: HTTP and MQTT of each.
    let mut rounds: [Vec<[Row; 2]>; 3] = Default::default();
    for turn in 0..*turns {
        let mut order: Vec<usize> = (0..KINDS.len()).collect();
        order.rotate_left(turn % KINDS.len());
        for kind in order {
            let (name, pace) = KINDS[kind];
            let rows = round(&house, &plan, &format!("r{turn}{name}"), pace);
            for row in &rows {
                println!("{turn} {name:>5}  {}", told(row));
            }
            println!("{turn} {name:>5}  resident {}", house.resident());
            rounds[kind].push(rows);
            std::thread::sleep(PAUSE);
        }
    }
    compare(&rounds);
    house.child.kill().unwrap();
    house.child.wait().unwrap();
}

/// What the rounds beside slow readers lost against the others of their turn: the median, least and most.
fn compare(rounds: &[Vec<[Row; 2]>; 3]) {
    for (kind, (base, _)) in KINDS[..2].iter().enumerate() {
        for entrance in 0..2 {
            let pairs = || rounds[2].iter().zip(&rounds[kind]);
            let changes = |of: fn(&Row) -> f64| {
                let mut changes: Vec<f64> = pairs()
                    .map(|(slow, base)| (of(&slow[entrance]) / of(&base[entrance]) - 1.0) * 100.0)
                    .collect();
                changes.sort_by(f64::total_cmp);
                let at = |at: usize| changes.get(at).copied().unwrap_or(f64::NAN);
                let last = changes.len().saturating_sub(1);
                format!("{:+.1} % ({:+.1} to {:+.1})", at(last / 2), at(0), at(last))
            };
            println!(
                "slow against {base}, {}: requests {}, p50 {}, p99 {}",
                if entrance == 0 { "http" } else { "mqtt" },
                changes(rate),
                changes(|row| part(row, 0.5)),
                changes(|row| part(row, 0.99)),
            );
        }
    }
}

/// The served process, so that its memory is its own, and its broker.
struct House {
    child: Child,
    http: String,
    mqtt: String,
    broker: Option<suite::Broker>,
    _folder: tempfile::TempDir,
}

impl House {
    fn start(mosquitto: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let broker = mosquitto.then(|| suite::Broker::start().expect("mosquitto is installed"));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("serve").arg(broker.as_ref().map_or_else(String::new, suite::Broker::url));
        if mosquitto {
            command.arg(folder.path().join("journal"));
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (http, mqtt) = line.trim().split_once(' ').expect("both addresses");
        Self { http: http.to_owned(), mqtt: mqtt.to_owned(), child, broker, _folder: folder }
    }

    /// What it holds in memory, and its broker.
    fn resident(&self) -> String {
        let own = resident_kib(self.child.id()) / 1024;
        let broker = self.broker.as_ref().map(|broker| resident_kib(broker.id()) / 1024);
        broker.map_or_else(
            || format!("{own} MiB"),
            |broker| format!("{own} MiB, mosquitto {broker} MiB"),
        )
    }
}

fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// One round; its name makes the names of its clients, for answers to a name known are repeats.
fn round(house: &House, plan: &Plan, name: &str, pace: Option<Pace>) -> [Row; 2] {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = &over;
        for (number, pace) in (0..plan.readers).filter_map(|number| Some((number, pace?))) {
            let watches = number % WATCHERS == 0;
            scope.spawn(move || http_reader(&house.http, pace, over));
            let reader = format!("{name}reader{number}");
            scope.spawn(move || mqtt_reader(&house.mqtt, &reader, watches, pace, over));
        }
        let http = |_| scope.spawn(|| http_client(&house.http, plan.every, over));
        let http: Vec<_> = (0..plan.clients).map(http).collect();
        let mqtt = |number| {
            let client = format!("{name}c{number}");
            scope.spawn(move || mqtt_client(&house.mqtt, &client, plan.every, over))
        };
        let mqtt: Vec<_> = (0..plan.clients).map(mqtt).collect();
        let begun = Instant::now();
        std::thread::sleep(plan.time);
        over.store(true, Ordering::Relaxed);
        let elapsed = begun.elapsed();
        let row = |kind, threads: Vec<std::thread::ScopedJoinHandle<'_, Served>>| {
            let mut row = Row { kind, latencies: Vec::new(), failed: 0, elapsed };
            for thread in threads {
                let served = thread.join().expect("a client does not panic");
                row.latencies.extend(served.latencies);
                row.failed += served.failed;
            }
            row.latencies.sort();
            row
        };
        [row("http", http), row("mqtt", mqtt)]
    })
}

fn rate(row: &Row) -> f64 {
    row.latencies.len() as f64 / row.elapsed.as_secs_f64()
}

/// Milliseconds that this share of the answers did not take.
fn part(row: &Row, share: f64) -> f64 {
    let at = (row.latencies.len() as f64 * share) as usize;
    let last = row.latencies.len().saturating_sub(1);
    row.latencies.get(at.min(last)).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
}

fn told(row: &Row) -> String {
    let (rate, p50, p99) = (rate(row), part(row, 0.5), part(row, 0.99));
    let Row { kind, failed, .. } = row;
    format!("{kind}  {rate:7.1} requests/s  p50 {p50:7.1} ms  p99 {p99:7.1} ms  {failed} failed")
}
