//! The chat-completions JSON: one door for HTTP, MQTT and C.
//!
//! A body in Mistral's or OpenAI's spelling becomes a [`Chat`], which holds the
//! [`Request`](protocol::Request) and what the answer must look like; an [`Answer`] folds the
//! events of the reply into `chat.completion` objects and their chunks, [`Choices`] those of several
//! replies; [`fault_body`] gives a fault the one shape that the clients of both dialects parse.
//!
//! What it hides: field names, defaults and ranges, both dialects' differences, tool-call ids of
//! other providers, and the limits on foreign JSON. Bytes come from outside: every size has a
//! limit, and no message of a fault repeats more of them than the name of a field.
#![forbid(unsafe_code)]

mod answer;
mod batch;
mod bodies;
mod call_ids;
mod chat;
mod choices;
mod classification;
mod embeddings;
mod ext;
mod fields;
mod fill;
mod json;
mod legacy;
mod messages;
mod moderation;
mod settings;
mod tokens;
mod tools;

pub use answer::Answer;
pub use batch::{BatchOrder, INLINE_REQUESTS_MAX, parse_batch, parse_batch_job};
pub use bodies::{classifier_body, embedder_body, fault_body, model_body, models_body};
pub use chat::{Chat, parse_chat};
pub use choices::Choices;
pub use classification::{Classification, INPUTS_MAX, InputKind, parse_classification};
pub use embeddings::{Embedding, parse_embeddings};
pub use ext::{Ext, Mode};
pub use fields::Strictness;
pub use fill::parse_fill;
pub use json::{DEPTH_MAX, VALUES_MAX, parse_json};
pub use legacy::parse_completion;
pub use messages::{MESSAGES_MAX, parse_messages};
pub use moderation::{Moderation, moderation_body, parse_moderation};
pub use settings::Dialect;
pub use tokens::{TOKENS_MAX, Tokenize, detokenize_body, parse_detokenize, parse_tokenize};
pub use tools::{TOOLS_MAX, parse_tools};
