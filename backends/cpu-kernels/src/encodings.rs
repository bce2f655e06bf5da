//! How the bytes of a panel stand for integers, for each packed encoding.
//!
//! The definition is `weights::Encoding::unpack`; here the same is said for many rows at once. A
//! *group* is four values, what one unit gives for each row; a *sub-block* is 32 or 16 values that
//! share an integer scale inside a block of 256. One unit holds bits of several groups: these are
//! unpacked together, so that it is read once. They are the *slots* of a step, and the steps that
//! fill whole sub-blocks are a *chunk*.

use weights::Encoding;

use crate::panels::{Fields, HALF, UNIT};
use crate::simd::Simd;

/// Integers of one encoding.
pub(crate) trait Packed: Copy + 'static {
    const ENCODING: Encoding;
    /// Values that share a scale.
    const SUB: usize = 32;
    /// Chunks of a block.
    const CHUNKS: usize = 1;
    /// Steps of a chunk.
    const STEPS: usize;
    /// Whether integers have a sign; otherwise they are 0 to 127.
    const SIGNED: bool = false;
    /// What is to be taken from each integer.
    const OFFSET: u16 = 0;
    /// Whether blocks, or sub-blocks, have a minimum.
    const MINIMUM: bool = false;
    /// Whether the scales of sub-blocks have a sign.
    const SCALES_SIGNED: bool = false;
    /// Bytes of the fields of two bytes of a block.
    const HALVES: usize = Fields::of(Self::ENCODING).half_bytes();
    /// Bytes of a block.
    const BYTES: usize = Self::HALVES + Fields::of(Self::ENCODING).units() * UNIT;
    /// One vector for each slot.
    type Slots<S: Simd>: AsRef<[S::Int]>;

    /// The integers of a step, for each slot those of one group. `units` are the block's.
    unsafe fn step<S: Simd>(units: *const u8, chunk: usize, step: usize) -> Self::Slots<S>;

    /// Which group of the block a slot is.
    fn group(chunk: usize, step: usize, slot: usize) -> usize;

    /// Scales and minimums of the sub-blocks; of blocks of 32 there are none.
    #[inline(always)]
    unsafe fn sub_scales<S: Simd>(_units: *const u8, _halves: *const u8) -> SubScales<S> {
        // SAFETY: as this function's own.
        let zero = unsafe { S::splat(0) };
        SubScales { scales: [zero; 4], minimums: [zero; 4] }
    }
}

/// Bytes, four sub-blocks in each lane.
#[derive(Clone, Copy)]
pub(crate) struct SubScales<S: Simd> {
    pub(crate) scales: [S::Int; 4],
    pub(crate) minimums: [S::Int; 4],
}

/// Unit `index` of a block.
#[inline(always)]
unsafe fn unit<S: Simd>(units: *const u8, index: usize) -> S::Int {
    // SAFETY: the caller's block has the unit.
    unsafe { S::load(units.add(index * UNIT)) }
}

/// `N` units of a block, from `first` on.
///
/// As a loop: what arrays are mapped with is not always compiled for the machine.
#[inline(always)]
unsafe fn units_from<S: Simd, const N: usize>(units: *const u8, first: usize) -> [S::Int; N] {
    // SAFETY: the caller's block has the units.
    unsafe {
        let mut found = [S::splat(0); N];
        for (index, found) in found.iter_mut().enumerate() {
            *found = unit::<S>(units, first + index);
        }
        found
    }
}

/// In each byte, the `mask` of what stands `shift` bits up.
#[inline(always)]
unsafe fn bits<S: Simd>(v: S::Int, shift: usize, mask: u8) -> S::Int {
    // SAFETY: as this function's own. Bits of a neighbouring byte are outside the mask.
    unsafe {
        let v = if shift == 0 { v } else { S::shr(v, shift as u32) };
        S::and(v, S::splat(i32::from_ne_bytes([mask; 4])))
    }
}

/// Low and high nibbles.
#[inline(always)]
unsafe fn nibbles<S: Simd>(v: S::Int) -> [S::Int; 2] {
    // SAFETY: as this function's own.
    unsafe { [bits::<S>(v, 0, 15), bits::<S>(v, 4, 15)] }
}

/// Four consecutive bits of each lane, from `first` on, each into bit 4 of a byte.
#[inline(always)]
unsafe fn fifth_bits<S: Simd>(v: S::Int, first: usize) -> S::Int {
    // SAFETY: as this function's own.
    unsafe {
        let four = S::and(S::shr(v, first as u32), S::splat(15));
        let two = S::or(four, S::shl(four, 7));
        S::shl(bits::<S>(S::or(two, S::shl(two, 14)), 0, 1), 4)
    }
}

macro_rules! packed {
    ($($name:ident),*) => {
        $(
            /// The encoding of this name.
            #[derive(Clone, Copy)]
            pub(crate) struct $name;
        )*
    };
}

packed!(Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2K, Q3K, Q4K, Q5K, Q6K, Iq4Nl, Iq4Xs);

impl Packed for Q8_0 {
    const ENCODING: Encoding = Encoding::Q8_0;
    const STEPS: usize = 8;
    const SIGNED: bool = true;
    type Slots<S: Simd> = [S::Int; 1];

    #[inline(always)]
    unsafe fn step<S: Simd>(units: *const u8, _chunk: usize, step: usize) -> [S::Int; 1] {
        // SAFETY: as the trait says.
        unsafe { [unit::<S>(units, step)] }
    }

    #[inline(always)]
    fn group(_chunk: usize, step: usize, _slot: usize) -> usize {
        step
    }
}

/// Blocks of 32 whose low nibbles are the first half and whose high ones the second.
macro_rules! halves_in_nibbles {
    ($(#[$doc:meta])* $name:ident, $encoding:expr, { $($constant:item)* }, $first:expr,
     |$nibbles:ident, $units:ident, $step:ident| $value:expr) => {
        $(#[$doc])*
        impl Packed for $name {
            const ENCODING: Encoding = $encoding;
            const STEPS: usize = 4;
            $($constant)*
            type Slots<S: Simd> = [S::Int; 2];

            #[inline(always)]
            unsafe fn step<S: Simd>($units: *const u8, _chunk: usize, $step: usize) -> [S::Int; 2] {
                // SAFETY: as the trait says.
                unsafe {
                    let $nibbles = nibbles::<S>(unit::<S>($units, $first + $step));
                    $value
                }
            }

            #[inline(always)]
            fn group(_chunk: usize, step: usize, slot: usize) -> usize {
                slot * 4 + step
            }
        }
    };
}

halves_in_nibbles!(
    Q4_0,
    Encoding::Q4_0,
    {
        const OFFSET: u16 = 8;
    },
    0,
    |v, _units, step| v
);
halves_in_nibbles!(
    Q4_1,
    Encoding::Q4_1,
    {
        const MINIMUM: bool = true;
    },
    0,
    |v, _units, step| v
);
halves_in_nibbles!(
    Iq4Nl,
    Encoding::Iq4Nl,
    {
        const SIGNED: bool = true;
    },
    0,
    |v, _units, step| [S::lookup(&CURVE, v[0]), S::lookup(&CURVE, v[1])]
);
halves_in_nibbles!(
    /// The fifth bits of all 32 values are the first unit.
    Q5_0, Encoding::Q5_0, { const OFFSET: u16 = 16; }, 1,
    |v, units, step| with_fifth_bits::<S>(v, unit::<S>(units, 0), step)
);
halves_in_nibbles!(
    /// As `Q5_0`.
    Q5_1, Encoding::Q5_1, { const MINIMUM: bool = true; }, 1,
    |v, units, step| with_fifth_bits::<S>(v, unit::<S>(units, 0), step)
);

#[inline(always)]
unsafe fn with_fifth_bits<S: Simd>(
    nibbles: [S::Int; 2],
    fifths: S::Int,
    step: usize,
) -> [S::Int; 2] {
    // SAFETY: as this function's own.
    unsafe {
        [
            S::or(nibbles[0], fifth_bits::<S>(fifths, step * 4)),
            S::or(nibbles[1], fifth_bits::<S>(fifths, 16 + step * 4)),
        ]
    }
}

/// What the nibbles of the two curved encodings stand for; as in `weights`.
const CURVE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Chunks of 16 values of each of four runs of 32, which share bytes: the group of a run.
#[inline(always)]
fn group_of_runs(chunk: usize, step: usize, run: usize) -> usize {
    let sub = chunk / 2 * 8 + run * 2 + chunk % 2;
    sub * 4 + step
}

/// Two bits of each of four runs.
#[inline(always)]
unsafe fn crumbs<S: Simd>(v: S::Int) -> [S::Int; 4] {
    // SAFETY: as this function's own.
    unsafe { [bits::<S>(v, 0, 3), bits::<S>(v, 2, 3), bits::<S>(v, 4, 3), bits::<S>(v, 6, 3)] }
}

impl Packed for Q2K {
    const ENCODING: Encoding = Encoding::Q2K;
    const SUB: usize = 16;
    const CHUNKS: usize = 4;
    const STEPS: usize = 4;
    const MINIMUM: bool = true;
    type Slots<S: Simd> = [S::Int; 4];

    #[inline(always)]
    unsafe fn step<S: Simd>(units: *const u8, chunk: usize, step: usize) -> [S::Int; 4] {
        // SAFETY: as the trait says.
        unsafe { crumbs::<S>(unit::<S>(units, 4 + chunk * 4 + step)) }
    }

    #[inline(always)]
    fn group(chunk: usize, step: usize, slot: usize) -> usize {
        group_of_runs(chunk, step, slot)
    }

    #[inline(always)]
    unsafe fn sub_scales<S: Simd>(units: *const u8, _halves: *const u8) -> SubScales<S> {
        // SAFETY: as the trait says.
        unsafe {
            let mut sub_scales = SubScales { scales: [S::splat(0); 4], minimums: [S::splat(0); 4] };
            for index in 0..4 {
                let both = nibbles::<S>(unit::<S>(units, index));
                sub_scales.scales[index] = both[0];
                sub_scales.minimums[index] = both[1];
            }
            sub_scales
        }
    }
}

impl Packed for Q3K {
    const ENCODING: Encoding = Encoding::Q3K;
    const SUB: usize = 16;
    const CHUNKS: usize = 4;
    const STEPS: usize = 4;
    const OFFSET: u16 = 4;
    const SCALES_SIGNED: bool = true;
    type Slots<S: Simd> = [S::Int; 4];

    #[inline(always)]
    unsafe fn step<S: Simd>(units: *const u8, chunk: usize, step: usize) -> [S::Int; 4] {
        // SAFETY: as the trait says. Of the mask's bytes, each run has its own bit.
        unsafe {
            let mask = unit::<S>(units, 3 + chunk % 2 * 4 + step);
            let mask = S::shr(mask, chunk as u32 / 2 * 4);
            let low = crumbs::<S>(unit::<S>(units, 11 + chunk * 4 + step));
            let third = |run| S::shl(bits::<S>(mask, run, 1), 2);
            [
                S::or(low[0], third(0)),
                S::or(low[1], third(1)),
                S::or(low[2], third(2)),
                S::or(low[3], third(3)),
            ]
        }
    }

    #[inline(always)]
    fn group(chunk: usize, step: usize, slot: usize) -> usize {
        group_of_runs(chunk, step, slot)
    }

    #[inline(always)]
    unsafe fn sub_scales<S: Simd>(units: *const u8, _halves: *const u8) -> SubScales<S> {
        // SAFETY: as the trait says.
        unsafe {
            let [a, b, high] = units_from::<S, 3>(units, 0);
            let offset = S::splat(0x2020_2020);
            let scale = |low: S::Int, shift: usize, run: usize| {
                let high = S::shl(bits::<S>(high, run * 2, 3), 4);
                S::sub_bytes(S::or(bits::<S>(low, shift, 15), high), offset)
            };
            SubScales {
                scales: [scale(a, 0, 0), scale(b, 0, 1), scale(a, 4, 2), scale(b, 4, 3)],
                minimums: [S::splat(0); 4],
            }
        }
    }
}

/// Eight scales and eight minimums of six bits, from the first three units.
#[inline(always)]
unsafe fn six_bit_scales<S: Simd>(units: *const u8) -> SubScales<S> {
    // SAFETY: as this function's own.
    unsafe {
        let [a, b, c] = units_from::<S, 3>(units, 0);
        let zero = S::splat(0);
        let late = |shift, high| S::or(bits::<S>(c, shift, 15), bits::<S>(high, 2, 0x30));
        SubScales {
            scales: [bits::<S>(a, 0, 63), late(0, a), zero, zero],
            minimums: [bits::<S>(b, 0, 63), late(4, b), zero, zero],
        }
    }
}

impl Packed for Q4K {
    const ENCODING: Encoding = Encoding::Q4K;
    const CHUNKS: usize = 4;
    const STEPS: usize = 8;
    const MINIMUM: bool = true;
    type Slots<S: Simd> = [S::Int; 2];

    #[inline(always)]
    unsafe fn step<S: Simd>(units: *const u8, chunk: usize, step: usize) -> [S::Int; 2] {
        // SAFETY: as the trait says.
        unsafe { nibbles::<S>(unit::<S>(units, 3 + chunk * 8 + step)) }
    }

    #[inline(always)]
    fn group(chunk: usize, step: usize, slot: usize) -> usize {
        (chunk * 2 + slot) * 8 + step
    }

    #[inline(always)]
    unsafe fn sub_scales<S: Simd>(units: *const u8, _halves: *const u8) -> SubScales<S> {
        // SAFETY: as the trait says.
        unsafe { six_bit_scales::<S>(units) }
    }
}

impl Packed for Q5K {
    const ENCODING: Encoding = Encoding::Q5K;
    const CHUNKS: usize = 4;
    const STEPS: usize = 8;
    const MINIMUM: bool = true;
    type Slots<S: Simd> = [S::Int; 2];

    #[inline(always)]
    unsafe fn step<S: Simd>(units: *const u8, chunk: usize, step: usize) -> [S::Int; 2] {
        // SAFETY: as the trait says. The fifth bit of sub-block `s` is bit `s`.
        unsafe {
            let fifths = S::shr(unit::<S>(units, 3 + step), chunk as u32 * 2);
            let [low, high] = nibbles::<S>(unit::<S>(units, 11 + chunk * 8 + step));
            [
                S::or(low, S::shl(bits::<S>(fifths, 0, 1), 4)),
                S::or(high, S::shl(bits::<S>(fifths, 1, 1), 4)),
            ]
        }
    }

    #[inline(always)]
    fn group(chunk: usize, step: usize, slot: usize) -> usize {
        Q4K::group(chunk, step, slot)
    }

    #[inline(always)]
    unsafe fn sub_scales<S: Simd>(units: *const u8, _halves: *const u8) -> SubScales<S> {
        // SAFETY: as the trait says.
        unsafe { six_bit_scales::<S>(units) }
    }
}

impl Packed for Q6K {
    const ENCODING: Encoding = Encoding::Q6K;
    const SUB: usize = 16;
    const CHUNKS: usize = 4;
    const STEPS: usize = 4;
    const OFFSET: u16 = 32;
    const SCALES_SIGNED: bool = true;
    type Slots<S: Simd> = [S::Int; 4];

    #[inline(always)]
    unsafe fn step<S: Simd>(units: *const u8, chunk: usize, step: usize) -> [S::Int; 4] {
        // SAFETY: as the trait says.
        unsafe {
            let first = 4 + (chunk * 4 + step) * 3;
            let [a, b, high] = units_from::<S, 3>(units, first);
            let [a, b] = [nibbles::<S>(a), nibbles::<S>(b)];
            // Bits 4 and 5 of each run.
            let high = [
                S::shl(bits::<S>(high, 0, 0x03), 4),
                S::shl(bits::<S>(high, 0, 0x0c), 2),
                bits::<S>(high, 0, 0x30),
                bits::<S>(high, 2, 0x30),
            ];
            [S::or(a[0], high[0]), S::or(b[0], high[1]), S::or(a[1], high[2]), S::or(b[1], high[3])]
        }
    }

    #[inline(always)]
    fn group(chunk: usize, step: usize, slot: usize) -> usize {
        group_of_runs(chunk, step, slot)
    }

    #[inline(always)]
    unsafe fn sub_scales<S: Simd>(units: *const u8, _halves: *const u8) -> SubScales<S> {
        // SAFETY: as the trait says.
        unsafe {
            let scales = units_from::<S, 4>(units, 0);
            SubScales { scales, minimums: [S::splat(0); 4] }
        }
    }
}

/// Scales `first ..` of the curved encoding, four low bits and two high ones of each, from two bit
/// strings, into bytes.
#[inline(always)]
unsafe fn curved_scales<S: Simd>(low: S::Int, high: S::Int, first: u32) -> S::Int {
    // SAFETY: as this function's own.
    unsafe {
        let mut bytes = S::splat(0);
        for index in 0..4 {
            let sub = first + index;
            let low = S::and(S::shr(low, sub * 4), S::splat(15));
            let high = S::and(S::shr(high, sub * 2), S::splat(3));
            let scale = S::or(low, S::shl(high, 4));
            bytes = S::or(bytes, S::shl(scale, index * 8));
        }
        S::sub_bytes(bytes, S::splat(0x2020_2020))
    }
}

impl Packed for Iq4Xs {
    const ENCODING: Encoding = Encoding::Iq4Xs;
    const CHUNKS: usize = 8;
    const STEPS: usize = 4;
    const SIGNED: bool = true;
    const SCALES_SIGNED: bool = true;
    type Slots<S: Simd> = [S::Int; 2];

    #[inline(always)]
    unsafe fn step<S: Simd>(units: *const u8, chunk: usize, step: usize) -> [S::Int; 2] {
        // SAFETY: as the trait says.
        unsafe {
            let [low, high] = nibbles::<S>(unit::<S>(units, 1 + chunk * 4 + step));
            [S::lookup(&CURVE, low), S::lookup(&CURVE, high)]
        }
    }

    #[inline(always)]
    fn group(chunk: usize, step: usize, slot: usize) -> usize {
        chunk * 8 + slot * 4 + step
    }

    #[inline(always)]
    unsafe fn sub_scales<S: Simd>(units: *const u8, halves: *const u8) -> SubScales<S> {
        // SAFETY: as the trait says.
        unsafe {
            let (low, high) = (unit::<S>(units, 0), S::load_u16(halves.add(HALF)));
            let [first, second] =
                [curved_scales::<S>(low, high, 0), curved_scales::<S>(low, high, 4)];
            let zero = S::splat(0);
            SubScales { scales: [first, second, zero, zero], minimums: [zero; 4] }
        }
    }
}
