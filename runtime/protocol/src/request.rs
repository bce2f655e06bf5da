//! What is asked.

use std::fmt;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Task;

/// One entry of a model's vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(pub u32);

/// Names one request in answers, logs and cancels. Opaque, at most 128 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub String);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One question, as the rooms behind the transports see it.
#[derive(Debug, Clone)]
pub struct Request {
    /// Set by the transport; unique among the requests in flight.
    pub id: RequestId,
    /// The name of the model as the client asked for it; empty means the default model.
    pub model: String,
    /// Who asks, as far as the transport can vouch for it.
    pub client: Option<String>,
    /// What is to be done with the input.
    pub task: Task,
    /// What to continue.
    pub input: Input,
    /// How the next token is drawn.
    pub sampling: Sampling,
    /// What shape the answer must have.
    pub format: Format,
    /// Functions that the model may call.
    pub tools: Vec<ToolSpec>,
    /// Whether it may, must or must not call them.
    pub tool_choice: ToolChoice,
    /// Of the calls that wait for a result at the end of the conversation, those that this box may run:
    /// whoever asks has seen them and agrees. Their ids.
    pub approved_calls: Vec<String>,
    /// One answer may hold several calls; without this, at most one.
    pub parallel_tool_calls: bool,
    /// What the client expects the answer to be, in great part; the right parts of it are written
    /// sooner.
    pub prediction: Option<String>,
    /// Where to stop, and by when.
    pub limits: Limits,
    /// Whether to tell where the known part of the prompt ends, by [`Event::Reused`].
    ///
    /// [`Event::Reused`]: crate::Event::Reused
    pub explains_reuse: bool,
}

impl Request {
    /// A request with every default, for the default model.
    pub fn new(id: impl Into<String>, input: Input) -> Self {
        Self {
            id: RequestId(id.into()),
            model: String::new(),
            client: None,
            task: Task::Generate,
            input,
            sampling: Sampling::default(),
            format: Format::Free,
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            approved_calls: Vec::new(),
            parallel_tool_calls: true,
            prediction: None,
            limits: Limits::default(),
            explains_reuse: false,
        }
    }
}

/// What the model continues.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A conversation, rendered by the model's template.
    Chat(Vec<Message>),
    /// Plain text behind the begin-of-sequence token, no template.
    Text(String),
    /// Code with a hole: what stands before it and after it.
    Fill {
        /// Text before the hole.
        prefix: String,
        /// Text behind the hole; `None` where the client sent none.
        suffix: Option<String>,
    },
    /// Tokens as they are, nothing added.
    Tokens(Vec<TokenId>),
}

/// One turn of a conversation.
///
/// Text that came in chunks keeps them apart, because template versions join them differently.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Instructions of the application.
    System {
        /// Text chunks, in order.
        content: Vec<String>,
    },
    /// What the user says.
    User {
        /// Text chunks, in order; empty where the client sent `null`.
        content: Vec<String>,
    },
    /// What the model said, or begins to say.
    Assistant {
        /// Text chunks; `None` where the client sent no content or `null`.
        content: Option<Vec<String>>,
        /// Functions that the model called; empty where the client sent none.
        tool_calls: Vec<crate::ToolCall>,
        /// The answer continues this message.
        prefix: bool,
    },
    /// What a called function gave back.
    Tool {
        /// Text chunks, in order.
        content: Vec<String>,
        /// The id of the call that this answers.
        call_id: Option<String>,
        /// The function's name.
        name: Option<String>,
    },
}

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSpec {
    /// `[a-zA-Z0-9_-]{1,64}`; checked by the text room, where its rule is stated.
    pub name: String,
    /// What the function does, for the model to read.
    pub description: String,
    /// JSON Schema of its arguments, keys in the order they came.
    pub parameters: Value,
    /// The arguments keep the whole schema, or the request is refused. Without it, what cannot be
    /// kept is left to whoever runs the function.
    pub strict: bool,
}

/// Whether the model calls functions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// It must not.
    None,
    /// It must call at least one.
    Any,
    /// It must call this one.
    Function(String),
}

/// The shape that the answer must have.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Format {
    /// Any text.
    #[default]
    Free,
    /// One JSON object.
    JsonObject,
    /// One JSON value that this schema accepts.
    JsonSchema(Value),
    /// Text that this regular expression matches whole.
    Regex(String),
    /// Text of this grammar, in Lark's notation.
    Grammar(String),
    /// One of these texts.
    Choice(Vec<String>),
}

/// How the next token is drawn from the logits.
///
/// Stages run in this order: penalties, bias, temperature, top-k, typical, top-p, min-p, draw.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token; `None` means the model's default.
    pub temperature: Option<f32>,
    /// Smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Smallest set of tokens whose probability reaches this, those first whose surprise is nearest
    /// to what is expected of a draw; 1 keeps all. Source: Meister et al. 2022, arXiv:2202.00666.
    pub typical_p: f32,
    /// Number of likeliest tokens kept; 0 keeps all.
    pub top_k: u32,
    /// Least probability relative to the likeliest token's; 0 keeps all.
    pub min_p: f32,
    /// Subtracted from the logit of every token that occurred.
    pub presence_penalty: f32,
    /// Subtracted once for each time that a token occurred.
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens that occurred; 1 does nothing.
    pub repetition_penalty: f32,
    /// Same seed, same request, same answer; `None` draws a fresh one.
    pub seed: Option<u64>,
    /// Added to the logit of these tokens.
    pub bias: Vec<(TokenId, f32)>,
    /// Tells with the text how likely its tokens were, and so many of the likeliest tokens in the
    /// place of each, at most [`Self::LOGPROBS_MAX`]; `None` tells nothing.
    pub logprobs: Option<u8>,
}

impl Sampling {
    /// Most tokens that are told in the place of one.
    pub const LOGPROBS_MAX: u8 = 20;
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: None,
            top_p: 1.0,
            typical_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            seed: None,
            bias: Vec::new(),
            logprobs: None,
        }
    }
}

/// Where a generation ends, at the latest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Limits {
    /// Tokens of the answer; `None` means up to the end of the context.
    pub max_tokens: Option<u32>,
    /// Tokens before an end-of-sequence token may end the answer.
    pub min_tokens: u32,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// The answer is of no use after this moment.
    pub deadline: Option<Instant>,
    /// Who goes first when there is not room for all.
    pub priority: Priority,
}

/// Classes of requests; a higher one goes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Runs when nothing else wants to.
    Batch,
    /// The rule.
    #[default]
    Normal,
    /// Somebody waits at a screen.
    Interactive,
}
