//! One generation: pulled by the caller, or pushed into its callback by a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use protocol::{Canceller, TimedOut};

use crate::border::{Life, UserData, inside_callback};
use crate::layout::{EventCall, EventView};
use crate::lock;
use crate::model::Model;
#[cfg(unix)]
use crate::pump::Pump;
use crate::status::{self, Refusal, Status};
use crate::stream::{Shown, Stream};

/// Requests of one engine at the same time that push events, or have a descriptor; each has a
/// thread.
pub(crate) const PUSHED_REQUESTS_MAX: usize = 64;

/// What every thread may ask of a request.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) id: String,
    canceller: Canceller,
    cancelled: AtomicBool,
    #[cfg(unix)]
    pump: OnceLock<Arc<Pump>>,
    end: Mutex<Option<Status>>,
    ended: Condvar,
}

impl Running {
    pub(crate) fn new(id: String, canceller: Canceller) -> Arc<Self> {
        Arc::new(Self {
            id,
            canceller,
            cancelled: AtomicBool::new(false),
            #[cfg(unix)]
            pump: OnceLock::new(),
            end: Mutex::new(None),
            ended: Condvar::new(),
        })
    }

    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.canceller.cancel();
        #[cfg(unix)]
        if let Some(pump) = self.pump.get() {
            pump.cancel();
        }
    }

    /// Whether the caller has said that it wants no more.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    fn finish(&self, status: Status) {
        *lock(&self.end) = Some(status);
        self.ended.notify_all();
    }

    /// What the request ended with; `WOULD_BLOCK` if it did not by `deadline`.
    fn wait(&self, deadline: Option<Instant>) -> Status {
        let mut end = lock(&self.end);
        loop {
            if let Some(status) = *end {
                return status;
            }
            end = match deadline {
                None => self.ended.wait(end).unwrap_or_else(|broken| broken.into_inner()),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return status::WOULD_BLOCK;
                    }
                    let woken = self.ended.wait_timeout(end, left);
                    woken.unwrap_or_else(|broken| broken.into_inner()).0
                }
            };
        }
    }
}

/// One generation.
pub struct RequestHandle {
    pub(crate) model: Arc<Model>,
    pub(crate) running: Arc<Running>,
    /// `None` where a callback gets the events.
    pull: Option<Pull>,
}

struct Pull {
    state: Mutex<PullState>,
    shown: Mutex<Option<Box<Held>>>,
}

enum PullState {
    Idle(Box<Stream>),
    /// A thread waits for the next event.
    Taken,
    /// A thread of the library takes the events for a descriptor.
    #[cfg(unix)]
    Pumped(Arc<Pump>),
    Ended,
}

/// An event and the view that the caller got of it.
struct Held {
    _event: Shown,
    view: EventView,
}

impl RequestHandle {
    pub(crate) fn pulled(model: Arc<Model>, running: Arc<Running>, stream: Stream) -> Self {
        let pull =
            Pull { state: Mutex::new(PullState::Idle(Box::new(stream))), shown: Mutex::new(None) };
        Self { model, running, pull: Some(pull) }
    }

    /// Starts a thread that calls `callback` with every event.
    pub(crate) fn pushed(
        model: Arc<Model>,
        running: Arc<Running>,
        stream: Stream,
        callback: Callback,
    ) -> Result<Self, Refusal> {
        let (of_thread, subject) = (Arc::clone(&running), Arc::clone(&model));
        let body = move || push(&subject, &of_thread, stream, callback);
        model.engine.workers.start(&running, body)?;
        Ok(Self { model, running, pull: None })
    }

    /// The next event, NULL after the last. It stays valid until the next call.
    pub(crate) fn next(&self, timeout_ms: i32) -> Result<*const EventView, Refusal> {
        let Some(pull) = &self.pull else {
            return Err(Refusal::state("the events of this request go to its callback"));
        };
        let Ok(event) = self.receive(pull, deadline(timeout_ms))? else {
            return Err(Refusal::new(status::WOULD_BLOCK, "no event came in time"));
        };
        let held = event.map(|event| Box::new(Held { view: event.view(), _event: event }));
        let mut shown = lock(&pull.shown);
        *shown = held;
        Ok(shown.as_ref().map_or(std::ptr::null(), |held| &raw const held.view))
    }

    /// Waits for the end. A pulled request passes over the events that nobody took.
    pub(crate) fn wait(&self, timeout_ms: i32) -> Status {
        let deadline = deadline(timeout_ms);
        if let Some(pull) = &self.pull {
            while let Ok(Ok(Some(event))) = self.receive(pull, deadline) {
                if event.is_last() {
                    break;
                }
            }
        }
        self.running.wait(deadline)
    }

    /// A descriptor that is readable exactly while [`next`](Self::next) would not wait; `None` for
    /// a request with a callback, and where the system or the engine has none left.
    pub(crate) fn fd(&self) -> Option<i32> {
        #[cfg(unix)]
        return self.pumped_fd();
        #[cfg(not(unix))]
        None
    }

    #[cfg(unix)]
    fn pumped_fd(&self) -> Option<i32> {
        let pull = self.pull.as_ref()?;
        let mut state = lock(&pull.state);
        if let PullState::Ended = *state {
            *state = PullState::Pumped(Arc::new(Pump::new(0, true).ok()?));
        }
        if let PullState::Idle(stream) = &*state {
            let pump = Arc::new(Pump::new(stream.seq(), false).ok()?);
            let PullState::Idle(stream) = std::mem::replace(&mut *state, PullState::Taken) else {
                return None;
            };
            *state = self.start_pump(pump, stream);
        }
        match &*state {
            PullState::Pumped(pump) => Some(pump.fd()),
            _ => None,
        }
    }

    /// Moves the stream to a thread, or keeps it here where none is left.
    #[cfg(unix)]
    fn start_pump(&self, pump: Arc<Pump>, stream: Box<Stream>) -> PullState {
        let moved = Arc::new(Mutex::new(Some(stream)));
        let (model, running) = (Arc::clone(&self.model), Arc::clone(&self.running));
        let (to, from) = (Arc::clone(&pump), Arc::clone(&moved));
        let body = move || {
            if let Some(stream) = lock(&from).take() {
                pour(&model, &running, *stream, to);
            }
        };
        if self.model.engine.workers.start(&self.running, body).is_ok() {
            return PullState::Pumped(pump);
        }
        lock(&moved).take().map_or(PullState::Taken, PullState::Idle)
    }

    /// Cancels, and waits until nothing of the request runs any more.
    pub(crate) fn end(self) {
        self.running.cancel();
        let has_thread = self.pull.as_ref().is_none_or(Pull::has_thread);
        if has_thread {
            self.model.engine.workers.join(&self.running);
            self.running.wait(None);
        }
    }

    /// The next event from where they are.
    fn receive(
        &self,
        pull: &Pull,
        deadline: Option<Instant>,
    ) -> Result<Result<Option<Shown>, TimedOut>, Refusal> {
        #[cfg(unix)]
        if let Some(pump) = pull.pump() {
            return Ok(pump.take(deadline));
        }
        let Some(mut stream) = pull.take()? else {
            return Ok(Ok(None));
        };
        let outcome = stream.next(deadline);
        self.put_back(pull, stream, outcome.as_ref().ok().and_then(Option::as_ref));
        Ok(outcome)
    }

    fn put_back(&self, pull: &Pull, stream: Box<Stream>, last_taken: Option<&Shown>) {
        let ended = last_taken.filter(|event| event.is_last());
        if let Some(event) = ended {
            self.model.engine.speed.add(stream.pace());
            self.running.finish(event.status);
            *lock(&pull.state) = PullState::Ended;
        } else {
            *lock(&pull.state) = PullState::Idle(stream);
        }
    }
}

impl Pull {
    #[cfg(unix)]
    fn pump(&self) -> Option<Arc<Pump>> {
        match &*lock(&self.state) {
            PullState::Pumped(pump) => Some(Arc::clone(pump)),
            _ => None,
        }
    }

    fn has_thread(&self) -> bool {
        #[cfg(unix)]
        return self.pump().is_some();
        #[cfg(not(unix))]
        false
    }

    /// The stream, for one thread at a time; `None` after its end.
    fn take(&self) -> Result<Option<Box<Stream>>, Refusal> {
        let mut state = lock(&self.state);
        match std::mem::replace(&mut *state, PullState::Taken) {
            PullState::Idle(stream) => Ok(Some(stream)),
            PullState::Ended => {
                *state = PullState::Ended;
                Ok(None)
            }
            #[cfg(unix)]
            PullState::Pumped(pump) => {
                *state = PullState::Pumped(pump);
                Err(Refusal::state("the events of this request go to its descriptor"))
            }
            PullState::Taken => Err(Refusal::state(
                "another thread waits for this request; a request belongs to one thread at a time",
            )),
        }
    }
}

/// Milliseconds of a caller as a moment; negative is never.
fn deadline(timeout_ms: i32) -> Option<Instant> {
    let milliseconds = u64::try_from(timeout_ms).ok()?;
    Some(Instant::now() + Duration::from_millis(milliseconds))
}

/// Where the events of a pushed request go.
#[derive(Clone, Copy)]
pub(crate) struct Callback {
    pub(crate) function: EventCall,
    pub(crate) user_data: UserData,
}

impl Callback {
    /// Whether the host wants more.
    fn call(&self, life: &Life, event: &Shown) -> bool {
        let view = event.view();
        let answer = inside_callback(life, || {
            // SAFETY: the host gave this function for these events; the view outlives the call.
            unsafe { (self.function)(&raw const view, self.user_data.0) }
        });
        answer == 0
    }
}

/// The life of a pushed request's thread. Whatever happens, the request ends.
fn push(model: &Model, running: &Running, mut stream: Stream, callback: Callback) {
    let life = &model.engine.life;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        loop {
            let Ok(Some(event)) = stream.next(None) else {
                return status::INTERNAL;
            };
            if event.is_last() {
                model.engine.speed.add(stream.pace());
            }
            let go_on = callback.call(life, &event);
            if event.is_last() {
                return event.status;
            }
            if !go_on {
                running.cancel();
                return status::CANCELLED;
            }
        }
    }));
    let status = outcome.unwrap_or_else(|_panic| {
        life.poison();
        let event = stream.defect();
        callback.call(life, &event);
        event.status
    });
    drop(stream);
    running.finish(status);
}

/// The life of the thread behind a descriptor. Whatever happens, the request ends.
#[cfg(unix)]
fn pour(model: &Model, running: &Running, mut stream: Stream, pump: Arc<Pump>) {
    // First it is known to who cancels, then asked whether somebody did: so no cancel is missed.
    let pump = running.pump.get_or_init(|| pump);
    if running.is_cancelled() {
        pump.cancel();
    }
    // The request is over before its last event can be taken: who took that asks how it ended.
    let poured = catch_unwind(AssertUnwindSafe(|| {
        while let Ok(Some(event)) = stream.next(None) {
            if event.is_last() {
                model.engine.speed.add(stream.pace());
                running.finish(event.status);
            }
            pump.put(event);
        }
    }));
    if poured.is_err() {
        model.engine.life.poison();
        running.finish(status::INTERNAL);
        pump.put(stream.defect());
    }
}

/// The threads of an engine's requests.
#[derive(Default)]
pub(crate) struct Workers(Mutex<Vec<(Arc<Running>, JoinHandle<()>)>>);

impl Workers {
    fn start(
        &self,
        running: &Arc<Running>,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), Refusal> {
        let mut threads = lock(&self.0);
        threads.retain(|(_, thread)| !thread.is_finished());
        if threads.len() >= PUSHED_REQUESTS_MAX {
            return Err(Refusal::new(
                status::OVERLOADED,
                format!(
                    "{PUSHED_REQUESTS_MAX} requests with a callback run; wait for one to end, or \
                     pull events with zonda_request_next"
                ),
            ));
        }
        let thread = std::thread::Builder::new().name("zonda-events".into()).spawn(body);
        let thread = thread.map_err(|error| {
            Refusal::new(status::OVERLOADED, format!("no thread for the callback: {error}"))
        })?;
        threads.push((Arc::clone(running), thread));
        Ok(())
    }

    fn join(&self, running: &Arc<Running>) {
        let thread = {
            let mut threads = lock(&self.0);
            let place = threads.iter().position(|(other, _)| Arc::ptr_eq(other, running));
            place.map(|place| threads.swap_remove(place).1)
        };
        if let Some(thread) = thread {
            // A panic in it was already told to the caller as the status of its request.
            let _ended = thread.join();
        }
    }

    pub(crate) fn cancel_all(&self) {
        for (running, _) in lock(&self.0).iter() {
            running.cancel();
        }
    }

    pub(crate) fn join_all(&self) {
        let threads = std::mem::take(&mut *lock(&self.0));
        for (_, thread) in threads {
            let _ended = thread.join();
        }
    }
}
