//! The heads of rows: the greatest numbers, and how much the others weigh.

use std::ops::Range;

use burn::backend::Dispatch;
use burn::tensor::{Int, Tensor, TensorData};

use crate::FusedOps;

/// Numbers that a row's head has room for.
pub(crate) const LIKELIEST_MAX: usize = 256;

/// Every so many-th number is one of a lane, and the greatest of half of the lanes are in the head.
pub(crate) const LIKELIEST_LANES: usize = 256;

/// Words of a row's head.
pub const LIKELIEST_WORDS: usize = 2 + 2 * LIKELIEST_MAX;

/// Numbers of a [`Weighing`].
pub(crate) const WEIGHING_NUMBERS: usize = 3;

/// How what is beside the likeliest of a row is weighed.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighing {
    /// What numbers are divided by; above 0.
    pub temperature: f32,
    /// Which indices count.
    pub counted: Range<u32>,
}

/// The greatest numbers of a row: each that reaches the 128th of the 256 greatest of every 256th.
#[derive(Debug, Clone, PartialEq)]
pub struct Likeliest {
    /// Indices and numbers, in any order.
    pub tokens: Vec<(u32, f32)>,
    /// The sum of `exp((number - greatest) / temperature)` over the others that count.
    pub rest: f32,
}

/// The greatest numbers of each row and the weight of the others, as [`Likeliest::read`] takes them.
///
/// Shapes: `logits: [rows, width]`, `weighing: [rows]` → `[rows, LIKELIEST_WORDS]` of type I32.
/// Panics: on other numbers of rows, and on a width beyond 2^24.
pub fn likeliest(logits: Tensor<2>, weighing: &[Weighing]) -> Tensor<2, Int> {
    let [rows, width] = logits.dims();
    assert_eq!(rows, weighing.len(), "each row is weighed");
    assert!(width <= 1 << f32::MANTISSA_DIGITS, "{width} indices are exact as floats");
    let numbers = weighing.iter().flat_map(|Weighing { temperature, counted }| {
        [*temperature, counted.start as f32, counted.end.min(width as u32) as f32]
    });
    let numbers = TensorData::new(numbers.collect::<Vec<f32>>(), [rows, WEIGHING_NUMBERS]);
    let weighing = Tensor::<2>::from_data(numbers, &logits.device());
    Tensor::from_dispatch(<Dispatch as FusedOps>::likeliest(
        logits.into_dispatch(),
        weighing.into_dispatch(),
    ))
}

impl Likeliest {
    /// Reads a row of [`likeliest`]; `None` where more numbers are equal than it has room for,
    /// or one is not finite.
    ///
    /// Panics: on another number of words.
    pub fn read(words: &[i32]) -> Option<Self> {
        assert_eq!(words.len(), LIKELIEST_WORDS, "words of a row");
        let ([count, rest], lists) = words.split_first_chunk().expect("two words");
        let (indices, numbers) = lists.split_at(LIKELIEST_MAX);
        let count = usize::try_from(*count).ok().filter(|count| *count <= LIKELIEST_MAX)?;
        let number = |bits: i32| f32::from_bits(bits.cast_unsigned());
        let tokens = indices.iter().zip(numbers).take(count);
        let tokens = tokens.map(|(index, bits)| (index.cast_unsigned(), number(*bits))).collect();
        Some(Self { tokens, rest: number(*rest) })
    }
}
