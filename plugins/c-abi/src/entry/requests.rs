//! Generation.

use std::ffi::{c_char, c_int};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use protocol::Priority;

use crate::border::{
    BufferHandle, ErrorHandle, Log, UserData, enter, give_text, in_callback, in_callback_of, items,
    live, place, refuse_in_callback,
};
use crate::layout::{self, EventView, RequestParams, Str};
use crate::model::{ModelHandle, Wishes};
use crate::request::{Callback, RequestHandle};
use crate::status::{self, Refusal, Status};

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_request_params_init(
    params: *mut RequestParams,
    struct_size: usize,
) -> Status {
    // SAFETY: no error slot; the caller's struct is as large as it says.
    unsafe {
        enter(ptr::null_mut(), None, || {
            layout::write_defaults(params, struct_size, layout::zeroed())
        })
    }
}

/// Answers a chat.completions request, the same JSON as over HTTP and MQTT, with a chat.completion
/// object; waits for the whole of it. event_fn must be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_chat(
    model: *mut ModelHandle,
    json: *const c_char,
    len: usize,
    params: *const RequestParams,
    response_json: *mut *mut BufferHandle,
    error: *mut *mut ErrorHandle,
) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(model, "model") };
    let life = handle.as_ref().ok().map(|handle| handle.0.engine.life.as_ref());
    let work = || {
        let out = place(response_json, "response_json")?;
        // SAFETY: not NULL; the caller's to write.
        unsafe { out.write(ptr::null_mut()) };
        let model = &handle.clone()?.0;
        if in_callback_of(&model.engine.life) {
            return Err(Refusal::state(
                "zonda_chat waits, so it must not be called in a callback of its engine; \
                 use zonda_chat_start",
            ));
        }
        // SAFETY: NULL or `len` bytes.
        let body = unsafe { items(json.cast::<u8>(), len, "json") }?;
        // SAFETY: NULL, or a struct that tells its size.
        let (wishes, callback) = unsafe { read_params(params) }?;
        if callback.is_some() {
            return Err(Refusal::argument(
                "event_fn must be NULL in zonda_chat; zonda_chat_start gives events",
            ));
        }
        let completion = model.chat(body, wishes)?;
        // SAFETY: as above.
        unsafe { give_text(out, completion.to_string()) };
        Ok(())
    };
    // SAFETY: the caller vouches for its error slot.
    unsafe { enter(error, life, work) }
}

/// As zonda_chat, but returns at once; events go to event_fn, or wait for zonda_request_next.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_chat_start(
    model: *mut ModelHandle,
    json: *const c_char,
    len: usize,
    params: *const RequestParams,
    out: *mut *mut RequestHandle,
    error: *mut *mut ErrorHandle,
) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(model, "model") };
    let life = handle.as_ref().ok().map(|handle| handle.0.engine.life.as_ref());
    let work = || {
        let out = place(out, "out")?;
        // SAFETY: not NULL; the caller's to write.
        unsafe { out.write(ptr::null_mut()) };
        let model = &handle.clone()?.0;
        // SAFETY: NULL or `len` bytes.
        let body = unsafe { items(json.cast::<u8>(), len, "json") }?;
        // SAFETY: NULL, or a struct that tells its size.
        let (wishes, callback) = unsafe { read_params(params) }?;
        let request = model.start(body, wishes, callback)?;
        // SAFETY: as above.
        unsafe { out.write(Box::into_raw(Box::new(request))) };
        Ok(())
    };
    // SAFETY: the caller vouches for its error slot.
    unsafe { enter(error, life, work) }
}

/// The next event, valid until the next call for this request. Negative timeout: waits for ever.
/// ZONDA_E_WOULD_BLOCK: none in time. ZONDA_OK with *event == NULL: nothing follows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_request_next(
    request: *mut RequestHandle,
    timeout_ms: i32,
    event: *mut *const EventView,
    error: *mut *mut ErrorHandle,
) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(request, "request") };
    let life = handle.as_ref().ok().map(|handle| handle.model.engine.life.as_ref());
    let work = || {
        let event = place(event, "ev")?;
        // SAFETY: not NULL; the caller's to write.
        unsafe { event.write(ptr::null()) };
        let shown = handle.clone()?.next(timeout_ms)?;
        // SAFETY: as above.
        unsafe { event.write(shown) };
        Ok(())
    };
    // SAFETY: the caller vouches for its error slot.
    unsafe { enter(error, life, work) }
}

/// A descriptor for poll, select or epoll: readable exactly while zonda_request_next would not
/// wait, so also behind the last event. Poll it only: the library reads, writes and closes it, in
/// zonda_request_free. -1 for a request with a callback, on systems without descriptors, and where
/// no descriptor or thread is left (64 requests of an engine at a time have a callback or a
/// descriptor).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_request_fd(request: *const RequestHandle) -> c_int {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(request, "request") };
    let life = handle.as_ref().ok().map(|handle| handle.model.engine.life.as_ref());
    let mut fd = None;
    let work = || {
        fd = handle.clone()?.fd();
        Ok(())
    };
    // SAFETY: no error slot.
    let status = unsafe { enter(ptr::null_mut(), life, work) };
    if status == status::OK { fd.unwrap_or(-1) } else { -1 }
}

/// Ends the request soon; only its terminal event still follows. Any thread, any number of times;
/// not from a signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_request_cancel(request: *mut RequestHandle) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(request, "request") };
    let life = handle.as_ref().ok().map(|handle| handle.model.engine.life.as_ref());
    let work = || {
        handle.clone()?.running.cancel();
        Ok(())
    };
    // SAFETY: no error slot.
    unsafe { enter(ptr::null_mut(), life, work) }
}

/// Waits for the end and returns what it ended with: ZONDA_OK, ZONDA_E_CANCELLED, or the error's
/// status. ZONDA_E_WOULD_BLOCK: not ended in time; negative timeout: waits for ever. Without a
/// callback, events that nobody took are passed over.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_request_wait(
    request: *mut RequestHandle,
    timeout_ms: i32,
) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(request, "request") };
    let life = handle.as_ref().ok().map(|handle| handle.model.engine.life.as_ref());
    let mut end = status::OK;
    let work = || {
        let request = handle.clone()?;
        refuse_in_callback("zonda_request_wait")?;
        end = request.wait(timeout_ms);
        Ok(())
    };
    // SAFETY: no error slot.
    let status = unsafe { enter(ptr::null_mut(), life, work) };
    if status == status::OK { end } else { status }
}

/// The id of a request, valid until it is freed; empty for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_request_id(request: *const RequestHandle) -> Str {
    // SAFETY: NULL or a live handle.
    Str::of(unsafe { request.as_ref() }.map_or("", |request| request.running.id.as_str()))
}

/// Cancels a request, waits until nothing of it runs, frees it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_request_free(request: *mut RequestHandle) {
    // SAFETY: NULL or a live handle.
    let Ok(handle) = (unsafe { live(request, "request") }) else {
        return;
    };
    let engine = Arc::clone(&handle.model.engine);
    if !engine.life.is_home() {
        return;
    }
    if in_callback() {
        engine.log.write(&engine.life, Log::ERROR, "zonda_request_free in a callback does nothing");
        return;
    }
    let work = || {
        // SAFETY: made by Box::into_raw in zonda_chat_start; the caller gives it up.
        unsafe { Box::from_raw(request) }.end();
        Ok(())
    };
    // SAFETY: no error slot.
    unsafe { enter(ptr::null_mut(), None, work) };
}

/// Makes vectors of texts with a configured embedder: a request as of /v1/embeddings, and its
/// answer. Waits for them. ZONDA_E_UNSUPPORTED where the configuration has no embedder.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_embed(
    model: *mut ModelHandle,
    json: *const c_char,
    len: usize,
    response_json: *mut *mut BufferHandle,
    error: *mut *mut ErrorHandle,
) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(model, "model") };
    let life = handle.as_ref().ok().map(|handle| handle.0.engine.life.as_ref());
    let work = || {
        let out = place(response_json, "response_json")?;
        // SAFETY: not NULL; the caller's to write.
        unsafe { out.write(ptr::null_mut()) };
        // SAFETY: NULL or `len` bytes.
        let body = unsafe { items(json.cast::<u8>(), len, "json") }?;
        let vectors = handle.clone()?.0.embed(body)?;
        // SAFETY: as above.
        unsafe { give_text(out, vectors.to_string()) };
        Ok(())
    };
    // SAFETY: the caller vouches for its error slot.
    unsafe { enter(error, life, work) }
}

/// # Safety
/// As for [`layout::read`].
unsafe fn read_params(params: *const RequestParams) -> Result<(Wishes, Option<Callback>), Refusal> {
    // SAFETY: as the caller says.
    let params = unsafe { layout::read(params) }?.unwrap_or_else(layout::zeroed);
    let idle = [
        (params.max_buffered_events != 0, "max_buffered_events must be 0"),
        (!params.idempotency_key.is_null(), "idempotency_key must be NULL"),
    ];
    if let Some((_, rule)) = idle.iter().find(|(set, _)| *set) {
        return Err(Refusal::unsupported(format!("zonda_request_params.{rule}")));
    }
    let timeout = (params.timeout_ms != 0).then(|| Duration::from_millis(params.timeout_ms.into()));
    let priority = match params.priority {
        ..0 => Priority::Batch,
        0 => Priority::Normal,
        1.. => Priority::Interactive,
    };
    let callback = params
        .event_fn
        .map(|function| Callback { function, user_data: UserData(params.event_user_data) });
    // SAFETY: NULL or a live handle.
    let session = unsafe { params.session.as_ref() }.map(|session| Arc::clone(&session.0));
    Ok((Wishes { timeout, priority, session }, callback))
}
