//! A broker that means harm: the node hangs up and comes back, and still stops when told to.

mod stage;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mqtt_transport::{MqttTransport, MqttVersion};
use protocol::{Description, Fault, Reply, Request, Service, Stop, Transport};
use stage::{config, until};

struct Idle;

impl Service for Idle {
    fn submit(&self, _: Request) -> Result<Reply, Fault> {
        Err(Fault::bad_request("nobody is here"))
    }

    fn describe(&self) -> Description {
        Description::default()
    }
}

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
    // A cheap generator, so that a failure comes again.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for length in 1..48 {
        attacks.push(
            std::iter::repeat_with(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .take(length)
            .collect(),
        );
    }
    attacks
}

fn attack(mut node: TcpStream, connack: &[u8], bytes: &[u8]) {
    node.set_read_timeout(Some(Duration::from_millis(20))).expect("set");
    let mut connect = [0; 512];
    if node.read(&mut connect).unwrap_or(0) == 0 {
        return;
    }
    let _sent = node.write_all(connack).and_then(|()| node.write_all(bytes));
    // The node may hang up first or wait for more; both are right.
    let _read = node.read(&mut connect);
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
    until("every attack was made", || done.load(Ordering::SeqCst) == total);
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
