//! Which layer goes over which, and where each value says it comes from.

use std::fs;
use std::path::{Path, PathBuf};

use firmware_config::{
    Hardware, Loaded, McpApproval, Origin, Override, Profile, Sources, Strictness,
};
use tempfile::TempDir;

/// A box with nothing on it.
fn sources(root: &TempDir) -> Sources<'static> {
    Sources {
        config: None,
        profile: None,
        environment: Vec::new(),
        overrides: Vec::new(),
        root: root.path().to_owned(),
        hardware: Hardware { memory_bytes: 8 << 30, ..Hardware::default() },
    }
}

fn write(root: &TempDir, path: &str, text: &str) -> PathBuf {
    let path = root.path().join(path);
    fs::create_dir_all(path.parent().expect("it has a folder")).expect("a fresh folder");
    fs::write(&path, text).expect("a fresh file");
    path
}

fn load(sources: &Sources<'_>) -> Loaded {
    Profile::load(sources).unwrap_or_else(|error| panic!("{error}"))
}

fn origin(loaded: &Loaded, key: &str) -> Origin {
    loaded
        .settings
        .iter()
        .find(|setting| setting.key == key)
        .expect("the key is known")
        .origin
        .clone()
}

fn variable(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn flag(key: &str, value: &str, flag: &str) -> Override {
    Override { key: key.into(), value: value.into(), flag: flag.into() }
}

#[test]
fn an_empty_box_gets_defaults_and_a_scaled_profile() {
    let root = tempfile::tempdir().unwrap();
    let loaded = load(&sources(&root));
    let profile = &loaded.profile;
    assert_eq!(profile.id, "generic-cpu");
    assert_eq!(profile.device.backend, "auto");
    assert_eq!(profile.device.backend_order, ["flex"]);
    assert_eq!(profile.http.address.to_string(), "127.0.0.1:8080");
    assert_eq!(profile.mqtt.node, "zonda");
    assert!(profile.mqtt.url.is_none() && profile.mqtt.plain_requests);
    assert_eq!(profile.mqtt.client_requests_max, profile.mqtt.queue_requests_max);
    assert_eq!(origin(&loaded, "http.address"), Origin::Default);
    assert_eq!(
        origin(&loaded, "memory.kv_pool_bytes"),
        Origin::Scaled { id: "generic-cpu".into(), memory_bytes: 8 << 30 }
    );
    assert_eq!(profile.memory.kv_pool_bytes, 983 << 20);
    assert!(matches!(origin(&loaded, "engine.sequences_max"), Origin::Profile { .. }));
    assert!(loaded.warnings.is_empty());
}

#[test]
fn each_layer_goes_over_the_ones_before_it() {
    let root = tempfile::tempdir().unwrap();
    let mut sources = sources(&root);
    let sequences = |sources: &Sources<'_>| {
        let loaded = load(sources);
        (loaded.profile.engine.sequences_max, origin(&loaded, "engine.sequences_max"))
    };
    let set = |number: u32| format!("[engine]\nsequences_max = {number}\n");

    sources.profile = Some("jetson-orin-nano-8");
    assert_eq!(sequences(&sources).0, 2);
    let vendor = write(&root, "usr/lib/zonda/zonda.toml", &set(3));
    assert_eq!(sequences(&sources), (3, Origin::File { path: vendor, line: 2 }));
    let local = write(&root, "etc/zonda/zonda.toml", &set(4));
    assert_eq!(sequences(&sources), (4, Origin::File { path: local, line: 2 }));
    let last = write(&root, "etc/zonda/conf.d/20-b.toml", &set(6));
    write(&root, "etc/zonda/conf.d/10-a.toml", &set(5));
    write(&root, "etc/zonda/conf.d/30-c.toml.bak", &set(99));
    assert_eq!(sequences(&sources), (6, Origin::File { path: last, line: 2 }));
    sources.environment.push(variable("ZONDA__ENGINE__SEQUENCES_MAX", "7"));
    let name = "ZONDA__ENGINE__SEQUENCES_MAX".to_owned();
    assert_eq!(sequences(&sources), (7, Origin::Environment(name)));
    sources.overrides.push(flag("engine.sequences_max", "8", "--sequences"));
    assert_eq!(sequences(&sources), (8, Origin::Flag("--sequences".into())));
}

#[test]
fn a_given_file_replaces_the_two_of_the_system() {
    let root = tempfile::tempdir().unwrap();
    write(&root, "usr/lib/zonda/zonda.toml", "[log]\nlevel = \"trace\"\n");
    write(&root, "etc/zonda/zonda.toml", "[mqtt]\nsite = \"plant1\"\n");
    let given = write(&root, "own/box.toml", "[http]\nstrictness = \"mistral-strict\"\n");
    write(&root, "own/conf.d/a.toml", "[http]\nbody_bytes_max = \"1 MiB\"\n");
    let loaded = load(&Sources { config: Some(&given), ..sources(&root) });
    assert_eq!(loaded.profile.log.level, "info");
    assert_eq!(loaded.profile.mqtt.site, "default");
    assert_eq!(loaded.profile.http.strictness, Strictness::MistralStrict);
    assert_eq!(loaded.profile.http.body_bytes_max, 1 << 20);
}

#[test]
fn keys_that_a_layer_does_not_name_stay() {
    let root = tempfile::tempdir().unwrap();
    write(&root, "usr/lib/zonda/zonda.toml", "[mqtt]\nsite = \"plant1\"\nnode = \"press-3\"\n");
    write(&root, "etc/zonda/zonda.toml", "mqtt.node = \"press-4\"\n");
    let mqtt = load(&sources(&root)).profile.mqtt;
    assert_eq!((mqtt.site.as_str(), mqtt.node.as_str()), ("plant1", "press-4"));
    assert_eq!(mqtt.client_id, "zonda-press-4");
}

#[test]
fn variables_and_flags_carry_every_type() {
    let root = tempfile::tempdir().unwrap();
    let mut sources = sources(&root);
    let digest = "ab".repeat(32);
    sources.environment = vec![
        variable("ZONDA__HTTP__ENABLED", "false"),
        variable("ZONDA__HTTP__TOKEN_SHA256", &digest),
        variable("ZONDA__HTTP__BODY_BYTES_MAX", "2 MiB"),
        variable("ZONDA__TOOLS__ENABLED", "clock, calculator"),
        variable("ZONDA__MODEL__DEFAULT_TEMPERATURE", "0.3"),
        variable("ZONDA__MODEL__ALIASES", "[{ name = \"mistral-small-2402\", encoding = \"v2\" }]"),
        variable("ZONDA", "not ours"),
        variable("PATH", "/bin"),
    ];
    sources.overrides = vec![
        flag("model.path", "/models/m.gguf", "--model"),
        flag("http.address", "127.0.0.1:0", "--http"),
    ];
    let profile = load(&sources).profile;
    assert!(!profile.http.enabled);
    assert_eq!(profile.http.token_sha256, [[0xab; 32]]);
    assert_eq!(profile.http.body_bytes_max, 2 << 20);
    assert_eq!(profile.http.address.port(), 0);
    assert_eq!(profile.tools.enabled, ["clock", "calculator"]);
    assert_eq!(profile.model.default_temperature, Some(0.3));
    assert_eq!(profile.model.aliases[0].encoding.as_deref(), Some("v2"));
    assert_eq!(profile.model.path.as_deref(), Some(Path::new("/models/m.gguf")));
}

#[test]
fn the_profile_is_chosen_by_the_topmost_layer_and_lies_below_all() {
    let root = tempfile::tempdir().unwrap();
    let mut sources = sources(&root);
    let id = |sources: &Sources<'_>| load(sources).profile.id;
    write(
        &root,
        "etc/zonda/zonda.toml",
        "profile = \"raspberry-pi-5-16\"\nengine.sequences_max = 7\n",
    );
    assert_eq!(id(&sources), "raspberry-pi-5-16");
    assert_eq!(load(&sources).profile.engine.sequences_max, 7);
    sources.environment.push(variable("ZONDA__PROFILE", "x86-nuc-32"));
    assert_eq!(id(&sources), "x86-nuc-32");
    sources.profile = Some("auto");
    assert_eq!(id(&sources), "generic-cpu");
    let own = write(
        &root,
        "own.toml",
        "schema = 1\nid = \"kiosk\"\n[engine]\nqueue_requests_max = 3\n[scale]\n\
         model_budget = 0.5\nreserve = 0.1\nkv_pool = 0.25\n",
    );
    sources.profile = own.to_str();
    let profile = load(&sources).profile;
    assert_eq!((profile.id.as_str(), profile.engine.queue_requests_max), ("kiosk", 3));
    assert_eq!(profile.memory.kv_pool_bytes, 2 << 30);
}

#[test]
fn plain_requests_are_on_only_where_the_broker_is_our_own() {
    let root = tempfile::tempdir().unwrap();
    let mut sources = sources(&root);
    let cases = [
        ("mqtt://localhost", true),
        ("mqtt://127.0.0.1:1883", true),
        ("mqtt://[::1]:1883", true),
        ("mqtts://gateway.local:8883", false),
        ("mqtt://192.168.1.4:1883/", false),
        ("mqtt://localhost.evil.example", false),
    ];
    for (url, plain) in cases {
        sources.overrides = vec![flag("mqtt.url", url, "--mqtt")];
        let mqtt = load(&sources).profile.mqtt;
        assert_eq!((mqtt.plain_requests, mqtt.client_requests_max), (plain, 2), "{url}");
    }
}

#[test]
fn beside_a_real_broker_requests_survive_in_the_state_folder() {
    let root = tempfile::tempdir().unwrap();
    let mut sources = sources(&root);
    let node = flag("mqtt.node", "box1", "--set");
    let url = flag("mqtt.url", "mqtt://localhost", "--mqtt");
    let journal = |sources: &Sources<'_>| {
        load(sources).profile.mqtt.journal.map(|path| path.display().to_string())
    };
    sources.environment = vec![variable("HOME", "/home/kim")];
    sources.overrides = vec![node.clone()];
    assert_eq!(journal(&sources), None, "the embedded broker forgets as well");
    sources.overrides = vec![node, url];
    let at_home = "/home/kim/.local/state/zonda/mqtt-box1.sqlite";
    assert_eq!(journal(&sources).as_deref(), Some(at_home));
    sources.environment.push(variable("XDG_STATE_HOME", "/state"));
    assert_eq!(journal(&sources).as_deref(), Some("/state/zonda/mqtt-box1.sqlite"));
    sources.environment.push(variable("STATE_DIRECTORY", "/var/lib/zonda:/var/lib/other"));
    assert_eq!(journal(&sources).as_deref(), Some("/var/lib/zonda/mqtt-box1.sqlite"));
    sources.overrides.push(flag("mqtt.journal", "/data/j", "--set"));
    assert_eq!(journal(&sources).as_deref(), Some("/data/j"));
    sources.overrides.push(flag("mqtt.journal", "off", "--set"));
    assert_eq!(journal(&sources), None);
    sources.overrides.push(flag("mqtt.journal", "relative", "--set"));
    let error = Profile::load(&sources).unwrap_err().to_string();
    assert!(error.contains("mqtt.journal") && error.contains("absolute"), "{error}");
}

#[test]
fn filters_keep_their_order_and_settings() {
    let root = tempfile::tempdir().unwrap();
    write(
        &root,
        "etc/zonda/zonda.toml",
        "[[filters]]\nkind = \"redact\"\nwords = [\"Falcon\"]\n\n[[filters]]\nkind = \"length\"\n\
         messages_max = 4\n",
    );
    let filters = load(&sources(&root)).profile.filters;
    assert_eq!(filters.len(), 2);
    assert_eq!(filters[0].kind, "redact");
    assert_eq!(filters[0].settings["words"][0], "Falcon");
    assert_eq!(filters[1].settings["messages_max"], 4);
    assert!(filters[1].origin.to_string().ends_with("zonda.toml:5"), "{}", filters[1].origin);
}

#[test]
fn every_key_is_listed_once_with_its_value() {
    let root = tempfile::tempdir().unwrap();
    let loaded = load(&sources(&root));
    let mut keys: Vec<&str> = loaded.settings.iter().map(|setting| &*setting.key).collect();
    let count = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), count);
    for section in ["device", "memory", "engine", "model", "http", "mqtt", "tools", "log"] {
        assert!(keys.iter().any(|key| key.starts_with(section)), "{section}");
    }
    let value = |key: &str| {
        loaded.settings.iter().find(|setting| setting.key == key).unwrap().value.clone()
    };
    assert_eq!(value("http.body_bytes_max").as_deref(), Some("\"4 MiB\""));
    assert_eq!(value("device.backend_order").as_deref(), Some("[\"flex\"]"));
    assert_eq!(value("mqtt.url"), None);
}

#[test]
fn a_classifier_has_targets_with_their_defaults() {
    let root = tempfile::tempdir().expect("a fresh folder");
    let text = "[[classifiers]]\nname = \"mood\"\n\n[[classifiers.targets]]\nname = \"tone\"\n\
                labels = [\"glad\", \"sad\"]\n\n[[classifiers.targets]]\nname = \"wish\"\n\
                labels = [\"yes\"]\ninstruction = \"Is it a wish?\"\nabstain_below = 0.5\n\
                temperature = 2.0\ncalibrate = true\n";
    write(&root, "etc/zonda/zonda.toml", text);
    let classifiers = load(&sources(&root)).profile.classifiers;
    assert_eq!(classifiers.len(), 1);
    let [tone, wish] = &classifiers[0].targets[..] else { panic!("two targets") };
    assert_eq!(
        (tone.name.as_str(), &tone.labels[..]),
        ("tone", &["glad".into(), "sad".into()][..])
    );
    assert_eq!((tone.instruction.as_deref(), tone.calibrate), (None, false));
    assert_eq!((tone.abstain_below, tone.temperature), (0.0, 1.0));
    assert_eq!((wish.instruction.as_deref(), wish.calibrate), (Some("Is it a wish?"), true));
    assert_eq!((wish.abstain_below, wish.temperature), (0.5, 2.0));
}

#[test]
fn servers_of_tools_have_defaults_for_all_but_their_name_command_and_tools() {
    let root = tempfile::tempdir().expect("a fresh folder");
    let text = "[[mcp_servers]]\nname = \"notes\"\ncommand = \"/opt/notes\"\n\
                tools = [{ name = \"a.b\", approval = \"never\" }, { name = \"write\" }]\n";
    write(&root, "etc/zonda/zonda.toml", text);
    let servers = load(&sources(&root)).profile.mcp_servers;
    let [server] = &servers[..] else { panic!("one server") };
    assert_eq!((server.args.len(), server.env.len()), (0, 0));
    assert_eq!(server.working_folder, Path::new("/"));
    let tools: Vec<_> =
        server.tools.iter().map(|tool| (&*tool.name, &*tool.function, tool.approval)).collect();
    let expected =
        [("a.b", "notes__a_b", McpApproval::Never), ("write", "notes__write", McpApproval::Client)];
    assert_eq!(tools, expected);
}
