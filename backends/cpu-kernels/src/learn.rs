//! What training needs: operations on plain matrices, and their slopes.
//!
//! Everything here runs on the thread that calls it: who trains has parts of a step for its threads. What is
//! computed is defined by the operations in `fused-ops` that Burn differentiates; these are the same with
//! fewer passes over memory.

mod attention;
mod product;
mod rows;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiles;

pub use attention::{Attended, StepAttention};
pub use product::{Matrix, Precision, products, set_precision};
pub use rows::{
    Likelihoods, Normed, Wanted, gate, gate_slopes, log_likelihoods, log_likelihoods_slopes, norm,
    norm_slopes,
};
