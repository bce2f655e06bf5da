//! What observers hear of one request: when it got where, what it cost, how it ended.

use std::sync::Arc;
use std::time::Instant;

use protocol::{Event, Fault, FinishReason, Observation, Observer, Usage};

/// Watches one request; tells its end when it is dropped, at the latest.
pub(crate) struct Watch {
    observers: Arc<[Box<dyn Observer>]>,
    began: Instant,
    seen: Observation,
}

impl Watch {
    /// From the request's arrival on.
    pub(crate) fn new(observers: Arc<[Box<dyn Observer>]>, model: &str) -> Self {
        let seen = Observation {
            model: model.to_owned(),
            // Unless another end is seen, the reader went away.
            outcome: outcome(FinishReason::Cancelled),
            usage: Usage::default(),
            accepted: None,
            first_text: None,
            total: std::time::Duration::ZERO,
        };
        Self { observers, began: Instant::now(), seen }
    }

    /// An event that the reader gets.
    pub(crate) fn see(&mut self, event: &Event) {
        match event {
            Event::Accepted { prompt_tokens, cached_tokens, .. } => {
                self.seen.accepted.get_or_insert_with(|| self.began.elapsed());
                self.seen.usage.prompt_tokens = *prompt_tokens;
                self.seen.usage.cached_tokens = *cached_tokens;
            }
            Event::Text { .. } | Event::ToolCall(_) | Event::Scores(_) => {
                self.seen.first_text.get_or_insert_with(|| self.began.elapsed());
            }
            Event::Finished { reason, usage } => {
                self.seen.outcome = outcome(*reason);
                self.seen.usage = *usage;
            }
            Event::Failed(fault) => self.refused(fault),
            Event::Reused(_) => {}
        }
    }

    /// It ended unfinished, or never began.
    pub(crate) fn refused(&mut self, fault: &Fault) {
        self.seen.outcome = fault.code.name();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.seen.total = self.began.elapsed();
        self.observers.iter().for_each(|observer| observer.observe(&self.seen));
    }
}

fn outcome(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ModelLength => "model_length",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::Cancelled => "cancelled",
    }
}
