//! What the engine counts, and the places it has: atomics that any thread may read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use protocol::Usage;

/// A snapshot of what the engine did since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that were answered to the end.
    pub requests_ok: u64,
    /// Requests that were accepted into the queue and failed, deadlines included.
    pub requests_failed: u64,
    /// Requests that somebody cancelled, or whose reader went away.
    pub requests_cancelled: u64,
    /// Requests that `submit` refused.
    pub requests_refused: u64,
    /// Prompt tokens that went through the network.
    pub prompt_tokens: u64,
    /// Answer tokens that were drawn.
    pub answer_tokens: u64,
    /// Steps of the network.
    pub steps: u64,
    /// Microseconds that the engine thread worked.
    pub busy_us: u64,
    /// Of these, microseconds inside the network.
    pub forward_us: u64,
    /// Answers that lost their pages to an older one and were computed anew.
    pub sequences_parked: u64,
    /// Times that the engine began anew after a defect.
    pub restarts: u64,
    /// Prompt tokens of ended requests that were not computed, because they were in memory.
    pub cached_tokens: u64,
    /// Answer tokens of ended requests that were guessed before they were computed.
    pub guessed_tokens: u64,
    /// Of these, tokens that were guessed right.
    pub guessed_right_tokens: u64,
    /// Answer tokens of ended requests that their shape left no choice about.
    pub forced_tokens: u64,
    /// Pages of beginnings that can be found now.
    pub pages_known: u64,
    /// Pages of beginnings that had to make room.
    pub pages_evicted: u64,
    /// Pages of beginnings that came back from disk.
    pub pages_recalled: u64,
    /// Pages of beginnings that were handed over to be written to disk.
    pub pages_kept: u64,
    /// Kept pages that were not what their names say, and were removed.
    pub pages_damaged: u64,
}

/// How a request ended, as far as counting goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    Failed,
    Cancelled,
}

/// The live numbers behind [`Counters`] and the engine's load.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    requests_ok: AtomicU64,
    requests_failed: AtomicU64,
    requests_cancelled: AtomicU64,
    requests_refused: AtomicU64,
    prompt_tokens: AtomicU64,
    answer_tokens: AtomicU64,
    steps: AtomicU64,
    busy_us: AtomicU64,
    forward_us: AtomicU64,
    sequences_parked: AtomicU64,
    restarts: AtomicU64,
    cached_tokens: AtomicU64,
    guessed_tokens: AtomicU64,
    guessed_right_tokens: AtomicU64,
    forced_tokens: AtomicU64,
    pages_known: AtomicU64,
    pages_evicted: AtomicU64,
    pages_recalled: AtomicU64,
    pages_kept: AtomicU64,
    pages_damaged: AtomicU64,
    /// Requests that run or wait.
    in_flight: AtomicU32,
    /// Requests that run.
    active: AtomicU32,
    /// A moving mean of how long a request runs, from its admission on; 0 before the first ended.
    run_us_mean: AtomicU64,
    /// Nothing new is taken.
    closed: AtomicBool,
}

/// A request's right to be in flight; gives its place back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    gauges: Arc<Gauges>,
    runs: bool,
}

impl Gauges {
    /// A place, if fewer than `requests_max` are taken.
    pub(crate) fn place(self: &Arc<Self>, requests_max: u32) -> Option<Place> {
        self.in_flight
            .try_update(Relaxed, Relaxed, |taken| (taken < requests_max).then_some(taken + 1))
            .ok()
            .map(|_| Place { gauges: Arc::clone(self), runs: false })
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    pub(crate) fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// Takes nothing new from now on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    pub(crate) fn note_end(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Ok => &self.requests_ok,
            Outcome::Failed => &self.requests_failed,
            Outcome::Cancelled => &self.requests_cancelled,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Folds one request's running time into the mean, of which it becomes an eighth.
    pub(crate) fn note_run(&self, ran: Duration) {
        let ran = microseconds(ran).max(1);
        let mean = match self.run_us_mean.load(Relaxed) {
            0 => ran,
            mean => mean - mean / 8 + ran / 8,
        };
        self.run_us_mean.store(mean.max(1), Relaxed);
    }

    pub(crate) fn note_refused(&self) {
        self.requests_refused.fetch_add(1, Relaxed);
    }

    pub(crate) fn note_tokens(&self, prompt: u32, answer: u32) {
        self.prompt_tokens.fetch_add(u64::from(prompt), Relaxed);
        self.answer_tokens.fetch_add(u64::from(answer), Relaxed);
    }

    pub(crate) fn note_forward(&self, took: Duration) {
        self.steps.fetch_add(1, Relaxed);
        self.forward_us.fetch_add(microseconds(took), Relaxed);
    }

    pub(crate) fn note_busy(&self, took: Duration) {
        self.busy_us.fetch_add(microseconds(took), Relaxed);
    }

    pub(crate) fn note_parked(&self) {
        self.sequences_parked.fetch_add(1, Relaxed);
    }

    /// Counts what a request that ended did not have to wait for.
    pub(crate) fn note_saved(&self, usage: &Usage) {
        self.cached_tokens.fetch_add(usage.cached_tokens.into(), Relaxed);
        self.guessed_tokens.fetch_add(usage.guessed_tokens.into(), Relaxed);
        self.guessed_right_tokens.fetch_add(usage.guessed_right_tokens.into(), Relaxed);
        self.forced_tokens.fetch_add(usage.forced_tokens.into(), Relaxed);
    }

    /// Sets how many beginnings are known, and how many had to go.
    pub(crate) fn note_pages(&self, known: u64, evicted: u64) {
        self.pages_known.store(known, Relaxed);
        self.pages_evicted.store(evicted, Relaxed);
    }

    /// Counts pages that came back from disk.
    pub(crate) fn note_recalled(&self, pages: u64) {
        self.pages_recalled.fetch_add(pages, Relaxed);
    }

    /// Sets how many pages were kept on disk, and how many of those found there were damaged.
    pub(crate) fn note_store(&self, kept: u64, damaged: u64) {
        self.pages_kept.store(kept, Relaxed);
        self.pages_damaged.store(damaged, Relaxed);
    }

    pub(crate) fn note_restart(&self) {
        self.restarts.fetch_add(1, Relaxed);
    }

    /// Milliseconds until a place should be free: running requests end one after another, evenly
    /// spread over the mean running time. A second where nothing was measured yet.
    pub(crate) fn retry_after_ms(&self) -> u64 {
        let mean = self.run_us_mean.load(Relaxed);
        if mean == 0 {
            return 1_000;
        }
        (mean / u64::from(self.active().max(1)) / 1_000).clamp(100, 120_000)
    }

    /// Milliseconds until somebody behind `queued` others has a turn; 0 where nothing was measured.
    pub(crate) fn wait_ms(&self, queued: u32) -> u64 {
        let mean = self.run_us_mean.load(Relaxed);
        let places = u64::from(self.active().max(1));
        mean.saturating_mul(u64::from(queued) + 1) / places / 1_000
    }

    pub(crate) fn snapshot(&self) -> Counters {
        Counters {
            requests_ok: self.requests_ok.load(Relaxed),
            requests_failed: self.requests_failed.load(Relaxed),
            requests_cancelled: self.requests_cancelled.load(Relaxed),
            requests_refused: self.requests_refused.load(Relaxed),
            prompt_tokens: self.prompt_tokens.load(Relaxed),
            answer_tokens: self.answer_tokens.load(Relaxed),
            steps: self.steps.load(Relaxed),
            busy_us: self.busy_us.load(Relaxed),
            forward_us: self.forward_us.load(Relaxed),
            sequences_parked: self.sequences_parked.load(Relaxed),
            restarts: self.restarts.load(Relaxed),
            cached_tokens: self.cached_tokens.load(Relaxed),
            guessed_tokens: self.guessed_tokens.load(Relaxed),
            guessed_right_tokens: self.guessed_right_tokens.load(Relaxed),
            forced_tokens: self.forced_tokens.load(Relaxed),
            pages_known: self.pages_known.load(Relaxed),
            pages_evicted: self.pages_evicted.load(Relaxed),
            pages_recalled: self.pages_recalled.load(Relaxed),
            pages_kept: self.pages_kept.load(Relaxed),
            pages_damaged: self.pages_damaged.load(Relaxed),
        }
    }
}

impl Place {
    /// Counts its request among those that run.
    pub(crate) fn begin(&mut self) {
        if !std::mem::replace(&mut self.runs, true) {
            self.gauges.active.fetch_add(1, Relaxed);
        }
    }

    /// Counts its request among those that wait.
    pub(crate) fn pause(&mut self) {
        if std::mem::replace(&mut self.runs, false) {
            self.gauges.active.fetch_sub(1, Relaxed);
        }
    }

    pub(crate) fn gauges(&self) -> &Gauges {
        &self.gauges
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pause();
        self.gauges.in_flight.fetch_sub(1, Relaxed);
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_when_dropped() {
        let gauges = Arc::new(Gauges::default());
        let first = gauges.place(2).unwrap();
        let second = gauges.place(2);
        assert!(second.is_some());
        assert!(gauges.place(2).is_none());
        drop(first);
        assert!(gauges.place(2).is_some());
    }

    #[test]
    fn retry_advice_follows_the_measured_running_time() {
        let gauges = Arc::new(Gauges::default());
        assert_eq!(gauges.retry_after_ms(), 1_000);
        gauges.note_run(Duration::from_secs(8));
        let mut places: Vec<Place> = (0..4).filter_map(|_| gauges.place(4)).collect();
        places.iter_mut().for_each(Place::begin);
        assert_eq!(gauges.retry_after_ms(), 2_000);
        drop(places);
        gauges.note_run(Duration::from_secs(1_000_000));
        assert_eq!(gauges.retry_after_ms(), 120_000);
    }
}
