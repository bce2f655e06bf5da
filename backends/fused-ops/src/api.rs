//! What the model calls: functions over tensors, the same on every device.

#[cfg(feature = "learn")]
use crate::learned;
use crate::weight::{Matrices, Packed};
use crate::{FusedOps, Products, Wanted, Weight, reference};
use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

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
/// Shapes: `x: [tokens, cols]` → `[tokens, rows of all]`. Sums in f32; where weights are integers,
/// activations are rounded to 8 bits.
pub fn norm_linear(x: Tensor<2>, norm: &Norm, weight: &Weight) -> Tensor<2> {
    products(x, norm, weight, Products::Stacked)
}

/// The two halves of a gated feed-forward: `silu(gate · normed) * (up · normed)`, with `gate` and
/// `up` the two matrices of a stack.
///
/// Shapes: `x: [tokens, cols]` → `[tokens, rows of one]`. Numbers as in [`norm_linear`].
/// Source: Shazeer 2020, arXiv:2002.05202, `SwiGLU`.
pub fn norm_gated(x: Tensor<2>, norm: &Norm, gate_up: &Weight) -> Tensor<2> {
    products(x, norm, gate_up, Products::Gated)
}

/// `sum + x · Wᵀ`, with a stack of one matrix.
///
/// Shapes: `x: [tokens, cols]`, `sum: [tokens, rows]` → as `sum`. Numbers as in [`norm_linear`].
pub fn linear_add(x: Tensor<2>, weight: &Weight, sum: Tensor<2>) -> Tensor<2> {
    let slices = match &weight.matrices {
        Matrices::Packed(slices) => slices,
        #[cfg(feature = "learn")]
        Matrices::Plain(matrices) if learned::has(&x.device()) => {
            return learned::linear_add(x, matrices[0].clone(), sum);
        }
        Matrices::Plain(matrices) => return sum + reference::linear(x, matrices),
    };
    let add = |x: Tensor<2>, packed: &Packed, sum: Tensor<2>| {
        Tensor::from_dispatch(<Dispatch as FusedOps>::linear_add(
            x.into_dispatch(),
            packed.panels[0].clone().into_dispatch(),
            packed.stack,
            sum.into_dispatch(),
        ))
    };
    if let [packed] = &slices[..] {
        return add(x, packed, sum);
    }
    let mut first = 0;
    let sums = slices.iter().map(|packed| {
        let rows = packed.stack.rows();
        first += rows;
        add(x.clone(), packed, sum.clone().narrow(1, first - rows, rows))
    });
    Tensor::cat(sums.collect(), 1)
}

fn products(x: Tensor<2>, norm: &Norm, weight: &Weight, products: Products) -> Tensor<2> {
    let slices = match &weight.matrices {
        Matrices::Packed(slices) => slices,
        #[cfg(feature = "learn")]
        Matrices::Plain(matrices) if learned::has(&x.device()) => {
            return learned::products(x, norm, matrices, products);
        }
        Matrices::Plain(matrices) => {
            let normed = reference::rms_norm(x, norm.gain.clone(), norm.epsilon);
            return match products {
                Products::Stacked => reference::linear(normed, matrices),
                Products::Gated => reference::gated(normed, matrices),
            };
        }
    };
    let multiply = |x: Tensor<2>, packed: &Packed| {
        let panels = &packed.panels;
        Tensor::from_dispatch(<Dispatch as FusedOps>::norm_linear(
            x.into_dispatch(),
            norm.gain.clone().into_dispatch(),
            panels[0].clone().into_dispatch(),
            panels[1].clone().into_dispatch(),
            panels[2].clone().into_dispatch(),
            packed.stack,
            norm.epsilon as f32,
            products,
        ))
    };
    match &slices[..] {
        [packed] => multiply(x, packed),
        slices => Tensor::cat(slices.iter().map(|packed| multiply(x.clone(), packed)).collect(), 1),
    }
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

/// The lowest index among those with the highest number, of each row.
///
/// Shapes: `logits: [rows, width]` → `[rows]` of type I32.
pub fn argmax(logits: Tensor<2>) -> Tensor<1, Int> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::argmax(logits.into_dispatch()))
}

/// How likely each row of logits says what it shall, in nats: among all tokens, or those that it may say.
/// Burn can differentiate it.
///
/// Shapes: `logits: [rows, width]`, `wanted: [rows]` → `[rows, 1]`. Computed in f32.
/// Panics: on other numbers of rows, and on a token beyond the width.
pub fn log_likelihoods(logits: Tensor<2>, wanted: Vec<Wanted>) -> Tensor<2> {
    assert_eq!(logits.dims()[0], wanted.len(), "each row shall say something");
    #[cfg(feature = "learn")]
    if learned::has(&logits.device()) {
        return learned::log_likelihoods(logits, wanted);
    }
    reference::log_likelihoods(logits, &wanted)
}
