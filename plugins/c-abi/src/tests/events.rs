//! Events, pulled and pushed.

use std::ffi::c_void;
use std::ptr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex};

use super::stage::*;
use crate::*;

fn collect(request: *mut RequestHandle) -> Vec<Pulled> {
    std::iter::from_fn(|| pull(request, -1).unwrap()).collect()
}

#[test]
fn pulled_events_are_whole_and_numbered() {
    let set = Set::new();
    let (_, request) = set.start("count 2", ptr::null());
    let events = collect(request);
    let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EV_ACCEPTED, EV_DELTA, EV_DELTA, EV_USAGE, EV_DONE]);
    assert!(events.iter().enumerate().all(|(place, event)| event.seq == place as u64));
    // SAFETY: live handle, given up here.
    let id = unsafe {
        assert_eq!(zonda_request_wait(request, 0), OK);
        let id = text_of(zonda_request_id(request));
        zonda_request_free(request);
        id
    };
    let accepted: serde_json::Value = serde_json::from_str(&events[0].json).unwrap();
    assert_eq!((&accepted["id"], &accepted["model"]), (&id.into(), &"script".into()));
    assert_eq!(events[1].text, "w0 ");
    assert_eq!((events[1].tokens, events[3].tokens), (1, 2));
    let usage: serde_json::Value = serde_json::from_str(&events[3].json).unwrap();
    assert_eq!(usage["completion_tokens"].as_u64(), Some(2));
    let done: serde_json::Value = serde_json::from_str(&events[4].json).unwrap();
    assert_eq!(done["choices"][0]["message"]["content"], "w0 w1 ");
    assert_eq!(events[4].finish_reason, "stop");
}

#[test]
fn tool_call_and_fault_have_their_events() {
    let set = Set::new();
    let (_, request) = set.start("tool", ptr::null());
    let events = collect(request);
    let call: serde_json::Value = serde_json::from_str(&events[1].json).unwrap();
    assert_eq!(events[1].kind, EV_TOOL_CALL);
    assert_eq!(call["function"]["arguments"], r#"{"city": "Mendoza"}"#);
    assert_eq!(events[3].finish_reason, "tool_calls");
    // SAFETY: live handle, given up here.
    unsafe { zonda_request_free(request) };

    let (_, request) = set.start("fault", ptr::null());
    let last = collect(request).pop().unwrap();
    assert_eq!((last.kind, last.status), (EV_ERROR, INTERNAL));
    assert_eq!(last.finish_reason, "error");
    // SAFETY: live handle, given up here.
    unsafe {
        assert_eq!(zonda_request_wait(request, 0), INTERNAL);
        zonda_request_free(request);
    }
}

#[test]
fn next_and_wait_say_when_nothing_came_yet() {
    let set = Set::new();
    let (_, request) = set.start("silent", ptr::null());
    assert_eq!(pull(request, -1).unwrap().unwrap().kind, EV_ACCEPTED);
    assert_eq!(pull(request, 0), Err(WOULD_BLOCK));
    // SAFETY: live handle, given up here.
    unsafe {
        assert_eq!(zonda_request_wait(request, 0), WOULD_BLOCK);
        assert_eq!(zonda_request_cancel(request), OK);
        assert_eq!(zonda_request_cancel(request), OK);
    }
    let rest = collect(request);
    assert_eq!(rest.len(), 1, "only the end follows a cancel: {rest:?}");
    assert_eq!(rest[0].seq, 1);
    assert_eq!(rest.last().unwrap().status, CANCELLED);
    assert_eq!(rest.last().unwrap().finish_reason, "cancelled");
    assert_eq!(pull(request, -1), Ok(None));
    // SAFETY: as above.
    unsafe {
        assert_eq!(zonda_request_wait(request, -1), CANCELLED);
        zonda_request_free(request);
    }
}

/// A host that writes down what it hears and answers as it was told.
#[derive(Default)]
struct Host {
    heard: Mutex<Vec<Pulled>>,
    /// The event, counted from 1, that it does not want to go on after; 0 for never.
    stop_at: usize,
}

unsafe extern "C" fn listen(event: *const EventView, user_data: *mut c_void) -> i32 {
    // SAFETY: the tests hand a Host that outlives the request, and the event lives now.
    let (host, event) = unsafe { (&*user_data.cast::<Host>(), &*event) };
    let mut heard = lock(&host.heard);
    heard.push(Pulled::of(event));
    i32::from(heard.len() == host.stop_at)
}

fn user_data<T>(of: &T) -> *mut c_void {
    ptr::from_ref(of).cast_mut().cast()
}

#[test]
fn pushed_events_are_those_that_are_pulled() {
    let set = Set::new();
    let host = Host::default();
    let params = calling(listen, user_data(&host));
    for told in ["count 20", "umlaut", "tool"] {
        lock(&host.heard).clear();
        let (status, request) = set.start(told, &raw const params);
        assert_eq!(status, OK);
        // SAFETY: live handle, given up here.
        unsafe {
            assert_eq!(zonda_request_wait(request, -1), OK);
            assert_eq!(pull(request, 0), Err(INVALID_STATE));
            zonda_request_free(request);
        }
        let (_, request) = set.start(told, ptr::null());
        let timeless = |events: Vec<Pulled>| -> Vec<_> {
            events.into_iter().map(|event| (event.kind, event.seq, event.text)).collect()
        };
        assert_eq!(timeless(lock(&host.heard).clone()), timeless(collect(request)));
        // SAFETY: live handle, given up here.
        unsafe { zonda_request_free(request) };
    }
}

#[test]
fn callback_that_says_no_is_not_called_again() {
    let set = Set::new();
    let host = Host { stop_at: 3, ..Host::default() };
    let params = calling(listen, user_data(&host));
    let (_, request) = set.start("endless", &raw const params);
    // SAFETY: live handle, given up here.
    unsafe {
        assert_eq!(zonda_request_wait(request, -1), CANCELLED);
        zonda_request_free(request);
    }
    assert_eq!(lock(&host.heard).len(), 3);
}

#[test]
fn free_cancels_and_waits() {
    let set = Set::new();
    let host = Host::default();
    let params = calling(listen, user_data(&host));
    let (_, request) = set.start("endless", &raw const params);
    // SAFETY: live handle, given up here.
    unsafe { zonda_request_free(request) };
    let heard = lock(&host.heard).len();
    assert_eq!(lock(&host.heard).last().map(|event| event.kind), Some(EV_DONE));
    assert_eq!(lock(&host.heard).len(), heard);
}

/// A host that waits inside its callback until it is let go.
struct Sleeper {
    entered: Sender<()>,
    go: Mutex<bool>,
    gone: Condvar,
}

impl Sleeper {
    fn new() -> (Self, Receiver<()>) {
        let (entered, has_entered) = channel();
        (Self { entered, go: Mutex::new(false), gone: Condvar::new() }, has_entered)
    }

    fn wake(&self) {
        *lock(&self.go) = true;
        self.gone.notify_all();
    }
}

unsafe extern "C" fn sleep(_event: *const EventView, user_data: *mut c_void) -> i32 {
    // SAFETY: the tests hand a Sleeper that outlives the request.
    let sleeper = unsafe { &*user_data.cast::<Sleeper>() };
    let _told = sleeper.entered.send(());
    let go = lock(&sleeper.go);
    drop(sleeper.gone.wait_while(go, |go| !*go).unwrap());
    0
}

#[test]
fn sleeping_callback_delays_its_own_request_only() {
    let set = Set::new();
    let (sleeper, entered) = Sleeper::new();
    let params = calling(sleep, user_data(&sleeper));
    let (_, request) = set.start("count 50", &raw const params);
    entered.recv().unwrap();
    assert!(set.chat("count 5").is_ok(), "another request is answered meanwhile");
    // SAFETY: live handle, given up here.
    unsafe {
        assert_eq!(zonda_request_wait(request, 1), WOULD_BLOCK);
        sleeper.wake();
        assert_eq!(zonda_request_wait(request, -1), OK);
        zonda_request_free(request);
    }
}

#[test]
fn pushed_requests_are_bounded() {
    let set = Set::new();
    let (sleeper, _entered) = Sleeper::new();
    let params = calling(sleep, user_data(&sleeper));
    let limit = request::PUSHED_REQUESTS_MAX;
    let started: Vec<_> = (0..=limit).map(|_| set.start("silent", &raw const params)).collect();
    assert!(started[..limit].iter().all(|(status, _)| *status == OK));
    assert_eq!(started[limit], (OVERLOADED, ptr::null_mut()));
    assert!(set.chat("count 1").is_ok(), "waiting and pulling need no thread of the library");
    sleeper.wake();
    for (_, request) in started {
        // SAFETY: live or NULL, given up here.
        unsafe { zonda_request_free(request) };
    }
}

/// A host that calls what must not be called in a callback.
struct Rebel {
    engine: *mut EngineHandle,
    model: *mut ModelHandle,
    request: Mutex<Option<*mut RequestHandle>>,
    statuses: Mutex<Vec<Status>>,
}

unsafe extern "C" fn rebel(event: *const EventView, user_data: *mut c_void) -> i32 {
    // SAFETY: the test hands a Rebel that outlives the request, and the event lives now.
    let (rebel, event) = unsafe { (&*user_data.cast::<Rebel>(), &*event) };
    if event.kind != EV_DELTA {
        return 0;
    }
    let request = lock(&rebel.request).unwrap_or(ptr::null_mut());
    let mut started = ptr::null_mut();
    let body = body("count 1");
    // SAFETY: all handles are live: refusing these calls is what is tested.
    let statuses = unsafe {
        zonda_request_free(request);
        zonda_model_free(rebel.model);
        zonda_engine_free(rebel.engine);
        let (json, len) = (body.as_ptr().cast(), body.len());
        let none = ptr::null_mut();
        [
            zonda_request_wait(request, -1),
            zonda_engine_shutdown(rebel.engine, 0, none),
            chat(rebel.model, "count 1").unwrap_err().0,
            zonda_chat_start(rebel.model, json, len, ptr::null(), &raw mut started, none),
            zonda_request_cancel(started),
        ]
    };
    // The request started here is given up behind the callback, by the test.
    *lock(&rebel.request) = Some(started);
    lock(&rebel.statuses).extend(statuses);
    0
}

#[test]
fn waiting_calls_are_refused_in_a_callback() {
    let set = Set::new();
    let rebel_host = Rebel {
        engine: set.engine,
        model: set.model,
        request: Mutex::new(None),
        statuses: Mutex::default(),
    };
    let (sleeper, entered) = Sleeper::new();
    // A request that is known before the rebellion: it sleeps in its own callback.
    let params = calling(sleep, user_data(&sleeper));
    let (_, known) = set.start("count 1", &raw const params);
    entered.recv().unwrap();
    *lock(&rebel_host.request) = Some(known);
    let params = calling(rebel, user_data(&rebel_host));
    let (_, request) = set.start("count 1", &raw const params);
    // SAFETY: live handles, each given up once.
    unsafe {
        assert_eq!(zonda_request_wait(request, -1), OK);
        sleeper.wake();
        for request in [request, known, lock(&rebel_host.request).unwrap()] {
            zonda_request_free(request);
        }
    }
    let refused = [INVALID_STATE; 3];
    assert_eq!(*lock(&rebel_host.statuses), [&refused[..], &[OK, OK]].concat());
    let log = lock(&set.log.0).join("\n");
    for call in ["zonda_request_free", "zonda_model_free", "zonda_engine_free"] {
        assert!(log.contains(call), "{log}");
    }
}

#[test]
fn engine_free_ends_pushed_requests() {
    let mut set = Set::new();
    let host = Host::default();
    let params = calling(listen, user_data(&host));
    let (_, request) = set.start("endless", &raw const params);
    // SAFETY: live handles, each given up once.
    unsafe {
        zonda_engine_free(set.engine);
        set.engine = ptr::null_mut();
        assert_eq!(zonda_request_wait(request, 0), CANCELLED);
        zonda_request_free(request);
    }
}
