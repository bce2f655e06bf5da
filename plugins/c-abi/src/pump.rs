//! Events of a pulled request for a host with a poll loop: a thread takes them from the house, so
//! that a descriptor can say exactly when one lies here.

use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

use protocol::TimedOut;

use crate::lock;
use crate::signal::Signal;
use crate::stream::Shown;

/// Events that wait for the host; what comes behind them is held back by the engine.
const EVENTS_MAX: usize = 16;

/// The queue between the thread and the host.
#[derive(Debug)]
pub(crate) struct Pump {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    events: VecDeque<Shown>,
    /// Number of the next event that the host takes.
    seq: u64,
    /// The request is cancelled: only its last event still counts.
    is_cancelled: bool,
    /// The last event was taken.
    is_over: bool,
    signal: Signal,
}

impl State {
    /// The one rule of the descriptor: readable when [`Pump::take`] would not wait.
    fn show(&mut self) {
        let readable = self.is_over || !self.events.is_empty();
        self.signal.set(readable);
    }
}

impl Pump {
    /// A queue whose first event will be number `seq`; `is_over` when nothing will come.
    pub(crate) fn new(seq: u64, is_over: bool) -> io::Result<Self> {
        let signal = Signal::new()?;
        let events = VecDeque::with_capacity(EVENTS_MAX);
        let mut state = State { events, seq, is_cancelled: false, is_over, signal };
        state.show();
        Ok(Self { state: Mutex::new(state), changed: Condvar::new() })
    }

    /// Readable exactly while [`take`](Self::take) would not wait.
    pub(crate) fn fd(&self) -> i32 {
        lock(&self.state).signal.fd()
    }

    /// Puts an event down, waiting for room.
    pub(crate) fn put(&self, event: Shown) {
        let mut state = lock(&self.state);
        while state.events.len() >= EVENTS_MAX && !state.is_cancelled {
            state = self.wait(state);
        }
        if !state.is_cancelled || event.is_last() {
            state.events.push_back(event);
            state.show();
            self.changed.notify_all();
        }
    }

    /// The next event; `None` after the last. Waits at most until `deadline`, for ever without.
    pub(crate) fn take(&self, deadline: Option<Instant>) -> Result<Option<Shown>, TimedOut> {
        let mut state = lock(&self.state);
        loop {
            if let Some(mut event) = state.events.pop_front() {
                event.seq = state.seq;
                state.seq += 1;
                state.is_over = event.is_last();
                state.show();
                self.changed.notify_all();
                return Ok(Some(event));
            }
            if state.is_over {
                return Ok(None);
            }
            state = match deadline {
                None => self.wait(state),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(TimedOut);
                    }
                    let woken = self.changed.wait_timeout(state, left);
                    woken.unwrap_or_else(|broken| broken.into_inner()).0
                }
            };
        }
    }

    /// Drops what waits, but for the last event.
    pub(crate) fn cancel(&self) {
        let mut state = lock(&self.state);
        state.is_cancelled = true;
        state.events.retain(Shown::is_last);
        state.show();
        self.changed.notify_all();
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(|broken| broken.into_inner())
    }
}
