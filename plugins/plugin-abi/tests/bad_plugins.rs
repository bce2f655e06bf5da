//! What plugins do wrong, one thing at a time: the log, restarts, verdicts, a failing guard.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    dead_code,
    reason = "a test stops where something is wrong, and tells what it skips; the bench is shared"
)]

#[path = "native/bench.rs"]
mod bench;

use bench::{Bench, ONE_TRY, call, has, until};
use protocol::{FaultCode, Input, Request};
use serde_json::json;

#[test]
fn a_flood_of_lines_is_cut_and_harms_no_call() {
    if !has("cc") {
        return;
    }
    let bench = Bench::new();
    let library = bench.bad_library("bad.so", &[]);
    bench.install("bad", "tool", &library, "[limits]\ncall_ms = 60000\n");
    let plugin = bench.start("bad", &json!({}));
    for deed in ["flood", "print"] {
        assert_eq!(call(&plugin, deed), Ok("{\"done\":true}".into()), "{deed}");
    }
    assert_eq!(plugin.down(), None);
    drop(plugin);
    let log = bench.log("bad");
    assert!(log.len() < 512 << 10, "{} bytes", log.len());
    assert!(log.lines().count() < 20_000 && !log.contains('\x1b'));
    assert!(log.contains("lines were dropped"), "{log}");
    assert!(log.contains("says: flood flood flood"), "{log}");
}

#[test]
fn a_failure_is_answered_by_a_restart_and_what_was_kept_is_there() {
    if !has("cc") {
        return;
    }
    let bench = Bench::new();
    let library = bench.bad_library("bad.so", &[]);
    bench.install("bad", "tool", &library, "[limits]\nrestarts = 1\n");
    let plugin = bench.start("bad", &json!({}));
    assert_eq!(call(&plugin, "count"), Ok("0".into()));
    assert_eq!(call(&plugin, "error"), Err("it cannot be".into()));
    assert_eq!(call(&plugin, "nonsense"), Err("the function gave no JSON".into()));
    let environment = call(&plugin, "environment").unwrap();
    assert_eq!(environment, "[0,2]", "variables, and descriptors beyond the host's own two");
    assert!(call(&plugin, "segv").is_err());
    // The caller hears of it sooner than everybody else.
    let rests = || plugin.down().is_some_and(|why| why.contains("starts again soon"));
    until("it rests", rests);
    assert!(!plugin.is_given_up());
    until("it is back", || plugin.down().is_none());
    // One key is there: what it says begins with its value.
    assert_eq!(call(&plugin, "count"), Ok("10".into()));
    assert!(call(&plugin, "segv").is_err());
    until("it is given up", || plugin.is_given_up());
    // A person clears the quarantine while the daemon runs.
    bench.state().write("bad", &Default::default()).unwrap();
    until("it is back", || call(&plugin, "work").is_ok());
    let log = bench.log("bad");
    assert!(log.contains("signal 11; it starts again in 1 s"), "{log}");
}

#[test]
fn a_disabled_plugin_does_not_start() {
    if !has("cc") {
        return;
    }
    let bench = Bench::new();
    let library = bench.bad_library("bad.so", &[]);
    bench.install("bad", "tool", &library, "");
    let disabled = plugin_abi::Remembered { disabled: true, quarantine: None };
    bench.state().write("bad", &disabled).unwrap();
    let plugin = bench.start("bad", &json!({}));
    assert!(plugin.is_given_up() && plugin.tools().is_empty());
    assert!(plugin.down().unwrap().contains("disabled"));
}

fn asked(text: &str) -> Request {
    Request::new("r", Input::Text(format!("\"{text}\"")))
}

#[test]
fn a_filter_judges_and_fails_as_its_manifest_says() {
    if !has("cc") {
        return;
    }
    let bench = Bench::new();
    let library = bench.bad_library("bad.so", &[]);
    for (fail, passes) in [("closed", false), ("open", true)] {
        let more = format!("{ONE_TRY}[config]\nfail = \"{fail}\"\n");
        bench.install("bad", "filter", &library, &more);
        bench.state().write("bad", &Default::default()).unwrap();
        let plugin = bench.start("bad", &json!({}));
        let filter = plugin.filter();
        assert!(filter.judges_answers());
        let mut request = asked("fine");
        filter.on_request(&mut request).unwrap();
        assert_eq!(request.input, asked("fine").input);
        let mut request = asked("replace");
        filter.on_request(&mut request).unwrap();
        assert_eq!(request.input, Input::Text("changed".into()));
        let fault = filter.on_request(&mut asked("reject")).unwrap_err();
        assert_eq!((fault.code, fault.message.as_str()), (FaultCode::InvalidField, "changed"));
        let mut tokens = Request::new("r", Input::Tokens(vec![protocol::TokenId(1)]));
        assert_eq!(filter.on_request(&mut tokens).is_ok(), passes);
        let long = filter.on_request(&mut asked(&"x".repeat(5 << 20)));
        assert_eq!(
            long.map_err(|fault| fault.code).err(),
            (!passes).then_some(FaultCode::TooLarge)
        );
        // From here on it is down.
        for _ in 0..2 {
            let result = filter.on_request(&mut asked("segv"));
            let code = result.map_err(|fault| fault.code).err();
            assert_eq!(code, (!passes).then_some(FaultCode::Unavailable));
        }
        assert!(plugin.is_given_up());
    }
}

#[test]
fn verdicts_that_are_none_count_as_failures() {
    if !has("cc") {
        return;
    }
    let bench = Bench::new();
    let library = bench.bad_library("bad.so", &[]);
    bench.install("bad", "filter", &library, ONE_TRY);
    for (deed, why) in [("verdict", "77 is no verdict"), ("beyond", "a replacement has no place")] {
        bench.state().write("bad", &Default::default()).unwrap();
        let plugin = bench.start("bad", &json!({}));
        assert!(plugin.filter().on_request(&mut asked(deed)).is_err());
        until(deed, || plugin.is_given_up());
        assert!(plugin.down().unwrap().contains(why), "{:?}", plugin.down());
    }
}
