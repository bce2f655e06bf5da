//! A broker that means harm: the node hangs up and comes back, and still stops when told to.

mod stage;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mqtt_transport::{MqttTransport, MqttVersion};
use protocol::{Description, Fault, Reply, Request, Service, Stop, Transport};
use stage::config;

struct Idle;

impl Service for Idle {
    fn submit(&self, _: Request) -> Result<Reply, Fault> {
        Err(Fault::bad_request("nobody is here"))
    }

    fn describe(&self) -> Description {
        Description::default()
    }
}

/// Attacks over each version.
const ATTACKS: usize = 5_000;
/// Attacks after which memory is first looked at.
const WARM: usize = 1_000;
/// What memory may grow by from there to the last attack, over both versions.
const GROWTH_BYTES_MAX: u64 = 8 << 20;

/// What follows a CONNACK. Bytes are MQTT's own: packet type, length, rest.
fn attacks() -> Vec<Vec<u8>> {
    let mut attacks = vec![
        vec![0x30, 0xff, 0xff, 0xff, 0x7f],
        vec![0x30, 0xff, 0xff, 0xff, 0xff, 0xff],
        vec![0x32, 0x04, 0x00, 0x01, b'a', 0x00],
        vec![0x30, 0x06, 0x00, 0x02, 0xff, 0xfe, 0x00, b'x'],
        vec![0x30, 0x07, 0x00, 0x01, b'a', 0x03, 0x23, 0x00, 0x00],
        vec![0x30, 0x06, 0x00, 0x00, 0x03, 0x23, 0x00, 0x09],
        vec![0x40, 0x02, 0x00, 0x09],
        vec![0x50, 0x02, 0xff, 0xff],
        vec![0x62, 0x02, 0x00, 0x01],
        vec![0x70, 0x02, 0xff, 0xff],
        vec![0x90, 0x03, 0x00, 0x01, 0x80],
        vec![0x20, 0x03, 0x00, 0x00, 0x00],
        vec![0xe0, 0x00],
        vec![0xf0, 0x00],
        vec![0x00],
        vec![],
    ];
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    while attacks.len() < ATTACKS {
        let mut bytes = VALID[dice.below(VALID.len())].to_vec();
        for _ in 0..=dice.below(3) {
            let at = dice.below(bytes.len());
            match dice.below(5) {
                0 => bytes[at] = dice.byte(),
                1 => bytes[at] ^= 1 << dice.below(8),
                2 => bytes.truncate(at.max(1)),
                3 => bytes.insert(at, dice.byte()),
                _ => bytes.extend_from_within(at..),
            }
        }
        attacks.push(bytes);
    }
    attacks
}

/// Packets that are right in one version or both; what harms is made of them.
const VALID: &[&[u8]] = &[
    b"\x30\x07\x00\x01a\x00\x00hi",
    b"\x30\x05\x00\x01ahi",
    b"\x32\x09\x00\x01a\x00\x07\x00\x00hi",
    b"\x32\x1d\x00\x01a\x00\x07\x14\x01\x01\x02\x00\x00\x00\x05\x08\x00\x01r\x09\x00\x02cd\x03\x00\x01t{}",
    b"\x34\x08\x00\x01a\x00\x09\x00hi",
    b"\x40\x02\x00\x01",
    b"\x40\x04\x00\x01\x10\x00",
    b"\x62\x02\x00\x01",
    b"\x90\x06\x00\x01\x00\x01\x01\x01",
    b"\x90\x04\x00\x01\x01\x01",
    b"\xb0\x04\x00\x02\x00\x00",
    b"\xd0\x00",
    b"\xe0\x02\x8b\x00",
    b"\xf0\x02\x18\x00",
    b"\x20\x03\x00\x00\x00",
];

/// A cheap generator, so that a failure comes again.
struct Dice(u64);

impl Dice {
    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u8
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(u16::from_be_bytes([self.byte(), self.byte()])) % bound
    }
}

/// Bytes of this program in memory, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

fn attack(mut node: TcpStream, connack: &[u8], bytes: &[u8]) {
    node.set_read_timeout(Some(Duration::from_millis(2))).expect("set");
    let mut connect = [0; 512];
    if node.read(&mut connect).unwrap_or(0) == 0 {
        return;
    }
    let _sent = node.write_all(connack).and_then(|()| node.write_all(bytes));
    // The node may hang up first or wait for more; both are right.
    let _read = node.read(&mut connect);
}

/// As `until`, for what takes longer on a busy box.
fn patiently(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(300), "never came true: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn survives(version: MqttVersion, connack: &'static [u8]) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let mut config = config(listener.local_addr().expect("bound").port());
    config.version = version;
    config.backoff_min = Duration::from_millis(1);
    config.backoff_max = Duration::from_millis(2);
    config.drain = Duration::from_millis(10);
    let (done, attacks) = (Arc::new(AtomicUsize::new(0)), attacks());
    let (count, total) = (Arc::clone(&done), attacks.len());
    std::thread::spawn(move || {
        for bytes in attacks {
            let (node, _) = listener.accept().expect("the node comes back");
            attack(node, connack, &bytes);
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let transport = Box::new(MqttTransport::new(config).expect("valid"));
    let (handle, stop) = Stop::pair();
    let serving = std::thread::spawn(move || transport.serve(Arc::new(Idle), stop));
    patiently("the first attacks were made", || done.load(Ordering::SeqCst) >= WARM);
    let before = resident_bytes();
    patiently("every attack was made", || done.load(Ordering::SeqCst) == total);
    if let (Some(before), Some(after)) = (before, resident_bytes()) {
        let growth = after.saturating_sub(before);
        assert!(growth < GROWTH_BYTES_MAX, "memory grew by {growth} bytes");
        eprintln!("{total} attacks, memory grew by {growth} bytes");
    }
    assert!(!serving.is_finished(), "the node gave up");
    handle.raise();
    serving.join().expect("no panic").expect("no error");
}

#[test]
fn a_node_survives_a_hostile_broker_in_5() {
    survives(MqttVersion::V5, &[0x20, 0x03, 0x00, 0x00, 0x00]);
}

#[test]
fn a_node_survives_a_hostile_broker_in_311() {
    survives(MqttVersion::V311, &[0x20, 0x02, 0x00, 0x00]);
}
