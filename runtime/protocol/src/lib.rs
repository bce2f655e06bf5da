//! The words that every room speaks.
//!
//! A transport turns bytes into a [`Request`], a [`Service`] answers with a stream of [`Event`]s,
//! and what goes wrong is a [`Fault`]. Nothing here knows a wire format, a token vocabulary or a
//! tensor: OpenAI's JSON, MQTT's topics and C's structs stop at the plugin that owns them.
#![forbid(unsafe_code)]

mod allowance;
mod classify;
mod embedding;
mod event;
mod fault;
mod lookout;
mod moderation;
mod plugin;
mod request;
mod service;

pub use allowance::{Allowance, Remaining};
pub use classify::{Classify, LabelScore, Scores, Task};
pub use embedding::{EmbedRequest, EmbedderCard, Embeddings};
pub use event::{Event, FinishReason, Likelihood, Reuse, ReuseEnd, TokenLogprob, ToolCall, Usage};
pub use fault::{Fault, FaultCode};
pub use lookout::{Lookout, News, NewsFeed, NewsSink, news_pair};
pub use moderation::{CategoryScore, ModerateRequest, Moderations};
pub use plugin::{
    Asked, Filter, Observation, Observer, Stop, StopHandle, Tool, ToolError, Toolbox, Transport,
    TransportError,
};
pub use request::{
    Format, Input, Limits, Message, Priority, Request, RequestId, Sampling, TokenId, ToolChoice,
    ToolSpec,
};
pub use service::{
    Canceller, ClassifierCard, Description, Encoded, EventSink, Load, ModelCard, Reply,
    SendOutcome, Service, TimedOut, reply_pair,
};
