//! What the model calls: functions over tensors, the same on every device.

use burn::backend::Dispatch;
use burn::tensor::activation::silu;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use weights::RopePairing;

use crate::{FusedOps, Products, STACK_MAX, Stack, Weight, reference};

/// Where the keys and values of a step's sequences lie.
#[derive(Debug, Clone)]
pub struct PageMap {
    /// Page tables of all sequences, back to back. `[pages]`
    pub pages: Tensor<1, Int>,
    /// Each token's place in its own sequence. `[tokens]`
    pub positions: Tensor<1, Int>,
    /// One for each sequence, in the order of the tokens.
    pub spans: Vec<PageSpan>,
    /// Tokens that one page holds.
    pub page_tokens: usize,
    /// The same as `spans`, where the device has it. `[4 * spans]`
    pub(crate) span_table: Tensor<1, Int>,
}

impl PageMap {
    /// Sends what the device has to know of the spans: once for a step, not once for a layer.
    pub fn new(
        pages: Tensor<1, Int>,
        positions: Tensor<1, Int>,
        spans: Vec<PageSpan>,
        page_tokens: usize,
    ) -> Self {
        // Every number is below a limit that fits, or the span points outside.
        let number = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let row = |span: &PageSpan| {
            let PageSpan { query_start, query_tokens, context_tokens, first_page } = *span;
            [query_start, query_tokens, context_tokens, first_page].map(number)
        };
        let mut table: Vec<i32> = spans.iter().flat_map(row).collect();
        // No device has a tensor of nothing.
        table.resize(table.len().max(4), 0);
        let count = table.len();
        let data = TensorData::new(table, [count]);
        let span_table = Tensor::from_data(data, (&positions.device(), DType::I32));
        Self { pages, positions, spans, page_tokens, span_table }
    }
}

/// One sequence's share of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSpan {
    /// Index of its first token among the tokens of the step.
    pub query_start: usize,
    /// Its tokens in this step; they are the last ones of its context.
    pub query_tokens: usize,
    /// Its tokens so far, those of this step included.
    pub context_tokens: usize,
    /// Index of its first page in [`PageMap::pages`].
    pub first_page: usize,
}

/// What attention needs to know beside the tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionOptions {
    /// Heads of keys and values; divides the number of query heads.
    pub kv_heads: usize,
    /// Multiplies each product of query and key.
    pub scale: f64,
    /// Tokens that a query sees, itself included; `None` sees all before it.
    pub window_tokens: Option<usize>,
}

/// A norm before a matrix: scales each token's vector to a mean square of one, then by `gain`.
#[derive(Debug)]
pub struct Norm {
    /// `[width]`
    pub gain: Tensor<1>,
    /// Added to the mean square.
    pub epsilon: f64,
}

/// Multiplies the normed vectors with each matrix of a stack.
///
/// Shapes: `x: [tokens, cols]` → `[tokens, rows of all]`. Sums in f32; where weights are packed,
/// activations are rounded to 8 bits.
pub fn norm_linear(x: Tensor<2>, norm: &Norm, weight: &Weight) -> Tensor<2> {
    match weight {
        Weight::Dense(weight) => dense_norm_linear(x, norm, weight),
        Weight::Packed { panels, stack } => {
            packed_norm_linear(x, norm, panels, stack, Products::Stacked)
        }
    }
}

/// The two halves of a gated feed-forward: `silu(gate · normed) * (up · normed)`, with `gate` and
/// `up` the two matrices of a stack.
///
/// Shapes: `x: [tokens, cols]` → `[tokens, rows of one]`. Numbers as in [`norm_linear`].
/// Source: Shazeer 2020, arXiv:2002.05202, `SwiGLU`.
pub fn norm_gated(x: Tensor<2>, norm: &Norm, gate_up: &Weight) -> Tensor<2> {
    match gate_up {
        Weight::Dense(weight) => {
            let both = dense_norm_linear(x, norm, weight);
            let rows = both.dims()[1] / 2;
            silu(both.clone().narrow(1, 0, rows)) * both.narrow(1, rows, rows)
        }
        Weight::Packed { panels, stack } => {
            packed_norm_linear(x, norm, panels, stack, Products::Gated)
        }
    }
}

/// `sum + x · Wᵀ`, with a stack of one matrix.
///
/// Shapes: `x: [tokens, cols]`, `sum: [tokens, rows]` → as `sum`. Numbers as in [`norm_linear`].
pub fn linear_add(x: Tensor<2>, weight: &Weight, sum: Tensor<2>) -> Tensor<2> {
    match weight {
        Weight::Dense(weight) => sum + x.matmul(weight.clone().transpose()),
        Weight::Packed { panels, stack } => {
            Tensor::from_dispatch(<Dispatch as FusedOps>::linear_add(
                x.into_dispatch(),
                panels[0].clone().into_dispatch(),
                *stack,
                sum.into_dispatch(),
            ))
        }
    }
}

fn dense_norm_linear(x: Tensor<2>, norm: &Norm, weight: &Tensor<2>) -> Tensor<2> {
    rms_norm(x, norm.gain.clone(), norm.epsilon).matmul(weight.clone().transpose())
}

fn packed_norm_linear(
    x: Tensor<2>,
    norm: &Norm,
    panels: &[Tensor<1, Int>; STACK_MAX],
    stack: &Stack,
    products: Products,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::norm_linear(
        x.into_dispatch(),
        norm.gain.clone().into_dispatch(),
        panels[0].clone().into_dispatch(),
        panels[1].clone().into_dispatch(),
        panels[2].clone().into_dispatch(),
        *stack,
        norm.epsilon as f32,
        products,
    ))
}

/// Scales each token's vector to a mean square of one, then by `gain`.
///
/// Shapes: `x: [tokens, width]`, `gain: [width]` → as `x`. Computed in f32.
/// Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
pub fn rms_norm(x: Tensor<2>, gain: Tensor<1>, epsilon: f64) -> Tensor<2> {
    reference::rms_norm(x, gain, epsilon)
}

/// Rotates pairs of each head's vector by an angle that grows with the token's position.
///
/// Shapes: `x: [tokens, heads, head_dim]`, `positions: [tokens]`,
/// `table: [context, head_dim]` from [`rope_table`] → as `x`. Computed in f32.
/// Pairing: `Adjacent` (GGUF, Mistral) or `HalfSplit` (Hugging Face); the archive says which.
/// Source: Su et al. 2021, arXiv:2104.09864, eq. 34.
pub fn rope(
    x: Tensor<3>,
    positions: Tensor<1, Int>,
    table: Tensor<2>,
    pairing: RopePairing,
) -> Tensor<3> {
    reference::rope(x, positions, table, pairing)
}

/// The cosines, then the sines, of every pair's angle at every position.
///
/// Shapes: → `[context_tokens, head_dim]`. Angles in f64, rounded once.
pub fn rope_table(
    context_tokens: usize,
    head_dim: usize,
    theta: f64,
    device: &Device,
) -> Tensor<2> {
    let half = head_dim / 2;
    let frequencies: Vec<f64> =
        (0..half).map(|pair| theta.powf(-2.0 * pair as f64 / head_dim as f64)).collect();
    let mut table = Vec::with_capacity(context_tokens * head_dim);
    for position in 0..context_tokens {
        let angles = frequencies.iter().map(|frequency| position as f64 * frequency);
        table.extend(angles.clone().map(|angle| angle.cos() as f32));
        table.extend(angles.map(|angle| angle.sin() as f32));
    }
    Tensor::from_data(TensorData::new(table, [context_tokens, 2 * half]), device)
}

/// Writes one row for each token into its slot of the cache, in place when the pool is not shared.
///
/// Shapes: `pool: [slots, width]`, `rows: [tokens, width]`, `slots: [tokens]`, all different →
/// as `pool`.
pub fn store_kv(pool: Tensor<2>, rows: Tensor<2>, slots: Tensor<1, Int>) -> Tensor<2> {
    reference::store_kv(pool, rows, slots)
}

/// Softmax attention of each sequence's new tokens over its own pages of the cache.
///
/// Shapes: `query: [tokens, heads, head_dim]`, `keys` and `values: [slots, kv_heads * head_dim]` →
/// as `query`. Query head `h` reads key head `h * kv_heads / heads`. Softmax in f32.
/// Source: Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245 (grouped
/// heads); Kwon et al. 2023, arXiv:2309.06180 (pages).
pub fn paged_attention(
    query: Tensor<3>,
    keys: Tensor<2>,
    values: Tensor<2>,
    map: &PageMap,
    options: AttentionOptions,
) -> Tensor<3> {
    reference::paged_attention(query, keys, values, map, options)
}
