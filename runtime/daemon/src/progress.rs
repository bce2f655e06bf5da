//! A progress bar on standard error, for people only.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Draws the share that is done, at most ten times a second; draws nothing where nobody looks.
pub(crate) fn bar(what: &'static str) -> impl FnMut(f32) {
    let mut stderr = std::io::stderr();
    let watched = stderr.is_terminal();
    let began = Instant::now();
    let mut drawn: Option<Instant> = None;
    move |share| {
        let due = drawn.is_none_or(|at| at.elapsed() >= Duration::from_millis(100));
        if !watched || (!due && share < 1.0) {
            return;
        }
        drawn = Some(Instant::now());
        let filled = (share.clamp(0.0, 1.0) * 30.0) as usize;
        let end = if share >= 1.0 { "\n" } else { "" };
        // A terminal that went away is no reason to stop loading.
        let _drawn = write!(
            stderr,
            "\r{what} [{}{}] {:3.0} % {:.1} s{end}",
            "#".repeat(filled),
            "-".repeat(30 - filled),
            share * 100.0,
            began.elapsed().as_secs_f32()
        );
        let _flushed = stderr.flush();
    }
}
