//! The header and the library in the hands of C and C++ compilers.
//!
//! Programs run against the `libzonda.so` that was built beside this test. What a machine lacks
//! (a compiler, valgrind, a model) is skipped, and said so.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says what it skips")]

#[path = "native/abi.rs"]
mod abi;
#[path = "native/layout.rs"]
mod layout;
#[path = "native/package.rs"]
mod package;
#[path = "native/python.rs"]
mod python;
#[path = "native/tools.rs"]
mod tools;

use tools::{Bench, FLAGS, FLAGS_CPP, header_functions, run, shared_model, sources};

const C_SOURCES: [&str; 5] = [
    "examples/chat.c",
    "examples/poll.c",
    "examples/tools.c",
    "tests/native/border.c",
    "tests/native/guest.c",
];

#[test]
fn header_compiles_under_every_compiler_and_standard() {
    let bench = Bench::new();
    bench.write("twice.c", "#include \"zonda.h\"\n#include \"zonda.h\"\nint none;\n");
    bench.write("twice.cpp", "#include \"zonda.h\"\n#include \"zonda.h\"\nint none;\n");
    bench.write("wrapper.cpp", "#include \"zonda.hpp\"\n#include \"zonda.hpp\"\nint none;\n");
    for compiler in ["gcc", "clang"] {
        for standard in ["-std=c99", "-std=c11", "-std=c17"] {
            bench.compile(compiler, standard, FLAGS, &bench.path("twice.c"));
            for source in C_SOURCES {
                bench.compile(compiler, standard, FLAGS, &sources(source));
            }
        }
    }
    for compiler in ["g++", "clang++"] {
        for standard in ["-std=c++11", "-std=c++17", "-std=c++20"] {
            bench.compile(compiler, standard, FLAGS_CPP, &bench.path("twice.cpp"));
        }
        for standard in ["-std=c++17", "-std=c++20"] {
            bench.compile(compiler, standard, FLAGS_CPP, &bench.path("wrapper.cpp"));
            bench.compile(compiler, standard, FLAGS_CPP, &sources("examples/chat.cpp"));
            bench.compile(compiler, standard, FLAGS_CPP, &sources("examples/guest.cpp"));
            bench.compile(compiler, standard, FLAGS_CPP, &sources("tests/native/throws.cpp"));
        }
    }
}

#[test]
fn library_exports_what_the_header_declares_and_nothing_else() {
    let bench = Bench::new();
    let Some(library) = bench.library() else {
        return;
    };
    let Some(listed) = run("nm", ["-D", "--defined-only"], Some(library)) else {
        return;
    };
    let mut exported: Vec<_> =
        listed.lines().filter_map(|line| line.split_whitespace().last()).collect();
    exported.sort_unstable();
    let header = header_functions();
    assert_eq!(exported, header.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn library_is_named_after_its_abi() {
    let bench = Bench::new();
    let Some(library) = bench.library() else {
        return;
    };
    let Some(dynamic) = run("readelf", ["-d"], Some(library)) else {
        return;
    };
    assert!(dynamic.contains("[libzonda.so.1]"), "{dynamic}");
}

#[test]
fn c_program_gets_right_answers_to_right_and_wrong_calls() {
    let bench = Bench::new();
    for compiler in ["gcc", "clang"] {
        let name = format!("border-{compiler}");
        let built = bench.link(compiler, &["-std=c11"], "tests/native/border.c", &name);
        let Some(program) = built else { continue };
        bench.run(&program, [if compiler == "gcc" { "10000" } else { "10" }]);
    }
}

#[test]
fn c_program_brings_tools_descriptors_and_conversations() {
    let bench = Bench::new();
    let built = bench.link("gcc", &["-std=c11", "-pthread"], "tests/native/guest.c", "guest");
    if let Some(program) = built {
        bench.run(&program, ["300"]);
    }
}

#[test]
fn sanitizers_and_valgrind_find_nothing() {
    let bench = Bench::new();
    for (source, name) in [("tests/native/border.c", "border"), ("tests/native/guest.c", "guest")] {
        let flags = ["-std=c11", "-g", "-pthread", "-fno-sanitize-recover=all"];
        let sanitized = [&flags[..], &["-fsanitize=address,undefined"]].concat();
        if let Some(program) = bench.link("clang", &sanitized, source, &format!("{name}-asan")) {
            bench.run(&program, ["3"]);
        }
        if let Some(program) = bench.link("gcc", &flags[..3], source, name) {
            bench.run_in_valgrind(&program, ["3"]);
        }
    }
}

/// The library is not instrumented, and what orders memory inside it is hidden from this tool: it
/// watches what the C side does on its own thread and in callbacks, between its own locks.
#[test]
fn thread_sanitizer_finds_nothing_on_the_c_side() {
    let bench = Bench::new();
    let flags = ["-std=c11", "-g", "-pthread", "-fsanitize=thread"];
    if let Some(program) = bench.link("clang", &flags, "tests/native/guest.c", "guest-tsan") {
        bench.run_in_thread_sanitizer(&program, ["3"]);
    }
}

/// Asks in every way that the examples know; gives the one answer.
fn ask_in_every_way(bench: &Bench, model: &str, prompt: &str) -> Option<String> {
    let c = bench.link("gcc", &["-std=c99"], "examples/chat.c", "chat-c")?;
    let ask = |way| bench.run(&c, [model, prompt, "24", way]);
    let blocking = ask("blocking");
    assert_eq!(ask("callback"), blocking);
    assert_eq!(ask("pull"), blocking);
    let cancelled = ask("cancel");
    assert!(blocking.starts_with(cancelled.trim_end_matches('\n')), "{cancelled:?}");
    assert!(cancelled.len() < blocking.len(), "{cancelled:?}");
    if let Some(cpp) = bench.link("g++", &["-std=c++17"], "examples/chat.cpp", "chat-cpp") {
        assert_eq!(bench.run(&cpp, [model, prompt, "24"]), blocking);
    }
    Some(blocking)
}

#[test]
fn examples_give_the_same_text_in_every_way() {
    let bench = Bench::new();
    let Some(said) = ask_in_every_way(&bench, "-", "Turn on the kitchen light.") else {
        return;
    };
    assert_eq!(said, "The kitchen light is on.\n");
    if let Some(model) = shared_model() {
        ask_in_every_way(&bench, &model, "Once upon a time");
    }
}

#[test]
fn poll_loop_reads_several_answers() {
    let bench = Bench::new();
    let Some(program) = bench.link("gcc", &["-std=c99"], "examples/poll.c", "poll") else {
        return;
    };
    let said = bench.run(&program, ["-", "Turn on the kitchen light.", "Open the garage door."]);
    assert_eq!(said, "The kitchen light is on.\nThe garage door is open.\n");
}

#[test]
fn model_asks_the_clock_of_the_program() {
    let bench = Bench::new();
    let is_time = |said: &str| {
        let time = said.strip_prefix("It is ").and_then(|rest| rest.strip_suffix(" UTC."));
        time.is_some_and(|time| time.len() == 5 && time.as_bytes()[2] == b':')
    };
    if let Some(program) = bench.link("gcc", &["-std=c99"], "examples/tools.c", "tools") {
        let said = bench.run(&program, ["-", "What time is it?"]);
        assert!(is_time(said.trim_end()), "{said}");
    }
    if let Some(program) = bench.link("g++", &["-std=c++17"], "examples/guest.cpp", "guest-cpp") {
        let said = bench.run(&program, ["-"]);
        let (time, light) = said.split_once('\n').unwrap();
        assert!(is_time(time), "{said}");
        assert_eq!(light, "The kitchen light is on.\n");
    }
}

#[test]
fn exception_of_the_host_reaches_the_host() {
    let bench = Bench::new();
    for compiler in ["g++", "clang++"] {
        let name = format!("throws-{compiler}");
        let built = bench.link(compiler, &["-std=c++17"], "tests/native/throws.cpp", &name);
        if let Some(program) = built {
            bench.run(&program, [""; 0]);
        }
    }
}
