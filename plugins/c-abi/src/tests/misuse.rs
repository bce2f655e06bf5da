//! What a C program can get wrong.

use std::ffi::{CStr, c_char};
use std::ptr;

use super::stage::*;
use crate::*;

#[test]
fn null_is_refused_or_welcome_but_never_followed() {
    let none = ptr::null_mut();
    let (mut size, mut event, mut stats) = (0usize, ptr::null(), layout::zeroed::<Stats>());
    let mut slot = ptr::null_mut();
    // SAFETY: every pointer is NULL or live: that NULL is safe is what is tested.
    let statuses = unsafe {
        zonda_engine_free(ptr::null_mut());
        zonda_model_free(ptr::null_mut());
        zonda_request_free(ptr::null_mut());
        zonda_error_free(ptr::null_mut());
        zonda_buffer_free(ptr::null_mut());
        assert_eq!(zonda_error_code(ptr::null()), OK);
        for text in [
            zonda_error_message(ptr::null()),
            zonda_error_json(ptr::null()),
            zonda_buffer_data(ptr::null()),
            zonda_request_id(ptr::null()),
        ] {
            assert_eq!(text_of(text), "");
        }
        let (no_model, no_text) = (ptr::null_mut::<ModelHandle>(), ptr::null::<c_char>());
        [
            zonda_engine_create(ptr::null(), ptr::null_mut(), none),
            zonda_engine_params_init(ptr::null_mut(), 72),
            zonda_model_params_init(ptr::null_mut(), 48),
            zonda_request_params_init(ptr::null_mut(), 48),
            zonda_engine_shutdown(ptr::null_mut(), 0, none),
            zonda_engine_stats(ptr::null(), &raw mut stats),
            zonda_config_check(no_text, ptr::null_mut(), none),
            zonda_model_load(ptr::null_mut(), c"x".as_ptr(), ptr::null(), &raw mut slot, none),
            zonda_model_info_json(no_model, ptr::null_mut(), none),
            zonda_tokenize(no_model, no_text, 0, 0, ptr::null_mut(), 0, &raw mut size, none),
            zonda_detokenize(no_model, ptr::null(), 0, ptr::null_mut(), 0, &raw mut size, none),
            zonda_count_tokens_json(no_model, no_text, 0, &raw mut size, none),
            zonda_chat(no_model, no_text, 0, ptr::null(), ptr::null_mut(), none),
            zonda_chat_start(no_model, no_text, 0, ptr::null(), ptr::null_mut(), none),
            zonda_request_next(ptr::null_mut(), 0, &raw mut event, none),
            zonda_request_cancel(ptr::null_mut()),
            zonda_request_wait(ptr::null_mut(), 0),
            zonda_device_count(ptr::null_mut()),
            zonda_tool_register(ptr::null_mut(), no_text, None, ptr::null_mut(), none),
            zonda_tool_respond(ptr::null_mut(), 1, no_text, 0, false, none),
            zonda_tool_unregister(ptr::null_mut(), no_text),
            zonda_engine_metrics_text(ptr::null(), ptr::null_mut(), none),
            zonda_model_list_json(ptr::null_mut(), ptr::null_mut(), none),
            zonda_model_verify(ptr::null_mut(), no_text, ptr::null_mut(), none),
            zonda_embed(no_model, no_text, 0, ptr::null_mut(), none),
            zonda_session_create(no_model, ptr::null_mut(), none),
            zonda_session_reset(ptr::null_mut(), none),
        ]
    };
    assert_eq!(statuses, [INVALID_ARGUMENT; 27]);
}

/// The status and the sentence of a chat with these bytes.
fn refused(set: &Set, bytes: &[u8], params: *const RequestParams) -> (Status, String) {
    let (mut answer, mut error) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: live handle, live bytes, live slots; the error is freed once.
    unsafe {
        let json = bytes.as_ptr().cast::<c_char>();
        let (out, why) = (&raw mut answer, &raw mut error);
        let status = zonda_chat(set.model, json, bytes.len(), params, out, why);
        assert!(answer.is_null());
        let sentence = text_of(zonda_error_message(error));
        let json: serde_json::Value =
            serde_json::from_str(&text_of(zonda_error_json(error))).unwrap();
        assert_eq!(json["error"]["message"].as_str(), Some(sentence.as_str()));
        zonda_error_free(error);
        (status, sentence)
    }
}

#[test]
fn bad_json_is_refused_with_a_sentence() {
    let set = Set::new();
    let table: &[&[u8]] = &[
        b"",
        b"{",
        b"null",
        b"{\"messages\": []}",
        b"{\"messages\": 7}",
        b"\xff\xfe",
        b"{\"messages\": [{\"role\": \"user\", \"content\": \"\xc3\"}]}",
        b"{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"temperature\": \"hot\"}",
    ];
    for bytes in table {
        let (status, sentence) = refused(&set, bytes, ptr::null());
        let shown = String::from_utf8_lossy(bytes);
        assert_eq!(status, INVALID_ARGUMENT, "{shown}: {sentence}");
        assert!(!sentence.is_empty(), "{shown}");
    }
    assert!(set.chat("count 1").is_ok());
}

unsafe extern "C" fn deaf(_: *const EventView, _: *mut std::ffi::c_void) -> i32 {
    0
}

#[test]
fn fields_without_effect_are_refused() {
    let set = Set::new();
    let body = body("count 1");
    let plain: RequestParams = layout::zeroed();
    let table = [
        (RequestParams { max_buffered_events: 1, ..plain }, UNSUPPORTED),
        (RequestParams { idempotency_key: c"key".as_ptr(), ..plain }, UNSUPPORTED),
        (RequestParams { event_fn: Some(deaf), ..plain }, INVALID_ARGUMENT),
        (RequestParams { struct_size: 47, ..plain }, INVALID_ARGUMENT),
    ];
    for (params, expected) in table {
        assert_eq!(refused(&set, body.as_bytes(), &raw const params).0, expected, "{params:?}");
    }
    let plain: ModelParams = layout::zeroed();
    for params in [
        ModelParams { kv_dtype: 1, ..plain },
        ModelParams { memory_budget_bytes: 1, ..plain },
        ModelParams { flags: 1, ..plain },
    ] {
        assert_eq!(set.load(&raw const params), (UNSUPPORTED, ptr::null_mut()), "{params:?}");
    }
}

/// The status of an engine made with these parameters.
fn create(params: &EngineParams) -> Status {
    let mut engine = ptr::null_mut();
    // SAFETY: live struct, live slot; freed once.
    unsafe {
        let status = zonda_engine_create(params, &raw mut engine, ptr::null_mut());
        assert_eq!(status == OK, !engine.is_null());
        zonda_engine_free(engine);
        status
    }
}

#[test]
fn engine_parameters_are_checked() {
    let mut plain: EngineParams = layout::zeroed();
    // SAFETY: live struct of this size.
    unsafe { assert_eq!(zonda_engine_params_init(&raw mut plain, size_of_val(&plain)), OK) };
    assert_eq!((plain.abi_version, plain.log_level), (ABI_VERSION, 2));
    plain.config_path = c"/dev/null".as_ptr();
    let table = [
        (plain, OK),
        (EngineParams { device: c"cpu".as_ptr(), ..plain }, OK),
        (EngineParams { abi_version: 2, ..plain }, ABI_MISMATCH),
        (EngineParams { flags: 1, ..plain }, UNSUPPORTED),
        (EngineParams { config_toml: c"".as_ptr(), ..plain }, UNSUPPORTED),
        (EngineParams { struct_size: 8, ..plain }, INVALID_ARGUMENT),
        (EngineParams { device: c"toaster".as_ptr(), ..plain }, INVALID_ARGUMENT),
        (EngineParams { device: c"\xff".as_ptr(), ..plain }, INVALID_ARGUMENT),
        (EngineParams { config_path: c"/no/such.toml".as_ptr(), ..plain }, INVALID_ARGUMENT),
        (EngineParams { max_queue: u32::MAX, ..plain }, INVALID_ARGUMENT),
    ];
    for (params, expected) in table {
        assert_eq!(create(&params), expected, "{params:?}");
    }
}

#[test]
fn missing_model_is_not_found() {
    let set = Set::new();
    let mut model = ptr::null_mut();
    let table: [(&CStr, Status); 2] =
        [(c"/no/such/model.gguf", NOT_FOUND), (c"\xff", INVALID_ARGUMENT)];
    for (path, expected) in table {
        let mut error = ptr::null_mut();
        // SAFETY: live handle, NUL-terminated path, live slots.
        unsafe {
            let (out, why) = (&raw mut model, &raw mut error);
            let status = zonda_model_load(set.engine, path.as_ptr(), ptr::null(), out, why);
            assert_eq!((status, zonda_error_code(error)), (expected, expected));
            zonda_error_free(error);
        }
        assert!(model.is_null());
    }
}

#[test]
fn configuration_report_names_the_problem() {
    let mut report = ptr::null_mut();
    // SAFETY: NUL-terminated path, live slot; freed once.
    let told = unsafe {
        let path = c"/no/such.toml".as_ptr();
        assert_eq!(zonda_config_check(path, &raw mut report, ptr::null_mut()), OK);
        let told = text_of(zonda_buffer_data(report));
        zonda_buffer_free(report);
        told
    };
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["valid"], false);
    assert!(told["problem"].as_str().unwrap().contains("/no/such.toml"), "{told}");
}

#[test]
fn devices_fill_sized_structs() {
    let mut count = 0;
    let mut device: DeviceInfo = layout::zeroed();
    let mut short = DeviceInfo { struct_size: 4, ..device };
    // SAFETY: live slot, live structs.
    unsafe {
        assert_eq!(zonda_device_count(&raw mut count), OK);
        assert_eq!(zonda_device_get(0, &raw mut device), OK);
        assert_eq!(zonda_device_get(count, &raw mut device), NOT_FOUND);
        assert_eq!(zonda_device_get(0, &raw mut short), INVALID_ARGUMENT);
    }
    assert!(count >= 1);
    assert_ne!(device.id[0], 0);
}
