//! What plugs in: transports, tools and filters. They see this crate and nothing behind it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{Event, Fault, Request, RequestId, Service, ToolSpec, Usage};

/// Brings requests in and carries events out.
pub trait Transport: Send {
    /// Its name in configuration and logs.
    fn name(&self) -> &'static str;

    /// Serves until `stop` is raised, then lets running answers end and returns.
    ///
    /// Threads: called on a thread of its own; may start an async runtime there.
    fn serve(self: Box<Self>, service: Arc<dyn Service>, stop: Stop) -> Result<(), TransportError>;
}

/// A transport cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The address cannot be listened on or reached.
    #[error("{transport}: cannot use address {address}: {source}")]
    Address {
        /// Which transport.
        transport: &'static str,
        /// As configured.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration makes no sense for this transport.
    #[error("{transport}: {message}")]
    Configuration {
        /// Which transport.
        transport: &'static str,
        /// What, and what to do.
        message: String,
    },
    /// It broke while serving.
    #[error("{transport}: {message}")]
    Broken {
        /// Which transport.
        transport: &'static str,
        /// What happened.
        message: String,
    },
}

/// A function on this box that the model may call.
pub trait Tool: Send + Sync {
    /// Name, description and schema, as the model reads them.
    fn spec(&self) -> &ToolSpec;

    /// Runs it. `arguments` and the result are JSON text.
    ///
    /// Threads: the transport's that carries the request; must return by `deadline`.
    fn call(&self, arguments: &str, deadline: Instant) -> Result<String, ToolError>;

    /// As `call`, for a caller that may lose interest: a tool that waits for something asks `wanted`
    /// now and then, and returns early when it says no.
    fn call_while(
        &self,
        arguments: &str,
        deadline: Instant,
        _wanted: &dyn Fn() -> bool,
    ) -> Result<String, ToolError> {
        self.call(arguments, deadline)
    }

    /// Whether whoever asked must agree to each call before it is run.
    fn needs_approval(&self) -> bool {
        false
    }
}

/// Tools that come and go while the program runs.
pub trait Toolbox: Send + Sync {
    /// Those that can be called now, in an order that stays.
    fn tools(&self) -> Vec<Arc<dyn Tool>>;
}

/// A tool gave no result. The model reads the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ToolError(pub String);

/// Looks at what goes by, in the order of the profile.
pub trait Filter: Send + Sync {
    /// Its name in configuration and logs.
    fn name(&self) -> &str;

    /// Sees a request before it is encoded; may change or refuse it.
    fn on_request(&self, request: &mut Request) -> Result<(), Fault>;

    /// Sees an event before the transport does; may change it or end the answer. The `logprobs` of a
    /// text spell the text too: what is changed in one has to go from the other.
    fn on_event(&self, event: &mut Event) -> Result<(), Fault>;

    /// Whether it judges answers as a whole: then nothing of an answer is sent before its end.
    fn judges_answers(&self) -> bool {
        false
    }

    /// Sees what an answer says, texts and calls, when it is complete; adjacent texts are one. May
    /// change or refuse it. Asked of filters that [`judges_answers`](Self::judges_answers).
    fn on_answer(&self, asked: &Asked, answer: &mut Vec<Event>) -> Result<(), Fault> {
        let _unchanged = (asked, answer);
        Ok(())
    }
}

/// Which request an answer belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The request's id.
    pub id: RequestId,
    /// The model, as it was asked for.
    pub model: String,
    /// Who asked.
    pub client: Option<String>,
}

impl Asked {
    /// What an answer to this request belongs to.
    pub fn of(request: &Request) -> Self {
        Self {
            id: request.id.clone(),
            model: request.model.clone(),
            client: request.client.clone(),
        }
    }
}

/// Hears what became of requests, and nothing of what was said.
pub trait Observer: Send + Sync {
    /// One request has ended.
    ///
    /// Threads: that of the transport or of the answer; must return at once.
    fn observe(&self, seen: &Observation);
}

/// What became of one request. Durations begin with its arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The model, as it was asked for.
    pub model: String,
    /// How it ended: `stop`, `length`, `model_length`, `tool_calls`, `cancelled`, or the name of a
    /// [`FaultCode`](crate::FaultCode).
    pub outcome: &'static str,
    /// What it cost, as far as it is known.
    pub usage: Usage,
    /// When it left the queue.
    pub accepted: Option<Duration>,
    /// When the first of its answer came, text or call.
    pub first_text: Option<Duration>,
    /// When it ended.
    pub total: Duration,
}

/// Tells transports to stop. Clone it for each of them; wait on it from a thread or a task.
#[derive(Debug, Clone)]
pub struct Stop(flume::Receiver<()>);

/// Raises its [`Stop`] when dropped or told to.
#[derive(Debug)]
pub struct StopHandle(flume::Sender<()>);

impl Stop {
    /// A stop signal and the handle that raises it.
    pub fn pair() -> (StopHandle, Self) {
        let (sender, receiver) = flume::bounded(0);
        (StopHandle(sender), Self(receiver))
    }

    /// Whether it was raised.
    pub fn is_raised(&self) -> bool {
        self.0.is_disconnected()
    }

    /// Waits on this thread until it is raised.
    pub fn wait(&self) {
        // Nothing is ever sent: the only end of this wait is the handle's drop.
        let _raised = self.0.recv();
    }

    /// Waits at most `timeout`; says whether it was raised.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        matches!(self.0.recv_timeout(timeout), Err(flume::RecvTimeoutError::Disconnected))
    }

    /// Waits as a task until it is raised.
    pub async fn wait_async(&self) {
        let _raised = self.0.recv_async().await;
    }
}

impl StopHandle {
    /// Raises the signal.
    pub fn raise(self) {
        drop(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_wakes_every_waiter() {
        let (handle, stop) = Stop::pair();
        assert!(!stop.is_raised());
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let stop = stop.clone();
                std::thread::spawn(move || stop.wait())
            })
            .collect();
        handle.raise();
        for waiter in waiters {
            waiter.join().unwrap();
        }
        assert!(stop.is_raised());
        assert!(stop.wait_timeout(Duration::from_secs(5)));
    }
}
