//! Plugins that do every wrong thing: each is contained, given up at its limit, and leaves nothing
//! behind, while another plugin goes on answering. Alone in its process, because it counts what is
//! open there.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    dead_code,
    reason = "a test stops where something is wrong, and tells what it skips; the bench is shared"
)]

#[path = "native/bench.rs"]
mod bench;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bench::{Bench, ONE_TRY, call, children, has, own, until};
use plugin_abi::Plugin;
use protocol::News;
use serde_json::{Value, json};

/// Deeds in a call, and what is said of them.
const CALLS: &[(&str, &str)] = &[
    ("segv", "signal 11"),
    ("abort", "signal 6"),
    ("exit", "exit code 0"),
    ("hang", "a call took longer than call_ms = 2000"),
    ("spin", "a call took longer than call_ms = 2000"),
    ("allocate", "signal 6"),
    ("garbage", "a message of 67305985 bytes, the limit is 4194304"),
    ("huge", "a message of 4294967295 bytes, the limit is 4194304"),
    ("short", "ended after 1"),
    ("utf8", "no message of this protocol"),
    ("json", "no message of this protocol"),
    ("twice", "it said what nobody asked for"),
    ("again", "it said what nobody asked for"),
    ("keep", "it keeps more than it may"),
    // The child keeps the wire open, so the end shows when the call is overdue.
    ("children", "a call took longer than call_ms = 2000"),
    ("bytes", "a text is not UTF-8"),
    ("long", "a text is over 1048576 bytes"),
];

/// Deeds before the first call.
const STARTS: &[(&str, &str)] = &[
    ("segv", "signal 11"),
    ("exit", "exit code 0"),
    ("allocate", "signal 6"),
    ("garbage", "the limit is 4194304"),
    ("refuse", "activate refused: these settings are not for me"),
];

#[test]
fn every_bad_plugin_is_contained_and_leaves_nothing() {
    if !has("cc") {
        return;
    }
    let bench = Bench::new();
    let library = bench.bad_library("bad.so", &[]);
    bench.install("bad", "tool", &library, ONE_TRY);
    let other = bench.bad_library("wrong.so", &["-DWRONG_MAJOR"]);
    let before = (own("fd"), own("task"), children());
    {
        // Its process runs before the first failure of the others, and on.
        let neighbour = bench.start("bad", &json!({}));
        let (stop, answered) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            let _stop = Raise(&stop);
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(call(&neighbour, "work"), Ok("{\"done\":true}".into()));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
            let goes_on = |what: &str| {
                let count = answered.load(Ordering::Relaxed);
                until(what, || answered.load(Ordering::Relaxed) > count + 10);
            };
            for (deed, why) in CALLS {
                quarantined_by_call(&bench, deed, why);
                goes_on(deed);
            }
            for (deed, why) in STARTS {
                quarantined_at_start(&bench, &json!({ "at": deed }), why);
                goes_on(deed);
            }
            bench.install("bad", "tool", &other, ONE_TRY);
            quarantined_at_start(&bench, &json!({}), "built for version 2 of the interface");
            let symbol = bench.bad_library("symbol.so", &["-DNO_SYMBOL"]);
            bench.install("bad", "tool", &symbol, ONE_TRY);
            quarantined_at_start(&bench, &json!({}), "no symbol zonda_plugin_entry");
            std::fs::remove_file(bench.path("plugins/bad/plugin.so")).unwrap();
            std::fs::write(bench.path("plugins/bad/plugin.so"), "changed").unwrap();
            quarantined_at_start(&bench, &json!({}), "the file was changed");
            goes_on("the end");
        });
    }
    until("descriptors, threads and processes are those of before", || {
        (own("fd"), own("task"), children()) == before
    });
}

/// Ends the stream of requests, whatever ends the test.
struct Raise<'a>(&'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn quarantined_by_call(bench: &Bench, deed: &str, why: &str) {
    bench.state().write("bad", &Default::default()).unwrap();
    let plugin = bench.start("bad", &json!({}));
    assert_eq!(plugin.down(), None, "{deed}");
    let began = Instant::now();
    let error = call(&plugin, deed);
    // What meddles behind the host's back may still get its own answer in first.
    assert!(error.is_err() || ["garbage", "twice", "again", "keep"].contains(&deed), "{deed}");
    until(deed, || plugin.is_given_up());
    assert!(began.elapsed() < Duration::from_secs(20), "{deed} took {:?}", began.elapsed());
    is_quarantined(bench, &plugin, why);
    assert!(call(&plugin, "work").is_err(), "{deed}");
}

fn quarantined_at_start(bench: &Bench, settings: &Value, why: &str) {
    bench.state().write("bad", &Default::default()).unwrap();
    let plugin = bench.start("bad", settings);
    until(why, || plugin.is_given_up());
    assert!(plugin.tools().is_empty());
    is_quarantined(bench, &plugin, why);
}

fn is_quarantined(bench: &Bench, plugin: &Plugin, why: &str) {
    let down = plugin.down().unwrap();
    assert!(down.contains(why), "{down:?} is not {why:?}");
    let quarantine = bench.state().read("bad").unwrap().quarantine.unwrap();
    assert!(quarantine.reason.contains(why), "{quarantine:?} is not {why:?}");
    let told = bench.news.1.try_next();
    let Some(News::Event { kind, body }) = told else { panic!("{why}: {told:?} is no event") };
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((kind.as_str(), &body["kind"]), ("plugin_crashed", &json!("plugin_crashed")));
    assert_eq!((&body["plugin"], &body["quarantined"]), (&json!("bad"), &json!(true)), "{body}");
    assert_eq!(bench.news.1.try_next(), None, "{why}: one failure, one event");
    // A new daemon does not try it again.
    let again = bench.start("bad", &json!({}));
    assert!(again.is_given_up() && again.down().unwrap().contains("zonda plugin enable"));
}
