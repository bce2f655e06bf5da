use super::*;
use crate::panels::pack;

fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// Bytes that are blocks of the encoding with small scales, whatever else they hold.
fn blocks(encoding: Encoding, seed: u64, values: usize) -> Vec<u8> {
    let numbers = noise(seed, values);
    match encoding {
        Encoding::F32 => numbers.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Encoding::F16 => {
            numbers.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()
        }
        Encoding::Bf16 => {
            numbers.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect()
        }
        _ => {
            let mut bytes: Vec<u8> = (0..encoding.row_bytes(values).unwrap())
                .map(|i| (numbers[i % values].to_bits() >> 3) as u8)
                .collect();
            // Scales near 0.016, each with its own low bits and some of them negative.
            let halves: &[usize] = match encoding {
                Encoding::Q2K => &[80, 82],
                Encoding::Q3K => &[108],
                Encoding::Q6K => &[208],
                Encoding::Q4_1 | Encoding::Q5_1 | Encoding::Q4K | Encoding::Q5K => &[0, 2],
                _ => &[0],
            };
            for (index, block) in bytes.chunks_exact_mut(encoding.block_bytes()).enumerate() {
                for half in halves {
                    block[half + 1] = 0x24 | (index as u8 % 3 / 2) << 7;
                }
            }
            bytes
        }
    }
}

/// What 8-bit activations are rounded to, by the definition.
fn rounded(encoding: Encoding, x: &[f32]) -> Vec<f64> {
    let block = match encoding.block_values() {
        1 => return x.iter().map(|v| f64::from(*v)).collect(),
        block => block,
    };
    let round = |block: &[f32]| -> Vec<f64> {
        let greatest = block.iter().fold(0.0f32, |greatest, v| greatest.max(v.abs()));
        let inverse = if greatest == 0.0 { 0.0 } else { 127.0 / greatest };
        let scale = f64::from(greatest / 127.0);
        block.iter().map(|v| f64::from((v * inverse).round_ties_even()) * scale).collect()
    };
    x.chunks(block).flat_map(round).collect()
}

struct Case {
    encoding: Encoding,
    rows: usize,
    cols: usize,
    tokens: usize,
}

impl Case {
    fn file(&self) -> Vec<u8> {
        blocks(self.encoding, 7, self.rows * self.cols)
    }

    fn x(&self) -> Vec<f32> {
        noise(11, self.tokens * self.cols)
    }

    fn panels(&self) -> Vec<u8> {
        let bytes = panel_bytes(self.encoding, self.cols).unwrap();
        let mut panels = vec![0xaa; panel_count(self.rows) * bytes];
        pack(self.encoding, self.cols, &self.file(), &mut panels);
        panels
    }

    /// Sums in f64 over the encoding's own unpack. `[tokens, rows]`
    fn expected(&self, x: &[f64]) -> Vec<f64> {
        let mut dense = vec![0.0; self.rows * self.cols];
        self.encoding.unpack(&self.file(), &mut dense).unwrap();
        let dot = |x: &[f64], row: &[f32]| -> f64 {
            x.iter().zip(row).map(|(x, w)| x * f64::from(*w)).sum()
        };
        x.chunks_exact(self.cols)
            .flat_map(|x| dense.chunks_exact(self.cols).map(move |row| dot(x, row)))
            .collect()
    }

    fn found(&self, isa: Isa) -> Vec<f32> {
        let mut y = vec![f32::NAN; self.tokens * self.rows];
        let Self { encoding, rows, cols, .. } = *self;
        let panels = self.panels();
        let matrix = PackedMatrix { panels: &panels, encoding, rows, cols };
        linear_on(isa, &self.x(), &[matrix], Outcome::Store, &mut y);
        y
    }
}

/// Normalised mean square error.
fn error(found: &[f32], expected: &[f64]) -> f64 {
    let square = |v: f64| v * v;
    let wrong: f64 = found.iter().zip(expected).map(|(f, e)| square(f64::from(*f) - e)).sum();
    wrong / expected.iter().copied().map(square).sum::<f64>()
}

#[test]
fn every_encoding_multiplies_as_its_unpack_says_on_every_machine() {
    for isa in Isa::available() {
        for encoding in Encoding::ALL {
            for tokens in [1, 2, 3, 7, 8, 19, 71] {
                let case = Case { encoding, rows: 37, cols: 512, tokens };
                let found = case.found(isa);
                let exact = error(&found, &case.expected(&rounded(encoding, &case.x())));
                assert!(exact < 1e-11, "{isa:?}, {encoding:?}, {tokens} tokens: {exact:e}");
                let x: Vec<f64> = case.x().into_iter().map(f64::from).collect();
                let whole = error(&found, &case.expected(&x));
                assert!(whole < 6e-5, "{isa:?}, {encoding:?}, {tokens} tokens: {whole:e}");
            }
        }
    }
}

#[test]
fn odd_shapes_and_long_rows_keep_the_bound() {
    let shapes = [
        (Encoding::F32, 1, 5, 1),
        (Encoding::F32, 3, 1, 2),
        (Encoding::F16, 5, 17, 4),
        (Encoding::F32, 2, 4099, 3),
        (Encoding::Q8_0, 700, 32, 9),
        (Encoding::Q4_0, 16, 288, 10),
        (Encoding::Q6K, 15, 4096, 1),
    ];
    for (encoding, rows, cols, tokens) in shapes {
        let case = Case { encoding, rows, cols, tokens };
        for isa in Isa::available() {
            let error = error(&case.found(isa), &case.expected(&rounded(encoding, &case.x())));
            assert!(error < 1e-11, "{isa:?}, {encoding:?} [{rows}, {cols}] x {tokens}: {error:e}");
        }
    }
}

#[test]
fn a_token_alone_and_among_others_gives_the_same_bits() {
    for isa in Isa::available() {
        for encoding in Encoding::ALL {
            let together = Case { encoding, rows: 50, cols: 768, tokens: 71 };
            let all = together.found(isa);
            let panels = together.panels();
            let (rows, cols) = (together.rows, together.cols);
            let matrix = PackedMatrix { panels: &panels, encoding, rows, cols };
            for (first, count) in [(3, 1), (3, 2), (3, 4), (3, 5), (28, 40), (60, 11)] {
                let x = &together.x()[first * cols..(first + count) * cols];
                let mut alone = vec![0.0; count * rows];
                linear_on(isa, x, &[matrix], Outcome::Store, &mut alone);
                let among = &all[first * rows..(first + count) * rows];
                assert_eq!(alone, among, "{isa:?}, {encoding:?}, {count} from {first}");
            }
        }
    }
}

#[test]
fn matrices_stand_behind_each_other_are_added_or_are_a_gate() {
    let case = |encoding, rows| Case { encoding, rows, cols: 256, tokens: 3 };
    let (a, b) = (case(Encoding::Q4K, 20), case(Encoding::Q6K, 5));
    let (panels_a, panels_b) = (a.panels(), b.panels());
    fn matrix<'a>(case: &Case, panels: &'a [u8]) -> PackedMatrix<'a> {
        PackedMatrix { panels, encoding: case.encoding, rows: case.rows, cols: case.cols }
    }
    let isa = Isa::best();
    let (found_a, found_b) = (a.found(isa), b.found(isa));

    let mut y = vec![0.0; 3 * 25];
    let both = [matrix(&a, &panels_a), matrix(&b, &panels_b)];
    linear_on(isa, &a.x(), &both, Outcome::Store, &mut y);
    for token in 0..3 {
        assert_eq!(y[token * 25..][..20], found_a[token * 20..][..20]);
        assert_eq!(y[token * 25 + 20..][..5], found_b[token * 5..][..5]);
    }

    let mut y = vec![2.0; 3 * 20];
    linear_on(isa, &a.x(), &both[..1], Outcome::Add, &mut y);
    assert!(y.iter().zip(&found_a).all(|(y, product)| *y == 2.0 + product));

    linear_on(isa, &a.x(), &[both[0], both[0]], Outcome::Gate, &mut y);
    for (y, x) in y.iter().zip(&found_a) {
        let expected = x / (1.0 + (-x).exp()) * x;
        // The power ends at 88, behind which a gate is shut: it lets some 1e-37 of its input pass.
        let bound = 2e-6 * expected.abs() + 1e-32;
        assert!((y - expected).abs() <= bound, "{y} for {expected}");
    }
}
