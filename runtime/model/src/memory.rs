//! Whether a model fits, in numbers, before a byte of it is touched.

use std::fmt;

use weights::Hyper;

const F32_BYTES: u64 = 4;
/// Attention scores of one slice of queries, and the two copies that softmax makes of them.
const SCORES_BYTES: u64 = 3 * (64 << 20);
/// Rows of logits that one step may want without exceeding the estimate.
const LOGIT_ROWS: u64 = 16;

/// What a loaded model occupies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Weights, as the device holds them.
    pub weights_bytes: u64,
    /// The cache of keys and values.
    pub pool_bytes: u64,
    /// Activations of the largest step, estimated from above.
    pub workspace_bytes: u64,
}

impl Footprint {
    /// Both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            weights_bytes: self.weights_bytes.saturating_add(other.weights_bytes),
            pool_bytes: self.pool_bytes.saturating_add(other.pool_bytes),
            workspace_bytes: self.workspace_bytes.saturating_add(other.workspace_bytes),
        }
    }

    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        self.weights_bytes.saturating_add(self.pool_bytes).saturating_add(self.workspace_bytes)
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights_bytes, pool_bytes, workspace_bytes } = *self;
        write!(
            f,
            "weights {} + cache {} + workspace {} = {}",
            Gibibytes(weights_bytes),
            Gibibytes(pool_bytes),
            Gibibytes(workspace_bytes),
            Gibibytes(self.total_bytes()),
        )
    }
}

/// Bytes, written as people read them.
pub(crate) struct Gibibytes(pub(crate) u64);

impl fmt::Display for Gibibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} GiB", self.0 as f64 / (1u64 << 30) as f64)
    }
}

/// Bytes of activations that a step of so many tokens over so long a context may take.
pub(crate) fn workspace_bytes(hyper: &Hyper, batch_tokens: u64, context_tokens: u64) -> u64 {
    let head_dim = u64::from(hyper.head_dim);
    let (query, kv) = (u64::from(hyper.heads) * head_dim, u64::from(hyper.kv_heads) * head_dim);
    // Some tensors live side by side: the residual and its norms, queries before and after the
    // rotation, both halves of the feed-forward with a product and its transpose.
    let token =
        6 * u64::from(hyper.hidden) + 4 * query + 6 * kv + 4 * u64::from(hyper.feed_forward);
    let activations = batch_tokens.saturating_mul(token);
    // One sequence's keys and values, gathered, and its table of angles.
    let context = context_tokens.saturating_mul(4 * kv + head_dim);
    let logits = 2 * LOGIT_ROWS * u64::from(hyper.vocabulary);
    let floats = activations.saturating_add(context).saturating_add(logits);
    let scores = batch_tokens
        .saturating_mul(context_tokens)
        .saturating_mul(3 * F32_BYTES * u64::from(hyper.heads))
        .min(SCORES_BYTES);
    floats.saturating_mul(F32_BYTES).saturating_add(scores)
}

/// Memory that this box can give to programs without swapping, where it says so.
pub fn available_bytes() -> Option<u64> {
    let table = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = table.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}
