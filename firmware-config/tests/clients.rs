//! Who may ask, and how much.

use std::fs;

use expect_test::{Expect, expect};
use firmware_config::{
    ClientConfig, ClientLimits, Hardware, PrefixSharing, Profile, ProfileError, Sources, Strictness,
};

const KEY: &str = "41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb";

fn load(text: &str) -> Result<Profile, ProfileError> {
    let root = tempfile::tempdir().expect("a fresh folder");
    let path = root.path().join("zonda.toml");
    fs::write(&path, text).expect("a fresh file");
    let sources = Sources {
        config: Some(&path),
        profile: None,
        environment: Vec::new(),
        overrides: Vec::new(),
        root: root.path().to_owned(),
        hardware: Hardware { memory_bytes: 8 << 30, ..Hardware::default() },
    };
    Profile::load(&sources).map(|loaded| loaded.profile)
}

fn check_problems(text: &str, expected: &Expect) {
    let error = load(text).expect_err("the configuration is wrong").to_string();
    let lines = error.lines().map(|line| {
        let at = line.find("zonda.toml").expect("the place of the problem");
        format!("{}\n", &line[at..])
    });
    expected.assert_eq(&lines.collect::<String>());
}

#[test]
fn a_client_has_keys_and_limits() {
    let text = format!(
        "[[clients]]\nname = \"plc7\"\nkey_sha256 = \"{KEY}\"\nstrictness = \"mistral-strict\"\n\
         requests_per_minute = 60\ntokens_per_minute = 10000\nrequests_max = 4\n\
         tokens_per_day = 1000000\nmodels = [\"ministral\"]\nmax_tokens = 512\n\
         [[clients]]\nname = \"*\"\nrequests_per_minute = 6\n"
    );
    let profile = load(&text).unwrap();
    let [plc, others] = &profile.clients[..] else { panic!("two clients") };
    assert_eq!((plc.name.as_str(), plc.key_sha256.len()), ("plc7", 1));
    assert_eq!(plc.strictness, Some(Strictness::MistralStrict));
    let limits = ClientLimits {
        requests_per_minute: Some(60),
        tokens_per_minute: Some(10_000),
        tokens_per_day: Some(1_000_000),
        requests_max: Some(4),
        max_tokens: Some(512),
        models: vec!["ministral".into()],
    };
    assert_eq!(plc.limits, limits);
    let few = ClientLimits { requests_per_minute: Some(6), ..ClientLimits::default() };
    assert_eq!((others.name.as_str(), &others.limits), (ClientConfig::OTHERS, &few));
}

#[test]
fn clients_do_not_share_beginnings_unless_told_to() {
    let sharing = |text: &str| load(text).unwrap().engine.prefix_sharing;
    assert_eq!(sharing(""), PrefixSharing::All);
    assert_eq!(sharing("[[clients]]\nname = \"a\"\n"), PrefixSharing::Client);
    let told = "[engine]\nprefix_sharing = \"all\"\n[[clients]]\nname = \"a\"\n";
    assert_eq!(sharing(told), PrefixSharing::All);
}

#[test]
fn what_is_wrong_with_a_client_is_told_with_its_place() {
    check_problems(
        "[[clients]]\nkey_sha256 = \"abc\"\n[[clients]]\nrequests_max = 1\n\
         [[clients]]\nname = \"a/b\"\n[[clients]]\nname = \"token-1\"\n\
         [[clients]]\nname = \"a\"\nstrictness = \"harsh\"\nrequests_per_minute = 0\nmodels = []\n\
         tokens_per_minut = 5\n",
        &expect![[r#"
            zonda.toml:1: clients: name is missing: a topic level of 1 to 64 letters, digits, _ . or -, or "*"
            zonda.toml:2: clients: key_sha256 is "abc"; expected a list of at most 8, each the SHA-256 of a key in 64 hexadecimal digits
            zonda.toml:3: clients: name is missing: a topic level of 1 to 64 letters, digits, _ . or -, or "*"
            zonda.toml:6: clients: name is "a/b"; expected a topic level of 1 to 64 letters, digits, _ . or -, or "*"
            zonda.toml:7: clients: names that begin with token- are given to clients without a name
            zonda.toml:11: clients: strictness is "harsh"; expected one of lenient, mistral-strict
            zonda.toml:12: clients: requests_per_minute is 0; expected a whole number from 1 to 1000000
            zonda.toml:13: clients: models is empty; leave it out to allow all
            zonda.toml:14: clients: unknown key tokens_per_minut; did you mean tokens_per_minute?
        "#]],
    );
    check_problems(
        &format!(
            "[[clients]]\nname = \"a\"\nkey_sha256 = [\"{KEY}\"]\n\
             [[clients]]\nname = \"a\"\n\
             [[clients]]\nname = \"b\"\nkey_sha256 = \"{KEY}\"\n\
             [[clients]]\nname = \"*\"\nkey_sha256 = \"{}\"\n",
            KEY.replace('4', "5"),
        ),
        &expect![[r#"
            zonda.toml:4: clients: "a" is there twice
            zonda.toml:6: clients: "b" has a key of "a"
            zonda.toml:9: clients: "*" is every client without an entry and has no key of its own
        "#]],
    );
}

#[test]
fn the_network_needs_keys_and_encryption() {
    let open = |more: &str| {
        let key = format!("[[clients]]\nname = \"a\"\nkey_sha256 = \"{KEY}\"\n");
        let address = "[http]\naddress = \"0.0.0.0:8080\"\n";
        (load(&format!("{address}{more}")).is_ok(), load(&format!("{address}{more}{key}")).is_ok())
    };
    let tls = "tls_cert_file = \"a.pem\"\ntls_key_file = \"a.key\"\n";
    assert_eq!(open(""), (false, false));
    assert_eq!(open(tls), (false, true));
    assert_eq!(open("insecure = true\n"), (false, true));
    assert_eq!(open(&format!("{tls}tls_client_ca_file = \"ca.pem\"\n")), (true, true));
    assert_eq!(open("tcp = false\nunix_socket = \"/run/zonda/http.sock\"\n"), (true, true));
    assert_eq!(open("tcp = false\n"), (false, false));
}

#[test]
fn files_of_tls_come_together() {
    check_problems(
        "[http]\ntls_cert_file = \"a.pem\"\n",
        &expect![[r#"
            zonda.toml:2: http.tls_cert_file is of no use without http.tls_key_file
        "#]],
    );
    check_problems(
        "[http]\ntls_client_ca_file = \"ca.pem\"\n",
        &expect![[r#"
            zonda.toml:2: http.tls_client_ca_file is of no use without http.tls_cert_file and http.tls_key_file
        "#]],
    );
}
