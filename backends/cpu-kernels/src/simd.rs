//! Vectors of 32-bit lanes, one implementation for each kind of machine.
//!
//! A kernel is written once, generic over [`Simd`], and compiled for every kind of machine behind
//! [`run`], which is the only place where features of the machine are switched on. All functions
//! of the trait are unsafe for one reason, stated here once: they compile to instructions that the
//! machine must have. [`run`] asks it. Those that take a pointer read or write as many bytes as
//! they say from wherever it points, aligned or not.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use std::sync::OnceLock;

/// The lanes of one kind of machine.
pub(crate) trait Simd: Copy + 'static {
    /// 32-bit lanes of a vector; divides 16.
    const LANES: usize;
    /// Vectors that the machine holds at once.
    const REGISTERS: usize;
    /// What [`dot_signed`](Self::dot_signed) adds to every weight, for the caller to take away
    /// again by the sum of the activations.
    const SIGNED_OFFSET: i32;
    /// Whether eight columns of a token stand together where a stage is multiplied with them.
    const PAIRED: bool = false;
    /// `LANES` signed integers, or `4 * LANES` bytes.
    type Int: Copy;
    /// `LANES` floats.
    type Float: Copy;

    /// Reads `4 * LANES` bytes.
    unsafe fn load(from: *const u8) -> Self::Int;
    /// Writes `4 * LANES` bytes.
    unsafe fn store(to: *mut u8, v: Self::Int);
    /// Reads `LANES` signed bytes, each into a lane.
    unsafe fn load_i8(from: *const i8) -> Self::Int;
    /// Reads `LANES` 16-bit integers without a sign, each into a lane.
    unsafe fn load_u16(from: *const u8) -> Self::Int;
    /// The same number in every lane.
    unsafe fn splat(value: i32) -> Self::Int;
    /// Bitwise and.
    unsafe fn and(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Bitwise or.
    unsafe fn or(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Each lane shifted right by less than 32, zeros behind.
    unsafe fn shr(v: Self::Int, bits: u32) -> Self::Int;
    /// Each lane shifted left by less than 32.
    unsafe fn shl(v: Self::Int, bits: u32) -> Self::Int;
    /// Each lane shifted right by less than 32, its sign behind.
    unsafe fn sar(v: Self::Int, bits: u32) -> Self::Int;
    /// Sum of lanes.
    unsafe fn add(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Difference of bytes.
    unsafe fn sub_bytes(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Makes compilers compute a value before what stands behind in the program, and read memory
    /// behind only afterwards. Left alone, they read operands of a whole block ahead, more than
    /// there are registers, and multiply from what they have spilled.
    #[inline(always)]
    unsafe fn hold(_v: &mut Self::Int) {}
    /// Tells the processor that a line will be read soon. Every address is right.
    #[inline(always)]
    unsafe fn prefetch(_line: *const u8) {}
    /// `sum + a * b` by lanes.
    unsafe fn mul_add(sum: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int;
    /// Adds to each lane the products of its four weights, each 0 to 127, with four activations
    /// `x`, each −127 to 127, which are the same for all lanes.
    unsafe fn dot_unsigned(sum: Self::Int, weights: Self::Int, x: *const i8) -> Self::Int;
    /// The same for weights from −127 to 127, to each of which [`SIGNED_OFFSET`] is added.
    ///
    /// [`SIGNED_OFFSET`]: Self::SIGNED_OFFSET
    unsafe fn dot_signed(sum: Self::Int, weights: Self::Int, x: *const i8) -> Self::Int;
    /// Adds to each token's sums the products of `weights` with its four activations, which stand in
    /// `x` side by side; sums are held, so that each operand is read when its turn comes.
    #[inline(always)]
    unsafe fn dot_tile<const T: usize>(
        sums: &mut [Self::Int; T],
        weights: Self::Int,
        is_signed: bool,
        x: *const i8,
    ) {
        for (t, sum) in sums.iter_mut().enumerate() {
            // SAFETY: as this function's own; `x` is `[T][4]`.
            unsafe {
                let x = x.add(t * 4);
                *sum = if is_signed {
                    Self::dot_signed(*sum, weights, x)
                } else {
                    Self::dot_unsigned(*sum, weights, x)
                };
                Self::hold(sum);
            }
        }
    }
    /// Brings two operands of a stage, which are of four columns and the next four, into the order in
    /// which [`dot_tile_pair`](Self::dot_tile_pair) wants them.
    #[inline(always)]
    unsafe fn pair(_operands: [*mut u8; 2]) {}
    /// [`dot_tile`](Self::dot_tile) for two operands that were [paired](Self::pair), with activations
    /// `[2][T][4]`, or `[T][2][4]` where [`PAIRED`](Self::PAIRED). Sums are in an order of the machine's own
    /// until they are [settled](Self::settle).
    #[inline(always)]
    unsafe fn dot_tile_pair<const T: usize>(
        sums: &mut [Self::Int; T],
        operands: [*const u8; 2],
        is_signed: bool,
        x: *const i8,
    ) {
        for (half, operand) in operands.into_iter().enumerate() {
            // SAFETY: as this function's own.
            unsafe {
                Self::dot_tile::<T>(sums, Self::load(operand), is_signed, x.add(half * T * 4));
            }
        }
    }
    /// Brings sums that only [`dot_tile_pair`](Self::dot_tile_pair) has added to into lanes by token.
    #[inline(always)]
    unsafe fn settle<const T: usize>(_sums: &mut [Self::Int; T]) {}
    /// Adds to each lane the products of its two 16-bit halves with two others, which are the same
    /// for all lanes.
    unsafe fn dot_pairs(sum: Self::Int, a: Self::Int, b: i32) -> Self::Int;
    /// Bytes 0 and 2 of each lane as 16-bit halves, with their sign.
    unsafe fn even_i8(v: Self::Int) -> Self::Int;
    /// Bytes 1 and 3 of each lane as 16-bit halves, with their sign.
    unsafe fn odd_i8(v: Self::Int) -> Self::Int;
    /// For each byte, 0 to 15, its entry.
    unsafe fn lookup(table: &[i8; 16], bytes: Self::Int) -> Self::Int;
    /// Each lane as a float.
    unsafe fn to_float(v: Self::Int) -> Self::Float;
    /// Each lane's bits as those of a float.
    unsafe fn as_float(v: Self::Int) -> Self::Float;
    /// Each lane rounded to the nearest integer, the even one of two; it must fit.
    unsafe fn round(v: Self::Float) -> Self::Int;

    /// Reads `LANES` floats.
    unsafe fn load_f32(from: *const f32) -> Self::Float;
    /// Writes `LANES` floats.
    unsafe fn store_f32(to: *mut f32, v: Self::Float);
    /// Reads `LANES` 16-bit floats.
    unsafe fn load_f16(from: *const u8) -> Self::Float;
    /// Reads `LANES` upper halves of floats.
    unsafe fn load_bf16(from: *const u8) -> Self::Float;
    /// The same float in every lane.
    unsafe fn splat_f32(value: f32) -> Self::Float;
    /// Sum of lanes.
    unsafe fn add_f32(a: Self::Float, b: Self::Float) -> Self::Float;
    /// Difference of lanes.
    unsafe fn sub_f32(a: Self::Float, b: Self::Float) -> Self::Float;
    /// Product of lanes.
    unsafe fn mul_f32(a: Self::Float, b: Self::Float) -> Self::Float;
    /// Quotient of lanes.
    unsafe fn div_f32(a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a * b + c`, rounded once where the machine can.
    unsafe fn fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// The greater of each two lanes, that of `b` where they do not compare.
    unsafe fn max_f32(a: Self::Float, b: Self::Float) -> Self::Float;
    /// The smaller of each two lanes, that of `b` where they do not compare.
    unsafe fn min_f32(a: Self::Float, b: Self::Float) -> Self::Float;
    /// Sum over the lanes.
    unsafe fn sum_f32(v: Self::Float) -> f32;
    /// The greatest of the lanes.
    unsafe fn greatest_f32(v: Self::Float) -> f32;

    /// e to the power of each lane, with a relative error below 3e-7; that of −87.3 below and of
    /// 88 above.
    ///
    /// By the nearest power of two, and a polynomial for the rest.
    /// Source: Cephes `expf`, coefficients by Moshier 1992.
    #[inline(always)]
    unsafe fn exp(v: Self::Float) -> Self::Float {
        // SAFETY: as this function's own.
        unsafe {
            let v = Self::max_f32(Self::splat_f32(-87.3), v);
            let v = Self::min_f32(Self::splat_f32(88.0), v);
            let power = Self::round(Self::mul_f32(v, Self::splat_f32(std::f32::consts::LOG2_E)));
            let whole = Self::to_float(power);
            // ln 2 in two parts, so that their product with `whole` keeps its low bits.
            let rest = Self::fma(whole, Self::splat_f32(-0.693_359_4), v);
            let rest = Self::fma(whole, Self::splat_f32(2.121_944_4e-4), rest);
            let mut series = Self::splat_f32(1.987_569_2e-4);
            for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
                series = Self::fma(series, rest, Self::splat_f32(coefficient));
            }
            let square = Self::mul_f32(rest, rest);
            let series = Self::fma(series, square, rest);
            let scale = Self::shl(Self::add(power, Self::splat(127)), 23);
            let scale = Self::as_float(scale);
            Self::fma(series, scale, scale)
        }
    }
}

/// A kind of machine that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// No vectors beyond those that the compiler finds.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// x86-64 with AVX2 and AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// x86-64 with AVX-512 and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Arm with NEON and the dot product.
    #[cfg(target_arch = "aarch64")]
    Dotprod,
    /// The same with products of matrices of bytes.
    #[cfg(target_arch = "aarch64")]
    I8mm,
}

impl Isa {
    /// Every kind that this machine is, the best one last.
    pub fn available() -> Vec<Self> {
        let mut found = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if avx2 {
                found.push(Self::Avx2);
            }
            if avx2 && is_x86_feature_detected!("avxvnni") {
                found.push(Self::AvxVnni);
            }
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                found.push(Self::Avx512);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            found.push(Self::Dotprod);
            if std::arch::is_aarch64_feature_detected!("i8mm") {
                found.push(Self::I8mm);
            }
        }
        found
    }

    /// The best kind that this machine is.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| *Self::available().last().unwrap_or(&Self::Portable))
    }

    /// [`Simd::SIGNED_OFFSET`] of this kind.
    pub(crate) fn signed_offset(self) -> u16 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::AvxVnni => 128,
            _ => 0,
        }
    }

    /// For logs and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512-vnni",
            #[cfg(target_arch = "aarch64")]
            Self::Dotprod => "neon-dotprod",
            #[cfg(target_arch = "aarch64")]
            Self::I8mm => "neon-i8mm",
        }
    }
}

/// Whether the processor reads a long run of memory faster when it is told what comes. Intel's do, by a sixth
/// and more. AMD's are slower then, in all ways of telling that were tried; of Arm nothing is known.
#[inline(always)]
pub(crate) fn reads_as_told() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        static IS_TOLD: OnceLock<bool> = OnceLock::new();
        *IS_TOLD.get_or_init(|| {
            let maker = std::arch::x86_64::__cpuid(0);
            [maker.ebx, maker.edx, maker.ecx].map(u32::to_le_bytes).as_flattened()
                == b"GenuineIntel"
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Work that is compiled once for each kind of machine.
pub(crate) trait Work {
    /// Does it. To be `#[inline(always)]`, with everything it calls, or it is compiled without
    /// the features of the machine.
    ///
    /// # Safety
    /// The machine has the instructions of `S`, and the work's own conditions hold.
    unsafe fn run<S: Simd>(self);
}

/// Does the work with the instructions of `isa`.
///
/// # Safety
/// `isa` is one of [`Isa::available`], and the work's own conditions hold.
pub(crate) unsafe fn run<W: Work>(isa: Isa, work: W) {
    // SAFETY: the caller has said that the machine is of this kind.
    unsafe {
        match isa {
            Isa::Portable => work.run::<portable::Portable>(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => with_avx2(work),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => with_avx_vnni(work),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => with_avx512(work),
            #[cfg(target_arch = "aarch64")]
            Isa::Dotprod => with_dotprod(work),
            #[cfg(target_arch = "aarch64")]
            Isa::I8mm => with_i8mm(work),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn with_avx2<W: Work>(work: W) {
    // SAFETY: the features are those of this function.
    unsafe { work.run::<avx2::Avx2<false>>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn with_avx_vnni<W: Work>(work: W) {
    // SAFETY: the features are those of this function.
    unsafe { work.run::<avx2::Avx2<true>>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn with_avx512<W: Work>(work: W) {
    // SAFETY: the features are those of this function.
    unsafe { work.run::<avx512::Avx512>() }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
unsafe fn with_dotprod<W: Work>(work: W) {
    // SAFETY: the features are those of this function.
    unsafe { work.run::<neon::Neon<false>>() }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod,i8mm")]
unsafe fn with_i8mm<W: Work>(work: W) {
    // SAFETY: the features are those of this function.
    unsafe { work.run::<neon::Neon<true>>() }
}

#[cfg(test)]
mod tests;
