//! Many clients at once, over HTTP and MQTT, against a service without a model that writes one token
//! for each answer in each step, as an engine does: what the entrances cost, and what clients that
//! hardly read do to the others.
//!
//! `cargo run --release -p suite --example crowd -- [CLIENTS [SECONDS [SLOW]]]`
#![allow(clippy::unwrap_used, reason = "a measurement that cannot be taken ends here")]
#![allow(clippy::print_stdout, reason = "it is what the program is for")]

mod clients;
mod house;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clients::{Served, http_client, mqtt_client, slow_client};

/// What the clients of one kind saw in one round.
struct Row {
    kind: &'static str,
    latencies: Vec<Duration>,
    failed: usize,
    elapsed: Duration,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "serve") {
        return house::serve();
    }
    let number = |at: usize, default: usize| {
        arguments.get(at).map_or(default, |text| text.parse().expect("a number"))
    };
    let (clients, seconds, slow) = (number(0, 200), number(1, 10), number(2, 20));
    let mut house = House::start();
    println!("{clients} clients of each kind, {seconds} s, {slow} slow ones in the second round");
    let mut before = Vec::new();
    for slow in [0, slow] {
        let rows = round(&house, clients, slow, Duration::from_secs(seconds as u64));
        for row in &rows {
            println!("{slow:>3} slow  {}", told(row));
        }
        println!("{slow:>3} slow  resident {} MiB", house.resident_kib() / 1024);
        let rates: Vec<f64> = rows.iter().map(rate).collect();
        for (row, (now, before)) in rows.iter().zip(rates.iter().zip(&before)) {
            let change = (now / before - 1.0) * 100.0;
            println!("          {}: {change:+.1} % requests beside {slow} slow clients", row.kind);
        }
        before = rates;
    }
    house.child.kill().unwrap();
    house.child.wait().unwrap();
}

/// The served process, so that its memory is its own.
struct House {
    child: Child,
    http: String,
    mqtt: String,
}

impl House {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (http, mqtt) = line.trim().split_once(' ').expect("both addresses");
        Self { http: http.to_owned(), mqtt: mqtt.to_owned(), child }
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }
}

fn round(house: &House, clients: usize, slow: usize, time: Duration) -> [Row; 2] {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = &over;
        for _ in 0..slow {
            scope.spawn(|| slow_client(&house.http, over));
        }
        let http: Vec<_> =
            (0..clients).map(|_| scope.spawn(|| http_client(&house.http, over))).collect();
        let mqtt: Vec<_> = (0..clients)
            .map(|number| scope.spawn(move || mqtt_client(&house.mqtt, number, over)))
            .collect();
        let begun = Instant::now();
        std::thread::sleep(time);
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

fn told(row: &Row) -> String {
    let part = |share: f64| {
        let at = (row.latencies.len() as f64 * share) as usize;
        row.latencies
            .get(at.min(row.latencies.len().saturating_sub(1)))
            .map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    };
    format!(
        "{}  {:7.1} requests/s  p50 {:7.1} ms  p99 {:7.1} ms  {} failed",
        row.kind,
        rate(row),
        part(0.5),
        part(0.99),
        row.failed
    )
}
