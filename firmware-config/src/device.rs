//! Device profiles: what is known of a kind of box, as data.

use std::sync::LazyLock;

use crate::layer::{Item, Layer, Value};
use crate::reader::Reader;
use crate::{Hardware, Origin, ProfileError};

/// The profiles that are part of the program; the first that matches is taken.
const FILES: &[(&str, &str)] = &[
    ("jetson-orin-nano-8", include_str!("../profiles/jetson-orin-nano-8.toml")),
    ("jetson-orin-nx-16", include_str!("../profiles/jetson-orin-nx-16.toml")),
    ("jetson-agx-orin-64", include_str!("../profiles/jetson-agx-orin-64.toml")),
    ("jetson-agx-thor-128", include_str!("../profiles/jetson-agx-thor-128.toml")),
    ("mac-mini-m2-16", include_str!("../profiles/mac-mini-m2-16.toml")),
    ("mac-mini-m4-16", include_str!("../profiles/mac-mini-m4-16.toml")),
    ("mac-mini-m4-24", include_str!("../profiles/mac-mini-m4-24.toml")),
    ("mac-mini-m4-32", include_str!("../profiles/mac-mini-m4-32.toml")),
    ("mac-mini-m4-pro-64", include_str!("../profiles/mac-mini-m4-pro-64.toml")),
    ("mac-studio-m4-max-128", include_str!("../profiles/mac-studio-m4-max-128.toml")),
    ("mac-studio-m3-ultra-256", include_str!("../profiles/mac-studio-m3-ultra-256.toml")),
    ("mac-studio-m3-ultra-512", include_str!("../profiles/mac-studio-m3-ultra-512.toml")),
    ("raspberry-pi-5-16", include_str!("../profiles/raspberry-pi-5-16.toml")),
    ("x86-nuc-32", include_str!("../profiles/x86-nuc-32.toml")),
    ("generic-cuda", include_str!("../profiles/generic-cuda.toml")),
    ("generic-metal", include_str!("../profiles/generic-metal.toml")),
    ("generic-vulkan", include_str!("../profiles/generic-vulkan.toml")),
    (GENERIC_CPU, include_str!("../profiles/generic-cpu.toml")),
];

const GENERIC_CPU: &str = "generic-cpu";

static PROFILES: LazyLock<Vec<ProfileFile>> = LazyLock::new(|| {
    let parse = |(id, text): &(&str, &str)| {
        let place = |line| Origin::Profile { id: (*id).to_owned(), line };
        ProfileFile::parse(text, &place).expect("a test reads every profile of the program")
    };
    FILES.iter().map(parse).collect()
});

/// Every profile that is part of the program, in the order that they are tried.
pub fn profiles() -> &'static [ProfileFile] {
    &PROFILES
}

/// The profile of this machine: the first that matches, else `generic-cpu`.
pub fn detect(hardware: &Hardware) -> &'static ProfileFile {
    let found = profiles().iter().find(|profile| profile.matches(hardware));
    found
        .or_else(|| profiles().iter().find(|profile| profile.id == GENERIC_CPU))
        .expect("generic-cpu is part of the program")
}

/// One kind of box: how it is recognised, what it has, and the settings that suit it.
#[derive(Debug, Clone)]
pub struct ProfileFile {
    /// Its name in configuration.
    pub id: String,
    /// Its name for people.
    pub title: String,
    /// How it is recognised; `None` where it is only taken by name.
    pub matching: Option<Match>,
    /// What it has.
    pub hardware: HardwareFacts,
    /// The model that it is made for.
    pub usual_model: Option<ModelFacts>,
    /// What it should reach with that model.
    pub expect: Option<Expect>,
    scale: Option<Scale>,
    settings: Layer,
}

/// What must be true of a machine; every key that is there must match.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Match {
    /// Board name; `*` stands for any text.
    pub device_tree_model: Option<String>,
    /// Product name; `*` stands for any text.
    pub product_name: Option<String>,
    /// Processor; `*` stands for any text.
    pub cpu_brand: Option<String>,
    /// Operating system.
    pub os: Option<String>,
    /// At least so much memory, in GiB.
    pub memory_gib_min: Option<f64>,
    /// At most so much memory, in GiB.
    pub memory_gib_max: Option<f64>,
}

/// What a kind of box has; 0 or empty where a generic profile cannot know.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HardwareFacts {
    /// Memory in 10^9 bytes, as it is sold.
    pub memory_gb: f64,
    /// Processor and graphics share it.
    pub unified: bool,
    /// Memory bandwidth in 10^9 bytes a second.
    pub bandwidth_gb_s: f64,
    /// `cuda`, `metal`, `vulkan` or empty.
    pub gpu: String,
    /// CUDA compute capability, such as `8.7`.
    pub sm: String,
    /// Processor cores.
    pub cpu_cores: u32,
}

/// A model, as a profile speaks of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFacts {
    /// Its name.
    pub model: String,
    /// Its licence.
    pub license: String,
    /// Its weights in 10^9 bytes.
    pub weights_gb: f64,
    /// Keys and values of 8192 tokens in 16 bits, in 10^9 bytes.
    pub kv_8k_gb: f64,
}

/// What a device should reach with its usual model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expect {
    /// Tokens a second that memory bandwidth allows for one answer: bandwidth / weights.
    pub decode_bound_tok_s: f64,
    /// The share of it that is the least to accept.
    pub decode_min_fraction: f64,
}

/// Shares of memory, for generic profiles.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scale {
    model_budget: f64,
    reserve: f64,
    kv_pool: f64,
    kv_pool_bytes_max: u64,
}

impl ProfileFile {
    /// Reads a profile; `place` turns a line number into an origin.
    pub(crate) fn parse(text: &str, place: &dyn Fn(u32) -> Origin) -> Result<Self, ProfileError> {
        let layer = Layer::parse(text, place)
            .map_err(|problem| ProfileError { problems: vec![problem] })?;
        let mut reader = Reader::default();
        reader.overlay(layer);
        let schema = reader.count("schema", 0, 1..=1);
        if schema == 0 && reader.problems.is_empty() {
            reader.problem(place(0), "schema is missing; this program reads schema = 1");
        }
        let rule = "a name of a-z, 0-9 and -";
        let found = reader.problems.len();
        let id = reader.text("id", rule, is_name);
        if id.is_none() && reader.problems.len() == found {
            reader.problem(place(0), format!("id is missing: {rule}"));
        }
        let mut file = Self {
            id: id.unwrap_or_default(),
            title: reader.text_or("title", "", "a text", |_| true),
            matching: Match::read(&mut reader),
            hardware: HardwareFacts::read(&mut reader),
            usual_model: ModelFacts::read(&mut reader),
            expect: Expect::read(&mut reader),
            scale: Scale::read(&mut reader),
            settings: Layer::default(),
        };
        // What is left are settings; the reader of the whole configuration judges them.
        file.settings = reader.unread();
        match reader.problems.is_empty() {
            true => Ok(file),
            false => Err(ProfileError { problems: reader.problems }),
        }
    }

    /// Whether this is the profile of that machine.
    pub fn matches(&self, hardware: &Hardware) -> bool {
        self.matching.as_ref().is_some_and(|matching| matching.accepts(hardware))
    }

    /// Its settings on a machine with so much memory.
    pub(crate) fn settings(&self, memory_bytes: u64) -> Layer {
        let mut layer = Layer::default();
        if let Some(scale) = self.scale {
            let origin = Origin::Scaled { id: self.id.clone(), memory_bytes };
            layer.0.extend(scale.settings(memory_bytes).map(|(key, bytes)| {
                let value = Value::Integer(i64::try_from(bytes).unwrap_or(i64::MAX));
                (key.to_owned(), Item { value, origin: origin.clone() })
            }));
        }
        layer.0.extend(self.settings.0.iter().cloned());
        layer
    }
}

impl Match {
    fn read(reader: &mut Reader) -> Option<Self> {
        let mut pattern = |key: &str| reader.text(key, "a text", |text| !text.is_empty());
        let texts = Self {
            device_tree_model: pattern("match.device_tree_model"),
            product_name: pattern("match.product_name"),
            cpu_brand: pattern("match.cpu_brand"),
            os: pattern("match.os"),
            ..Self::default()
        };
        let matching = Self {
            memory_gib_min: reader.number("match.memory_gib_min", 0.0..=65536.0),
            memory_gib_max: reader.number("match.memory_gib_max", 0.0..=65536.0),
            ..texts
        };
        (matching != Self::default()).then_some(matching)
    }

    fn accepts(&self, hardware: &Hardware) -> bool {
        let texts = [
            (&self.device_tree_model, &hardware.device_tree_model),
            (&self.product_name, &hardware.product_name),
            (&self.cpu_brand, &hardware.cpu_brand),
            (&self.os, &hardware.os),
        ];
        let memory_gib = hardware.memory_bytes as f64 / f64::from(1 << 30);
        texts.iter().all(|(pattern, text)| {
            pattern.as_deref().is_none_or(|pattern| matches_pattern(pattern, text))
        }) && self.memory_gib_min.is_none_or(|least| memory_gib >= least)
            && self.memory_gib_max.is_none_or(|most| memory_gib <= most)
    }
}

impl HardwareFacts {
    fn read(reader: &mut Reader) -> Self {
        Self {
            memory_gb: reader.number("hardware.memory_gb", 0.0..=65536.0).unwrap_or(0.0),
            unified: reader.flag("hardware.unified", false),
            bandwidth_gb_s: reader.number("hardware.bandwidth_gb_s", 0.0..=1e6).unwrap_or(0.0),
            gpu: reader.text_or("hardware.gpu", "", "cuda, metal or vulkan", |gpu| {
                ["", "cuda", "metal", "vulkan"].contains(&gpu)
            }),
            sm: reader.text_or("hardware.sm", "", "a text", |_| true),
            cpu_cores: reader.count("hardware.cpu_cores", 0, 0..=4096),
        }
    }
}

impl ModelFacts {
    fn read(reader: &mut Reader) -> Option<Self> {
        let model = reader.text("defaults.model", "a name", is_name);
        let license = reader.text_or("defaults.license", "", "a text", |_| true);
        let weights_gb = reader.number("defaults.weights_gb", 0.01..=65536.0);
        let kv_8k_gb = reader.number("defaults.kv_8k_gb", 0.01..=65536.0);
        Some(Self { model: model?, license, weights_gb: weights_gb?, kv_8k_gb: kv_8k_gb? })
    }
}

impl Expect {
    fn read(reader: &mut Reader) -> Option<Self> {
        let decode_bound_tok_s = reader.number("expect.decode_bound_tok_s", 0.01..=1e6);
        let decode_min_fraction = reader.number("expect.decode_min_fraction", 0.01..=1.0);
        Some(Self {
            decode_bound_tok_s: decode_bound_tok_s?,
            decode_min_fraction: decode_min_fraction?,
        })
    }
}

impl Scale {
    fn read(reader: &mut Reader) -> Option<Self> {
        let model_budget = reader.number("scale.model_budget", 0.0..=1.0);
        let reserve = reader.number("scale.reserve", 0.0..=1.0);
        let kv_pool = reader.number("scale.kv_pool", 0.0..=1.0);
        let kv_pool_bytes_max = reader.bytes("scale.kv_pool_bytes_max", 4 << 30, 0..=1 << 50);
        Some(Self {
            model_budget: model_budget?,
            reserve: reserve?,
            kv_pool: kv_pool?,
            kv_pool_bytes_max,
        })
    }

    fn settings(self, memory_bytes: u64) -> impl Iterator<Item = (&'static str, u64)> {
        // A machine that does not tell its memory is taken for a small one.
        let memory_bytes = if memory_bytes == 0 { 4 << 30 } else { memory_bytes };
        let share = |fraction: f64| ((memory_bytes as f64 * fraction) as u64) >> 20 << 20;
        [
            ("memory.model_budget_bytes", share(self.model_budget)),
            ("memory.reserve_bytes", share(self.reserve)),
            ("memory.kv_pool_bytes", share(self.kv_pool).min(self.kv_pool_bytes_max)),
        ]
        .into_iter()
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Whether `text` is `pattern`, where each `*` stands for any text.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some((_, behind)) = rest.split_once(part) else {
            return false;
        };
        rest = behind;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        let cases = [
            ("NVIDIA Jetson AGX Orin*", "NVIDIA Jetson AGX Orin Developer Kit", true),
            ("NVIDIA Jetson AGX Orin*", "NVIDIA Jetson Orin Nano", false),
            ("Apple M4", "Apple M4", true),
            ("Apple M4", "Apple M4 Pro", false),
            ("*NUC*", "Intel NUC 13", true),
            ("*NUC", "NUC 13", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*a", "a", false),
            ("*", "", true),
            ("", "x", false),
        ];
        for (pattern, text, matches) in cases {
            assert_eq!(matches_pattern(pattern, text), matches, "{pattern} ~ {text}");
        }
    }
}
