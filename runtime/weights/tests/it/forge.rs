//! Small sound models to break: one layer, `hidden 4, heads 2/1 of 2, feed-forward 6, 3 tokens`.

use std::fs;
use std::sync::Arc;

use tempfile::TempDir;
use weights::{Archive, WeightsError};

/// What every container calls its tensors, with their shapes, rows first.
pub(crate) fn shapes(spelled: [&'static str; 12]) -> Vec<(&'static str, Vec<usize>)> {
    let shapes: [&[usize]; 12] = [
        &[3, 4],
        &[4],
        &[3, 4],
        &[4],
        &[4, 4],
        &[2, 4],
        &[2, 4],
        &[4, 4],
        &[4],
        &[6, 4],
        &[6, 4],
        &[4, 6],
    ];
    spelled.into_iter().zip(shapes.map(<[usize]>::to_vec)).collect()
}

pub(crate) const GGUF_NAMES: [&str; 12] = [
    "token_embd.weight",
    "output_norm.weight",
    "output.weight",
    "blk.0.attn_norm.weight",
    "blk.0.attn_q.weight",
    "blk.0.attn_k.weight",
    "blk.0.attn_v.weight",
    "blk.0.attn_output.weight",
    "blk.0.ffn_norm.weight",
    "blk.0.ffn_gate.weight",
    "blk.0.ffn_up.weight",
    "blk.0.ffn_down.weight",
];

pub(crate) const HUGGING_FACE_NAMES: [&str; 12] = [
    "model.embed_tokens.weight",
    "model.norm.weight",
    "lm_head.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.k_proj.weight",
    "model.layers.0.self_attn.v_proj.weight",
    "model.layers.0.self_attn.o_proj.weight",
    "model.layers.0.post_attention_layernorm.weight",
    "model.layers.0.mlp.gate_proj.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.0.mlp.down_proj.weight",
];

pub(crate) const MISTRAL_NAMES: [&str; 12] = [
    "tok_embeddings.weight",
    "norm.weight",
    "output.weight",
    "layers.0.attention_norm.weight",
    "layers.0.attention.wq.weight",
    "layers.0.attention.wk.weight",
    "layers.0.attention.wv.weight",
    "layers.0.attention.wo.weight",
    "layers.0.ffn_norm.weight",
    "layers.0.feed_forward.w1.weight",
    "layers.0.feed_forward.w3.weight",
    "layers.0.feed_forward.w2.weight",
];

/// Every value of the tensor at this place of the list.
pub(crate) fn value_of(position: usize) -> f32 {
    position as f32 + 0.5
}

fn bytes_of(position: usize, values: usize) -> Vec<u8> {
    value_of(position).to_le_bytes().repeat(values)
}

/// A value of GGUF's metadata, with its type number in front.
pub(crate) fn u32_value(number: u32) -> Vec<u8> {
    [4_u32.to_le_bytes(), number.to_le_bytes()].concat()
}

pub(crate) fn f32_value(number: f32) -> Vec<u8> {
    [6_u32.to_le_bytes(), number.to_le_bytes()].concat()
}

pub(crate) fn bool_value(byte: u8) -> Vec<u8> {
    [&7_u32.to_le_bytes()[..], &[byte]].concat()
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

pub(crate) fn text_value(content: &str) -> Vec<u8> {
    [&8_u32.to_le_bytes()[..], &text(content)].concat()
}

pub(crate) fn array_value(kind: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    let head = [&9_u32.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes()].concat();
    [&head[..], elements].concat()
}

#[derive(Clone)]
pub(crate) struct GgufTensor {
    pub(crate) name: String,
    /// Columns first, as the file has them.
    pub(crate) dimensions: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) bytes: Vec<u8>,
    /// Instead of where it really lies.
    pub(crate) offset: Option<u64>,
}

#[derive(Clone)]
pub(crate) struct Gguf {
    pub(crate) version: u32,
    pub(crate) alignment: u64,
    pub(crate) keys: Vec<(String, Vec<u8>)>,
    pub(crate) tensors: Vec<GgufTensor>,
    pub(crate) key_count: Option<u64>,
    pub(crate) tensor_count: Option<u64>,
}

impl Gguf {
    pub(crate) fn sound() -> Self {
        let tokens = ["<unk>", "<s>", "</s>"].map(text).concat();
        let keys = [
            ("general.architecture", text_value("llama")),
            ("general.name", text_value("Forged")),
            ("general.license", text_value("apache-2.0")),
            ("llama.vocab_size", u32_value(3)),
            ("llama.context_length", u32_value(64)),
            ("llama.embedding_length", u32_value(4)),
            ("llama.block_count", u32_value(1)),
            ("llama.feed_forward_length", u32_value(6)),
            ("llama.attention.head_count", u32_value(2)),
            ("llama.attention.head_count_kv", u32_value(1)),
            ("llama.rope.freq_base", f32_value(1e6)),
            ("llama.attention.layer_norm_rms_epsilon", f32_value(1e-5)),
            ("tokenizer.ggml.model", text_value("llama")),
            ("tokenizer.ggml.tokens", array_value(8, 3, &tokens)),
            ("tokenizer.ggml.scores", array_value(6, 3, &[0; 12])),
            ("tokenizer.ggml.token_type", array_value(5, 3, &[2, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0])),
            ("tokenizer.ggml.bos_token_id", u32_value(1)),
            ("tokenizer.ggml.eos_token_id", u32_value(2)),
            ("tokenizer.ggml.add_bos_token", bool_value(1)),
        ];
        let tensor = |(position, (name, shape)): (usize, (&str, Vec<usize>))| GgufTensor {
            name: name.to_owned(),
            dimensions: shape.iter().rev().map(|&dimension| dimension as u64).collect(),
            kind: 0,
            bytes: bytes_of(position, shape.iter().product()),
            offset: None,
        };
        Self {
            version: 3,
            alignment: 32,
            keys: keys.map(|(key, value)| (key.to_owned(), value)).to_vec(),
            tensors: shapes(GGUF_NAMES).into_iter().enumerate().map(tensor).collect(),
            key_count: None,
            tensor_count: None,
        }
    }

    /// Sets or adds a key.
    pub(crate) fn with(mut self, key: &str, value: Vec<u8>) -> Self {
        self.keys.retain(|(known, _)| known != key);
        self.keys.push((key.to_owned(), value));
        self
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        self.keys.retain(|(known, _)| known != key);
        self
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut GgufTensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("a forged name")
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let count = |stated: Option<u64>, real: usize| stated.unwrap_or(real as u64).to_le_bytes();
        let mut out = [&b"GGUF"[..], &self.version.to_le_bytes()].concat();
        out.extend(count(self.tensor_count, self.tensors.len()));
        out.extend(count(self.key_count, self.keys.len()));
        for (key, value) in &self.keys {
            out.extend(text(key));
            out.extend(value);
        }
        let pad = |length: usize| (length as u64).next_multiple_of(self.alignment) as usize;
        let mut offset = 0;
        for tensor in &self.tensors {
            out.extend(text(&tensor.name));
            out.extend((tensor.dimensions.len() as u32).to_le_bytes());
            for dimension in &tensor.dimensions {
                out.extend(dimension.to_le_bytes());
            }
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(offset as u64).to_le_bytes());
            offset = pad(offset + tensor.bytes.len());
        }
        for tensor in &self.tensors {
            out.resize(pad(out.len()), 0);
            out.extend(&tensor.bytes);
        }
        out.resize(pad(out.len()), 0);
        out
    }

    pub(crate) fn open(&self) -> Result<Arc<dyn Archive>, WeightsError> {
        open_bytes("model.gguf", &self.bytes())
    }

    /// The error's text; the model must not open.
    pub(crate) fn refusal(&self) -> String {
        refusal(self.open())
    }
}

#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn tensors(spelled: [&'static str; 12]) -> Vec<Tensor> {
    let tensor = |(position, (name, shape)): (usize, (&str, Vec<usize>))| Tensor {
        name: name.to_owned(),
        dtype: "F32",
        bytes: bytes_of(position, shape.iter().product()),
        shape,
    };
    shapes(spelled).into_iter().enumerate().map(tensor).collect()
}

/// A sound safetensors file.
pub(crate) fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut end = 0;
    let mut lines = Vec::new();
    for Tensor { name, dtype, shape, bytes } in tensors {
        let begin = end;
        end += bytes.len();
        lines.push(format!(
            r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#
        ));
    }
    let data: Vec<u8> = tensors.iter().flat_map(|tensor| tensor.bytes.clone()).collect();
    with_header(&format!("{{{}}}", lines.join(",")), &data)
}

pub(crate) fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

pub(crate) const CONFIG: &str = r#"{
  "model_type": "mistral", "vocab_size": 3, "hidden_size": 4, "intermediate_size": 6,
  "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2,
  "hidden_act": "silu", "max_position_embeddings": 64, "rms_norm_eps": 1e-05,
  "rope_theta": 1000000.0, "sliding_window": null, "tie_word_embeddings": false
}"#;

pub(crate) const PARAMS: &str = r#"{
  "dim": 4, "n_layers": 1, "head_dim": 2, "hidden_dim": 6, "n_heads": 2, "n_kv_heads": 1,
  "norm_eps": 1e-05, "vocab_size": 3, "rope_theta": 1000000.0
}"#;

/// A folder with these files.
pub(crate) fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

pub(crate) fn open_bytes(name: &str, bytes: &[u8]) -> Result<Arc<dyn Archive>, WeightsError> {
    // The mapping outlives the folder's entry for the file.
    weights::open(&folder(&[(name, bytes)]).path().join(name))
}

pub(crate) fn open_folder(files: &[(&str, &[u8])]) -> Result<Arc<dyn Archive>, WeightsError> {
    weights::open(folder(files).path())
}

pub(crate) fn refusal(opened: Result<Arc<dyn Archive>, WeightsError>) -> String {
    match opened {
        Ok(archive) => panic!("opened: {:?}", archive.hyper()),
        Err(error) => error.to_string(),
    }
}

pub(crate) fn refused(opened: Result<Arc<dyn Archive>, WeightsError>, words: &str) {
    let said = refusal(opened);
    assert!(said.contains(words), "expected {words:?} in: {said}");
}

/// Where the shared models lie, if they are on this machine.
pub(crate) fn shared() -> Option<std::path::PathBuf> {
    // From the root, because a test links to it from another folder.
    let beside = std::env::current_dir().unwrap().join("../../../shared");
    let shared = std::env::var_os("ZONDA_SHARED").map_or(beside, Into::into);
    if shared.join("data/models").is_dir() {
        return Some(shared);
    }
    println!("skipped: no shared data");
    None
}
