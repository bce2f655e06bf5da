//! Functions of the host program.

use std::ffi::{c_char, c_void};
use std::ptr;

use crate::border::{ErrorHandle, UserData, enter, items, live, refuse_in_callback, text};
use crate::engine::EngineHandle;
use crate::layout::ToolFn;
use crate::status::{Refusal, Status};
use crate::tools::ToolCallback;

/// Offers a function of the program to the model, written as an entry of a request's "tools":
/// {"type":"function","function":{"name","description","parameters"}}, 64 KiB at most, 128
/// functions at a time. From now on every chat request of the engine is offered it that has free
/// text as its format, unless its tool_choice is "none" or it brings a function of this name
/// itself; a function that the configuration turns on gives way to one of its name. When the model
/// calls it, `function` hears it on a thread of the library and the request goes on behind the
/// answer, with the limits of [tools] in the configuration (8 rounds, 60 s). 64 calls at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_tool_register(
    engine: *mut EngineHandle,
    tool_json: *const c_char,
    function: ToolFn,
    user_data: *mut c_void,
    error: *mut *mut ErrorHandle,
) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(engine, "engine") };
    let life = handle.as_ref().ok().map(|handle| handle.0.life.as_ref());
    let work = || {
        let engine = &handle.clone()?.0;
        // SAFETY: NULL or NUL-terminated.
        let json = unsafe { text(tool_json, "tool_json") }?;
        let json = json.ok_or_else(|| Refusal::argument("tool_json is NULL"))?;
        let function = function.ok_or_else(|| Refusal::argument("fn is NULL"))?;
        engine.tools.register(json, ToolCallback { function, user_data: UserData(user_data) })
    };
    // SAFETY: the caller vouches for its error slot.
    unsafe { enter(error, life, work) }
}

/// Answers a call with JSON text of 64 KiB at most; with is_error it says what went wrong, a JSON
/// string or any JSON. The model reads either. Any thread, also inside the callback.
/// ZONDA_E_NOT_FOUND: there was no such call. ZONDA_E_INVALID_STATE: it is over, because it was
/// answered, its request was cancelled or out of time, or its function was unregistered.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_tool_respond(
    engine: *mut EngineHandle,
    call_id: u64,
    result_json: *const c_char,
    len: usize,
    is_error: bool,
    error: *mut *mut ErrorHandle,
) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(engine, "engine") };
    let life = handle.as_ref().ok().map(|handle| handle.0.life.as_ref());
    let work = || {
        let engine = &handle.clone()?.0;
        // SAFETY: NULL or `len` bytes.
        let json = unsafe { items(result_json.cast::<u8>(), len, "result_json") }?;
        engine.tools.respond(call_id, json, is_error)
    };
    // SAFETY: the caller vouches for its error slot.
    unsafe { enter(error, life, work) }
}

/// Withdraws a function: its open calls end with an error that the model reads. When this returns
/// none of its callbacks runs, and user_data may go.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_tool_unregister(
    engine: *mut EngineHandle,
    name: *const c_char,
) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(engine, "engine") };
    let life = handle.as_ref().ok().map(|handle| handle.0.life.as_ref());
    let work = || {
        let engine = &handle.clone()?.0;
        refuse_in_callback("zonda_tool_unregister")?;
        // SAFETY: NULL or NUL-terminated.
        let name = unsafe { text(name, "name") }?;
        let name = name.ok_or_else(|| Refusal::argument("name is NULL"))?;
        engine.tools.unregister(name)
    };
    // SAFETY: no error slot.
    unsafe { enter(ptr::null_mut(), life, work) }
}
