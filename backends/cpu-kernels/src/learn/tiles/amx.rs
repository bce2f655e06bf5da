//! Tiles in the tile registers of AMX.

use std::arch::asm;

use super::{BLOCK, Block};
use crate::tiles::{LINES, Tile};

/// A block of two tiles by two: the left side's first tiles stand before its second ones, and the right
/// side's too.
///
/// # Safety
/// A [`Registers`](crate::tiles::Registers) of this thread lives.
pub(super) unsafe fn block(left: &[Tile], right: &[Tile], sums: &mut Block) {
    let deep = left.len() / 2;
    assert!(deep > 0 && left.len() == 2 * deep && right.len() == 2 * deep);
    let ([left, right], out) = ([left.as_ptr(), right.as_ptr()], sums.0.as_mut_ptr());
    let next = deep * size_of::<Tile>();
    // SAFETY: each side has twice `deep` tiles, and `out` four tiles of sums, two in a row.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{left} + {line}]", "tileloadd tmm6, [{right} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{left_next} + {line}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tileloadd tmm7, [{right_next} + {line}]",
            "tdpbf16ps tmm1, tmm4, tmm7", "tdpbf16ps tmm3, tmm5, tmm7",
            "add {left}, 1024", "add {left_next}, 1024",
            "add {right}, 1024", "add {right_next}, 1024",
            "dec {deep}", "jnz 2b",
            "tilestored [{out} + {row}], tmm0", "tilestored [{out} + {row} + 64], tmm1",
            "tilestored [{below} + {row}], tmm2", "tilestored [{below} + {row} + 64], tmm3",
            left = inout(reg) left => _, left_next = inout(reg) left.byte_add(next) => _,
            right = inout(reg) right => _, right_next = inout(reg) right.byte_add(next) => _,
            deep = inout(reg) deep => _, line = in(reg) 64_usize,
            out = in(reg) out, below = in(reg) out.add(LINES),
            row = in(reg) size_of::<[f32; BLOCK]>(), options(nostack),
        );
    }
}
