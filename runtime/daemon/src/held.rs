//! An answer that is held back until filters have judged it as a whole.

use protocol::{Asked, Event, Fault, FaultCode, Filter};

/// Bytes of an answer that is held back.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Tokens of such an answer of which likelihoods are told.
const LIKELIHOODS_MAX: usize = 16 << 10;

/// What was said so far and not sent.
#[derive(Default)]
pub(crate) struct Held {
    events: Vec<Event>,
    bytes: usize,
    likelihoods: usize,
}

impl Held {
    /// Takes what is to be judged, gives back what is to be sent now.
    pub(crate) fn pass(
        &mut self,
        event: Event,
        asked: &Asked,
        filters: &[Box<dyn Filter>],
    ) -> Vec<Event> {
        match event {
            Event::Text { .. } | Event::ToolCall(_) | Event::Scores(_) => match self.hold(event) {
                Ok(()) => Vec::new(),
                Err(fault) => vec![Event::Failed(fault)],
            },
            Event::Finished { .. } => {
                let mut answer = std::mem::take(&mut self.events);
                let mut judges = filters.iter().filter(|filter| filter.judges_answers());
                match judges.try_for_each(|filter| filter.on_answer(asked, &mut answer)) {
                    Ok(()) => {
                        answer.push(event);
                        answer
                    }
                    Err(fault) => vec![Event::Failed(fault)],
                }
            }
            Event::Accepted { .. } | Event::Reused(_) | Event::Failed(_) => vec![event],
        }
    }

    fn hold(&mut self, event: Event) -> Result<(), Fault> {
        match &event {
            Event::Text { text, logprobs, .. } => {
                self.bytes += text.len();
                self.likelihoods += logprobs.len();
            }
            Event::ToolCall(call) => self.bytes += call.name.len() + call.arguments.len(),
            _ => {}
        }
        if self.bytes > ANSWER_BYTES_MAX || self.likelihoods > LIKELIHOODS_MAX {
            let message = format!(
                "the answer is over {ANSWER_BYTES_MAX} bytes, or tells over {LIKELIHOODS_MAX} \
                 likelihoods, and a filter has to see it as a whole; ask for less"
            );
            return Err(Fault::new(FaultCode::TooLarge, message));
        }
        match (self.events.last_mut(), event) {
            (
                Some(Event::Text { text, tokens, logprobs }),
                Event::Text { text: more, tokens: count, logprobs: likelihoods },
            ) => {
                text.push_str(&more);
                *tokens = tokens.saturating_add(count);
                logprobs.extend(likelihoods);
            }
            (_, event) => self.events.push(event),
        }
        Ok(())
    }
}
