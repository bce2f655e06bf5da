//! The exported functions. Their meaning is told in `zonda.h`, once; here stands what C cannot say.
//!
//! Every function that takes pointers has one safety rule: a pointer is NULL where the header
//! allows it, or valid for the use that the header names.
#![expect(clippy::missing_safety_doc, reason = "one rule for all of them stands above")]

mod engines;
mod library;
mod models;
mod requests;
mod sessions;
mod tools;

pub use engines::{
    zonda_config_check, zonda_engine_create, zonda_engine_free, zonda_engine_metrics_text,
    zonda_engine_params_init, zonda_engine_shutdown, zonda_engine_stats,
};
pub use library::{
    zonda_abi_version, zonda_buffer_data, zonda_buffer_free, zonda_build_info_json,
    zonda_device_count, zonda_device_get, zonda_error_code, zonda_error_free, zonda_error_json,
    zonda_error_message, zonda_status_name, zonda_version_string,
};
pub use models::{
    zonda_count_tokens_json, zonda_detokenize, zonda_model_free, zonda_model_info_json,
    zonda_model_list_json, zonda_model_load, zonda_model_params_init, zonda_model_verify,
    zonda_tokenize,
};
pub use requests::{
    zonda_chat, zonda_chat_start, zonda_embed, zonda_request_cancel, zonda_request_fd,
    zonda_request_free, zonda_request_id, zonda_request_next, zonda_request_params_init,
    zonda_request_wait,
};
pub use sessions::{zonda_session_create, zonda_session_free, zonda_session_reset};
pub use tools::{zonda_tool_register, zonda_tool_respond, zonda_tool_unregister};
