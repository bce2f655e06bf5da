//! Requests in a poll loop.

use std::ptr;
use std::time::Duration;

use super::stage::*;
use crate::*;

/// Whether the descriptor becomes readable within `timeout_ms`.
fn is_readable(fd: i32, timeout_ms: i32) -> bool {
    let mut polled = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one live struct, as counted.
    let ready = unsafe { libc::poll(&raw mut polled, 1, timeout_ms) };
    assert!(ready >= 0 && polled.revents & !libc::POLLIN == 0);
    ready == 1
}

fn fd_of(request: *mut RequestHandle) -> i32 {
    // SAFETY: live handle.
    unsafe { zonda_request_fd(request) }
}

#[test]
fn descriptor_is_readable_exactly_when_next_would_not_wait() {
    let set = Set::new();
    for told in ["count 100", "umlaut", "tool", "fault", "count 0"] {
        let (_, request) = set.start(told, ptr::null());
        let fd = fd_of(request);
        assert!(fd >= 0 && fd_of(request) == fd);
        let mut events = Vec::new();
        loop {
            assert!(is_readable(fd, -1));
            match pull(request, 0) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(status) => panic!("readable, but next says {status}"),
            }
        }
        assert!(is_readable(fd, 0), "behind the last event, next does not wait");
        assert!(events.iter().enumerate().all(|(place, event)| event.seq == place as u64));
        let (_, plain) = set.start(told, ptr::null());
        let mut pulled = Vec::new();
        while let Some(event) = pull(plain, -1).unwrap() {
            pulled.push(event);
        }
        let timeless = |events: &[Pulled]| -> Vec<_> {
            events.iter().map(|event| (event.kind, event.text.clone(), event.status)).collect()
        };
        assert_eq!(timeless(&events), timeless(&pulled));
        // SAFETY: live handles, given up here.
        unsafe {
            assert_eq!(zonda_request_wait(request, 0), zonda_request_wait(plain, 0));
            zonda_request_free(request);
            zonda_request_free(plain);
        }
    }
}

#[test]
fn silence_is_not_readable_and_a_cancel_is() {
    let set = Set::new();
    let (_, request) = set.start("silent", ptr::null());
    let fd = fd_of(request);
    assert!(is_readable(fd, -1));
    assert_eq!(pull(request, 0).unwrap().unwrap().kind, EV_ACCEPTED);
    assert!(!is_readable(fd, 20));
    assert_eq!(pull(request, 0), Err(WOULD_BLOCK));
    // SAFETY: live handle, given up here.
    unsafe {
        assert_eq!(zonda_request_wait(request, 0), WOULD_BLOCK);
        assert_eq!(zonda_request_cancel(request), OK);
        assert!(is_readable(fd, -1));
        let last = pull(request, 0).unwrap().unwrap();
        assert_eq!((last.kind, last.seq, last.status), (EV_DONE, 1, CANCELLED));
        assert_eq!(pull(request, 0), Ok(None));
        zonda_request_free(request);
    }
}

#[test]
fn a_cancel_drops_what_waits() {
    let set = Set::new();
    let (_, request) = set.start("endless", ptr::null());
    let fd = fd_of(request);
    assert!(is_readable(fd, -1));
    assert_eq!(pull(request, 0).unwrap().unwrap().seq, 0);
    assert!(is_readable(fd, -1));
    // SAFETY: live handle, given up here.
    unsafe {
        assert_eq!(zonda_request_cancel(request), OK);
        let last = pull(request, -1).unwrap().unwrap();
        assert_eq!((last.kind, last.seq), (EV_DONE, 1));
        zonda_request_free(request);
    }
}

#[test]
fn events_that_were_pulled_before_are_not_told_again() {
    let set = Set::new();
    let (_, request) = set.start("count 3", ptr::null());
    for seq in 0..2 {
        assert_eq!(pull(request, -1).unwrap().unwrap().seq, seq);
    }
    let fd = fd_of(request);
    assert!(is_readable(fd, -1));
    assert_eq!(pull(request, 0).unwrap().unwrap().text, "w1 ");
    // SAFETY: live handle, given up here.
    unsafe {
        assert_eq!(zonda_request_wait(request, -1), OK, "what nobody took is passed over");
        assert_eq!(pull(request, 0), Ok(None));
        zonda_request_free(request);
    }
    let (_, ended) = set.start("count 1", ptr::null());
    // SAFETY: as above.
    unsafe {
        assert_eq!(zonda_request_wait(ended, -1), OK);
        assert!(is_readable(fd_of(ended), 0));
        assert_eq!(pull(ended, 0), Ok(None));
        zonda_request_free(ended);
    }
}

#[test]
fn a_reader_that_never_comes_holds_nothing_up() {
    let set = Set::new();
    let (_, request) = set.start("endless", ptr::null());
    assert!(is_readable(fd_of(request), -1));
    std::thread::park_timeout(Duration::from_millis(20));
    assert!(set.chat("count 5").is_ok());
    // SAFETY: live handle, given up here.
    unsafe { zonda_request_free(request) };
}

unsafe extern "C" fn deaf(_: *const EventView, _: *mut std::ffi::c_void) -> i32 {
    0
}

#[test]
fn there_is_none_where_it_would_not_help() {
    let set = Set::new();
    // SAFETY: NULL is refused.
    assert_eq!(unsafe { zonda_request_fd(ptr::null()) }, -1);
    let params = calling(deaf, ptr::null_mut());
    let (_, pushed) = set.start("count 1", &raw const params);
    assert_eq!(fd_of(pushed), -1);
    let limit = request::PUSHED_REQUESTS_MAX;
    let requests: Vec<_> = (0..=limit).map(|_| set.start("silent", ptr::null()).1).collect();
    // SAFETY: live handle, given up here.
    unsafe {
        assert_eq!(zonda_request_wait(pushed, -1), OK);
        zonda_request_free(pushed);
    }
    assert!(requests[..limit].iter().all(|request| fd_of(*request) >= 0));
    let last = requests[limit];
    assert_eq!(fd_of(last), -1);
    assert_eq!(pull(last, -1).unwrap().unwrap().kind, EV_ACCEPTED, "it can be pulled all the same");
    // SAFETY: live handle, given up here.
    unsafe { zonda_request_free(requests[0]) };
    assert!(fd_of(last) >= 0, "a thread is free again");
    for request in requests.into_iter().skip(1) {
        // SAFETY: live handle, given up here.
        unsafe { zonda_request_free(request) };
    }
}

#[test]
fn engine_free_ends_polled_requests() {
    let mut set = Set::new();
    let (_, request) = set.start("endless", ptr::null());
    let fd = fd_of(request);
    // SAFETY: live handles, each given up once.
    unsafe {
        zonda_engine_free(set.engine);
        set.engine = ptr::null_mut();
        assert!(is_readable(fd, 0));
        assert_eq!(pull(request, 0).unwrap().unwrap().finish_reason, "cancelled");
        zonda_request_free(request);
    }
}
