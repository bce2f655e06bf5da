//! What is answered.

use crate::{Fault, RequestId};

/// One step of an answer.
///
/// A reply carries exactly one `Accepted` first and exactly one `Finished` or `Failed` last.
/// A request that is refused before it was accepted carries `Failed` alone.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The request left the queue.
    Accepted {
        /// The request's own id, for transports that gave it none to remember.
        id: RequestId,
        /// The model that really answers, whatever alias was asked for.
        model: String,
        /// Tokens of the rendered prompt.
        prompt_tokens: u32,
        /// Of these, tokens whose keys and values were already in memory.
        cached_tokens: u32,
    },
    /// How much of the prompt was known, right behind `Accepted`, where the request asked for it.
    Reused(Reuse),
    /// Whole characters of the answer, never a part of one.
    Text {
        /// What to append.
        text: String,
        /// Tokens that it took; may be 0 for the flush at the end.
        tokens: u32,
    },
    /// One whole function call.
    ToolCall(ToolCall),
    /// The answer is complete.
    Finished {
        /// Why it ends here.
        reason: FinishReason,
        /// What it cost.
        usage: Usage,
    },
    /// The answer ends here, unfinished.
    Failed(Fault),
}

impl Event {
    /// Whether nothing follows.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Finished { .. } | Self::Failed(_))
    }
}

/// Where the part of a prompt ends that was computed before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reuse {
    /// Tokens of the prompt that were known.
    pub cached_tokens: u32,
    /// Why there are no more.
    pub end: ReuseEnd,
    /// The prompt's own text from there on, some tokens of it.
    pub text: String,
}

/// Why no more of a prompt was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReuseEnd {
    /// What is left is too short to be kept, or ends the prompt.
    Complete,
    /// Something known goes on there, and this token of the prompt, from 0, is another one.
    Differs {
        /// Its place in the prompt.
        token: u32,
    },
    /// Nothing that is known goes on there: it was never asked for, or had to make room.
    Unknown,
    /// This engine shares nothing.
    Off,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or a stop text did.
    Stop,
    /// `max_tokens` was reached.
    Length,
    /// The model's context is full.
    ModelLength,
    /// The model waits for the results of functions.
    ToolCalls,
    /// Somebody cancelled it.
    Cancelled,
}

/// What an answer cost, in tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the rendered prompt.
    pub prompt_tokens: u32,
    /// Of these, tokens that were not computed again.
    pub cached_tokens: u32,
    /// Tokens that the model gave, the end-of-sequence token included.
    pub completion_tokens: u32,
    /// Tokens of the answer that were guessed before they were computed.
    pub guessed_tokens: u32,
    /// Of these, tokens that were guessed right and cost no step of their own.
    pub guessed_right_tokens: u32,
    /// Of the completion, tokens that the answer's shape left no choice about.
    pub forced_tokens: u32,
}

/// A function call, asked for by the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Names this call in its result; nine letters and digits when the model made it.
    pub id: String,
    /// The function.
    pub name: String,
    /// Its arguments as JSON text.
    pub arguments: String,
}
