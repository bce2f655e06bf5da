//! The structs that cross the border, field by field as `zonda.h` has them.

use std::ffi::{c_char, c_void};
use std::ptr;

use crate::session::SessionHandle;
use crate::status::{Refusal, Status};

/// Pointer and length; not NUL-terminated; UTF-8.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Str {
    /// First byte; never NULL where the library gives it.
    pub ptr: *const c_char,
    /// Bytes.
    pub len: usize,
}

impl Str {
    /// Points at `text`, which must outlive every reader.
    pub(crate) fn of(text: &str) -> Self {
        Self { ptr: text.as_ptr().cast(), len: text.len() }
    }
}

/// Hears messages of the library's border: never a prompt, never an answer.
pub type LogFn =
    Option<unsafe extern "C" fn(level: i32, target: Str, msg: Str, user_data: *mut c_void)>;
/// Hears how far a load is, on the thread that loads. Returning non-zero aborts the load.
pub type ProgressFn =
    Option<unsafe extern "C" fn(done_0_1: f64, stage: Str, user_data: *mut c_void) -> i32>;
/// Hears the events of one request. Return 0 to go on. Anything else cancels the request and is the
/// last call for it. The event's memory is valid during the call only.
pub type EventFn =
    Option<unsafe extern "C" fn(ev: *const EventView, user_data: *mut c_void) -> i32>;
/// Hears that the model calls a function. Return ZONDA_OK and answer with zonda_tool_respond, here
/// or later, from any thread; anything else refuses the call, and the model reads that. Both texts
/// are valid during the call only. Several calls may come at the same time.
pub type ToolFn = Option<
    unsafe extern "C" fn(name: Str, args_json: Str, call_id: u64, user_data: *mut c_void) -> Status,
>;

/// [`EventFn`], when it is there.
pub(crate) type EventCall = unsafe extern "C" fn(*const EventView, *mut c_void) -> i32;
/// [`ToolFn`], when it is there.
pub(crate) type ToolCall = unsafe extern "C" fn(Str, Str, u64, *mut c_void) -> Status;

/// The kind of an event; later versions may add to these.
pub type EventKind = i32;

/// The request left the queue; json: {"id","model","prompt_tokens","cached_tokens"}.
pub const EV_ACCEPTED: EventKind = 1;
/// Text: the next whole code points of the answer.
pub const EV_DELTA: EventKind = 2;
/// One complete tool call, as json.
pub const EV_TOOL_CALL: EventKind = 3;
/// The usage object, as json.
pub const EV_USAGE: EventKind = 4;
/// The whole chat.completion object, as json. Terminal.
pub const EV_DONE: EventKind = 5;
/// The status, and the error object as json. Terminal.
pub const EV_ERROR: EventKind = 6;

/// One event of a request.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct EventView {
    /// Set by the library.
    pub struct_size: u32,
    /// ZONDA_EV_*.
    pub kind: EventKind,
    /// 0, 1, 2, ... for each request, no gaps.
    pub seq: u64,
    /// ZONDA_OK but on ERROR, and on DONE after a cancel.
    pub status: Status,
    /// Tokens in this event; on USAGE, of the answer.
    pub token_count: u32,
    /// On DELTA; else empty.
    pub text: Str,
    /// On all others; empty on DELTA.
    pub json: Str,
    /// On the terminal event: "stop" "length" "model_length" "tool_calls" "cancelled" "error".
    pub finish_reason: Str,
}

/// How an engine is set up.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct EngineParams {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// ZONDA_ABI_VERSION.
    pub abi_version: u32,
    /// TOML file; NULL: the files of the system, or built-in defaults.
    pub config_path: *const c_char,
    /// Must be NULL.
    pub config_toml: *const c_char,
    /// "auto", "cpu" or an id of zonda_device_get; NULL: as configured.
    pub device: *const c_char,
    /// Device profile; NULL: as configured, else detected.
    pub profile: *const c_char,
    /// CPU threads; 0: as configured.
    pub worker_threads: u32,
    /// Requests that may wait; 0: as configured.
    pub max_queue: u32,
    /// NULL: stderr.
    pub log_fn: LogFn,
    /// Handed to `log_fn`.
    pub log_user_data: *mut c_void,
    /// 0 off, 1 error, 2 warning, 3 info, 4 debug, 5 trace.
    pub log_level: i32,
    /// Must be 0.
    pub flags: u32,
}

/// How a model is loaded.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ModelParams {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// Tokens of prompt and answer; 0: as configured.
    pub context_length: u32,
    /// Requests answered at the same time; 0: as configured.
    pub max_sequences: u32,
    /// Must be 0.
    pub kv_dtype: i32,
    /// Must be 0.
    pub memory_budget_bytes: u64,
    /// May be NULL.
    pub progress_fn: ProgressFn,
    /// Handed to `progress_fn`.
    pub progress_user_data: *mut c_void,
    /// Must be 0.
    pub flags: u32,
}

/// How a request is answered.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct RequestParams {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// Until the answer is of no use, by a monotonic clock; 0: none.
    pub timeout_ms: u32,
    /// Negative: background; positive: goes first.
    pub priority: i32,
    /// Must be 0.
    pub max_buffered_events: u32,
    /// Must be NULL.
    pub idempotency_key: *const c_char,
    /// NULL: pull with zonda_request_next.
    pub event_fn: EventFn,
    /// Handed to `event_fn`.
    pub event_user_data: *mut c_void,
    /// The conversation that this goes on with; NULL for none.
    pub session: *mut SessionHandle,
}

/// One thing to compute on.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct DeviceInfo {
    /// Set it before the call.
    pub struct_size: u32,
    /// Place in the list of devices.
    pub index: u32,
    /// What zonda_engine_params.device takes; NUL-terminated, as the two below.
    pub id: [c_char; 32],
    /// What its maker calls it.
    pub name: [c_char; 96],
    /// "cpu" "vulkan" "wgpu" "metal" "cuda".
    pub api: [c_char; 16],
    /// Bytes; 0: not known. Unified memory is counted once.
    pub memory_total: u64,
    /// Bytes; 0: not known.
    pub memory_free: u64,
    /// Whether it shares the CPU's memory: 0 or 1.
    pub unified_memory: u32,
}

/// What an engine has done and does.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Stats {
    /// Set it before the call.
    pub struct_size: u32,
    /// Requests waiting.
    pub queue_depth: u32,
    /// Requests being answered.
    pub active: u32,
    /// Requests that can be answered at the same time.
    pub max_active: u32,
    /// Requests answered.
    pub requests_ok: u64,
    /// Requests failed.
    pub requests_failed: u64,
    /// Requests cancelled.
    pub requests_cancelled: u64,
    /// Prompt tokens computed.
    pub tokens_prompt: u64,
    /// Tokens given.
    pub tokens_generated: u64,
    /// Of one answer, on average; 0: none yet.
    pub decode_tokens_per_s: f64,
    /// Of one prompt, on average; 0: none yet.
    pub prefill_tokens_per_s: f64,
    /// Bytes of the cache in use; 0: not known.
    pub kv_bytes_used: u64,
    /// Bytes of the cache; 0: not known.
    pub kv_bytes_total: u64,
    /// Bytes of the models' files.
    pub model_bytes: u64,
    /// 0 ok, 2 failed; other values are for later versions.
    pub health: i32,
}

/// No caller's struct is larger; a bigger `struct_size` is a wild number.
const STRUCT_BYTES_MAX: usize = 4096;

/// A struct that begins with `struct_size`, may be all zero bytes, and grows only at its end.
///
/// # Safety
/// `repr(C)`, first field `u32 struct_size`, every bit pattern of zeros is a value of the type.
pub unsafe trait Sized32: Copy {
    /// Its name in the header.
    const NAME: &'static str;
}

macro_rules! sized {
    ($($type:ty, $name:literal;)*) => {$(
        // SAFETY: the struct above is repr(C), begins with struct_size, and holds only integers,
        // floats, raw pointers and optional function pointers, all of which may be zero.
        unsafe impl Sized32 for $type {
            const NAME: &'static str = $name;
        }
    )*};
}

sized! {
    EngineParams, "zonda_engine_params";
    ModelParams, "zonda_model_params";
    RequestParams, "zonda_request_params";
    DeviceInfo, "zonda_device_info";
    Stats, "zonda_stats";
}

/// A value with every field zero but for its size.
pub(crate) fn zeroed<T: Sized32>() -> T {
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: Sized32 says that zeros are a value and that a u32 stands first.
    unsafe {
        value.as_mut_ptr().cast::<u32>().write(size_of::<T>() as u32);
        value.assume_init()
    }
}

/// Writes defaults into a caller's struct of `bytes` bytes.
///
/// # Safety
/// `place` is NULL or has room for `bytes` bytes and is aligned for `T`.
pub(crate) unsafe fn write_defaults<T: Sized32>(
    place: *mut T,
    bytes: usize,
    defaults: T,
) -> Result<(), Refusal> {
    if place.is_null() {
        return Err(Refusal::argument(format!("{} is NULL", T::NAME)));
    }
    check_size::<T>(bytes)?;
    // SAFETY: check_size puts `bytes` between the size of T and the limit; the caller has the room.
    unsafe {
        ptr::write_bytes(place.cast::<u8>(), 0, bytes);
        place.write(defaults);
        place.cast::<u32>().write(bytes as u32);
    }
    Ok(())
}

/// Reads a caller's struct, which may come from an older or a newer header. `None` for NULL.
///
/// # Safety
/// `place` is NULL, or points at `struct_size` readable bytes and is aligned for `T`.
pub(crate) unsafe fn read<T: Sized32>(place: *const T) -> Result<Option<T>, Refusal> {
    if place.is_null() {
        return Ok(None);
    }
    // SAFETY: every such struct begins with its own size.
    let bytes = unsafe { place.cast::<u32>().read() } as usize;
    check_size::<T>(bytes)?;
    // SAFETY: the struct says that it is this long.
    let whole = unsafe { std::slice::from_raw_parts(place.cast::<u8>(), bytes) };
    if whole[size_of::<T>()..].iter().any(|byte| *byte != 0) {
        return Err(Refusal::unsupported(format!(
            "{} has fields that this version of libzonda ({}) does not know; set them to 0",
            T::NAME,
            crate::VERSION,
        )));
    }
    // SAFETY: at least size_of::<T>() readable, aligned bytes.
    Ok(Some(unsafe { place.read() }))
}

/// Fills a caller's struct, leaving a newer header's tail zero.
///
/// # Safety
/// As for [`read`], and writable.
pub(crate) unsafe fn fill<T: Sized32>(place: *mut T, value: T) -> Result<(), Refusal> {
    if place.is_null() {
        return Err(Refusal::argument(format!("{} is NULL", T::NAME)));
    }
    // SAFETY: every such struct begins with its own size.
    let bytes = unsafe { place.cast::<u32>().read() } as usize;
    // SAFETY: as above; write_defaults checks the size before it writes.
    unsafe { write_defaults(place, bytes, value) }
}

fn check_size<T: Sized32>(bytes: usize) -> Result<(), Refusal> {
    let known = size_of::<T>();
    if (known..=STRUCT_BYTES_MAX).contains(&bytes) {
        return Ok(());
    }
    Err(Refusal::argument(format!(
        "{}: struct_size is {bytes}, must be {known} to {STRUCT_BYTES_MAX}; \
         set it with the _init function, or to sizeof where there is none",
        T::NAME,
    )))
}

/// Copies text into a fixed field, cut at a whole character, NUL-terminated.
pub(crate) fn fixed<const N: usize>(text: &str) -> [c_char; N] {
    let mut end = text.len().min(N - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut field = [0; N];
    for (place, byte) in field.iter_mut().zip(&text.as_bytes()[..end]) {
        *place = c_char::from_ne_bytes([*byte]);
    }
    field
}

#[cfg(all(test, target_pointer_width = "64"))]
mod tests {
    use super::*;
    use crate::status;

    #[test]
    fn sizes_are_those_of_abi_1() {
        assert_eq!(size_of::<EventView>(), 72);
        assert_eq!(size_of::<EngineParams>(), 72);
        assert_eq!(size_of::<ModelParams>(), 48);
        assert_eq!(size_of::<RequestParams>(), 48);
        assert_eq!(size_of::<DeviceInfo>(), 176);
        assert_eq!(size_of::<Stats>(), 104);
    }

    #[repr(C)]
    struct Newer {
        known: ModelParams,
        tail: u64,
    }

    #[test]
    fn newer_struct_is_read_when_its_tail_is_zero() {
        let mut newer = Newer { known: zeroed(), tail: 0 };
        newer.known.struct_size = size_of::<Newer>() as u32;
        newer.known.context_length = 7;
        // SAFETY: a live struct that tells its size.
        let known = unsafe { read((&raw const newer).cast::<ModelParams>()) };
        assert_eq!(known.unwrap().unwrap().context_length, 7);
        newer.tail = 1;
        // SAFETY: as above.
        let refused = unsafe { read((&raw const newer).cast::<ModelParams>()) };
        assert_eq!(refused.unwrap_err().status, status::UNSUPPORTED);
    }

    #[test]
    fn wild_sizes_are_refused() {
        for bytes in [0, 1, 47, 4097, u32::MAX] {
            let mut params: ModelParams = zeroed();
            params.struct_size = bytes;
            // SAFETY: the size is refused before anything behind it is read.
            let refused = unsafe { read(&raw const params) };
            assert_eq!(refused.unwrap_err().status, status::INVALID_ARGUMENT, "{bytes}");
        }
    }

    #[test]
    fn defaults_reach_the_end_of_a_newer_struct() {
        let mut newer = Newer { known: zeroed(), tail: 9 };
        let place = (&raw mut newer).cast::<ModelParams>();
        // SAFETY: a live struct of this size.
        let written = unsafe { write_defaults(place, size_of::<Newer>(), zeroed()) };
        assert_eq!(written, Ok(()));
        assert_eq!((newer.known.struct_size as usize, newer.tail), (size_of::<Newer>(), 0));
    }

    #[test]
    fn fixed_fields_end_at_a_whole_character() {
        let field = fixed::<4>("aéé");
        assert_eq!(field.map(|byte| byte as u8), [b'a', 0xc3, 0xa9, 0]);
        assert_eq!(fixed::<4>("aaé")[2], 0);
    }
}
