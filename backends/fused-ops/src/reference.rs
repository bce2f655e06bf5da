//! What kernels compute, in plain Burn: the specification that they are tested beside.

use burn::tensor::activation::{log_softmax, silu};
use burn::tensor::{DType, Device, IndexingUpdateOp, Int, Tensor, TensorData};
use weights::RopePairing;

use crate::{AttentionOptions, PageMap, PageSpan, Wanted};

/// Scores of one slice of queries at most: 64 MiB.
const SCORES_MAX: usize = 16 << 20;
/// Queries of one slice at most: a slice reads no further than its last query, so that little is computed of
/// what none of them sees.
const QUERIES_MAX: usize = 128;

/// Added to the logit of a token that may not be said.
const SHUT: f32 = -1e30;

/// Added to the score of a key that a query must not see, so that its exponential is zero.
fn unseen_score(device: &Device) -> f32 {
    // The C library knows that of minus infinity at once, and takes a slow way for other numbers
    // far below zero.
    #[cfg(feature = "flex")]
    if device.clone().without_autodiff() == Device::flex() {
        return f32::NEG_INFINITY;
    }
    // Finite, for drivers that assume no infinity.
    let _device = device;
    -1e30
}

/// Scales each token's vector to a mean square of one, then by `gain`.
///
/// Shapes: `x: [tokens, width]`, `gain: [width]` → as `x`. Computed in f32.
/// Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
pub fn rms_norm(x: Tensor<2>, gain: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let mean_square = x.clone().square().mean_dim(1); // [tokens, 1]
    x * (mean_square + epsilon).sqrt().recip() * gain.unsqueeze()
}

/// The products with each matrix of a stack, behind each other.
///
/// Shapes: `x: [tokens, cols]`, `matrices`: each `[rows, cols]` → `[tokens, rows of all]`.
pub fn linear(x: Tensor<2>, matrices: &[Tensor<2>]) -> Tensor<2> {
    let products = matrices.iter().map(|matrix| x.clone().matmul(matrix.clone().transpose()));
    Tensor::cat(products.collect(), 1)
}

/// `silu(first · x) * (second · x)`.
///
/// Shapes: `x: [tokens, cols]`, two matrices `[rows, cols]` → `[tokens, rows]`.
/// Source: Shazeer 2020, arXiv:2002.05202, `SwiGLU`.
pub fn gated(x: Tensor<2>, matrices: &[Tensor<2>]) -> Tensor<2> {
    let product = |matrix: &Tensor<2>| x.clone().matmul(matrix.clone().transpose());
    silu(product(&matrices[0])) * product(&matrices[1])
}

/// Rotates pairs of each head's vector by an angle that grows with the token's position.
///
/// Shapes: `x: [tokens, heads, head_dim]`, `positions: [tokens]`,
/// `table: [context, head_dim]` from [`rope_table`](crate::rope_table) → as `x`. Computed in f32.
/// Pairing: `Adjacent` (GGUF, Mistral) or `HalfSplit` (Hugging Face); the archive says which.
/// Source: Su et al. 2021, arXiv:2104.09864, eq. 34.
pub fn rope(
    x: Tensor<3>,
    positions: Tensor<1, Int>,
    table: Tensor<2>,
    pairing: RopePairing,
) -> Tensor<3> {
    let [tokens, heads, head_dim] = x.dims();
    let half = head_dim / 2;
    // The two halves of a pair lie `half` apart, or side by side.
    let (pairs, axis) = match pairing {
        RopePairing::HalfSplit => ([tokens, heads, 2, half], 2),
        RopePairing::Adjacent => ([tokens, heads, half, 2], 3),
    };
    let angles = if axis == 2 { [tokens, 1, 1, half] } else { [tokens, 1, half, 1] };
    let rows = table.select(0, positions); // [tokens, head_dim]
    let cos = rows.clone().narrow(1, 0, half).reshape(angles);
    let sin = rows.narrow(1, half, half).reshape(angles);
    let x = x.reshape(pairs);
    let (a, b) = (x.clone().narrow(axis, 0, 1), x.narrow(axis, 1, 1));
    let rotated = [
        a.clone() * cos.clone() - b.clone() * sin.clone(), //
        b * cos + a * sin,
    ];
    Tensor::cat(rotated.to_vec(), axis).reshape([tokens, heads, head_dim])
}

/// Writes one row for each token into its slot of the cache, in place when the pool is not shared.
///
/// Shapes: `pool: [slots, width]`, `rows: [tokens, width]`, `slots: [tokens]`, all different →
/// as `pool`.
pub fn store_kv(pool: Tensor<2>, rows: Tensor<2>, slots: Tensor<1, Int>) -> Tensor<2> {
    pool.select_assign(0, slots, rows, IndexingUpdateOp::Assign)
}

/// How likely each row says what it shall, in nats: among all tokens, or those that it may say.
///
/// Shapes: `logits: [rows, width]`, `wanted: [rows]` → `[rows, 1]`.
/// Panics: on a token beyond the width.
pub fn log_likelihoods(logits: Tensor<2>, wanted: &[Wanted]) -> Tensor<2> {
    let ([rows, width], device) = (logits.dims(), logits.device());
    let mut shut = vec![0.0; rows * width];
    for (row, wanted) in shut.chunks_mut(width).zip(wanted) {
        if let Some(few) = &wanted.among {
            row.fill(SHUT);
            few.iter().for_each(|token| row[*token as usize] = 0.0);
        }
    }
    let shut = Tensor::from_data(TensorData::new(shut, [rows, width]), &device);
    let tokens: Vec<i32> = wanted.iter().map(|wanted| wanted.token.cast_signed()).collect();
    let tokens = TensorData::new(tokens, [rows, 1]);
    let tokens = Tensor::<2, Int>::from_data(tokens, (&device, DType::I32));
    log_softmax(logits + shut, 1).gather(1, tokens)
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
    let heads = query.dims()[1];
    let mut outputs = Vec::with_capacity(map.spans.len());
    for span in &map.spans {
        let keys = Context::gather(&keys, map, *span, options);
        let values = Context::gather(&values, map, *span, options);
        let slice = (SCORES_MAX / (heads * keys.tokens())).clamp(1, QUERIES_MAX);
        for start in (0..span.query_tokens).step_by(slice) {
            let count = slice.min(span.query_tokens - start);
            let first = span.query_start + start;
            let unseen = span.query_tokens - start - count;
            let (keys, values) = (keys.without_last(unseen), values.without_last(unseen));
            let query = query.clone().narrow(0, first, count);
            let bias = (span.query_tokens > 1).then(|| {
                let positions = map.positions.clone().narrow(0, first, count);
                unseen_bias(positions, &keys, options.window_tokens)
            });
            outputs.push(attention(query, &keys, &values, bias, options));
        }
    }
    Tensor::cat(outputs, 0)
}

/// The part of one sequence's cache that any of its queries sees.
struct Context {
    rows: Tensor<3>, // [kv_heads, tokens, head_dim]
    first_position: usize,
}

impl Context {
    fn gather(pool: &Tensor<2>, map: &PageMap, span: PageSpan, options: AttentionOptions) -> Self {
        let [slots, width] = pool.dims();
        let (page_tokens, kv_heads) = (map.page_tokens, options.kv_heads);
        let first_query = span.context_tokens - span.query_tokens;
        let first_position =
            options.window_tokens.map_or(0, |window| (first_query + 1).saturating_sub(window));
        let first_page = first_position / page_tokens;
        let pages = span.context_tokens.div_ceil(page_tokens) - first_page;
        let table = map.pages.clone().narrow(0, span.first_page + first_page, pages);
        let rows = pool
            .clone()
            .reshape([slots / page_tokens, page_tokens * width])
            .select(0, table)
            .reshape([pages * page_tokens, kv_heads, width / kv_heads])
            .narrow(
                0,
                first_position - first_page * page_tokens,
                span.context_tokens - first_position,
            )
            .swap_dims(0, 1);
        Self { rows, first_position }
    }

    fn tokens(&self) -> usize {
        self.rows.dims()[1]
    }

    fn without_last(&self, tokens: usize) -> Self {
        let rows = self.rows.clone().narrow(1, 0, self.tokens() - tokens);
        Self { rows, first_position: self.first_position }
    }
}

/// Zero where a query may see a key, [`unseen_score`] where it may not. `[queries, keys]`
fn unseen_bias(positions: Tensor<1, Int>, keys: &Context, window: Option<usize>) -> Tensor<2> {
    let first = keys.first_position as i64;
    let last = first + keys.tokens() as i64;
    let device = positions.device();
    let seen = Tensor::<1, Int>::arange(first..last, (&device, positions.dtype()));
    let age = positions.unsqueeze_dim::<2>(1) - seen.unsqueeze_dim::<2>(0); // [queries, keys]
    let unseen = match window {
        None => age.lower_elem(0),
        Some(window) => age.clone().lower_elem(0).bool_or(age.greater_equal_elem(window as i64)),
    };
    unseen.clone().float().mask_fill(unseen, unseen_score(&device))
}

/// Query heads that share a key head stand as further rows of one matrix, so that keys and values
/// are never repeated.
fn attention(
    query: Tensor<3>,
    keys: &Context,
    values: &Context,
    bias: Option<Tensor<2>>,
    options: AttentionOptions,
) -> Tensor<3> {
    let [queries, heads, head_dim] = query.dims();
    let (kv_heads, context) = (options.kv_heads, keys.tokens());
    let group = heads / kv_heads;
    let query = (query * options.scale)
        .reshape([queries, kv_heads, group, head_dim])
        .permute([1, 2, 0, 3])
        .reshape([kv_heads, group * queries, head_dim]);
    let scores = query
        .matmul(keys.rows.clone().swap_dims(1, 2))
        .reshape([kv_heads, group, queries, context]);
    let scores = match bias {
        None => scores,
        Some(bias) => scores + bias.unsqueeze(),
    };
    // Softmax is divided behind the values: there are fewer numbers to divide.
    let highest = scores.clone().detach().max_dim(3);
    let shares = (scores - highest).exp();
    let sums = shares.clone().sum_dim(3);
    let sum = shares
        .reshape([kv_heads, group * queries, context])
        .matmul(values.rows.clone())
        .reshape([kv_heads, group, queries, head_dim]);
    (sum / sums).permute([2, 0, 1, 3]).reshape([queries, heads, head_dim])
}
