//! How many lines a plugin may log.

use std::time::Instant;

use crate::limits::{LINE_BYTES_MAX, LINES_BURST, LINES_PER_SECOND};

/// Lets some lines pass at once and some more each second; counts the rest.
#[derive(Debug)]
pub(crate) struct Limiter {
    left: f64,
    refilled: Instant,
    dropped: u64,
}

impl Limiter {
    pub(crate) fn new(now: Instant) -> Self {
        Self { left: f64::from(LINES_BURST), refilled: now, dropped: 0 }
    }

    /// Whether a line may pass, and how many did not since the last one that did.
    pub(crate) fn pass(&mut self, now: Instant) -> Option<u64> {
        let elapsed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        let refill = elapsed * f64::from(LINES_PER_SECOND);
        self.left = (self.left + refill).min(f64::from(LINES_BURST));
        if self.left < 1.0 {
            self.dropped += 1;
            return None;
        }
        self.left -= 1.0;
        Some(std::mem::take(&mut self.dropped))
    }
}

/// A foreign line as one of ours: short, without control characters.
pub(crate) fn line(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let text = String::from_utf8_lossy(bytes);
    text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let passed = (0..1_000_000).filter(|_| limiter.pass(start).is_some()).count();
        assert_eq!(passed, LINES_BURST as usize);
        let dropped = limiter.pass(start + Duration::from_secs(1));
        assert_eq!(dropped, Some(1_000_000 - u64::from(LINES_BURST)));
    }

    #[test]
    fn a_foreign_line_is_one_short_line() {
        assert_eq!(line(b"a\x1b[31mb\nc\xff\n"), "a [31mb c\u{fffd}");
        assert_eq!(line(&[b'x'; 5000]).len(), LINE_BYTES_MAX);
    }
}
