//! What decides before the model, as the configuration says it.

use std::fs;

use expect_test::{Expect, expect};
use firmware_config::{Hardware, Profile, RouteAction, Sources};

fn load(text: &str) -> Result<Profile, String> {
    let root = tempfile::tempdir().expect("a fresh folder");
    let path = root.path().join("etc/zonda/zonda.toml");
    fs::create_dir_all(path.parent().expect("it has a folder")).expect("a fresh folder");
    fs::write(path, text).expect("a fresh file");
    let loaded = Profile::load(&Sources {
        config: None,
        profile: None,
        environment: Vec::new(),
        overrides: Vec::new(),
        root: root.path().to_owned(),
        hardware: Hardware { memory_bytes: 8 << 30, ..Hardware::default() },
    });
    loaded
        .map(|loaded| loaded.profile)
        .map_err(|error| error.to_string().replace(&root.path().display().to_string(), "") + "\n")
}

#[test]
fn a_route_answers_refuses_or_goes_on() {
    let profile = load(
        "[router]\nnetwork = \"guard\"\n\n\
         [[router.routes]]\nlabel = \"greeting\"\nexamples = [\"hello\"]\nanswer = \"Hello!\"\n\n\
         [[router.routes]]\nlabel = \"injection\"\nrefuse = \"No.\"\n\n\
         [[router.routes]]\nlabel = \"other\"\n",
    );
    let profile = profile.unwrap_or_else(|error| panic!("{error}"));
    let router = profile.router.expect("a router");
    assert_eq!((router.network.as_str(), router.threshold), ("guard", 0.8));
    let actions: Vec<&RouteAction> = router.routes.iter().map(|route| &route.action).collect();
    let answer = RouteAction::Answer("Hello!".into());
    let refuse = RouteAction::Refuse("No.".into());
    assert_eq!(actions, [&answer, &refuse, &RouteAction::Model]);
    assert_eq!(router.routes[0].examples, ["hello"]);
    assert_eq!(load("").unwrap_or_else(|error| panic!("{error}")).router, None);
}

fn check(text: &str, expected: Expect) {
    expected.assert_eq(&load(text).expect_err("the configuration is wrong"));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    check(
        "[router]\nnetwork = \"guard\"\n",
        expect![[r#"
            /etc/zonda/zonda.toml:2: router.routes is missing: what follows from each label
        "#]],
    );
    check(
        "[[router.routes]]\nlabel = \"a\"\n",
        expect![[r#"
            /etc/zonda/zonda.toml:1: router.network is missing: what decides between the routes
        "#]],
    );
    check(
        "[router]\nnetwork = \"guard\"\n\n[[router.routes]]\nlabel = \"a\"\nanswer = \"x\"\n\
         refuse = \"y\"\n\n[[router.routes]]\nanswer = \"x\"\n\n[[router.routes]]\nlabel = \"a\"\n\
         threshold = 1\n",
        expect![[r#"
            /etc/zonda/zonda.toml:4: router.routes: a route has an answer or refuses, not both
            /etc/zonda/zonda.toml:9: router.routes: label is missing
            /etc/zonda/zonda.toml:12: router.routes: "a" is there twice
            /etc/zonda/zonda.toml:14: router.routes: unknown key threshold; known are label, examples, answer, refuse
        "#]],
    );
}
