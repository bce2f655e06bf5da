//! Requests to events, without tensors: scheduling, pages, sampling, the engine thread.
#![forbid(unsafe_code)]

mod batch;

pub use batch::{Batch, Capacity, Forward, ForwardError, Logits, Row, RowLogits, Span, Want};
