//! What a client has left.

use std::time::Duration;

/// What a client may still ask for, where it is limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Requests.
    pub requests: Option<Remaining>,
    /// Tokens, of prompts and answers together.
    pub tokens: Option<Remaining>,
}

/// One limit and what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remaining {
    /// What may be spent in a minute, and at once after a rest.
    pub limit: u32,
    /// What is left now; 0 while more was spent than was there.
    pub remaining: u32,
    /// The time after which all of it is there again.
    pub reset: Duration,
}
