//! The structs that cross the border, field by field as `zonda.h` has them.

use std::ffi::{c_char, c_void};
use std::ptr;

use crate::status::{Refusal, Status};

/// Pointer and length of UTF-8 text.
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

/// Receives messages of the library's border.
pub type LogFn = unsafe extern "C" fn(i32, Str, Str, *mut c_void);
/// Hears how far a load is; non-zero aborts it.
pub type ProgressFn = unsafe extern "C" fn(f64, Str, *mut c_void) -> i32;
/// Receives the events of one request; non-zero cancels it.
pub type EventFn = unsafe extern "C" fn(*const EventView, *mut c_void) -> i32;

/// The request left the queue.
pub const EV_ACCEPTED: i32 = 1;
/// More text.
pub const EV_DELTA: i32 = 2;
/// One complete tool call.
pub const EV_TOOL_CALL: i32 = 3;
/// What the answer cost.
pub const EV_USAGE: i32 = 4;
/// The answer is complete.
pub const EV_DONE: i32 = 5;
/// The answer ends here, unfinished.
pub const EV_ERROR: i32 = 6;

/// `zonda_event`: one event as the caller sees it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct EventView {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// One of `EV_*`.
    pub kind: i32,
    /// Counts the events of a request from 0.
    pub seq: u64,
    /// What went wrong, if anything.
    pub status: Status,
    /// Tokens in this event.
    pub token_count: u32,
    /// Text of a delta.
    pub text: Str,
    /// JSON of everything else.
    pub json: Str,
    /// Why the answer ended, on the terminal event.
    pub finish_reason: Str,
}

/// `zonda_engine_params`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct EngineParams {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// The ABI that the caller was built against.
    pub abi_version: u32,
    /// Configuration file, or NULL.
    pub config_path: *const c_char,
    /// TOML text laid over it, or NULL.
    pub config_toml: *const c_char,
    /// Backend, or NULL.
    pub device: *const c_char,
    /// Device profile, or NULL.
    pub profile: *const c_char,
    /// CPU threads; 0 as configured.
    pub worker_threads: u32,
    /// Requests that may wait; 0 as configured.
    pub max_queue: u32,
    /// Receives messages, or NULL for stderr.
    pub log_fn: Option<LogFn>,
    /// Handed to `log_fn`.
    pub log_user_data: *mut c_void,
    /// 0 off to 5 trace.
    pub log_level: i32,
    /// Must be 0.
    pub flags: u32,
}

/// `zonda_model_params`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ModelParams {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// Tokens of prompt and answer; 0 as configured.
    pub context_length: u32,
    /// Requests answered at the same time; 0 as configured.
    pub max_sequences: u32,
    /// Must be 0.
    pub kv_dtype: i32,
    /// Must be 0.
    pub memory_budget_bytes: u64,
    /// Hears how far the load is, or NULL.
    pub progress_fn: Option<ProgressFn>,
    /// Handed to `progress_fn`.
    pub progress_user_data: *mut c_void,
    /// Must be 0.
    pub flags: u32,
}

/// `zonda_request_params`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct RequestParams {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// Milliseconds until the answer is of no use; 0 for never.
    pub timeout_ms: u32,
    /// Negative for background work, positive for who goes first.
    pub priority: i32,
    /// Must be 0.
    pub max_buffered_events: u32,
    /// Must be NULL.
    pub idempotency_key: *const c_char,
    /// Receives the events; NULL to pull them.
    pub event_fn: Option<EventFn>,
    /// Handed to `event_fn`.
    pub event_user_data: *mut c_void,
    /// Must be NULL.
    pub session: *mut c_void,
}

/// `zonda_device_info`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct DeviceInfo {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// Place in the list of devices.
    pub index: u32,
    /// As `zonda_engine_params.device` takes it.
    pub id: [u8; 32],
    /// What its maker calls it.
    pub name: [u8; 96],
    /// How it is driven.
    pub api: [u8; 16],
    /// Bytes; 0 when not known.
    pub memory_total: u64,
    /// Bytes; 0 when not known.
    pub memory_free: u64,
    /// Whether it shares the CPU's memory.
    pub unified_memory: u32,
}

/// `zonda_stats`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Stats {
    /// Bytes of this struct.
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
    /// Tokens given each second.
    pub decode_tokens_per_s: f64,
    /// Prompt tokens computed each second.
    pub prefill_tokens_per_s: f64,
    /// Bytes of the cache in use.
    pub kv_bytes_used: u64,
    /// Bytes of the cache.
    pub kv_bytes_total: u64,
    /// Bytes of the models' files.
    pub model_bytes: u64,
    /// 0 ok, 2 failed.
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
pub(crate) fn fixed<const N: usize>(text: &str) -> [u8; N] {
    let mut end = text.len().min(N - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut field = [0; N];
    field[..end].copy_from_slice(&text.as_bytes()[..end]);
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
        assert_eq!(field, [b'a', 0xc3, 0xa9, 0]);
        assert_eq!(fixed::<4>("aaé")[2], 0);
    }
}
