//! The library itself, its errors and its buffers.

use std::ffi::{CStr, c_char};
use std::ptr;

use crate::border::{BufferHandle, ErrorHandle, enter};
use crate::house;
use crate::layout::{self, DeviceInfo, Str};
use crate::status::{self, Refusal, Status};

const VERSION: &CStr = c"1.0.0";

const BUILD: &str = concat!(
    "{\"version\": \"1.0.0\", \"abi\": 1, \"target\": \"",
    env!("ZONDA_TARGET"),
    "\", \"rustc\": \"",
    env!("ZONDA_RUSTC"),
    "\"}\0",
);

/// ZONDA_ABI_VERSION of the library that is loaded.
#[unsafe(no_mangle)]
pub extern "C" fn zonda_abi_version() -> u32 {
    crate::ABI_VERSION
}

/// The version of the library that is loaded, NUL-terminated, static.
#[unsafe(no_mangle)]
pub extern "C" fn zonda_version_string() -> *const c_char {
    VERSION.as_ptr()
}

/// What the library was built with, NUL-terminated, static.
#[unsafe(no_mangle)]
pub extern "C" fn zonda_build_info_json() -> *const c_char {
    BUILD.as_ptr().cast()
}

/// The name of a status, NUL-terminated, static, never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn zonda_status_name(status: Status) -> *const c_char {
    status::name(status).as_ptr()
}

/// How many devices this box can compute on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_device_count(out: *mut u32) -> Status {
    let work = || {
        let out = crate::border::place(out, "out")?;
        let count = house::devices().len();
        // SAFETY: not NULL; the caller's to write.
        unsafe { out.write(u32::try_from(count).unwrap_or(u32::MAX)) };
        Ok(())
    };
    // SAFETY: no error slot.
    unsafe { enter(ptr::null_mut(), None, work) }
}

/// Describes one device. Set struct_size first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_device_get(index: u32, inout: *mut DeviceInfo) -> Status {
    let work = || {
        let devices = house::devices();
        let found = usize::try_from(index).ok().and_then(|index| devices.get(index));
        let device = found.ok_or_else(|| {
            Refusal::new(status::NOT_FOUND, format!("there are {} devices", devices.len()))
        })?;
        let described = DeviceInfo {
            index,
            id: layout::fixed(&device.id),
            name: layout::fixed(&device.name),
            api: layout::fixed(&device.api),
            memory_total: device.memory_total,
            memory_free: device.memory_free,
            unified_memory: u32::from(device.unified),
            ..layout::zeroed()
        };
        // SAFETY: the caller set struct_size.
        unsafe { layout::fill(inout, described) }
    };
    // SAFETY: no error slot.
    unsafe { enter(ptr::null_mut(), None, work) }
}

/// The status of an error; ZONDA_OK for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_error_code(error: *const ErrorHandle) -> Status {
    // SAFETY: NULL or a live error.
    unsafe { error.as_ref() }.map_or(status::OK, |error| error.status)
}

/// The sentence of an error, valid until it is freed; empty for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_error_message(error: *const ErrorHandle) -> Str {
    // SAFETY: NULL or a live error.
    Str::of(unsafe { error.as_ref() }.map_or("", |error| error.message.as_str()))
}

/// The error as HTTP would answer it, valid until it is freed; empty for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_error_json(error: *const ErrorHandle) -> Str {
    // SAFETY: NULL or a live error.
    Str::of(unsafe { error.as_ref() }.map_or("", |error| error.json.as_str()))
}

/// Frees an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_error_free(error: *mut ErrorHandle) {
    if !error.is_null() {
        // SAFETY: `enter` made it by Box::into_raw; the caller gives it up.
        drop(unsafe { Box::from_raw(error) });
    }
}

/// The bytes of a buffer, valid until it is freed; empty for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_buffer_data(buffer: *const BufferHandle) -> Str {
    // SAFETY: NULL or a live buffer.
    Str::of(unsafe { buffer.as_ref() }.map_or("", |buffer| buffer.0.as_str()))
}

/// Frees a buffer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_buffer_free(buffer: *mut BufferHandle) {
    if !buffer.is_null() {
        // SAFETY: `give_text` made it by Box::into_raw; the caller gives it up.
        drop(unsafe { Box::from_raw(buffer) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_agree() {
        assert_eq!(VERSION.to_str(), Ok(crate::VERSION));
        let build: serde_json::Value = serde_json::from_str(BUILD.trim_end_matches('\0')).unwrap();
        assert_eq!(build["version"], crate::VERSION);
        assert_eq!(build["abi"], crate::ABI_VERSION);
    }
}
