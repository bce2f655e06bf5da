//! Every operation on every backend against a plain computation in f64.
//!
//! `ZONDA_TEST_BACKENDS=flex,ndarray,wgpu` names the backends; without it, the CPU ones.
#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![cfg_attr(feature = "ndarray", expect(deprecated, reason = "so is the ndarray backend"))]

use burn::tensor::{Int, Tensor, TensorData};
use fused_ops::reference::{paged_attention, rms_norm, rope, store_kv};
use fused_ops::{
    AttentionOptions, BackendChoice, LIKELIEST_WORDS, Likeliest, Norm, OpenDevice, PageMap,
    PageSpan, Weighing, Weight, argmax, likeliest, linear_add, norm_gated, norm_linear, open,
    rope_table,
};
use weights::{Encoding, RawTensor, RopePairing, TensorLayout};

#[path = "ops/cache.rs"]
mod cache;

/// Normalised mean square error of f32 arithmetic against f64.
const CLOSE: f64 = 1e-10;

/// That of matrices that Burn multiplies. On CUDA it rounds f32 to the 11 bits of TF32 first; what
/// answers prompts there is multiplied by our own kernels.
fn by_burn(device: &OpenDevice) -> f64 {
    if device.choice == BackendChoice::Cuda { 1e-6 } else { CLOSE }
}

fn devices() -> Vec<OpenDevice> {
    let names = std::env::var("ZONDA_TEST_BACKENDS").unwrap_or_else(|_| "flex,ndarray".into());
    names.split(',').map(|name| open(name.parse().unwrap()).unwrap()).collect()
}

fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn floats<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &OpenDevice) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), &device.device)
}

fn indices(values: &[usize], device: &OpenDevice) -> Tensor<1, Int> {
    let values: Vec<i32> = values.iter().map(|v| i32::try_from(*v).unwrap()).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), &device.device)
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

#[track_caller]
fn assert_close(what: &str, device: &OpenDevice, found: &[f32], expected: &[f64]) {
    assert_within(what, device, found, expected, CLOSE);
}

#[track_caller]
fn assert_within(what: &str, device: &OpenDevice, found: &[f32], expected: &[f64], bound: f64) {
    assert_eq!(found.len(), expected.len(), "{what} on {}", device.name);
    let wrong: f64 = found.iter().zip(expected).map(|(f, e)| (f64::from(*f) - e).powi(2)).sum();
    let whole: f64 = expected.iter().map(|e| e * e).sum();
    let error = wrong / whole;
    assert!(error < bound, "{what} on {}: error {error:e}", device.name);
}

#[test]
fn rms_norm_follows_its_definition() {
    let (tokens, width, epsilon) = (5, 96, 1e-5);
    let (x, gain) = (noise(1, tokens * width), noise(2, width));
    let expected: Vec<f64> = x
        .chunks_exact(width)
        .flat_map(|row| {
            let square: f64 = row.iter().map(|v| f64::from(*v).powi(2)).sum();
            let root = (square / width as f64 + epsilon).sqrt();
            row.iter().zip(&gain).map(move |(v, g)| f64::from(*v) / root * f64::from(*g))
        })
        .collect();
    for device in devices() {
        let x = floats(x.clone(), [tokens, width], &device);
        let gain = floats(gain.clone(), [width], &device);
        assert_close("rms_norm", &device, &host(rms_norm(x, gain, epsilon)), &expected);
    }
}

#[test]
fn rope_turns_the_pairs_that_the_archive_names() {
    let (heads, head_dim, theta, context) = (3, 16, 1e6, 64);
    let positions = [0, 63, 7, 7, 1];
    let x = noise(3, positions.len() * heads * head_dim);
    for pairing in [RopePairing::Adjacent, RopePairing::HalfSplit] {
        let mut expected = vec![0.0; x.len()];
        for (row, (x, y)) in
            x.chunks_exact(head_dim).zip(expected.chunks_exact_mut(head_dim)).enumerate()
        {
            for pair in 0..head_dim / 2 {
                let (a, b) = match pairing {
                    RopePairing::Adjacent => (2 * pair, 2 * pair + 1),
                    RopePairing::HalfSplit => (pair, pair + head_dim / 2),
                };
                let angle = positions[row / heads] as f64
                    / f64::powf(theta, 2.0 * pair as f64 / head_dim as f64);
                let (left, right) = (f64::from(x[a]), f64::from(x[b]));
                y[a] = left * angle.cos() - right * angle.sin();
                y[b] = right * angle.cos() + left * angle.sin();
            }
        }
        for device in devices() {
            let table = rope_table(context, head_dim, theta, &device.device);
            let x = floats(x.clone(), [positions.len(), heads, head_dim], &device);
            let found = host(rope(x, indices(&positions, &device), table, pairing));
            assert_close("rope", &device, &found, &expected);
        }
    }
}

#[test]
fn store_kv_writes_its_slots_and_no_other() {
    let (slots, width) = (24, 6);
    let (before, rows) = (noise(4, slots * width), noise(5, 3 * width));
    let chosen = [23, 0, 11];
    let mut expected = before.clone();
    for (slot, row) in chosen.iter().zip(rows.chunks_exact(width)) {
        expected[slot * width..(slot + 1) * width].copy_from_slice(row);
    }
    for device in devices() {
        let pool = floats(before.clone(), [slots, width], &device);
        let rows = floats(rows.clone(), [3, width], &device);
        let found = host(store_kv(pool, rows, indices(&chosen, &device)));
        assert_eq!(found, expected, "{}", device.name);
    }
}

/// The address of a tensor's first number, on backends that keep it in the program's memory.
fn address(tensor: &Tensor<2>) -> Option<usize> {
    use burn::backend::{BackendTensor, DispatchTensorKind};
    match tensor.clone().into_dispatch().kind {
        #[cfg(feature = "flex")]
        DispatchTensorKind::Flex(BackendTensor::Float(tensor)) => {
            Some(tensor.bytes().as_ptr().addr())
        }
        #[cfg(feature = "ndarray")]
        DispatchTensorKind::NdArray(BackendTensor::Float(burn_ndarray::NdArrayTensor::F32(
            tensor,
        ))) => Some(tensor.view().as_ptr().addr()),
        _ => None,
    }
}

#[test]
fn pool_stays_where_it_is_when_it_is_written_and_read() {
    let (slots, width, page_tokens) = (64, 8, 4);
    for device in devices() {
        let mut pool = Tensor::<2>::zeros([slots, width], &device.device);
        let Some(before) = address(&pool) else {
            continue;
        };
        for step in 0..3 {
            let rows = floats(noise(step, width), [1, width], &device);
            pool = store_kv(pool, rows, indices(&[step as usize], &device));
            let span = PageSpan {
                query_start: 0,
                query_tokens: 1,
                context_tokens: step as usize + 1,
                first_page: 0,
            };
            let map = PageMap::new(
                indices(&[0], &device),
                indices(&[step as usize], &device),
                vec![span],
                page_tokens,
            );
            let query = floats(noise(9, 8), [1, 2, 4], &device);
            let options = AttentionOptions { kv_heads: 2, scale: 0.5, window_tokens: None };
            let seen = paged_attention(query, pool.clone(), pool.clone(), &map, options);
            assert_eq!(host(seen).len(), 8);
            assert_eq!(address(&pool), Some(before), "{}", device.name);
        }
    }
}

/// A step with its cache, on the host.
struct Step {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    page_tokens: usize,
    slots: usize,
    /// Tokens in this step and context of each sequence.
    sequences: Vec<(usize, usize)>,
    window: Option<usize>,
}

struct Drawn {
    query: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    pages: Vec<usize>,
    positions: Vec<usize>,
    spans: Vec<PageSpan>,
}

impl Step {
    fn draw(&self) -> Drawn {
        let tokens: usize = self.sequences.iter().map(|s| s.0).sum();
        let width = self.kv_heads * self.head_dim;
        let (mut pages, mut positions, mut spans) = (vec![], vec![], vec![]);
        let mut query_start = 0;
        // Pages from the end of the pool downwards, so that no sequence lies in order.
        let mut free = (0..self.slots / self.page_tokens).rev();
        for &(query_tokens, context_tokens) in &self.sequences {
            let first_page = pages.len();
            pages.extend(free.by_ref().take(context_tokens.div_ceil(self.page_tokens)));
            positions.extend(context_tokens - query_tokens..context_tokens);
            spans.push(PageSpan { query_start, query_tokens, context_tokens, first_page });
            query_start += query_tokens;
        }
        Drawn {
            query: noise(21, tokens * self.heads * self.head_dim).iter().map(|v| v * 3.0).collect(),
            keys: noise(22, self.slots * width),
            values: noise(23, self.slots * width),
            pages,
            positions,
            spans,
        }
    }

    fn expected(&self, drawn: &Drawn) -> Vec<f64> {
        let (dim, width) = (self.head_dim, self.kv_heads * self.head_dim);
        let mut output = vec![0.0; drawn.query.len()];
        for span in &drawn.spans {
            for token in span.query_start..span.query_start + span.query_tokens {
                let position = drawn.positions[token];
                let first = self.window.map_or(0, |w| (position + 1).saturating_sub(w));
                let slot = |p: usize| {
                    let page = drawn.pages[span.first_page + p / self.page_tokens];
                    page * self.page_tokens + p % self.page_tokens
                };
                for head in 0..self.heads {
                    let at = (token * self.heads + head) * dim;
                    let column = head * self.kv_heads / self.heads * dim;
                    let row = |pool: &[f32], p: usize, i: usize| {
                        f64::from(pool[slot(p) * width + column + i])
                    };
                    let scores: Vec<f64> = (first..=position)
                        .map(|p| {
                            let product: f64 = (0..dim)
                                .map(|i| f64::from(drawn.query[at + i]) * row(&drawn.keys, p, i))
                                .sum();
                            product / (dim as f64).sqrt()
                        })
                        .collect();
                    let top = scores.iter().copied().fold(f64::MIN, f64::max);
                    let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
                    for (p, score) in (first..=position).zip(&scores) {
                        let share = (score - top).exp() / sum;
                        for i in 0..dim {
                            output[at + i] += share * row(&drawn.values, p, i);
                        }
                    }
                }
            }
        }
        output
    }

    #[track_caller]
    fn check(&self) {
        let drawn = self.draw();
        let expected = self.expected(&drawn);
        let (tokens, width) = (drawn.positions.len(), self.kv_heads * self.head_dim);
        for device in devices() {
            let map = PageMap::new(
                indices(&drawn.pages, &device),
                indices(&drawn.positions, &device),
                drawn.spans.clone(),
                self.page_tokens,
            );
            let options = AttentionOptions {
                kv_heads: self.kv_heads,
                scale: 1.0 / (self.head_dim as f64).sqrt(),
                window_tokens: self.window,
            };
            let shape = [tokens, self.heads, self.head_dim];
            let found = paged_attention(
                floats(drawn.query.clone(), shape, &device),
                floats(drawn.keys.clone(), [self.slots, width], &device),
                floats(drawn.values.clone(), [self.slots, width], &device),
                &map,
                options,
            );
            assert_within("paged_attention", &device, &host(found), &expected, by_burn(&device));
        }
    }
}

#[test]
fn attention_mixes_prompts_and_answers_in_one_step() {
    let sequences = vec![(1, 9), (5, 5), (1, 1), (7, 20), (4, 16)];
    for (heads, kv_heads) in [(8, 2), (12, 1), (4, 4)] {
        let (head_dim, page_tokens, slots, window) = (8, 4, 64, None);
        let sequences = sequences.clone();
        Step { heads, kv_heads, head_dim, page_tokens, slots, sequences, window }.check();
    }
}

#[test]
fn attention_sees_no_further_than_its_window() {
    let sequences = vec![(1, 9), (5, 5), (1, 30), (12, 26), (3, 4)];
    for window in [1, 3, 6, 100] {
        let (heads, kv_heads, head_dim, page_tokens, slots) = (8, 2, 8, 4, 96);
        let (sequences, window) = (sequences.clone(), Some(window));
        Step { heads, kv_heads, head_dim, page_tokens, slots, sequences, window }.check();
    }
}

#[test]
fn long_prompts_are_cut_into_slices_of_bounded_scores() {
    let (heads, kv_heads, head_dim, page_tokens, slots) = (8, 2, 8, 16, 4096);
    let (sequences, window) = (vec![(600, 4000)], None);
    Step { heads, kv_heads, head_dim, page_tokens, slots, sequences, window }.check();
}

/// A matrix of random blocks in memory.
fn matrix(encoding: Encoding, rows: usize, cols: usize) -> RawTensor {
    let bytes = blocks(encoding, rows * cols).into();
    RawTensor { shape: vec![rows, cols], encoding, bytes, layout: TensorLayout::Rows }
}

/// `x · Wᵀ` in f64. `[tokens, rows]`
fn products(x: &[f64], weight: &RawTensor) -> Vec<f64> {
    let cols = weight.shape[1];
    let dense = weight.to_f32().unwrap();
    let dot = |x: &[f64], row: &[f32]| x.iter().zip(row).map(|(x, w)| x * f64::from(*w)).sum();
    x.chunks_exact(cols)
        .flat_map(|x| dense.chunks_exact(cols).map(move |row| dot(x, row)))
        .collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|v| f64::from(*v)).collect()
}

/// What activations that are rounded to 8 bits may cost.
fn bound(encoding: Encoding) -> f64 {
    if encoding.block_values() > 1 { 1e-4 } else { CLOSE }
}

/// `sum + x · Wᵀ` on every device, for steps of each size that kernels tell apart.
fn check_linear_add(rows: usize, cols: usize, steps: &[usize]) {
    for encoding in Encoding::ALL {
        let raw = matrix(encoding, rows, cols);
        for &tokens in steps {
            let (x, sum) = (noise(31, tokens * cols), noise(32, tokens * rows));
            let mut expected = products(&wide(&x), &raw);
            expected.iter_mut().zip(&sum).for_each(|(e, sum)| *e += f64::from(*sum));
            for device in devices() {
                let weight = Weight::new(std::slice::from_ref(&raw), &device).unwrap();
                let x = floats(x.clone(), [tokens, cols], &device);
                let sum = floats(sum.clone(), [tokens, rows], &device);
                let found = host(linear_add(x, &weight, sum));
                let what = format!("{} of {tokens} tokens", encoding.name());
                assert_within(&what, &device, &found, &expected, bound(encoding));
            }
        }
    }
}

#[test]
fn a_sum_and_a_product_follow_every_encodings_unpack() {
    check_linear_add(19, 512, &[1, 3, 8]);
}

#[test]
fn tiles_of_tokens_and_rows_have_edges_anywhere() {
    check_linear_add(70, 256, &[9, 67]);
}

#[test]
fn likeliest_is_the_first_of_the_highest() {
    let width = 700;
    let mut logits = noise(51, 4 * width);
    logits[3] = 5.0;
    logits[699] = 5.0;
    logits[width + 650] = 2.0;
    logits[2 * width..3 * width].fill(f32::NAN);
    logits[2 * width + 17] = -3e38;
    for device in devices() {
        let found = argmax(floats(logits.clone(), [4, width], &device));
        let found: Vec<i32> = found.into_data().try_into_vec().unwrap();
        let last = &logits[3 * width..];
        let highest = last.iter().copied().fold(f32::MIN, f32::max);
        let last = last.iter().position(|value| *value == highest).unwrap();
        let expected = [3, 650, 17, i32::try_from(last).unwrap()];
        assert_eq!(found, expected, "{}", device.name);
    }
}

#[test]
fn heads_are_all_that_reach_their_floor_and_weigh_the_others() {
    let width = 3001;
    let mut logits = noise(52, 5 * width);
    logits.iter_mut().for_each(|logit| *logit *= 6.0);
    logits[7] = 5.0;
    // More equal ones than a head has room for, and one that is no number.
    logits[3 * width..4 * width].fill(-1.0);
    logits[4 * width + 1000] = f32::NAN;
    let weighing = |temperature, counted| Weighing { temperature, counted };
    let all = 0..width as u32;
    let wanted = [
        weighing(1.0, all.clone()),
        weighing(0.3, 800..2000),
        weighing(2.5, 0..0),
        weighing(1.0, all.clone()),
        weighing(1.0, all),
    ];
    for device in devices() {
        let words = likeliest(floats(logits.clone(), [5, width], &device), &wanted);
        let words: Vec<i32> = words.into_data().try_into_vec().unwrap();
        let heads: Vec<_> = words.chunks_exact(LIKELIEST_WORDS).map(Likeliest::read).collect();
        for ((head, row), wanted) in heads.iter().zip(logits.chunks(width)).zip(&wanted).take(3) {
            check_head(head.as_ref().unwrap(), row, wanted, &device.name);
        }
        assert_eq!(heads[3], None, "{}", device.name);
        assert_eq!(heads[4], None, "{}", device.name);
    }
}

fn check_head(head: &Likeliest, row: &[f32], wanted: &Weighing, device: &str) {
    let Likeliest { mut tokens, rest } = head.clone();
    assert!((128..=256).contains(&tokens.len()), "{device}: {} tokens", tokens.len());
    tokens.sort_by_key(|(token, _)| *token);
    let floor = tokens.iter().map(|(_, logit)| *logit).fold(f32::MAX, f32::min);
    let expected: Vec<_> =
        (0..).zip(row.iter().copied()).filter(|(_, logit)| *logit >= floor).collect();
    assert_eq!(tokens, expected, "{device}");
    let greatest = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
    let others =
        (0u32..).zip(row).filter(|(id, logit)| **logit < floor && wanted.counted.contains(id));
    let weight = |logit: f32| ((f64::from(logit) - greatest) / f64::from(wanted.temperature)).exp();
    let expected: f64 = others.map(|(_, logit)| weight(*logit)).sum();
    let found = f64::from(rest);
    assert!((found - expected).abs() <= 3e-5 * expected, "{device}: {found} for {expected}");
}

/// A norm whose result is `x` itself, up to a factor that a test knows.
fn norm_of(width: usize, device: &OpenDevice) -> Norm {
    Norm { gain: floats(noise(41, width), [width], device), epsilon: 1e-5 }
}

fn normed(x: &[f32], width: usize) -> Vec<f64> {
    let gain = noise(41, width);
    let of_token = |x: &[f32]| -> Vec<f64> {
        let x = wide(x);
        let square: f64 = x.iter().map(|v| v * v).sum();
        let root = (square / width as f64 + 1e-5).sqrt();
        x.iter().zip(&gain).map(|(v, g)| v / root * f64::from(*g)).collect()
    };
    x.chunks_exact(width).flat_map(of_token).collect()
}

#[test]
fn matrices_of_a_stack_stand_behind_each_other_behind_one_norm() {
    let (cols, tokens) = (256, 4);
    let x = noise(35, tokens * cols);
    let raw = [
        matrix(Encoding::Q4K, 24, cols),
        matrix(Encoding::Q8_0, 7, cols),
        matrix(Encoding::Q6K, 16, cols),
    ];
    let parts: Vec<Vec<f64>> = raw.iter().map(|raw| products(&normed(&x, cols), raw)).collect();
    for count in 1..=3 {
        let mut expected = Vec::new();
        for token in 0..tokens {
            for (part, raw) in parts.iter().zip(&raw).take(count) {
                let rows = raw.shape[0];
                expected.extend_from_slice(&part[token * rows..(token + 1) * rows]);
            }
        }
        for device in devices() {
            let weight = Weight::new(&raw[..count], &device).unwrap();
            let x = floats(x.clone(), [tokens, cols], &device);
            let found = host(norm_linear(x, &norm_of(cols, &device), &weight));
            assert_within("norm_linear", &device, &found, &expected, bound(Encoding::Q4K));
        }
    }
}

#[test]
fn a_gate_switches_the_other_half() {
    let (rows, cols, tokens) = (40, 64, 2);
    let x = noise(36, tokens * cols);
    let raw = [matrix(Encoding::F32, rows, cols), matrix(Encoding::F16, rows, cols)];
    let [gate, up] = [0, 1].map(|index| products(&normed(&x, cols), &raw[index]));
    let expected: Vec<f64> =
        gate.iter().zip(&up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
    for device in devices() {
        let weight = Weight::new(&raw, &device).unwrap();
        let x = floats(x.clone(), [tokens, cols], &device);
        let found = host(norm_gated(x, &norm_of(cols, &device), &weight));
        assert_close("norm_gated", &device, &found, &expected);
    }
}

/// A device whose buffers hold so many bytes.
fn with_buffers_of(bytes: usize, device: &OpenDevice) -> OpenDevice {
    OpenDevice { buffer_bytes_max: bytes as u64, ..device.clone() }
}

#[test]
fn a_matrix_that_no_buffer_holds_lies_in_several_and_gives_the_same() {
    let (rows, cols, tokens) = (70, 256, 3);
    for encoding in [Encoding::Q4K, Encoding::F16] {
        let raw = matrix(encoding, rows, cols);
        // Two panels of sixteen rows, and a bit of the next.
        let room = encoding.row_bytes(cols).unwrap() * 40;
        for device in devices() {
            let x = floats(noise(61, tokens * cols), [tokens, cols], &device);
            let sum = floats(noise(62, tokens * rows), [tokens, rows], &device);
            let [whole, sliced] = [device.clone(), with_buffers_of(room, &device)].map(|device| {
                let weight = Weight::new(std::slice::from_ref(&raw), &device).unwrap();
                let added = linear_add(x.clone(), &weight, sum.clone());
                (host(added), host(norm_linear(x.clone(), &norm_of(cols, &device), &weight)))
            });
            assert_eq!(whole, sliced, "{} on {}", encoding.name(), device.name);
        }
    }
}

#[test]
fn of_several_matrices_each_wants_a_buffer() {
    let raw = [matrix(Encoding::Q8_0, 16, 64), matrix(Encoding::Q8_0, 48, 64)];
    let panel = Encoding::Q8_0.row_bytes(64).unwrap() * 16;
    for device in devices() {
        assert!(Weight::new(&raw, &with_buffers_of(3 * panel, &device)).is_ok());
        let device = with_buffers_of(3 * panel - 1, &device);
        let error = Weight::new(&raw, &device).unwrap_err().to_string();
        assert!(error.contains(&(3 * panel).to_string()), "{error}");
    }
}

/// Bytes that are blocks with small scales.
fn blocks(encoding: Encoding, values: usize) -> Vec<u8> {
    let numbers = noise(33, values);
    match encoding {
        Encoding::F32 => numbers.iter().flat_map(|v| v.to_le_bytes()).collect(),
        // 0x20 to 0x27 in every byte keeps half-precision scales near 0.01.
        _ => (0..encoding.row_bytes(values).unwrap())
            .map(|i| 0x20 | (numbers[i % values].to_bits() as u8 & 0x07))
            .collect(),
    }
}

#[test]
fn software_gpu_is_never_chosen_by_auto() {
    assert!(!open(BackendChoice::Auto).unwrap().software);
}
