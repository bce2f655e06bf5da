//! Plugins of others in the real program: examples act on real requests, a crash harms nobody else, a
//! quarantine outlives the daemon.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops where something is wrong, and tells what it skips"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use suite::{
    Daemon, NODE, PATIENCE, Subscriber, installed, root, run_with, stdout_of, tiny_gguf, zonda,
};

/// Plugins, their state, and the configuration that enables them.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn install(&self, id: &str, kind: &str, source: &str, more: &str) {
        let folder = self.path("plugins").join(id);
        std::fs::create_dir_all(&folder).unwrap();
        let library = folder.join("plugin.so");
        let source = root().join("plugins/plugin-abi").join(source);
        let compiler =
            if source.extension().is_some_and(|kind| kind == "cpp") { "c++" } else { "cc" };
        let include = root().join("plugins/plugin-abi/include");
        stdout_of(
            Command::new(compiler).args(["-shared", "-fPIC", "-fvisibility=hidden", "-I"]).args([
                include.as_path(),
                &source,
                Path::new("-o"),
                &library,
            ]),
        );
        let sum = stdout_of(Command::new("sha256sum").arg(&library));
        let manifest = format!(
            "[plugin]\nid = \"{id}\"\nversion = \"1.0.0\"\nkind = \"{kind}\"\nform = \"native\"\n\
             api = \"zonda.{kind}/1\"\nfile = \"plugin.so\"\nsha256 = \"{}\"\nmin_host = \"1.0\"\n\
             [rights]\nall = true\n{more}",
            &sum[..64]
        );
        std::fs::write(folder.join("plugin.toml"), manifest).unwrap();
    }

    /// Writes the configuration and gives the flags that read it.
    fn enable(&self, ids: &[&str]) -> [String; 2] {
        let text = format!(
            "[plugins]\nfolder = \"{}\"\nstate_folder = \"{}\"\nenabled = {}\n",
            self.path("plugins").display(),
            self.path("state").display(),
            json!(ids)
        );
        std::fs::write(self.path("zonda.toml"), text).unwrap();
        ["--config".into(), self.path("zonda.toml").display().to_string()]
    }

    fn plugin(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let config = self.path("zonda.toml");
        let mut command = zonda();
        command.arg("plugin").args(arguments).arg("--config").arg(config);
        let output = run_with(&mut command, "");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &errors)
    }
}

fn has_compilers() -> bool {
    let all = ["cc", "c++", "sha256sum"].into_iter().all(|program| installed(program).is_some());
    if !all {
        println!("skipped: no compiler or no sha256sum");
    }
    all
}

fn chat(daemon: &Daemon, prompt: &str) -> (u16, Value) {
    let body = json!({
        "model": "default", "temperature": 0, "max_tokens": 32,
        "messages": [{ "role": "user", "content": prompt }],
    });
    daemon.post("/v1/chat/completions", &body.to_string())
}

/// The processes of plugins that a daemon of this test has left running.
fn hosts_of(id: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let wanted = format!("plugin-host\0{id}\0");
    lines.filter(|line| String::from_utf8_lossy(line).ends_with(&wanted)).count()
}

#[test]
fn a_filter_acts_on_real_requests_and_the_daemon_leaves_no_process() {
    if !has_compilers() {
        return;
    }
    let place = Place::new();
    let id = "com.example.mail-mask";
    place.install(id, "filter", "examples/mail_mask.cpp", "");
    let config = place.enable(&[id]);
    let mut daemon = Daemon::start(&tiny_gguf(), &config.each_ref().map(String::as_str));
    assert_eq!(hosts_of(id), 1);
    let tokens = |prompt: &str| {
        let (status, answer) = daemon.post("/tokenize", &json!({ "prompt": prompt }).to_string());
        assert_eq!(status, 200, "{answer}");
        answer["tokens"].clone()
    };
    assert_eq!(tokens("Write to ann@example.org now."), tokens("Write to [mail] now."));
    assert_eq!(daemon.chat("Turn on the kitchen light."), "The kitchen light is on.");
    let (code, listed) = place.plugin(&["list"]);
    assert_eq!(code, Some(0), "{listed}");
    assert!(
        listed.contains("enabled      filter 1.0.0, native: all rights of its process"),
        "{listed}"
    );
    assert!(daemon.terminate().success());
    assert_eq!(hosts_of(id), 0);
}

#[test]
fn a_crashing_filter_is_quarantined_and_requests_past_it_go_on() {
    if !has_compilers() {
        return;
    }
    let place = Place::new();
    let limits = "[limits]\nrestarts = 0\n[config]\nfail = \"open\"\n";
    place.install("bad", "filter", "tests/native/bad.c", limits);
    let config = place.enable(&["bad"]);
    let flags = config.each_ref().map(String::as_str);
    let daemon = Daemon::start(&tiny_gguf(), &flags);
    let mut events = installed("mosquitto_sub")
        .map(|_| Subscriber::start("5", daemon.mqtt_port, &format!("{NODE}/event/+")));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stream = scope.spawn(|| {
            let mut answered = 0;
            while !stop.load(Ordering::Relaxed) {
                let (status, answer) = chat(&daemon, "Turn on the kitchen light.");
                assert_eq!(status, 200, "{answer}");
                answered += 1;
            }
            answered
        });
        let (status, answer) = chat(&daemon, "\"segv\"");
        // It fails open: the request passes without a verdict.
        assert_eq!(status, 200, "{answer}");
        stop.store(true, Ordering::Relaxed);
        assert!(stream.join().unwrap() > 0);
    });
    if let Some(events) = &mut events {
        let told = events.next_message();
        assert_eq!((&told["kind"], &told["plugin"]), (&json!("plugin_crashed"), &json!("bad")));
        assert_eq!((&told["quarantined"], &told["restart_in_s"]), (&json!(true), &Value::Null));
    }
    let (_, listed) = place.plugin(&["list"]);
    assert!(listed.contains("quarantined") && listed.contains("signal 11"), "{listed}");
    drop(daemon);
    // A new daemon does not try it, until a person says so; then a running one does.
    let daemon = Daemon::start(&tiny_gguf(), &flags);
    assert_eq!(hosts_of("bad"), 0);
    let (code, said) = place.plugin(&["enable", "bad"]);
    assert_eq!(code, Some(0), "{said}");
    let began = Instant::now();
    while hosts_of("bad") == 0 {
        assert!(began.elapsed() < PATIENCE, "it does not come back: {}", daemon.log());
        assert_eq!(chat(&daemon, "Turn on the kitchen light.").0, 200);
    }
    let (status, refused) = chat(&daemon, "\"reject\"");
    assert_eq!((status, &refused["message"]), (422, &json!("changed")), "{refused}");
    let (_, log) = place.plugin(&["logs", "bad"]);
    assert!(log.contains("it is in quarantine") && log.contains("ready"), "{log}");
}

#[test]
fn a_changed_library_is_found_before_anything_runs() {
    if !has_compilers() {
        return;
    }
    let place = Place::new();
    place.install("bad", "filter", "tests/native/bad.c", "[limits]\nrestarts = 0\n");
    place.enable(&["bad"]);
    assert_eq!(place.plugin(&["verify"]), (Some(0), format!("{:<32} good\n", "bad")));
    let library = place.path("plugins/bad/plugin.so");
    std::fs::write(&library, "changed").unwrap();
    let (code, said) = place.plugin(&["verify"]);
    assert_eq!(code, Some(65), "{said}");
    assert!(said.contains("the file was changed"), "{said}");
    let config = place.path("zonda.toml").display().to_string();
    let daemon = Daemon::start(&tiny_gguf(), &["--config", &config]);
    // It fails closed: nothing passes that it should have judged.
    let (status, answer) = chat(&daemon, "Turn on the kitchen light.");
    assert_eq!(status, 503, "{answer}");
    assert!(answer.to_string().contains("the filter bad cannot judge"), "{answer}");
    let (code, said) = place.plugin(&["enable", "bad"]);
    assert_eq!(code, Some(78), "{said}");
    let (code, said) = place.plugin(&["disable", "none"]);
    assert_eq!(code, Some(78), "{said}");
}

#[test]
fn the_hidden_verb_is_of_no_use_by_hand() {
    let output = run_with(zonda().arg("plugin-host"), "");
    assert_eq!(output.status.code(), Some(65));
    assert!(String::from_utf8_lossy(&output.stderr).contains("what zonda starts for each"));
}
