//! Strings to tokens and back: tokenizers, prompt templates, incremental decoding, tool calls,
//! grammars.
//!
//! The door is [`Codec`]: it checks a request by the rules of the model's prompt encoding, writes it
//! in that encoding, and hands out a [`Decoder`] for the answer. The room hides every text standard
//! (SentencePiece, tekken, `tokenizer.json`, five templates, Python's JSON) and knows no tensor, no
//! transport and no clock. Prompts are exact to the token, because a model notices one wrong space.
#![forbid(unsafe_code)]

mod codec;
mod constraint;
mod cutter;
mod decoder;
mod error;
mod grammar;
mod hugging_face;
mod joiner;
mod labels;
mod lexicon;
mod merge;
mod python_json;
mod schema;
mod sentencepiece;
mod stops;
mod tekken;
mod template;
mod tokenizer;
mod tool_calls;
mod validation;
mod vocabulary;
mod wire;
mod words;

pub use codec::{Codec, Prompt};
pub use constraint::{Constraint, ConstraintError, TokenMask};
pub use decoder::{Decoder, Piece, StreamDecoder};
pub use error::TextError;
pub use labels::{LABEL_TOKENS_MAX, LABELS_TOKENS_MAX};
pub use stops::{STOP_BYTES_MAX, STOPS_MAX, Stops};
pub use template::{TemplateVersion, calls_text, prompt_texts};
pub use tokenizer::Tokenizer;
pub use validation::check_function;
