use super::*;

/// Numbers between minus one and one, without a pattern.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn close(one: &[f32], other: &[f32]) {
    assert_eq!(one.len(), other.len());
    for (at, (one, other)) in one.iter().zip(other).enumerate() {
        assert!((one - other).abs() < 1e-4, "number {at}: {one} and {other}");
    }
}

#[test]
fn products_stand_behind_each_other() {
    let (tokens, cols) = (7, 37);
    let x = numbers(tokens * cols, 1);
    let stack = [numbers(5 * cols, 2), numbers(19 * cols, 3)];
    let rows = || stack.iter().flat_map(|matrix| matrix.chunks(cols));
    let wanted: Vec<f32> =
        x.chunks(cols).flat_map(|x| rows().map(move |row| dot(x, row))).collect();
    let matrices = stack.each_ref().map(|matrix| Matrix::whole(matrix, cols));
    close(&products(Matrix::whole(&x, cols), &matrices), &wanted);
}

#[test]
fn a_product_is_added_to_rows_that_are_apart() {
    let (a, b) = (numbers(3 * 6, 4), numbers(2 * 6, 5));
    let mut wanted = vec![1.0; 3 * 9];
    for (a, wanted) in a.chunks(6).zip(wanted.chunks_mut(9)) {
        for (b, wanted) in b.chunks(6).zip(wanted) {
            *wanted += 0.5 * dot(&a[..4], &b[..4]);
        }
    }
    let mut out = vec![1.0; 3 * 9];
    let (a, b) = (Matrix::new(&a, 3, 4, 6), Matrix::new(&b, 2, 4, 6));
    a.multiply(b.transposed(), 0.5, true, &mut out, 9);
    close(&out, &wanted);
}

/// Operands of 16 bits, so that products in tiles lose nothing but the order of their sums.
#[cfg(target_arch = "x86_64")]
#[test]
fn products_in_tiles_are_those_of_the_same_numbers() {
    use super::tiles::{Target, Unit, multiply};
    let units = Unit::available();
    let halved = |count, seed| -> Vec<f32> {
        numbers(count, seed).into_iter().map(|x| half::bf16::from_f32(x).to_f32()).collect()
    };
    for (rows, cols, depth) in [(1, 1, 1), (16, 16, 32), (33, 50, 70), (96, 17, 32), (5, 129, 513)]
    {
        let (a, b) = (halved(rows * depth, 8), halved(cols * depth, 9));
        // The same operands with rows and with columns side by side, each with a gap behind a row.
        let laid = |values: &[f32], lines: usize, turned: bool| {
            let (outer, inner) = if turned { (depth, lines) } else { (lines, depth) };
            let mut laid = vec![f32::NAN; outer * (inner + 3)];
            for (row, laid) in laid.chunks_mut(inner + 3).enumerate() {
                for (col, laid) in laid[..inner].iter_mut().enumerate() {
                    *laid =
                        if turned { values[col * depth + row] } else { values[row * depth + col] };
                }
            }
            laid.truncate(outer * (inner + 3) - 3);
            laid
        };
        for (left_turned, right_turned) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            let (left, right) = (laid(&a, rows, left_turned), laid(&b, cols, right_turned));
            let view = |values, lines, turned| match turned {
                true => Matrix::new(values, depth, lines, lines + 3).transposed(),
                false => Matrix::new(values, lines, depth, depth + 3),
            };
            let (left, right) = (view(&left, rows, left_turned), view(&right, cols, right_turned));
            for (unit, adds) in units.iter().flat_map(|unit| [(*unit, false), (*unit, true)]) {
                let stride = cols + 2;
                let mut out = vec![2.0; rows * stride];
                let target = Target { out: out.as_mut_ptr(), stride, factor: 0.5, adds };
                // SAFETY: the machine has the unit, and `out` a row for each row.
                unsafe { multiply(unit, left.lines(), right.lines(), &target) };
                let mut wanted = vec![2.0; rows * stride];
                for (a, wanted) in a.chunks(depth).zip(wanted.chunks_mut(stride)) {
                    for (b, wanted) in b.chunks(depth).zip(wanted) {
                        *wanted = 0.5 * dot(a, b) + if adds { 2.0 } else { 0.0 };
                    }
                }
                close(&out, &wanted);
            }
        }
    }
}

#[test]
#[should_panic(expected = "a product of another shape")]
fn a_product_that_has_no_room_is_refused() {
    let a = numbers(16, 6);
    let a = Matrix::whole(&a, 4);
    a.multiply(a, 1.0, false, &mut [0.0; 15], 4);
}

#[test]
fn likelihoods_are_those_among_what_may_be_said() {
    let width = 21;
    let logits = numbers(2 * width, 7);
    let few = vec![3, 7, 20];
    let wanted = [Wanted { token: 5, among: None }, Wanted { token: 7, among: Some(few.clone()) }];
    let log_sum = |logits: &mut dyn Iterator<Item = f32>| logits.map(f32::exp).sum::<f32>().ln();
    let (first, second) = logits.split_at(width);
    let log_sums = [
        log_sum(&mut first.iter().copied()),
        log_sum(&mut few.iter().map(|token| second[*token as usize])),
    ];
    let found = log_likelihoods(&logits, width, &wanted);
    close(&found.log_sums, &log_sums);
    close(&found.values, &[first[5] - log_sums[0], second[7] - log_sums[1]]);
}
