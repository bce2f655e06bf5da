use burn::tensor::{DType, Device, Distribution, Tensor, TensorData};

use super::*;
use crate::{AttentionOptions, Norm, reference};

const TOKENS: usize = 23;
const WIDTH: usize = 24;

/// A leaf of a graph.
fn leaf<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device).require_grad()
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

fn close(what: &str, one: &[f32], other: &[f32]) {
    assert_eq!(one.len(), other.len(), "{what}");
    let size = other.iter().map(|x| x.abs()).fold(1.0, f32::max);
    for (at, (one, other)) in one.iter().zip(other).enumerate() {
        assert!((one - other).abs() < 2e-5 * size, "{what} {at}: {one} and {other}");
    }
}

/// Holds what both give, and its slopes in all leaves, to each other.
fn same(leaves: &[Tensor<2>], learned: Tensor<2>, reference: Tensor<2>) {
    close("number", &numbers(learned.clone().inner()), &numbers(reference.clone().inner()));
    // Every number weighs another, so that no slope is lost in a sum.
    let shape = learned.dims();
    let weights = Tensor::random(shape, Distribution::Normal(0.0, 1.0), &learned.device());
    let slopes = [learned, reference].map(|out| {
        let slopes = (out * weights.clone()).sum().backward();
        let of = |leaf: &Tensor<2>| numbers(leaf.grad(&slopes).expect("a slope"));
        leaves.iter().map(of).collect::<Vec<_>>()
    });
    let [learned, reference] = slopes;
    for (leaf, (learned, reference)) in learned.iter().zip(&reference).enumerate() {
        close(&format!("slope of leaf {leaf}, number"), learned, reference);
    }
}

fn device() -> Device {
    Device::flex().autodiff()
}

#[test]
fn products_and_their_slopes_are_those_of_the_reference() {
    let device = device();
    let rows = [[16, 8, 40], [20, 20, 20]];
    for (rows, count, kind) in [
        (rows[0], 3, Products::Stacked),
        (rows[0], 1, Products::Stacked),
        (rows[1], 2, Products::Gated),
    ] {
        let x = leaf([TOKENS, WIDTH], &device);
        let gain = leaf([1, WIDTH], &device);
        let matrices: Vec<Tensor<2>> =
            rows[..count].iter().map(|rows| leaf([*rows, WIDTH], &device)).collect();
        // A graph of its own for each: the first way back takes its graph down.
        let norm = || Norm { gain: gain.clone().reshape([WIDTH]), epsilon: 1e-5 };
        let learned = products(x.clone(), &norm(), &matrices, kind);
        let Norm { gain: own, epsilon } = norm();
        let normed = reference::rms_norm(x.clone(), own, epsilon);
        let wanted = match kind {
            Products::Stacked => reference::linear(normed, &matrices),
            Products::Gated => reference::gated(normed, &matrices),
        };
        let leaves: Vec<_> = [x, gain].into_iter().chain(matrices).collect();
        same(&leaves, learned, wanted);
    }
}

#[test]
fn sums_with_products_and_their_slopes_are_those_of_the_reference() {
    let device = device();
    let leaves = [[TOKENS, WIDTH], [40, WIDTH], [TOKENS, 40]].map(|shape| leaf(shape, &device));
    let [x, matrix, sum] = leaves.clone();
    let learned = linear_add(x.clone(), matrix.clone(), sum.clone());
    same(&leaves, learned, sum + reference::linear(x, &[matrix]));
}

/// Tokens of a sequence that others stand behind: more than are computed at once.
const SHARED: i32 = 130;

/// A long sequence, one that goes on behind it, one behind its first tokens, and one of a single token.
fn map(device: &Device) -> PageMap {
    let long = SHARED as usize;
    let spans = [
        (0, long, long, 0),
        (long, 5, long + 5, long),
        (long + 5, 8, 12, 2 * long + 5),
        (long + 13, 1, long + 1, 2 * long + 17),
    ];
    let spans = spans.map(|(query_start, query_tokens, context_tokens, first_page)| PageSpan {
        query_start,
        query_tokens,
        context_tokens,
        first_page,
    });
    let all = 0..SHARED;
    let pages = all.clone().chain(0..SHARED + 5).chain(0..4).chain(SHARED + 5..SHARED + 13);
    let pages = pages.chain(all.clone()).chain([SHARED + 13]).collect();
    let positions = all.chain(SHARED..SHARED + 5).chain(4..12).chain([SHARED]).collect();
    let upload = |values: Vec<i32>| {
        let count = values.len();
        Tensor::from_data(TensorData::new(values, [count]), (device, DType::I32))
    };
    PageMap::new(upload(pages), upload(positions), spans.to_vec(), 1)
}

#[test]
fn attention_and_its_slopes_are_those_of_the_reference() {
    let device = device();
    let head_dim = 6;
    for (heads, kv_heads, pairing) in
        [(3, 3, RopePairing::Adjacent), (4, 2, RopePairing::HalfSplit)]
    {
        let options = AttentionOptions { kv_heads, scale: 0.4, window_tokens: None };
        let heads = Heads { heads, head_dim, options };
        let table = crate::rope_table(2 * SHARED as usize, head_dim, 1e4, &device);
        let rotation = Rotation { table, pairing };
        let tokens = SHARED as usize + 14;
        let qkv = leaf([tokens, (heads.heads + 2 * kv_heads) * head_dim], &device);
        let map = map(&device);
        let learned = attend(qkv.clone(), &map, &heads, &rotation);
        let wanted = crate::cache::attend_step(qkv.clone(), &map, &heads, &rotation);
        same(&[qkv], learned, wanted);
    }
}

#[test]
fn likelihoods_and_their_slopes_are_those_of_the_reference() {
    let device = device();
    let logits = leaf([4, 37], &device);
    let few = |tokens: &[u32]| Some(tokens.to_vec());
    let wanted = [(5, None), (36, few(&[1, 36])), (0, None), (9, few(&[9]))]
        .map(|(token, among)| Wanted { token, among });
    let learned = log_likelihoods(logits.clone(), wanted.to_vec());
    let reference = reference::log_likelihoods(logits.clone(), &wanted);
    same(&[logits], learned, reference);
}
