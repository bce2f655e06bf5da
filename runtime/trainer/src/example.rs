//! Lessons as tokens, and several of them as one batch.

use std::ops::Range;

use anyhow::{Context as _, Result};
use engine::{Batch, Row, Span, Want};
use protocol::{Input, Request, TokenId};
use text::Codec;

use crate::lessons::{Answer, Lesson};
use crate::vocabulary::answer_text;

/// A prompt with its answer.
#[derive(Debug, Clone)]
pub(crate) struct Example {
    pub(crate) tokens: Vec<TokenId>,
    /// Index of the first token of the answer.
    pub(crate) answer: usize,
}

impl Example {
    /// Encodes the prompt as the daemon does, and the answer as it reads one.
    pub(crate) fn new(lesson: &Lesson, codec: &Codec) -> Result<Self> {
        let mut request = Request::new("", Input::Chat(lesson.messages.clone()));
        request.tools = lesson.tools.clone();
        let mut tokens = codec.render(&request).context("a lesson's prompt")?.tokens;
        let answer = tokens.len();
        let tokenizer = codec.tokenizer();
        if matches!(lesson.answer, Answer::Calls(_)) {
            tokens.push(tokenizer.control("[TOOL_CALLS]").context("no [TOOL_CALLS]")?);
        }
        tokens.extend(tokenizer.encode(&answer_text(&lesson.answer))?);
        tokens.push(tokenizer.eos());
        Ok(Self { tokens, answer })
    }
}

/// Examples as a step of the network, with what each of its rows shall say.
#[derive(Debug, Default, Clone)]
pub(crate) struct Packed {
    pub(crate) batch: Batch,
    /// `[rows]`
    pub(crate) targets: Vec<u32>,
    /// The rows of each example.
    pub(crate) rows: Vec<Range<usize>>,
}

impl Packed {
    /// Adds examples that may share their tools. What those that begin alike begin with is read once,
    /// and the rest of each stands behind it like a sequence of its own.
    pub(crate) fn add(&mut self, examples: &[Example]) {
        // A conversation that goes on has its tools further behind.
        let begins = |example: &Example| example.tokens.get(1).copied();
        let mut order: Vec<usize> = (0..examples.len()).collect();
        order.sort_by_key(|at| begins(&examples[*at]));
        let mut rows = vec![0..0; examples.len()];
        for alike in
            order.chunk_by(|one, other| begins(&examples[*one]) == begins(&examples[*other]))
        {
            let examples: Vec<&Example> = alike.iter().map(|at| &examples[*at]).collect();
            for (at, range) in alike.iter().zip(self.add_alike(&examples)) {
                rows[*at] = range;
            }
        }
        self.rows.append(&mut rows);
    }

    /// Gives the rows of each.
    fn add_alike(&mut self, examples: &[&Example]) -> Vec<Range<usize>> {
        let shared = shared_tokens(examples);
        let prefix = match examples.first() {
            Some(first) => self.span(&first.tokens[..shared], &[]),
            None => Vec::new(),
        };
        let add = |example: &&Example| {
            // The last token has no successor to learn.
            let inputs = &example.tokens[shared..example.tokens.len() - 1];
            let slots = self.span(inputs, &prefix);
            let start = self.batch.rows.len();
            for at in example.answer - 1..example.tokens.len() - 1 {
                self.batch.rows.push(Row { token: slots[at - shared], want: Want::Logits });
                self.targets.push(example.tokens[at + 1].0);
            }
            start..self.batch.rows.len()
        };
        examples.iter().map(add).collect()
    }

    /// A sequence behind the tokens of other slots; gives its own.
    fn span(&mut self, tokens: &[TokenId], before: &[u32]) -> Vec<u32> {
        let batch = &mut self.batch;
        let start = batch.tokens.len() as u32;
        let slots: Vec<u32> = (start..start + tokens.len() as u32).collect();
        if tokens.is_empty() {
            return slots;
        }
        let context_tokens = (before.len() + tokens.len()) as u32;
        batch.spans.push(Span {
            query_start: start,
            query_tokens: tokens.len() as u32,
            context_tokens,
            first_page: batch.pages.len() as u32,
        });
        batch.tokens.extend_from_slice(tokens);
        batch.positions.extend(before.len() as u32..context_tokens);
        batch.slots.extend_from_slice(&slots);
        batch.pages.extend_from_slice(before);
        batch.pages.extend_from_slice(&slots);
        slots
    }
}

/// Tokens that several examples begin with, none of an answer's among them.
fn shared_tokens(examples: &[&Example]) -> usize {
    let [first, others @ ..] = examples else { return 0 };
    let common = |other: &&Example| {
        let pairs = first.tokens.iter().zip(&other.tokens);
        pairs.take_while(|(one, other)| one == other).count()
    };
    let answers = examples.iter().map(|example| example.answer - 1).min().unwrap_or(0);
    others.iter().map(common).min().map_or(0, |common| common.min(answers))
}
