//! Tiles of one kilobyte, which AMX multiplies as a whole.

use std::arch::asm;
use std::arch::x86_64::{
    __cpuid, __cpuid_count, __m512i, _mm512_load_si512, _mm512_setzero_si512, _mm512_shuffle_i32x4,
    _mm512_store_si512, _mm512_unpackhi_epi32 as unpackhi, _mm512_unpackhi_epi64 as unpackhi_pairs,
    _mm512_unpacklo_epi32 as unpacklo, _mm512_unpacklo_epi64 as unpacklo_pairs,
};
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Lines of a tile, and units of four bytes of each.
pub(crate) const LINES: usize = 16;

/// Lines of units: four numbers of 8 bits or two of 16.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Tile(pub(crate) [[u32; LINES]; LINES]);

impl Tile {
    pub(crate) const ZERO: Self = Self([[0; LINES]; LINES]);
}

/// Whether the processor multiplies tiles of bytes and of bf16, and the system lets this process.
pub(crate) fn has_amx() -> bool {
    /// Tiles, and their products at 8 and at 16 bits.
    const WANTED: u32 = 1 << 25 | 1 << 24 | 1 << 22;
    static HAS: OnceLock<bool> = OnceLock::new();
    let is_had = || __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & WANTED == WANTED;
    *HAS.get_or_init(|| is_had() && is_granted())
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
pub(crate) struct Registers(PhantomData<*const ()>);

/// As `ldtilecfg` reads it.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Registers {
    /// To be called where [`has_amx`] alone.
    pub(crate) fn set() -> Self {
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

impl Registers {
    /// Products of a round of [`multiply_bytes`](Self::multiply_bytes).
    pub(crate) const PRODUCTS: usize = 4;

    /// Multiplies tiles of zeros, by which the processor's rate is measured.
    pub(crate) fn multiply_bytes(&self, rounds: usize) {
        if rounds == 0 {
            return;
        }
        // SAFETY: the registers are this value's.
        unsafe {
            asm!(
                "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7", "2:",
                "tdpbssd tmm0, tmm4, tmm6", "tdpbssd tmm1, tmm4, tmm7",
                "tdpbssd tmm2, tmm5, tmm6", "tdpbssd tmm3, tmm5, tmm7", "dec {rounds}", "jnz 2b",
                rounds = inout(reg) rounds => _, options(nostack, nomem),
            );
        }
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: the registers are this value's.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Rows for columns.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn turn(tile: &mut Tile) {
    let mut rows = [_mm512_setzero_si512(); LINES];
    for (row, values) in rows.iter_mut().zip(&tile.0) {
        // SAFETY: a row of a tile is 64 bytes, and aligned.
        *row = unsafe { _mm512_load_si512(values.as_ptr().cast()) };
    }
    let (mut twos, mut fours, mut halves) = (rows, rows, rows);
    // Pairs of rows, then fours: within each quarter of a vector they are turned.
    for (at, two) in twos.iter_mut().enumerate() {
        let (one, other) = (rows[at & !1], rows[at | 1]);
        let is_low = at & 1 == 0;
        *two = if is_low { unpacklo(one, other) } else { unpackhi(one, other) };
    }
    for (at, four) in fours.iter_mut().enumerate() {
        let from = at & !3 | at >> 1 & 1;
        let (one, other) = (twos[from], twos[from | 2]);
        let is_low = at & 1 == 0;
        *four = if is_low { unpacklo_pairs(one, other) } else { unpackhi_pairs(one, other) };
    }
    // Then quarters: of two vectors, and of four.
    for (at, half) in halves.iter_mut().enumerate() {
        let from = at & !4;
        *half = quarters(fours[from], fours[from | 4], at & 4 != 0);
    }
    for (at, row) in tile.0.iter_mut().enumerate() {
        let from = at & !8;
        let whole = quarters(halves[from], halves[from | 8], at & 8 != 0);
        // SAFETY: a row of a tile is 64 bytes, and aligned.
        unsafe { _mm512_store_si512(row.as_mut_ptr().cast(), whole) };
    }
}

/// The even quarters of both, or the odd ones.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarters(one: __m512i, other: __m512i, odd: bool) -> __m512i {
    match odd {
        false => _mm512_shuffle_i32x4::<0x88>(one, other),
        true => _mm512_shuffle_i32x4::<0xdd>(one, other),
    }
}
