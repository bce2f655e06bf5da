//! Threads that stand between the engine and a transport, one for each answer that a layer looks at.
//!
//! A [`Reply`] is a queue that somebody has to fill, so a layer that changes an answer has a thread
//! that takes events from the room behind and hands them on. It holds one event at a time: a slow
//! reader makes this thread wait, and the wait reaches the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use protocol::{
    Event, EventSink, Fault, FaultCode, Reply, RequestId, SendOutcome, TimedOut, reply_pair,
};

/// Events between a relay and its reader; what waits before it is held back by the engine's queue.
pub(crate) const RELAY_EVENTS_MAX: usize = 16;
/// How long a relay may not notice that its reader is gone or cancels.
const NOTICE: Duration = Duration::from_millis(20);
/// How long it waits before it offers an event to a full queue again.
const RETRY: Duration = Duration::from_millis(2);
/// When a refused request may come again; a seat is free as soon as one answer ends.
const RETRY_AFTER_MS: u64 = 1000;

/// Bounds the threads that stand between the engine and the transports.
pub(crate) struct Relays {
    layer: &'static str,
    requests_max: u32,
    taken: Arc<AtomicU32>,
}

impl Relays {
    /// No more than `requests_max` at a time; `layer` names them in faults and thread lists.
    pub(crate) fn new(layer: &'static str, requests_max: u32) -> Self {
        Self { layer, requests_max, taken: Arc::new(AtomicU32::new(0)) }
    }

    /// Waits until nothing goes through any more, until `deadline` at most.
    pub(crate) fn wait_until_idle(&self, deadline: Instant) {
        while self.taken.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            thread::sleep(NOTICE.min(deadline.saturating_duration_since(Instant::now())));
        }
    }

    /// Room for one more.
    ///
    /// Errors: [`FaultCode::Busy`] when all are taken.
    pub(crate) fn seat(&self) -> Result<Seat, Fault> {
        let more = |taken: u32| (taken < self.requests_max).then_some(taken + 1);
        match self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more) {
            Ok(_) => Ok(Seat { layer: self.layer, taken: Arc::clone(&self.taken) }),
            Err(_) => Err(Fault::new(
                FaultCode::Busy,
                format!(
                    "{} answers go through {} already, which is the limit",
                    self.requests_max, self.layer
                ),
            )
            .retry_after_ms(RETRY_AFTER_MS)),
        }
    }
}

/// One of the relays that may run; free again when dropped.
pub(crate) struct Seat {
    layer: &'static str,
    taken: Arc<AtomicU32>,
}

impl Seat {
    /// Runs `work` on a thread of its own and gives back the answer that it fills.
    ///
    /// A panic in `work` ends the answer with [`FaultCode::Internal`] and nothing else.
    pub(crate) fn run(
        self,
        id: RequestId,
        work: impl FnOnce(Outlet) + Send + 'static,
    ) -> Result<Reply, Fault> {
        let (sink, reply) = reply_pair(id, RELAY_EVENTS_MAX);
        let name = format!("zonda-{}", self.layer);
        let seated = move || {
            // Moved here so that the seat is free when the thread ends, however it ends.
            let _seat = self;
            work(Outlet(sink));
        };
        match thread::Builder::new().name(name).spawn(seated) {
            Ok(_detached) => Ok(reply),
            Err(error) => {
                let message = format!("cannot start a thread for this answer: {error}");
                Err(Fault::new(FaultCode::Unavailable, message).retry_after_ms(RETRY_AFTER_MS))
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The reader dropped the answer: stop, and by that cancel what lies behind.
#[derive(Debug)]
pub(crate) struct Gone;

/// Where a relay puts its events.
pub(crate) struct Outlet(EventSink);

impl Outlet {
    /// The next event of the answer behind, passing on a cancel that comes meanwhile.
    pub(crate) fn next(&self, answer: &mut Reply) -> Result<Option<Event>, Gone> {
        loop {
            match answer.recv_timeout(NOTICE) {
                Ok(event) => return Ok(event),
                Err(TimedOut) if self.0.is_gone() => return Err(Gone),
                Err(TimedOut) => self.pass_cancel(answer),
            }
        }
    }

    /// Hands an event to the reader, waiting for room.
    pub(crate) fn send(&self, event: Event, answer: &Reply) -> Result<(), Gone> {
        let mut event = event;
        loop {
            match self.0.send(event) {
                SendOutcome::Sent => return Ok(()),
                SendOutcome::Gone => return Err(Gone),
                SendOutcome::Full(kept) => event = kept,
            }
            self.pass_cancel(answer);
            thread::sleep(RETRY);
        }
    }

    /// Ends an answer that nothing came of.
    pub(crate) fn refuse(&self, fault: Fault) -> Result<(), Gone> {
        match self.0.send(Event::Failed(fault)) {
            // There is room for the first event.
            SendOutcome::Sent | SendOutcome::Full(_) => Ok(()),
            SendOutcome::Gone => Err(Gone),
        }
    }

    /// Whether the reader wants no more of the answer, but still its end.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Whether the reader is gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.0.is_gone()
    }

    fn pass_cancel(&self, answer: &Reply) {
        if self.0.is_cancelled() {
            answer.canceller().cancel();
        }
    }
}
