//! Networks beside the model, as the configuration names them.

use std::fs;
use std::path::Path;

use expect_test::expect;
use firmware_config::{Hardware, OnnxPooling, OnnxRole, OnnxScores, Profile, Sources};

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
        /etc/zonda/zonda.toml:7: onnx: role is "oracle"; expected embedding or classifier
        /etc/zonda/zonda.toml:14: onnx: unknown key labels; known are name, role, pooling, normalize, path, tokenizer, tokens_max
        /etc/zonda/zonda.toml:16: onnx: "a" is there twice
        /etc/zonda/zonda.toml:21: onnx: categories: "y" is no label of this network
        /etc/zonda/zonda.toml:23: onnx: labels is missing: one for each output of the network, in their order
        /etc/zonda/zonda.toml:28: onnx: path is missing
    "#]].assert_eq(&problems.expect_err("the configuration is wrong"));
}
