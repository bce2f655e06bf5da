//! Functions of the host, called by a scripted model.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use serde_json::{Value, json};

use super::stage::*;
use crate::tools::{CALLS_OPEN_MAX, TOOL_BYTES_MAX};
use crate::*;

const PUMP: &CStr = c"{\"type\":\"function\",\"function\":{\"name\":\"pump\"}}";

/// A host that hands every call to its test and returns what it was told. It outlives the engine:
/// a callback may still be on its way out when its call is answered.
struct Desk {
    calls: Sender<(String, String, u64)>,
    returns: Status,
}

fn desk(returns: Status) -> (Box<Desk>, Receiver<(String, String, u64)>) {
    let (calls, heard) = channel();
    (Box::new(Desk { calls, returns }), heard)
}

fn user_data<T>(of: &T) -> *mut c_void {
    ptr::from_ref(of).cast_mut().cast()
}

unsafe extern "C" fn take(name: Str, arguments: Str, call: u64, user_data: *mut c_void) -> Status {
    // SAFETY: the tests hand a Desk that outlives the registration.
    let desk = unsafe { &*user_data.cast::<Desk>() };
    let _told = desk.calls.send((text_of(name), text_of(arguments), call));
    desk.returns
}

fn register(set: &Set, json: &CStr, function: ToolFn, user_data: *mut c_void) -> Status {
    // SAFETY: live handle, NUL-terminated JSON, no error slot.
    unsafe { zonda_tool_register(set.engine, json.as_ptr(), function, user_data, ptr::null_mut()) }
}

fn unregister(set: &Set, name: &CStr) -> Status {
    // SAFETY: live handle, NUL-terminated name.
    unsafe { zonda_tool_unregister(set.engine, name.as_ptr()) }
}

fn respond(engine: *mut EngineHandle, call: u64, json: &str, is_error: bool) -> Status {
    let first = json.as_ptr().cast::<c_char>();
    // SAFETY: live handle, live bytes, no error slot.
    unsafe { zonda_tool_respond(engine, call, first, json.len(), is_error, ptr::null_mut()) }
}

/// What a request ended with and the text that it said; frees the request.
fn said(request: *mut RequestHandle) -> (Status, String) {
    let mut text = String::new();
    while let Ok(Some(event)) = pull(request, -1) {
        text += &event.text;
    }
    // SAFETY: live handle, given up here.
    unsafe {
        let end = zonda_request_wait(request, 0);
        zonda_request_free(request);
        (end, text)
    }
}

#[test]
fn a_call_is_answered_later_and_once() {
    let (desk, heard) = desk(OK);
    let set = Set::new();
    assert_eq!(register(&set, PUMP, Some(take), user_data(&*desk)), OK);
    let (_, request) = set.start("call pump {\"speed\":3}", ptr::null());
    let (name, arguments, call) = heard.recv().unwrap();
    assert_eq!((name.as_str(), arguments.as_str()), ("pump", "{\"speed\":3}"));
    assert_eq!(respond(set.engine, call + 1, "1", false), NOT_FOUND);
    assert_eq!(respond(set.engine, 0, "1", false), NOT_FOUND);
    assert_eq!(respond(set.engine, call, "{", false), INVALID_ARGUMENT);
    let long = format!("\"{}\"", "x".repeat(TOOL_BYTES_MAX));
    assert_eq!(respond(set.engine, call, &long, false), INVALID_ARGUMENT);
    assert_eq!(respond(set.engine, call, "{\"on\":true}", false), OK, "still open");
    assert_eq!(respond(set.engine, call, "{\"on\":true}", false), INVALID_STATE);
    assert_eq!(said(request), (OK, "{\"on\":true}".into()));
    assert_eq!(respond(set.engine, call, "1", false), INVALID_STATE);
}

#[test]
fn errors_and_refusals_reach_the_model() {
    let ((refusing, refused), (desk, heard)) = (desk(DEVICE), desk(OK));
    let set = Set::new();
    assert_eq!(register(&set, PUMP, Some(take), user_data(&*refusing)), OK);
    let (_, request) = set.start("call pump", ptr::null());
    refused.recv().unwrap();
    let told = "error: the program refused the call: ZONDA_E_DEVICE";
    assert_eq!(said(request), (OK, told.into()));
    assert_eq!(unregister(&set, c"pump"), OK);

    assert_eq!(register(&set, PUMP, Some(take), user_data(&*desk)), OK);
    for (json, told) in [("\"dry\"", "error: dry"), ("{\"code\":7}", "error: {\"code\":7}")] {
        let (_, request) = set.start("call pump", ptr::null());
        let (_, _, call) = heard.recv().unwrap();
        assert_eq!(respond(set.engine, call, json, true), OK);
        assert_eq!(said(request), (OK, told.into()));
    }
}

#[test]
fn a_call_that_nobody_answers_ends_in_time() {
    let (desk, heard) = desk(OK);
    let set = Set::new();
    assert_eq!(register(&set, PUMP, Some(take), user_data(&*desk)), OK);
    // On a busy machine a short time may pass before the callback begins.
    let call = [50, 500, 5000, 50_000].into_iter().find_map(|timeout_ms| {
        let params = RequestParams { timeout_ms, ..layout::zeroed() };
        let (_, request) = set.start("call pump", &raw const params);
        assert_eq!(said(request).0, TIMEOUT);
        heard.try_recv().ok()
    });
    let (_, _, call) = call.expect("a call in time");
    assert_eq!(respond(set.engine, call, "1", false), INVALID_STATE);
}

#[test]
fn a_cancelled_request_gives_its_call_up() {
    let (desk, heard) = desk(OK);
    let set = Set::new();
    assert_eq!(register(&set, PUMP, Some(take), user_data(&*desk)), OK);
    let (_, request) = set.start("call pump", ptr::null());
    let (_, _, call) = heard.recv().unwrap();
    // SAFETY: live handle.
    assert_eq!(unsafe { zonda_request_cancel(request) }, OK);
    assert_eq!(said(request).0, CANCELLED);
    assert_eq!(respond(set.engine, call, "1", false), INVALID_STATE);
}

#[test]
fn unregister_ends_open_calls_and_later_ones_find_nothing() {
    let (desk, heard) = desk(OK);
    let set = Set::new();
    assert_eq!(register(&set, PUMP, Some(take), user_data(&*desk)), OK);
    let (_, request) = set.start("call pump", ptr::null());
    let (_, _, call) = heard.recv().unwrap();
    assert_eq!(unregister(&set, c"pump"), OK);
    drop(desk);
    assert_eq!(said(request), (OK, "error: the function was withdrawn".into()));
    assert_eq!(respond(set.engine, call, "1", false), INVALID_STATE);
    assert_eq!(unregister(&set, c"pump"), NOT_FOUND);
    let (_, request) = set.start("call pump", ptr::null());
    assert_eq!(said(request), (OK, "no such function".into()));
}

/// A host that stays in its callback until it is let go.
struct Stayer {
    entered: Sender<()>,
    go: Mutex<Receiver<()>>,
}

unsafe extern "C" fn stay(_: Str, _: Str, _: u64, user_data: *mut c_void) -> Status {
    // SAFETY: the tests hand a Stayer that outlives the registration.
    let stayer = unsafe { &*user_data.cast::<Stayer>() };
    let _told = stayer.entered.send(());
    let _woken = lock(&stayer.go).recv();
    OK
}

#[test]
fn a_sleeping_callback_delays_unregister_and_no_request() {
    let ((entered, has_entered), (let_go, go)) = (channel(), channel());
    let stayer = Stayer { entered, go: Mutex::new(go) };
    let set = Set::new();
    assert_eq!(register(&set, PUMP, Some(stay), user_data(&stayer)), OK);
    let (_, request) = set.start("call pump", ptr::null());
    has_entered.recv().unwrap();
    // SAFETY: live handle.
    assert_eq!(unsafe { zonda_request_cancel(request) }, OK);
    assert_eq!(said(request).0, CANCELLED, "the request ends while the callback sleeps");
    let engine = Shared(set.engine);
    let waiting = std::thread::spawn(move || engine.unregister(c"pump"));
    assert!(set.chat("count 1").is_ok());
    assert!(!waiting.is_finished(), "it waits for the callback");
    let_go.send(()).unwrap();
    assert_eq!(waiting.join().unwrap(), OK);
}

/// A handle that another thread uses too, as the header allows.
struct Shared(*mut EngineHandle);

// SAFETY: any thread may call the functions of an engine.
unsafe impl Send for Shared {}

impl Shared {
    fn unregister(self, name: &CStr) -> Status {
        // SAFETY: live handle, NUL-terminated name.
        unsafe { zonda_tool_unregister(self.0, name.as_ptr()) }
    }
}

/// A host that does everything inside its callback.
struct Busy {
    engine: *mut EngineHandle,
    model: *mut ModelHandle,
    statuses: Mutex<Vec<Status>>,
    started: Mutex<*mut RequestHandle>,
}

unsafe extern "C" fn busy(_: Str, _: Str, call: u64, user_data: *mut c_void) -> Status {
    // SAFETY: the test hands a Busy that outlives the registration.
    let host = unsafe { &*user_data.cast::<Busy>() };
    let mut stats = layout::zeroed::<Stats>();
    let (mut started, none) = (ptr::null_mut(), ptr::null_mut());
    let told = body("count 1");
    let other = c"{\"function\":{\"name\":\"other\"}}";
    // SAFETY: live handles, live bytes.
    let statuses = unsafe {
        let json = told.as_ptr().cast();
        [
            zonda_engine_stats(host.engine, &raw mut stats),
            zonda_chat_start(host.model, json, told.len(), ptr::null(), &raw mut started, none),
            zonda_tool_register(host.engine, other.as_ptr(), Some(busy), ptr::null_mut(), none),
            zonda_tool_unregister(host.engine, c"other".as_ptr()),
            chat(host.model, "count 1").unwrap_err().0,
            respond(host.engine, call, "\"done\"", false),
        ]
    };
    lock(&host.statuses).extend(statuses);
    *lock(&host.started) = started;
    INTERNAL
}

#[test]
fn callbacks_run_under_no_lock_and_waiting_calls_are_refused_there() {
    let set = Set::new();
    let host = Busy {
        engine: set.engine,
        model: set.model,
        statuses: Mutex::default(),
        started: Mutex::new(ptr::null_mut()),
    };
    assert_eq!(register(&set, PUMP, Some(busy), user_data(&host)), OK);
    let (_, request) = set.start("call pump", ptr::null());
    // The answer counts, not the status of a callback that gave one.
    assert_eq!(said(request), (OK, "\"done\"".into()));
    assert_eq!(unregister(&set, c"pump"), OK);
    assert_eq!(*lock(&host.statuses), [OK, OK, OK, INVALID_STATE, INVALID_STATE, OK]);
    // SAFETY: live handle, given up here.
    unsafe { zonda_request_free(*lock(&host.started)) };
}

#[test]
fn engine_free_ends_open_calls() {
    let (desk, heard) = desk(OK);
    let mut set = Set::new();
    assert_eq!(register(&set, PUMP, Some(take), user_data(&*desk)), OK);
    let (_, request) = set.start("call pump", ptr::null());
    heard.recv().unwrap();
    // SAFETY: live handle, given up here.
    unsafe { zonda_engine_free(set.engine) };
    set.engine = ptr::null_mut();
    drop(desk);
    assert_eq!(said(request).0, CANCELLED);
}

#[test]
fn shutdown_ends_open_calls_and_takes_no_function() {
    let (desk, heard) = desk(OK);
    let set = Set::new();
    assert_eq!(register(&set, PUMP, Some(take), user_data(&*desk)), OK);
    let (_, request) = set.start("call pump", ptr::null());
    let (_, _, call) = heard.recv().unwrap();
    // SAFETY: live handle.
    assert_eq!(unsafe { zonda_engine_shutdown(set.engine, 0, ptr::null_mut()) }, OK);
    assert_eq!(said(request).0, CANCELLED);
    assert_eq!(respond(set.engine, call, "1", false), INVALID_STATE);
    let other = c"{\"function\":{\"name\":\"other\"}}";
    assert_eq!(register(&set, other, Some(take), user_data(&*desk)), INVALID_STATE);
}

#[test]
fn open_calls_are_bounded() {
    let (desk, heard) = desk(OK);
    let set = Set::new();
    assert_eq!(register(&set, PUMP, Some(take), user_data(&*desk)), OK);
    let started: Vec<_> =
        (0..CALLS_OPEN_MAX).map(|_| set.start("call pump", ptr::null()).1).collect();
    let open: Vec<u64> = started.iter().map(|_| heard.recv().unwrap().2).collect();
    let (_, request) = set.start("call pump", ptr::null());
    assert_eq!(said(request), (OK, "error: 64 calls are open; try again later".into()));
    for call in open {
        assert_eq!(respond(set.engine, call, "1", false), OK);
    }
    for request in started {
        assert_eq!(said(request), (OK, "1".into()));
    }
    let (_, request) = set.start("call pump", ptr::null());
    assert_eq!(respond(set.engine, heard.recv().unwrap().2, "2", false), OK);
    assert_eq!(said(request), (OK, "2".into()));
}

#[test]
fn functions_are_checked_and_bounded() {
    let set = Set::new();
    let tool = |function: Value| {
        CString::new(json!({"type": "function", "function": function}).to_string()).unwrap()
    };
    let long = "x".repeat(65);
    let refused = [
        c"{".into(),
        c"[]".into(),
        c"{\"type\":\"retrieval\",\"function\":{\"name\":\"a\"}}".into(),
        tool(json!({})),
        tool(json!({"name": ""})),
        tool(json!({"name": "two words"})),
        tool(json!({"name": long})),
        tool(json!({"name": "a", "parameters": 7})),
        tool(json!({"name": "a", "description": "x".repeat(TOOL_BYTES_MAX)})),
    ];
    let none = ptr::null_mut();
    for json in &refused {
        let status = register(&set, json, Some(take), none);
        assert!(status == INVALID_ARGUMENT || status == UNSUPPORTED, "{json:?}: {status}");
    }
    assert_eq!(register(&set, PUMP, None, none), INVALID_ARGUMENT);
    assert_eq!(register(&set, PUMP, Some(take), none), OK);
    assert_eq!(register(&set, PUMP, Some(take), none), INVALID_STATE);
    for number in 1..chat_json::TOOLS_MAX {
        let json = tool(json!({"name": format!("tool-{number}")}));
        assert_eq!(register(&set, &json, Some(take), none), OK, "{number}");
    }
    let json = tool(json!({"name": "more"}));
    assert_eq!(register(&set, &json, Some(take), none), OVERLOADED);
    assert_eq!(unregister(&set, c"pump"), OK);
    assert_eq!(register(&set, &json, Some(take), none), OK);
}
