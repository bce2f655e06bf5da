//! Several answers to one prompt, told as one.

use protocol::{Event, Fault, FaultCode, Request, Usage};
use serde_json::Value;

use crate::answer::{Answer, usage_body};
use crate::chat::Chat;
use crate::fields::unsupported;
use crate::legacy::Legacy;

impl Chat {
    /// One request for each answer, all of the same prompt, which the engine reads once where it may
    /// share beginnings; of [several prompts](crate::parse_completion) as many for each.
    ///
    /// The first is the request of a chat with one answer. The next ones count its id and, where it
    /// has one, its seed up.
    pub fn requests(self) -> Vec<Request> {
        let first = self.request;
        let mut requests = Vec::with_capacity(self.answers as usize);
        for index in 1..self.answers {
            let mut request = first.clone();
            request.id.0 = format!("{}-{index}", first.id);
            let seed = &mut request.sampling.seed;
            *seed = seed.map(|seed| seed.wrapping_add(u64::from(index)));
            if let Some(legacy) = &self.legacy {
                request.input = legacy.prompts[index as usize / legacy.each()].clone();
            }
            requests.push(request);
        }
        requests.insert(0, first);
        requests
    }

    /// Refuses a chat with several answers, for transports that tell one.
    ///
    /// Errors: `Unsupported` at `n`.
    pub fn check_single(&self) -> Result<(), Fault> {
        match self.answers {
            1 => Ok(()),
            _ => Err(unsupported("one answer per request here; send the request n times", "n")),
        }
    }
}

/// The answers to one chat as they grow, in one `chat.completion` and one row of chunks.
#[derive(Debug)]
pub struct Choices {
    answers: Vec<Answer>,
    legacy: Option<Legacy>,
    include_usage: bool,
    is_streamed: bool,
    too_large: Option<Fault>,
}

impl Choices {
    /// As many answers without events as the chat asks for. `created` is in seconds since 1970.
    pub fn new(chat: &Chat, created: u64) -> Self {
        let mut answers: Vec<Answer> =
            (0..chat.answers).map(|index| Answer::at(index, chat, created)).collect();
        if chat.stream {
            answers.iter_mut().for_each(Answer::keep_no_likelihoods);
        }
        Self {
            answers,
            legacy: chat.legacy.clone(),
            include_usage: chat.include_usage,
            is_streamed: chat.stream,
            too_large: None,
        }
    }

    /// Takes in the next event of one answer and returns the chunks that tell it, in order.
    ///
    /// As [`Answer::push`]; the usage of all comes with the end of the last answer. The first fault
    /// ends them all.
    pub fn push(&mut self, index: usize, event: &Event) -> Vec<Value> {
        if self.is_over() {
            return Vec::new();
        }
        let Some(answer) = self.answers.get_mut(index) else {
            return Vec::new();
        };
        let mut chunks = answer.push(event);
        if !self.is_streamed && answer.has_lost_likelihoods() {
            let message = "logprobs: more than a whole answer tells; stream it, or ask for fewer \
                           top_logprobs, tokens or answers";
            self.too_large = Some(Fault::new(FaultCode::TooLarge, message).at("logprobs"));
        }
        if matches!(event, Event::Finished { .. }) && self.answers.len() > 1 {
            self.settle_usage(&mut chunks);
        }
        match &mut self.legacy {
            Some(legacy) => legacy.chunks(chunks),
            None => chunks,
        }
    }

    /// The last of the chunks that end an answer carries its usage.
    fn settle_usage(&self, chunks: &mut Vec<Value>) {
        if !self.is_over() && self.include_usage {
            chunks.pop();
        } else if let Some(last) = chunks.last_mut() {
            last["usage"] = if self.is_over() { self.usage_body() } else { Value::Null };
        }
    }

    /// The whole `chat.completion`, as [`Answer::completion`]; that of a streamed chat leaves
    /// likelihoods to its chunks.
    pub fn completion(&self) -> Value {
        let mut whole = self.answers[0].completion();
        whole["choices"] = self.answers.iter().map(Answer::choice).collect();
        whole["usage"] = self.usage_body();
        match &self.legacy {
            Some(legacy) => legacy.whole(whole),
            None => whole,
        }
    }

    /// Why the answers ended unfinished.
    pub fn failed(&self) -> Option<&Fault> {
        self.too_large.as_ref().or_else(|| self.answers.iter().find_map(Answer::failed))
    }

    /// Whether nothing more is to come.
    pub fn is_over(&self) -> bool {
        self.failed().is_some() || self.answers.iter().all(Answer::is_over)
    }

    fn usage_body(&self) -> Value {
        let usages = self.answers.iter().map(Answer::usage);
        let sum = usages.reduce(|a, b| Usage {
            prompt_tokens: a.prompt_tokens.saturating_add(b.prompt_tokens),
            // All begin alike: what one had to compute, the request had to.
            cached_tokens: a.cached_tokens.min(b.cached_tokens),
            completion_tokens: a.completion_tokens.saturating_add(b.completion_tokens),
            guessed_tokens: a.guessed_tokens.saturating_add(b.guessed_tokens),
            guessed_right_tokens: a.guessed_right_tokens.saturating_add(b.guessed_right_tokens),
            forced_tokens: a.forced_tokens.saturating_add(b.forced_tokens),
        });
        let mut usage = sum.unwrap_or_default();
        // The prompt counts once; what local functions made of it in further rounds counts each time.
        let each = self.legacy.as_ref().map_or(self.answers.len(), Legacy::each);
        let again = self.answers.iter().enumerate().filter(|(index, _)| index % each != 0);
        let again = again.map(|(_, answer)| answer.accepted_tokens());
        let again = again.fold(0, u32::saturating_add);
        usage.prompt_tokens = usage.prompt_tokens.saturating_sub(again);
        let first = &self.answers[0];
        usage_body(&usage, first.reuse(), first.dialect())
    }
}
