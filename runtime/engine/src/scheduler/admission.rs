//! Who is let in next.
//!
//! The more urgent goes first, and waiting makes urgent, so that nobody waits for ever. Among equals
//! it is the turn of the client of whom least is running, then of who came first. A request that does
//! not find its pages holds back those behind it, because otherwise small requests would starve a
//! large one. What was sent for idle times gives its place to what was not, and goes on later with
//! what it computed, as far as that is still in memory.

use std::time::{Duration, Instant};

use protocol::{Fault, FaultCode, Priority, TokenId};

use super::Scheduler;
use crate::pages::Pages;
use crate::prefixes::Scope;
use crate::recall::Found;
use crate::sequence::{Sequence, Submission};

/// Time in the queue that counts as much as a higher priority.
const STEP_UP: Duration = Duration::from_secs(30);

/// How urgent a request is; the least goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class(u32);

/// Whose turn it is; at equal urgency, what was begun goes on first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    /// Index of one that was set aside.
    Begun(usize),
    /// Index in the queue.
    Waiting(usize),
}

/// Who may share with it, its tokens, and how many of them are computed.
type Reader<'a> = (&'a Option<Scope>, &'a [TokenId], u32);

impl Class {
    const NORMAL: Self = Self(1);

    /// A request's class after its time in the queue.
    fn of(priority: Priority, queued_at: Instant, now: Instant) -> Self {
        let class = match priority {
            Priority::Interactive => 0,
            Priority::Normal => Self::NORMAL.0,
            Priority::Batch => 2,
        };
        let steps = now.duration_since(queued_at).as_secs() / STEP_UP.as_secs();
        Self(class.saturating_sub(u32::try_from(steps).unwrap_or(u32::MAX)))
    }
}

impl Scheduler {
    /// Why a request is not even queued: by what was measured, its first token would come too late.
    pub(super) fn refusal(
        &self,
        request: &Submission,
        pages: &Pages,
        now: Instant,
    ) -> Option<Fault> {
        let left = request.deadline?.saturating_duration_since(now);
        let (ahead, own) = self.tokens_to_read(request, pages, now);
        let writes = self.active.iter().any(Sequence::is_writing);
        let slowdown_max = self.bounds.slowdown_max.filter(|_| writes);
        let wait = self.pace.prompts(ahead, slowdown_max)?;
        let needed = wait + self.pace.prompts(own, slowdown_max)?;
        if needed <= left {
            return None;
        }
        let message = format!(
            "the deadline is in {} ms, and the first token is expected in {} ms: {ahead} tokens of \
             other prompts and {own} of this one are to be read before; allow more time or come \
             back later",
            left.as_millis(),
            needed.as_millis()
        );
        let retry_after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(100);
        Some(Fault::new(FaultCode::Deadline, message).at("deadline").retry_after_ms(retry_after_ms))
    }

    /// Tokens that are read before the prompt of a request that comes now, and those of the prompt
    /// itself. What several have in common is read once.
    fn tokens_to_read(&self, request: &Submission, pages: &Pages, now: Instant) -> (u64, u64) {
        let class = Class::of(request.priority, request.queued_at, now);
        let active = self.active.iter().filter(|sequence| !sequence.is_writing());
        let active = active.map(|sequence| {
            (&sequence.request().scope, sequence.tokens(), sequence.computed_tokens())
        });
        let sooner = |other: &&Submission| Class::of(other.priority, other.queued_at, now) <= class;
        let queued = self.waiting.iter().filter(sooner).chain([request]).map(|other| {
            let known = pages.known_tokens(other.scope.as_ref(), &other.prompt);
            (&other.scope, &other.prompt[..], known)
        });
        let readers: Vec<_> = active.chain(queued).collect();
        let unread = |(index, &(scope, tokens, known)): (usize, &Reader<'_>)| {
            let sharing =
                readers[..index].iter().filter(|(other, ..)| scope.is_some() && *other == scope);
            let common = sharing.map(|(_, other, _)| common_tokens(tokens, other)).max();
            (tokens.len() - common.unwrap_or(0).max(known as usize)) as u64
        };
        let mut unread: Vec<u64> = readers.iter().enumerate().map(unread).collect();
        let own = unread.pop().unwrap_or(0);
        (unread.iter().sum(), own)
    }

    /// Lets in who is next, as long as there is room.
    pub(super) fn admit(&mut self, pages: &mut Pages, now: Instant) {
        while !self.is_short_of_pages
            && let Some((class, next)) = self.next(now)
        {
            let has_place = self.active.len() < self.bounds.sequences_max as usize;
            if has_place && self.begin(class, next, pages, now) {
                continue;
            }
            // What is for idle times makes room for what is not.
            let victim = self.active.iter().rposition(|sequence| sequence.class() > Class::NORMAL);
            match victim.filter(|_| class <= Class::NORMAL) {
                None => break,
                Some(victim) => {
                    let mut sequence = self.active.remove(victim);
                    sequence.set_aside(pages);
                    self.gauges.note_parked();
                    self.set_aside.push(sequence);
                }
            }
        }
    }

    /// Who is next: the most urgent; among equals, a client of whom least is running; among those,
    /// who came first.
    fn next(&self, now: Instant) -> Option<(Class, Next)> {
        let running = |client: Option<&str>| {
            self.active
                .iter()
                .filter(|sequence| sequence.request().client.as_deref() == client)
                .count()
        };
        let begun = self.set_aside.iter().enumerate().map(|(index, sequence)| {
            let Submission { priority, queued_at, client, .. } = sequence.request();
            let class = Class::of(*priority, *queued_at, now);
            (class, running(client.as_deref()), Next::Begun(index))
        });
        let waiting = self.waiting.iter().enumerate().map(|(index, request)| {
            let class = Class::of(request.priority, request.queued_at, now);
            (class, running(request.client.as_deref()), Next::Waiting(index))
        });
        begun.chain(waiting).min().map(|(class, _, next)| (class, next))
    }

    /// Lets the next one run; whether there are pages for it.
    fn begin(&mut self, class: Class, next: Next, pages: &mut Pages, now: Instant) -> bool {
        match next {
            Next::Begun(index) => {
                if !self.set_aside[index].secure_pages(pages) {
                    return false;
                }
                let mut sequence = self.set_aside.remove(index);
                sequence.go_on(class);
                self.active.push(sequence);
            }
            Next::Waiting(index) => {
                let request = &self.waiting[index];
                let reuse = request.reuse(pages);
                let tokens_max = request.lease_tokens(self.bounds.open_answer_tokens);
                let lease = pages.lease(request.scope.clone(), &request.prompt, tokens_max);
                let Some(lease) = lease else {
                    return false;
                };
                let request = self.waiting.remove(index);
                let known = lease.published_tokens() as usize;
                if let Some(scope) = request.scope.clone().filter(|_| known > 0)
                    && self.bounds.tells_found
                {
                    let tokens = request.prompt[..known].to_vec();
                    self.found.push(Found { scope, tokens });
                }
                let mut sequence = Sequence::begin(request, reuse, class, lease, now);
                sequence.deliver(now);
                self.active.push(sequence);
            }
        }
        true
    }
}

/// Names of who runs and of who waits.
#[cfg(test)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) active: Vec<String>,
    pub(crate) waiting: Vec<String>,
}

#[cfg(test)]
impl Scheduler {
    pub(crate) fn standing(&self) -> Standing {
        let begun = self.set_aside.iter().map(Sequence::request);
        Standing {
            active: self.active.iter().map(|one| one.request().id.to_string()).collect(),
            waiting: self.waiting.iter().chain(begun).map(|one| one.id.to_string()).collect(),
        }
    }
}

fn common_tokens(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_makes_urgent() {
        let now = Instant::now();
        let class =
            |priority, seconds| Class::of(priority, now, now + Duration::from_secs(seconds));
        assert!(class(Priority::Interactive, 0) < class(Priority::Normal, 29));
        assert_eq!(class(Priority::Normal, 31), class(Priority::Interactive, 0));
        assert_eq!(class(Priority::Batch, 61), class(Priority::Interactive, 9_000));
    }
}
