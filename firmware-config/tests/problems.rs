//! What is wrong, where, and what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use expect_test::{Expect, expect};
use firmware_config::{Hardware, Override, Profile, Sources};
use tempfile::TempDir;

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

fn flag(key: &str, value: &str, flag: &str) -> Override {
    Override { key: key.into(), value: value.into(), flag: flag.into() }
}

/// The errors of these sources, with the test's own folder left out.
fn problems(sources: &Sources<'_>, root: &TempDir) -> String {
    let error = Profile::load(sources).expect_err("the configuration is wrong");
    error.to_string().replace(&root.path().display().to_string(), "") + "\n"
}

fn check_file(text: &str, expected: &Expect) {
    let root = tempfile::tempdir().expect("a fresh folder");
    let path = root.path().join("etc/zonda/zonda.toml");
    fs::create_dir_all(path.parent().expect("it has a folder")).expect("a fresh folder");
    fs::write(path, text).expect("a fresh file");
    expected.assert_eq(&problems(&sources(&root), &root));
}

#[test]
fn an_unknown_key_names_the_nearest_and_its_line() {
    check_file(
        "[engine]\nsequences_mx = 4\n\n[egine]\npage_tokens = 16\n\n[http]\nport = 80\n\n\
         [bluetooth]\non = true\n",
        &expect![[r#"
            /etc/zonda/zonda.toml:2: unknown key engine.sequences_mx; did you mean engine.sequences_max?
            /etc/zonda/zonda.toml:5: unknown key egine.page_tokens; did you mean engine.page_tokens?
            /etc/zonda/zonda.toml:8: unknown key http.port; [http] has token_sha256, enabled, address, unix_socket, tcp, tls_cert_file, tls_key_file, tls_client_ca_file, insecure, strictness, body_bytes_max, connections_max, drain_ms, batch_folder, batch_bytes_max
            /etc/zonda/zonda.toml:11: unknown key bluetooth.on; sections are device, memory, engine, model, http, mqtt, tools, plugins, router, log
        "#]],
    );
    check_file(
        "http = 3\n[log.level]\nfile = \"debug\"\n",
        &expect![[r#"
        /etc/zonda/zonda.toml:1: http is a section, not a key; write [http]
        /etc/zonda/zonda.toml:3: unknown key log.level.file; [log] has level
    "#]],
    );
}

#[test]
fn a_wrong_type_or_range_says_what_is_expected() {
    check_file(
        "[engine]\nsequences_max = \"many\"\nqueue_requests_max = 0\npage_tokens = 24\n\
         [memory]\nkv_pool_bytes = \"lots\"\nreserve_bytes = -1\n\
         [http]\nenabled = \"yes\"\naddress = \"8080\"\nstrictness = \"harsh\"\n\
         token_sha256 = [\"abc\", 7]\n\
         [device]\nbackend = \"tpu\"\nthreads = 1979-05-27\n",
        &expect![[r#"
            /etc/zonda/zonda.toml:2: engine.sequences_max is "many"; expected a whole number from 1 to 256
            /etc/zonda/zonda.toml:3: engine.queue_requests_max is 0; expected a whole number from 1 to 65536
            /etc/zonda/zonda.toml:4: engine.page_tokens is no power of two; 16 suits most devices
            /etc/zonda/zonda.toml:6: memory.kv_pool_bytes is "lots"; expected an amount such as "768 MiB" from 1 MiB to 64 TiB
            /etc/zonda/zonda.toml:7: memory.reserve_bytes is -1; expected an amount such as "768 MiB" from 0 B to 64 TiB
            /etc/zonda/zonda.toml:9: http.enabled is "yes"; expected true or false
            /etc/zonda/zonda.toml:10: http.address is "8080"; expected an address with a port, such as "127.0.0.1:8080"
            /etc/zonda/zonda.toml:11: http.strictness is "harsh"; expected one of lenient, mistral-strict
            /etc/zonda/zonda.toml:12: http.token_sha256 is "abc"; expected a list of at most 256, each the SHA-256 of a token in 64 hexadecimal digits
            /etc/zonda/zonda.toml:12: http.token_sha256 is 7; expected a list of at most 256, each the SHA-256 of a token in 64 hexadecimal digits
            /etc/zonda/zonda.toml:14: device.backend is "tpu"; expected one of auto, flex, ndarray, vulkan, wgpu, metal, cuda
            /etc/zonda/zonda.toml:15: device.threads is 1979-05-27; expected a whole number from 0 to 1024
        "#]],
    );
}

#[test]
fn text_that_is_no_toml_names_its_line() {
    check_file(
        "[http]\naddress = \n",
        &expect![[r#"
        /etc/zonda/zonda.toml:2: not valid TOML: string values must be quoted, expected literal string
    "#]],
    );
    check_file(
        "[http]\nenabled = true\nenabled = false\n",
        &expect![[r#"
        /etc/zonda/zonda.toml:3: not valid TOML: duplicate key
    "#]],
    );
}

#[test]
fn lists_of_tables_are_checked_inside() {
    check_file(
        "[[model.aliases]]\nname = \"small\"\nencodng = \"v3\"\n\n[[model.aliases]]\n\
         encoding = \"v9\"\n\n[[model.aliases]]\nencoding = \"v3\"\n\n[[filters]]\nwords = []\n",
        &expect![[r#"
            /etc/zonda/zonda.toml:3: model.aliases: unknown key encodng; did you mean encoding?
            /etc/zonda/zonda.toml:6: model.aliases: encoding is "v9"; expected one of v1, v2, v3, v3-tekken, v7
            /etc/zonda/zonda.toml:8: model.aliases: name is missing; an alias is { name = "…", encoding = "v3" }
            /etc/zonda/zonda.toml:11: filters: kind is missing; such as kind = "length"
        "#]],
    );
}

#[test]
fn settings_that_do_not_fit_together_are_refused() {
    check_file(
        "[engine]\nsequences_max = 64\nbatch_tokens_max = 32\n[memory]\nkv_pool_bytes = \"1 TiB\"\n\
         [http]\naddress = \"0.0.0.0:80\"\n[mqtt]\nbroker_address = \"10.0.0.1:1883\"\n",
        &expect![[r#"
            /etc/zonda/zonda.toml:2: engine.sequences_max is more than engine.batch_tokens_max; each answer needs one token of every step
            /etc/zonda/zonda.toml:5: memory.kv_pool_bytes leaves no room for weights in memory.model_budget_bytes
            /etc/zonda/zonda.toml:7: http.address can be reached from outside; give a client a key (zonda key new NAME), or use 127.0.0.1
            /etc/zonda/zonda.toml:9: mqtt.broker_address is not loopback; a broker for others runs apart: name it in mqtt.url
        "#]],
    );
}

#[test]
fn variables_and_flags_are_named() {
    let root = tempfile::tempdir().unwrap();
    let mut sources = sources(&root);
    sources.environment = vec![
        ("ZONDA__ENGINE__SEQUENCE_MAX".into(), "4".into()),
        ("ZONDA__HTTP__ENABLED".into(), "maybe".into()),
        ("ZONDA__ENGINE__PAGE_TOKENS".into(), "0x10\n\u{1b}[31m".into()),
    ];
    sources.overrides = vec![flag("http.address", "localhost", "--http")];
    sources.profile = Some("jetson-orin-nano");
    expect![[r#"
        environment variable ZONDA__ENGINE__PAGE_TOKENS: engine.page_tokens is "0x10\n\u{1b}[31m"; expected a whole number from 1 to 256
        environment variable ZONDA__ENGINE__SEQUENCE_MAX: unknown key engine.sequence_max; did you mean engine.sequences_max?
        environment variable ZONDA__HTTP__ENABLED: http.enabled is "maybe"; expected true or false
        flag --http: http.address is "localhost"; expected an address with a port, such as "127.0.0.1:8080"
        flag --profile: there is no profile "jetson-orin-nano"; did you mean "jetson-orin-nano-8"?
    "#]].assert_eq(&problems(&sources, &root));
}

#[test]
fn a_missing_file_that_was_asked_for_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("none.toml");
    let sources = Sources { config: Some(&path), ..sources(&root) };
    expect![[r#"
        /none.toml: cannot be read: No such file or directory (os error 2)
    "#]]
    .assert_eq(&problems(&sources, &root));
}

#[test]
fn a_profile_file_is_checked_like_any_other() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("own.toml");
    fs::write(&path, "schema = 2\nid = \"A b\"\n[engine]\nsequences_mx = 3\n").unwrap();
    let sources = Sources { profile: path.to_str(), ..sources(&root) };
    expect![[r#"
        /own.toml:1: schema is 2; expected 1
        /own.toml:2: id is "A b"; expected a name of a-z, 0-9 and -
    "#]]
    .assert_eq(&problems(&sources, &root));
    fs::write(&path, "schema = 1\nid = \"own\"\n[engine]\nsequences_mx = 3\n").unwrap();
    expect![[r#"
        /own.toml:4: unknown key engine.sequences_mx; did you mean engine.sequences_max?
    "#]]
    .assert_eq(&problems(&sources, &root));
}

#[test]
fn secrets_do_not_stand_in_files_or_flags() {
    check_file(
        "[mqtt]\npassword = \"hunter2\"\nurl = \"mqtt://me:hunter2@host\"\n",
        &expect![[r#"
            /etc/zonda/zonda.toml:2: mqtt.password looks like a secret, and secrets do not stand in configuration or flags; pass it as credential mqtt.password or name a file of mode 0600 in mqtt.password_file
            /etc/zonda/zonda.toml:3: mqtt.url is "…@host"; expected mqtt://host:port or mqtts://host:port, without user and password
        "#]],
    );
    let root = tempfile::tempdir().unwrap();
    let mut sources = sources(&root);
    sources.overrides = vec![flag("mqtt.password", "hunter2", "--set")];
    expect![[r#"
        flag --set: mqtt.password looks like a secret, and secrets do not stand in configuration or flags; pass it as credential mqtt.password or name a file of mode 0600 in mqtt.password_file
    "#]].assert_eq(&problems(&sources, &root));
}

#[test]
fn a_secret_is_a_credential_before_a_file_before_a_variable() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("password");
    fs::write(&file, "from file\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let folder = root.path().join("credentials");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("mqtt.password"), "from credential").unwrap();

    let mut sources = sources(&root);
    let password = |sources: &Sources<'_>| {
        let loaded = Profile::load(sources).unwrap();
        assert!(!format!("{:?}", loaded).contains("from "), "a secret is printed");
        let text = loaded.profile.mqtt.password.as_ref().map(|secret| secret.reveal().to_owned());
        (text.unwrap_or_default(), loaded.warnings.len())
    };
    assert_eq!(password(&sources), (String::new(), 0));
    sources.environment.push(("ZONDA__MQTT__PASSWORD".into(), "from variable".into()));
    assert_eq!(password(&sources), ("from variable".into(), 1));
    sources.overrides = vec![flag("mqtt.password_file", file.to_str().unwrap(), "--set")];
    assert_eq!(password(&sources), ("from file".into(), 0));
    let folder = folder.to_str().unwrap().to_owned();
    sources.environment.push(("CREDENTIALS_DIRECTORY".into(), folder));
    assert_eq!(password(&sources), ("from credential".into(), 0));
}

#[test]
fn a_secret_file_that_others_can_read_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("password");
    fs::write(&file, "hunter2").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let mut sources = sources(&root);
    sources.overrides = vec![flag("mqtt.password_file", file.to_str().unwrap(), "--set")];
    expect![[r#"
        flag --set: mqtt.password: /password has mode 0644; only its owner may read it: chmod 600
    "#]]
    .assert_eq(&problems(&sources, &root));
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
    expect![[r#"
        flag --set: mqtt.password: /password is empty
    "#]]
    .assert_eq(&problems(&sources, &root));
}

#[test]
fn a_classifier_says_which_of_its_tables_is_wrong() {
    check_file(
        "[[classifiers]]\nname = \"a\"\n\n[[classifiers]]\ntargets = [{ name = \"t\", labels = [\"x\"] }]\n\n\
         [[classifiers]]\nname = \"b\"\n\n[[classifiers.targets]]\nname = \"t\"\nlabels = [\"x\", \" \"]\n\
         abstain_below = 2\ntemprature = 1.0\n\n[[classifiers.targets]]\nlabels = [\"x\"]\n\n\
         [[classifiers.targets]]\nname = \"u\"\n",
        &expect![[r#"
            /etc/zonda/zonda.toml:1: classifiers: targets is missing; each has a name and labels
            /etc/zonda/zonda.toml:4: classifiers: name is missing: a name of 1 to 128 characters
            /etc/zonda/zonda.toml:12: classifiers: targets: labels is " "; expected a list of at most 256, each a text of 1 to 256 bytes
            /etc/zonda/zonda.toml:13: classifiers: targets: abstain_below is 2; expected a number from 0 to 1
            /etc/zonda/zonda.toml:14: classifiers: targets: unknown key temprature; did you mean temperature?
            /etc/zonda/zonda.toml:16: classifiers: targets: name is missing: a name of 1 to 128 characters
            /etc/zonda/zonda.toml:19: classifiers: targets: labels is missing; such as labels = ["on", "off"]
        "#]],
    );
}

#[test]
fn plugins_need_their_folders_and_are_named_once() {
    check_file(
        "[plugins]\nenabled = [\"a\", \"a\"]\nfolders = 1\n\n[[plugins.settings]]\nwords = []\n\n\
         [[plugins.settings]]\nid = \"a\"\n\n[[plugins.settings]]\nid = \"a\"\n",
        &expect![[r#"
            /etc/zonda/zonda.toml:2: plugins.enabled names plugins, plugins.folder is not set
            /etc/zonda/zonda.toml:2: plugins.enabled names plugins, plugins.state_folder is not set
            /etc/zonda/zonda.toml:2: plugins.enabled names "a" twice
            /etc/zonda/zonda.toml:3: unknown key plugins.folders; did you mean plugins.folder?
            /etc/zonda/zonda.toml:5: plugins.settings: id is missing; it names the plugin
            /etc/zonda/zonda.toml:11: plugins.settings: "a" is there twice
        "#]],
    );
}

#[test]
fn a_plugin_gets_every_setting_but_its_id() {
    let root = tempfile::tempdir().expect("a fresh folder");
    let path = root.path().join("etc/zonda/zonda.toml");
    fs::create_dir_all(path.parent().expect("it has a folder")).expect("a fresh folder");
    let text = "[plugins]\nfolder = \"/p\"\nstate_folder = \"/s\"\nenabled = [\"a\"]\n\n\
                [[plugins.settings]]\nid = \"a\"\nwords = [\"x\"]\n";
    fs::write(path, text).expect("a fresh file");
    let plugins = Profile::load(&sources(&root)).expect("it is good").profile.plugins;
    assert_eq!(plugins.enabled, ["a"]);
    assert_eq!(plugins.settings[0].id, "a");
    let settings = serde_json::Value::Object(plugins.settings[0].settings.clone());
    assert_eq!(settings.to_string(), r#"{"words":["x"]}"#);
}

#[test]
fn servers_of_tools_are_refused_with_reasons() {
    check_file(
        "[[mcp_servers]]\nname = \"a\"\ntools = [{ name = \"t\" }]\n\n\
         [[mcp_servers]]\nname = \"B_\"\ncommand = \"python3\"\n\n\
         [[mcp_servers]]\nname = \"c\"\ncommand = \"/bin/c\"\n\n\
         [[mcp_servers]]\nname = \"c\"\ncommand = \"/bin/c\"\nenv = [\"1=2\"]\n\
         tools = [{ name = \"x.y\" }, { name = \"x/y\", approval = \"yes\" }, { name = \"Ü\" }]\n",
        &expect![[r#"
            /etc/zonda/zonda.toml:1: mcp_servers: command is missing: an absolute path
            /etc/zonda/zonda.toml:6: mcp_servers: name is "B_"; expected a name of 1 to 24 of a-z, 0-9 and -
            /etc/zonda/zonda.toml:7: mcp_servers: command is "python3"; expected an absolute path
            /etc/zonda/zonda.toml:9: mcp_servers: tools is missing; such as tools = [{ name = "search" }]
            /etc/zonda/zonda.toml:13: mcp_servers: "c" is there twice
            /etc/zonda/zonda.toml:16: mcp_servers: env is "1=2"; expected a list of at most 64, each NAME or NAME=value
            /etc/zonda/zonda.toml:17: mcp_servers: tools: approval is "yes"; expected one of client, never, always
            /etc/zonda/zonda.toml:17: mcp_servers: tools: "c__x_y" is there twice
            /etc/zonda/zonda.toml:17: mcp_servers: tools: name is "Ü"; expected a name of 1 to 61 of A-Z a-z 0-9 _ - . and /
        "#]],
    );
}
