//! One line in the log for each request: who, how long, how much, and how it ended. Nothing of what
//! was asked and answered.

use std::time::Instant;

use protocol::{Event, Fault, FinishReason, Request, Task, Usage};

/// What is known of a request so far. The line is written when it ends, however it ends.
pub(crate) struct RequestLog {
    id: String,
    client: Option<String>,
    model: String,
    task: &'static str,
    begun: Instant,
    /// Milliseconds to the first event that says something.
    first_ms: Option<u128>,
    usage: Usage,
    written: bool,
}

impl RequestLog {
    pub(crate) fn new(request: &Request) -> Self {
        Self {
            id: request.id.0.clone(),
            client: request.client.clone(),
            model: String::new(),
            task: match request.task {
                Task::Generate => "generate",
                Task::Classify(_) => "classify",
            },
            begun: Instant::now(),
            first_ms: None,
            usage: Usage::default(),
            written: false,
        }
    }

    pub(crate) fn see(&mut self, event: &Event) {
        match event {
            Event::Accepted { model, prompt_tokens, cached_tokens, .. } => {
                self.model.clone_from(model);
                self.usage.prompt_tokens = *prompt_tokens;
                self.usage.cached_tokens = *cached_tokens;
            }
            Event::Text { tokens, .. } => {
                self.said();
                self.usage.completion_tokens = self.usage.completion_tokens.saturating_add(*tokens);
            }
            Event::ToolCall(_) | Event::Scores(_) => self.said(),
            Event::Reused(_) => {}
            Event::Finished { reason, usage } => {
                self.usage = *usage;
                self.write(match reason {
                    FinishReason::Stop => "stop",
                    FinishReason::Length => "length",
                    FinishReason::ModelLength => "model_length",
                    FinishReason::ToolCalls => "tool_calls",
                    FinishReason::Cancelled => "cancelled",
                });
            }
            Event::Failed(fault) => self.write(fault.code.name()),
        }
    }

    /// Tokens of prompt and answer, as far as they are known.
    pub(crate) fn tokens(&self) -> u64 {
        u64::from(self.usage.prompt_tokens) + u64::from(self.usage.completion_tokens)
    }

    pub(crate) fn refused(&mut self, fault: &Fault) {
        self.write(fault.code.name());
    }

    fn said(&mut self) {
        self.first_ms.get_or_insert_with(|| self.begun.elapsed().as_millis());
    }

    fn write(&mut self, status: &'static str) {
        self.written = true;
        tracing::info!(
            request = %self.id,
            client = self.client.as_deref().unwrap_or("-"),
            model = %self.model,
            task = self.task,
            status,
            prompt_tokens = self.usage.prompt_tokens,
            cached_tokens = self.usage.cached_tokens,
            completion_tokens = self.usage.completion_tokens,
            first_ms = self.first_ms.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX)),
            duration_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            "request"
        );
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        if !self.written {
            // The reader went before the end.
            self.write("gone");
        }
    }
}
