//! The program: assembles the line of rooms from a profile and runs it.
//!
//! It is a library too, because `libzonda` puts the same rooms behind a C ABI. Policy lives here
//! (which rooms, in which order, with which limits), mechanics do not: a room that needs more than
//! a few lines of care gets its own crate.
#![forbid(unsafe_code)]

mod approve;
mod assemble;
mod bench;
mod buckets;
mod classifying;
mod cli;
mod demo;
mod detecting;
mod devices;
mod doctor;
mod embedding;
mod encode;
mod error;
mod filtered;
mod foreign;
mod guard;
mod held;
mod inspect;
mod judging;
mod key;
mod lines;
mod logits;
mod model_files;
mod networks;
mod plugins;
mod prepare;
mod progress;
mod quotas;
mod relay;
mod reporting;
mod request_log;
mod reviving;
mod routing;
mod run;
mod sensing;
mod serve;
mod single;
mod tool_loop;
mod verbs;
mod verify;
mod watch;

pub use assemble::{House, load_profile};
pub use devices::{DeviceSummary, devices};
pub use error::{AssembleError, AssembleKind};
pub use firmware_config::{Loaded, Override};
pub use model_files::ModelFiles;
pub use verbs::run;

/// The version that the program and the library state.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Seconds since 1970.
fn unix_now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}
