//! The engine thread, its mailbox, and the service that others hold.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use protocol::{Description, Encoded, Fault, FaultCode, Load, Reply, Request, Service, TokenId};
use text::Codec;

use crate::batch::{Capacity, Forward, ForwardError};
use crate::draft_model::DraftModel;
use crate::engine::{Engine, Mail, Step};
use crate::gauges::{Counters, Gauges};
use crate::intake::{Intake, PrefixSharing, Serving, context_tokens_max};
use crate::scheduler::Bounds;
use crate::store::{PrefixFolder, PrefixStore};

/// How often the engine looks whether a slow reader took something.
const STUCK_POLL: Duration = Duration::from_millis(4);

/// Defects within [`RESTART_WINDOW`] after which the engine gives up.
const RESTARTS_MAX: usize = 3;
const RESTART_WINDOW: Duration = Duration::from_secs(600);

/// Answer tokens for which an answer of no stated length must find pages before it begins: enough
/// for most answers, so that parking stays rare.
const OPEN_ANSWER_TOKENS: u32 = 256;

/// Mails beside requests that may wait in the mailbox.
const CLOSING_MAILS_MAX: usize = 4;

/// What the engine never exceeds. The default suits a small device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineLimits {
    /// Requests that are answered at the same time.
    pub sequences_max: u32,
    /// Requests that wait beyond those.
    pub queue_requests_max: u32,
    /// Tokens of one step; the network's own limit where that is lower.
    pub batch_tokens_max: u32,
    /// Prompt tokens of one step while other answers are being written.
    pub prompt_chunk_tokens: u32,
    /// How many times as long as a step of answers alone one with prompts may take, so that answers
    /// flow on while a long prompt is read; 0 for any. Prompts are then read that much slower.
    pub slowdown_max: f64,
    /// Tokens that are guessed behind an answer's last one and checked in the same step, at most; 0
    /// for none. Answers are the same; guesses are made where measured steps say that they pay.
    pub draft_tokens_max: u32,
    /// Events that one reply holds for a slow reader.
    pub reply_events_max: u32,
    /// Who may reuse what was computed of whose prompts.
    pub prefix_sharing: PrefixSharing,
}

impl Default for EngineLimits {
    fn default() -> Self {
        Self {
            sequences_max: 8,
            queue_requests_max: 32,
            batch_tokens_max: 512,
            prompt_chunk_tokens: 256,
            slowdown_max: 2.5,
            draft_tokens_max: 8,
            reply_events_max: 256,
            prefix_sharing: PrefixSharing::All,
        }
    }
}

/// What an engine can do without.
#[derive(Default)]
pub struct Extras {
    /// Where beginnings that several requests share are kept, to be found after a restart.
    pub prefix_folder: Option<PrefixFolder>,
    /// A smaller network with the same tokens, which guesses what answers say next. Answers are the
    /// same; it is asked where measured steps say that it pays.
    pub draft_model: Option<Box<dyn Forward>>,
}

/// Why an engine does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A limit leaves no room to work.
    #[error("{name} is 0; it must be at least 1")]
    ZeroLimit {
        /// The limit.
        name: &'static str,
    },
    /// The network takes nothing.
    #[error(
        "the network can take nothing: {} pages of {} tokens, {} tokens of context, {} of a step, \
         a vocabulary of {}",
        .0.pages, .0.page_tokens, .0.context_tokens_max, .0.batch_tokens_max, .0.vocabulary
    )]
    NoCapacity(Capacity),
    /// A slot of the cache has no number.
    #[error(
        "{pages} pages of {page_tokens} tokens are more than 4294967295 slots; use fewer pages"
    )]
    TooManySlots {
        /// Pages of the cache.
        pages: u32,
        /// Tokens that one page holds.
        page_tokens: u32,
    },
    /// The draft model says other tokens.
    #[error(
        "the draft model has a vocabulary of {found}, the model one of {wanted}; they must be the same"
    )]
    DraftVocabulary {
        /// Entries of the draft model's.
        found: u32,
        /// Entries of the model's.
        wanted: u32,
    },
    /// Beginnings cannot be kept where they should be.
    #[error("beginnings cannot be kept in {}: {error}", .path.display())]
    PrefixFolder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The system gives no thread.
    #[error("the engine thread does not start: {0}")]
    Thread(#[from] std::io::Error),
}

/// Answers requests with one network, on a thread of its own.
///
/// Threads: any may submit; the network is touched by the engine's thread alone.
pub struct EngineService {
    intake: Intake,
    limits: EngineLimits,
    mailbox: flume::Sender<Mail>,
    gauges: Arc<Gauges>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl EngineService {
    /// Starts the engine thread.
    ///
    /// Errors: limits or a network that leave no room for a single token, and a system without
    /// threads.
    pub fn start(
        forward: Box<dyn Forward>,
        serving: Serving,
        limits: EngineLimits,
    ) -> Result<Self, EngineError> {
        Self::start_with(forward, serving, limits, Extras::default())
    }

    /// As [`start`](Self::start), with more than it needs.
    ///
    /// Errors: also a folder that cannot be made or read, and a draft model of another vocabulary.
    pub fn start_with(
        mut forward: Box<dyn Forward>,
        serving: Serving,
        limits: EngineLimits,
        extras: Extras,
    ) -> Result<Self, EngineError> {
        let capacity = forward.capacity();
        let mut bounds = bounds(&limits, &capacity)?;
        let Extras { prefix_folder, draft_model } = extras;
        let second = draft_model.map(|network| second(network, &capacity)).transpose()?;
        let store = match &prefix_folder {
            Some(folder) => open_store(folder, forward.as_mut(), capacity.page_tokens)?,
            None => None,
        };
        bounds.tells_found = store.is_some();
        let gauges = Arc::new(Gauges::default());
        let (mailbox, mails) = flume::bounded(bounds.leaving_max + CLOSING_MAILS_MAX);
        let mut engine = Engine::new(forward, bounds, mails, store, Arc::clone(&gauges));
        if let Some(second) = second {
            engine.ask_second(second);
        }
        let thread = std::thread::Builder::new().name("engine".into()).spawn({
            let gauges = Arc::clone(&gauges);
            move || run(engine, &gauges)
        })?;
        Ok(Self {
            intake: Intake::new(serving, &capacity, limits.reply_events_max, limits.prefix_sharing),
            limits,
            mailbox,
            gauges,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Takes nothing new, lets what is in flight run for `drain` at most, cancels the rest, and
    /// waits for the thread's end. Later calls may shorten the time and do nothing else.
    pub fn shutdown(&self, drain: Duration) {
        self.gauges.close();
        let now = Instant::now();
        let deadline = now.checked_add(drain).unwrap_or(now + Duration::from_secs(86_400));
        // A mailbox without an engine means that the engine is down already.
        let _ = self.mailbox.send(Mail::Close(deadline));
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the engine thread ended by a defect");
        }
    }

    /// Whether new requests are taken: false after a shutdown, a lost device or too many defects.
    pub fn is_serving(&self) -> bool {
        !self.gauges.is_closed()
    }

    /// What it did since its start.
    pub fn counters(&self) -> Counters {
        self.gauges.snapshot()
    }

    /// The model's own strings and tokens.
    pub fn codec(&self) -> &Codec {
        self.intake.codec()
    }

    fn take(&self, request: Request) -> Result<Reply, Fault> {
        if self.gauges.is_closed() {
            return Err(unavailable());
        }
        self.intake.check_model(&request.model)?;
        let place = self.gauges.place(in_flight_max(&self.limits)).ok_or_else(|| self.busy())?;
        let (submission, reply) = self.intake.accept(request, place, Instant::now())?;
        self.mailbox.try_send(Mail::Submit(submission)).map_err(|error| match error {
            flume::TrySendError::Full(_) => self.busy(),
            flume::TrySendError::Disconnected(_) => unavailable(),
        })?;
        Ok(reply)
    }

    fn busy(&self) -> Fault {
        let EngineLimits { sequences_max, queue_requests_max, .. } = self.limits;
        let message = format!(
            "{sequences_max} requests run and {queue_requests_max} wait, which is the limit; come \
             back later"
        );
        Fault::new(FaultCode::Busy, message).retry_after_ms(self.gauges.retry_after_ms())
    }
}

impl Service for EngineService {
    fn submit(&self, request: Request) -> Result<Reply, Fault> {
        self.take(request).inspect_err(|_| self.gauges.note_refused())
    }

    fn describe(&self) -> Description {
        let active = self.gauges.active();
        let queued = self.gauges.in_flight().saturating_sub(active);
        let active_max = self.limits.sequences_max;
        let is_full = active >= active_max || queued > 0;
        Description {
            models: vec![self.intake.card().clone()],
            classifiers: Vec::new(),
            embedders: Vec::new(),
            load: Load {
                active,
                queued,
                queue_requests_max: self.limits.queue_requests_max,
                active_max,
                wait_ms: if is_full { self.gauges.wait_ms(queued) } else { 0 },
                answer_tokens: self.gauges.snapshot().answer_tokens,
            },
        }
    }

    fn encode(&self, request: Request) -> Result<Encoded, Fault> {
        self.intake.encode(&request)
    }

    fn decode(&self, model: &str, tokens: &[TokenId]) -> Result<String, Fault> {
        self.intake.decode(model, tokens)
    }
}

impl Drop for EngineService {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
    }
}

fn second(network: Box<dyn Forward>, capacity: &Capacity) -> Result<DraftModel, EngineError> {
    let (found, wanted) = (network.capacity().vocabulary, capacity.vocabulary);
    if found != wanted {
        return Err(EngineError::DraftVocabulary { found, wanted });
    }
    Ok(DraftModel::new(network))
}

fn open_store(
    folder: &PrefixFolder,
    forward: &mut dyn Forward,
    page_tokens: u32,
) -> Result<Option<PrefixStore>, EngineError> {
    let Some(network) = forward.pages() else {
        tracing::warn!("this network's pages cannot leave the device: no beginnings are kept");
        return Ok(None);
    };
    let store = PrefixStore::open(folder, network, page_tokens);
    store.map(Some).map_err(|error| EngineError::PrefixFolder { path: folder.path.clone(), error })
}

fn in_flight_max(limits: &EngineLimits) -> u32 {
    limits.sequences_max.saturating_add(limits.queue_requests_max)
}

fn bounds(limits: &EngineLimits, capacity: &Capacity) -> Result<Bounds, EngineError> {
    let named = [
        ("sequences_max", limits.sequences_max),
        ("batch_tokens_max", limits.batch_tokens_max),
        ("prompt_chunk_tokens", limits.prompt_chunk_tokens),
        ("reply_events_max", limits.reply_events_max),
    ];
    if let Some((name, _)) = named.into_iter().find(|(_, limit)| *limit == 0) {
        return Err(EngineError::ZeroLimit { name });
    }
    let Capacity { vocabulary, pages, page_tokens, batch_tokens_max, tile_tokens, .. } = *capacity;
    if context_tokens_max(capacity) == 0 || vocabulary == 0 || batch_tokens_max == 0 {
        return Err(EngineError::NoCapacity(*capacity));
    }
    if pages.checked_mul(page_tokens).is_none() {
        return Err(EngineError::TooManySlots { pages, page_tokens });
    }
    let batch_tokens_max = limits.batch_tokens_max.min(batch_tokens_max);
    Ok(Bounds {
        // Every answer in writing finds its token in every step.
        sequences_max: limits.sequences_max.min(batch_tokens_max),
        batch_tokens_max,
        prompt_chunk_tokens: limits.prompt_chunk_tokens,
        tile_tokens: tile_tokens.max(1),
        slowdown_max: (limits.slowdown_max > 0.0).then_some(limits.slowdown_max),
        draft_tokens_max: limits.draft_tokens_max,
        open_answer_tokens: OPEN_ANSWER_TOKENS,
        leaving_max: in_flight_max(limits) as usize,
        tells_found: false,
    })
}

/// Closes the service when the engine thread ends, in whatever way.
struct ClosesAtTheEnd<'a>(&'a Gauges);

impl Drop for ClosesAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The engine thread.
fn run(mut engine: Engine<Box<dyn Forward>>, gauges: &Gauges) {
    let _closes = ClosesAtTheEnd(gauges);
    let mut restarts = Restarts::default();
    loop {
        let began = Instant::now();
        // What a panic leaves half done is thrown away by the restart: sequences and pages.
        let outcome = catch_unwind(AssertUnwindSafe(|| engine.step(began)));
        gauges.note_busy(began.elapsed());
        match outcome {
            Ok(Ok(Step::Ran)) => {}
            Ok(Ok(Step::Stuck)) => engine.wait(Some(STUCK_POLL)),
            Ok(Ok(Step::Idle)) => engine.wait(None),
            Ok(Ok(Step::Closed)) => break,
            Ok(Err(error)) => {
                let now = Instant::now();
                tracing::error!(%error, "the engine looks for another device");
                // Another device may take minutes, or panic as the first one did.
                let revived = restarts.are_left(now)
                    && catch_unwind(AssertUnwindSafe(|| engine.revive())).is_ok_and(|r| r.is_ok());
                if !revived {
                    give_up(&mut engine, gauges, &lost(&error));
                    break;
                }
                gauges.note_restart();
                engine.restart(&moved(&error), now);
            }
            Err(_) => {
                let now = Instant::now();
                if !restarts.are_left(now) {
                    give_up(&mut engine, gauges, &defective());
                    break;
                }
                gauges.note_restart();
                tracing::error!("the engine begins anew after a defect");
                engine.restart(&defect(), now);
            }
        }
    }
    engine.abandon(&unavailable(), Instant::now());
}

/// How often the engine has begun anew lately.
#[derive(Default)]
struct Restarts {
    lately: VecDeque<Instant>,
}

impl Restarts {
    /// Whether it may once more, which counts.
    fn are_left(&mut self, now: Instant) -> bool {
        self.lately.retain(|restart| now.duration_since(*restart) < RESTART_WINDOW);
        let left = self.lately.len() < RESTARTS_MAX;
        if left {
            self.lately.push_back(now);
        }
        left
    }
}

fn give_up(engine: &mut Engine<Box<dyn Forward>>, gauges: &Gauges, fault: &Fault) {
    gauges.close();
    tracing::error!(%fault, "the engine gives up");
    engine.abandon(fault, Instant::now());
}

fn unavailable() -> Fault {
    Fault::new(
        FaultCode::Unavailable,
        "the engine takes no requests: it shuts down or its device is lost",
    )
}

fn lost(error: &ForwardError) -> Fault {
    Fault::new(FaultCode::Unavailable, format!("{error}; the service must be started again"))
}

fn moved(error: &ForwardError) -> Fault {
    Fault::new(
        FaultCode::Unavailable,
        format!("{error}; the engine began anew on another one, send the request again"),
    )
}

fn defect() -> Fault {
    Fault::new(
        FaultCode::Internal,
        "a defect stopped this answer; the engine began anew, send the request again",
    )
}

fn defective() -> Fault {
    Fault::new(
        FaultCode::Unavailable,
        format!(
            "the engine had more than {RESTARTS_MAX} defects in {} minutes and gave up; the \
             service must be started again",
            RESTART_WINDOW.as_secs() / 60
        ),
    )
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
