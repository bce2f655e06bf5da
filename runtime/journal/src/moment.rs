//! Points in time that can be compared across restarts and across jumps of the clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time by every clock that the box has.
///
/// While the box runs, the time since its boot says how much has passed, whatever happens to the
/// wall clock. Across a boot there is the wall clock alone; where it went back, nothing passed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moment {
    /// Names this run of the operating system; empty where it does not say.
    pub boot: String,
    /// Milliseconds since the boot, sleep included.
    pub uptime_ms: u64,
    /// Milliseconds since 1970 by the wall clock.
    pub wall_ms: u64,
}

impl Moment {
    /// This moment.
    pub fn now() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let uptime = read("/proc/uptime");
        let seconds = uptime.split(' ').next().and_then(|text| text.parse::<f64>().ok());
        let boot = match seconds {
            Some(_) => read("/proc/sys/kernel/random/boot_id").trim().to_owned(),
            None => String::new(),
        };
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            boot,
            uptime_ms: seconds.map_or(0, |seconds| (seconds * 1000.0) as u64),
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// How much time passed from `earlier` to here.
    pub fn since(&self, earlier: &Self) -> Duration {
        let same_boot = !self.boot.is_empty() && self.boot == earlier.boot;
        Duration::from_millis(if same_boot {
            self.uptime_ms.saturating_sub(earlier.uptime_ms)
        } else {
            self.wall_ms.saturating_sub(earlier.wall_ms)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;

    fn moment(boot: &str, uptime_ms: u64, wall_ms: u64) -> Moment {
        Moment { boot: boot.into(), uptime_ms, wall_ms }
    }

    #[test]
    fn a_clock_that_jumps_changes_nothing_while_the_box_runs() {
        let earlier = moment("a", 5_000, YEAR_MS);
        for wall_ms in [0, YEAR_MS, 2 * YEAR_MS, u64::MAX] {
            let now = moment("a", 65_000, wall_ms);
            assert_eq!(now.since(&earlier), Duration::from_secs(60), "{wall_ms}");
        }
    }

    #[test]
    fn across_a_boot_the_wall_clock_counts_and_never_backwards() {
        let earlier = moment("a", 5_000, 10_000);
        assert_eq!(moment("b", 1, 70_000).since(&earlier), Duration::from_secs(60));
        assert_eq!(moment("b", 1, 0).since(&earlier), Duration::ZERO);
        assert_eq!(moment("", 1, 70_000).since(&moment("", 9, 10_000)).as_secs(), 60);
    }

    #[test]
    fn this_moment_is_not_before_itself() {
        let (first, second) = (Moment::now(), Moment::now());
        assert!(second.since(&first) < Duration::from_secs(60));
        assert!(second.wall_ms > YEAR_MS, "{second:?}");
    }
}
