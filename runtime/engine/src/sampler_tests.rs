use proptest::prelude::*;

use super::*;
use crate::batch::{Weighing, WholeRow};

fn rules() -> Rules {
    Rules {
        default_temperature: 0.0,
        drawable_tokens: 4,
        banned: Vec::new(),
        ends: Arc::from([TokenId(0)]),
        answer_tokens_min: 0,
    }
}

fn greedy() -> Sampling {
    Sampling { temperature: Some(0.0), ..Sampling::default() }
}

fn drawn(seed: u64) -> Sampling {
    Sampling { temperature: Some(1.0), seed: Some(seed), ..Sampling::default() }
}

fn sampler(sampling: &Sampling, rules: Rules) -> Sampler {
    Sampler::new(sampling, rules, &[]).expect("the sampling is valid")
}

fn next(sampler: &mut Sampler, logits: &[f32]) -> Result<TokenId, SampleError> {
    sampler.next(RowLogits::All(logits.to_vec()), None, &mut Vec::new())
}

fn token(id: u32) -> Result<TokenId, SampleError> {
    Ok(TokenId(id))
}

#[test]
fn the_lowest_id_wins_a_tie() {
    let mut sampler = sampler(&greedy(), rules());
    assert_eq!(next(&mut sampler, &[0.0, 2.0, 2.0, 1.0]), token(1));
}

/// What a network says of a row whose likeliest token it was asked for.
fn argmax(logits: &[f32]) -> RowLogits {
    let logits = logits.to_vec();
    RowLogits::Argmax(likeliest(&logits).unwrap(), WholeRow::new(move || Ok(logits)))
}

#[test]
fn plain_greedy_asks_for_the_likeliest_token_alone() {
    let mut sampler = sampler(&greedy(), rules());
    assert_eq!(sampler.want(false), Want::Argmax);
    let untouched = WholeRow::new(|| unreachable!("the likeliest token is allowed"));
    let row = RowLogits::Argmax(TokenId(3), untouched);
    assert_eq!(sampler.next(row, None, &mut Vec::new()), token(3));
}

#[test]
fn a_banned_likeliest_token_is_settled_with_all_logits() {
    let mut sampler = sampler(&greedy(), Rules { banned: vec![TokenId(3)], ..rules() });
    let row = argmax(&[0.0, 1.0, 2.0, 9.0]);
    assert_eq!(sampler.next(row, None, &mut Vec::new()), token(2));
}

#[test]
fn a_row_that_cannot_be_fetched_says_why() {
    let mut sampler = sampler(&greedy(), Rules { banned: vec![TokenId(3)], ..rules() });
    let lost = ForwardError::DeviceLost { reason: "gone".into() };
    let why = lost.clone();
    let row = RowLogits::Argmax(TokenId(3), WholeRow::new(move || Err(why)));
    assert_eq!(sampler.next(row, None, &mut Vec::new()), Err(lost.into()));
}

#[test]
fn what_moves_logits_needs_all_of_them() {
    let penalised = Sampling { presence_penalty: 0.5, ..greedy() };
    let biased = Sampling { bias: vec![(TokenId(1), 1.0)], ..greedy() };
    let told = Sampling { logprobs: Some(0), ..drawn(1) };
    let typical = Sampling { typical_p: 0.5, ..drawn(1) };
    for sampling in [penalised, biased, told, typical] {
        assert_eq!(sampler(&sampling, rules()).want(false), Want::Logits, "{sampling:?}");
    }
    let (first, end) = (TokenId(0), TokenId(4));
    let head = |temperature| Want::Likeliest(Weighing { temperature, first, end });
    assert_eq!(sampler(&drawn(1), rules()).want(false), head(1.0));
    let warm = Sampling { temperature: Some(0.7), top_p: 0.9, top_k: 50, min_p: 0.1, ..drawn(1) };
    assert_eq!(sampler(&warm, rules()).want(true), head(0.7));
    assert_eq!(sampler(&greedy(), rules()).want(true), head(1.0));
}

#[test]
fn ends_wait_for_the_least_number_of_tokens() {
    let mut sampler = sampler(&greedy(), Rules { answer_tokens_min: 2, ..rules() });
    let logits = [9.0, 1.0, 0.0, 0.0];
    assert_eq!(next(&mut sampler, &logits), token(1));
    assert_eq!(sampler.next(argmax(&logits), None, &mut Vec::new()), token(1));
    assert_eq!(next(&mut sampler, &logits), token(0));
}

#[test]
fn tokens_without_text_are_never_drawn() {
    let mut sampler = sampler(&greedy(), rules());
    assert_eq!(next(&mut sampler, &[0.0, 1.0, 0.0, 0.0, 99.0]), token(1));
    let row = argmax(&[0.0, 1.0, 0.0, 0.0, 99.0]);
    assert_eq!(sampler.next(row, None, &mut Vec::new()), token(1));
}

#[test]
fn frequency_counts_and_presence_does_not() {
    let sampling = Sampling { frequency_penalty: 1.0, ..greedy() };
    let mut counting = sampler(&sampling, rules());
    let logits = [0.0, 3.5, 1.0, 0.0];
    let ids: Vec<_> = (0..4).map(|_| next(&mut counting, &logits)).collect();
    assert_eq!(ids, [token(1), token(1), token(1), token(2)]);

    let sampling = Sampling { presence_penalty: 2.0, ..greedy() };
    let mut present = sampler(&sampling, rules());
    let ids: Vec<_> = (0..4).map(|_| next(&mut present, &logits)).collect();
    assert_eq!(ids, [(); 4].map(|()| token(1)));
}

#[test]
fn repetition_looks_at_the_prompt_too() {
    let sampling = Sampling { repetition_penalty: 2.0, ..greedy() };
    let mut sampler = Sampler::new(&sampling, rules(), &[TokenId(1), TokenId(3)]).unwrap();
    assert_eq!(next(&mut sampler, &[0.0, 3.0, 2.0, 0.0]), token(2));
    assert_eq!(
        next(&mut sampler, &[-3.0, -1.5, -1.4, -2.0]),
        token(2),
        "negative ones are multiplied"
    );
}

#[test]
fn bias_moves_its_token_only() {
    let sampling = Sampling { bias: vec![(TokenId(2), 5.0)], ..greedy() };
    let mut sampler = sampler(&sampling, rules());
    assert_eq!(next(&mut sampler, &[0.0, 3.0, 0.0, 2.0]), token(2));
}

#[test]
fn a_logit_that_is_no_number_is_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut sampler = sampler(&drawn(7), rules());
        let row = [0.0, 0.0, bad, 0.0];
        assert_eq!(next(&mut sampler, &row), Err(SampleError::NotFinite { token: 2 }));
    }
}

#[test]
fn a_row_of_the_wrong_width_is_refused() {
    let mut sampler = sampler(&greedy(), rules());
    let refused = Err(SampleError::Width { found: 3, wanted: 4 });
    assert_eq!(next(&mut sampler, &[0.0; 3]), refused);
}

#[test]
fn nothing_is_drawn_when_everything_is_banned() {
    for sampling in [greedy(), drawn(1)] {
        let banned = (0..4).map(TokenId).collect();
        let mut sampler = sampler(&sampling, Rules { banned, ..rules() });
        assert_eq!(next(&mut sampler, &[1.0; 4]), Err(SampleError::NothingLeft));
    }
}

#[test]
fn values_without_meaning_name_their_field() {
    let cases = [
        ("temperature", Sampling { temperature: Some(f32::NAN), ..Sampling::default() }),
        ("temperature", Sampling { temperature: Some(-1.0), ..Sampling::default() }),
        ("top_p", Sampling { top_p: 1.5, ..Sampling::default() }),
        ("typical_p", Sampling { typical_p: -0.5, ..Sampling::default() }),
        ("min_p", Sampling { min_p: -0.1, ..Sampling::default() }),
        ("presence_penalty", Sampling { presence_penalty: f32::INFINITY, ..Sampling::default() }),
        ("frequency_penalty", Sampling { frequency_penalty: f32::NAN, ..Sampling::default() }),
        ("repetition_penalty", Sampling { repetition_penalty: 0.0, ..Sampling::default() }),
        ("top_logprobs", Sampling { logprobs: Some(21), ..Sampling::default() }),
        ("logit_bias", Sampling { bias: vec![(TokenId(4), 1.0)], ..Sampling::default() }),
        ("logit_bias", Sampling { bias: vec![(TokenId(0), f32::NAN)], ..Sampling::default() }),
    ];
    for (field, sampling) in cases {
        let fault = Sampler::new(&sampling, rules(), &[]).expect_err(field);
        assert_eq!((fault.code, fault.param.as_deref()), (FaultCode::InvalidField, Some(field)));
    }
}

#[test]
fn extreme_values_still_draw_a_token() {
    let extremes = [
        Sampling { temperature: Some(1e-40), ..drawn(1) },
        Sampling { temperature: Some(100.0), ..drawn(1) },
        Sampling { top_p: 0.0, ..drawn(1) },
        Sampling { typical_p: 0.0, ..drawn(1) },
        Sampling { min_p: 1.0, ..drawn(1) },
        Sampling { top_k: u32::MAX, ..drawn(1) },
        Sampling { repetition_penalty: 100.0, ..drawn(1) },
    ];
    for sampling in extremes {
        let mut sampler = Sampler::new(&sampling, rules(), &[TokenId(3)]).unwrap();
        let choice = next(&mut sampler, &[f32::MIN, 0.0, 1.0, f32::MAX]);
        assert!(choice.is_ok(), "{sampling:?} gave {choice:?}");
    }
}

#[test]
fn a_seed_repeats_and_another_differs() {
    let answer = |seed| {
        let mut sampler = sampler(&drawn(seed), rules());
        (0..64).map(|_| next(&mut sampler, &[1.0, 0.5, 0.2, 0.8]).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(answer(11), answer(11));
    assert_ne!(answer(11), answer(12));
}

#[test]
fn draws_have_the_probabilities_of_the_logits() {
    let shares = [0.5f64, 0.3, 0.15, 0.05];
    let logits = shares.map(|share| share.ln() as f32);
    let mut sampler = sampler(&drawn(20_260), rules());
    let mut seen = [0u32; 4];
    let draws = 20_000;
    for _ in 0..draws {
        seen[next(&mut sampler, &logits).unwrap().0 as usize] += 1;
    }
    let statistic: f64 = shares
        .iter()
        .zip(seen)
        .map(|(share, seen)| {
            let expected = share * f64::from(draws);
            (f64::from(seen) - expected).powi(2) / expected
        })
        .sum();
    assert!(statistic < 16.27, "chi square of 3 degrees, p = 0.001: {statistic}, {seen:?}");
}

/// The kept tokens, sorted by id.
fn kept(cut: &Cut, logits: &[f32]) -> Vec<u32> {
    let mut scratch = Vec::new();
    candidates(logits, 1.0, &mut scratch);
    cut.apply(&mut scratch);
    let mut kept: Vec<u32> = scratch.iter().map(|candidate| candidate.token.0).collect();
    kept.sort_unstable();
    kept
}

#[test]
fn candidates_without_a_chance_are_not_looked_at() {
    let looked_at = |temperature| {
        let mut scratch = Vec::new();
        candidates(&[20.0, -8.0, 19.0, -7.0], temperature, &mut scratch);
        scratch.iter().map(|candidate| candidate.token.0).collect::<Vec<_>>()
    };
    assert_eq!(looked_at(1.0), [0, 2, 3]);
    assert_eq!(looked_at(2.0), [0, 1, 2, 3]);
    assert_eq!(looked_at(1e-40), [0]);
}

#[test]
fn top_p_keeps_the_smallest_set_that_reaches_it() {
    let logits = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln);
    for (mass, expected) in [
        (0.0, vec![0]),
        (0.49, vec![0]),
        (0.6, vec![0, 1]),
        (0.9, vec![0, 1, 2]),
        (0.97, vec![0, 1, 2, 3]),
    ] {
        assert_eq!(kept(&Cut::TopP(mass), &logits), expected, "top_p {mass}");
    }
}

#[test]
fn typical_keeps_the_smallest_set_that_is_nearest_to_the_expected_surprise() {
    // Entropy 1.14; surprises 0.69, 1.20, 1.90, 3.00: the second is the most typical, the likeliest
    // the next.
    let logits = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln);
    for (mass, expected) in [
        (0.0, vec![1]),
        (0.29, vec![1]),
        (0.31, vec![0, 1]),
        (0.79, vec![0, 1]),
        (0.81, vec![0, 1, 2]),
        (0.97, vec![0, 1, 2, 3]),
    ] {
        assert_eq!(kept(&Cut::Typical(mass), &logits), expected, "typical_p {mass}");
    }
}

#[test]
fn min_p_measures_by_the_likeliest_that_is_left() {
    let logits = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln);
    let mut scratch = Vec::new();
    candidates(&logits, 1.0, &mut scratch);
    Cut::Typical(0.2).apply(&mut scratch);
    Cut::MinP(0.9).apply(&mut scratch);
    assert_eq!(scratch.iter().map(|candidate| candidate.token.0).collect::<Vec<_>>(), [1]);
}

fn logits() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(prop_oneof![-12.0f32..12.0, Just(0.0f32), Just(3.0f32)], 1..60)
}

/// Ids, likeliest first, the lower id first in a tie; and each token's probability.
fn ranked(logits: &[f32]) -> (Vec<u32>, Vec<f64>) {
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    ids.sort_by(|a, b| {
        logits[*b as usize].partial_cmp(&logits[*a as usize]).unwrap().then(a.cmp(b))
    });
    let weights: Vec<f64> = logits.iter().map(|logit| f64::from(*logit).exp()).collect();
    let total: f64 = weights.iter().sum();
    (ids, weights.iter().map(|weight| weight / total).collect())
}

proptest! {
    #[test]
    fn top_k_keeps_the_k_likeliest(logits in logits(), k in 1usize..70) {
        let (mut best, _) = ranked(&logits);
        best.truncate(k);
        best.sort_unstable();
        prop_assert_eq!(kept(&Cut::TopK(k), &logits), best);
    }

    #[test]
    fn top_p_keeps_a_head_that_is_enough_and_not_too_much(logits in logits(), mass in 0.0f64..1.0) {
        let kept = kept(&Cut::TopP(mass), &logits);
        let (ids, shares) = ranked(&logits);
        let mut head: Vec<u32> = ids[..kept.len()].to_vec();
        let reached: f64 = head.iter().map(|id| shares[*id as usize]).sum();
        prop_assert!(reached >= mass - 1e-6, "{} is less than {}", reached, mass);
        let last = shares[head[head.len() - 1] as usize];
        prop_assert!(head.len() == 1 || reached - last < mass + 1e-6, "one is too much");
        head.sort_unstable();
        prop_assert_eq!(kept, head);
    }

    #[test]
    fn typical_keeps_enough_and_nothing_less_typical_than_what_it_drops(
        logits in logits(), mass in 0.0f64..1.0,
    ) {
        let kept = kept(&Cut::Typical(mass), &logits);
        let (_, shares) = ranked(&logits);
        let entropy: f64 = shares.iter().map(|share| -share * share.ln()).sum();
        let distance = |id: &u32| (-shares[*id as usize].ln() - entropy).abs();
        let reached: f64 = kept.iter().map(|id| shares[*id as usize]).sum();
        prop_assert!(reached >= mass - 1e-6, "{} is less than {}", reached, mass);
        let farthest = kept.iter().map(distance).fold(0.0, f64::max);
        let dropped = (0..logits.len() as u32).filter(|id| !kept.contains(id));
        for id in dropped {
            prop_assert!(distance(&id) >= farthest - 1e-5, "{} is more typical", id);
        }
        let mut least = kept.iter().filter(|id| distance(id) >= farthest - 1e-5);
        let crumb = least.any(|id| reached - shares[*id as usize] < mass + 1e-6);
        prop_assert!(kept.len() == 1 || crumb, "one is too much");
    }

    #[test]
    fn min_p_keeps_what_is_likely_enough_beside_the_best(logits in logits(), share in 0.001f32..1.0) {
        let kept = kept(&Cut::MinP(share), &logits);
        let (ids, shares) = ranked(&logits);
        let best = shares[ids[0] as usize];
        prop_assert!(kept.contains(&ids[0]));
        for id in 0..logits.len() as u32 {
            let relative = shares[id as usize] / best;
            if (relative - f64::from(share)).abs() > 1e-5 {
                prop_assert_eq!(kept.contains(&id), relative > f64::from(share));
            }
        }
    }

    #[test]
    fn only_kept_tokens_are_drawn(
        logits in logits(), seed: u64, k in 0u32..8, p in 0.0f32..1.0, m in 0.0f32..1.0,
    ) {
        let sampling = Sampling {
            temperature: Some(0.8), top_k: k, top_p: p, min_p: m, seed: Some(seed),
            ..Sampling::default()
        };
        let width = logits.len() as u32;
        let banned = vec![TokenId(width - 1)];
        let mut sampler = sampler(&sampling, Rules { drawable_tokens: width, banned, ..rules() });
        match next(&mut sampler, &logits) {
            Ok(token) => {
                prop_assert!(token.0 + 1 < width, "the banned token was drawn");
                let rank = ranked(&logits[..logits.len() - 1]).0.iter().position(|id| *id == token.0);
                prop_assert!(k == 0 || rank.unwrap() < k as usize);
            }
            Err(error) => {
                prop_assert_eq!(error, SampleError::NothingLeft);
                prop_assert_eq!(width, 1);
            }
        }
    }
}
