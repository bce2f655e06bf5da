//! The hyper-parameters beside safetensors: Hugging Face's `config.json`, Mistral's `params.json`.

use serde_json::Value;

use crate::hyper;
use crate::json::Document;
use crate::{Hyper, RopePairing, WeightsError};

const ANOTHER_MODEL: &str = "Use a dense text model of the Mistral family.";
const UNSCALED: &str = "Use a model whose rotary angles are not scaled.";
const VOCABULARY_MAX: u32 = hyper::VOCABULARY_MAX as u32;

/// Reads `config.json`. A key that is left out has the default of its `model_type`.
pub(crate) fn hugging_face(config: &Document) -> Result<Hyper, WeightsError> {
    let kind = config.text("model_type")?.ok_or_else(|| config.missing("model_type"))?;
    let mistral = kind == "mistral";
    if !mistral && kind != "llama" {
        let shown: String = kind.chars().take(60).collect();
        return Err(config.unsupported(format!("model type {shown:?}"), ANOTHER_MODEL));
    }
    if config.value("quantization_config").is_some() {
        let advice = "Use the BF16 files, or a quantised GGUF file.";
        return Err(config.unsupported("a quantised Hugging Face model", advice));
    }
    for key in ["attention_bias", "mlp_bias"] {
        if config.bool(key)? == Some(true) {
            return Err(config.unsupported(format!("`{key}`"), ANOTHER_MODEL));
        }
    }
    if config.text("hidden_act")?.is_some_and(|name| name != "silu") {
        return Err(config.wrong("hidden_act", "\"silu\""));
    }
    let heads = config.required("num_attention_heads", hyper::HEADS_MAX)?;
    let hidden = config.required("hidden_size", hyper::HIDDEN_MAX)?;
    let sliding_window = match config.count("sliding_window", u32::MAX)? {
        _ if !mistral => None,
        None if !config.states("sliding_window") => Some(4096),
        stated => stated,
    };
    let kv_heads = match config.count("num_key_value_heads", hyper::HEADS_MAX)? {
        None if mistral && !config.states("num_key_value_heads") => 8,
        stated => stated.unwrap_or(heads),
    };
    let epsilon = config.number("rms_norm_eps")?.ok_or_else(|| config.missing("rms_norm_eps"))?;
    let stated = Hyper {
        name: config.text("_name_or_path")?.filter(|name| !name.is_empty()).map(str::to_owned),
        license: config.text("license")?.map(str::to_owned),
        vocabulary: config.required("vocab_size", VOCABULARY_MAX)?,
        hidden,
        feed_forward: config.required("intermediate_size", hyper::FEED_FORWARD_MAX)?,
        layers: config.required("num_hidden_layers", hyper::LAYERS_MAX)?,
        heads,
        kv_heads,
        head_dim: head_dim(config, hidden, heads)?,
        context_tokens_max: 0,
        rope_theta: rope_theta(config)?,
        rms_epsilon: epsilon,
        sliding_window,
        tied_embeddings: config.bool("tie_word_embeddings")?.unwrap_or(false),
        pairing: RopePairing::HalfSplit,
    };
    let key = "max_position_embeddings";
    stated.settle(config.count(key, hyper::CONTEXT_TOKENS_MAX)?, &config.path, key)
}

/// What the file states; one that leaves it out means `hidden / heads`.
fn head_dim(document: &Document, hidden: u32, heads: u32) -> Result<u32, WeightsError> {
    match document.count("head_dim", hyper::HEAD_DIM_MAX)? {
        Some(stated) => Ok(stated),
        None if hidden.is_multiple_of(heads) => Ok(hidden / heads),
        None => Err(document.missing("head_dim")),
    }
}

/// `rope_parameters.rope_theta` in newer files, `rope_theta` in older ones.
fn rope_theta(config: &Document) -> Result<f64, WeightsError> {
    let mut theta = config.number("rope_theta")?;
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(value) = config.value(key) else {
            continue;
        };
        let rope = value.as_object().ok_or_else(|| config.wrong(key, "an object"))?;
        for name in ["rope_type", "type"] {
            if rope.get(name).is_some_and(|kind| !kind.is_null() && kind != "default") {
                return Err(config.unsupported(format!("`{key}` with scaled angles"), UNSCALED));
            }
        }
        match rope.get("rope_theta") {
            None | Some(Value::Null) => {}
            Some(stated) => {
                let number = stated.as_f64();
                theta = Some(number.ok_or_else(|| config.wrong(key, "a number as rope_theta"))?);
            }
        }
    }
    Ok(theta.unwrap_or(10_000.0))
}

/// Keys of `params.json` that mean another architecture than the dense one.
const NOT_DENSE: [&str; 8] = [
    "moe",
    "vision_encoder",
    "multimodal",
    "quantization",
    "yarn",
    "rope_scaling",
    "llama_4_scaling",
    "lora",
];

/// Reads `params.json`.
pub(crate) fn mistral(params: &Document) -> Result<Hyper, WeightsError> {
    for key in NOT_DENSE {
        if params.value(key).is_some_and(|value| value != &Value::Bool(false)) {
            return Err(params.unsupported(format!("`{key}`"), ANOTHER_MODEL));
        }
    }
    if params.text("model_type")?.is_some_and(|kind| kind != "transformer") {
        return Err(params.wrong("model_type", "\"transformer\""));
    }
    let heads = params.required("n_heads", hyper::HEADS_MAX)?;
    let hidden = params.required("dim", hyper::HIDDEN_MAX)?;
    let sliding_window = params.count("sliding_window", u32::MAX)?;
    // The format's own rule for files older than the key.
    let rope_theta = match params.number("rope_theta")? {
        Some(stated) => stated,
        None if sliding_window.is_some() => 10_000.0,
        None => 1_000_000.0,
    };
    let epsilon = params.number("norm_eps")?.ok_or_else(|| params.missing("norm_eps"))?;
    let stated = Hyper {
        name: None,
        license: None,
        vocabulary: params.required("vocab_size", VOCABULARY_MAX)?,
        hidden,
        feed_forward: params.required("hidden_dim", hyper::FEED_FORWARD_MAX)?,
        layers: params.required("n_layers", hyper::LAYERS_MAX)?,
        heads,
        kv_heads: params.count("n_kv_heads", hyper::HEADS_MAX)?.unwrap_or(heads),
        head_dim: head_dim(params, hidden, heads)?,
        context_tokens_max: 0,
        rope_theta,
        rms_epsilon: epsilon,
        sliding_window,
        tied_embeddings: params.bool("tied_embeddings")?.unwrap_or(false),
        pairing: RopePairing::Adjacent,
    };
    let mut claimed = None;
    for key in ["max_position_embeddings", "max_seq_len", "model_max_length"] {
        claimed = claimed.or(params.count(key, hyper::CONTEXT_TOKENS_MAX)?);
    }
    // Most files leave it out; the format's own reader then takes this many.
    const CONTEXT_TOKENS_DEFAULT: u32 = 16_384;
    let claimed = claimed.unwrap_or(CONTEXT_TOKENS_DEFAULT);
    stated.settle(Some(claimed), &params.path, "max_seq_len")
}
