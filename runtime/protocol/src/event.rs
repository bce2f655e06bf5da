//! What is answered.

use crate::{Fault, RequestId, Scores, TokenId};

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
        /// The tokens whose text begins here, in order, where the request asked how likely they were;
        /// else empty.
        logprobs: Vec<TokenLogprob>,
    },
    /// One whole function call.
    ToolCall(ToolCall),
    /// How well each label fits; the whole answer of a request to classify.
    Scores(Scores),
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
    /// Text of which nobody asked how likely it was.
    pub fn text(text: impl Into<String>, tokens: u32) -> Self {
        Self::Text { text: text.into(), tokens, logprobs: Vec::new() }
    }

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

/// A token of the answer, and what might have stood in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token that was said.
    pub chosen: Likelihood,
    /// The likeliest tokens, likeliest first, as many as were asked for.
    pub likeliest: Vec<Likelihood>,
}

/// How likely the network found a token.
///
/// Its logits are taken as they are, over all tokens that can be turned into text: before
/// penalties, bias, the answer's shape and the temperature.
#[derive(Debug, Clone, PartialEq)]
pub struct Likelihood {
    /// Which token.
    pub token: TokenId,
    /// What it says, with U+FFFD for what is no whole character; the name of a token that says
    /// nothing.
    pub text: String,
    /// What it says, exactly: perhaps a part of a character. `None` for a token that says nothing.
    pub bytes: Option<Vec<u8>>,
    /// The natural logarithm of its probability; finite, at most 0.
    pub logprob: f32,
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
    /// Tokens that the model gave, the end-of-sequence token included; or tokens of labels that it
    /// computed.
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
