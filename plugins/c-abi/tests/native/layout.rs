//! What C and Rust say of the same structs and numbers.

use std::collections::BTreeMap;
use std::mem::offset_of;

use zonda::{DeviceInfo, EngineParams, EventView, ModelParams, RequestParams, Stats};

use crate::tools::Bench;

/// What Rust has where the C program prints `name number`.
fn of_rust() -> BTreeMap<String, i64> {
    let mut facts = BTreeMap::new();
    macro_rules! layout {
        ($($type:ty, $c:literal: $($field:ident)*;)*) => {$(
            facts.insert($c.to_owned(), size_of::<$type>() as i64);
            $(facts.insert(
                concat!($c, ".", stringify!($field)).to_owned(),
                offset_of!($type, $field) as i64,
            );)*
        )*};
    }
    layout! {
        EventView, "zonda_event": kind seq status token_count text json finish_reason;
        EngineParams, "zonda_engine_params": abi_version config_path config_toml device profile
            worker_threads max_queue log_fn log_user_data log_level flags;
        ModelParams, "zonda_model_params": context_length max_sequences kv_dtype
            memory_budget_bytes progress_fn progress_user_data flags;
        RequestParams, "zonda_request_params": timeout_ms priority max_buffered_events
            idempotency_key event_fn event_user_data session;
        DeviceInfo, "zonda_device_info": index id name api memory_total memory_free unified_memory;
        Stats, "zonda_stats": queue_depth active max_active requests_ok requests_failed
            requests_cancelled tokens_prompt tokens_generated decode_tokens_per_s
            prefill_tokens_per_s kv_bytes_used kv_bytes_total model_bytes health;
    }
    macro_rules! numbers {
        ($prefix:literal: $($name:ident)*) => {$(
            facts.insert(concat!($prefix, stringify!($name)).to_owned(), zonda::$name as i64);
        )*};
    }
    numbers!("ZONDA_": OK ABI_VERSION EV_ACCEPTED EV_DELTA EV_TOOL_CALL EV_USAGE EV_DONE EV_ERROR);
    numbers!("ZONDA_E_": INVALID_ARGUMENT INVALID_STATE ABI_MISMATCH UNSUPPORTED NOT_FOUND IO
        OUT_OF_MEMORY DEVICE MODEL_FORMAT MODEL_SIGNATURE CONTEXT_LENGTH OVERLOADED CANCELLED
        TIMEOUT AUTH CONTENT_FILTER WOULD_BLOCK BUFFER_TOO_SMALL PLUGIN INTERNAL);
    facts
}

#[test]
fn header_and_library_agree_on_every_struct_and_number() {
    let bench = Bench::new();
    let Some(program) = bench.link("gcc", &["-std=c99"], "tests/native/layout.c", "layout") else {
        return;
    };
    let printed = bench.run(&program, [""; 0]);
    let mut facts = BTreeMap::new();
    for line in printed.lines() {
        let (name, value) = line.split_once(' ').unwrap();
        match name {
            "version" => assert_eq!(value, zonda::VERSION),
            _ => drop(facts.insert(name.to_owned(), value.parse::<i64>().unwrap())),
        }
    }
    assert_eq!(facts, of_rust());
}
