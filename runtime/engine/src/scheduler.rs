//! Who runs in a step.
//!
//! Answers that are being written come first, with their next token and guesses behind it; what is
//! left of the step's tokens goes to prompts in chunks, so that a long prompt never keeps a reader of
//! another answer waiting for more than one chunk. Who is let in next is the business of `admission`.
//!
//! Answers of no stated length are not promised a whole context, or one of them would keep all
//! others waiting. When such an answer finds no page to grow into, a paused sequence or the youngest
//! one is parked: it gives up its pages, and later computes anew what had to make room by then. Of those that can run, none is
//! parked for a younger one, so the oldest always reaches its end.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::{Event, Fault, FaultCode, RequestId, Usage};

use crate::batch::{Batch, Logits, Row, RowLogits};
use crate::draft_model::{Ask, DraftModel};
use crate::gauges::Gauges;
use crate::outbox::{Delivery, Outbox};
use crate::pace::Pace;
use crate::pages::Pages;
use crate::recall::Found;
use crate::sampler::Candidate;
use crate::sequence::{Ending, Remains, Sequence, Submission};

mod admission;

pub(crate) use admission::Class;
#[cfg(test)]
pub(crate) use admission::Standing;

/// What the scheduler never exceeds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) sequences_max: u32,
    pub(crate) batch_tokens_max: u32,
    pub(crate) prompt_chunk_tokens: u32,
    /// Tokens that a step is best filled to a multiple of.
    pub(crate) tile_tokens: u32,
    /// How many times as long as a step of answers alone one with prompts may take; `None` for any.
    pub(crate) slowdown_max: Option<f64>,
    /// Tokens that are guessed behind an answer's last one, at most; 0 for none.
    pub(crate) draft_tokens_max: u32,
    /// Answer tokens whose pages an answer of no stated length needs to begin.
    pub(crate) open_answer_tokens: u32,
    /// Ended requests whose reader has not yet taken the last event.
    pub(crate) leaving_max: usize,
    /// Whether beginnings that were found are to be told.
    pub(crate) tells_found: bool,
}

/// Everything in flight.
pub(crate) struct Scheduler {
    bounds: Bounds,
    /// In the order of arrival.
    waiting: Vec<Submission>,
    /// In the order of admission.
    active: Vec<Sequence>,
    /// Begun, and made to wait for something more urgent.
    set_aside: Vec<Sequence>,
    /// Ended requests that have only to be read.
    leaving: VecDeque<Outbox>,
    /// Some active sequence waits for pages, so nothing is admitted.
    is_short_of_pages: bool,
    /// Beginnings that somebody found, where they are asked for.
    found: Vec<Found>,
    scratch: Vec<Candidate>,
    pace: Pace,
    gauges: Arc<Gauges>,
}

/// One step's work: the batch, and whose it is.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) batch: Batch,
    shares: Vec<Share>,
    /// Tokens of prompts.
    pub(crate) prompt_tokens: u32,
    /// Tokens of answers.
    pub(crate) answer_tokens: u32,
}

#[derive(Debug, Clone, Copy)]
struct Share {
    /// Index into the active sequences.
    sequence: usize,
    /// Tokens that it has for certain.
    tokens: u32,
    /// Outcomes that it wants.
    rows: usize,
}

/// Why no step was planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Nothing is in flight.
    Idle,
    /// All that is in flight waits for a reader.
    Stuck,
}

impl Scheduler {
    pub(crate) fn new(bounds: Bounds, gauges: Arc<Gauges>) -> Self {
        Self {
            bounds,
            waiting: Vec::new(),
            active: Vec::new(),
            set_aside: Vec::new(),
            leaving: VecDeque::new(),
            is_short_of_pages: false,
            found: Vec::new(),
            scratch: Vec::new(),
            pace: Pace::new(bounds.tile_tokens),
            gauges,
        }
    }

    /// Queues a request, or refuses it when its answer cannot begin before its deadline. The bound on
    /// requests in flight is kept by their places.
    pub(crate) fn enqueue(&mut self, request: Submission, pages: &Pages, now: Instant) {
        match self.refusal(&request, pages, now) {
            Some(fault) => self.dismiss(request, Ending::Failed(fault), now),
            None => self.waiting.push(request),
        }
    }

    /// Ends what was cancelled, abandoned or is late, delivers what readers now take, and admits.
    pub(crate) fn sweep(&mut self, pages: &mut Pages, now: Instant) {
        self.leaving.retain_mut(|outbox| outbox.deliver(now) == Delivery::Stuck);
        for mut request in std::mem::take(&mut self.waiting) {
            match request.ending(now) {
                Some(ending) => self.dismiss(request, ending, now),
                None => self.waiting.push(request),
            }
        }
        for sequence in self.active.iter_mut().chain(&mut self.set_aside) {
            sequence.look_outside(now);
        }
        self.settle(pages, now);
        self.admit(pages, now);
    }

    /// Fills `plan` with the next step's work; whether there is any.
    pub(crate) fn plan(
        &mut self,
        pages: &mut Pages,
        plan: &mut Plan,
        second: Option<&mut DraftModel>,
    ) -> bool {
        self.share_pages(pages);
        plan.clear();
        let mut left = self.bounds.batch_tokens_max;
        left -= self.plan_answers(pages, plan, second);
        if plan.answer_tokens > 0 {
            left = left.min(self.chunk_tokens(plan.answer_tokens));
        }
        for (index, tokens) in self.portions(pages, plan, left) {
            plan.prompt_tokens += plan.add(index, &mut self.active[index], tokens, pages);
        }
        !plan.shares.is_empty()
    }

    /// Adds the next tokens of all answers, and guesses behind them where these pay; gives how many.
    fn plan_answers(
        &mut self,
        pages: &mut Pages,
        plan: &mut Plan,
        second: Option<&mut DraftModel>,
    ) -> u32 {
        let mut left = self.bounds.batch_tokens_max;
        let mut writers = Vec::new();
        for (index, sequence) in self.active.iter().enumerate() {
            let pending = sequence.pending_tokens();
            if sequence.can_step() && sequence.is_writing() && pending <= left {
                left -= pending;
                writers.push((index, pending));
            }
        }
        self.guess(&writers, left, second);
        let mut together = 0;
        for (index, pending) in writers {
            let sequence = &mut self.active[index];
            together += pending + sequence.draft().len() as u32;
            plan.add(index, sequence, pending, pages);
        }
        plan.answer_tokens = together;
        together
    }

    /// Guesses behind the answers of `writers`, at most `left` tokens: what was said before, or else
    /// what a second network says.
    fn guess(
        &mut self,
        writers: &[(usize, u32)],
        mut left: u32,
        mut second: Option<&mut DraftModel>,
    ) {
        let mut together: u32 = writers.iter().map(|(_, pending)| pending).sum();
        let mut wishes = Vec::new();
        for &(index, _) in writers {
            let (sequence, pace) = (&mut self.active[index], &self.pace);
            let most = self.bounds.draft_tokens_max.min(left);
            sequence.guess(most, |count, right| pace.gain(together, count as u32, right, 0.0));
            let mut guesses = sequence.draft().len();
            if let Some(second) = second.as_deref_mut().filter(|_| guesses == 0) {
                guesses = sequence.wish(most, |count, right| {
                    pace.gain(together, count as u32, right, second.guesses_us(count))
                });
                wishes.extend((guesses > 0).then_some((index, guesses)));
            }
            left -= guesses as u32;
            together += guesses as u32;
        }
        let Some(second) = second else { return };
        let is_active = |id: &RequestId| self.active.iter().any(|own| own.request().id == *id);
        second.keep_only(is_active);
        let asks: Vec<Ask<'_>> =
            wishes.iter().map(|(index, most)| self.active[*index].ask(*most)).collect();
        let guesses = second.guess(&asks);
        for ((index, _), guesses) in wishes.into_iter().zip(guesses) {
            self.active[index].take_guesses(guesses);
        }
    }

    /// Prompt tokens of a step that also writes answers.
    fn chunk_tokens(&self, answer_tokens: u32) -> u32 {
        let most = self.bounds.prompt_chunk_tokens;
        let bound = self.bounds.slowdown_max;
        let bound = bound.and_then(|slowdown| self.pace.chunk_tokens(answer_tokens, slowdown));
        bound.map_or(most, |tokens| tokens.min(most))
    }

    /// Shares `left` tokens among the prompts. Half is the oldest one's, so that it ends; the rest
    /// goes to the shortest first, so that a question does not wait for a book.
    fn portions(&mut self, pages: &mut Pages, plan: &Plan, mut left: u32) -> Vec<(usize, u32)> {
        let mut readers = self.readers(pages, plan);
        readers.sort_by_key(|reader| self.active[*reader].class());
        let Some((&oldest, others)) = readers.split_first() else {
            return Vec::new();
        };
        let pending = |index: usize| self.active[index].pending_tokens();
        let mut others = others.to_vec();
        others.sort_by_key(|other| (self.active[*other].class(), pending(*other)));
        let half = if others.is_empty() { left } else { left.div_ceil(2) };
        let mut portions = vec![(oldest, half.min(pending(oldest)))];
        left -= portions[0].1;
        for other in others {
            let tokens = left.min(pending(other));
            portions.push((other, tokens));
            left -= tokens;
        }
        portions[0].1 += left.min(pending(oldest) - portions[0].1);
        portions.retain(|(_, tokens)| *tokens > 0);
        portions
    }

    /// Who has a prompt to read, or an answer to read again. Where several read the same page the first one computes it, and the
    /// others take it over in the next step.
    fn readers(&mut self, pages: &mut Pages, plan: &Plan) -> Vec<usize> {
        let mut readers = Vec::new();
        let mut claimed = HashSet::new();
        for (index, sequence) in self.active.iter_mut().enumerate() {
            let is_planned = plan.shares.iter().any(|share| share.sequence == index);
            if is_planned || !sequence.can_step() {
                continue;
            }
            sequence.catch_up(pages);
            let is_claimed = sequence.next_link().is_some_and(|link| !claimed.insert(link));
            if !is_claimed {
                readers.push(index);
            }
        }
        readers
    }

    /// Makes sure of the pages of all that can run, the oldest first. Ends, because the sequences
    /// older than one that starves are served, and each round takes the pages of another.
    fn share_pages(&mut self, pages: &mut Pages) {
        loop {
            let starved = self.active.iter_mut().position(|sequence| {
                sequence.is_ready() && !sequence.has_pages() && !sequence.secure_pages(pages)
            });
            self.is_short_of_pages = starved.is_some();
            let Some(victim) = starved.and_then(|sequence| self.victim(sequence)) else {
                return;
            };
            self.active[victim].park(pages);
            self.gauges.note_parked();
        }
    }

    /// Who gives its pages to `starved`: one that waits for its reader, else the youngest behind it.
    fn victim(&self, starved: usize) -> Option<usize> {
        let holders =
            || (0..self.active.len()).rev().filter(|index| !self.active[*index].lease().is_empty());
        holders()
            .find(|index| *index != starved && self.active[*index].is_paused())
            .or_else(|| holders().find(|index| *index > starved))
    }

    /// Gives each sequence of the plan its outcome.
    pub(crate) fn advance(&mut self, plan: &Plan, logits: Logits, pages: &mut Pages) {
        if logits.rows.len() != plan.batch.rows.len() {
            let (found, wanted) = (logits.rows.len(), plan.batch.rows.len());
            let message = format!("the network gave {found} rows, {wanted} were asked for");
            return self.reject(plan, &Fault::new(FaultCode::Internal, message));
        }
        let mut rows = logits.rows.into_iter();
        for share in &plan.shares {
            let sequence = &mut self.active[share.sequence];
            let own: Vec<RowLogits> = rows.by_ref().take(share.rows).collect();
            let progress = sequence.advance(share.tokens, own, &mut self.scratch);
            sequence.publish(pages);
            self.gauges.note_tokens(progress.prompt_tokens, progress.answer_tokens);
        }
    }

    /// Notes how long the network took for a plan.
    pub(crate) fn note_pace(&mut self, plan: &Plan, took: Duration) {
        self.pace.note(plan.prompt_tokens, plan.answer_tokens, took);
    }

    /// Beginnings that requests found in memory since the last call.
    pub(crate) fn take_found(&mut self) -> impl Iterator<Item = Found> {
        self.found.drain(..)
    }

    /// Fails the sequences of a plan that could not be computed.
    pub(crate) fn reject(&mut self, plan: &Plan, fault: &Fault) {
        for share in &plan.shares {
            self.active[share.sequence].end(Ending::Failed(fault.clone()));
        }
    }

    /// Delivers what was said and takes back the pages of what ended.
    pub(crate) fn settle(&mut self, pages: &mut Pages, now: Instant) {
        for set_aside in [false, true] {
            let sequences = if set_aside { &mut self.set_aside } else { &mut self.active };
            let open = sequences.iter_mut().filter(|sequence| !sequence.has_ended());
            open.for_each(|sequence| sequence.deliver(now));
            for sequence in sequences.extract_if(.., |sequence| sequence.has_ended()) {
                self.gauges.note_run(now.duration_since(sequence.ran_since()));
                self.gauges.note_saved(&sequence.usage());
                let Remains { lease, outbox } = sequence.close(now);
                pages.release(lease);
                see_off(&mut self.leaving, self.bounds.leaving_max, outbox, now);
            }
        }
    }

    /// Ends all that was begun, without touching pages: they are begun anew.
    pub(crate) fn fail_active(&mut self, fault: &Fault, now: Instant) {
        for mut sequence in self.active.drain(..).chain(self.set_aside.drain(..)) {
            sequence.end(Ending::Failed(fault.clone()));
            let Remains { lease: _, outbox } = sequence.close(now);
            see_off(&mut self.leaving, self.bounds.leaving_max, outbox, now);
        }
    }

    /// Ends all that waits.
    pub(crate) fn fail_waiting(&mut self, fault: &Fault, now: Instant) {
        for request in std::mem::take(&mut self.waiting) {
            self.dismiss(request, Ending::Failed(fault.clone()), now);
        }
    }

    /// Cancels all that runs.
    pub(crate) fn cancel_active(&mut self, pages: &mut Pages, now: Instant) {
        for sequence in self.active.iter_mut().chain(&mut self.set_aside) {
            sequence.end(Ending::Finished(protocol::FinishReason::Cancelled));
        }
        self.settle(pages, now);
    }

    /// Why nothing runs.
    pub(crate) fn rest(&self) -> Rest {
        let waiting = !self.waiting.is_empty() || !self.set_aside.is_empty();
        if waiting || !self.active.is_empty() || !self.leaving.is_empty() {
            Rest::Stuck
        } else {
            Rest::Idle
        }
    }

    /// Ends a request that never ran.
    fn dismiss(&mut self, request: Submission, ending: Ending, now: Instant) {
        tracing::debug!(request = %request.id, "ended in the queue");
        let mut outbox = request.outbox;
        let last: Option<Event> = ending.into_event(Usage::default());
        outbox.close(last);
        see_off(&mut self.leaving, self.bounds.leaving_max, outbox, now);
    }
}

/// Keeps an ended request until its reader has everything, within the bound.
fn see_off(leaving: &mut VecDeque<Outbox>, leaving_max: usize, mut outbox: Outbox, now: Instant) {
    if outbox.deliver(now) != Delivery::Stuck {
        return;
    }
    if leaving.len() >= leaving_max {
        leaving.pop_front();
    }
    leaving.push_back(outbox);
}

impl Plan {
    fn clear(&mut self) {
        self.shares.clear();
        (self.prompt_tokens, self.answer_tokens) = (0, 0);
        let Batch { tokens, positions, slots, spans, pages, rows } = &mut self.batch;
        tokens.clear();
        positions.clear();
        slots.clear();
        spans.clear();
        pages.clear();
        rows.clear();
    }

    /// Adds a sequence's next `tokens` tokens, and its guesses behind the last; gives how many of its
    /// own were added.
    fn add(&mut self, index: usize, sequence: &mut Sequence, tokens: u32, book: &mut Pages) -> u32 {
        let from = sequence.computed_tokens();
        let guesses = sequence.draft().len() as u32;
        let context_tokens = from + tokens + guesses;
        if let Err(error) = book.extend(sequence.lease_mut(), context_tokens) {
            sequence.end(Ending::Failed(Fault::new(FaultCode::Internal, error.to_string())));
            return 0;
        }
        let own = [sequence.pending(tokens), sequence.draft()];
        let first = self.batch.add(sequence.lease(), from, own);
        let (wanted, want) = (sequence.rows(tokens), sequence.want());
        self.batch.rows.extend(wanted.clone().map(|row| Row { token: first + row, want }));
        self.shares.push(Share { sequence: index, tokens, rows: wanted.len() });
        tokens
    }
}

#[cfg(test)]
impl Scheduler {
    pub(crate) fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }
}
