//! Lessons as tokens, and several of them as one batch.

use std::ops::Range;

use anyhow::{Context as _, Result};
use engine::{Batch, Row, Span, Want};
use protocol::{Input, Message, Request, TokenId, ToolSpec};
use text::Codec;

use crate::dice::Dice;
use crate::lessons::{Answer, Lesson, Meaning, Topics};
use crate::vocabulary;

/// A prompt with its answer.
#[derive(Debug, Clone)]
pub(crate) struct Example {
    pub(crate) tokens: Vec<TokenId>,
    /// Index of the first token of the answer.
    pub(crate) answer: usize,
    /// What each token of the answer is part of.
    pub(crate) sources: Vec<Source>,
    /// The only tokens that the rules allow in a place of the answer, where they are few.
    pub(crate) allowed: Vec<(usize, Vec<u32>)>,
    /// Whether its prompt is learned too.
    pub(crate) reads: bool,
    /// Behind which tokens a topic is told, and which: in the order of tokens.
    pub(crate) topics: Vec<(usize, u8)>,
}

impl Example {
    /// Encodes the prompt as the daemon does, and the answer as it reads one.
    pub(crate) fn new(lesson: &Lesson, codec: &Codec) -> Result<Self> {
        let mut request = Request::new("", Input::Chat(lesson.messages.clone()));
        request.tools = lesson.tools.clone();
        let tokenizer = codec.tokenizer();
        let mut answer = Vec::new();
        if matches!(lesson.answer, Answer::Calls(_)) {
            answer.push(tokenizer.control("[TOOL_CALLS]").context("no [TOOL_CALLS]")?);
        }
        answer.extend(tokenizer.encode(&lesson.answer.text())?);
        answer.push(tokenizer.eos());
        let mut example = Self::of(&request, &answer, Source::Answer, codec)?;
        example.topics = example.topics(&lesson.topics, codec);
        example.topics.extend(example.meanings(&lesson.topics, codec)?);
        example.topics.sort_unstable();
        Ok(example)
    }

    /// Behind the description of each tool, what it is about; behind the last word of the user, what is missing;
    /// behind the prompt, what is wanted; and in each call, before its name and before the token that tells it
    /// from other names, what is called.
    fn topics(&self, topics: &Topics, codec: &Codec) -> Vec<(usize, u8)> {
        let tools = self.all(vocabulary::PARAMETERS, 0..self.answer, codec);
        let tools = tools.zip(topics.tools.iter().copied());
        let calls = self.all(vocabulary::NAME, self.answer..self.tokens.len() - 1, codec);
        let calls = calls.zip(&topics.calls);
        let calls = calls.flat_map(|(mark, topic)| {
            let is_inside =
                |at: &usize| !codec.tokenizer().decode(&self.tokens[*at..=*at]).contains('"');
            let choice = std::iter::once(mark)
                .chain((mark + 1..self.tokens.len() - 1).take_while(is_inside))
                .find(|at| self.sources[at + 1 - self.answer] != Source::Forced);
            let places = std::iter::once(mark).chain(choice.filter(|choice| *choice != mark));
            places.map(|at| (at, *topic))
        });
        let wanted = topics.wanted.map(|topic| (self.answer - 1, topic));
        let lacks = topics.lacks.map(|topic| (self.answer - 2, topic));
        tools.chain(lacks).chain(wanted).chain(calls).collect()
    }

    /// Where a frame or word of one token stands.
    fn all(&self, piece: &str, range: Range<usize>, codec: &Codec) -> impl Iterator<Item = usize> {
        let token = vocabulary::token(piece, codec.tokenizer());
        range.filter(move |at| Some(self.tokens[*at]) == token)
    }

    /// Before each value of a call what it means; the same at its first token where the user said it, behind
    /// what a tool says of each parameter, and behind each value that it lists for a deed.
    fn meanings(&self, topics: &Topics, codec: &Codec) -> Result<Vec<(usize, u8)>> {
        let tokenizer = codec.tokenizer();
        let tools = ["[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"].map(|mark| {
            let mark = tokenizer.control(mark);
            self.tokens.iter().position(|token| Some(*token) == mark).unwrap_or(0)
        });
        let said = (tools[1]..self.answer).rev().chain((0..tools[0]).rev());
        let mut told = Vec::new();
        let mut next = self.answer;
        for Meaning { text, is_said, topic } in &topics.values {
            let value = vocabulary::inside(text, tokenizer)?;
            let is_here = |at: &usize| self.tokens[*at..].starts_with(&value);
            let Some(at) = (next..self.tokens.len()).find(is_here) else { continue };
            next = at + value.len();
            told.push((at - 1, *topic));
            told.extend(said.clone().find(is_here).filter(|_| *is_said).map(|at| (at, *topic)));
        }
        told.extend(self.parameters(topics, codec)?);
        for [first, second] in &topics.deeds {
            let both = format!("{}\", \"{}", first.text, second.text);
            let both = vocabulary::inside(&both, tokenizer)?;
            let ends = [vocabulary::inside(&first.text, tokenizer)?.len(), both.len()];
            let is_here = |at: &usize| self.tokens[*at..].starts_with(&both);
            let Some(at) = (tools[0]..tools[1]).find(is_here) else { continue };
            told.extend(
                [first, second].iter().zip(ends).map(|(deed, end)| (at + end - 1, deed.topic)),
            );
        }
        Ok(told)
    }

    /// Behind what each tool says of each parameter, what that means.
    fn parameters(&self, topics: &Topics, codec: &Codec) -> Result<Vec<(usize, u8)>> {
        let tokenizer = codec.tokenizer();
        let tools = self.all(vocabulary::PARAMETERS, 0..self.answer, codec);
        let mut told = Vec::new();
        for (tool, parameters) in tools.zip(&topics.parameters) {
            let mut next = tool;
            for (text, topic) in parameters {
                // A full stop may be one token with what stands behind it.
                let text = vocabulary::inside(text.trim_end_matches('.'), tokenizer)?;
                let is_here = |at: &usize| self.tokens[*at..self.answer].starts_with(&text);
                let Some(at) = (next..self.answer).find(is_here) else { break };
                next = at + text.len();
                told.push((next, *topic));
            }
        }
        Ok(told)
    }

    /// For the first tools of a lesson how a call of each begins when its description is asked for.
    pub(crate) fn lookups(lesson: &Lesson, most: usize, codec: &Codec) -> Result<Vec<Self>> {
        let tokenizer = codec.tokenizer();
        let look = |tool: &ToolSpec| {
            let content = vec![tool.description.clone()];
            let mut request = Request::new("", Input::Chat(vec![Message::User { content }]));
            request.tools = lesson.tools.clone();
            let mut answer = vec![tokenizer.control("[TOOL_CALLS]").context("no [TOOL_CALLS]")?];
            let start = format!("[{{\"name\": \"{}\", \"arguments\": ", tool.name);
            answer.extend(tokenizer.encode(&start)?);
            Self::of(&request, &answer, Source::Lookup, codec)
        };
        lesson.tools.iter().take(most).map(look).collect()
    }

    fn of(request: &Request, answer: &[TokenId], source: Source, codec: &Codec) -> Result<Self> {
        let prompt = codec.encode(request).context("a lesson's prompt")?;
        let (mut tokens, mut rules) = (prompt.tokens, prompt.constraint);
        let start = tokens.len();
        let (mut sources, mut allowed) = (Vec::with_capacity(answer.len()), Vec::new());
        for (at, token) in answer.iter().enumerate() {
            let mut is_forced = false;
            if let Some(rules) = &mut rules {
                is_forced = !rules.forced().is_empty();
                let mask =
                    if is_forced { None } else { rules.mask().context("a lesson's rules")? };
                if let Some(few) = mask.filter(|mask| mask.count() <= FEW) {
                    allowed.push((at, few.tokens().map(|token| token.0).collect()));
                }
                rules.accept(*token).context("an answer within the rules")?;
            }
            sources.push(if is_forced { Source::Forced } else { source });
        }
        tokens.extend(answer);
        let reads = source == Source::Answer;
        Ok(Self { tokens, answer: start, sources, allowed, reads, topics: Vec::new() })
    }
}

/// Examples as a step of the network, with what each of its rows shall say.
#[derive(Debug, Default, Clone)]
pub(crate) struct Packed {
    pub(crate) batch: Batch,
    /// `[rows]`
    pub(crate) targets: Vec<u32>,
    /// What each row is part of. `[rows]`
    pub(crate) sources: Vec<Source>,
    /// The rows of each example's answer.
    pub(crate) rows: Vec<Range<usize>>,
    /// Rows that may say one of a few tokens only, and these.
    pub(crate) allowed: Vec<(usize, Vec<u32>)>,
}

/// What a row is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// An answer, where the rules leave a choice.
    Answer,
    Prompt,
    /// Runs of random tokens that come twice.
    Drill,
    /// The name of the function whose description is asked for, where the rules leave a choice.
    Lookup,
    /// What the rules write in any case.
    Forced,
    /// What a function is about, or what is wanted: told by tokens of bytes, which nothing else needs there.
    Topic,
}

impl Source {
    pub(crate) const ALL: [Self; 6] =
        [Self::Answer, Self::Prompt, Self::Drill, Self::Lookup, Self::Forced, Self::Topic];
}

/// As many tokens are few.
const FEW: usize = 64;
/// Of so many tokens of tools one is learned.
const SPARSE: usize = 3;
/// Pieces of a drill, which comes twice.
const PIECES: usize = 6;

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
        if let Some(first) = examples.first() {
            // Behind its last token each example goes on by itself.
            let rows = prefix.iter().zip(first.tokens[..shared].iter().skip(1));
            // Tools are much alike: a part of them is enough to learn to read on in them.
            rows.skip(first.tokens.len() % SPARSE)
                .step_by(SPARSE)
                .for_each(|(slot, next)| self.row(*slot, *next, Source::Prompt));
            let topics = first.topics.iter().filter(|(at, _)| *at < shared);
            topics.for_each(|(at, topic)| self.topic(prefix[*at], *topic));
        }
        let add = |example: &&Example| {
            // The last token has no successor to learn.
            let last = example.tokens.len() - 1;
            let inputs = &example.tokens[shared..last];
            let slots = self.span(inputs, &prefix);
            let answer = example.answer - 1 - shared;
            for (at, slot) in slots.iter().enumerate() {
                let next = example.tokens[shared + at + 1];
                match at.checked_sub(answer) {
                    Some(at) => self.row(*slot, next, example.sources[at]),
                    None if example.reads => self.row(*slot, next, Source::Prompt),
                    None => (),
                }
            }
            let end = self.batch.rows.len();
            let rows = end - (slots.len() - answer)..end;
            let allowed = example.allowed.iter();
            self.allowed.extend(allowed.map(|(at, few)| (rows.start + at, few.clone())));
            let topics = example.topics.iter().filter(|(at, _)| (shared..last).contains(at));
            topics.for_each(|(at, topic)| self.topic(slots[at - shared], *topic));
            rows
        };
        examples.iter().map(add).collect()
    }

    /// Adds a few runs of random tokens, and the same runs in another order: how one of them goes on can
    /// be read before, and nowhere else. `tokens`: of which they are.
    pub(crate) fn add_drill(&mut self, tokens: Range<u32>, dice: &mut Dice) {
        let mut token = || TokenId(tokens.start + dice.below(tokens.len()) as u32);
        let mut pieces: Vec<Vec<TokenId>> =
            (0..PIECES).map(|at| (0..2 + at).map(|_| token()).collect()).collect();
        dice.shuffle(&mut pieces);
        let mut sequence = pieces.concat();
        dice.shuffle(&mut pieces);
        sequence.extend(pieces.concat());
        let slots = self.span(&sequence, &[]);
        let mut at = sequence.len() / 2;
        for piece in pieces {
            for next in &piece[1..] {
                self.row(slots[at], *next, Source::Drill);
                at += 1;
            }
            at += 1;
        }
    }

    fn row(&mut self, slot: u32, next: TokenId, source: Source) {
        self.batch.rows.push(Row { token: slot, want: Want::Logits });
        self.targets.push(next.0);
        self.sources.push(source);
    }

    /// Told among all topics, and nothing else.
    fn topic(&mut self, slot: u32, topic: u8) {
        let first = vocabulary::TOPICS as u32;
        self.allowed.push((self.targets.len(), (first..first + Topics::COUNT as u32).collect()));
        self.row(slot, TokenId(first + u32::from(topic)), Source::Topic);
    }

    /// How many rows it has of each source.
    pub(crate) fn count(&self) -> [usize; Source::ALL.len()] {
        Source::ALL.map(|source| self.sources.iter().filter(|of| **of == source).count())
    }

    /// Whether each row is read behind half of the blocks: what functions and wishes are about is of use to
    /// the others.
    pub(crate) fn early(&self) -> Vec<bool> {
        self.sources.iter().map(|source| *source == Source::Topic).collect()
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

#[cfg(test)]
#[path = "example_tests.rs"]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests;
