//! One loaded model.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chat_json::{Answer, Chat, Strictness};
use protocol::{Fault, FaultCode, Priority, RequestId, TokenId};
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::lock;
use crate::request::{Callback, RequestHandle, Running};
use crate::rooms::Rooms;
use crate::session::Session;
use crate::status::Refusal;
use crate::stream::Stream;

/// A model and the rooms that answer with it. Its requests keep it alive.
pub(crate) struct Model {
    pub(crate) engine: Arc<Engine>,
    pub(crate) rooms: Arc<dyn Rooms>,
}

/// A loaded model.
pub struct ModelHandle(pub(crate) Arc<Model>);

/// What a caller wants of one request beyond its JSON.
#[derive(Default)]
pub(crate) struct Wishes {
    pub(crate) timeout: Option<Duration>,
    pub(crate) priority: Priority,
    /// The conversation that it goes on with.
    pub(crate) session: Option<Arc<Session>>,
}

impl Model {
    /// Answers, waiting for the end.
    pub(crate) fn chat(self: &Arc<Self>, body: &[u8], wishes: Wishes) -> Result<Value, Refusal> {
        let (_, stream) = self.submit(body, wishes)?;
        stream.completion(&self.engine.speed)
    }

    /// Begins to answer.
    pub(crate) fn start(
        self: &Arc<Self>,
        body: &[u8],
        wishes: Wishes,
        callback: Option<Callback>,
    ) -> Result<RequestHandle, Refusal> {
        let (running, stream) = self.submit(body, wishes)?;
        match callback {
            None => Ok(RequestHandle::pulled(Arc::clone(self), running, stream)),
            Some(callback) => RequestHandle::pushed(Arc::clone(self), running, stream, callback),
        }
    }

    /// Makes vectors of texts, waiting for them.
    pub(crate) fn embed(&self, body: &[u8]) -> Result<Value, Refusal> {
        self.engine.life.check_open()?;
        let asked = chat_json::parse_embeddings(body, Strictness::Lenient)?;
        let made = self.rooms.service().embed(asked.request.clone())?;
        Ok(asked.body(&fresh_id(), &made))
    }

    /// Tokens of the prompt that this chat request would run.
    pub(crate) fn count_tokens(&self, body: &[u8]) -> Result<usize, Refusal> {
        self.engine.life.check_open()?;
        let chat = parse(body)?;
        self.rooms.prompt_tokens(&chat.request)
    }

    pub(crate) fn tokenize(&self, text: &str) -> Result<Vec<TokenId>, Refusal> {
        self.engine.life.check_open()?;
        self.rooms.tokenize(text)
    }

    pub(crate) fn detokenize(&self, tokens: &[TokenId]) -> Result<String, Refusal> {
        self.engine.life.check_open()?;
        self.rooms.detokenize(tokens)
    }

    /// The model's card and what its files say.
    pub(crate) fn card(&self) -> Result<Value, Refusal> {
        self.engine.life.check_open()?;
        let service = self.rooms.service();
        let description = service.describe();
        let models = chat_json::models_body(&description);
        Ok(json!({"models": models["data"], "facts": self.rooms.facts()}))
    }

    fn submit(
        self: &Arc<Self>,
        body: &[u8],
        wishes: Wishes,
    ) -> Result<(Arc<Running>, Stream), Refusal> {
        self.engine.life.check_open()?;
        let (whole, turn) = match &wishes.session {
            Some(session) => {
                let (whole, turn) = session.begin(self, body)?;
                (Some(whole), Some(turn))
            }
            None => (None, None),
        };
        let mut chat = parse(whole.as_deref().unwrap_or(body))?;
        if wishes.priority != Priority::Normal {
            chat.request.limits.priority = wishes.priority;
        }
        if let Some(timeout) = wishes.timeout {
            let deadline = Instant::now() + timeout;
            let earlier = chat.request.limits.deadline.is_some_and(|other| other < deadline);
            if !earlier {
                chat.request.limits.deadline = Some(deadline);
            }
        }
        let created = SystemTime::now().duration_since(UNIX_EPOCH);
        let answer = Answer::new(&chat, created.map_or(0, |since| since.as_secs()));
        let id = chat.request.id.0.clone();
        let reply = self.rooms.service().submit(chat.request)?;
        let running = Running::new(id, reply.canceller());
        let life = Arc::clone(&self.engine.life);
        let stream = Stream::new(reply, answer, life, Arc::clone(&running)).in_turn(turn);
        Ok((running, stream))
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.rooms.shutdown(Duration::ZERO);
        lock(&self.engine.past).add(&self.rooms.figures());
    }
}

fn fresh_id() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

fn parse(body: &[u8]) -> Result<Chat, Refusal> {
    let chat = chat_json::parse_chat(body, RequestId(fresh_id()), Strictness::Lenient)?;
    chat.check_single()?;
    if chat.request.model.is_empty() && body.is_empty() {
        return Err(Fault::new(FaultCode::BadRequest, "the request is empty").into());
    }
    Ok(chat)
}
