//! The device profiles say what is true, and are found.

use firmware_config::{Hardware, Profile, Sources, detect, profiles};

const GIB: u64 = 1 << 30;

fn sources(profile: &str, memory_bytes: u64) -> Sources<'_> {
    Sources {
        config: None,
        profile: Some(profile),
        environment: Vec::new(),
        overrides: Vec::new(),
        root: "/nonexistent".into(),
        hardware: Hardware { memory_bytes, ..Hardware::default() },
    }
}

#[test]
fn every_profile_makes_a_whole_configuration() {
    assert_eq!(profiles().len(), 18);
    for file in profiles() {
        for memory_bytes in [0, GIB, 64 * GIB, 512 * GIB] {
            let loaded = Profile::load(&sources(&file.id, memory_bytes))
                .unwrap_or_else(|error| panic!("{}: {error}", file.id));
            assert_eq!(loaded.profile.id, file.id);
            assert!(!file.title.is_empty(), "{}", file.id);
        }
    }
}

#[test]
fn the_bound_is_bandwidth_over_weights() {
    let mut checked = 0;
    for file in profiles() {
        let (Some(model), Some(expect)) = (&file.usual_model, file.expect) else {
            assert!(file.id.starts_with("generic-"), "{} names no model", file.id);
            continue;
        };
        let bound = file.hardware.bandwidth_gb_s / model.weights_gb;
        let error = (expect.decode_bound_tok_s - bound).abs();
        assert!(error <= 0.05, "{}: {bound} is not {}", file.id, expect.decode_bound_tok_s);
        assert!((0.45..=1.0).contains(&expect.decode_min_fraction), "{}", file.id);
        checked += 1;
    }
    assert_eq!(checked, 14);
}

#[test]
fn the_usual_model_and_its_cache_fit_into_the_budget() {
    for file in profiles() {
        let Some(model) = &file.usual_model else {
            continue;
        };
        let memory = Profile::load(&sources(&file.id, 0)).unwrap().profile.memory;
        let gb = |bytes: u64| bytes as f64 / 1e9;
        let pool = gb(memory.kv_pool_bytes);
        let budget = gb(memory.model_budget_bytes);
        assert!(pool >= model.kv_8k_gb, "{}: one answer of 8192 tokens needs more", file.id);
        assert!(model.weights_gb + pool <= budget, "{}: over its budget", file.id);
        let taken = budget + gb(memory.reserve_bytes);
        assert!(taken <= file.hardware.memory_gb + 1e-6, "{}: {taken} GB", file.id);
        assert!(!model.license.is_empty(), "{}", file.id);
    }
}

#[test]
fn every_order_of_backends_ends_on_the_processor() {
    for file in profiles() {
        let device = Profile::load(&sources(&file.id, 0)).unwrap().profile.device;
        assert_eq!(device.backend_order.last().map(String::as_str), Some("flex"), "{}", file.id);
        let gpu = match file.hardware.gpu.as_str() {
            "" => "flex",
            gpu => gpu,
        };
        assert_eq!(device.backend_order[0], gpu, "{}", file.id);
    }
}

#[test]
fn machines_find_their_profile() {
    let board = |name: &str, memory_gib: f64| Hardware {
        device_tree_model: name.into(),
        os: "linux".into(),
        arch: "aarch64".into(),
        memory_bytes: (memory_gib * GIB as f64) as u64,
        ..Hardware::default()
    };
    let mac = |brand: &str, memory_gib: u64| Hardware {
        cpu_brand: brand.into(),
        os: "macos".into(),
        arch: "aarch64".into(),
        memory_bytes: memory_gib * GIB,
        ..Hardware::default()
    };
    let pc = |product: &str, memory_gib: u64| Hardware {
        product_name: product.into(),
        os: "linux".into(),
        arch: "x86_64".into(),
        memory_bytes: memory_gib * GIB,
        ..Hardware::default()
    };
    let cases = [
        (
            board("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", 7.4),
            "jetson-orin-nano-8",
        ),
        (
            board("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", 15.3),
            "jetson-orin-nx-16",
        ),
        (board("NVIDIA Jetson AGX Orin Developer Kit", 61.4), "jetson-agx-orin-64"),
        (board("NVIDIA Jetson AGX Orin Developer Kit", 29.9), "generic-cuda"),
        (board("NVIDIA Jetson AGX Thor Developer Kit", 122.8), "jetson-agx-thor-128"),
        (board("Raspberry Pi 5 Model B Rev 1.0", 15.8), "raspberry-pi-5-16"),
        (board("Raspberry Pi 5 Model B Rev 1.0", 7.9), "generic-cpu"),
        (mac("Apple M2", 16), "mac-mini-m2-16"),
        (mac("Apple M4", 16), "mac-mini-m4-16"),
        (mac("Apple M4", 24), "mac-mini-m4-24"),
        (mac("Apple M4", 32), "mac-mini-m4-32"),
        (mac("Apple M4 Pro", 64), "mac-mini-m4-pro-64"),
        (mac("Apple M4 Max", 128), "mac-studio-m4-max-128"),
        (mac("Apple M3 Ultra", 256), "mac-studio-m3-ultra-256"),
        (mac("Apple M3 Ultra", 512), "mac-studio-m3-ultra-512"),
        (mac("Apple M1", 8), "generic-metal"),
        (pc("NUC13ANKi5", 31), "x86-nuc-32"),
        (pc("NUC13ANKi5", 15), "generic-cpu"),
        (pc("Standard PC (Q35 + ICH9, 2009)", 31), "generic-cpu"),
        (Hardware::default(), "generic-cpu"),
    ];
    for (hardware, id) in cases {
        assert_eq!(detect(&hardware).id, id, "{hardware:?}");
    }
}

#[test]
fn generic_profiles_take_shares_of_the_memory() {
    let pool = |memory_bytes| {
        Profile::load(&sources("generic-cpu", memory_bytes)).unwrap().profile.memory.kv_pool_bytes
    };
    assert_eq!(pool(8 * GIB) >> 20, 983);
    assert_eq!(pool(512 * GIB), 4 * GIB);
    assert_eq!(pool(0), pool(4 * GIB));
}
