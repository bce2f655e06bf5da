//! Floats of 16 bits, by arithmetic on integers: not every device has them.

use cubecl::prelude::*;

/// The IEEE half in the low 16 bits. Exact for all but infinities and what is no number.
#[cube]
pub(crate) fn half_to_float(bits: u32) -> f32 {
    let magnitude = bits & 0x7fff;
    let normal = (magnitude << 13) + 0x3800_0000;
    // Below the least normal half, a whole number of 2^-24.
    let small = f32::cast_from(magnitude) * 5.960_464_5e-8f32;
    let positive = select(magnitude < 0x400, u32::reinterpret(small), normal);
    f32::reinterpret(positive | ((bits & 0x8000) << 16))
}
