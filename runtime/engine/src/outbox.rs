//! A request's way out: events that wait for a slow reader, and the one last event.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use protocol::{Event, EventSink, Fault, FaultCode, FinishReason, SendOutcome};

use crate::gauges::{Outcome, Place};

/// How long a reader may take nothing before its request is given up. Long enough for a person who
/// stopped the output to read it, short enough that a hung client does not hold pages for ever.
const READER_PATIENCE: Duration = Duration::from_secs(300);

/// Events on their way to one reader.
#[derive(Debug)]
pub(crate) struct Outbox {
    sink: EventSink,
    waiting: VecDeque<Event>,
    stuck_since: Option<Instant>,
    /// Present until the request has ended.
    place: Option<Place>,
}

/// Where a reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// It has everything.
    Clear,
    /// It is slow.
    Stuck,
    /// It is not there any more, or took nothing for far too long.
    Gone,
}

impl Outbox {
    pub(crate) fn new(sink: EventSink, place: Place) -> Self {
        Self { sink, waiting: VecDeque::new(), stuck_since: None, place: Some(place) }
    }

    /// Notes that the request left the queue.
    pub(crate) fn begin(&mut self) {
        self.place.iter_mut().for_each(Place::begin);
    }

    /// Notes that the request waits again.
    pub(crate) fn pause(&mut self) {
        self.place.iter_mut().for_each(Place::pause);
    }

    /// Queues an event behind those that wait.
    pub(crate) fn push(&mut self, event: Event) {
        self.waiting.push_back(event);
    }

    /// Ends the request: counts it and frees its place, so that a client that sees the end finds
    /// room for its next request. `last` is `None` where nobody listens.
    pub(crate) fn close(&mut self, last: Option<Event>) {
        let Some(place) = self.place.take() else {
            return;
        };
        place.gauges().note_end(outcome(last.as_ref()));
        self.waiting.extend(last);
    }

    /// Hands over what the reader takes.
    pub(crate) fn deliver(&mut self, now: Instant) -> Delivery {
        while let Some(event) = self.waiting.pop_front() {
            match self.sink.send(event) {
                SendOutcome::Sent => self.stuck_since = None,
                SendOutcome::Full(event) => {
                    self.waiting.push_front(event);
                    let since = *self.stuck_since.get_or_insert(now);
                    let out_of_patience = now.duration_since(since) >= READER_PATIENCE;
                    return if out_of_patience { Delivery::Gone } else { Delivery::Stuck };
                }
                SendOutcome::Gone => return Delivery::Gone,
            }
        }
        if self.sink.is_gone() { Delivery::Gone } else { Delivery::Clear }
    }

    pub(crate) fn is_clear(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.sink.is_cancelled()
    }
}

fn outcome(last: Option<&Event>) -> Outcome {
    match last {
        Some(Event::Finished { reason: FinishReason::Cancelled, .. }) | None => Outcome::Cancelled,
        Some(Event::Failed(Fault { code: FaultCode::Cancelled, .. })) => Outcome::Cancelled,
        Some(Event::Finished { .. }) => Outcome::Ok,
        Some(_) => Outcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use protocol::{RequestId, Usage, reply_pair};

    use super::*;
    use crate::gauges::Gauges;

    fn text(text: &str) -> Event {
        Event::text(text, 1)
    }

    #[test]
    fn slow_reader_gets_everything_in_order_later() {
        let gauges = Arc::new(Gauges::default());
        let (sink, mut reply) = reply_pair(RequestId("a".into()), 1);
        let mut outbox = Outbox::new(sink, gauges.place(1).unwrap());
        let now = Instant::now();
        outbox.push(text("one"));
        outbox.push(text("two"));
        assert_eq!(outbox.deliver(now), Delivery::Stuck);
        assert_eq!(reply.recv(), Some(text("one")));
        assert_eq!(outbox.deliver(now), Delivery::Clear);
        assert_eq!(reply.recv(), Some(text("two")));
    }

    #[test]
    fn a_reader_that_hangs_is_given_up() {
        let gauges = Arc::new(Gauges::default());
        let (sink, _reply) = reply_pair(RequestId("a".into()), 1);
        let mut outbox = Outbox::new(sink, gauges.place(1).unwrap());
        let now = Instant::now();
        outbox.push(text("one"));
        outbox.push(text("two"));
        assert_eq!(outbox.deliver(now), Delivery::Stuck);
        assert_eq!(outbox.deliver(now + READER_PATIENCE / 2), Delivery::Stuck);
        assert_eq!(outbox.deliver(now + READER_PATIENCE), Delivery::Gone);
    }

    #[test]
    fn the_place_is_free_before_the_reader_sees_the_end() {
        let gauges = Arc::new(Gauges::default());
        let (sink, mut reply) = reply_pair(RequestId("a".into()), 1);
        let mut outbox = Outbox::new(sink, gauges.place(1).unwrap());
        outbox.close(Some(Event::Finished { reason: FinishReason::Stop, usage: Usage::default() }));
        assert!(gauges.place(1).is_some());
        assert_eq!(gauges.snapshot().requests_ok, 1);
        assert_eq!(outbox.deliver(Instant::now()), Delivery::Clear);
        assert!(reply.recv().unwrap().is_last());
    }
}
