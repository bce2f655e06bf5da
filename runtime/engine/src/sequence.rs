//! One request in flight: its tokens, its pages, and what it still has to say.

use std::sync::Arc;
use std::time::Instant;

use protocol::{Event, Fault, FaultCode, FinishReason, Priority, RequestId, TokenId, Usage};
use text::{Codec, Decoder, Piece};

use crate::batch::{RowLogits, Want};
use crate::outbox::{Delivery, Outbox};
use crate::pages::{Lease, Pages};
use crate::sampler::{Candidate, Choice, Sampler};

/// A checked request on its way to the engine thread.
pub(crate) struct Submission {
    pub(crate) id: RequestId,
    /// The name under which answers go out.
    pub(crate) model: Arc<str>,
    pub(crate) prompt: Vec<TokenId>,
    pub(crate) codec: Codec,
    pub(crate) decoder: Decoder,
    pub(crate) sampler: Sampler,
    /// Tokens of the answer, at most; with the prompt they fit into the context.
    pub(crate) answer_tokens_max: u32,
    /// Why the answer ends at that limit.
    pub(crate) limit_reason: FinishReason,
    pub(crate) deadline: Option<Instant>,
    pub(crate) priority: Priority,
    pub(crate) outbox: Outbox,
}

/// A request that holds pages.
pub(crate) struct Sequence {
    request: Submission,
    lease: Lease,
    /// Tokens that it can need in all, where the request states a length.
    stated_tokens: Option<u32>,
    /// Prompt and answer so far.
    tokens: Vec<TokenId>,
    prompt_tokens: u32,
    /// Tokens whose keys and values are in memory.
    computed_tokens: u32,
    answer_tokens: u32,
    called_tools: bool,
    began: Instant,
    ending: Option<Ending>,
}

/// Why a request ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ending {
    Finished(FinishReason),
    Failed(Fault),
    /// Nobody listens.
    Unheard,
}

/// What one step did for a sequence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    /// Prompt tokens that the network has now seen.
    pub(crate) prompt_tokens: u32,
    /// Tokens that were drawn.
    pub(crate) answer_tokens: u32,
}

/// What is left of a sequence when it has ended.
pub(crate) struct Remains {
    pub(crate) lease: Lease,
    pub(crate) outbox: Outbox,
}

impl Submission {
    /// Tokens whose keys and values it needs at most: the last token drawn is never computed.
    pub(crate) fn context_tokens_max(&self) -> u32 {
        self.context_tokens(self.answer_tokens_max)
    }

    /// Tokens whose pages it needs to begin: all where the request states a length, else those of
    /// the prompt and of `open_answer_tokens` tokens of the answer.
    pub(crate) fn lease_tokens(&self, open_answer_tokens: u32) -> u32 {
        match self.limit_reason {
            FinishReason::ModelLength => {
                self.context_tokens(self.answer_tokens_max.min(open_answer_tokens))
            }
            _ => self.context_tokens_max(),
        }
    }

    fn context_tokens(&self, answer_tokens: u32) -> u32 {
        let prompt_tokens = u32::try_from(self.prompt.len()).unwrap_or(u32::MAX);
        prompt_tokens.saturating_add(answer_tokens.saturating_sub(1))
    }

    /// Why it ends before it began, if it does.
    pub(crate) fn ending(&mut self, now: Instant) -> Option<Ending> {
        if self.outbox.deliver(now) == Delivery::Gone {
            return Some(Ending::Unheard);
        }
        if self.outbox.is_cancelled() {
            let fault = Fault::new(FaultCode::Cancelled, "the request was cancelled in the queue");
            return Some(Ending::Failed(fault));
        }
        expired(self.deadline, now, "in the queue").map(Ending::Failed)
    }
}

impl Sequence {
    /// Starts a request that left the queue.
    pub(crate) fn begin(mut request: Submission, lease: Lease, now: Instant) -> Self {
        let stated_tokens = match request.limit_reason {
            FinishReason::ModelLength => None,
            _ => Some(request.context_tokens_max()),
        };
        let tokens = std::mem::take(&mut request.prompt);
        let prompt_tokens = u32::try_from(tokens.len()).expect("a prompt fits into the context");
        request.outbox.begin();
        request.outbox.push(Event::Accepted {
            id: request.id.clone(),
            model: request.model.to_string(),
            prompt_tokens,
            cached_tokens: 0,
        });
        let nothing_to_say = request.answer_tokens_max == 0;
        let ending = nothing_to_say.then_some(Ending::Finished(request.limit_reason));
        tracing::debug!(request = %request.id, prompt_tokens, "accepted");
        Self {
            request,
            lease,
            stated_tokens,
            tokens,
            prompt_tokens,
            computed_tokens: 0,
            answer_tokens: 0,
            called_tools: false,
            began: now,
            ending,
        }
    }

    /// Whether it can take part in a step: a slow reader pauses its own sequence only.
    pub(crate) fn is_ready(&self) -> bool {
        self.ending.is_none() && self.request.outbox.is_clear()
    }

    /// Whether it waits for its reader.
    pub(crate) fn is_paused(&self) -> bool {
        self.ending.is_none() && !self.request.outbox.is_clear()
    }

    /// Whether it holds the pages of all its tokens so far.
    pub(crate) fn has_pages(&self) -> bool {
        self.lease.holds(self.context_tokens())
    }

    /// Asks for the pages of all its tokens so far, or of its stated length; whether it got them.
    pub(crate) fn secure_pages(&mut self, pages: &mut Pages) -> bool {
        let tokens = self.stated_tokens.unwrap_or_else(|| self.context_tokens());
        pages.raise(&mut self.lease, tokens)
    }

    /// Gives its pages to another; what it computed is computed anew when there are pages again.
    pub(crate) fn park(&mut self, pages: &mut Pages) {
        pages.strip(&mut self.lease);
        self.computed_tokens = 0;
        tracing::debug!(request = %self.request.id, tokens = self.tokens.len(), "parked");
    }

    /// Tokens that the network has not seen yet; 1 while the answer is being written.
    pub(crate) fn pending_tokens(&self) -> u32 {
        self.context_tokens() - self.computed_tokens
    }

    /// The next `count` pending tokens.
    pub(crate) fn pending(&self, count: u32) -> &[TokenId] {
        let from = self.computed_tokens as usize;
        &self.tokens[from..from + count as usize]
    }

    pub(crate) fn computed_tokens(&self) -> u32 {
        self.computed_tokens
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    pub(crate) fn lease_mut(&mut self) -> &mut Lease {
        &mut self.lease
    }

    pub(crate) fn want(&self) -> Want {
        self.request.sampler.want()
    }

    /// Notes that the network has seen `computed` more tokens, and takes the outcome of the last.
    pub(crate) fn advance(
        &mut self,
        computed: u32,
        row: Option<RowLogits>,
        scratch: &mut Vec<Candidate>,
    ) -> Progress {
        let before = (self.computed_tokens.min(self.prompt_tokens), self.answer_tokens);
        self.computed_tokens += computed;
        match row.map(|row| self.request.sampler.next(row, scratch)) {
            None => {}
            Some(Ok(Choice::Token(token))) => self.append(token),
            Some(Ok(Choice::Unsettled)) => self.computed_tokens -= 1,
            Some(Err(error)) => {
                self.end(Ending::Failed(Fault::new(FaultCode::Internal, error.to_string())));
            }
        }
        Progress {
            prompt_tokens: self.computed_tokens.min(self.prompt_tokens) - before.0,
            answer_tokens: self.answer_tokens - before.1,
        }
    }

    /// Decides the end. The first decision holds.
    pub(crate) fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }

    /// Hands over events; ends where nobody listens.
    pub(crate) fn deliver(&mut self, now: Instant) {
        if self.request.outbox.deliver(now) == Delivery::Gone {
            self.ending = Some(Ending::Unheard);
        }
    }

    /// Hands over events, and sees whether somebody outside ended it.
    pub(crate) fn look_outside(&mut self, now: Instant) {
        self.deliver(now);
        if self.request.outbox.is_cancelled() {
            self.end(Ending::Finished(FinishReason::Cancelled));
        } else if let Some(fault) = expired(self.request.deadline, now, "before it was complete") {
            self.end(Ending::Failed(fault));
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ending.is_some()
    }

    /// Says the last word and gives back what it held.
    pub(crate) fn close(mut self, now: Instant) -> Remains {
        let ending = self.ending.take().unwrap_or(Ending::Unheard);
        tracing::debug!(
            request = %self.request.id,
            prompt_tokens = self.prompt_tokens,
            answer_tokens = self.answer_tokens,
            run_ms = now.duration_since(self.began).as_millis() as u64,
            ending = ending.name(),
            "ended",
        );
        let usage = self.usage();
        let mut outbox = self.request.outbox;
        outbox.close(ending.into_event(usage));
        Remains { lease: self.lease, outbox }
    }

    pub(crate) fn ran_since(&self) -> Instant {
        self.began
    }

    fn context_tokens(&self) -> u32 {
        self.tokens.len() as u32
    }

    fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens,
            cached_tokens: 0,
            completion_tokens: self.answer_tokens,
        }
    }

    fn append(&mut self, token: TokenId) {
        self.answer_tokens += 1;
        if self.request.codec.is_end(token) {
            return self.finish(FinishReason::Stop);
        }
        self.tokens.push(token);
        let pieces = self.request.decoder.push(token);
        self.say(pieces);
        if self.answer_tokens >= self.request.answer_tokens_max && self.ending.is_none() {
            self.finish(self.request.limit_reason);
        }
    }

    /// Says what the decoder held back, then ends.
    fn finish(&mut self, reason: FinishReason) {
        let pieces = self.request.decoder.finish();
        self.say(pieces);
        let reason = match reason {
            FinishReason::Stop if self.called_tools => FinishReason::ToolCalls,
            reason => reason,
        };
        self.end(Ending::Finished(reason));
    }

    fn say(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            match piece {
                Piece::Text { text, tokens } => {
                    self.request.outbox.push(Event::Text { text, tokens });
                }
                Piece::ToolCall(call) => {
                    self.called_tools = true;
                    self.request.outbox.push(Event::ToolCall(call));
                }
                Piece::Stop => return self.end(Ending::Finished(FinishReason::Stop)),
            }
        }
    }
}

impl Ending {
    /// The event that says so; `None` where nobody listens.
    pub(crate) fn into_event(self, usage: Usage) -> Option<Event> {
        match self {
            Self::Finished(reason) => Some(Event::Finished { reason, usage }),
            Self::Failed(fault) => Some(Event::Failed(fault)),
            Self::Unheard => None,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Finished(FinishReason::Stop) => "stop",
            Self::Finished(FinishReason::Length) => "length",
            Self::Finished(FinishReason::ModelLength) => "model_length",
            Self::Finished(FinishReason::ToolCalls) => "tool_calls",
            Self::Finished(FinishReason::Cancelled) => "cancelled",
            Self::Failed(fault) => fault.code.name(),
            Self::Unheard => "unheard",
        }
    }
}

fn expired(deadline: Option<Instant>, now: Instant, place: &str) -> Option<Fault> {
    let late = now.checked_duration_since(deadline?)?;
    let message = format!(
        "the deadline passed {place}, {} ms ago; allow more time or ask for fewer tokens",
        late.as_millis()
    );
    Some(Fault::new(FaultCode::Deadline, message))
}
