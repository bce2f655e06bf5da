//! Every method of every kind of machine that this one is, against the plain Rust of
//! [`Portable`], and where rounding may differ, against a bound in f64.

use std::array::from_fn;

use half::{bf16, f16};

use super::{Isa, Simd, Work, run};

/// Lanes of each input: whole vectors for every kind.
const COUNT: usize = 4096;
const TABLE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// A method of [`Simd`] and what it takes beside vectors.
#[derive(Debug, Clone, Copy)]
enum Method {
    Load,
    LoadI8,
    LoadU16,
    LoadF16,
    LoadBf16,
    Splat,
    SplatF32,
    And,
    Or,
    Shr(u32),
    Shl(u32),
    Sar(u32),
    Add,
    SubBytes,
    MulAdd,
    DotUnsigned,
    DotSigned,
    DotPairs,
    EvenI8,
    OddI8,
    Lookup,
    ToFloat,
    AsFloat,
    Round,
    AddF32,
    SubF32,
    MulF32,
    DivF32,
    Fma,
    MaxF32,
    MinF32,
    SumF32,
    GreatestF32,
    Exp,
}

/// Three vectors' lanes as bits; `shared` has, for each 16 lanes, what they all meet.
#[derive(Default)]
struct Inputs {
    a: Vec<u32>,
    b: Vec<u32>,
    c: Vec<u32>,
    shared: Vec<u32>,
}

/// A method on whole inputs, piece by piece; what each piece gives, and of how many lanes it was.
struct Apply<'a> {
    method: Method,
    inputs: &'a Inputs,
    results: &'a mut Vec<u32>,
    lanes: &'a mut usize,
}

/// What one vector gives.
enum Piece<S: Simd> {
    Ints(S::Int),
    Floats(S::Float),
    One(f32),
}

impl Apply<'_> {
    /// The method on one vector.
    ///
    /// # Safety
    /// The machine has the instructions of `S`; each pointer has a vector of 16 lanes behind it,
    /// `shared` one lane.
    #[inline(always)]
    unsafe fn piece<S: Simd>(method: Method, from: [*const u8; 3], shared: *const u8) -> Piece<S> {
        use Piece::{Floats, Ints, One};
        let [p, q, r] = from;
        // SAFETY: the condition is this function's own.
        unsafe {
            let (a, b, c) = (S::load(p), S::load(q), S::load(r));
            let (x, y) = (S::load_f32(p.cast()), S::load_f32(q.cast()));
            let word = shared.cast::<i32>().read();
            match method {
                Method::Load => Ints(a),
                Method::LoadI8 => Ints(S::load_i8(p.cast())),
                Method::LoadU16 => Ints(S::load_u16(p)),
                Method::LoadF16 => Floats(S::load_f16(p)),
                Method::LoadBf16 => Floats(S::load_bf16(p)),
                Method::Splat => Ints(S::splat(word)),
                Method::SplatF32 => Floats(S::splat_f32(shared.cast::<f32>().read())),
                Method::And => Ints(S::and(a, b)),
                Method::Or => Ints(S::or(a, b)),
                Method::Shr(bits) => Ints(S::shr(a, bits)),
                Method::Shl(bits) => Ints(S::shl(a, bits)),
                Method::Sar(bits) => Ints(S::sar(a, bits)),
                Method::Add => Ints(S::add(a, b)),
                Method::SubBytes => Ints(S::sub_bytes(a, b)),
                Method::MulAdd => Ints(S::mul_add(c, a, b)),
                Method::DotUnsigned => Ints(S::dot_unsigned(c, a, shared.cast())),
                Method::DotSigned => Ints(S::dot_signed(c, a, shared.cast())),
                Method::DotPairs => Ints(S::dot_pairs(c, a, word)),
                Method::EvenI8 => Ints(S::even_i8(a)),
                Method::OddI8 => Ints(S::odd_i8(a)),
                Method::Lookup => Ints(S::lookup(&TABLE, a)),
                Method::ToFloat => Floats(S::to_float(a)),
                Method::AsFloat => Floats(S::as_float(a)),
                Method::Round => Ints(S::round(x)),
                Method::AddF32 => Floats(S::add_f32(x, y)),
                Method::SubF32 => Floats(S::sub_f32(x, y)),
                Method::MulF32 => Floats(S::mul_f32(x, y)),
                Method::DivF32 => Floats(S::div_f32(x, y)),
                Method::Fma => Floats(S::fma(x, y, S::load_f32(r.cast()))),
                Method::MaxF32 => Floats(S::max_f32(x, y)),
                Method::MinF32 => Floats(S::min_f32(x, y)),
                Method::SumF32 => One(S::sum_f32(x)),
                Method::GreatestF32 => One(S::greatest_f32(x)),
                Method::Exp => Floats(S::exp(x)),
            }
        }
    }
}

impl Work for Apply<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        *self.lanes = S::LANES;
        let Inputs { a, b, c, shared } = self.inputs;
        // One byte off, so that no address is a multiple of anything.
        let mut bytes = [[0u8; 65]; 4];
        for start in (0..a.len()).step_by(S::LANES) {
            for (bytes, lanes) in bytes.iter_mut().zip([a, b, c]) {
                for (bytes, lane) in bytes[1..].chunks_exact_mut(4).zip(&lanes[start..]) {
                    bytes.copy_from_slice(&lane.to_le_bytes());
                }
            }
            let [a, b, c, out] = &mut bytes;
            let from = [a[1..].as_ptr(), b[1..].as_ptr(), c[1..].as_ptr()];
            let to = out[1..].as_mut_ptr();
            // SAFETY: the caller has said that the machine is of this kind; every buffer has 64
            // bytes from its second on.
            unsafe {
                match Self::piece::<S>(self.method, from, (&raw const shared[start / 16]).cast()) {
                    Piece::Ints(v) => S::store(to, v),
                    Piece::Floats(v) => S::store_f32(to.cast(), v),
                    Piece::One(v) => {
                        self.results.push(v.to_bits());
                        continue;
                    }
                }
            }
            let (words, _) = out[1..].as_chunks::<4>();
            self.results.extend(words[..S::LANES].iter().map(|word| u32::from_le_bytes(*word)));
        }
    }
}

/// What the method gives on the kind of machine, and its lanes.
fn apply(isa: Isa, method: Method, inputs: &Inputs) -> (Vec<u32>, usize) {
    let (mut results, mut lanes) = (Vec::new(), 0);
    let work = Apply { method, inputs, results: &mut results, lanes: &mut lanes };
    // SAFETY: every caller takes the kind from `available`, and all inputs are whole vectors.
    unsafe { run(isa, work) }
    (results, lanes)
}

fn noise(seed: u64) -> impl FnMut() -> u32 {
    let mut state = seed;
    move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    }
}

fn lanes(seed: u64, lane: impl Fn(u32) -> u32) -> Vec<u32> {
    let mut next = noise(seed);
    (0..COUNT).map(|_| lane(next())).collect()
}

/// Random words, with those in between that are at the end of something.
fn words(seed: u64) -> Vec<u32> {
    let edges = [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX, 0x8080_8080, 0x7f7f_7f7f, 0x8000_8000];
    lanes(seed, |word| if word >> 28 == 0 { edges[word as usize % 8] } else { word })
}

/// Random floats of all sizes, with zeros, infinities and what is no number in between.
fn floats(seed: u64) -> Vec<u32> {
    let edges = [0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, 1e-45];
    lanes(seed, |word| if word >> 28 == 0 { edges[word as usize % 8].to_bits() } else { word })
}

/// Random floats from −`limit` to `limit`.
fn floats_to(seed: u64, limit: f32) -> Vec<u32> {
    lanes(seed, |word| (word.cast_signed() as f32 / 2f32.powi(31) * limit).to_bits())
}

/// Four bytes each, moved from where they lie by `byte`.
fn bytes(seed: u64, byte: impl Fn(u8) -> u8) -> Vec<u32> {
    lanes(seed, |word| u32::from_le_bytes(word.to_le_bytes().map(&byte)))
}

/// −127 to 127, both ends often.
fn signed_byte(byte: u8) -> u8 {
    match byte % 8 {
        0 => 127,
        1 => 129,
        _ => byte.max(1).cast_signed().max(-127).cast_unsigned(),
    }
}

fn general() -> Inputs {
    Inputs { a: words(1), b: words(2), c: words(3), shared: words(4) }
}

fn of_floats(a: Vec<u32>, b: Vec<u32>, c: Vec<u32>) -> Inputs {
    Inputs { a, b, c, shared: floats(4) }
}

/// Whether both are no numbers, or one and the same; which no number it is, no kind promises.
fn same_float(a: u32, b: u32) -> bool {
    a == b || f32::from_bits(a).is_nan() && f32::from_bits(b).is_nan()
}

fn check(method: Method, inputs: &Inputs, same: impl Fn(u32, u32) -> bool) {
    let (expected, _) = apply(Isa::Portable, method, inputs);
    assert_eq!(expected.len(), COUNT);
    for isa in Isa::available() {
        let (found, _) = apply(isa, method, inputs);
        assert_eq!(found.len(), COUNT);
        for (lane, (found, expected)) in found.into_iter().zip(&expected).enumerate() {
            let of = (inputs.a[lane], inputs.b[lane], inputs.c[lane], inputs.shared[lane / 16]);
            assert!(
                same(found, *expected),
                "{}, {method:?} of {of:x?}: {found:#x}, expected {expected:#x}",
                isa.name()
            );
        }
    }
}

fn equal(a: u32, b: u32) -> bool {
    a == b
}

#[test]
fn the_best_kind_is_the_one_that_this_run_is_about() {
    // Whoever emulates a machine names its kind, so that no run tests another one unnoticed.
    if let Ok(expected) = std::env::var("ZONDA_TEST_ISA") {
        assert_eq!(Isa::best().name(), expected);
    }
}

#[test]
fn integers_have_the_same_bits() {
    use Method::*;
    for method in [Load, Splat, And, Or, Add, SubBytes, MulAdd, DotPairs, EvenI8, OddI8, AsFloat] {
        check(method, &general(), equal);
    }
    for bits in 0..32 {
        for method in [Shr(bits), Shl(bits), Sar(bits)] {
            check(method, &general(), equal);
        }
    }
}

#[test]
fn bytes_are_looked_up() {
    check(Method::Lookup, &Inputs { a: bytes(1, |byte| byte % 16), ..general() }, equal);
}

#[test]
fn products_of_unsigned_weights_are_exact_to_the_ends() {
    let unsigned = |byte: u8| if byte.is_multiple_of(8) { 127 } else { byte % 128 };
    let weights = bytes(1, unsigned);
    let inputs = Inputs { a: weights, shared: bytes(2, signed_byte), ..general() };
    check(Method::DotUnsigned, &inputs, equal);
}

#[test]
fn products_of_signed_weights_are_exact_to_the_ends_but_for_the_offset() {
    struct Offset<'a>(&'a mut i32);
    impl Work for Offset<'_> {
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            *self.0 = S::SIGNED_OFFSET;
        }
    }
    let (weights, shared) = (bytes(1, signed_byte), bytes(2, signed_byte));
    let inputs = Inputs { a: weights, shared, ..general() };
    for isa in Isa::available() {
        let mut offset = 0;
        // SAFETY: the kind is one of this machine's.
        unsafe { run(isa, Offset(&mut offset)) };
        let (found, _) = apply(isa, Method::DotSigned, &inputs);
        for (lane, found) in found.into_iter().enumerate() {
            let signed = |word: u32| word.to_le_bytes().map(|byte| i32::from(byte.cast_signed()));
            let (weights, activations) = (signed(inputs.a[lane]), signed(inputs.shared[lane / 16]));
            let product: i32 =
                from_fn::<i32, 4, _>(|i| (weights[i] + offset) * activations[i]).into_iter().sum();
            assert_eq!(
                found.cast_signed(),
                inputs.c[lane].cast_signed().wrapping_add(product),
                "{}: {weights:?} by {activations:?}",
                isa.name()
            );
        }
    }
}

#[test]
fn floats_that_are_rounded_once_have_the_same_bits() {
    use Method::*;
    let inputs = of_floats(floats(1), floats(2), floats(3));
    for method in [SplatF32, AddF32, SubF32, MulF32, DivF32] {
        check(method, &inputs, same_float);
    }
    check(ToFloat, &general(), equal);
    for limit in [8.0, 1e9] {
        check(Round, &of_floats(floats_to(1, limit), floats(2), floats(3)), equal);
    }
    let halves = lanes(1, |word| ((word.cast_signed() >> 20) as f32 * 0.5).to_bits());
    check(Round, &of_floats(halves, floats(2), floats(3)), equal);
}

#[test]
fn what_does_not_compare_gives_the_second() {
    for (a, b) in [(floats(1), floats(2)), (floats(1), floats(1))] {
        let inputs = of_floats(a, b, floats(3));
        for method in [Method::MaxF32, Method::MinF32] {
            check(method, &inputs, equal);
        }
    }
    let (nan, zero, one) = (f32::NAN.to_bits(), 0, 1f32.to_bits());
    for isa in Isa::available() {
        for method in [Method::MaxF32, Method::MinF32] {
            for (a, b) in [(nan, one), (one, nan), (zero, 1 << 31), (1 << 31, zero)] {
                let inputs = of_floats(vec![a; COUNT], vec![b; COUNT], floats(3));
                assert_eq!(apply(isa, method, &inputs).0, vec![b; COUNT], "{}", isa.name());
            }
        }
    }
}

/// Reads numbers of so many bytes each: what lies behind a vector's own is not to be seen.
fn read_narrow<const N: usize>(isa: Isa, method: Method, numbers: &[[u8; N]]) -> Vec<u32> {
    let (_, width) = apply(isa, method, &general());
    let mut a = Vec::with_capacity(numbers.len());
    for piece in numbers.chunks_exact(width) {
        let (words, _) = piece.as_flattened().as_chunks::<4>();
        a.extend(words.iter().map(|word| u32::from_le_bytes(*word)));
        a.resize(a.len().next_multiple_of(width), u32::MAX);
    }
    let zeros = || vec![0; a.len()];
    apply(isa, method, &Inputs { b: zeros(), c: zeros(), shared: zeros(), a }).0
}

#[test]
fn every_narrow_number_is_read_exactly() {
    let all_i8: [[u8; 1]; 1 << 8] = from_fn(|bits| [bits as u8]);
    let all_u16: Vec<[u8; 2]> = (0..=u16::MAX).map(u16::to_le_bytes).collect();
    let integer_i8 = |bits: usize| i32::from(bits as i8).cast_unsigned();
    let float_f16 = |bits: usize| f16::from_bits(bits as u16).to_f32().to_bits();
    let float_bf16 = |bits: usize| bf16::from_bits(bits as u16).to_f32().to_bits();
    for isa in Isa::available() {
        let (i8, u16) = (Method::LoadI8, Method::LoadU16);
        assert!(read_narrow(isa, i8, &all_i8).into_iter().eq((0..1 << 8).map(integer_i8)));
        assert!(read_narrow(isa, u16, &all_u16).into_iter().eq(0..1 << 16));
        for (bits, found) in read_narrow(isa, Method::LoadF16, &all_u16).into_iter().enumerate() {
            assert!(same_float(found, float_f16(bits)), "{}: f16 {bits:#x}", isa.name());
        }
        for (bits, found) in read_narrow(isa, Method::LoadBf16, &all_u16).into_iter().enumerate() {
            assert!(same_float(found, float_bf16(bits)), "{}: bf16 {bits:#x}", isa.name());
        }
    }
}

#[test]
fn fma_is_within_the_roundings_of_its_two_steps() {
    let inputs = of_floats(floats_to(1, 100.0), floats_to(2, 100.0), floats_to(3, 1e4));
    for isa in Isa::available() {
        let (found, _) = apply(isa, Method::Fma, &inputs);
        for (lane, found) in found.into_iter().enumerate() {
            let [a, b, c] = [&inputs.a, &inputs.b, &inputs.c]
                .map(|lanes| f64::from(f32::from_bits(lanes[lane])));
            let error = (f64::from(f32::from_bits(found)) - (a * b + c)).abs();
            // Each rounding moves by half the last bit at most.
            let roundings = (a * b).abs() + (a * b + c).abs();
            let bound = roundings * f64::from(f32::EPSILON) * 0.500_001;
            assert!(error <= bound, "{}: {a} * {b} + {c} is off by {error:e}", isa.name());
        }
    }
}

#[test]
fn sums_and_greatest_run_over_all_lanes() {
    let inputs = of_floats(floats_to(1, 10.0), floats(2), floats(3));
    for isa in Isa::available() {
        let name = isa.name();
        let (sums, width) = apply(isa, Method::SumF32, &inputs);
        let (greatest, _) = apply(isa, Method::GreatestF32, &inputs);
        assert_eq!((sums.len(), greatest.len()), (COUNT / width, COUNT / width));
        for (piece, lanes) in inputs.a.chunks_exact(width).enumerate() {
            let lanes: Vec<f32> = lanes.iter().map(|bits| f32::from_bits(*bits)).collect();
            let sum: f64 = lanes.iter().map(|v| f64::from(*v)).sum();
            let error = (f64::from(f32::from_bits(sums[piece])) - sum).abs();
            assert!(error < 2e-5, "{name}: the sum of {lanes:?} is off by {error:e}");
            let most = lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(f32::from_bits(greatest[piece]), most, "{name}: {lanes:?}");
        }
    }
}

#[test]
fn exp_is_within_three_parts_in_ten_million() {
    for limit in [1.0, 20.0, 87.0] {
        let inputs = of_floats(floats_to(1, limit), floats(2), floats(3));
        for isa in Isa::available() {
            let (found, _) = apply(isa, Method::Exp, &inputs);
            for (power, found) in inputs.a.iter().zip(found) {
                let power = f64::from(f32::from_bits(*power));
                let error = f64::from(f32::from_bits(found)) / power.exp() - 1.0;
                assert!(error.abs() < 3e-7, "{}: e^{power} is off by {error:e}", isa.name());
            }
        }
    }
}

#[test]
fn exp_beyond_its_range_is_tiny_or_huge_or_no_number() {
    let edges = [f32::NEG_INFINITY, -1e9, -88.0, 89.0, 1e9, f32::INFINITY, f32::NAN, 0.0];
    let a = (0..COUNT).map(|lane| edges[lane % edges.len()].to_bits()).collect();
    let inputs = of_floats(a, floats(2), floats(3));
    for isa in Isa::available() {
        let (found, _) = apply(isa, Method::Exp, &inputs);
        for (lane, found) in found.into_iter().enumerate() {
            let (power, found) = (edges[lane % edges.len()], f32::from_bits(found));
            let right = match power {
                -1e9..=-88.0 | f32::NEG_INFINITY => (0.0..1.3e-38).contains(&found),
                89.0.. => (1.6e38..=f32::MAX).contains(&found),
                0.0 => found == 1.0,
                _ => found.is_nan(),
            };
            assert!(right, "{}: e^{power} is {found:e}", isa.name());
        }
    }
}
