//! Products of plain matrices at 16 bits: numbers are rounded to bf16, their products are summed in f32.
//!
//! Both operands are packed into tiles of 16 lines by 32 numbers, as the tile registers of AMX hold them.
//! Where there are none, vectors of AVX-512 BF16 multiply the same tiles.

mod amx;
mod avx512;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::OnceLock;

use crate::tiles::{LINES, Registers, Tile, has_amx};

/// Numbers of a tile's line.
const DEPTH: usize = 32;
/// Lines of a block of a product: two tiles.
const BLOCK: usize = 2 * LINES;

/// Sums of a block of a product.
#[repr(C, align(64))]
struct Block([[f32; BLOCK]; BLOCK]);

/// How tiles are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Amx,
    Avx512,
}

impl Unit {
    /// Every kind that this machine has, the best one first.
    pub(super) fn available() -> Vec<Self> {
        let packs = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16");
        let amx = (packs && has_amx()).then_some(Self::Amx);
        amx.into_iter().chain(packs.then_some(Self::Avx512)).collect()
    }

    /// The best kind that this machine has.
    pub(super) fn best() -> Option<Self> {
        static BEST: OnceLock<Option<Unit>> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().first().copied())
    }
}

/// One side of a product: lines of so many numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand<'a> {
    pub(super) values: &'a [f32],
    pub(super) lines: usize,
    pub(super) depth: usize,
    /// From a line to the next, and from a number to the next: one of them is 1.
    pub(super) strides: [usize; 2],
}

impl Operand<'_> {
    /// Tiles of all lines, and of their depth.
    fn tiles(&self) -> [usize; 2] {
        [self.lines.div_ceil(LINES), self.depth.div_ceil(DEPTH)]
    }

    /// Where a tile begins, and how many lines and numbers of each it has.
    fn part(&self, line: usize, depth: usize) -> (&[f32], [usize; 2]) {
        let (first, [line_stride, stride]) = ([line * LINES, depth * DEPTH], self.strides);
        let size = [LINES.min(self.lines - first[0]), DEPTH.min(self.depth - first[1])];
        (&self.values[first[0] * line_stride + first[1] * stride..], size)
    }
}

/// Which side of a product a tile is for: left ones have a line's numbers side by side, right ones have
/// the same pair of all lines side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// Where a product goes.
pub(super) struct Target {
    /// From which on rows may be written, and read where they are added to.
    pub(super) out: *mut f32,
    pub(super) stride: usize,
    pub(super) factor: f32,
    pub(super) adds: bool,
}

thread_local! {
    /// Tiles of both sides: as many as the largest product so far has, half the size of its operands.
    static TILES: RefCell<[Vec<Tile>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// `out (+)= factor · left · rightᵀ`
///
/// # Safety
/// The machine has the unit. `target.out` has a row of `right.lines` for each of `left`'s, as far apart as
/// it says.
pub(super) unsafe fn multiply(unit: Unit, left: Operand<'_>, right: Operand<'_>, target: &Target) {
    debug_assert!(left.depth == right.depth);
    TILES.with_borrow_mut(|[left_tiles, right_tiles]| {
        let sides = [(&left, Side::Left, &mut *left_tiles), (&right, Side::Right, right_tiles)];
        for (operand, side, tiles) in sides {
            let [high, deep] = operand.tiles();
            // Blocks are two tiles high and two wide.
            grow(tiles, high.next_multiple_of(2) * deep);
            // SAFETY: every unit comes with what packs.
            unsafe { avx512::pack(operand, side, tiles) };
        }
        let _registers = (unit == Unit::Amx).then(Registers::set);
        let mut sums = Block([[0.0; BLOCK]; BLOCK]);
        let deep = 2 * left.tiles()[1];
        for (rows, left_tiles) in blocks(left.lines).zip(left_tiles.chunks(deep)) {
            for (cols, right_tiles) in blocks(right.lines).zip(right_tiles.chunks(deep)) {
                // SAFETY: the machine has the unit, and rows and columns are those of the product.
                unsafe {
                    match unit {
                        Unit::Amx => amx::block(left_tiles, right_tiles, &mut sums),
                        Unit::Avx512 => avx512::block(left_tiles, right_tiles, &mut sums),
                    }
                    avx512::write(&sums, &rows, &cols, target);
                }
            }
        }
    });
}

fn blocks(lines: usize) -> impl Iterator<Item = Range<usize>> {
    (0..lines).step_by(BLOCK).map(move |first| first..lines.min(first + BLOCK))
}

/// Makes room for tiles. Those that nothing is packed into keep what they have: it is in lines that nobody reads.
fn grow(tiles: &mut Vec<Tile>, count: usize) {
    if tiles.len() < count {
        tiles.resize(count, Tile::ZERO);
    }
}
