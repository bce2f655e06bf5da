//! Folders of safetensors: which files belong together, and what their configurations say.

use std::sync::Arc;

use crate::forge::*;
use weights::{Archive, Container, RopePairing, TensorName, WeightsError};

const INDEX: &str = "model.safetensors.index.json";
const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

fn hugging_face(config: &str) -> Result<Arc<dyn Archive>, WeightsError> {
    let weights = safetensors(&tensors(HUGGING_FACE_NAMES));
    open_folder(&[("config.json", config.as_bytes()), ("model.safetensors", &weights)])
}

fn mistral(params: &str) -> Result<Arc<dyn Archive>, WeightsError> {
    let weights = safetensors(&tensors(MISTRAL_NAMES));
    open_folder(&[("params.json", params.as_bytes()), ("consolidated.safetensors", &weights)])
}

/// An index over the two shards, split after `cut` tensors.
fn index(cut: usize) -> String {
    let lines: Vec<String> = HUGGING_FACE_NAMES
        .iter()
        .enumerate()
        .map(|(position, name)| format!(r#""{name}":"{}""#, SHARDS[usize::from(position >= cut)]))
        .collect();
    format!(r#"{{"metadata":{{"total_size":1}},"weight_map":{{{}}}}}"#, lines.join(","))
}

fn sharded(index: &str, cut: usize) -> Result<Arc<dyn Archive>, WeightsError> {
    let all = tensors(HUGGING_FACE_NAMES);
    let (first, second) = (safetensors(&all[..cut]), safetensors(&all[cut..]));
    open_folder(&[
        ("config.json", CONFIG.as_bytes()),
        (INDEX, index.as_bytes()),
        (SHARDS[0], &first),
        (SHARDS[1], &second),
    ])
}

#[test]
fn each_layout_says_its_pairing_and_gives_its_tensors() {
    let both = [
        (hugging_face(CONFIG).unwrap(), Container::HuggingFace, RopePairing::HalfSplit),
        (mistral(PARAMS).unwrap(), Container::Mistral, RopePairing::Adjacent),
    ];
    for (archive, container, pairing) in both {
        assert_eq!(archive.container(), container);
        let hyper = archive.hyper();
        assert_eq!(hyper.pairing, pairing);
        assert_eq!((hyper.heads, hyper.kv_heads, hyper.head_dim), (2, 1, 2));
        assert_eq!((hyper.rope_theta, hyper.rms_epsilon), (1e6, 1e-5));
        let names = [TensorName::Embedding, TensorName::OutputNorm, TensorName::Output];
        let blocks = weights::Part::ALL.map(|part| TensorName::Block { layer: 0, part });
        for (position, name) in names.into_iter().chain(blocks).enumerate() {
            let tensor = archive.tensor(name).unwrap();
            assert_eq!(tensor.shape, hyper.shape_of(name));
            assert!(tensor.to_f32().unwrap().iter().all(|&value| value == value_of(position)));
        }
        assert!(archive.vocabulary().is_none());
        assert!(archive.file_bytes() > 0 && archive.modified_unix() > 1_600_000_000);
    }
}

#[test]
fn a_layer_that_is_not_there_is_named_as_the_file_would() {
    let part = weights::Part::Query;
    let name = TensorName::Block { layer: 7, part };
    let said = hugging_face(CONFIG).unwrap().tensor(name).unwrap_err().to_string();
    assert!(said.contains("`model.layers.7.self_attn.q_proj.weight` is missing"), "{said}");
}

#[test]
fn a_file_opens_with_the_configuration_beside_it() {
    let weights = safetensors(&tensors(MISTRAL_NAMES));
    let both = folder(&[
        ("config.json", CONFIG.as_bytes()),
        ("params.json", PARAMS.as_bytes()),
        ("consolidated.safetensors", &weights),
    ]);
    let archive = weights::open(&both.path().join("consolidated.safetensors")).unwrap();
    assert_eq!(archive.container(), Container::Mistral);
    assert_eq!(weights::open(both.path()).unwrap().container(), Container::Mistral);
}

#[test]
fn a_folder_with_one_gguf_file_is_that_file() {
    let bytes = Gguf::sound().bytes();
    assert_eq!(open_folder(&[("a.gguf", &bytes)]).unwrap().container(), Container::Gguf);
    refused(open_folder(&[("a.gguf", &bytes), ("b.gguf", &bytes)]), "2 .gguf files");
    refused(open_folder(&[]), "no weights with their configuration");
}

#[test]
fn shards_join_by_their_index() {
    for cut in [1, 5, 11] {
        let archive = sharded(&index(cut), cut).unwrap();
        assert_eq!(archive.tensors().len(), 12);
        let output = archive.tensor(TensorName::Output).unwrap();
        assert_eq!(output.to_f32().unwrap(), vec![value_of(2); 12]);
    }
}

#[test]
fn an_index_must_tell_the_truth() {
    refused(sharded(&index(4), 5), "it is not in model-00002-of-00002.safetensors");
    let astray = index(5).replace(SHARDS[1], "../weights.safetensors");
    refused(sharded(&astray, 5), "names no shard here");
    refused(sharded(&index(5).replace(SHARDS[1], "/etc/passwd"), 5), "names no shard here");
    refused(sharded(&index(5).replace(SHARDS[1], "gone.safetensors"), 5), "cannot open");
    refused(sharded(r#"{"weight_map":{}}"#, 5), "0 shards");
    let twice = index(5).replace(r#"{"model.embed"#, r#"{"lm_head.weight":"x","model.embed"#);
    refused(sharded(&twice, 5), "is there twice");
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let all = tensors(HUGGING_FACE_NAMES);
    let (first, second) = (safetensors(&all), safetensors(&all[5..]));
    let shards = open_folder(&[
        ("config.json", CONFIG.as_bytes()),
        (INDEX, index(5).as_bytes()),
        (SHARDS[0], &first),
        (SHARDS[1], &second),
    ]);
    refused(shards, "the name is there twice");
}

#[test]
fn one_shard_alone_is_no_model() {
    let bytes = safetensors(&tensors(HUGGING_FACE_NAMES)[..5]);
    refused(open_bytes(SHARDS[0], &bytes), "Open the folder");
}

#[test]
fn tied_embeddings_need_no_output() {
    let mut all = tensors(HUGGING_FACE_NAMES);
    all.remove(2);
    let weights = safetensors(&all);
    let with = |config: &str| {
        open_folder(&[("config.json", config.as_bytes()), ("model.safetensors", &weights)])
    };
    refused(with(CONFIG), "`lm_head.weight` is missing");
    let tied = CONFIG.replace(r#""tie_word_embeddings": false"#, r#""tie_word_embeddings": true"#);
    let archive = with(&tied).unwrap();
    assert_eq!(archive.tensor(TensorName::Output).unwrap().to_f32().unwrap()[0], value_of(0));
}

#[test]
fn rope_parameters_are_read_where_newer_files_put_them() {
    let old = r#""rope_theta": 1000000.0"#;
    let newer = r#""rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}"#;
    assert_eq!(hugging_face(&CONFIG.replace(old, newer)).unwrap().hyper().rope_theta, 5e5);
    for scaled in [
        r#""rope_parameters": {"rope_theta": 5e5, "rope_type": "yarn", "factor": 4}"#,
        r#""rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 4}"#,
    ] {
        refused(hugging_face(&CONFIG.replace(old, scaled)), "scaled angles");
    }
    let none = r#""rope_theta": 1e6, "rope_scaling": null"#;
    assert!(hugging_face(&CONFIG.replace(old, none)).is_ok());
}

#[test]
fn a_window_is_a_number_or_null() {
    let null = r#""sliding_window": null"#;
    assert_eq!(hugging_face(CONFIG).unwrap().hyper().sliding_window, None);
    let stated = CONFIG.replace(null, r#""sliding_window": 16"#);
    assert_eq!(hugging_face(&stated).unwrap().hyper().sliding_window, Some(16));
    refused(hugging_face(&CONFIG.replace(null, r#""sliding_window": "x""#)), "`sliding_window`");
    let listed = PARAMS.replace(r#""dim""#, r#""sliding_window": [16, null], "dim""#);
    refused(mistral(&listed), "`sliding_window`");
}

#[test]
fn what_would_change_the_answer_is_refused() {
    let kind = r#""model_type": "mistral""#;
    refused(hugging_face(&CONFIG.replace(kind, r#""model_type": "mistral3""#)), "\"mistral3\"");
    refused(hugging_face(&CONFIG.replace(kind, r#""model_type": "qwen2""#)), "\"qwen2\"");
    assert!(hugging_face(&CONFIG.replace(kind, r#""model_type": "llama""#)).is_ok());
    let with = |key: &str| CONFIG.replace(kind, &format!("{kind}, {key}"));
    refused(hugging_face(&with(r#""quantization_config": {}"#)), "quantised");
    refused(hugging_face(&with(r#""attention_bias": true"#)), "attention_bias");
    refused(hugging_face(&with(r#""head_dim": 2"#)), "`head_dim` is there twice");
    refused(hugging_face(&CONFIG.replace("silu", "gelu")), "hidden_act");
    let plain = PARAMS.replace(r#""dim""#, r#""moe": null, "multimodal": false, "dim""#);
    assert!(mistral(&plain).is_ok());
    for key in [r#""moe": {}"#, r#""vision_encoder": {}"#, r#""yarn": {}"#] {
        let params = PARAMS.replace(r#""dim""#, &format!(r#"{key}, "dim""#));
        refused(mistral(&params), "not supported");
    }
}

#[test]
fn configuration_and_weights_must_belong_together() {
    let wide = CONFIG.replace(r#""vocab_size": 3"#, r#""vocab_size": 4"#);
    refused(
        hugging_face(&wide),
        "tensor `model.embed_tokens.weight` has shape [3, 4], the hyper-parameters ask for [4, 4]",
    );
    refused(hugging_face(r#"{"model_type": "mistral"}"#), "`num_attention_heads` is missing");
    refused(hugging_face("{"), "the document");
}

#[test]
fn the_tokenizer_is_chosen_by_the_size_of_the_vocabulary() {
    let weights = safetensors(&tensors(HUGGING_FACE_NAMES));
    let files = folder(&[
        ("config.json", CONFIG.as_bytes()),
        ("model.safetensors", &weights),
        ("tekken.json", b"{}"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.model", b"x"),
        ("tokenizer.model.v3", b"x"),
    ]);
    let archive = weights::open(files.path()).unwrap();
    assert_eq!(archive.tokenizer_path(), Some(&*files.path().join("tokenizer.model.v3")));
}

#[test]
fn a_params_file_without_a_context_has_the_default_of_its_format() {
    assert_eq!(mistral(PARAMS).unwrap().hyper().context_tokens_max, 16_384);
    let stated = PARAMS.replace(r#""dim""#, r#""max_seq_len": 512, "dim""#);
    assert_eq!(mistral(&stated).unwrap().hyper().context_tokens_max, 512);
}
