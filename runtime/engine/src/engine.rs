//! The loop: drain, plan, forward, advance, settle.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::{Fault, FaultCode};

use crate::batch::{Batch, Capacity, Forward, ForwardError, Logits, PageBytes};
use crate::draft_model::DraftModel;
use crate::gauges::Gauges;
use crate::pace::Clock;
use crate::pages::Pages;
use crate::recall::{Arrival, Keeper, STEP_BYTES};
use crate::scheduler::{Bounds, Plan, Rest, Scheduler};
use crate::sequence::Submission;
use crate::store::PrefixStore;

/// One network and everything in flight on it. Each step is told the time; how long the network took
/// is read from a clock that can be another than the machine's.
pub(crate) struct Engine<F> {
    forward: F,
    clock: Clock,
    capacity: Capacity,
    pages: Pages,
    scheduler: Scheduler,
    plan: Plan,
    /// Guesses, where the box has a second network for them.
    second: Option<DraftModel>,
    /// Beginnings on disk, where the box keeps them.
    disk: Option<Disk>,
    mailbox: flume::Receiver<Mail>,
    /// The moment at which what is still in flight is cancelled.
    closing: Option<Instant>,
    gauges: Arc<Gauges>,
}

/// What the engine has to do with beginnings on disk.
struct Disk {
    store: PrefixStore,
    keeper: Keeper,
    /// Requests whose beginnings are looked for.
    arriving: VecDeque<Arrival>,
}

/// What other threads send to the engine.
pub(crate) enum Mail {
    /// A request.
    Submit(Box<Submission>),
    /// Ends the engine when nothing is in flight any more, or at this moment.
    Close(Instant),
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It computed.
    Ran,
    /// All that is in flight waits for a reader.
    Stuck,
    /// Nothing is in flight.
    Idle,
    /// Nothing is in flight and nothing will be.
    Closed,
}

impl<F: Forward> Engine<F> {
    pub(crate) fn new(
        forward: F,
        bounds: Bounds,
        mailbox: flume::Receiver<Mail>,
        store: Option<PrefixStore>,
        gauges: Arc<Gauges>,
    ) -> Self {
        let capacity = forward.capacity();
        Self {
            forward,
            clock: Box::new(Instant::now),
            capacity,
            pages: Pages::new(&capacity),
            scheduler: Scheduler::new(bounds, Arc::clone(&gauges)),
            plan: Plan::default(),
            second: None,
            disk: store.map(|store| Disk {
                store,
                keeper: Keeper::default(),
                arriving: VecDeque::new(),
            }),
            mailbox,
            closing: None,
            gauges,
        }
    }

    /// Has guesses made by a second network.
    pub(crate) fn ask_second(&mut self, second: DraftModel) {
        self.second = Some(second);
    }

    /// One step of everything in flight.
    ///
    /// Errors: [`ForwardError::DeviceLost`] alone; a rejected batch fails its sequences.
    pub(crate) fn step(&mut self, now: Instant) -> Result<Step, ForwardError> {
        self.drain(now);
        if self.closing.is_some_and(|deadline| now >= deadline) {
            return Ok(self.cancel(now));
        }
        self.recall(now);
        self.scheduler.sweep(&mut self.pages, now);
        self.keep();
        if !self.scheduler.plan(&mut self.pages, &mut self.plan, self.second.as_mut()) {
            return Ok(self.rest());
        }
        match self.forward() {
            Ok(logits) => self.scheduler.advance(&self.plan, logits, &mut self.pages),
            Err(lost @ ForwardError::DeviceLost { .. }) => return Err(lost),
            Err(error) => self.scheduler.reject(&self.plan, &rejected(&error)),
        }
        self.scheduler.settle(&mut self.pages, now);
        self.gauges.note_pages(self.pages.known_pages() as u64, self.pages.evicted_pages());
        Ok(Step::Ran)
    }

    /// Sleeps until mail comes, at most `timeout`.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) {
        let mail = match timeout {
            Some(timeout) => self.mailbox.recv_timeout(timeout),
            None => self.mailbox.recv().map_err(|_| flume::RecvTimeoutError::Disconnected),
        };
        match mail {
            Ok(mail) => {
                let now = (self.clock)();
                self.open(mail, now);
            }
            Err(flume::RecvTimeoutError::Timeout) => {}
            Err(flume::RecvTimeoutError::Disconnected) => self.closing = Some((self.clock)()),
        }
    }

    /// Fails what runs and begins anew with empty pages; what waits stays.
    pub(crate) fn restart(&mut self, fault: &Fault, now: Instant) {
        self.scheduler.fail_active(fault, now);
        self.pages = Pages::new(&self.capacity);
        // A defect may have been in there, or half of a step.
        self.second = None;
        if let Some(disk) = &mut self.disk {
            disk.arriving.iter_mut().for_each(Arrival::forget_pages);
            disk.keeper.clear();
        }
    }

    /// Begins anew on a device. Errors: there is none.
    pub(crate) fn revive(&mut self) -> Result<(), ForwardError> {
        self.forward.revive()
    }

    /// Fails everything, that in the mailbox included.
    pub(crate) fn abandon(&mut self, fault: &Fault, now: Instant) {
        self.drain(now);
        self.restart(fault, now);
        self.let_arrive(now);
        self.scheduler.fail_waiting(fault, now);
    }

    fn drain(&mut self, now: Instant) {
        while let Ok(mail) = self.mailbox.try_recv() {
            self.open(mail, now);
        }
    }

    fn open(&mut self, mail: Mail, now: Instant) {
        match mail {
            Mail::Submit(request) => match &mut self.disk {
                Some(disk) => disk.arriving.push_back(Arrival::new(request)),
                None => self.scheduler.enqueue(*request, &self.pages, now),
            },
            Mail::Close(deadline) => {
                self.closing = Some(self.closing.map_or(deadline, |set| set.min(deadline)));
            }
        }
    }

    /// Brings beginnings back for those that arrive, and queues them.
    fn recall(&mut self, now: Instant) {
        let (Some(disk), Some(network)) = (&mut self.disk, self.forward.pages()) else {
            return;
        };
        let mut left = STEP_BYTES;
        while let Some(arrival) = disk.arriving.front_mut() {
            let (is_complete, recalled) =
                arrival.recall(&mut disk.store, &mut self.pages, network, &mut left);
            self.gauges.note_recalled(recalled);
            if !is_complete && !arrival.request.is_over(now) {
                break;
            }
            if let Some(arrival) = disk.arriving.pop_front() {
                let request = arrival.into_request(&mut self.pages);
                self.scheduler.enqueue(*request, &self.pages, now);
            }
        }
    }

    /// Has some of the beginnings written that were found.
    fn keep(&mut self) {
        let (Some(disk), Some(network)) = (&mut self.disk, self.forward.pages()) else {
            return;
        };
        self.scheduler.take_found().for_each(|found| disk.keeper.note(found));
        disk.keeper.keep(&mut disk.store, &self.pages, network);
        self.gauges.note_store(disk.keeper.kept(), disk.store.damaged());
    }

    /// Queues all that arrive as they are.
    fn let_arrive(&mut self, now: Instant) {
        for arrival in self.disk.iter_mut().flat_map(|disk| disk.arriving.drain(..)) {
            let request = arrival.into_request(&mut self.pages);
            self.scheduler.enqueue(*request, &self.pages, now);
        }
    }

    fn is_recalling(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| !disk.arriving.is_empty())
    }

    fn is_keeping(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| !disk.keeper.is_idle())
    }

    fn forward(&mut self) -> Result<Logits, ForwardError> {
        let Batch { tokens, spans, rows, .. } = &self.plan.batch;
        let (tokens, sequences, rows) = (tokens.len(), spans.len(), rows.len());
        tracing::trace!(tokens, sequences, rows, "step");
        let began = (self.clock)();
        let outcome = self.forward.forward(&self.plan.batch);
        let took = (self.clock)().saturating_duration_since(began);
        self.gauges.note_forward(took);
        self.scheduler.note_pace(&self.plan, took);
        outcome
    }

    fn rest(&self) -> Step {
        match self.scheduler.rest() {
            // There is more to read at once.
            _ if self.is_recalling() => Step::Ran,
            Rest::Idle if self.is_keeping() => Step::Stuck,
            Rest::Stuck => Step::Stuck,
            Rest::Idle if self.closing.is_some() => Step::Closed,
            Rest::Idle => Step::Idle,
        }
    }

    fn cancel(&mut self, now: Instant) -> Step {
        self.scheduler.cancel_active(&mut self.pages, now);
        self.let_arrive(now);
        let message = "the service shuts down; send the request again when it is back";
        self.scheduler.fail_waiting(&Fault::new(FaultCode::Unavailable, message), now);
        Step::Closed
    }
}

impl<F: Forward + ?Sized> Forward for Box<F> {
    fn capacity(&self) -> Capacity {
        (**self).capacity()
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ForwardError> {
        (**self).forward(batch)
    }

    fn revive(&mut self) -> Result<(), ForwardError> {
        (**self).revive()
    }

    fn pages(&mut self) -> Option<&mut dyn PageBytes> {
        (**self).pages()
    }
}

fn rejected(error: &ForwardError) -> Fault {
    tracing::error!(%error, "a batch was rejected");
    Fault::new(FaultCode::Internal, format!("{error}; send the request again"))
}

#[cfg(test)]
impl<F> Engine<F> {
    /// Makes the engine believe that it is so fast.
    pub(crate) fn set_pace(&mut self, pace: crate::pace::Pace) {
        self.scheduler.set_pace(pace);
    }

    /// Has the network's time told by another clock.
    pub(crate) fn set_clock(&mut self, clock: impl FnMut() -> Instant + Send + 'static) {
        self.clock = Box::new(clock);
    }

    /// Who runs and who waits.
    pub(crate) fn standing(&self) -> crate::scheduler::Standing {
        self.scheduler.standing()
    }

    /// Tokens of prompts and of answers in the last step.
    pub(crate) fn planned(&self) -> (u32, u32) {
        (self.plan.prompt_tokens, self.plan.answer_tokens)
    }

    /// Whether every page is free and promised to nobody.
    pub(crate) fn pages_are_free(&self) -> bool {
        self.pages.all_free()
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
