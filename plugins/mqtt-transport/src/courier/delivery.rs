//! What leaves: confirmations, pieces of answers, and what waits in the outbox.

use std::time::Instant;

use super::{CONFIRMATIONS_MAX, Courier, WINDOW};
use crate::address::{Parcel, too_large};
use crate::archive::Receipt;
use crate::gauge::Count;
use crate::link::{Break, HANDED_MAX, wire_bytes};
use crate::outbox::Lost;
use crate::watch::Change;

impl Courier {
    pub(super) fn post(&mut self, parcel: Parcel, now: Instant) {
        if parcel.reliable {
            let (_, lost) = self.outbox.push(parcel, None, now);
            self.lost(lost, now);
        } else if self.link.as_ref().is_some_and(|line| line.subscribed) {
            self.pieces.push_back((self.outbox.latest(), parcel));
        } else {
            self.gauge.count(Count::DeltaDropped);
        }
    }

    /// Messages left the outbox without a confirmation.
    pub(super) fn lost(&mut self, lost: Lost, now: Instant) {
        self.gauge.add(Count::ReplyLost, lost.count);
        for number in lost.numbers {
            self.settle(number, now);
        }
    }

    /// Tells the broker that a message is taken, if it came over the connection that we have.
    pub(super) fn confirm(&mut self, receipt: Receipt) {
        if let Some(pool) = &mut self.pool {
            pool.confirm(receipt);
        }
        let line = self.link.as_mut().filter(|line| line.number == receipt.line);
        if let (Some(line), Some(packet_id)) = (line, receipt.packet_id) {
            line.confirmations.push_back(packet_id);
        }
    }

    /// Gives the client library what confirmations it has room for.
    pub(super) fn hand_confirmations(&mut self) {
        let Some(line) = self.link.as_mut().filter(|line| !line.closed) else { return };
        while line.handed < HANDED_MAX
            && let Some(packet_id) = line.confirmations.pop_front()
        {
            // A line that is over says so behind the signals that we have not read yet, and its
            // broker sends the message again.
            line.closed = !line.link.confirm(packet_id);
            line.handed += usize::from(!line.closed);
            if line.closed {
                return;
            }
        }
        if line.confirmations.len() > CONFIRMATIONS_MAX {
            let why = "the broker sends faster than it takes confirmations";
            self.lose(&Break::Lost(why.into()), Instant::now());
        }
    }

    /// Gives the client library what it has room for: confirmations, then pieces and ends as they
    /// came. An end so follows the pieces of its answer, and does not wait for those of others, which
    /// may never stop; where it waits for the broker, pieces pass it.
    pub(super) fn hand_over(&mut self) {
        self.hand_confirmations();
        let now = Instant::now();
        let Some(line) = self.link.as_mut().filter(|line| line.subscribed && !line.closed) else {
            return;
        };
        let Some((up, _)) = line.up else { return };
        // One confirmation short of the broker's limit, so that our own confirmations are not
        // held back behind it.
        let broker_window = up.receive_max.map_or(WINDOW, |max| usize::from(max).saturating_sub(1));
        let window = WINDOW.min(broker_window).max(1);
        let fits =
            |parcel: &Parcel| up.packet_bytes_max.is_none_or(|max| wire_bytes(parcel) <= max);
        while line.handed < HANDED_MAX
            && let Some(change) = self.desk.watches.next_change()
        {
            line.handed += 1;
            // A line that takes nothing more has ended, and says so by its signals.
            let _taken = match change {
                Change::Subscribe(topic) => line.link.subscribe(vec![topic]),
                Change::Unsubscribe(topic) => line.link.unsubscribe(topic),
            };
        }
        while line.handed < HANDED_MAX {
            let until = self.pieces.front().map(|(before, _)| *before);
            let (parcel, reliable) = match self.outbox.hand(until, window, now) {
                Some(parcel) => (parcel, true),
                None => match self.pieces.pop_front() {
                    Some((_, piece)) => (piece, false),
                    None => return,
                },
            };
            if fits(&parcel) {
                if line.link.publish(parcel) {
                    line.handed += 1;
                    continue;
                }
                // Its task has ended and said why behind the signals that we have not read yet.
                return self.lose(&Break::Lost("the connection takes nothing more".into()), now);
            }
            tracing::warn!("a message is too large for the broker");
            if reliable {
                let lost = self.outbox.withdraw(too_large);
                return self.lost(lost, now);
            } else {
                self.gauge.count(Count::DeltaDropped);
            }
        }
    }
}
