//! Numbers of a machine become alarms, through the whole program, a real broker and real clients.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops where something is wrong, and tells what it skips"
)]

use std::f64::consts::TAU;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use suite::{Broker, Daemon, NODE, PATIENCE, Subscriber, root, run_with, stdout_of, tiny_gguf};

const TOPIC: &str = "plant/pump/1/vibration";

fn publish(port: u16, lines: &str) {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-t", TOPIC, "-l"]);
    let output = run_with(&mut command, lines);
    assert!(output.status.success(), "{output:?}");
}

/// What the fixture's network was made for: a wave of 16 numbers.
fn wave(numbers: usize) -> String {
    let one = |at: usize| (TAU * (at % 16) as f64 / 16.0).sin() + 0.5;
    (0..numbers).map(|at| format!("{{\"rms\": {:.4}}}\n", one(at))).collect()
}

/// How the detector stands, as the broker keeps it.
fn standing(port: u16) -> Value {
    let mut command = Command::new("mosquitto_sub");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-C", "1", "-W", "20"]);
    let told = stdout_of(command.args(["-t", &format!("{NODE}/alarm/pump")]));
    serde_json::from_str(&told).unwrap()
}

/// Publishes until the detector stands so.
fn publish_until(port: u16, lines: &str, state: &str) -> Value {
    let began = Instant::now();
    loop {
        let told = standing(port);
        if told["state"] == state {
            return told;
        }
        assert!(began.elapsed() < PATIENCE, "never {state}: {told}");
        publish(port, lines);
    }
}

#[test]
fn an_anomaly_is_an_alarm_and_recovery_ends_it() {
    let Some(broker) = Broker::start() else {
        println!("skipped: mosquitto is not installed");
        return;
    };
    let port = broker.port;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("zonda.toml");
    let text = format!(
        "[[onnx]]\nname = \"pump\"\nrole = \"detector\"\npath = {:?}\ntopics = [{TOPIC:?}]\n\
         field = \"/rms\"\nthreshold = 0.1\nclear_below = 0.05\nhold_ms = 0\nrate_max = 10000\n\
         prompt = \"Turn on the kitchen light.\"\nprompt_tokens_max = 48\n",
        root().join("tests/fixtures/onnx/detector.onnx").display().to_string(),
    );
    std::fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    let mut daemon = Daemon::start(&tiny_gguf(), &["--config", &config, "--mqtt", &broker.url()]);
    let waiting = publish_until(port, "", "waiting");
    assert_eq!((&waiting["alarms"], &waiting["waiting"]), (&json!([]), &json!([TOPIC])));
    let mut events = Subscriber::start("5", port, &format!("{NODE}/event/+"));

    let normal = publish_until(port, &wave(32), "normal");
    assert_eq!(normal["alarms"], json!([]));
    publish(port, &wave(160));
    publish(port, "NaN\n{\"rms\": null}\n{\"valve\": 1}\n\n");

    let flat = "{\"rms\": 1.5}\n".repeat(32);
    let alarm = publish_until(port, &flat, "alarm");
    assert_eq!(alarm["alarms"], json!([TOPIC]));
    // Nothing was an alarm before: what was published until then was normal, or no number.
    let event = events.next_message();
    assert_eq!((&event["kind"], &event["state"]), (&json!("alarm"), &json!("alarm")), "{event}");
    assert_eq!((&event["detector"], &event["topic"]), (&json!("pump"), &json!(TOPIC)));
    assert!(event["score"].as_f64().unwrap() >= 0.1, "{event}");
    assert!(event["dropped"]["unreadable"].as_u64().unwrap() >= 3, "{event}");
    let report = events.next_message();
    assert_eq!(report["kind"], "alarm_report", "{report}");
    assert_eq!(report["text"], "The kitchen light is on.");

    let recovered = publish_until(port, &wave(32), "normal");
    assert_eq!(recovered["alarms"], json!([]));
    let event = events.next_message();
    assert_eq!((&event["kind"], &event["state"]), (&json!("alarm"), &json!("normal")), "{event}");

    // Prompts are answered beside it, and it stops as a program without detectors does.
    assert_eq!(daemon.chat("Turn on the kitchen light."), "The kitchen light is on.");
    assert!(daemon.terminate().success());
}

#[test]
fn a_detector_does_not_listen_to_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("zonda.toml");
    let text = format!(
        "[[onnx]]\nname = \"pump\"\nrole = \"detector\"\npath = {:?}\nthreshold = 1\n\
         topics = [\"{NODE}/event/alarm\"]\n",
        root().join("tests/fixtures/onnx/detector.onnx").display().to_string(),
    );
    std::fs::write(&config, text).unwrap();
    let mut command = suite::zonda();
    command.args(["serve", "--http", "127.0.0.1:0", "--set", "mqtt.broker_address=127.0.0.1:0"]);
    let output = run_with(command.arg("--config").arg(&config), "");
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("is one that zonda writes to"), "{told}");
}
