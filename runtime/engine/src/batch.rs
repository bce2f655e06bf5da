//! One step's work, and what a network must do with it.
//!
//! A batch is ragged: sequences that read a prompt and sequences that write an answer stand side by
//! side, told apart by nothing but the number of their tokens.

use std::fmt;

use protocol::TokenId;

use crate::pages::Lease;

/// Everything that one step of the network needs to know, as flat host arrays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Tokens of all sequences, back to back. `[tokens]`
    pub tokens: Vec<TokenId>,
    /// Each token's place in its own sequence, from 0. `[tokens]`
    pub positions: Vec<u32>,
    /// Where each token's key and value go: `page * page_tokens + offset`. `[tokens]`
    pub slots: Vec<u32>,
    /// One for each sequence in this step, in the order of `tokens`. `[sequences]`
    pub spans: Vec<Span>,
    /// Page tables of all sequences, back to back.
    pub pages: Vec<u32>,
    /// The positions whose logits are wanted. `[rows]`
    pub rows: Vec<Row>,
}

impl Batch {
    /// Adds the tokens of a sequence that stand from position `from` on, in pages that `lease` has;
    /// gives the index of the first.
    pub(crate) fn add<const N: usize>(
        &mut self,
        lease: &Lease,
        from: u32,
        tokens: [&[TokenId]; N],
    ) -> u32 {
        let query_start = self.tokens.len() as u32;
        tokens.iter().for_each(|tokens| self.tokens.extend_from_slice(tokens));
        let query_tokens = self.tokens.len() as u32 - query_start;
        let context_tokens = from + query_tokens;
        let first_page = self.pages.len() as u32;
        self.spans.push(Span { query_start, query_tokens, context_tokens, first_page });
        self.positions.extend(from..context_tokens);
        self.slots.extend((from..context_tokens).map(|position| lease.slot(position)));
        self.pages.extend(lease.pages(context_tokens).iter().map(|page| page.0));
        query_start
    }
}

/// One sequence's share of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Index of its first token in [`Batch::tokens`].
    pub query_start: u32,
    /// Its tokens in this step.
    pub query_tokens: u32,
    /// Its tokens so far, those of this step included.
    pub context_tokens: u32,
    /// Index of its first page in [`Batch::pages`]; it has `context_tokens / page_tokens`, rounded
    /// up, of them.
    pub first_page: u32,
}

/// One position whose outcome the engine wants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// Index into [`Batch::tokens`].
    pub token: u32,
    /// How much of it.
    pub want: Want,
}

/// How much of a row of logits leaves the device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Want {
    /// All of the vocabulary.
    Logits,
    /// The likeliest token alone; the lowest id wins a tie.
    Argmax,
    /// What most draws need: the likeliest tokens, and how much the others weigh together.
    Likeliest(Weighing),
}

/// How the tokens that stay on the device are weighed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weighing {
    /// What logits are divided by; above 0.
    pub temperature: f32,
    /// The first token that counts.
    pub first: TokenId,
    /// The first behind it that does not; `first` where none counts.
    pub end: TokenId,
}

/// What came out of a step: one entry for each of [`Batch::rows`], in that order.
#[derive(Debug)]
pub struct Logits {
    /// One outcome for each wanted row.
    pub rows: Vec<RowLogits>,
}

/// The outcome of one row. [`All`](Self::All) answers every [`Want`].
#[derive(Debug)]
pub enum RowLogits {
    /// Logits of the next token. `[vocabulary]`
    All(Vec<f32>),
    /// The likeliest next token, and where the others are.
    Argmax(TokenId, WholeRow),
    /// The likeliest next tokens.
    Likeliest(Likeliest),
}

/// The head of a row of logits.
#[derive(Debug)]
pub struct Likeliest {
    /// Tokens and their logits in any order, at least one; no other token's logit reaches one of theirs.
    pub tokens: Vec<(TokenId, f32)>,
    /// The sum of `exp((logit - greatest) / temperature)` over the other tokens that count, `greatest`
    /// being that of all. Where it is not finite, the head decides nothing.
    pub rest: f32,
    /// Where the others are.
    pub row: WholeRow,
}

/// A row of logits that stays on the device until somebody asks for it.
pub struct WholeRow(Box<dyn FnOnce() -> Result<Vec<f32>, ForwardError> + Send>);

impl WholeRow {
    /// A row that is fetched so. `[vocabulary]`
    pub fn new(fetch: impl FnOnce() -> Result<Vec<f32>, ForwardError> + Send + 'static) -> Self {
        Self(Box::new(fetch))
    }

    /// Waits for the device and takes all of the row. `[vocabulary]`
    ///
    /// Errors: what the device says.
    pub fn fetch(self) -> Result<Vec<f32>, ForwardError> {
        (self.0)()
    }
}

impl fmt::Debug for WholeRow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("WholeRow")
    }
}

/// What a network can take. Constant after loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Entries of the vocabulary.
    pub vocabulary: u32,
    /// Pages of the cache.
    pub pages: u32,
    /// Tokens that one page holds.
    pub page_tokens: u32,
    /// Tokens of one sequence, prompt and answer together.
    pub context_tokens_max: u32,
    /// Tokens of one step.
    pub batch_tokens_max: u32,
    /// Tokens that are computed together best: a step whose tokens are a multiple of it gives most for
    /// its time. 1 where that makes no difference.
    pub tile_tokens: u32,
}

/// All that the engine knows of a network.
pub trait Forward: Send {
    /// What it can take.
    fn capacity(&self) -> Capacity;

    /// Computes one step: writes the keys and values of the batch's tokens into their slots, and
    /// gives the wanted rows.
    ///
    /// Errors: [`ForwardError::Rejected`] when this batch cannot be computed and the next may be;
    /// [`ForwardError::DeviceLost`] when nothing can be computed any more.
    /// Threads: the engine's only.
    fn forward(&mut self, batch: &Batch) -> Result<Logits, ForwardError>;

    /// Begins anew on a device after [`ForwardError::DeviceLost`], with the same capacity; what its cache
    /// held is gone.
    ///
    /// Errors: there is none to begin on, which is so where nothing else is said.
    fn revive(&mut self) -> Result<(), ForwardError> {
        Err(ForwardError::DeviceLost { reason: "this network cannot begin anew".into() })
    }

    /// Its pages as bytes; `None` where they cannot leave the device.
    fn pages(&mut self) -> Option<&mut dyn PageBytes> {
        None
    }
}

/// What a page of the cache holds, as bytes that can be kept and put back.
pub trait PageBytes {
    /// Names all that a page's bytes depend on beside its tokens: the weights, the layout of the
    /// cache. Networks of the same identity take each other's pages.
    fn identity(&self) -> [u8; 32];

    /// Bytes of a page.
    fn page_bytes(&self) -> usize;

    /// Copies a page out, as many bytes as [`page_bytes`](Self::page_bytes) says.
    ///
    /// Errors: what the device says.
    fn read(&mut self, page: u32) -> Result<Vec<u8>, String>;

    /// Puts bytes of [`read`](Self::read) into a page.
    fn write(&mut self, page: u32, bytes: &[u8]);
}

/// A step failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// This batch cannot be computed; its sequences fail and the engine goes on.
    #[error("the network rejected a batch of {tokens} tokens: {reason}")]
    Rejected {
        /// Tokens of the batch.
        tokens: usize,
        /// Why.
        reason: String,
    },
    /// The device is gone; everything in flight fails.
    #[error("the device is lost: {reason}")]
    DeviceLost {
        /// What it said.
        reason: String,
    },
}
