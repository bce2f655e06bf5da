//! Products of plain matrices.

use std::sync::atomic::{AtomicBool, Ordering};

use gemm::{Parallelism, gemm};

#[cfg(target_arch = "x86_64")]
use super::tiles::{self, Operand, Target, Unit};

/// How precise products are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Numbers of 32 bits.
    F32,
    /// Numbers rounded to bf16; sums of 32 bits.
    Bf16,
}

impl Precision {
    /// Whether this processor multiplies so faster than otherwise.
    pub fn is_had(self) -> bool {
        match self {
            Self::F32 => true,
            #[cfg(target_arch = "x86_64")]
            Self::Bf16 => Unit::best().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Bf16 => false,
        }
    }
}

/// Whether products of this process are of 16 bits.
static IN_HALVES: AtomicBool = AtomicBool::new(false);

/// Has all products that are asked for from now on computed so, in the whole process.
///
/// Panics: when the processor does not have it.
pub fn set_precision(precision: Precision) {
    assert!(precision.is_had(), "no products of {precision:?} on this processor");
    IN_HALVES.store(precision == Precision::Bf16, Ordering::Relaxed);
}

/// A matrix in a slice.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    /// From a row to the next, and from a column to the next.
    strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// The first `cols` of each `stride` numbers, `rows` times.
    ///
    /// Panics: when the slice is shorter.
    pub fn new(values: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(fits(values.len(), rows, cols, stride), "no {rows} rows of {cols} in a slice");
        Self { values, rows, cols, strides: [stride, 1] }
    }

    /// All of a slice, in rows of `cols`.
    ///
    /// Panics: when a row is not whole.
    pub fn whole(values: &'a [f32], cols: usize) -> Self {
        assert!(values.len().is_multiple_of(cols), "{} numbers in rows of {cols}", values.len());
        Self::new(values, values.len() / cols, cols, cols)
    }

    /// With rows for columns.
    #[must_use]
    pub fn transposed(self) -> Self {
        let ([row, col], Self { values, rows, cols, .. }) = (self.strides, self);
        Self { values, rows: cols, cols: rows, strides: [col, row] }
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn lines(&self) -> Operand<'a> {
        let Self { values, rows, cols, strides } = *self;
        Operand { values, lines: rows, depth: cols, strides }
    }

    /// Its own rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// `out (+)= factor · self · other`, with rows of `out` `stride` apart.
    ///
    /// Panics: when the shapes do not match, or `out` is too short.
    pub fn multiply(self, other: Self, factor: f32, adds: bool, out: &mut [f32], stride: usize) {
        assert!(fits(out.len(), self.rows, other.cols, stride), "a product of another shape");
        // SAFETY: `out` is as long as the product, and nobody else has it.
        unsafe { self.multiply_to(other, factor, adds, out.as_mut_ptr(), stride) }
    }

    /// # Safety
    /// The rows of the product, `stride` apart, may be written from `out` on, and read where it is added to.
    unsafe fn multiply_to(
        self,
        other: Self,
        factor: f32,
        adds: bool,
        out: *mut f32,
        stride: usize,
    ) {
        assert_eq!(self.cols, other.rows, "the one has other columns than the other has rows");
        #[cfg(target_arch = "x86_64")]
        let in_halves = IN_HALVES.load(Ordering::Relaxed) && self.cols > 0;
        #[cfg(target_arch = "x86_64")]
        if let Some(unit) = Unit::best().filter(|_| in_halves) {
            let target = Target { out, stride, factor, adds };
            // SAFETY: the unit is this machine's; of `out` the caller says it.
            return unsafe {
                tiles::multiply(unit, self.lines(), other.transposed().lines(), &target)
            };
        }
        let strides = |matrix: &Self| matrix.strides.map(usize::cast_signed);
        let ([row, col], [other_row, other_col]) = (strides(&self), strides(&other));
        let (left, right) = (self.values.as_ptr(), other.values.as_ptr());
        let (rows, cols, depth) = (self.rows, other.cols, self.cols);
        let (stride, one) = (stride.cast_signed(), Parallelism::None);
        // SAFETY: both matrices are inside their slices by construction; of `out` the caller says it.
        unsafe {
            gemm(
                rows, cols, depth, out, 1, stride, adds, left, col, row, right, other_col,
                other_row, 1.0, factor, false, false, false, one,
            );
        }
    }
}

/// Whether a slice has so many rows of `cols`, `stride` apart, none of which is part of another.
fn fits(length: usize, rows: usize, cols: usize, stride: usize) -> bool {
    let last = rows.saturating_sub(1).checked_mul(stride);
    let end = last.and_then(|last| last.checked_add(cols));
    (rows <= 1 || cols <= stride) && end.is_some_and(|end| rows == 0 || end <= length)
}

/// The products of `x` with each matrix's transpose, behind each other in each row.
///
/// Shapes: `x: [tokens, cols]`, `matrices`: each `[rows, cols]` → `[tokens, rows of all]`.
/// Panics: when the widths differ, or are nothing.
pub fn products(x: Matrix<'_>, matrices: &[Matrix<'_>]) -> Vec<f32> {
    assert!(x.cols > 0, "products of nothing");
    let width: usize = matrices.iter().map(|matrix| matrix.rows).sum();
    let length = x.rows * width;
    let mut out = Vec::<f32>::with_capacity(length);
    let mut first = 0;
    for matrix in matrices {
        // SAFETY: these columns are inside what was reserved; they are written, not read.
        unsafe {
            let columns = out.as_mut_ptr().add(first);
            x.multiply_to(matrix.transposed(), 1.0, false, columns, width);
        }
        first += matrix.rows;
    }
    // SAFETY: every column of every row was written, by the matrix that it belongs to.
    unsafe { out.set_len(length) };
    out
}
