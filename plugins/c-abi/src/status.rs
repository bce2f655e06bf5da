//! What a call returns: a status, and why.

use std::ffi::CStr;

use protocol::{Fault, FaultCode};

/// Status of a call: never renumbered; treat unknown values as errors.
pub type Status = i32;

/// The call did what it says.
pub const OK: Status = 0;
/// An argument makes no sense.
pub const INVALID_ARGUMENT: Status = -1;
/// Not now, or not on this thread.
pub const INVALID_STATE: Status = -2;
/// The caller was built against another ABI.
pub const ABI_MISMATCH: Status = -3;
/// This build does not do what was asked.
pub const UNSUPPORTED: Status = -4;
/// No such file, model or device.
pub const NOT_FOUND: Status = -5;
/// A file cannot be read.
pub const IO: Status = -6;
/// It does not fit into memory.
pub const OUT_OF_MEMORY: Status = -7;
/// The device cannot be used.
pub const DEVICE: Status = -8;
/// The model's files cannot be used.
pub const MODEL_FORMAT: Status = -9;
/// The model's signature is missing or wrong.
pub const MODEL_SIGNATURE: Status = -10;
/// Prompt and answer do not fit into the context.
pub const CONTEXT_LENGTH: Status = -11;
/// The queue is full.
pub const OVERLOADED: Status = -12;
/// Somebody cancelled it.
pub const CANCELLED: Status = -13;
/// The deadline has passed.
pub const TIMEOUT: Status = -14;
/// No or wrong credentials.
pub const AUTH: Status = -15;
/// A filter blocked it.
pub const CONTENT_FILTER: Status = -16;
/// Nothing came in time; try again.
pub const WOULD_BLOCK: Status = -17;
/// The caller's array is too short.
pub const BUFFER_TOO_SMALL: Status = -18;
/// A plugin failed.
pub const PLUGIN: Status = -19;
/// A defect of the library; the engine is out of use.
pub const INTERNAL: Status = -100;

const NAMES: &[(Status, &CStr)] = &[
    (OK, c"ZONDA_OK"),
    (INVALID_ARGUMENT, c"ZONDA_E_INVALID_ARGUMENT"),
    (INVALID_STATE, c"ZONDA_E_INVALID_STATE"),
    (ABI_MISMATCH, c"ZONDA_E_ABI_MISMATCH"),
    (UNSUPPORTED, c"ZONDA_E_UNSUPPORTED"),
    (NOT_FOUND, c"ZONDA_E_NOT_FOUND"),
    (IO, c"ZONDA_E_IO"),
    (OUT_OF_MEMORY, c"ZONDA_E_OUT_OF_MEMORY"),
    (DEVICE, c"ZONDA_E_DEVICE"),
    (MODEL_FORMAT, c"ZONDA_E_MODEL_FORMAT"),
    (MODEL_SIGNATURE, c"ZONDA_E_MODEL_SIGNATURE"),
    (CONTEXT_LENGTH, c"ZONDA_E_CONTEXT_LENGTH"),
    (OVERLOADED, c"ZONDA_E_OVERLOADED"),
    (CANCELLED, c"ZONDA_E_CANCELLED"),
    (TIMEOUT, c"ZONDA_E_TIMEOUT"),
    (AUTH, c"ZONDA_E_AUTH"),
    (CONTENT_FILTER, c"ZONDA_E_CONTENT_FILTER"),
    (WOULD_BLOCK, c"ZONDA_E_WOULD_BLOCK"),
    (BUFFER_TOO_SMALL, c"ZONDA_E_BUFFER_TOO_SMALL"),
    (PLUGIN, c"ZONDA_E_PLUGIN"),
    (INTERNAL, c"ZONDA_E_INTERNAL"),
];

/// The name of a status in the header.
pub(crate) fn name(status: Status) -> &'static CStr {
    let found = NAMES.iter().find(|(number, _)| *number == status);
    found.map_or(c"ZONDA_E_UNKNOWN", |(_, name)| name)
}

/// Why a call fails.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) status: Status,
    pub(crate) fault: Fault,
}

impl Refusal {
    pub(crate) fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, fault: Fault::new(code_of(status), message) }
    }

    pub(crate) fn argument(message: impl Into<String>) -> Self {
        Self::new(INVALID_ARGUMENT, message)
    }

    pub(crate) fn state(message: impl Into<String>) -> Self {
        Self::new(INVALID_STATE, message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(UNSUPPORTED, message)
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self { status: status_of(fault.code), fault }
    }
}

/// The status that stands for a fault.
pub(crate) fn status_of(code: FaultCode) -> Status {
    match code {
        FaultCode::BadRequest | FaultCode::InvalidField | FaultCode::TooLarge => INVALID_ARGUMENT,
        FaultCode::ContextLength => CONTEXT_LENGTH,
        FaultCode::Unsupported => UNSUPPORTED,
        FaultCode::Unauthorized => AUTH,
        FaultCode::Forbidden => CONTENT_FILTER,
        FaultCode::UnknownModel | FaultCode::NotFound => NOT_FOUND,
        FaultCode::Deadline => TIMEOUT,
        FaultCode::Busy | FaultCode::RateLimited => OVERLOADED,
        FaultCode::Cancelled => CANCELLED,
        FaultCode::Internal => INTERNAL,
        FaultCode::Conflict | FaultCode::Unavailable => INVALID_STATE,
        FaultCode::StorageFull => IO,
    }
}

/// The fault that stands for a status, for the JSON form of an error.
fn code_of(status: Status) -> FaultCode {
    match status {
        INVALID_ARGUMENT | ABI_MISMATCH | BUFFER_TOO_SMALL => FaultCode::BadRequest,
        INVALID_STATE => FaultCode::Conflict,
        UNSUPPORTED => FaultCode::Unsupported,
        NOT_FOUND => FaultCode::NotFound,
        CONTEXT_LENGTH => FaultCode::ContextLength,
        OVERLOADED => FaultCode::Busy,
        CANCELLED => FaultCode::Cancelled,
        TIMEOUT | WOULD_BLOCK => FaultCode::Deadline,
        IO | OUT_OF_MEMORY | DEVICE | MODEL_FORMAT | MODEL_SIGNATURE => FaultCode::Unavailable,
        _ => FaultCode::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_own_number_and_name() {
        for (place, (number, name)) in NAMES.iter().enumerate() {
            assert!(NAMES[..place].iter().all(|other| other.0 != *number && other.1 != *name));
        }
        assert_eq!(name(-9999), c"ZONDA_E_UNKNOWN");
    }

    #[test]
    fn faults_keep_their_meaning() {
        let table = [
            (FaultCode::ContextLength, CONTEXT_LENGTH),
            (FaultCode::Busy, OVERLOADED),
            (FaultCode::Deadline, TIMEOUT),
            (FaultCode::UnknownModel, NOT_FOUND),
            (FaultCode::Unavailable, INVALID_STATE),
            (FaultCode::InvalidField, INVALID_ARGUMENT),
        ];
        for (code, status) in table {
            assert_eq!(Refusal::from(Fault::new(code, "why")).status, status);
        }
    }
}
