//! What the box says of itself: memory, warmth, power. Read where the system tells it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// From here on the box is hot, in degrees Celsius.
const HOT_C: f64 = 90.0;
/// Below this it is no longer.
const COOL_C: f64 = 80.0;
/// Sensors that are looked at.
const ZONES_MAX: usize = 64;
/// Longer words of the system are not passed on.
const MODE_BYTES_MAX: usize = 32;

/// One look at the box; what it does not tell is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Vitals {
    /// Bytes of this program in memory.
    pub(crate) used_bytes: Option<u64>,
    /// Bytes that programs may still take.
    pub(crate) available_bytes: Option<u64>,
    /// The hottest sensor.
    pub(crate) temperature_c: Option<f64>,
    /// The graphics processor's own sensor.
    pub(crate) gpu_temperature_c: Option<f64>,
    pub(crate) power_mode: Option<String>,
}

impl Vitals {
    /// Reads the system's files below `root`, which is `/` but in tests.
    pub(crate) fn read(root: &Path) -> Self {
        let zones = zones(root);
        let hottest = |zones: &mut dyn Iterator<Item = f64>| zones.reduce(f64::max);
        Self {
            used_bytes: kilobytes(&root.join("proc/self/status"), "VmRSS:"),
            available_bytes: kilobytes(&root.join("proc/meminfo"), "MemAvailable:"),
            temperature_c: hottest(&mut zones.iter().map(|(_, degrees)| *degrees)),
            gpu_temperature_c: hottest(
                &mut zones.iter().filter(|(kind, _)| kind.contains("gpu")).map(|(_, c)| *c),
            ),
            power_mode: power_mode(root),
        }
    }

    pub(crate) fn add_to(&self, state: &mut Value) {
        state["memory"] =
            json!({"used_bytes": self.used_bytes, "available_bytes": self.available_bytes});
        state["temperature_c"] = json!(self.temperature_c);
        state["gpu_temperature_c"] = json!(self.gpu_temperature_c);
        state["power_mode"] = json!(self.power_mode);
    }
}

/// Whether the box is hot, with a gap between hot and cool, so that it does not flutter.
#[derive(Debug, Default)]
pub(crate) struct Heat {
    hot: bool,
}

impl Heat {
    pub(crate) fn is_hot(&self) -> bool {
        self.hot
    }

    /// Whether the box became hot or cool.
    pub(crate) fn feel(&mut self, temperature_c: Option<f64>) -> bool {
        let Some(degrees) = temperature_c else { return false };
        let limit = if self.hot { COOL_C } else { HOT_C };
        let hot = degrees >= limit;
        std::mem::replace(&mut self.hot, hot) != hot
    }
}

fn kilobytes(path: &Path, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    number.checked_mul(1024)
}

/// What kind each sensor is, and what it says in degrees.
fn zones(root: &Path) -> Vec<(String, f64)> {
    let Ok(folder) = std::fs::read_dir(root.join("sys/class/thermal")) else {
        return Vec::new();
    };
    let zone = |path: PathBuf| {
        let name = path.file_name()?.to_str()?;
        let words = |file: &str| std::fs::read_to_string(path.join(file)).ok();
        let thousandths: f64 =
            name.starts_with("thermal_zone").then(|| words("temp"))??.trim().parse().ok()?;
        let degrees = thousandths / 1000.0;
        // A sensor that is switched off tells nonsense.
        let kind = words("type").unwrap_or_default().trim().to_lowercase();
        (-40.0..=150.0).contains(&degrees).then_some((kind, degrees))
    };
    folder.flatten().take(ZONES_MAX).filter_map(|entry| zone(entry.path())).collect()
}

/// Jetson's power mode, as `nvpmodel` keeps it.
fn power_mode(root: &Path) -> Option<String> {
    let text = std::fs::read_to_string(root.join("var/lib/nvpmodel/status")).ok()?;
    let mode = text.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || ":_-. ".contains(c);
    (!mode.is_empty() && mode.len() <= MODE_BYTES_MAX && mode.chars().all(plain))
        .then(|| mode.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    #[test]
    fn a_box_that_tells_everything_is_read() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let root = root.path();
        write(root, "proc/self/status", "Name:\tzonda\nVmRSS:\t    2048 kB\n");
        write(root, "proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    4096 kB\n");
        for (zone, kind, temp) in [
            (0, "CPU-therm\n", "61500\n"),
            (1, "GPU-therm\n", "58250\n"),
            (2, "off\n", "-256000\n"),
        ] {
            write(root, &format!("sys/class/thermal/thermal_zone{zone}/type"), kind);
            write(root, &format!("sys/class/thermal/thermal_zone{zone}/temp"), temp);
        }
        write(root, "var/lib/nvpmodel/status", "pmode:0002\n");
        let expected = Vitals {
            used_bytes: Some(2 << 20),
            available_bytes: Some(4 << 20),
            temperature_c: Some(61.5),
            gpu_temperature_c: Some(58.25),
            power_mode: Some("pmode:0002".into()),
        };
        assert_eq!(Vitals::read(root), expected);
    }

    #[test]
    fn a_box_that_tells_nothing_is_no_trouble() {
        let root = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(Vitals::read(root.path()), Vitals::default());
        write(root.path(), "proc/meminfo", "MemAvailable: lots\n");
        write(root.path(), "var/lib/nvpmodel/status", "\u{1b}[2J");
        assert_eq!(Vitals::read(root.path()), Vitals::default());
    }

    #[test]
    fn heat_does_not_flutter() {
        let mut heat = Heat::default();
        let felt: Vec<bool> = [70.0, 89.9, 90.0, 85.0, 91.0, 80.0, 79.9, 85.0]
            .map(|degrees| heat.feel(Some(degrees)))
            .to_vec();
        assert_eq!(felt, [false, false, true, false, false, false, true, false]);
        assert!(!heat.feel(None) && !heat.is_hot());
    }
}
