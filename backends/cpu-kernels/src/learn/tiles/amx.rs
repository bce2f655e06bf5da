//! Tiles in the tile registers of AMX.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::marker::PhantomData;

use super::{BLOCK, Block, LINES, Tile};

/// Whether the processor multiplies tiles of bf16, and the system lets this process.
pub(super) fn is_permitted() -> bool {
    /// Tiles, and their products at 16 bits.
    const WANTED: u32 = 1 << 24 | 1 << 22;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & WANTED == WANTED && is_granted()
}

/// Asks for the state of tiles, which Linux gives only to processes that want it.
#[cfg(target_os = "linux")]
fn is_granted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers, and changes only what this process may do.
    let refused =
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) };
    refused == 0
}

#[cfg(not(target_os = "linux"))]
fn is_granted() -> bool {
    false
}

/// The registers of this thread, set for whole tiles until this is dropped.
pub(super) struct Tiles(PhantomData<*const ()>);

/// As `ldtilecfg` reads it.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// To be called where [`is_permitted`] alone.
    pub(super) fn set() -> Self {
        let mut shapes = Shapes {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        shapes.row_bytes[..8].fill(size_of::<[u32; LINES]>() as u16);
        shapes.rows[..8].fill(LINES as u8);
        // SAFETY: 64 bytes of a valid description; nothing else uses tile registers.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(nostack, readonly)) };
        Self(PhantomData)
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the registers are this value's.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// A block of two tiles by two: the left side's first tiles stand before its second ones, and the right
/// side's too.
///
/// # Safety
/// A [`Tiles`] of this thread lives.
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
