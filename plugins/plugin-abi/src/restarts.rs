//! When a plugin that failed starts again, and when it does not.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const BACK_OFF_MAX: Duration = Duration::from_secs(60);

/// Counts failures within a window.
#[derive(Debug)]
pub(crate) struct Restarts {
    most: usize,
    window: Duration,
    failures: VecDeque<Instant>,
}

impl Restarts {
    /// So many failures within `window` are answered by a restart.
    pub(crate) fn new(most: u32, window: Duration) -> Self {
        Self { most: most as usize, window, failures: VecDeque::new() }
    }

    /// Counts a failure: how long to wait before the next start, 1, 2, 4 … 60 s; `None` where there
    /// is to be none.
    pub(crate) fn failed(&mut self, now: Instant) -> Option<Duration> {
        while self.failures.front().is_some_and(|then| now.duration_since(*then) >= self.window) {
            self.failures.pop_front();
        }
        if self.failures.len() >= self.most {
            return None;
        }
        let doublings = u32::try_from(self.failures.len()).unwrap_or(u32::MAX).min(6);
        self.failures.push_back(now);
        Some(Duration::from_secs(1 << doublings).min(BACK_OFF_MAX))
    }

    /// Forgets every failure.
    pub(crate) fn forgive(&mut self) {
        self.failures.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_end_at_the_limit() {
        let mut restarts = Restarts::new(8, Duration::from_secs(300));
        let now = Instant::now();
        let waits: Vec<_> = (0..9).map(|_| restarts.failed(now).map(|w| w.as_secs())).collect();
        assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 60, 60].map(Some));
        assert_eq!(waits[8], None);
        restarts.forgive();
        assert_eq!(restarts.failed(now), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_failure_is_forgotten_after_the_window() {
        let mut restarts = Restarts::new(1, Duration::from_secs(10));
        let now = Instant::now();
        assert!(restarts.failed(now).is_some());
        assert!(restarts.failed(now + Duration::from_secs(10)).is_some());
        assert!(restarts.failed(now + Duration::from_secs(11)).is_none());
        assert_eq!(Restarts::new(0, Duration::from_secs(10)).failed(now), None);
    }
}
