//! What goes wrong, in words that may cross a wire.

use std::fmt;

/// The only error that leaves the house: a stable code, a sentence for the operator, and, where it
/// applies, the field at fault and the time after which a retry makes sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What kind of failure.
    pub code: FaultCode,
    /// What, where, which limit, what to do. Never holds a prompt, an answer or a secret.
    pub message: String,
    /// The field of the request at fault, in the request's own spelling.
    pub param: Option<String>,
    /// Milliseconds after which a retry may succeed.
    pub retry_after_ms: Option<u64>,
}

impl Fault {
    /// A fault without a field and without advice on retrying.
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param: None, retry_after_ms: None }
    }

    /// The request is malformed.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(FaultCode::BadRequest, message)
    }

    /// Names the field at fault.
    #[must_use]
    pub fn at(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Says when to come back.
    #[must_use]
    pub fn retry_after_ms(mut self, milliseconds: u64) -> Self {
        self.retry_after_ms = Some(milliseconds);
        self
    }
}

/// Kinds of failure. Stable: new ones may come, old ones keep their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultCode {
    /// The request cannot be understood, or breaks a rule of the conversation.
    BadRequest,
    /// A field has a wrong type or is out of range, or is not known where that matters.
    InvalidField,
    /// Prompt and answer do not fit into the model's context.
    ContextLength,
    /// This build does not do what was asked.
    Unsupported,
    /// No or wrong credentials.
    Unauthorized,
    /// The credentials do not allow it, or a filter blocked it.
    Forbidden,
    /// No such model.
    UnknownModel,
    /// No such thing, other than a model.
    NotFound,
    /// The deadline cannot be met or has passed.
    Deadline,
    /// Same id, other content.
    Conflict,
    /// The message is larger than the limit.
    TooLarge,
    /// The queue is full.
    Busy,
    /// This client has spent what it may spend for now.
    RateLimited,
    /// Somebody cancelled it.
    Cancelled,
    /// A defect of ours.
    Internal,
    /// No model is loaded, or the service is shutting down.
    Unavailable,
    /// The disk is full, and what was asked must be written down.
    StorageFull,
}

impl FaultCode {
    /// The number that HTTP and MQTT use for it.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest | Self::ContextLength | Self::Unsupported => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::UnknownModel | Self::NotFound => 404,
            Self::Deadline => 408,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::InvalidField => 422,
            Self::Busy | Self::RateLimited => 429,
            Self::Cancelled => 499,
            Self::Internal => 500,
            Self::Unavailable => 503,
            Self::StorageFull => 507,
        }
    }

    /// The word that answers carry in `code`.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::InvalidField => "invalid_field",
            Self::ContextLength => "context_length_exceeded",
            Self::Unsupported => "unsupported",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::UnknownModel => "model_not_found",
            Self::NotFound => "not_found",
            Self::Deadline => "deadline_exceeded",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::Busy => "queue_full",
            Self::RateLimited => "rate_limited",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal_error",
            Self::Unavailable => "unavailable",
            Self::StorageFull => "storage_full",
        }
    }
}

impl fmt::Display for FaultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
