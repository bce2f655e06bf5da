//! Conversations that the library remembers.

use std::ptr;
use std::sync::Arc;

use crate::border::{ErrorHandle, enter, live, place};
use crate::model::ModelHandle;
use crate::session::{Session, SessionHandle};
use crate::status::Status;

/// Begins a conversation with a model. A request whose parameters name the session brings only its
/// new messages; the library puts what was said before in front of them, and remembers messages and
/// answer when it ends well (not when it fails or is cancelled). One request at a time. What is
/// remembered is the text, 1 MiB at most; nothing of the cache is reserved: the engine finds a
/// beginning that it read before while it has room for it, with or without a session, and
/// usage.prompt_tokens_details.cached_tokens tells how much. Calls that the library answered itself
/// are not remembered, only the answer that came of them. 1024 sessions of an engine at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_session_create(
    model: *mut ModelHandle,
    out: *mut *mut SessionHandle,
    error: *mut *mut ErrorHandle,
) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(model, "model") };
    let life = handle.as_ref().ok().map(|handle| handle.0.engine.life.as_ref());
    let work = || {
        let out = place(out, "out")?;
        // SAFETY: not NULL; the caller's to write.
        unsafe { out.write(ptr::null_mut()) };
        let session = Session::create(&handle.clone()?.0)?;
        // SAFETY: as above.
        unsafe { out.write(Box::into_raw(Box::new(session))) };
        Ok(())
    };
    // SAFETY: the caller vouches for its error slot.
    unsafe { enter(error, life, work) }
}

/// Forgets what was said. ZONDA_E_INVALID_STATE while a request of the session runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_session_reset(
    session: *mut SessionHandle,
    error: *mut *mut ErrorHandle,
) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(session, "session") };
    let life = handle.as_ref().ok().map(|handle| handle.0.engine.life.as_ref());
    let work = || handle.clone()?.0.reset();
    // SAFETY: the caller vouches for its error slot.
    unsafe { enter(error, life, work) }
}

/// Gives a conversation up; a running request ends as it would.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_session_free(session: *mut SessionHandle) {
    // SAFETY: NULL or a live handle.
    let Ok(handle) = (unsafe { live(session, "session") }) else {
        return;
    };
    let engine = Arc::clone(&handle.0.engine);
    if !engine.life.is_home() {
        return;
    }
    let work = || {
        // SAFETY: made by Box::into_raw in zonda_session_create; the caller gives it up.
        drop(unsafe { Box::from_raw(session) });
        Ok(())
    };
    // SAFETY: no error slot.
    unsafe { enter(ptr::null_mut(), None, work) };
}
