//! Tensor names: ours, and the spelling of each container. Nobody else spells one.

use crate::archive::Container;

/// A tensor of the architecture, whatever its container calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorName {
    /// Token embedding, `[vocabulary, hidden]`.
    Embedding,
    /// Gain of the norm before the output, `[hidden]`.
    OutputNorm,
    /// Output projection, `[vocabulary, hidden]`; the embedding where the two are tied.
    Output,
    /// A tensor of one layer.
    Block {
        /// Counted from 0.
        layer: u16,
        /// Which of its tensors.
        part: Part,
    },
}

/// A tensor of one layer. Shapes are `[rows (out), columns (in)]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Gain of the norm before attention, `[hidden]`.
    AttentionNorm,
    /// `[heads · head_dim, hidden]`
    Query,
    /// `[kv_heads · head_dim, hidden]`
    Key,
    /// `[kv_heads · head_dim, hidden]`
    Value,
    /// `[hidden, heads · head_dim]`
    AttentionOutput,
    /// Gain of the norm before the feed-forward, `[hidden]`.
    FeedForwardNorm,
    /// `[feed_forward, hidden]`
    Gate,
    /// `[feed_forward, hidden]`
    Up,
    /// `[hidden, feed_forward]`
    Down,
}

impl Part {
    /// Every part, in the order of computation.
    pub const ALL: [Self; 9] = [
        Self::AttentionNorm,
        Self::Query,
        Self::Key,
        Self::Value,
        Self::AttentionOutput,
        Self::FeedForwardNorm,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];
}

/// One container's spelling. A layer's tensor is `{layers}{layer}.{part}`.
struct Spelling {
    embedding: &'static str,
    output_norm: &'static str,
    output: &'static str,
    layers: &'static str,
    /// In the order of [`Part::ALL`].
    parts: [&'static str; 9],
}

const GGUF: Spelling = Spelling {
    embedding: "token_embd.weight",
    output_norm: "output_norm.weight",
    output: "output.weight",
    layers: "blk.",
    parts: [
        "attn_norm.weight",
        "attn_q.weight",
        "attn_k.weight",
        "attn_v.weight",
        "attn_output.weight",
        "ffn_norm.weight",
        "ffn_gate.weight",
        "ffn_up.weight",
        "ffn_down.weight",
    ],
};

const HUGGING_FACE: Spelling = Spelling {
    embedding: "model.embed_tokens.weight",
    output_norm: "model.norm.weight",
    output: "lm_head.weight",
    layers: "model.layers.",
    parts: [
        "input_layernorm.weight",
        "self_attn.q_proj.weight",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
        "self_attn.o_proj.weight",
        "post_attention_layernorm.weight",
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "mlp.down_proj.weight",
    ],
};

const MISTRAL: Spelling = Spelling {
    embedding: "tok_embeddings.weight",
    output_norm: "norm.weight",
    output: "output.weight",
    layers: "layers.",
    parts: [
        "attention_norm.weight",
        "attention.wq.weight",
        "attention.wk.weight",
        "attention.wv.weight",
        "attention.wo.weight",
        "ffn_norm.weight",
        "feed_forward.w1.weight",
        "feed_forward.w3.weight",
        "feed_forward.w2.weight",
    ],
};

fn spelling(container: Container) -> &'static Spelling {
    match container {
        Container::Gguf => &GGUF,
        Container::HuggingFace => &HUGGING_FACE,
        Container::Mistral => &MISTRAL,
    }
}

impl TensorName {
    /// What the container calls this tensor.
    pub fn spelled(self, container: Container) -> String {
        let words = spelling(container);
        match self {
            Self::Embedding => words.embedding.to_owned(),
            Self::OutputNorm => words.output_norm.to_owned(),
            Self::Output => words.output.to_owned(),
            Self::Block { layer, part } => {
                let part = words.parts[part as usize];
                format!("{}{layer}.{part}", words.layers)
            }
        }
    }

    /// The tensor which the container calls so, if it is one of the architecture's.
    pub(crate) fn from_spelling(container: Container, text: &str) -> Option<Self> {
        let words = spelling(container);
        if text == words.embedding {
            return Some(Self::Embedding);
        }
        if text == words.output_norm {
            return Some(Self::OutputNorm);
        }
        if text == words.output {
            return Some(Self::Output);
        }
        let (layer, part) = text.strip_prefix(words.layers)?.split_once('.')?;
        let number: u16 = layer.parse().ok()?;
        // Refuses "+1" and "01", which parse but are not how a container counts.
        if number.to_string() != layer {
            return None;
        }
        let index = words.parts.iter().position(|&known| known == part)?;
        Some(Self::Block { layer: number, part: Part::ALL[index] })
    }

    /// Whether the network multiplies with it; the embedding is only looked up.
    pub(crate) fn is_multiplied(self) -> bool {
        match self {
            Self::Embedding | Self::OutputNorm => false,
            Self::Output => true,
            Self::Block { part, .. } => {
                !matches!(part, Part::AttentionNorm | Part::FeedForwardNorm)
            }
        }
    }

    /// Every tensor of an architecture with so many layers, the output apart.
    pub(crate) fn all_but_output(layers: u16) -> impl Iterator<Item = Self> {
        let blocks = (0..layers)
            .flat_map(|layer| Part::ALL.into_iter().map(move |part| Self::Block { layer, part }));
        [Self::Embedding, Self::OutputNorm].into_iter().chain(blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_reads_back_as_the_same_name() {
        for container in [Container::Gguf, Container::HuggingFace, Container::Mistral] {
            for name in TensorName::all_but_output(3).chain([TensorName::Output]) {
                let text = name.spelled(container);
                assert_eq!(TensorName::from_spelling(container, &text), Some(name), "{text}");
            }
        }
    }

    #[test]
    fn parts_are_spelled_in_their_own_order() {
        for (index, part) in Part::ALL.into_iter().enumerate() {
            assert_eq!(part as usize, index);
        }
    }

    #[test]
    fn foreign_names_are_no_names() {
        for text in
            ["blk.1.attn_q.bias", "blk.+1.attn_q.weight", "blk.01.attn_q.weight", "blk.", ""]
        {
            assert_eq!(TensorName::from_spelling(Container::Gguf, text), None, "{text}");
        }
    }
}
