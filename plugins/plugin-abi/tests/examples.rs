//! The header under every compiler, its structs beside those of Rust, and the examples, built as the
//! README says.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    dead_code,
    reason = "a test stops where something is wrong, and tells what it skips; the bench is shared"
)]

#[path = "native/bench.rs"]
mod bench;

use std::fmt::Write as _;
use std::mem::{offset_of, size_of};
use std::process::Command;
use std::time::{Duration, Instant};

use bench::{Bench, has, source, until};
use plugin_abi::abi;
use protocol::{Asked, Event, Input, Observation, Request, RequestId, Usage};
use serde_json::{Value, json};

#[test]
fn header_compiles_under_every_compiler_and_standard() {
    let bench = Bench::new();
    let text = "#include \"zonda_plugin.h\"\n#include \"zonda_plugin.h\"\nint none;\n";
    for (compilers, standards, name, example) in [
        (["gcc", "clang"], ["-std=c99", "-std=c17"], "twice.c", "examples/uptime.c"),
        (["g++", "clang++"], ["-std=c++11", "-std=c++20"], "twice.cpp", "examples/mail_mask.cpp"),
    ] {
        std::fs::write(bench.path(name), text).unwrap();
        for compiler in compilers.into_iter().filter(|compiler| has(compiler)) {
            for standard in standards {
                let flags = [standard, "-c", "-fPIC"];
                bench.compile(compiler, &flags, &bench.path(name), &bench.path("twice.o"));
                bench.compile(compiler, &flags, &source(example), &bench.path("example.o"));
            }
        }
    }
}

/// Sizes and offsets as C sees them, by a program that prints them.
macro_rules! layouts {
    ($($c:literal $rust:ty { $($field:ident)* })*) => {{
        let mut program = String::from(
            "#include <stdio.h>\n#include \"zonda_plugin.h\"\nint main(void) {\n");
        let mut wanted = String::new();
        $(
            let _ok = writeln!(program, "printf(\"{0} %zu\\n\", sizeof({0}));", $c);
            let _ok = writeln!(wanted, "{} {}", $c, size_of::<$rust>());
            $(
                let field = stringify!($field);
                let _ok = writeln!(program, "printf(\"{0}.{1} %zu\\n\", offsetof({0}, {1}));", $c, field);
                let _ok = writeln!(wanted, "{}.{} {}", $c, field, offset_of!($rust, $field));
            )*
        )*
        program.push_str("return 0;\n}\n");
        (program, wanted)
    }};
}

#[test]
fn structs_have_the_same_layout_in_c_and_rust() {
    if !has("cc") {
        return;
    }
    let (program, wanted) = layouts! {
        "zonda_plugin_version" abi::Version { major minor patch }
        "zonda_plugin_str" abi::Str { ptr len }
        "zonda_plugin_out" abi::Out { data write }
        "zonda_plugin_host" abi::Host { version data name vendor version_text get_extension }
        "zonda_host_log" abi::HostLog { log }
        "zonda_host_kv" abi::HostKv { get set }
        "zonda_plugin_descriptor" abi::Descriptor { version id name vendor version_text description }
        "zonda_plugin" abi::Plugin { descriptor data init destroy activate deactivate get_extension }
        "zonda_plugin_factory" abi::Factory { count descriptor create }
        "zonda_plugin_entry_table" abi::Entry { version init deinit get_factory }
        "zonda_plugin_tool" abi::Tool { count spec call }
        "zonda_plugin_text" abi::Text { role text }
        "zonda_plugin_texts" abi::Texts { request_id client model texts texts_len }
        "zonda_plugin_change" abi::Change { data replace reject }
        "zonda_plugin_filter" abi::Filter { on_request on_final }
        "zonda_plugin_observation" abi::Observation {
            model outcome prompt_tokens cached_tokens completion_tokens accepted_ms first_text_ms total_ms
        }
        "zonda_plugin_observer" abi::Observer { observe }
    };
    let bench = Bench::new();
    std::fs::write(bench.path("layout.c"), program).unwrap();
    bench.compile("cc", &["-std=c11"], &bench.path("layout.c"), &bench.path("layout"));
    let said = Command::new(bench.path("layout")).output().unwrap();
    assert_eq!(String::from_utf8(said.stdout).unwrap(), wanted);
}

/// The commands of the README from one heading to the next, without those that need cargo.
fn commands() -> String {
    let readme = std::fs::read_to_string(source("README.md")).unwrap();
    let section = readme.split("## Three plugins").nth(1).unwrap().split("\n## ").next().unwrap();
    let blocks = section.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let commands: Vec<_> = blocks.filter(|block| !block.contains("cargo")).collect();
    assert_eq!(commands.len(), 3);
    commands.join("\n")
}

/// Builds the C and the C++ example by the README's own words.
fn built() -> Option<Bench> {
    if !has("cc") || !has("c++") || !has("sha256sum") {
        return None;
    }
    let bench = Bench::new();
    let said = Command::new("sh")
        .args(["-e", "-c", &commands()])
        .current_dir(source("../.."))
        .env("HOME", bench.path(""))
        .output()
        .unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    std::fs::rename(bench.path("zonda-plugins"), bench.path("plugins")).unwrap();
    Some(bench)
}

#[test]
fn the_tool_in_c_answers() {
    let Some(bench) = built() else { return };
    let plugin = bench.start("com.example.uptime", &json!({}));
    assert_eq!(plugin.down(), None);
    let tools = plugin.tools();
    assert_eq!(tools[0].spec().name, "uptime");
    let deadline = Instant::now() + Duration::from_secs(10);
    let result: Value = serde_json::from_str(&tools[0].call("{}", deadline).unwrap()).unwrap();
    assert!(result["seconds"].as_u64().unwrap() > 0, "{result}");
    assert!(bench.log("com.example.uptime").contains("says: uptime is here"));
}

#[test]
fn the_filter_in_cpp_masks_requests_and_answers() {
    let Some(bench) = built() else { return };
    let plugin = bench.start("com.example.mail-mask", &json!({}));
    assert_eq!(plugin.down(), None);
    let filter = plugin.filter();
    let mut request = Request::new("r", Input::Text("Write to a.b@example.org. @ once".into()));
    filter.on_request(&mut request).unwrap();
    assert_eq!(request.input, Input::Text("Write to [mail]. @ once".into()));
    let asked = Asked { id: RequestId("r".into()), model: String::new(), client: None };
    let mut answer = vec![Event::text("It is x@y.z", 3)];
    filter.on_answer(&asked, &mut answer).unwrap();
    assert_eq!(answer, [Event::text("It is [mail]", 3)]);
}

#[test]
fn the_observer_in_rust_counts() {
    let bench = Bench::new();
    let test = std::env::current_exe().unwrap();
    let library = test.ancestors().nth(2).unwrap().join("examples/liblatency.so");
    if !library.is_file() {
        println!("skipped: {} was not built with the tests", library.display());
        return;
    }
    bench.install("com.example.latency", "observer", &library, "");
    let plugin = bench.start("com.example.latency", &json!({}));
    assert_eq!(plugin.down(), None);
    let observer = plugin.observer().unwrap();
    for _ in 0..100 {
        observer.observe(&Observation {
            model: "m".into(),
            outcome: "stop",
            usage: Usage::default(),
            accepted: None,
            first_text: None,
            total: Duration::from_millis(20),
        });
    }
    until("a hundred are logged", || {
        bench.log("com.example.latency").contains("says: 100 requests, 20 ms each on average")
    });
}
