//! `libzonda`: the C ABI of `include/zonda.h`.
//!
//! The header is the door; what stands here keeps its promises. Handles are opaque boxes, requests
//! are the chat-completions JSON of the other entrances, events are small structs with borrowed
//! texts. [`entry`] holds every exported function and nearly all of the crate's unsafe code: it
//! checks what C cannot check, and calls safe modules that know no pointers. Only [`house`] knows
//! which rooms answer, so that everything else is tested without a model.

mod border;
mod engine;
mod entry;
mod house;
mod layout;
mod metrics;
mod model;
#[cfg(unix)]
mod pump;
mod request;
mod rooms;
#[cfg(test)]
mod script;
mod session;
#[cfg(unix)]
mod signal;
mod status;
mod stream;
#[cfg(test)]
mod tests;
mod tools;

use std::sync::{Mutex, MutexGuard};

pub use border::{BufferHandle, ErrorHandle};
pub use engine::EngineHandle;
pub use entry::{
    zonda_abi_version, zonda_buffer_data, zonda_buffer_free, zonda_build_info_json, zonda_chat,
    zonda_chat_start, zonda_config_check, zonda_count_tokens_json, zonda_detokenize,
    zonda_device_count, zonda_device_get, zonda_embed, zonda_engine_create, zonda_engine_free,
    zonda_engine_metrics_text, zonda_engine_params_init, zonda_engine_shutdown, zonda_engine_stats,
    zonda_error_code, zonda_error_free, zonda_error_json, zonda_error_message, zonda_model_free,
    zonda_model_info_json, zonda_model_list_json, zonda_model_load, zonda_model_params_init,
    zonda_model_verify, zonda_request_cancel, zonda_request_fd, zonda_request_free,
    zonda_request_id, zonda_request_next, zonda_request_params_init, zonda_request_wait,
    zonda_session_create, zonda_session_free, zonda_session_reset, zonda_status_name,
    zonda_tokenize, zonda_tool_register, zonda_tool_respond, zonda_tool_unregister,
    zonda_version_string,
};
pub use layout::{
    DeviceInfo, EV_ACCEPTED, EV_DELTA, EV_DONE, EV_ERROR, EV_TOOL_CALL, EV_USAGE, EngineParams,
    EventFn, EventKind, EventView, LogFn, ModelParams, ProgressFn, RequestParams, Sized32, Stats,
    Str, ToolFn,
};
pub use model::ModelHandle;
pub use request::RequestHandle;
pub use session::SessionHandle;
pub use status::{
    ABI_MISMATCH, AUTH, BUFFER_TOO_SMALL, CANCELLED, CONTENT_FILTER, CONTEXT_LENGTH, DEVICE,
    INTERNAL, INVALID_ARGUMENT, INVALID_STATE, IO, MODEL_FORMAT, MODEL_SIGNATURE, NOT_FOUND, OK,
    OUT_OF_MEMORY, OVERLOADED, PLUGIN, Status, TIMEOUT, UNSUPPORTED, WOULD_BLOCK,
};

/// As in the soname libzonda.so.1; changes only on a break.
pub const ABI_VERSION: u32 = 1;
/// The version of the library, as in the header.
pub const VERSION: &str = "1.0.0";
/// Changes on a break.
pub const VERSION_MAJOR: u32 = 1;
/// Grows with what is added.
pub const VERSION_MINOR: u32 = 0;
/// Grows with what is mended.
pub const VERSION_PATCH: u32 = 0;

/// Locks, whether or not a thread panicked with the lock: a panic poisons the engine, and what the
/// engine needs to be freed is whole in between statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|broken| broken.into_inner())
}
