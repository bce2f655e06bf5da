//! What this machine can do at most, to compare with: products of 8-bit integers, and bytes read.

use std::time::{Duration, Instant};

use crate::simd::{self, Isa, Simd, Work};
use crate::threads;

/// Sums that are independent of each other: more than any machine has products in flight.
const CHAINS: usize = 12;
/// How long one measurement takes.
const SHORT: Duration = Duration::from_millis(60);

/// Operations per second, a product and a sum being two, of 8-bit integers in registers, on all
/// threads of the pool together.
pub fn int8_peak() -> f64 {
    let isa = Isa::best();
    let count = threads::count();
    let rates: Vec<std::sync::Mutex<f64>> = (0..count).map(|_| 0.0.into()).collect();
    threads::for_each(count, |index| {
        let mut rate = 0.0;
        // SAFETY: the best kind is one that the machine is.
        unsafe { simd::run(isa, Products { rate: &mut rate }) }
        #[cfg(target_arch = "x86_64")]
        if crate::tiles::has_amx() {
            rate = rate.max(in_tiles());
        }
        if let Ok(mut place) = rates[index].lock() {
            *place = rate;
        }
    });
    rates.into_iter().map(|rate| rate.into_inner().unwrap_or(0.0)).sum()
}

/// The same of one thread's tiles.
#[cfg(target_arch = "x86_64")]
fn in_tiles() -> f64 {
    use crate::tiles::{LINES, Registers};
    const ROUNDS: usize = 10_000;
    let registers = Registers::set();
    let began = Instant::now();
    let mut rounds = 0;
    while began.elapsed() < SHORT {
        registers.multiply_bytes(ROUNDS);
        rounds += ROUNDS;
    }
    let operations = rounds * Registers::PRODUCTS * LINES * LINES * 4 * LINES * 2;
    operations as f64 / began.elapsed().as_secs_f64()
}

struct Products<'a> {
    rate: &'a mut f64,
}

impl Work for Products<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        const ROUNDS: usize = 20_000;
        let weights = [3u8; 64];
        let activations = std::hint::black_box([1i8, -2, 3, -4]);
        // SAFETY: as the trait says; 64 bytes are a vector at least.
        unsafe {
            let weights = S::load(std::hint::black_box(weights.as_ptr()));
            let mut sums = [S::splat(0); CHAINS];
            let began = Instant::now();
            let mut rounds = 0;
            while began.elapsed() < SHORT {
                for _ in 0..ROUNDS {
                    for sum in &mut sums {
                        *sum = S::dot_unsigned(*sum, weights, activations.as_ptr());
                    }
                }
                rounds += ROUNDS;
            }
            let seconds = began.elapsed().as_secs_f64();
            // The sums are used, so that the products cannot be left out.
            let mut bytes = [0u8; 64];
            for sum in sums {
                S::store(bytes.as_mut_ptr(), sum);
                std::hint::black_box(&bytes);
            }
            *self.rate = (rounds * CHAINS * S::LANES * 4 * 2) as f64 / seconds;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_a_number_of_this_world() {
        let peak = int8_peak();
        assert!(peak > 1e8 && peak < 1e15, "{peak:e}");
    }
}
