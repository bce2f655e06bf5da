//! A network without weights, for tests of whatever stands above one.

use std::collections::BTreeMap;

use protocol::TokenId;

use crate::batch::{
    Batch, Capacity, Forward, ForwardError, Likeliest, Logits, PageBytes, Row, RowLogits, Span,
    Want, Weighing, WholeRow,
};

/// The most tokens that its heads of rows have. Few, so that draws go beyond them at times.
const HEAD_TOKENS: usize = 3;

/// The logit of the token that the script chose; all others have 0.
const CHOSEN: f32 = 64.0;

/// Chooses the next token from the prompt and the answer so far.
type Script = Box<dyn FnMut(&[TokenId], &[TokenId]) -> Vec<f32> + Send>;

/// Looks at each batch before it is computed.
type Hook = Box<dyn FnMut(&Batch) -> Result<(), ForwardError> + Send>;

/// A network that follows a script instead of weights.
///
/// It keeps a cache of tokens where a real network keeps keys and values: each token of a batch is
/// stored in its slot, and the context from which the script chooses is read back through the page
/// table. A batch whose slots, positions and pages do not fit together is rejected, so an engine
/// that gets the right answers from it has kept its book right. The same contexts give the same
/// tokens.
///
/// [`Self::echo`] and [`Self::saying`] take what was there when a sequence's first row was wanted
/// for its prompt. Where an engine short of pages computes a sequence anew, or a prompt continues
/// another sequence's answer by a single token, that is not its prompt: give them pages for all and
/// other prompts, or use [`Self::new`].
pub struct Scripted {
    capacity: Capacity,
    cache: Vec<Option<Entry>>,
    script: Script,
    hook: Option<Hook>,
}

/// What a slot holds.
#[derive(Debug, Clone, Copy)]
struct Entry {
    token: TokenId,
    position: u32,
    /// Tokens of the prompt, where the outcome of this token was wanted.
    prompt_tokens: Option<u32>,
}

impl Scripted {
    /// Gives, after each context (prompt and answer so far), the token that `next` chooses.
    pub fn new(capacity: Capacity, next: impl Fn(&[TokenId]) -> TokenId + Send + 'static) -> Self {
        let mut context = Vec::new();
        Self::chosen(capacity, move |prompt, answer| {
            context.clear();
            context.extend_from_slice(prompt);
            context.extend_from_slice(answer);
            next(&context)
        })
    }

    /// Answers with the prompt's tokens, then with `end`.
    pub fn echo(capacity: Capacity, end: TokenId) -> Self {
        Self::chosen(capacity, move |prompt, answer| {
            prompt.get(answer.len()).copied().unwrap_or(end)
        })
    }

    /// Answers every prompt with the same tokens, then with `end`.
    pub fn saying(capacity: Capacity, words: Vec<TokenId>, end: TokenId) -> Self {
        Self::chosen(capacity, move |_, answer| words.get(answer.len()).copied().unwrap_or(end))
    }

    /// Gives, after each context, the logits that `next` computes. `[vocabulary]`
    pub fn with_logits(
        capacity: Capacity,
        next: impl Fn(&[TokenId]) -> Vec<f32> + Send + 'static,
    ) -> Self {
        Self::following(capacity, Box::new(move |prompt, answer| next(&[prompt, answer].concat())))
    }

    /// Calls `hook` before each step. It may wait, fail the step, or panic.
    #[must_use]
    pub fn before_each_step(
        mut self,
        hook: impl FnMut(&Batch) -> Result<(), ForwardError> + Send + 'static,
    ) -> Self {
        self.hook = Some(Box::new(hook));
        self
    }

    fn chosen(
        capacity: Capacity,
        mut choose: impl FnMut(&[TokenId], &[TokenId]) -> TokenId + Send + 'static,
    ) -> Self {
        let script = move |prompt: &[TokenId], answer: &[TokenId]| {
            let mut logits = vec![0.0; capacity.vocabulary as usize];
            if let Some(logit) = logits.get_mut(choose(prompt, answer).0 as usize) {
                *logit = CHOSEN;
            }
            logits
        };
        Self::following(capacity, Box::new(script))
    }

    fn following(capacity: Capacity, script: Script) -> Self {
        let slots = capacity.pages as usize * capacity.page_tokens as usize;
        Self { capacity, cache: vec![None; slots], script, hook: None }
    }

    fn compute(&mut self, batch: &Batch) -> Result<Logits, String> {
        check(batch, &self.capacity)?;
        for (index, &token) in batch.tokens.iter().enumerate() {
            let position = batch.positions[index];
            self.cache[batch.slots[index] as usize] =
                Some(Entry { token, position, prompt_tokens: None });
        }
        let rows = batch.rows.iter().map(|row| self.row(batch, row)).collect::<Result<_, _>>()?;
        Ok(Logits { rows })
    }

    fn row(&mut self, batch: &Batch, row: &Row) -> Result<RowLogits, String> {
        let span = batch.spans.iter().rfind(|span| span.query_start <= row.token);
        let span = span.ok_or("a row belongs to no sequence")?;
        let first = span.context_tokens - span.query_tokens;
        let context = self.context(batch, span, first + (row.token - span.query_start) + 1)?;
        let context_tokens = context.len() as u32;
        // A sequence whose last outcome was wanted goes on with its answer; the first row that is
        // wanted of it is that of its prompt's last token.
        let before = first.checked_sub(1).map(|last| slot(batch, span, last, &self.capacity));
        let before = before.and_then(|slot| self.cache[slot as usize]);
        let prompt = before.and_then(|entry| entry.prompt_tokens).unwrap_or(context_tokens);
        let here = slot(batch, span, context_tokens - 1, &self.capacity) as usize;
        self.cache[here].iter_mut().for_each(|entry| entry.prompt_tokens = Some(prompt));
        let (prompt, answer) = context.split_at(prompt.min(context_tokens) as usize);
        let logits = (self.script)(prompt, answer);
        Ok(match row.want {
            Want::Logits => RowLogits::All(logits),
            Want::Argmax => RowLogits::Argmax(likeliest(&logits), later(logits)),
            Want::Likeliest(weighing) => head(logits, weighing),
        })
    }

    /// The first tokens of a sequence, as its page table finds them.
    fn context(&self, batch: &Batch, span: &Span, tokens: u32) -> Result<Vec<TokenId>, String> {
        (0..tokens)
            .map(|position| {
                match self.cache[slot(batch, span, position, &self.capacity) as usize] {
                    Some(entry) if entry.position == position => Ok(entry.token),
                    found => {
                        Err(format!("position {position} is needed and the cache has {found:?}"))
                    }
                }
            })
            .collect()
    }
}

impl Forward for Scripted {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ForwardError> {
        if let Some(hook) = &mut self.hook {
            hook(batch)?;
        }
        self.compute(batch)
            .map_err(|reason| ForwardError::Rejected { tokens: batch.tokens.len(), reason })
    }

    fn pages(&mut self) -> Option<&mut dyn PageBytes> {
        Some(self)
    }
}

/// Bytes of a slot: a token, its position, and whether there is one.
const SLOT_BYTES: usize = 12;

/// What it keeps of a slot is the token; where a prompt ended is not part of a page.
impl PageBytes for Scripted {
    fn identity(&self) -> [u8; 32] {
        [0; 32]
    }

    fn page_bytes(&self) -> usize {
        self.capacity.page_tokens as usize * SLOT_BYTES
    }

    fn read(&mut self, page: u32) -> Result<Vec<u8>, String> {
        let page_tokens = self.capacity.page_tokens as usize;
        let slots = &self.cache[page as usize * page_tokens..][..page_tokens];
        let number = |slot: &Option<Entry>| match slot {
            Some(Entry { token, position, .. }) => [token.0, *position, 1],
            None => [0; 3],
        };
        Ok(slots.iter().flat_map(number).flat_map(u32::to_le_bytes).collect())
    }

    fn write(&mut self, page: u32, bytes: &[u8]) {
        let page_tokens = self.capacity.page_tokens as usize;
        let slots = &mut self.cache[page as usize * page_tokens..][..page_tokens];
        let (numbers, _) = bytes.as_chunks::<4>();
        let (entries, _) = numbers.as_chunks::<3>();
        for (slot, entry) in slots.iter_mut().zip(entries) {
            let [token, position, is_there] = entry.map(u32::from_le_bytes);
            let entry = Entry { token: TokenId(token), position, prompt_tokens: None };
            *slot = (is_there == 1).then_some(entry);
        }
    }
}

fn check(batch: &Batch, capacity: &Capacity) -> Result<(), String> {
    let tokens = batch.tokens.len();
    if tokens == 0 || tokens > capacity.batch_tokens_max as usize {
        return Err(format!("{tokens} tokens; 1 to {} are possible", capacity.batch_tokens_max));
    }
    if batch.positions.len() != tokens || batch.slots.len() != tokens {
        return Err("tokens, positions and slots differ in number".into());
    }
    if let Some(token) = batch.tokens.iter().find(|token| token.0 >= capacity.vocabulary) {
        return Err(format!("token {} is not in the vocabulary", token.0));
    }
    if batch.rows.iter().any(|row| row.token as usize >= tokens) {
        return Err("a row lies beyond the tokens".into());
    }
    let (mut next_token, mut next_page) = (0, 0);
    let mut tables = BTreeMap::new();
    for span in &batch.spans {
        if span.query_start != next_token || span.first_page != next_page || span.query_tokens == 0
        {
            return Err(format!("spans do not lie back to back: {span:?}"));
        }
        next_token += span.query_tokens;
        next_page += span.context_tokens.div_ceil(capacity.page_tokens);
        check_span(batch, span, capacity)?;
        for page in table(batch, span, capacity)? {
            *tables.entry(*page).or_insert(0) += 1;
        }
    }
    if next_token as usize != tokens || next_page as usize != batch.pages.len() {
        return Err("tokens or pages belong to no sequence".into());
    }
    let written = batch.slots.iter().map(|slot| slot / capacity.page_tokens);
    match written.into_iter().find(|page| tables.get(page) != Some(&1)) {
        Some(page) => Err(format!("page {page} is written and is not in one table alone")),
        None => Ok(()),
    }
}

fn table<'a>(batch: &'a Batch, span: &Span, capacity: &Capacity) -> Result<&'a [u32], String> {
    let pages = span.context_tokens.div_ceil(capacity.page_tokens) as usize;
    let from = span.first_page as usize;
    let table = batch.pages.get(from..from + pages).ok_or("a page table is cut off")?;
    match table.iter().find(|page| **page >= capacity.pages) {
        Some(page) => Err(format!("page {page} does not exist")),
        None => Ok(table),
    }
}

fn check_span(batch: &Batch, span: &Span, capacity: &Capacity) -> Result<(), String> {
    if span.context_tokens > capacity.context_tokens_max || span.query_tokens > span.context_tokens
    {
        return Err(format!("a sequence has no room for its tokens: {span:?}"));
    }
    table(batch, span, capacity)?;
    for index in 0..span.query_tokens {
        let (at, position) =
            ((span.query_start + index) as usize, span.context_tokens - span.query_tokens + index);
        let found = (batch.positions.get(at), batch.slots.get(at));
        if found != (Some(&position), Some(&slot(batch, span, position, capacity))) {
            return Err(format!("position {position} is not where its page table says: {found:?}"));
        }
    }
    Ok(())
}

fn slot(batch: &Batch, span: &Span, position: u32, capacity: &Capacity) -> u32 {
    let page = batch.pages[(span.first_page + position / capacity.page_tokens) as usize];
    page * capacity.page_tokens + position % capacity.page_tokens
}

fn later(logits: Vec<f32>) -> WholeRow {
    WholeRow::new(move || Ok(logits))
}

/// The likeliest tokens; all of the row where equal ones are too many, as a device gives it.
fn head(logits: Vec<f32>, weighing: Weighing) -> RowLogits {
    let mut ranked: Vec<(TokenId, f32)> = (0..).map(TokenId).zip(logits.iter().copied()).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    let greatest = ranked[0].1;
    let floor = ranked[ranked.len().min(HEAD_TOKENS) - 1].1;
    let (tokens, others): (Vec<_>, Vec<_>) =
        ranked.into_iter().partition(|(_, logit)| *logit >= floor);
    if tokens.len() > HEAD_TOKENS {
        return RowLogits::All(logits);
    }
    let counted = others.iter().filter(|(token, _)| (weighing.first..weighing.end).contains(token));
    let weight = |(_, logit): &(_, f32)| ((logit - greatest) / weighing.temperature).exp();
    let rest = counted.map(weight).sum();
    RowLogits::Likeliest(Likeliest { tokens, rest, row: later(logits) })
}

fn likeliest(logits: &[f32]) -> TokenId {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, &logit) in (0..).zip(logits) {
        if logit > best.1 {
            best = (token, logit);
        }
    }
    TokenId(best.0)
}
