//! Who runs in a step.
//!
//! Answers that are being written come first, one token each; what is left of the step's tokens
//! goes to prompts, in the order of their admission and in chunks, so that a long prompt never
//! keeps a reader of another answer waiting for more than one chunk. Admission is first come first
//! served within a priority; a request that does not find its pages holds back those behind it,
//! because otherwise small requests would starve a large one.
//!
//! Answers of no stated length are not promised a whole context, or one of them would keep all
//! others waiting. When such an answer finds no page to grow into, a paused sequence or the youngest
//! one is parked: it gives up its pages and is computed anew later. Of those that can run, none is
//! parked for a younger one, so the oldest always reaches its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use protocol::{Event, Fault, FaultCode, Priority, Usage};

use crate::batch::{Batch, Logits, Row, Span};
use crate::gauges::Gauges;
use crate::outbox::{Delivery, Outbox};
use crate::pages::Pages;
use crate::sampler::Candidate;
use crate::sequence::{Ending, Remains, Sequence, Submission};

/// What the scheduler never exceeds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) sequences_max: u32,
    pub(crate) batch_tokens_max: u32,
    pub(crate) prompt_chunk_tokens: u32,
    /// Answer tokens whose pages an answer of no stated length needs to begin.
    pub(crate) open_answer_tokens: u32,
    /// Ended requests whose reader has not yet taken the last event.
    pub(crate) leaving_max: usize,
}

/// Everything in flight.
pub(crate) struct Scheduler {
    bounds: Bounds,
    /// One queue for each priority, the most urgent first.
    waiting: [VecDeque<Box<Submission>>; 3],
    /// In the order of admission.
    active: Vec<Sequence>,
    /// Ended requests that have only to be read.
    leaving: VecDeque<Outbox>,
    /// Some active sequence waits for pages, so nothing is admitted.
    is_short_of_pages: bool,
    scratch: Vec<Candidate>,
    gauges: Arc<Gauges>,
}

/// One step's work: the batch, and whose it is.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) batch: Batch,
    shares: Vec<Share>,
}

#[derive(Debug, Clone, Copy)]
struct Share {
    /// Index into the active sequences.
    sequence: usize,
    tokens: u32,
    has_row: bool,
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
            waiting: Default::default(),
            active: Vec::new(),
            leaving: VecDeque::new(),
            is_short_of_pages: false,
            scratch: Vec::new(),
            gauges,
        }
    }

    /// Queues a request. The bound on requests in flight is kept by their places.
    pub(crate) fn enqueue(&mut self, request: Box<Submission>) {
        let class = match request.priority {
            Priority::Interactive => 0,
            Priority::Normal => 1,
            Priority::Batch => 2,
        };
        self.waiting[class].push_back(request);
    }

    /// Ends what was cancelled, abandoned or is late, delivers what readers now take, and admits.
    pub(crate) fn sweep(&mut self, pages: &mut Pages, now: Instant) {
        self.leaving.retain_mut(|outbox| outbox.deliver(now) == Delivery::Stuck);
        for class in 0..self.waiting.len() {
            for _ in 0..self.waiting[class].len() {
                let Some(mut request) = self.waiting[class].pop_front() else {
                    break;
                };
                match request.ending(now) {
                    Some(ending) => self.dismiss(request, ending, now),
                    None => self.waiting[class].push_back(request),
                }
            }
        }
        for sequence in &mut self.active {
            sequence.look_outside(now);
        }
        self.settle(pages, now);
        self.admit(pages, now);
    }

    /// Fills `plan` with the next step's work; whether there is any.
    pub(crate) fn plan(&mut self, pages: &mut Pages, plan: &mut Plan) -> bool {
        self.share_pages(pages);
        plan.clear();
        let mut left = self.bounds.batch_tokens_max;
        for prompts in [false, true] {
            if prompts && !plan.shares.is_empty() {
                left = left.min(self.bounds.prompt_chunk_tokens);
            }
            for (index, sequence) in self.active.iter_mut().enumerate() {
                let pending = sequence.pending_tokens();
                let takes_part = sequence.is_ready() && sequence.has_pages();
                if takes_part && (pending > 1) == prompts && left > 0 {
                    left -= plan.add(index, sequence, pending.min(left), pages);
                }
            }
        }
        !plan.shares.is_empty()
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
    pub(crate) fn advance(&mut self, plan: &Plan, logits: Logits) {
        if logits.rows.len() != plan.batch.rows.len() {
            let (found, wanted) = (logits.rows.len(), plan.batch.rows.len());
            let message = format!("the network gave {found} rows, {wanted} were asked for");
            return self.reject(plan, &Fault::new(FaultCode::Internal, message));
        }
        let mut rows = logits.rows.into_iter();
        for share in &plan.shares {
            let sequence = &mut self.active[share.sequence];
            let row = if share.has_row { rows.next() } else { None };
            let progress = sequence.advance(share.tokens, row, &mut self.scratch);
            self.gauges.note_tokens(progress.prompt_tokens, progress.answer_tokens);
        }
    }

    /// Fails the sequences of a plan that could not be computed.
    pub(crate) fn reject(&mut self, plan: &Plan, fault: &Fault) {
        for share in &plan.shares {
            self.active[share.sequence].end(Ending::Failed(fault.clone()));
        }
    }

    /// Delivers what was said and takes back the pages of what ended.
    pub(crate) fn settle(&mut self, pages: &mut Pages, now: Instant) {
        let mut index = 0;
        while index < self.active.len() {
            if self.active[index].has_ended() {
                let sequence = self.active.remove(index);
                self.gauges.note_run(now.duration_since(sequence.ran_since()));
                let Remains { lease, outbox } = sequence.close(now);
                pages.release(lease);
                self.see_off(outbox, now);
            } else {
                self.active[index].deliver(now);
                index += 1;
            }
        }
    }

    /// Ends all that runs, without touching pages: they are begun anew.
    pub(crate) fn fail_active(&mut self, fault: &Fault, now: Instant) {
        for mut sequence in std::mem::take(&mut self.active) {
            sequence.end(Ending::Failed(fault.clone()));
            let Remains { lease: _, outbox } = sequence.close(now);
            self.see_off(outbox, now);
        }
    }

    /// Ends all that waits.
    pub(crate) fn fail_waiting(&mut self, fault: &Fault, now: Instant) {
        for class in 0..self.waiting.len() {
            for request in std::mem::take(&mut self.waiting[class]) {
                self.dismiss(request, Ending::Failed(fault.clone()), now);
            }
        }
    }

    /// Cancels all that runs.
    pub(crate) fn cancel_active(&mut self, pages: &mut Pages, now: Instant) {
        for sequence in &mut self.active {
            sequence.end(Ending::Finished(protocol::FinishReason::Cancelled));
        }
        self.settle(pages, now);
    }

    /// Why nothing runs.
    pub(crate) fn rest(&self) -> Rest {
        let waiting = self.waiting.iter().any(|class| !class.is_empty());
        if waiting || !self.active.is_empty() || !self.leaving.is_empty() {
            Rest::Stuck
        } else {
            Rest::Idle
        }
    }

    fn admit(&mut self, pages: &mut Pages, now: Instant) {
        let open_answer_tokens = self.bounds.open_answer_tokens;
        while !self.is_short_of_pages && self.active.len() < self.bounds.sequences_max as usize {
            let Some(class) = self.waiting.iter_mut().find(|class| !class.is_empty()) else {
                break;
            };
            let Some(request) = class.front() else { break };
            let Some(lease) = pages.lease(request.lease_tokens(open_answer_tokens)) else {
                break;
            };
            let Some(request) = class.pop_front() else {
                break;
            };
            let mut sequence = Sequence::begin(*request, lease, now);
            sequence.deliver(now);
            self.active.push(sequence);
        }
    }

    /// Ends a request that never ran.
    fn dismiss(&mut self, request: Box<Submission>, ending: Ending, now: Instant) {
        tracing::debug!(request = %request.id, "ended in the queue");
        let mut outbox = request.outbox;
        let last: Option<Event> = ending.into_event(Usage::default());
        outbox.close(last);
        self.see_off(outbox, now);
    }

    /// Keeps an ended request until its reader has everything, within the bound.
    fn see_off(&mut self, mut outbox: Outbox, now: Instant) {
        if outbox.deliver(now) != Delivery::Stuck {
            return;
        }
        if self.leaving.len() >= self.bounds.leaving_max {
            self.leaving.pop_front();
        }
        self.leaving.push_back(outbox);
    }
}

impl Plan {
    fn clear(&mut self) {
        self.shares.clear();
        let Batch { tokens, positions, slots, spans, pages, rows } = &mut self.batch;
        tokens.clear();
        positions.clear();
        slots.clear();
        spans.clear();
        pages.clear();
        rows.clear();
    }

    /// Adds a sequence's next `tokens` tokens; gives how many were added.
    fn add(&mut self, index: usize, sequence: &mut Sequence, tokens: u32, book: &mut Pages) -> u32 {
        let from = sequence.computed_tokens();
        let context_tokens = from + tokens;
        if let Err(error) = book.extend(sequence.lease_mut(), context_tokens) {
            sequence.end(Ending::Failed(Fault::new(FaultCode::Internal, error.to_string())));
            return 0;
        }
        let has_row = tokens == sequence.pending_tokens();
        let Batch { tokens: all, positions, slots, spans, pages, rows } = &mut self.batch;
        let lease = sequence.lease();
        spans.push(Span {
            query_start: all.len() as u32,
            query_tokens: tokens,
            context_tokens,
            first_page: pages.len() as u32,
        });
        all.extend_from_slice(sequence.pending(tokens));
        positions.extend(from..context_tokens);
        slots.extend((from..context_tokens).map(|position| lease.slot(position)));
        pages.extend(lease.pages(context_tokens).iter().map(|page| page.0));
        if has_row {
            rows.push(Row { token: all.len() as u32 - 1, want: sequence.want() });
        }
        self.shares.push(Share { sequence: index, tokens, has_row });
        tokens
    }
}
