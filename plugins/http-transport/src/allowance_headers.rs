//! What a client has left, in OpenAI's headers.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use protocol::{Allowance, Remaining};

/// The names for one limit: what it is, what is left, and when all of it is there again.
const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// Adds what is left to the headers of an answer; nothing for what is not limited.
pub(crate) fn tell(allowance: &Allowance, headers: &mut HeaderMap) {
    let mut tell = |names: [HeaderName; 3], left: Option<Remaining>| {
        let Some(Remaining { limit, remaining, reset }) = left else {
            return;
        };
        let [limit_name, remaining_name, reset_name] = names;
        headers.insert(limit_name, HeaderValue::from(limit));
        headers.insert(remaining_name, HeaderValue::from(remaining));
        if let Ok(reset) = HeaderValue::from_str(&spelled(reset)) {
            headers.insert(reset_name, reset);
        }
    };
    tell(REQUESTS, allowance.requests);
    tell(TOKENS, allowance.tokens);
}

/// As OpenAI writes it, never too short: `0s`, `120ms`, `59.5s`, `6m0s`, `1h0m3s`.
fn spelled(time: Duration) -> String {
    let milliseconds = time.as_nanos().div_ceil(1_000_000);
    let (seconds, rest) = (milliseconds / 1000, milliseconds % 1000);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let fraction = format!("{rest:03}");
    let fraction = match fraction.trim_end_matches('0') {
        "" => String::new(),
        digits => format!(".{digits}"),
    };
    match (hours, minutes, seconds % 60) {
        (0, 0, 0) if rest > 0 => format!("{rest}ms"),
        (0, 0, seconds) => format!("{seconds}{fraction}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}{fraction}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spelled_as_openai_does() {
        let cases = [
            (0, "0s"),
            (1, "1ms"),
            (119_000_001, "120ms"),
            (999_999_999, "1s"),
            (1_000_000_000, "1s"),
            (59_500_000_000, "59.5s"),
            (360_000_000_000, "6m0s"),
            (3_603_050_000_000, "1h0m3.05s"),
        ];
        for (nanoseconds, expected) in cases {
            assert_eq!(spelled(Duration::from_nanos(nanoseconds)), expected);
        }
    }
}
