//! Who answers: one verb, and the bounded stream of events that it gives back.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::{
    Allowance, EmbedRequest, EmbedderCard, Embeddings, Event, Fault, FaultCode, ModerateRequest,
    Moderations, Request, RequestId, TokenId,
};

/// Something that answers requests: the engine, or a layer around it.
pub trait Service: Send + Sync {
    /// Takes a request, or refuses it at once.
    ///
    /// Errors: what a check before the queue finds, and [`FaultCode::Busy`] when the queue is full.
    /// Threads: any; does the text work of the request on the caller's thread, never a step of the
    /// model.
    fn submit(&self, request: Request) -> Result<Reply, Fault>;

    /// What this service is and how busy it is now.
    fn describe(&self) -> Description;

    /// The tokens that `submit` would make of a request, and nothing computed.
    ///
    /// Errors: as `submit`, without those of the queue; a service without a model knows no tokens.
    /// Threads: as `submit`.
    fn encode(&self, _request: Request) -> Result<Encoded, Fault> {
        Err(no_tokens())
    }

    /// The text that tokens of a model say; control tokens say nothing.
    ///
    /// Errors: an unknown model, a token outside the vocabulary.
    fn decode(&self, _model: &str, _tokens: &[TokenId]) -> Result<String, Fault> {
        Err(no_tokens())
    }

    /// The vectors of texts, by a network of its own beside the model.
    ///
    /// Errors: an unknown name, a deadline that passed, [`FaultCode::Busy`] when too many ask;
    /// [`FaultCode::Unsupported`] where there is no such network.
    /// Threads: any; computes while the caller waits, on a thread of the network's.
    fn embed(&self, _request: EmbedRequest) -> Result<Embeddings, Fault> {
        let message = "no network here makes vectors of texts; configure one as [[onnx]]";
        Err(Fault::new(FaultCode::Unsupported, message))
    }

    /// The categories of inputs, by a classifier beside the model.
    ///
    /// Errors and threads: as `embed`.
    fn moderate(&self, _request: ModerateRequest) -> Result<Moderations, Fault> {
        let message = "no classifier here has categories; configure one as [[onnx]]";
        Err(Fault::new(FaultCode::Unsupported, message))
    }

    /// Whether so many requests of a client would be let in now, `at_once` of them at the same time,
    /// for who sends several. Nothing is set aside: others may be sooner.
    ///
    /// Errors: [`FaultCode::RateLimited`] with the time after which they would be,
    /// [`FaultCode::InvalidField`] where that time never comes.
    fn admits(&self, _client: Option<&str>, _requests: u32, _at_once: u32) -> Result<(), Fault> {
        Ok(())
    }

    /// What a client has left; `None` for one without limits.
    fn allowance(&self, _client: Option<&str>) -> Option<Allowance> {
        None
    }
}

fn no_tokens() -> Fault {
    Fault::new(FaultCode::Unsupported, "this service has no model whose tokens it could tell")
}

/// A request as the model reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The prompt, the begin-of-sequence token included.
    pub tokens: Vec<TokenId>,
    /// What each of them says, or the name of one that steers.
    pub spelled: Vec<String>,
    /// Prompt and answer together, in tokens.
    pub context_tokens_max: u32,
}

/// A service's statement of itself.
#[derive(Debug, Clone, Default)]
pub struct Description {
    /// The models that answer, the default one first.
    pub models: Vec<ModelCard>,
    /// What it was told to tell apart.
    pub classifiers: Vec<ClassifierCard>,
    /// What makes vectors of texts, the default one first.
    pub embedders: Vec<EmbedderCard>,
    /// How busy it is.
    pub load: Load,
}

/// What a client may know of a configured classifier.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassifierCard {
    /// The name that requests ask for.
    pub name: String,
    /// The questions that it answers of each input.
    pub targets: Vec<String>,
}

/// What a client may know of a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelCard {
    /// The name that answers carry.
    pub id: String,
    /// Other names under which it answers.
    pub aliases: Vec<String>,
    /// Prompt and answer together, in tokens.
    pub context_tokens_max: u32,
    /// Whether fill-in-the-middle works with its vocabulary.
    pub fill: bool,
    /// Whether its prompt encoding knows function calls.
    pub tools: bool,
    /// The temperature of requests that name none.
    pub default_temperature: f32,
    /// Seconds since 1970 at which the model's file was last changed.
    pub created: u64,
    /// Name of the prompt encoding: `v1`, `v2`, `v3`, `v3-tekken` or `v7`.
    pub encoding: String,
}

/// How busy a service is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests being answered.
    pub active: u32,
    /// Requests waiting.
    pub queued: u32,
    /// Requests that may wait.
    pub queue_requests_max: u32,
    /// Requests that may be answered at the same time; 0 where nobody says.
    pub active_max: u32,
    /// Milliseconds until a request that comes now has its turn, as far as can be told.
    pub wait_ms: u64,
    /// Tokens of answers since the start.
    pub answer_tokens: u64,
}

/// The receiving end of one answer. Dropping it cancels the request.
#[derive(Debug)]
pub struct Reply {
    id: RequestId,
    events: flume::Receiver<Event>,
    cancelled: Arc<AtomicBool>,
    finished: bool,
    watchers: Vec<Watcher>,
}

/// Sees each event when the reader takes it; dropped with the reply.
struct Watcher(Box<dyn FnMut(&Event) + Send + Sync>);

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher")
    }
}

/// The sending end of one answer, held by whoever computes it.
#[derive(Debug, Clone)]
pub struct EventSink {
    events: flume::Sender<Event>,
    cancelled: Arc<AtomicBool>,
}

/// Cancels one request from any thread, any number of times.
#[derive(Debug, Clone)]
pub struct Canceller(Arc<AtomicBool>);

/// What became of an event.
#[derive(Debug, PartialEq)]
pub enum SendOutcome {
    /// The reader will get it.
    Sent,
    /// The reader is slow: keep the event and try again later.
    Full(Event),
    /// The reader is gone: stop working.
    Gone,
}

/// Both ends of an answer that buffers at most `events_max` events.
pub fn reply_pair(id: RequestId, events_max: usize) -> (EventSink, Reply) {
    let (sender, receiver) = flume::bounded(events_max.max(1));
    let cancelled = Arc::new(AtomicBool::new(false));
    (
        EventSink { events: sender, cancelled: Arc::clone(&cancelled) },
        Reply { id, events: receiver, cancelled, finished: false, watchers: Vec::new() },
    )
}

impl EventSink {
    /// Hands an event over without waiting.
    pub fn send(&self, event: Event) -> SendOutcome {
        match self.events.try_send(event) {
            Ok(()) => SendOutcome::Sent,
            Err(flume::TrySendError::Full(event)) => SendOutcome::Full(event),
            Err(flume::TrySendError::Disconnected(_)) => SendOutcome::Gone,
        }
    }

    /// Whether somebody cancelled the request; it still wants its last event.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Whether the reader is gone; nothing more needs to be sent.
    pub fn is_gone(&self) -> bool {
        self.events.is_disconnected()
    }
}

impl Reply {
    /// The request that this answers.
    pub fn id(&self) -> &RequestId {
        &self.id
    }

    /// A handle that cancels this request. The reply then ends with
    /// [`FinishReason::Cancelled`](crate::FinishReason::Cancelled).
    pub fn canceller(&self) -> Canceller {
        Canceller(Arc::clone(&self.cancelled))
    }

    /// Shows `watch` each event when the reader takes it. What it holds is dropped with the reply, so
    /// that it sees the end of one that is given up as well.
    ///
    /// Threads: runs on the reader's, so it must be short.
    #[must_use]
    pub fn watched(mut self, watch: impl FnMut(&Event) + Send + Sync + 'static) -> Self {
        self.watchers.push(Watcher(Box::new(watch)));
        self
    }

    /// The next event, waiting for it. `None` after the last one.
    ///
    /// A service that goes away in the middle of an answer shows as `Failed`.
    pub fn recv(&mut self) -> Option<Event> {
        if self.finished {
            return None;
        }
        let received = self.events.recv().ok();
        Some(self.note(received))
    }

    /// The next event, waiting for it without a thread. `None` after the last one.
    pub async fn recv_async(&mut self) -> Option<Event> {
        if self.finished {
            return None;
        }
        let received = self.events.recv_async().await.ok();
        Some(self.note(received))
    }

    /// The next event, waiting at most `timeout`. `Err` when none came in time.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Event>, TimedOut> {
        if self.finished {
            return Ok(None);
        }
        match self.events.recv_timeout(timeout) {
            Ok(event) => Ok(Some(self.note(Some(event)))),
            Err(flume::RecvTimeoutError::Timeout) => Err(TimedOut),
            Err(flume::RecvTimeoutError::Disconnected) => Ok(Some(self.note(None))),
        }
    }

    fn note(&mut self, event: Option<Event>) -> Event {
        let event = event.unwrap_or_else(|| {
            Event::Failed(Fault::new(
                FaultCode::Internal,
                "the engine stopped before the answer was complete; send the request again",
            ))
        });
        self.finished = event.is_last();
        self.watchers.iter_mut().for_each(|Watcher(watch)| watch(&event));
        event
    }
}

/// No event came in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOut;

impl Canceller {
    /// Asks the engine to end the request at its next step.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FinishReason, Usage};

    fn text(text: &str) -> Event {
        Event::text(text, 1)
    }

    #[test]
    fn slow_reader_gets_every_event_in_order() {
        let (sink, mut reply) = reply_pair(RequestId("a".into()), 1);
        assert_eq!(sink.send(text("one")), SendOutcome::Sent);
        assert_eq!(sink.send(text("two")), SendOutcome::Full(text("two")));
        assert_eq!(reply.recv(), Some(text("one")));
        assert_eq!(sink.send(text("two")), SendOutcome::Sent);
        assert_eq!(reply.recv(), Some(text("two")));
    }

    #[test]
    fn dropped_reply_is_seen_by_the_sink() {
        let (sink, reply) = reply_pair(RequestId("a".into()), 4);
        assert!(!sink.is_gone());
        drop(reply);
        assert!(sink.is_gone());
        assert_eq!(sink.send(text("x")), SendOutcome::Gone);
    }

    #[test]
    fn lost_engine_ends_the_reply_with_a_fault() {
        let (sink, mut reply) = reply_pair(RequestId("a".into()), 4);
        drop(sink);
        assert!(
            matches!(reply.recv(), Some(Event::Failed(fault)) if fault.code == FaultCode::Internal)
        );
        assert_eq!(reply.recv(), None);
    }

    #[test]
    fn nothing_follows_the_last_event() {
        let (sink, mut reply) = reply_pair(RequestId("a".into()), 4);
        let last = Event::Finished { reason: FinishReason::Stop, usage: Usage::default() };
        sink.send(last.clone());
        assert_eq!(reply.recv_timeout(Duration::from_secs(1)), Ok(Some(last)));
        assert_eq!(reply.recv_timeout(Duration::from_secs(1)), Ok(None));
    }

    #[test]
    fn a_watcher_sees_what_the_reader_takes_and_ends_with_the_reply() {
        let (seen, watched) = flume::unbounded();
        let (sink, reply) = reply_pair(RequestId("a".into()), 4);
        let mut reply = reply.watched(move |event| seen.send(event.clone()).unwrap());
        sink.send(text("one"));
        sink.send(text("two"));
        reply.recv();
        assert_eq!(watched.drain().collect::<Vec<_>>(), [text("one")]);
        drop(reply);
        assert_eq!(watched.recv(), Err(flume::RecvError::Disconnected));
    }

    #[test]
    fn cancel_reaches_the_sink_from_another_thread() {
        let (sink, reply) = reply_pair(RequestId("a".into()), 4);
        let canceller = reply.canceller();
        std::thread::spawn(move || canceller.cancel()).join().unwrap();
        assert!(sink.is_cancelled());
    }
}
