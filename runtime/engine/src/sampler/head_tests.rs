use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use protocol::{Sampling, TokenId};
use text::TokenMask;

use super::super::{Rules, SampleError, Sampler};
use super::*;
use crate::batch::{RowLogits, Want, WholeRow};

fn sampler(sampling: &Sampling, width: usize, banned: Vec<TokenId>) -> Sampler {
    // The first two of four tokens of an answer are no end.
    let rules = Rules {
        default_temperature: 0.0,
        drawable_tokens: width as u32,
        banned,
        ends: Arc::from([TokenId(0), TokenId(1)]),
        answer_tokens_min: 2,
    };
    Sampler::new(sampling, rules, &[]).expect("the sampling is valid")
}

/// The tokens of the `count` greatest logits, and what the others weigh as the sampler wants it; fetches
/// are counted.
fn head(sampler: &Sampler, logits: &[f32], count: usize, fetched: &Arc<AtomicU32>) -> Likeliest {
    let Weighing { temperature, first, end } = match sampler.want(false) {
        Want::Likeliest(weighing) => weighing,
        _ => sampler.weighed.at(1.0),
    };
    let mut ranked: Vec<(TokenId, f32)> = (0..).map(TokenId).zip(logits.iter().copied()).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    let (greatest, least) = (ranked[0].1, ranked[count - 1].1);
    let (tokens, others): (Vec<_>, Vec<_>) = ranked.iter().partition(|(_, logit)| *logit >= least);
    let counted = others.iter().filter(|(token, _)| (first..end).contains(token));
    let rest = counted.map(|(_, logit)| ((logit - greatest) / temperature).exp()).sum();
    let (row, fetched) = (logits.to_vec(), fetched.clone());
    let row = WholeRow::new(move || {
        fetched.fetch_add(1, Ordering::Relaxed);
        Ok(row)
    });
    Likeliest { tokens, rest, row }
}

fn next(sampler: &mut Sampler, head: Likeliest) -> Result<TokenId, SampleError> {
    sampler.next(RowLogits::Likeliest(head), None, &mut Vec::new())
}

#[test]
fn a_head_that_decides_is_enough() {
    let logits: Vec<f32> = (0..1000).map(|id| -0.1 * ((id * 37) % 1000) as f32).collect();
    let banned: Vec<TokenId> = (0..300).filter(|id| ![2, 5].contains(id)).map(TokenId).collect();
    let (fetched, draws) = (Arc::new(AtomicU32::new(0)), 4000);
    for (sampling, most) in [
        (Sampling { top_k: 30, ..Sampling::default() }, 0),
        (Sampling { min_p: 0.01, ..Sampling::default() }, 0),
        (Sampling { top_p: 0.95, ..Sampling::default() }, 4),
        (Sampling::default(), 12),
    ] {
        let sampling = Sampling { temperature: Some(1.0), seed: Some(5), ..sampling };
        let mut sampler = sampler(&sampling, logits.len(), banned.clone());
        fetched.store(0, Ordering::Relaxed);
        for _ in 0..draws {
            let head = head(&sampler, &logits, 90, &fetched);
            next(&mut sampler, head).unwrap();
        }
        let count = fetched.load(Ordering::Relaxed);
        assert!(count <= most, "{count} of {draws} rows were fetched: {sampling:?}");
    }
}

#[test]
fn weighing_begins_behind_the_tokens_that_are_banned() {
    let weighed = |banned: &[u32]| {
        let banned: Vec<TokenId> = banned.iter().copied().map(TokenId).collect();
        let Weighed { first, end, missing, surplus } = Weighed::new(&banned, 100);
        (first, end, missing, surplus)
    };
    assert_eq!(weighed(&[]), (0, 100, 0, 0));
    assert_eq!(weighed(&[0, 1, 3, 4, 5]), (6, 100, 1, 0));
    assert_eq!(weighed(&[0, 1, 3, 4, 5, 80]), (6, 100, 1, 1));
    assert_eq!(weighed(&[50]), (0, 100, 0, 1));
    assert_eq!(weighed(&[0, 100, 2000]), (1, 100, 0, 0));
}

#[test]
fn a_logit_that_is_no_number_is_found_by_the_weight_of_the_others() {
    let fetched = Arc::default();
    let mut sampler =
        sampler(&Sampling { temperature: Some(1.0), ..Sampling::default() }, 4, Vec::new());
    let mut head = head(&sampler, &[1.0, 2.0, f32::NAN, 0.0], 2, &fetched);
    head.tokens = vec![(TokenId(1), 2.0), (TokenId(0), 1.0)];
    head.rest = f32::NAN;
    assert_eq!(next(&mut sampler, head), Err(SampleError::NotFinite { token: 2 }));
}

#[test]
fn draws_from_heads_have_the_probabilities_of_the_logits() {
    let shares = [0.4f64, 0.25, 0.15, 0.1, 0.06, 0.04];
    let logits = shares.map(|share| share.ln() as f32);
    let sampling = Sampling { temperature: Some(1.0), seed: Some(20_261), ..Sampling::default() };
    let mut sampler = sampler(&sampling, logits.len(), Vec::new());
    let (mut seen, draws) = ([0u32; 6], 20_000);
    for _ in 0..draws {
        let head = head(&sampler, &logits, 3, &Arc::default());
        seen[next(&mut sampler, head).unwrap().0 as usize] += 1;
    }
    let distance = |(share, seen): (f64, u32)| {
        let expected = share * f64::from(draws);
        (f64::from(seen) - expected).powi(2) / expected
    };
    let statistic: f64 = shares.into_iter().zip(seen).map(distance).sum();
    assert!(statistic < 20.52, "chi square of 5 degrees, p = 0.001: {statistic}, {seen:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// What a head decides is what the whole row says with the same random numbers.
    #[test]
    fn a_head_never_differs_from_its_row(
        logits in prop::collection::vec(prop_oneof![-9.0f32..9.0, Just(1.0f32)], 2..60),
        count in 1usize..20, seed: u64, temperature in prop_oneof![Just(0.0f32), 0.05f32..3.0],
        top_k in 0u32..12, top_p in prop_oneof![Just(1.0f32), 0.0f32..1.0],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..0.5], banned in prop::collection::vec(0u32..60, 0..12),
        shape in prop::option::of(prop::collection::vec(0u32..60, 1..50)),
    ) {
        let sampling = Sampling {
            temperature: Some(temperature), seed: Some(seed), top_k, top_p, min_p,
            ..Sampling::default()
        };
        let banned: Vec<TokenId> = banned.into_iter().map(TokenId).collect();
        let [mut by_head, mut by_row] =
            [(); 2].map(|()| sampler(&sampling, logits.len(), banned.clone()));
        let mask = shape.map(|tokens| {
            let mut mask = TokenMask::none(logits.len());
            tokens.into_iter().for_each(|token| mask.allow(TokenId(token)));
            mask
        });
        let next = |sampler: &mut Sampler, head| {
            sampler.next(RowLogits::Likeliest(head), mask.as_ref(), &mut Vec::new())
        };
        let fetched = Arc::default();
        for _ in 0..4 {
            let [head, unsaid] =
                [(); 2].map(|()| head(&by_head, &logits, count.min(logits.len()), &fetched));
            let found = next(&mut by_head, head);
            let expected = next(&mut by_row, Likeliest { rest: f32::NAN, ..unsaid });
            prop_assert_eq!(found, expected);
        }
    }
}
