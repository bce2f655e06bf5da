//! What a plugin may ask of its host: a log and a small store.
//!
//! A process holds one plugin, so the host's side of it is one value for the whole process.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use crate::abi;
use crate::limiter::{self, Limiter};
use crate::limits::{KEY_BYTES_MAX, KEYS_MAX, LINE_BYTES_MAX, VALUE_BYTES_MAX};
use crate::wire::{self, Say};

static OFFERS: OnceLock<Offers> = OnceLock::new();

static LOG: abi::HostLog = abi::HostLog { log };
static KV: abi::HostKv = abi::HostKv { get: kv_get, set: kv_set };
const LEVEL_ERROR: i32 = 3;

struct Offers {
    control: Mutex<UnixStream>,
    limiter: Mutex<Limiter>,
    last_error: Mutex<String>,
    kept: Mutex<BTreeMap<String, String>>,
}

/// Makes the host's side; once in a process.
pub(crate) fn open(control: UnixStream, kept: BTreeMap<String, String>) {
    // A second start in one process is refused by the loop before it comes here.
    let _first = OFFERS.set(Offers {
        control: Mutex::new(control),
        limiter: Mutex::new(Limiter::new(Instant::now())),
        last_error: Mutex::new(String::new()),
        kept: Mutex::new(kept),
    });
}

/// The host as a plugin sees it. It is never freed: plugins may have threads of their own.
pub(crate) fn host() -> &'static abi::Host {
    Box::leak(Box::new(abi::Host {
        version: abi::VERSION,
        data: std::ptr::null_mut(),
        name: c"zonda".as_ptr(),
        vendor: c"zonda".as_ptr(),
        version_text: VERSION_TEXT.as_ptr(),
        get_extension,
    }))
}

const VERSION_TEXT: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(text) => text,
        Err(_) => c"",
    };

/// Writes a message to the daemon. A daemon that is gone is noticed by the loop.
pub(crate) fn say(message: &Say) -> std::io::Result<()> {
    match OFFERS.get() {
        Some(offers) => wire::send(&mut *lock(&offers.control), message),
        None => Ok(()),
    }
}

/// The last error that the plugin logged, as the reason of a refusal.
pub(crate) fn last_error() -> Option<String> {
    let text = lock(&OFFERS.get()?.last_error).clone();
    (!text.is_empty()).then_some(text)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

unsafe extern "C" fn get_extension(_host: *const abi::Host, id: *const c_char) -> *const c_void {
    if id.is_null() {
        return std::ptr::null();
    }
    // SAFETY: by the interface a `const char *` is not null and ends with a zero.
    let id = unsafe { CStr::from_ptr(id) };
    if id == abi::LOG {
        (&raw const LOG).cast()
    } else if id == abi::KV {
        (&raw const KV).cast()
    } else {
        std::ptr::null()
    }
}

unsafe extern "C" fn log(_host: *const abi::Host, level: i32, line: *const c_char) {
    // SAFETY: as this function's.
    let Some(bytes) = (unsafe { bytes_of(line, LINE_BYTES_MAX) }) else {
        return;
    };
    let Some(offers) = OFFERS.get() else {
        return;
    };
    let line = limiter::line(bytes);
    if level >= LEVEL_ERROR {
        lock(&offers.last_error).clone_from(&line);
    }
    let Some(dropped) = lock(&offers.limiter).pass(Instant::now()) else {
        return;
    };
    if dropped > 0 {
        let line = format!("{dropped} lines were dropped");
        let _told = say(&Say::Log { level: 2, line });
    }
    let _told = say(&Say::Log { level: level.clamp(0, LEVEL_ERROR), line });
}

unsafe extern "C" fn kv_get(
    _host: *const abi::Host,
    key: *const c_char,
    value: *const abi::Out,
) -> bool {
    // SAFETY: as this function's.
    let key = unsafe { bytes_of(key, KEY_BYTES_MAX) };
    let (Some(key), Some(offers)) =
        (key.and_then(|key| std::str::from_utf8(key).ok()), OFFERS.get())
    else {
        return false;
    };
    let Some(kept) = lock(&offers.kept).get(key).cloned() else {
        return false;
    };
    // SAFETY: by the interface `value` is null or a plugin's valid writer for the whole call.
    unsafe {
        value.as_ref().is_some_and(|out| (out.write)(value, kept.as_ptr().cast(), kept.len()))
    }
}

unsafe extern "C" fn kv_set(_host: *const abi::Host, key: *const c_char, value: abi::Str) -> bool {
    // SAFETY: as this function's; one byte more shows a key that is too long.
    let key = unsafe { bytes_of(key, KEY_BYTES_MAX + 1) };
    // SAFETY: by the interface the text is valid for the whole call.
    let value = unsafe { value.text() };
    let (Some(key), Some(value), Some(offers)) =
        (key.and_then(|key| std::str::from_utf8(key).ok()), value, OFFERS.get())
    else {
        return false;
    };
    if !keep(&mut lock(&offers.kept), key, value) {
        return false;
    }
    say(&Say::Keep { key: key.to_owned(), value: value.to_owned() }).is_ok()
}

/// Keeps a value within the limits, which hold on both sides of the wire.
pub(crate) fn keep(kept: &mut BTreeMap<String, String>, key: &str, value: &str) -> bool {
    let fits = (1..=KEY_BYTES_MAX).contains(&key.len()) && value.len() <= VALUE_BYTES_MAX;
    if !fits || (kept.len() >= KEYS_MAX && !kept.contains_key(key)) {
        return false;
    }
    kept.insert(key.to_owned(), value.to_owned());
    true
}

/// The first bytes of a text that ends with a zero.
///
/// # Safety
///
/// `text` is null or ends with a zero, and lives as long as the result.
unsafe fn bytes_of<'a>(text: *const c_char, bytes_max: usize) -> Option<&'a [u8]> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null; no byte behind the zero is looked at.
    let length = unsafe { libc::strnlen(text, bytes_max) };
    // SAFETY: so many bytes were just read.
    Some(unsafe { std::slice::from_raw_parts(text.cast(), length) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_keeps_its_limits() {
        let mut kept = BTreeMap::new();
        assert!(!keep(&mut kept, "", "value"));
        assert!(!keep(&mut kept, &"k".repeat(KEY_BYTES_MAX + 1), "value"));
        assert!(!keep(&mut kept, "key", &"v".repeat(VALUE_BYTES_MAX + 1)));
        for number in 0..KEYS_MAX {
            assert!(keep(&mut kept, &number.to_string(), "value"));
        }
        assert!(!keep(&mut kept, "one more", "value"));
        assert!(keep(&mut kept, "0", "other"));
        assert_eq!(kept["0"], "other");
    }
}
