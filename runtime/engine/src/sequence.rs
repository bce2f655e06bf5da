//! One request in flight: its tokens, its pages, and what it still has to say.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use protocol::{
    Event, Fault, FaultCode, FinishReason, Priority, RequestId, Reuse, ReuseEnd, TokenId, Usage,
};
use text::{Codec, Constraint, Decoder};

use crate::batch::Want;
use crate::draft::Drafter;
use crate::draft_model::Ask;
use crate::labels::Labels;
use crate::outbox::{Delivery, Outbox};
use crate::pages::{Lease, Pages};
use crate::prefixes::{Link, Scope};
use crate::sampler::Sampler;
use crate::scheduler::Class;

mod scoring;
mod writing;

/// Tokens without a choice that a step takes along like a single one; more are read like a prompt.
const WRITING_TOKENS: u32 = 16;

/// Tokens of a prompt that are shown where its known part ends.
const SHOWN_TOKENS: usize = 16;

/// A checked request on its way to the engine thread.
pub(crate) struct Submission {
    pub(crate) id: RequestId,
    /// The name under which answers go out.
    pub(crate) model: Arc<str>,
    pub(crate) prompt: Vec<TokenId>,
    /// Whether to tell how much of it was known.
    pub(crate) explains_reuse: bool,
    pub(crate) codec: Codec,
    pub(crate) decoder: Decoder,
    pub(crate) sampler: Sampler,
    /// Keeps the answer in shape.
    pub(crate) constraint: Option<Box<dyn Constraint>>,
    pub(crate) drafter: Drafter,
    /// What is to be scored instead of an answer.
    pub(crate) labels: Option<Labels>,
    /// Tokens of the answer, at most; with the prompt they fit into the context.
    pub(crate) answer_tokens_max: u32,
    /// Why the answer ends at that limit.
    pub(crate) limit_reason: FinishReason,
    pub(crate) deadline: Option<Instant>,
    pub(crate) priority: Priority,
    /// Who asks; equals get equal parts.
    pub(crate) client: Option<Arc<str>>,
    pub(crate) queued_at: Instant,
    /// Whose computed beginnings it may take; `None` for nobody's.
    pub(crate) scope: Option<Scope>,
    pub(crate) outbox: Outbox,
}

/// A request that holds pages.
pub(crate) struct Sequence {
    request: Submission,
    /// How urgent it was when it was let in.
    class: Class,
    lease: Lease,
    /// Tokens that it can need in all, where the request states a length.
    stated_tokens: Option<u32>,
    /// Prompt and answer so far.
    tokens: Vec<TokenId>,
    prompt_tokens: u32,
    /// Of these, tokens that others had computed.
    cached_tokens: u32,
    /// Tokens whose keys and values are in memory.
    computed_tokens: u32,
    answer_tokens: u32,
    /// Of these, tokens that the answer's shape left no choice about.
    forced_tokens: u32,
    /// Pending tokens behind the first that no outcome was needed for.
    forced_pending: u32,
    /// Tokens that the shape left no choice about and that wait for their rows, which say how likely
    /// they were.
    settled: VecDeque<TokenId>,
    /// Guesses of the tokens behind the last, to be checked in the next step.
    draft: Vec<TokenId>,
    called_tools: bool,
    began: Instant,
    ending: Option<Ending>,
}

/// Why a request ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ending {
    Finished(FinishReason),
    Failed(Fault),
    /// Nobody listens.
    Unheard,
}

/// What is left of a sequence when it has ended.
pub(crate) struct Remains {
    pub(crate) lease: Lease,
    pub(crate) outbox: Outbox,
}

impl Submission {
    /// Tokens whose keys and values it needs at most: the last token drawn is never computed.
    pub(crate) fn context_tokens_max(&self) -> u32 {
        self.context_tokens(self.answer_tokens_max)
    }

    /// Tokens whose pages it needs to begin: all where the request states a length, else those of
    /// the prompt and of `open_answer_tokens` tokens of the answer.
    pub(crate) fn lease_tokens(&self, open_answer_tokens: u32) -> u32 {
        match self.limit_reason {
            FinishReason::ModelLength => {
                self.context_tokens(self.answer_tokens_max.min(open_answer_tokens))
            }
            _ => self.context_tokens_max(),
        }
    }

    fn context_tokens(&self, answer_tokens: u32) -> u32 {
        let prompt_tokens = u32::try_from(self.prompt.len()).unwrap_or(u32::MAX);
        prompt_tokens.saturating_add(answer_tokens.saturating_sub(1))
    }

    /// What it is told of its prompt, where it asked: how much is known, and what stands there.
    pub(crate) fn reuse(&self, pages: &Pages) -> Option<Reuse> {
        if !self.explains_reuse {
            return None;
        }
        let (cached_tokens, end) = pages.reuse_end(self.scope.as_ref(), &self.prompt);
        let from = match end {
            ReuseEnd::Differs { token } => token,
            _ => cached_tokens,
        };
        let shown = self.prompt[from as usize..].iter().take(SHOWN_TOKENS);
        let text = self.codec.tokenizer().decode(&shown.copied().collect::<Vec<_>>());
        Some(Reuse { cached_tokens, end, text })
    }

    /// Whether nobody waits for it any more.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.outbox.is_cancelled() || self.deadline.is_some_and(|deadline| now >= deadline)
    }

    /// Why it ends before it began, if it does.
    pub(crate) fn ending(&mut self, now: Instant) -> Option<Ending> {
        if self.outbox.deliver(now) == Delivery::Gone {
            return Some(Ending::Unheard);
        }
        if self.outbox.is_cancelled() {
            let fault = Fault::new(FaultCode::Cancelled, "the request was cancelled in the queue");
            return Some(Ending::Failed(fault));
        }
        expired(self.deadline, now, "in the queue").map(Ending::Failed)
    }
}

impl Sequence {
    /// Starts a request that left the queue.
    pub(crate) fn begin(
        mut request: Submission,
        reuse: Option<Reuse>,
        class: Class,
        lease: Lease,
        now: Instant,
    ) -> Self {
        let stated_tokens = match request.limit_reason {
            FinishReason::ModelLength => None,
            _ => Some(request.context_tokens_max()),
        };
        let tokens = std::mem::take(&mut request.prompt);
        let prompt_tokens = u32::try_from(tokens.len()).expect("a prompt fits into the context");
        let cached_tokens = lease.published_tokens();
        request.outbox.begin();
        request.outbox.push(Event::Accepted {
            id: request.id.clone(),
            model: request.model.to_string(),
            prompt_tokens,
            cached_tokens,
        });
        reuse.into_iter().for_each(|reuse| request.outbox.push(Event::Reused(reuse)));
        let nothing_to_say = request.answer_tokens_max == 0;
        let ending = nothing_to_say.then_some(Ending::Finished(request.limit_reason));
        tracing::debug!(request = %request.id, prompt_tokens, cached_tokens, "accepted");
        Self {
            request,
            class,
            lease,
            stated_tokens,
            tokens,
            prompt_tokens,
            cached_tokens,
            computed_tokens: cached_tokens,
            answer_tokens: 0,
            forced_tokens: 0,
            forced_pending: 0,
            settled: VecDeque::new(),
            draft: Vec::new(),
            called_tools: false,
            began: now,
            ending,
        }
    }

    /// Whether it can take part in a step: a slow reader pauses its own sequence only.
    pub(crate) fn is_ready(&self) -> bool {
        self.ending.is_none() && self.request.outbox.is_clear()
    }

    /// Whether it waits for its reader.
    pub(crate) fn is_paused(&self) -> bool {
        self.ending.is_none() && !self.request.outbox.is_clear()
    }

    /// Whether it holds the pages of all its tokens so far.
    pub(crate) fn has_pages(&self) -> bool {
        self.lease.holds(self.context_tokens())
    }

    /// Asks for the pages of all its tokens so far, or of its stated length; whether it got them.
    pub(crate) fn secure_pages(&mut self, pages: &mut Pages) -> bool {
        let tokens_max = self.stated_tokens.unwrap_or_else(|| self.context_tokens());
        let shared = &self.tokens[..self.shared_tokens()];
        let is_served = pages.raise(&mut self.lease, shared, tokens_max);
        self.computed_tokens = self.computed_tokens.max(self.lease.published_tokens());
        is_served
    }

    /// Takes what others have computed of its prompt meanwhile.
    pub(crate) fn catch_up(&mut self, pages: &mut Pages) {
        let shared = &self.tokens[..self.shared_tokens()];
        pages.catch_up(&mut self.lease, shared);
        let known = self.lease.published_tokens();
        if known > self.computed_tokens {
            let until = known.min(self.prompt_tokens);
            self.cached_tokens += until.saturating_sub(self.computed_tokens);
            self.computed_tokens = known;
        }
    }

    /// Lets others find what it has computed.
    pub(crate) fn publish(&mut self, pages: &mut Pages) {
        let shared = self.shared_tokens();
        let computed = self.computed_tokens.min(shared as u32);
        pages.publish(&mut self.lease, &self.tokens[..shared], computed);
    }

    /// The page that it computes next, as others name it; `None` where nobody else may want it.
    pub(crate) fn next_link(&self) -> Option<Link> {
        self.lease.next_link(&self.tokens[..self.shared_tokens()])
    }

    /// Tokens that others may find: of labels none, because their places are written again.
    fn shared_tokens(&self) -> usize {
        match self.request.labels {
            Some(_) => self.prompt_tokens as usize,
            None => self.tokens.len(),
        }
    }

    /// Which of the next `tokens` tokens and the guesses behind them outcomes are wanted of.
    pub(crate) fn rows(&self, tokens: u32) -> Range<u32> {
        if self.request.labels.is_some() {
            return self.first_unknown().saturating_sub(self.computed_tokens).min(tokens)..tokens;
        }
        match tokens == self.pending_tokens() {
            true => tokens - 1..tokens + self.draft.len() as u32,
            false => 0..0,
        }
    }

    pub(crate) fn class(&self) -> Class {
        self.class
    }

    /// Makes it wait for something more urgent.
    pub(crate) fn set_aside(&mut self, pages: &mut Pages) {
        self.park(pages);
        self.request.outbox.pause();
    }

    /// Lets it go on after it was set aside.
    pub(crate) fn go_on(&mut self, class: Class) {
        self.class = class;
        self.request.outbox.begin();
    }

    pub(crate) fn request(&self) -> &Submission {
        &self.request
    }

    /// Whether it can take part in the next step.
    pub(crate) fn can_step(&self) -> bool {
        self.is_ready() && self.has_pages()
    }

    /// Gives its pages to another. What it computed stays to be found while memory allows; the rest
    /// is computed anew when there are pages again.
    pub(crate) fn park(&mut self, pages: &mut Pages) {
        pages.strip(&mut self.lease);
        self.computed_tokens = 0;
        self.forced_pending = 0;
        tracing::debug!(request = %self.request.id, tokens = self.tokens.len(), "parked");
    }

    /// Whether a step computes all that it has pending at once, as that of an answer's next token.
    pub(crate) fn is_writing(&self) -> bool {
        self.pending_tokens() == 1 + self.forced_pending && self.forced_pending < WRITING_TOKENS
    }

    /// Guesses the tokens behind the last one, at most `most` of them.
    pub(crate) fn guess(&mut self, most: u32, gain: impl Fn(usize, f64) -> f64) {
        let most = self.guessable(most);
        self.draft = self.request.drafter.guess(&self.tokens, most as usize, gain);
    }

    /// How many tokens behind the last one a second network should guess, at most `most`.
    pub(crate) fn wish(&mut self, most: u32, gain: impl Fn(usize, f64) -> f64) -> usize {
        match self.guessable(most) {
            0 => 0,
            most => self.request.drafter.wish(most as usize, gain),
        }
    }

    /// Asks a second network for guesses.
    pub(crate) fn ask(&self, most: usize) -> Ask<'_> {
        let Submission { id, scope, .. } = &self.request;
        Ask { id, scope: scope.as_ref(), tokens: &self.tokens, most }
    }

    /// Takes the guesses of a second network.
    pub(crate) fn take_guesses(&mut self, guesses: Vec<TokenId>) {
        self.draft = guesses;
    }

    /// Tokens that can be guessed, at most `most`: within the answer's limit, and in pages that it has
    /// been promised.
    fn guessable(&self, most: u32) -> u32 {
        if self.request.labels.is_some() {
            return 0;
        }
        let tokens = self.context_tokens();
        let left = self.request.answer_tokens_max - self.answer_tokens;
        let most = most.min(left.saturating_sub(1));
        (0..=most).rev().find(|most| self.lease.holds(tokens + most)).unwrap_or(0)
    }

    /// What it guessed for this step.
    pub(crate) fn draft(&self) -> &[TokenId] {
        &self.draft
    }

    /// Tokens that the network has not seen yet; 1 while the answer is being written.
    pub(crate) fn pending_tokens(&self) -> u32 {
        self.context_tokens() - self.computed_tokens
    }

    /// The next `count` pending tokens.
    pub(crate) fn pending(&self, count: u32) -> &[TokenId] {
        let from = self.computed_tokens as usize;
        &self.tokens[from..from + count as usize]
    }

    /// Prompt and answer so far.
    pub(crate) fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    pub(crate) fn computed_tokens(&self) -> u32 {
        self.computed_tokens
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    pub(crate) fn lease_mut(&mut self) -> &mut Lease {
        &mut self.lease
    }

    pub(crate) fn want(&self) -> Want {
        match &self.request.labels {
            None => self.request.sampler.want(self.request.constraint.is_some()),
            Some(_) => Want::Logits,
        }
    }

    /// Decides the end. The first decision holds.
    pub(crate) fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }

    /// Hands over events; ends where nobody listens.
    pub(crate) fn deliver(&mut self, now: Instant) {
        if self.request.outbox.deliver(now) == Delivery::Gone {
            self.ending = Some(Ending::Unheard);
        }
    }

    /// Hands over events, and sees whether somebody outside ended it.
    pub(crate) fn look_outside(&mut self, now: Instant) {
        self.deliver(now);
        if self.request.outbox.is_cancelled() {
            self.end(Ending::Finished(FinishReason::Cancelled));
        } else if let Some(fault) = expired(self.request.deadline, now, "before it was complete") {
            self.end(Ending::Failed(fault));
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ending.is_some()
    }

    /// Says the last word and gives back what it held.
    pub(crate) fn close(mut self, now: Instant) -> Remains {
        let ending = self.ending.take().unwrap_or(Ending::Unheard);
        tracing::debug!(
            request = %self.request.id,
            prompt_tokens = self.prompt_tokens,
            answer_tokens = self.answer_tokens,
            run_ms = now.duration_since(self.began).as_millis() as u64,
            ending = ending.name(),
            "ended",
        );
        let usage = self.usage();
        let mut outbox = self.request.outbox;
        outbox.close(ending.into_event(usage));
        Remains { lease: self.lease, outbox }
    }

    pub(crate) fn ran_since(&self) -> Instant {
        self.began
    }

    fn context_tokens(&self) -> u32 {
        self.tokens.len() as u32
    }

    pub(crate) fn usage(&self) -> Usage {
        let (guessed_tokens, guessed_right_tokens) = self.request.drafter.tally();
        Usage {
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            completion_tokens: self.answer_tokens,
            guessed_tokens,
            guessed_right_tokens,
            forced_tokens: self.forced_tokens,
        }
    }
}

impl Ending {
    /// The event that says so; `None` where nobody listens.
    pub(crate) fn into_event(self, usage: Usage) -> Option<Event> {
        match self {
            Self::Finished(reason) => Some(Event::Finished { reason, usage }),
            Self::Failed(fault) => Some(Event::Failed(fault)),
            Self::Unheard => None,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Finished(FinishReason::Stop) => "stop",
            Self::Finished(FinishReason::Length) => "length",
            Self::Finished(FinishReason::ModelLength) => "model_length",
            Self::Finished(FinishReason::ToolCalls) => "tool_calls",
            Self::Finished(FinishReason::Cancelled) => "cancelled",
            Self::Failed(fault) => fault.code.name(),
            Self::Unheard => "unheard",
        }
    }
}

fn expired(deadline: Option<Instant>, now: Instant, place: &str) -> Option<Fault> {
    let late = now.checked_duration_since(deadline?)?;
    let message = format!(
        "the deadline passed {place}, {} ms ago; allow more time or ask for fewer tokens",
        late.as_millis()
    );
    Some(Fault::new(FaultCode::Deadline, message))
}
