//! Requests to events, without tensors: scheduling, pages, sampling, the engine thread.
//!
//! [`EngineService`] checks and encodes a request on its caller's thread and hands it, by a bounded
//! mailbox, to the one engine thread. There each step drains the mailbox, plans a [`Batch`], has a
//! [`Forward`] compute it, advances every sequence by its outcome, and settles what ended. The room
//! hides the policy of who runs when and on which pages; it knows no tensor and no wire.
#![forbid(unsafe_code)]

mod batch;
mod draft;
mod draft_model;
mod engine;
mod gauges;
mod intake;
mod labels;
mod likelihood;
mod outbox;
mod pace;
mod pages;
mod prefixes;
mod recall;
mod sampler;
mod scheduler;
mod script;
mod sequence;
mod store;
mod worker;

pub use batch::{
    Batch, Capacity, Forward, ForwardError, Likeliest, Logits, PageBytes, Row, RowLogits, Span,
    Want, Weighing, WholeRow,
};
pub use gauges::Counters;
pub use intake::{Alias, PrefixSharing, Serving};
pub use script::Scripted;
pub use store::PrefixFolder;
pub use worker::{EngineError, EngineLimits, EngineService, Extras};

#[cfg(test)]
mod fixture;
