//! The operations over the slices that a CPU backend's tensors are.

use cpu_kernels::{
    Attention, Outcome, PackedMatrix, PageMap, Rotation, Span, attend, linear, rms_norm, store,
};

use crate::likeliest::{LIKELIEST_LANES, LIKELIEST_MAX, LIKELIEST_WORDS, WEIGHING_NUMBERS};
use crate::{HeadLayout, PackedLayout, PageSpan, Products, STACK_MAX, Stack};

/// The panels of each matrix of a stack; what is beyond them is not read.
pub(crate) type Panels<'a> = [&'a [u8]; STACK_MAX];

/// The matrices of a stack.
fn matrices<'a>(stack: &Stack, panels: Panels<'a>) -> Vec<PackedMatrix<'a>> {
    let matrix = |(part, panels): (PackedLayout, &'a [u8])| PackedMatrix {
        panels,
        encoding: part.encoding,
        rows: part.rows,
        cols: part.cols,
    };
    stack.parts().zip(panels).map(matrix).collect()
}

/// `[tokens, rows]`
pub(crate) fn norm_linear(
    x: &[f32],
    gain: &[f32],
    panels: Panels<'_>,
    stack: &Stack,
    epsilon: f32,
    products: Products,
) -> Vec<f32> {
    let mut normed = vec![0.0; x.len()];
    rms_norm(x, gain, epsilon, &mut normed);
    let matrices = matrices(stack, panels);
    let (outcome, rows) = match products {
        Products::Stacked => (Outcome::Store, stack.rows()),
        Products::Gated => (Outcome::Gate, stack.rows() / 2),
    };
    let mut y = vec![0.0; x.len() / gain.len() * rows];
    linear(&normed, &matrices, outcome, &mut y);
    y
}

/// Adds to `sum: [tokens, rows]`.
pub(crate) fn linear_add(x: &[f32], panels: &[u8], stack: &Stack, sum: &mut [f32]) {
    linear(x, &matrices(stack, [panels; STACK_MAX]), Outcome::Add, sum);
}

pub(crate) fn store_kv(
    pool: &mut [u8],
    qkv: &[f32],
    slots: &[i32],
    positions: &[i32],
    angles: &[f32],
    layout: HeadLayout,
) {
    let rotation = Rotation { table: angles, pairing: layout.pairing };
    store(pool, layout.cache, layout.heads, qkv, slots, positions, &rotation);
}

/// `[tokens, heads * head_dim]`
pub(crate) fn attend_kv(
    pool: &[u8],
    qkv: &[f32],
    pages: &[i32],
    positions: &[i32],
    angles: &[f32],
    spans: &[PageSpan],
    layout: HeadLayout,
) -> Vec<f32> {
    let HeadLayout { heads, cache, pairing, scale, window_tokens } = layout;
    let spans: Vec<Span> = spans
        .iter()
        .map(|span| Span {
            query_start: span.query_start,
            query_tokens: span.query_tokens,
            context_tokens: span.context_tokens,
            first_page: span.first_page,
        })
        .collect();
    let mut out = vec![0.0; positions.len() * heads * cache.head_dim];
    attend(
        pool,
        cache,
        &Attention { heads, scale, window_tokens },
        qkv,
        &PageMap { pages, positions, spans: &spans },
        &Rotation { table: angles, pairing },
        &mut out,
    );
    out
}

/// The lowest index among those with the highest number, of each row of `width`.
pub(crate) fn argmax(logits: &[f32], width: usize) -> Vec<i32> {
    let likeliest = |row: &[f32]| {
        let mut best = (0, f32::NEG_INFINITY);
        for (index, value) in (0..).zip(row) {
            if *value > best.1 {
                best = (index, *value);
            }
        }
        best.0
    };
    logits.chunks_exact(width).map(likeliest).collect()
}

/// See [`FusedOps::likeliest`](crate::FusedOps::likeliest), of which this is one row after another. The
/// same for every backend, though networks whose logits lie on the CPU take whole rows (ADR 0034).
pub(crate) fn likeliest(logits: &[f32], weighing: &[f32]) -> Vec<i32> {
    let (weighing, _) = weighing.as_chunks::<WEIGHING_NUMBERS>();
    let width = logits.len() / weighing.len().max(1);
    let mut words = vec![0; weighing.len() * LIKELIEST_WORDS];
    let rows = logits.chunks_exact(width.max(1)).zip(weighing);
    for ((row, weighing), words) in rows.zip(words.chunks_exact_mut(LIKELIEST_WORDS)) {
        likeliest_of_row(row, *weighing, words);
    }
    words
}

fn likeliest_of_row(
    row: &[f32],
    [temperature, first, end]: [f32; WEIGHING_NUMBERS],
    words: &mut [i32],
) {
    // Less than this share of the greatest weight is nothing, a whole vocabulary of it included.
    const NEGLIGIBLE: f32 = -40.0;
    let mut greatest_of_lanes = [-3.4e38f32; LIKELIEST_LANES];
    for numbers in row.chunks(LIKELIEST_LANES) {
        for (greatest, number) in greatest_of_lanes.iter_mut().zip(numbers) {
            *greatest = if number > greatest { *number } else { *greatest };
        }
    }
    let descending = |a: &f32, b: &f32| b.total_cmp(a);
    let (above, floor, _) =
        greatest_of_lanes.select_nth_unstable_by(LIKELIEST_LANES / 2 - 1, descending);
    let floor = *floor;
    let greatest = above.iter().copied().fold(floor, f32::max);
    let (head, lists) = words.split_at_mut(2);
    let (indices, numbers) = lists.split_at_mut(LIKELIEST_MAX);
    let (mut count, mut rest) = (0, 0.0f64);
    for (index, &number) in row.iter().enumerate() {
        if !number.is_finite() {
            count += LIKELIEST_MAX + 1;
        } else if number >= floor {
            if count < LIKELIEST_MAX {
                indices[count] = index as i32;
                numbers[count] = number.to_bits().cast_signed();
            }
            count += 1;
        } else if (first as usize..end as usize).contains(&index) {
            let below = (number - greatest) / temperature;
            if below > NEGLIGIBLE {
                rest += f64::from(below.exp());
            }
        }
    }
    head.copy_from_slice(&[count as i32, (rest as f32).to_bits().cast_signed()]);
}
