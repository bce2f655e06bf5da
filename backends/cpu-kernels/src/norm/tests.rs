use super::*;

fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

#[test]
fn rows_are_divided_by_their_root_mean_square_on_every_machine() {
    for isa in Isa::available() {
        for (tokens, width) in [(1, 1), (3, 7), (2, 64), (1, 4096), (5, 100), (40, 4096)] {
            let (x, gain) = (noise(3, tokens * width), noise(5, width));
            let mut out = vec![f32::NAN; tokens * width];
            rms_norm_on(isa, &x, &gain, 1e-5, &mut out);
            for (x, out) in x.chunks(width).zip(out.chunks(width)) {
                let squares: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
                let root = (squares / width as f64 + 1e-5).sqrt();
                for ((x, gain), out) in x.iter().zip(&gain).zip(out) {
                    let expected = f64::from(*x) / root * f64::from(*gain);
                    let wrong = (f64::from(*out) - expected).abs();
                    assert!(wrong <= 1e-6 * expected.abs(), "{isa:?}: {out} for {expected}");
                }
            }
        }
    }
}

#[test]
fn a_row_alone_and_among_others_gives_the_same_bits() {
    let (tokens, width) = (37, 1000);
    let (x, gain) = (noise(3, tokens * width), noise(5, width));
    let mut all = vec![0.0; tokens * width];
    rms_norm(&x, &gain, 1e-5, &mut all);
    for (x, together) in x.chunks(width).zip(all.chunks(width)) {
        let mut alone = vec![0.0; width];
        rms_norm(x, &gain, 1e-5, &mut alone);
        assert_eq!(alone, together);
    }
}
