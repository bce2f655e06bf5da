//! Conversations.

use std::ffi::c_char;
use std::ptr;

use serde_json::{Value, json};

use super::stage::*;
use crate::session::{SESSION_BYTES_MAX, SESSIONS_MAX};
use crate::*;

fn create(model: *mut ModelHandle) -> (Status, *mut SessionHandle) {
    let mut session = ptr::null_mut();
    // SAFETY: live handle, live slot, no error slot.
    let status = unsafe { zonda_session_create(model, &raw mut session, ptr::null_mut()) };
    (status, session)
}

fn reset(session: *mut SessionHandle) -> Status {
    // SAFETY: live handle, no error slot.
    unsafe { zonda_session_reset(session, ptr::null_mut()) }
}

fn of(session: *mut SessionHandle) -> RequestParams {
    RequestParams { session, ..layout::zeroed() }
}

/// A whole answer in a session; the script tells how many messages it got.
fn ask(set: &Set, session: *mut SessionHandle, messages: &Value) -> Result<String, Status> {
    let body = json!({"messages": messages}).to_string();
    let (mut answer, params) = (ptr::null_mut(), of(session));
    // SAFETY: live handles, live bytes, live slots; the answer is freed once.
    unsafe {
        let json = body.as_ptr().cast::<c_char>();
        let (out, none) = (&raw mut answer, ptr::null_mut());
        let status = zonda_chat(set.model, json, body.len(), &raw const params, out, none);
        let said = text_of(zonda_buffer_data(answer));
        zonda_buffer_free(answer);
        if status != OK {
            return Err(status);
        }
        let completion: Value = serde_json::from_str(&said).unwrap();
        Ok(completion["choices"][0]["message"]["content"].as_str().unwrap().to_owned())
    }
}

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

#[test]
fn a_session_brings_what_was_said() {
    let set = Set::new();
    let (status, session) = create(set.model);
    assert_eq!(status, OK);
    assert_eq!(ask(&set, session, &user("recall")), Ok("user:recall".into()));
    assert_eq!(ask(&set, session, &user("count 2")), Ok("w0 w1 ".into()));
    let said = "user:recall|assistant:user:recall|user:count 2|assistant:w0 w1 |user:recall";
    assert_eq!(ask(&set, session, &user("recall")), Ok(said.into()));
    assert_eq!(reset(session), OK);
    assert_eq!(ask(&set, session, &user("recall")), Ok("user:recall".into()));
    // SAFETY: live handle, given up here.
    unsafe { zonda_session_free(session) };
}

#[test]
fn what_does_not_end_well_is_not_remembered() {
    let set = Set::new();
    let (_, session) = create(set.model);
    assert_eq!(ask(&set, session, &user("fault")), Err(INTERNAL));
    assert_eq!(ask(&set, session, &user("busy")), Err(OVERLOADED));
    assert_eq!(ask(&set, session, &json!(7)), Err(INVALID_ARGUMENT));
    let params = of(session);
    let (_, request) = set.start("endless", &raw const params);
    assert_eq!(ask(&set, session, &user("recall")), Err(INVALID_STATE));
    assert_eq!(reset(session), INVALID_STATE);
    // SAFETY: live handle, given up here.
    unsafe { zonda_request_free(request) };
    assert_eq!(ask(&set, session, &user("recall")), Ok("user:recall".into()));
    // SAFETY: live handle, given up here.
    unsafe { zonda_session_free(session) };
}

#[test]
fn streams_take_turns_too() {
    let set = Set::new();
    let (_, session) = create(set.model);
    let params = of(session);
    let (_, request) = set.start("tool", &raw const params);
    while pull(request, -1).unwrap().is_some() {}
    let result = json!([{"role": "tool", "tool_call_id": "abcdefghi", "content": "hot"},
        {"role": "user", "content": "recall"}]);
    let said = "user:tool|assistant:+1|tool:hot|user:recall";
    assert_eq!(ask(&set, session, &result), Ok(said.into()), "the request's handle still lives");
    // SAFETY: live handles, given up here.
    unsafe {
        zonda_request_free(request);
        zonda_session_free(session);
    }
}

#[test]
fn an_answer_that_the_caller_began_is_remembered_once() {
    let set = Set::new();
    let (_, session) = create(set.model);
    let begun = json!([{"role": "user", "content": "x"},
        {"role": "assistant", "content": "It is: ", "prefix": true}]);
    let whole = "It is: The kitchen light is on.";
    assert_eq!(ask(&set, session, &begun), Ok(whole.into()));
    let said = format!("user:x|assistant:{whole}|user:recall");
    assert_eq!(ask(&set, session, &user("recall")), Ok(said));
    // SAFETY: live handle, given up here.
    unsafe { zonda_session_free(session) };
}

#[test]
fn sessions_are_bounded() {
    let set = Set::new();
    let sessions: Vec<_> = (0..SESSIONS_MAX).map(|_| create(set.model)).collect();
    assert!(sessions.iter().all(|(status, _)| *status == OK));
    assert_eq!(create(set.model), (OVERLOADED, ptr::null_mut()));
    let first = sessions[0].1;
    let long = "x".repeat(SESSION_BYTES_MAX / 2);
    assert!(ask(&set, first, &user(&long)).is_ok());
    assert_eq!(ask(&set, first, &user(&long)), Err(CONTEXT_LENGTH));
    assert!(ask(&set, first, &user("recall")).is_ok());
    for (_, session) in sessions {
        // SAFETY: live handle, given up here.
        unsafe { zonda_session_free(session) };
    }
    let (status, session) = create(set.model);
    assert_eq!(status, OK);
    // SAFETY: live handle, given up here.
    unsafe { zonda_session_free(session) };
}

#[test]
fn a_session_belongs_to_one_model_and_does_not_keep_it() {
    let mut set = Set::new();
    let (_, session) = create(set.model);
    let (_, other) = set.load(ptr::null());
    let params = of(session);
    let told = body("count 1");
    let mut request = ptr::null_mut();
    // SAFETY: live handles, each given up once.
    unsafe {
        let json = told.as_ptr().cast::<c_char>();
        let (params, out, none) = (&raw const params, &raw mut request, ptr::null_mut());
        assert_eq!(zonda_chat_start(other, json, told.len(), params, out, none), INVALID_ARGUMENT);
        zonda_model_free(other);
        zonda_model_free(set.model);
        set.model = ptr::null_mut();
        assert_eq!(reset(session), OK);
        zonda_engine_free(set.engine);
        set.engine = ptr::null_mut();
        zonda_session_free(session);
        zonda_session_free(ptr::null_mut());
    }
}
