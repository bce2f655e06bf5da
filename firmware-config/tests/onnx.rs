//! Networks beside the model, as the configuration names them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use expect_test::expect;
use firmware_config::{
    DetectorConfig, Hardware, OnnxPooling, OnnxRole, OnnxScores, Profile, Sources,
};

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
fn networks_have_a_role_and_its_settings() {
    let profile = load(
        "[[onnx]]\nname = \"minilm\"\nrole = \"embedding\"\npath = \"/m/model.onnx\"\n\n\
         [[onnx]]\nname = \"guard\"\nrole = \"classifier\"\npath = \"/g/guard.onnx\"\n\
         tokenizer = \"/g/words.json\"\ntokens_max = 512\nlabels = [\"safe\", \"pii\"]\n\
         scores = \"sigmoid\"\n\n[[onnx.categories]]\nname = \"personal\"\nlabels = [\"pii\"]\n\
         threshold = 0.7\n",
    );
    let profile = profile.unwrap_or_else(|error| panic!("{error}"));
    let [minilm, guard] = &profile.onnx[..] else { panic!("two networks") };
    assert_eq!(minilm.tokenizer, Path::new("/m/tokenizer.json"));
    assert_eq!((minilm.tokens_max, profile.device.onnx_threads), (256, 1));
    let mean = OnnxRole::Embedding { pooling: OnnxPooling::Mean, normalize: true };
    assert_eq!(minilm.role, mean);
    assert_eq!((guard.tokenizer.as_path(), guard.tokens_max), (Path::new("/g/words.json"), 512));
    let OnnxRole::Classifier { labels, scores, abstain_below, categories } = &guard.role else {
        panic!("a classifier");
    };
    assert_eq!((&labels[..], *scores), (&["safe".into(), "pii".into()][..], OnnxScores::Sigmoid));
    assert_eq!((*abstain_below, categories[0].threshold), (0.0, 0.7));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let problems = load(
        "[[onnx]]\nrole = \"embedding\"\npath = \"m\"\n\n\
         [[onnx]]\nname = \"a\"\nrole = \"oracle\"\npath = \"m\"\n\n\
         [[onnx]]\nname = \"a\"\nrole = \"embedding\"\npath = \"m\"\nlabels = [\"x\"]\n\n\
         [[onnx]]\nname = \"a\"\nrole = \"classifier\"\npath = \"m\"\nlabels = [\"x\"]\n\
         categories = [{ name = \"c\", labels = [\"y\"] }]\n\n\
         [[onnx]]\nname = \"d\"\nrole = \"classifier\"\npath = \"m\"\n\n\
         [[onnx]]\nname = \"e\"\nrole = \"embedding\"\n",
    );
    expect![[r#"
        /etc/zonda/zonda.toml:1: onnx: name is missing
        /etc/zonda/zonda.toml:7: onnx: role is "oracle"; expected embedding, classifier or detector
        /etc/zonda/zonda.toml:14: onnx: unknown key labels; known are name, role, pooling, normalize, path, tokenizer, tokens_max
        /etc/zonda/zonda.toml:16: onnx: "a" is there twice
        /etc/zonda/zonda.toml:21: onnx: categories: "y" is no label of this network
        /etc/zonda/zonda.toml:23: onnx: labels is missing: one for each output of the network, in their order
        /etc/zonda/zonda.toml:28: onnx: path is missing
    "#]].assert_eq(&problems.expect_err("the configuration is wrong"));
}

#[test]
fn a_detector_has_topics_and_a_threshold() {
    let profile = load(
        "[[onnx]]\nname = \"pump\"\nrole = \"detector\"\npath = \"/d/pump.onnx\"\n\
         topics = [\"plant/pump/1\", \"plant/pump/2\"]\nfield = \"/value\"\nthreshold = 0.5\n\n\
         [[onnx]]\nname = \"fan\"\nrole = \"detector\"\npath = \"/d/fan.onnx\"\n\
         topics = [\"fan\"]\nthreshold = 1\nclear_below = 0.25\nwindow = 64\nstride = 8\n\
         raise_after = 1\nclear_after = 3\nhold_ms = 5000\nrate_max = 10\n\
         prompt = \"Why is {topic} odd?\"\nprompt_tokens_max = 32\n",
    );
    let profile = profile.unwrap_or_else(|error| panic!("{error}"));
    let detectors = profile.onnx.iter().map(|network| match &network.role {
        OnnxRole::Detector(detector) => detector.clone(),
        _ => panic!("a detector"),
    });
    let pump = DetectorConfig {
        topics: vec!["plant/pump/1".into(), "plant/pump/2".into()],
        field: Some("/value".into()),
        window: None,
        stride: None,
        threshold: 0.5,
        clear_below: 0.5,
        raise_after: 2,
        clear_after: 2,
        hold: Duration::from_secs(60),
        rate_max: 100,
        prompt: None,
        prompt_tokens_max: 128,
    };
    let fan = DetectorConfig {
        topics: vec!["fan".into()],
        field: None,
        window: Some(64),
        stride: Some(8),
        threshold: 1.0,
        clear_below: 0.25,
        raise_after: 1,
        clear_after: 3,
        hold: Duration::from_secs(5),
        rate_max: 10,
        prompt: Some("Why is {topic} odd?".into()),
        prompt_tokens_max: 32,
    };
    assert_eq!(detectors.collect::<Vec<_>>(), [pump, fan]);
}

#[test]
fn what_is_wrong_with_a_detector_is_said() {
    let one = |more: &str| {
        format!(
            "[[onnx]]\nname = \"a\"\nrole = \"detector\"\npath = \"m\"\ntopics = [\"t\"]\n\
             threshold = 1\n{more}\n"
        )
    };
    let problem = |text: &str| load(text).expect_err("the configuration is wrong");
    let check = |more: &str, expected: &str| {
        let told = problem(&one(more));
        assert!(told.contains(expected), "{told}");
    };
    check("tokens_max = 64", "unknown key tokens_max");
    check("clear_below = 2", "clear_below is greater than threshold");
    check("window = 1", "window is 2 to 4096");
    check("prompt = \"{score\"", "placeholders are among {detector}, {topic}");
    check("field = \"value\"", "a JSON pointer such as \"/value\"");
    check("hold_ms = -1", "hold_ms");
    let told = problem(&one("").replace("[\"t\"]", "[\"t\", \"t\"]"));
    assert!(told.contains("topics: one is there twice"), "{told}");
    let told = problem(&one("").replace("[\"t\"]", "[\"plant/#\"]"));
    assert!(told.contains("a topic without + and #"), "{told}");
    let told = problem(&one("").replace("threshold = 1\n", ""));
    assert!(told.contains("threshold is missing"), "{told}");
    let told = problem(&one("").replace("\"a\"", "\"a/b\""));
    assert!(told.contains("is a level of topics"), "{told}");
    let told = problem(&(one("") + "[mqtt]\nenabled = false\n"));
    assert!(told.contains("a detector of [[onnx]] listens to MQTT"), "{told}");
}
