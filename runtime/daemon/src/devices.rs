//! `zonda devices`: what can compute on this box with this build.

use std::io::Write;

use serde_json::json;

use crate::error::AssembleError;

/// One device.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceSummary {
    /// What to pass as backend, such as `flex`.
    pub id: String,
    /// Its own name.
    pub name: String,
    /// Whether `auto` may choose it: software drivers of GPUs are not chosen.
    pub automatic: bool,
    /// Bytes of memory, where the system says so.
    pub memory_total_bytes: Option<u64>,
    /// Bytes of it that are free now.
    pub memory_free_bytes: Option<u64>,
}

/// Every device that a model can be loaded on.
pub fn devices() -> Vec<DeviceSummary> {
    let memory = Memory::of_this_box();
    model::available_devices()
        .into_iter()
        .map(|device| {
            let on_cpu =
                matches!(device.choice, model::BackendChoice::Flex | model::BackendChoice::NdArray);
            DeviceSummary {
                id: device.choice.name().to_owned(),
                name: device.name,
                automatic: !device.software,
                memory_total_bytes: memory.filter(|_| on_cpu).map(|memory| memory.total),
                memory_free_bytes: memory.filter(|_| on_cpu).map(|memory| memory.available),
            }
        })
        .collect()
}

/// Prints them.
pub(crate) fn print(as_json: bool, output: &mut dyn Write) -> Result<(), AssembleError> {
    let devices = devices();
    if as_json {
        let list: Vec<_> = devices
            .iter()
            .map(|device| {
                json!({
                    "id": device.id,
                    "name": device.name,
                    "automatic": device.automatic,
                    "memory_total_bytes": device.memory_total_bytes,
                    "memory_free_bytes": device.memory_free_bytes,
                })
            })
            .collect();
        return Ok(writeln!(output, "{}", serde_json::Value::from(list))?);
    }
    for device in devices {
        let memory = match (device.memory_free_bytes, device.memory_total_bytes) {
            (Some(free), Some(total)) => {
                format!("{:.1} of {:.1} GB free", free as f64 / 1e9, total as f64 / 1e9)
            }
            _ => String::new(),
        };
        let automatic = if device.automatic { "" } else { "  (never chosen by auto)" };
        writeln!(output, "{:<10}{:<40}{memory}{automatic}", device.id, device.name)?;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Memory {
    total: u64,
    available: u64,
}

impl Memory {
    /// What Linux says of its memory; other systems say nothing here.
    fn of_this_box() -> Option<Self> {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
        };
        Some(Self { total: field("MemTotal:")?, available: field("MemAvailable:")? })
    }
}
