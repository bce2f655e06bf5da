//! Tables of checks in the clients that people use, against the real program.
#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]
#![allow(clippy::print_stdout, reason = "the table is shown, and what is skipped is counted")]

use std::path::Path;
use std::process::Command;

use suite::{Daemon, python_with, root, small_networks, tiny_gguf};

/// Runs a script of `tests/suite/clients` on a program of its own and gives its table.
///
/// Four answers run and twelve wait: one request with `n` 16 fills the program.
fn table(script: &str, modules: &[&str], arguments: &[&str]) -> Option<String> {
    let mut python = None;
    for module in modules {
        python = python_with(module);
        if python.is_none() {
            println!(
                "skipped: not installed: {module} (cargo xtask setup, with --clients for some)"
            );
            return None;
        }
    }
    let queue = ["--set", "engine.sequences_max=4", "--set", "engine.queue_requests_max=12"];
    let daemon = Daemon::start(&tiny_gguf(), &[&queue, arguments].concat());
    Some(told(&python?, script, &[&format!("http://{}", daemon.http), "default"]))
}

/// The table of a script, of which every line has to hold.
fn told(python: &Path, script: &str, arguments: &[&str]) -> String {
    let output = Command::new(python)
        .arg(root().join("tests/suite/clients").join(script))
        .args(arguments)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{told}");
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{why}");
    told
}

/// Every line of the table is green, and there are as many as belong to it.
fn all_hold(table: &str, checks_min: usize) {
    let green = table.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(green >= checks_min, "{green} checks, where at least {checks_min} belong");
    assert!(!table.contains("FAIL"));
}

#[test]
fn openais_client_gets_what_it_expects() {
    if let Some(table) = table("openai_client.py", &["openai"], &[]) {
        all_hold(&table, 35);
    }
}

#[test]
fn mistrals_client_gets_what_it_expects() {
    if let Some(table) = table("mistral_client.py", &["mistralai"], &[]) {
        all_hold(&table, 28);
    }
}

#[test]
fn langchain_and_litellm_get_what_they_expect() {
    let modules = ["langchain_openai", "langchain_mistralai", "litellm"];
    if let Some(table) = table("frameworks.py", &modules, &[]) {
        all_hold(&table, 32);
    }
}

#[test]
fn home_assistants_own_code_takes_what_is_announced() {
    let Some(python) = python_with("homeassistant") else {
        println!(
            "skipped: not installed: homeassistant (cargo xtask setup --clients, Python 3.13)"
        );
        return;
    };
    let daemon = Daemon::start(&tiny_gguf(), &["--set", "mqtt.home_assistant=true"]);
    let port = daemon.mqtt_port.to_string();
    all_hold(&told(&python, "home_assistant.py", &[&port]), 9);
}

#[test]
fn the_document_holds_under_generated_requests() {
    let Some(python) = python_with("schemathesis") else {
        println!("skipped: not installed: schemathesis (cargo xtask setup --clients)");
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let config = place.path().join("zonda.toml");
    std::fs::write(&config, small_networks()).unwrap();
    let config = ["--config", &config.display().to_string()];
    let short = ["--set", "engine.context_tokens_max=64"];
    let daemon = Daemon::start(&tiny_gguf(), &[config, short].concat());
    let folder = root().join("tests/suite/clients");
    let output = Command::new(python.with_file_name("schemathesis"))
        .arg("--config-file")
        .arg(folder.join("schemathesis.toml"))
        .args(["run", &format!("http://{}/openapi.json", daemon.http), "--checks", "all"])
        .args(["--phases", "examples,coverage,fuzzing", "--max-examples", "5", "--seed", "1"])
        .args(["--continue-on-failure", "--no-color", "--suppress-health-check", "all"])
        .current_dir(place.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    let cases = told.lines().find(|line| line.contains(" generated, ")).unwrap_or_default();
    println!("{}", cases.trim());
    let generated = cases.split_whitespace().next().and_then(|count| count.parse::<u32>().ok());
    assert!(generated.is_some_and(|count| count > 1000), "{told}");
}
