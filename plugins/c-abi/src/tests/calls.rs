//! Calls that answer at once or wait.

use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::atomic::Ordering;

use super::stage::*;
use crate::*;

#[test]
fn blocking_chat_gives_the_completion() {
    let set = Set::new();
    let answer = set.chat("count 3").unwrap();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["choices"][0]["message"]["content"], "w0 w1 w2 ");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"]["completion_tokens"].as_u64(), Some(3));
}

#[test]
fn refusals_of_the_service_keep_their_status() {
    let set = Set::new();
    assert_eq!(set.chat("busy").unwrap_err(), (OVERLOADED, "queue full".into()));
    assert_eq!(set.chat("fault").unwrap_err(), (INTERNAL, "scripted fault".into()));
    assert!(set.chat("count 1").is_ok(), "a failed request poisons nothing");
}

#[test]
fn timeout_ends_a_request() {
    let set = Set::new();
    let params = RequestParams { timeout_ms: 1, ..layout::zeroed() };
    let (status, request) = set.start("endless", &raw const params);
    assert_eq!(status, OK);
    // SAFETY: live handle, freed once.
    unsafe {
        assert_eq!(zonda_request_wait(request, -1), TIMEOUT);
        zonda_request_free(request);
    }
}

#[test]
fn tokens_go_there_and_back() {
    let set = Set::new();
    let text = "señal";
    let mut count = 0;
    let mut tokens = [0u32; 16];
    let mut back = [0u8; 16];
    // SAFETY: live handle; every array is as long as it is said to be.
    unsafe {
        let first = text.as_ptr().cast::<c_char>();
        let (no_error, none) = (ptr::null_mut(), ptr::null_mut());
        let model = set.model;
        let tell = &raw mut count;
        assert_eq!(zonda_tokenize(model, first, text.len(), 0, none, 0, tell, no_error), OK);
        assert_eq!(count, 6);
        let out = tokens.as_mut_ptr();
        let short = zonda_tokenize(model, first, text.len(), 0, out, 5, tell, no_error);
        assert_eq!((short, count, tokens[0]), (BUFFER_TOO_SMALL, 6, 0));
        assert_eq!(zonda_tokenize(model, first, text.len(), 0, out, 16, tell, no_error), OK);
        assert_eq!(tokens[0], u32::from(b's'));
        let place = back.as_mut_ptr().cast::<c_char>();
        assert_eq!(zonda_detokenize(model, out, 2, place, 16, tell, no_error), OK);
        assert_eq!((count, &back[..3]), (2, &b"se\0"[..]));
        let body = body("count 1");
        let json = body.as_ptr().cast::<c_char>();
        assert_eq!(zonda_count_tokens_json(model, json, body.len(), tell, no_error), OK);
        assert_eq!(count, 7);
    }
}

#[test]
fn model_tells_its_card_and_its_files() {
    let set = Set::new();
    let mut told = ptr::null_mut();
    // SAFETY: live handle, live slot; freed once.
    let card = unsafe {
        assert_eq!(zonda_model_info_json(set.model, &raw mut told, ptr::null_mut()), OK);
        let card = text_of(zonda_buffer_data(told));
        zonda_buffer_free(told);
        card
    };
    let card: serde_json::Value = serde_json::from_str(&card).unwrap();
    assert_eq!(card["models"][0]["id"], "script");
    assert_eq!(card["facts"]["container"], "script");
}

/// Calls a function that gives a buffer; its status and the text.
fn buffer(call: impl FnOnce(*mut *mut BufferHandle) -> Status) -> (Status, String) {
    let mut told = ptr::null_mut();
    let status = call(&raw mut told);
    // SAFETY: NULL or live; freed once.
    unsafe {
        let text = text_of(zonda_buffer_data(told));
        zonda_buffer_free(told);
        (status, text)
    }
}

#[test]
fn texts_become_vectors() {
    let set = Set::new();
    let embed = |body: &str| {
        let json = body.as_ptr().cast::<c_char>();
        // SAFETY: live handle, live bytes, live slot, no error slot.
        buffer(|out| unsafe { zonda_embed(set.model, json, body.len(), out, ptr::null_mut()) })
    };
    let (status, told) = embed(r#"{"input": ["a", "abc"]}"#);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((status, &told["model"]), (OK, &"scripted".into()));
    assert_eq!(told["data"][1]["embedding"].to_string(), "[3,0.5]");
    assert_eq!(embed("{}"), (INVALID_ARGUMENT, String::new()));
}

#[test]
fn engine_lists_its_models() {
    let set = Set::new();
    let list = || {
        // SAFETY: live handle, live slot, no error slot.
        buffer(|out| unsafe { zonda_model_list_json(set.engine, out, ptr::null_mut()) })
    };
    let ids = |text: String| -> Vec<String> {
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        let ids = list["data"].as_array().unwrap().iter();
        ids.map(|model| model["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(list().1), ["script"]);
    let (_, second) = set.load(ptr::null());
    assert_eq!(ids(list().1), ["script", "script"]);
    // SAFETY: live handle, given up here.
    unsafe { zonda_model_free(second) };
    assert_eq!(ids(list().1), ["script"]);
}

#[test]
fn metrics_tell_the_statistics() {
    let mut set = Set::new();
    set.chat("count 2").unwrap();
    let (_, second) = set.load(ptr::null());
    // SAFETY: live handle, given up here: what its script did is counted when it is gone.
    unsafe { zonda_model_free(set.model) };
    set.model = second;
    let text = |set: &Set| {
        // SAFETY: live handle, live slot, no error slot.
        buffer(|out| unsafe { zonda_engine_metrics_text(set.engine, out, ptr::null_mut()) })
    };
    let (status, told) = text(&set);
    assert_eq!(status, OK);
    assert!(told.contains("\nzonda_requests_total{end=\"ok\"} 1\n"), "{told}");
    assert!(told.contains("\nzonda_healthy 1\n") && told.ends_with("\n# EOF\n"), "{told}");
    assert_eq!(set.chat("defect").unwrap_err().0, INTERNAL);
    let (status, told) = text(&set);
    assert_eq!(status, OK, "a poisoned engine still tells");
    assert!(told.contains("\nzonda_healthy 0\n"), "{told}");
}

#[test]
fn files_are_verified_where_they_are() {
    let set = Set::new();
    let verify = |path: &std::ffi::CStr| {
        // SAFETY: live handle, NUL-terminated path, live slot, no error slot.
        buffer(|out| unsafe { zonda_model_verify(set.engine, path.as_ptr(), out, ptr::null_mut()) })
    };
    assert_eq!(verify(c"Cargo.toml"), (OK, "{\"valid\":true,\"path\":\"Cargo.toml\"}".into()));
    assert_eq!(verify(c"/no/such.gguf"), (NOT_FOUND, String::new()));
    assert_eq!(verify(c"\xff"), (INVALID_ARGUMENT, String::new()));
}

unsafe extern "C" fn abort(share: f64, _stage: Str, user_data: *mut c_void) -> i32 {
    // SAFETY: the test hands a Heard that outlives the load.
    lock(&unsafe { &*user_data.cast::<Heard>() }.0).push(share.to_string());
    1
}

#[test]
fn progress_callback_ends_a_load() {
    let set = Set::new();
    let heard = Heard::default();
    let params = ModelParams {
        progress_fn: Some(abort),
        progress_user_data: heard.user_data(),
        ..layout::zeroed()
    };
    assert_eq!(set.load(&raw const params), (CANCELLED, ptr::null_mut()));
    assert_eq!(*lock(&heard.0), ["0.5"]);
}

#[test]
fn stats_outlive_the_model_that_did_the_work() {
    let mut set = Set::new();
    set.chat("count 2").unwrap();
    let rates = set.stats();
    assert!(rates.decode_tokens_per_s > 0.0 && rates.prefill_tokens_per_s > 0.0);
    // SAFETY: live handle, given up here.
    unsafe { zonda_model_free(set.model) };
    set.model = ptr::null_mut();
    assert_eq!((set.stats().requests_ok, set.stats().health), (1, 0));
}

#[test]
fn request_keeps_its_freed_model() {
    let mut set = Set::new();
    let (_, request) = set.start("count 2", ptr::null());
    // SAFETY: live handles, each given up once.
    unsafe {
        zonda_model_free(set.model);
        set.model = ptr::null_mut();
        assert_eq!(zonda_request_wait(request, -1), OK);
        zonda_request_free(request);
    }
}

#[test]
fn engine_frees_before_its_model_and_its_request() {
    let mut set = Set::new();
    let (_, request) = set.start("endless", ptr::null());
    // SAFETY: live handles, each given up once; the model is used behind its engine's end.
    unsafe {
        zonda_engine_free(set.engine);
        set.engine = ptr::null_mut();
        assert_eq!(set.chat("count 1").unwrap_err().0, INVALID_STATE);
        assert_eq!(zonda_request_wait(request, 1000), CANCELLED);
        zonda_request_free(request);
    }
}

#[test]
fn shutdown_refuses_new_work() {
    let set = Set::new();
    // SAFETY: live handle.
    let status = unsafe { zonda_engine_shutdown(set.engine, 0, ptr::null_mut()) };
    assert_eq!(status, OK);
    assert_eq!(set.chat("count 1").unwrap_err().0, INVALID_STATE);
    assert_eq!(set.load(ptr::null()).0, INVALID_STATE);
    assert_eq!(set.start("count 1", ptr::null()).0, INVALID_STATE);
}

#[test]
fn panic_poisons_the_engine_and_free_still_works() {
    let set = Set::new();
    let (status, sentence) = set.chat("defect").unwrap_err();
    assert_eq!(status, INTERNAL);
    assert!(!sentence.contains("scripted"), "the panic's words stay inside: {sentence}");
    assert_eq!(set.chat("count 1").unwrap_err().0, INTERNAL);
    assert_eq!(set.load(ptr::null()).0, INTERNAL);
    assert_eq!(set.stats().health, 2);
    let other = Set::new();
    assert!(other.chat("count 1").is_ok(), "another engine does not care");
}

#[test]
fn ten_thousand_requests_leave_nothing_behind() {
    let set = Set::new();
    let script = lock(&set.stage.0).clone().unwrap();
    let before = resident_bytes();
    for _ in 0..10_000 {
        let (status, request) = set.start("count 1", ptr::null());
        assert_eq!(status, OK);
        // SAFETY: live handle, given up here.
        unsafe {
            assert_eq!(zonda_request_wait(request, -1), OK);
            zonda_request_free(request);
        }
    }
    script.stop();
    assert_eq!(script.ended.load(Ordering::Acquire), 10_000);
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "grew by {grown} bytes");
}

#[test]
fn ten_thousand_engines_leave_nothing_behind() {
    drop(Set::new());
    let before = resident_bytes();
    for _ in 0..10_000 {
        drop(Set::new());
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "grew by {grown} bytes");
}

/// What this process holds; 0 where the system does not say.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}
