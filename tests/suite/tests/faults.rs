//! MQTT loses nothing: real brokers, real clients and the real program, of which one is killed,
//! stopped or cut off at a random moment, again and again.
//!
//! `ZONDA_FAULT_ROUNDS` sets how often each fault strikes (1), `ZONDA_FAULT_KINDS` which ones
//! (names, separated by commas), `ZONDA_FAULT_MQTT` in which version (`5,3.1.1`),
//! `ZONDA_FAULT_SEED` the moments.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops where something is wrong, and tells what it skips"
)]

mod fault_stage;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use fault_stage::{Broker, Crew, Program, Random, Wire, signal};
use suite::history::{Entry, Problem, Promise, Verdict, What, judge};
use suite::{NODE, installed, python_with};

/// Everything of one round must have ended by then.
const PATIENCE: Duration = Duration::from_secs(60);
const CLIENTS: [&str; 4] = ["plc1", "plc2", "plc3", "plc4"];
/// As many of one client as the node takes.
const REQUESTS_OF_ONE: usize = 2;

/// What strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Fault {
    /// The broker is killed; it wrote down what it had.
    BrokerKilled,
    /// The broker is killed and has forgotten everything.
    BrokerForgets,
    /// The broker stops, hangs for a while, and is killed.
    BrokerHangs,
    /// The line between node and broker is cut for a while.
    LineCut,
    /// Clients stop reading for a while.
    ClientsStop,
    /// Requests and answers are larger than what is taken.
    Oversize,
    /// The program is killed.
    NodeKilled,
}

const FAULTS: [(&str, Fault); 7] = [
    ("broker-killed", Fault::BrokerKilled),
    ("broker-forgets", Fault::BrokerForgets),
    ("broker-hangs", Fault::BrokerHangs),
    ("line-cut", Fault::LineCut),
    ("clients-stop", Fault::ClientsStop),
    ("oversize", Fault::Oversize),
    ("node-killed", Fault::NodeKilled),
];

impl Fault {
    /// Where the broker lives on, its confirmation is a promise, and nobody sends anything twice.
    fn promise(self) -> Promise {
        match self {
            Self::BrokerKilled | Self::BrokerForgets | Self::BrokerHangs => Promise::Accepted,
            _ => Promise::Confirmed,
        }
    }
}

/// All that takes part.
struct Stage {
    broker: Broker,
    wire: Wire,
    program: Program,
    crew: Crew,
    /// This round.
    history: Vec<Entry>,
    /// The rounds before it, and what came late.
    past: Vec<Entry>,
    random: Random,
    rounds: usize,
}

impl Stage {
    fn new(fault: Fault, version: &str, seed: u64, settings: &[&str]) -> Option<Self> {
        installed("mosquitto")?;
        installed("mosquitto_sub")?;
        let python = python_with("paho.mqtt")?;
        let broker = Broker::start(fault != Fault::BrokerForgets);
        let wire = Wire::to(broker.port);
        let mut settings = settings.to_vec();
        if fault == Fault::Oversize {
            settings.extend(["mqtt.request_bytes_max=2048", "mqtt.send_bytes_max=1024"]);
        }
        let program = Program::start(wire.port, version, &settings);
        // Before its first subscription the broker keeps nothing for the node.
        broker.wait_for_online();
        let crew = Crew::start(&python, broker.port, version, &CLIENTS);
        let random = Random(seed);
        Some(Self {
            broker,
            wire,
            program,
            crew,
            history: Vec::new(),
            past: Vec::new(),
            random,
            rounds: 0,
        })
    }

    /// One round: requests, a fault among them, every answer, and every answer again.
    fn round(&mut self, fault: Fault) -> Verdict {
        self.rounds += 1;
        self.past.append(&mut self.history);
        let requests: Vec<(String, String)> = CLIENTS
            .iter()
            .flat_map(|client| (0..REQUESTS_OF_ONE).map(move |n| (client, n)))
            .map(|(client, n)| ((*client).to_owned(), format!("{}-{n}", self.rounds)))
            .collect();
        for request in &requests {
            self.send(fault, request);
        }
        std::thread::sleep(Duration::from_millis(self.random.below(400)));
        self.strike(fault);
        let first = requests.iter().map(|request| (request.clone(), 1)).collect();
        let mut silent = self.wait(fault, first, false);
        // A node that forgot what it had ended would now end it in another way.
        let again = requests.iter().map(|request| (request.clone(), self.finals(request) + 1));
        let again = again.collect();
        for request in &requests {
            self.send(fault, request);
        }
        silent.extend(self.wait(fault, again, true));
        if fault.promise() == Promise::Accepted || fault == Fault::LineCut {
            // Waiting times grow with each broker that vanishes; a new life begins with short ones.
            self.program.kill();
            self.program.run();
        }
        let mut verdict = judge(&self.history, fault.promise());
        verdict.problems.extend(silent.into_iter().map(Problem::Silent));
        verdict
    }

    fn send(&mut self, fault: Fault, request: &(String, String)) {
        self.ask(fault, request, 100);
    }

    /// Asks for an answer of so many tokens at least.
    fn ask(&mut self, fault: Fault, request: &(String, String), tokens: u32) {
        let (client, rid) = request;
        let words = if fault == Fault::Oversize && rid.ends_with("-0") { 600 } else { 1 };
        let body = serde_json::json!({
            "messages": [{ "role": "user", "content": "Turn on the light. ".repeat(words) }],
            "stream": true, "max_tokens": tokens + 20, "min_tokens": tokens, "seed": 7,
            "ext": { "ttl_s": 300 },
        });
        self.note(request, What::Sent);
        let topic = format!("{NODE}/chat/request/{client}/{rid}");
        self.crew.publish(client, &topic, rid, &body.to_string());
    }

    fn note(&mut self, request: &(String, String), what: What) {
        let now = request.1.starts_with(&format!("{}-", self.rounds));
        let history = if now { &mut self.history } else { &mut self.past };
        history.push(Entry { request: request.clone(), what });
    }

    /// All rounds together.
    fn end(mut self, fault: Fault) -> Vec<Problem> {
        self.past.append(&mut self.history);
        judge(&self.past, fault.promise()).problems
    }

    fn strike(&mut self, fault: Fault) {
        let pause = Duration::from_millis(self.random.below(600));
        match fault {
            Fault::BrokerKilled | Fault::BrokerForgets => {
                self.broker.kill();
                std::thread::sleep(pause);
                self.broker.run();
            }
            Fault::BrokerHangs => {
                signal("STOP", self.broker.id());
                std::thread::sleep(pause * 3);
                self.broker.kill();
                self.broker.run();
            }
            Fault::LineCut => {
                self.wire.cut();
                std::thread::sleep(pause);
                self.wire.mend();
            }
            Fault::ClientsStop => {
                signal("STOP", self.crew.id());
                std::thread::sleep(pause * 2);
                signal("CONT", self.crew.id());
            }
            Fault::Oversize => {}
            Fault::NodeKilled => {
                self.program.kill();
                std::thread::sleep(pause / 4);
                self.program.run();
            }
        }
    }

    fn finals(&self, request: &(String, String)) -> usize {
        let ends =
            |entry: &&Entry| entry.request == *request && matches!(entry.what, What::Final(..));
        self.history.iter().filter(ends).count()
    }

    /// Until each request ended so many times; a client sends again where the contract says so.
    /// Gives those that did not.
    fn wait(
        &mut self,
        fault: Fault,
        mut left: HashMap<(String, String), usize>,
        again: bool,
    ) -> Vec<(String, String)> {
        let began = Instant::now();
        let mut sent: HashMap<_, _> =
            left.keys().map(|request| (request.clone(), (began, false))).collect();
        left.retain(|request, times| self.finals(request) < *times);
        while !left.is_empty() && began.elapsed() < PATIENCE {
            if let Some((request, what)) = self.crew.next(Duration::from_millis(20)) {
                if let (What::Refused(_), Some((at, refused))) = (&what, sent.get_mut(&request)) {
                    (*at, *refused) = (Instant::now(), true);
                }
                self.note(&request, what);
                left.retain(|request, times| self.finals(request) < *times);
            }
            for request in left.keys().cloned().collect::<Vec<_>>() {
                let (at, refused) = sent[&request];
                // Who was refused comes back; who hears nothing asks again, if the broker may have
                // forgotten the question or the answer.
                let silent = fault.promise() == Promise::Accepted || again;
                let due = Duration::from_millis(if refused { 300 } else { 3000 });
                if (refused || silent) && at.elapsed() > due {
                    sent.insert(request.clone(), (Instant::now(), false));
                    self.send(fault, &request);
                }
            }
        }
        left.into_keys().collect()
    }
}

fn listed(name: &str, default: &str) -> Vec<String> {
    let text = std::env::var(name).unwrap_or_else(|_| default.to_owned());
    text.split(',').map(str::to_owned).collect()
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn every_accepted_request_ends_once_whatever_is_killed() {
    let seed = number("ZONDA_FAULT_SEED", 0x5eed);
    let rounds = number("ZONDA_FAULT_ROUNDS", 1);
    let all: Vec<&str> = FAULTS.iter().map(|(name, _)| *name).collect();
    let kinds = listed("ZONDA_FAULT_KINDS", &all.join(","));
    let mut broken = Vec::new();
    for version in listed("ZONDA_FAULT_MQTT", "5,3.1.1") {
        for (name, fault) in FAULTS.iter().filter(|(name, _)| kinds.iter().any(|k| k == name)) {
            let Some(mut stage) = Stage::new(*fault, &version, seed, &[]) else {
                println!("skipped: no mosquitto, or no Python with paho-mqtt");
                return;
            };
            let (mut total, mut statuses) = (Verdict::default(), BTreeMap::new());
            for round in 1..=rounds {
                let verdict = stage.round(*fault);
                total.requests += verdict.requests;
                total.promised += verdict.promised;
                total.finals += verdict.finals;
                for (status, count) in verdict.statuses {
                    *statuses.entry(status).or_insert(0) += count;
                }
                for problem in verdict.problems {
                    println!("{name} over {version}, round {round}: {problem:?}");
                    broken.push(problem);
                }
                if !broken.is_empty() {
                    println!("{}", stage.program.log());
                    return assert_eq!(broken, []);
                }
                if round % 25 == 0 || round == rounds {
                    println!(
                        "{name} over {version}, seed {seed}: {round} rounds, {} requests, {} promised, \
                         {} finals, by status {statuses:?}, broken promises so far {}, slowest start {:?}",
                        total.requests,
                        total.promised,
                        total.finals,
                        broken.len(),
                        stage.program.slowest_start(),
                    );
                }
            }
            broken.extend(stage.end(*fault));
        }
    }
    assert_eq!(broken, []);
}

#[test]
fn without_a_journal_the_same_clients_see_the_loss() {
    let off = ["mqtt.journal=off"];
    let Some(mut stage) = Stage::new(Fault::NodeKilled, "5", 11, &off) else {
        println!("skipped: no mosquitto, or no Python with paho-mqtt");
        return;
    };
    stage.crew.patience = Duration::from_secs(8);
    for _ in 0..20 {
        let lost = stage.loses();
        if lost.iter().any(|problem| matches!(problem, Problem::Lost(_))) {
            return;
        }
    }
    panic!("a node without a journal was killed twenty times and lost nothing");
}

impl Stage {
    /// A node is killed when it has accepted something; who is lost has no answer soon.
    fn loses(&mut self) -> Vec<Problem> {
        self.rounds += 1;
        self.past.append(&mut self.history);
        let request = ("plc1".to_owned(), format!("{}-1", self.rounds));
        // So long that it is under way when the node is killed.
        self.ask(Fault::NodeKilled, &request, 900);
        let began = Instant::now();
        while began.elapsed() < self.crew.patience {
            let Some((request, what)) = self.crew.next(Duration::from_millis(20)) else { continue };
            let (accepted, ended) = (what == What::Accepted, matches!(what, What::Final(..)));
            self.note(&request, what);
            if accepted {
                self.program.kill();
                self.program.run();
            }
            if ended {
                break;
            }
        }
        judge(&self.history, Promise::Confirmed).problems
    }
}
