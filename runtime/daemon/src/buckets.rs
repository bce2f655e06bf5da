//! What may be spent: a bucket that fills steadily, and an amount for a day.
//!
//! Whole numbers all the way: who waits as long as it was told finds exactly what it was told.
//! Tokens are taken when they are known, which is behind the answer, so a bucket may go below
//! empty; it lets nobody in until it is above again. Over time nobody gets more than the rate.

use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Shares that one unit is cut into, so that the fill of a nanosecond is a whole number of them.
const SHARES: i128 = MINUTE.as_nanos() as i128;

/// Fills by `limit` a minute, up to `limit`.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    limit: u32,
    /// In shares of a unit; negative where more was spent than was there.
    level: i128,
    filled: Instant,
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(limit: u32, now: Instant) -> Self {
        Self { limit, level: i128::from(limit) * SHARES, filled: now }
    }

    /// How long until `amount` is there; `None` where that never comes.
    pub(crate) fn wait(&mut self, amount: u32, now: Instant) -> Option<Duration> {
        self.fill(now);
        let missing = i128::from(amount) * SHARES - self.level;
        (amount <= self.limit).then(|| self.time_for(missing))
    }

    pub(crate) fn take(&mut self, amount: u64, now: Instant) {
        self.fill(now);
        self.level -= i128::from(amount) * SHARES;
    }

    /// Gives back what was taken for nothing.
    pub(crate) fn give_back(&mut self, amount: u32, now: Instant) {
        self.fill(now);
        self.level = (self.level + i128::from(amount) * SHARES).min(self.top());
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// Whole units that are there.
    pub(crate) fn remaining(&mut self, now: Instant) -> u32 {
        self.fill(now);
        u32::try_from(self.level.max(0) / SHARES).unwrap_or(u32::MAX)
    }

    /// How long until it is full.
    pub(crate) fn reset(&mut self, now: Instant) -> Duration {
        self.fill(now);
        self.time_for(self.top() - self.level)
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_nanos();
        let fresh = i128::try_from(passed).unwrap_or(i128::MAX).saturating_mul(self.limit.into());
        self.level = self.level.saturating_add(fresh).min(self.top());
        self.filled = self.filled.max(now);
    }

    fn top(&self) -> i128 {
        i128::from(self.limit) * SHARES
    }

    fn time_for(&self, shares: i128) -> Duration {
        let nanoseconds = shares.max(0).div_euclid(self.limit.max(1).into())
            + i128::from(shares.max(0).rem_euclid(self.limit.max(1).into()) > 0);
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

/// An amount for each 24 hours, which begin when something is spent.
///
/// By a clock that never jumps, so not from midnight to midnight.
#[derive(Debug, Clone)]
pub(crate) struct Daily {
    limit: u32,
    spent: u64,
    since: Option<Instant>,
}

impl Daily {
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit, spent: 0, since: None }
    }

    /// How long until something may be spent.
    pub(crate) fn wait(&mut self, now: Instant) -> Duration {
        self.turn(now);
        let end = self.since.filter(|_| self.spent >= self.limit.into()).map(|since| since + DAY);
        end.map_or(Duration::ZERO, |end| end.saturating_duration_since(now))
    }

    pub(crate) fn take(&mut self, amount: u64, now: Instant) {
        self.turn(now);
        self.since.get_or_insert(now);
        self.spent = self.spent.saturating_add(amount);
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    pub(crate) fn is_untouched(&mut self, now: Instant) -> bool {
        self.turn(now);
        self.since.is_none()
    }

    fn turn(&mut self, now: Instant) {
        if self.since.is_some_and(|since| now.saturating_duration_since(since) >= DAY) {
            *self = Self::new(self.limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_a_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(60, start);
        for _ in 0..60 {
            assert_eq!(bucket.wait(1, start), Some(Duration::ZERO));
            bucket.take(1, start);
        }
        assert_eq!(bucket.wait(1, start), Some(Duration::from_secs(1)));
        assert_eq!(bucket.wait(2, start), Some(Duration::from_secs(2)));
        assert_eq!(bucket.wait(61, start), None, "it never holds so much");
        assert_eq!(bucket.reset(start), MINUTE);
        let later = start + Duration::from_millis(2_500);
        assert_eq!(bucket.remaining(later), 2);
        assert_eq!(bucket.remaining(start + 10 * MINUTE), 60, "no more than a minute's worth");
    }

    #[test]
    fn who_waits_as_long_as_it_was_told_finds_it_there() {
        let start = Instant::now();
        for limit in [1, 3, 7, 59, 61, 997, 1_000_000_000] {
            let mut bucket = Bucket::new(limit, start);
            bucket.take(u64::from(limit) * 3 + 1, start);
            let wait = bucket.wait(1, start).expect("1 fits into every bucket");
            let before = start + wait - Duration::from_nanos(1);
            assert!(bucket.clone().wait(1, before).is_some_and(|wait| wait > Duration::ZERO));
            assert_eq!(bucket.wait(1, start + wait), Some(Duration::ZERO), "{limit} a minute");
        }
    }

    #[test]
    fn a_debt_is_paid_before_anybody_is_let_in() {
        let start = Instant::now();
        let mut bucket = Bucket::new(600, start);
        bucket.take(1_800, start);
        assert_eq!(bucket.remaining(start), 0);
        assert_eq!(bucket.wait(1, start), Some(Duration::from_millis(120_100)));
        bucket.give_back(2_000, start);
        assert_eq!(bucket.remaining(start), 600, "and never more than it holds");
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_fills_nothing() {
        let start = Instant::now() + DAY;
        let mut bucket = Bucket::new(60, start);
        bucket.take(60, start);
        assert_eq!(bucket.remaining(start - MINUTE), 0);
        assert_eq!(bucket.remaining(start), 0);
    }

    #[test]
    fn a_day_begins_with_its_first_token() {
        let start = Instant::now();
        let mut daily = Daily::new(100);
        assert!(daily.is_untouched(start));
        daily.take(40, start);
        assert_eq!(daily.wait(start), Duration::ZERO);
        let evening = start + DAY / 2;
        daily.take(200, evening);
        assert_eq!(daily.wait(evening), DAY / 2);
        assert_eq!(daily.wait(start + DAY), Duration::ZERO);
        assert!(daily.is_untouched(start + DAY));
    }
}
