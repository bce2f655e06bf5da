//! What can be seen of the machine without touching a device.

use std::fs;
use std::path::Path;

/// The machine that the program runs on, as far as the system tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hardware {
    /// Board name of the device tree, such as `Raspberry Pi 5 Model B Rev 1.0`; empty where none.
    pub device_tree_model: String,
    /// Product name of the firmware tables (x86) or `hw.model` (macOS); empty where none.
    pub product_name: String,
    /// Such as `Apple M4 Pro`; empty where the system does not say.
    pub cpu_brand: String,
    /// As [`std::env::consts::OS`] has it.
    pub os: String,
    /// As [`std::env::consts::ARCH`] has it.
    pub arch: String,
    /// Memory that this process may use: the machine's, or its control group's if that is less.
    /// 0 where the system does not say.
    pub memory_bytes: u64,
    /// Cores that this process may use.
    pub cores: u32,
    /// The system's name in the network; empty where it does not say.
    pub host_name: String,
}

impl Hardware {
    /// Asks the system.
    pub fn probe() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let machine = Self {
            os: std::env::consts::OS.into(),
            arch: std::env::consts::ARCH.into(),
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            ..Self::default()
        };
        match std::env::consts::OS {
            "macos" => machine.with_sysctl(),
            _ => machine.with_linux_files(Path::new("/")),
        }
    }

    /// Reads what Linux shows as files below `root`.
    fn with_linux_files(self, root: &Path) -> Self {
        let text = |path: &str| {
            let bytes = fs::read(root.join(path)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).trim_matches(['\0', '\n', ' ']).to_owned()
        };
        let field = |file: &str, name: &str| {
            let line = file.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == name).then(|| value.trim().to_owned())
            });
            line.unwrap_or_default()
        };
        let total = field(&text("proc/meminfo"), "MemTotal");
        let kibibytes = total.trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
        let total_bytes = kibibytes.saturating_mul(1024);
        let group_bytes = text("sys/fs/cgroup/memory.max").parse::<u64>().unwrap_or(u64::MAX);
        Self {
            device_tree_model: text("proc/device-tree/model"),
            product_name: text("sys/class/dmi/id/product_name"),
            cpu_brand: field(&text("proc/cpuinfo"), "model name"),
            memory_bytes: total_bytes.min(group_bytes),
            host_name: text("proc/sys/kernel/hostname"),
            ..self
        }
    }

    /// Asks macOS' table of system values.
    fn with_sysctl(self) -> Self {
        let value = |name: &str| {
            let output = std::process::Command::new("/usr/sbin/sysctl").args(["-n", name]).output();
            let bytes = output.map(|output| output.stdout).unwrap_or_default();
            String::from_utf8_lossy(&bytes).trim().to_owned()
        };
        Self {
            product_name: value("hw.model"),
            cpu_brand: value("machdep.cpu.brand_string"),
            memory_bytes: value("hw.memsize").parse().unwrap_or(0),
            host_name: value("kern.hostname"),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_files_tell_board_memory_and_its_limit() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0");
        write("proc/meminfo", "MemTotal:       16608788 kB\nMemFree: 1 kB\n");
        write("proc/cpuinfo", "processor\t: 0\nmodel name\t: Cortex-A76\n");
        write("proc/sys/kernel/hostname", "press-3\n");
        let machine = Hardware::default().with_linux_files(root.path());
        assert_eq!(machine.device_tree_model, "Raspberry Pi 5 Model B Rev 1.0");
        assert_eq!(machine.cpu_brand, "Cortex-A76");
        assert_eq!(machine.host_name, "press-3");
        assert_eq!(machine.memory_bytes, 16_608_788 * 1024);

        write("sys/fs/cgroup/memory.max", "4294967296\n");
        assert_eq!(Hardware::default().with_linux_files(root.path()).memory_bytes, 4 << 30);
        write("sys/fs/cgroup/memory.max", "max\n");
        let unlimited = Hardware::default().with_linux_files(root.path());
        assert_eq!(unlimited.memory_bytes, 16_608_788 * 1024);
    }

    #[test]
    fn this_machine_is_seen() {
        let machine = Hardware::probe();
        assert_eq!(machine.arch, std::env::consts::ARCH);
        assert!(machine.cores >= 1);
    }
}
