//! The header `include/zonda_plugin.h` in Rust, struct for struct; a test compares the layouts.
//!
//! The rules of each function stand in the header. A Rust author needs this module alone.

use std::ffi::{CStr, c_char, c_void};

/// The version of the interface; its major part is what plugins and hosts must share.
pub const VERSION: Version = Version { major: 1, minor: 0, patch: 0 };
/// The symbol that a plugin exports.
pub const ENTRY: &CStr = c"zonda_plugin_entry";
/// Id of [`Factory`].
pub const FACTORY: &CStr = c"zonda.plugin-factory/1";
/// Id of [`Tool`].
pub const TOOL: &CStr = c"zonda.tool/1";
/// Id of [`Filter`].
pub const FILTER: &CStr = c"zonda.filter/1";
/// Id of [`Observer`].
pub const OBSERVER: &CStr = c"zonda.observer/1";
/// Id of [`HostLog`].
pub const LOG: &CStr = c"zonda.log/1";
/// Id of [`HostKv`].
pub const KV: &CStr = c"zonda.kv/1";

/// `zonda_plugin_version`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Breaks with others.
    pub major: u32,
    /// Adds.
    pub minor: u32,
    /// Repairs.
    pub patch: u32,
}

/// `zonda_plugin_str`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Str {
    /// Bytes; may be null where `len` is 0.
    pub ptr: *const c_char,
    /// How many.
    pub len: usize,
}

impl Str {
    /// Borrows a text; it must outlive every use of the result.
    pub fn of(text: &str) -> Self {
        Self { ptr: text.as_ptr().cast(), len: text.len() }
    }

    /// The text, if it is one.
    ///
    /// # Safety
    ///
    /// `ptr` has `len` readable bytes for as long as the result lives, or `len` is 0.
    pub unsafe fn text<'a>(self) -> Option<&'a str> {
        if self.len == 0 {
            return Some("");
        }
        if self.ptr.is_null() || self.len > isize::MAX as usize {
            return None;
        }
        // SAFETY: not null, `len` readable bytes by the caller's word, and not over the limit of
        // slices.
        let bytes = unsafe { std::slice::from_raw_parts(self.ptr.cast::<u8>(), self.len) };
        std::str::from_utf8(bytes).ok()
    }
}

/// `zonda_plugin_out`.
#[repr(C)]
#[derive(Debug)]
pub struct Out {
    /// The maker's own.
    pub data: *mut c_void,
    /// Appends; false once the limit is passed.
    pub write: unsafe extern "C" fn(out: *const Self, ptr: *const c_char, len: usize) -> bool,
}

/// `zonda_plugin_host`.
#[repr(C)]
#[derive(Debug)]
pub struct Host {
    /// Of the interface.
    pub version: Version,
    /// The host's own.
    pub data: *mut c_void,
    /// The host's name.
    pub name: *const c_char,
    /// Who made it.
    pub vendor: *const c_char,
    /// Its version.
    pub version_text: *const c_char,
    /// Null for what it does not have.
    pub get_extension: unsafe extern "C" fn(host: *const Self, id: *const c_char) -> *const c_void,
}

/// `zonda_host_log`.
#[repr(C)]
#[derive(Debug)]
pub struct HostLog {
    /// Writes a line; level 0 debug, 1 info, 2 warn, 3 error.
    pub log: unsafe extern "C" fn(host: *const Host, level: i32, line: *const c_char),
}

/// `zonda_host_kv`.
#[repr(C)]
#[derive(Debug)]
pub struct HostKv {
    /// Reads a value.
    pub get: unsafe extern "C" fn(host: *const Host, key: *const c_char, value: *const Out) -> bool,
    /// Writes a value.
    pub set: unsafe extern "C" fn(host: *const Host, key: *const c_char, value: Str) -> bool,
}

/// `zonda_plugin_descriptor`.
#[repr(C)]
#[derive(Debug)]
pub struct Descriptor {
    /// Of the interface.
    pub version: Version,
    /// As in the manifest.
    pub id: *const c_char,
    /// For people.
    pub name: *const c_char,
    /// Who made it.
    pub vendor: *const c_char,
    /// The plugin's own version.
    pub version_text: *const c_char,
    /// One sentence.
    pub description: *const c_char,
}

/// `zonda_plugin`.
#[repr(C)]
#[derive(Debug)]
pub struct Plugin {
    /// What it says of itself.
    pub descriptor: *const Descriptor,
    /// The plugin's own.
    pub data: *mut c_void,
    /// False refuses.
    pub init: Option<unsafe extern "C" fn(plugin: *const Self) -> bool>,
    /// Frees it.
    pub destroy: Option<unsafe extern "C" fn(plugin: *const Self)>,
    /// Takes the settings; false refuses.
    pub activate: Option<unsafe extern "C" fn(plugin: *const Self, settings_json: Str) -> bool>,
    /// The last calls have been.
    pub deactivate: Option<unsafe extern "C" fn(plugin: *const Self)>,
    /// Null for what it does not have.
    pub get_extension:
        Option<unsafe extern "C" fn(plugin: *const Self, id: *const c_char) -> *const c_void>,
}

/// `zonda_plugin_factory`.
#[repr(C)]
#[derive(Debug)]
pub struct Factory {
    /// How many plugins the library has.
    pub count: Option<unsafe extern "C" fn(factory: *const Self) -> u32>,
    /// What one of them says of itself.
    pub descriptor:
        Option<unsafe extern "C" fn(factory: *const Self, index: u32) -> *const Descriptor>,
    /// Makes one.
    pub create: Option<
        unsafe extern "C" fn(
            factory: *const Self,
            host: *const Host,
            id: *const c_char,
        ) -> *const Plugin,
    >,
}

/// `zonda_plugin_entry_table`.
#[repr(C)]
#[derive(Debug)]
pub struct Entry {
    /// Of the interface.
    pub version: Version,
    /// Before anything else; false refuses.
    pub init: Option<unsafe extern "C" fn(plugin_path: *const c_char) -> bool>,
    /// Behind everything else.
    pub deinit: Option<unsafe extern "C" fn()>,
    /// The factory, or null.
    pub get_factory: Option<unsafe extern "C" fn(id: *const c_char) -> *const c_void>,
}

/// `zonda_plugin_tool`.
#[repr(C)]
#[derive(Debug)]
pub struct Tool {
    /// How many functions.
    pub count: Option<unsafe extern "C" fn(plugin: *const Plugin) -> u32>,
    /// Writes name, description and schema of one.
    pub spec: Option<
        unsafe extern "C" fn(plugin: *const Plugin, index: u32, spec_json: *const Out) -> bool,
    >,
    /// Runs one.
    pub call: Option<
        unsafe extern "C" fn(
            plugin: *const Plugin,
            index: u32,
            arguments_json: Str,
            result: *const Out,
        ) -> bool,
    >,
}

/// `ZONDA_VERDICT_PASS`.
pub const VERDICT_PASS: i32 = 0;
/// `ZONDA_VERDICT_REPLACE`.
pub const VERDICT_REPLACE: i32 = 1;
/// `ZONDA_VERDICT_REJECT`.
pub const VERDICT_REJECT: i32 = 2;

/// `zonda_plugin_text`.
#[repr(C)]
#[derive(Debug)]
pub struct Text {
    /// Who says it.
    pub role: Str,
    /// What.
    pub text: Str,
}

/// `zonda_plugin_texts`.
#[repr(C)]
#[derive(Debug)]
pub struct Texts {
    /// Of the request.
    pub request_id: Str,
    /// Who asks.
    pub client: Str,
    /// As asked for.
    pub model: Str,
    /// The texts.
    pub texts: *const Text,
    /// How many.
    pub texts_len: usize,
}

/// `zonda_plugin_change`.
#[repr(C)]
#[derive(Debug)]
pub struct Change {
    /// The host's own.
    pub data: *mut c_void,
    /// Another text at an index.
    pub replace: unsafe extern "C" fn(change: *const Self, index: usize, text: Str) -> bool,
    /// What the client is told.
    pub reject: unsafe extern "C" fn(change: *const Self, status: u16, message: Str) -> bool,
}

/// A function of [`Filter`].
pub type Judge =
    unsafe extern "C" fn(plugin: *const Plugin, texts: *const Texts, change: *const Change) -> i32;

/// `zonda_plugin_filter`.
#[repr(C)]
#[derive(Debug)]
pub struct Filter {
    /// Before the model reads it.
    pub on_request: Option<Judge>,
    /// Before the client reads it.
    pub on_final: Option<Judge>,
}

/// `zonda_plugin_observation`.
#[repr(C)]
#[derive(Debug)]
pub struct Observation {
    /// Which model.
    pub model: Str,
    /// How it ended.
    pub outcome: Str,
    /// Tokens read.
    pub prompt_tokens: u32,
    /// Of these, known ones.
    pub cached_tokens: u32,
    /// Tokens written.
    pub completion_tokens: u32,
    /// Milliseconds until it left the queue.
    pub accepted_ms: u32,
    /// Milliseconds until its first text.
    pub first_text_ms: u32,
    /// Milliseconds until its end.
    pub total_ms: u32,
}

/// `zonda_plugin_observer`.
#[repr(C)]
#[derive(Debug)]
pub struct Observer {
    /// Takes some of them.
    pub observe: Option<
        unsafe extern "C" fn(
            plugin: *const Plugin,
            observations: *const Observation,
            observations_len: usize,
            dropped: u64,
        ),
    >,
}
