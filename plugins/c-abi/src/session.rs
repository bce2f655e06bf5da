//! A conversation that the library remembers, so that a request brings only what is new.
//!
//! What is remembered is text. The cache needs no help: the engine finds the beginning that it read
//! before by its tokens, for as long as it has room for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use serde_json::Value;

use crate::engine::Engine;
use crate::lock;
use crate::model::Model;
use crate::status::{self, Refusal};

/// Sessions of one engine.
pub(crate) const SESSIONS_MAX: usize = 1024;
/// Longest conversation, as JSON.
pub(crate) const SESSION_BYTES_MAX: usize = 1 << 20;

/// A conversation that the library remembers.
pub struct SessionHandle(pub(crate) Arc<Session>);

/// One conversation with one model.
pub(crate) struct Session {
    pub(crate) engine: Arc<Engine>,
    /// A session does not keep its model loaded.
    model: Weak<Model>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    messages: Vec<Value>,
    bytes: usize,
    /// A request of this session is not over.
    is_taken: bool,
}

/// How many sessions an engine has.
#[derive(Debug, Default)]
pub(crate) struct Sessions(AtomicUsize);

impl Sessions {
    fn add(&self) -> Result<(), Refusal> {
        let more = |count: usize| (count < SESSIONS_MAX).then_some(count + 1);
        match self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, more) {
            Ok(_) => Ok(()),
            Err(_) => Err(Refusal::new(
                status::OVERLOADED,
                format!("{SESSIONS_MAX} sessions are open; free one"),
            )),
        }
    }
}

impl Session {
    pub(crate) fn create(model: &Arc<Model>) -> Result<SessionHandle, Refusal> {
        let engine = Arc::clone(&model.engine);
        engine.life.check_open()?;
        engine.sessions.add()?;
        let model = Arc::downgrade(model);
        Ok(SessionHandle(Arc::new(Self { engine, model, state: Mutex::default() })))
    }

    /// Forgets the conversation.
    pub(crate) fn reset(&self) -> Result<(), Refusal> {
        let mut state = lock(&self.state);
        check_free(&state)?;
        *state = State::default();
        Ok(())
    }

    /// The whole request for one that brings only what is new, and the turn that it begins.
    pub(crate) fn begin(
        self: &Arc<Self>,
        model: &Arc<Model>,
        body: &[u8],
    ) -> Result<(Vec<u8>, Turn), Refusal> {
        if !std::ptr::eq(self.model.as_ptr(), Arc::as_ptr(model)) {
            return Err(Refusal::argument("the session is one of another model"));
        }
        let mut request = chat_json::parse_json(body)?;
        let mut state = lock(&self.state);
        check_free(&state)?;
        let mut asked = Vec::new();
        // Where there is no list, the reader of requests says so.
        if let Some(messages) = request.get_mut("messages").and_then(Value::as_array_mut) {
            asked.clone_from(messages);
            messages.splice(..0, state.messages.iter().cloned());
        }
        let bytes = state.bytes + asked.iter().map(length).sum::<usize>();
        if bytes > SESSION_BYTES_MAX {
            return Err(Refusal::new(
                status::CONTEXT_LENGTH,
                format!(
                    "the conversation would have {bytes} bytes, at most {SESSION_BYTES_MAX} are \
                     kept; reset the session"
                ),
            ));
        }
        state.is_taken = true;
        drop(state);
        let turn = Turn { session: Arc::clone(self), asked };
        Ok((request.to_string().into_bytes(), turn))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.engine.sessions.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn check_free(state: &State) -> Result<(), Refusal> {
    if !state.is_taken {
        return Ok(());
    }
    Err(Refusal::state("a request of this session is not over; a conversation has one at a time"))
}

fn length(message: &Value) -> usize {
    message.to_string().len()
}

/// One request of a session. Dropping it leaves the conversation as it was.
pub(crate) struct Turn {
    session: Arc<Session>,
    asked: Vec<Value>,
}

impl Turn {
    /// Remembers what was asked and the answer of a `chat.completion`.
    pub(crate) fn keep(mut self, completion: &Value) {
        let mut messages = std::mem::take(&mut self.asked);
        // The answer repeats what the caller began it with.
        let is_begun = |message: &Value| message.get("prefix") == Some(&Value::Bool(true));
        if messages.last().is_some_and(is_begun) {
            messages.pop();
        }
        messages.push(completion["choices"][0]["message"].clone());
        let mut state = lock(&self.session.state);
        state.bytes += messages.iter().map(length).sum::<usize>();
        state.messages.append(&mut messages);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.session.state).is_taken = false;
    }
}
