//! The shutdown, step by step.

use std::time::Instant;

use super::{Courier, PARTING, Phase, status};

impl Courier {
    /// Takes the next step of the shutdown, when it is time.
    pub(super) fn part(&mut self, now: Instant) {
        let idle = self.desk.ledger.running() == 0 && self.notes.is_empty();
        let idle = idle && self.archive.is_quiet();
        let online = self.link.as_ref().is_some_and(|line| line.subscribed);
        self.phase = match self.phase {
            Phase::Draining(until) if !idle && now >= until => {
                self.desk.ledger.cancel_all();
                Phase::Cancelling(now + PARTING)
            }
            Phase::Draining(until) | Phase::Cancelling(until) if idle || now >= until => {
                Phase::Parting(now + PARTING, None)
            }
            Phase::Parting(until, None) if online && now < until => {
                let goodbye = status(self.desk.topics.status(), "offline");
                let (ticket, _) = self.outbox.push(goodbye, None, now);
                Phase::Parting(until, Some(ticket))
            }
            Phase::Parting(until, Some(ticket))
                if online
                    && now < until
                    && !self.outbox.holds(ticket)
                    && self.outbox.is_empty() =>
            {
                let said = self.link.as_ref().is_some_and(|line| line.link.disconnect());
                if said { Phase::Leaving(now + PARTING) } else { Phase::Gone }
            }
            // A line that broke took the goodbye along; the next one says it again.
            Phase::Parting(until, Some(_)) if !online && now < until => Phase::Parting(until, None),
            Phase::Parting(until, _) | Phase::Leaving(until) if now >= until => Phase::Gone,
            phase => phase,
        };
    }
}
