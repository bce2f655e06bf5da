//! What is asked and answered when texts are to become vectors.

use std::time::Instant;

/// Texts whose vectors are wanted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EmbedRequest {
    /// The embedder's name; empty for the first one.
    pub model: String,
    /// Who asks, where the transport knows.
    pub client: Option<String>,
    /// In the order of the answer.
    pub texts: Vec<String>,
    /// Numbers of each vector, where not all are wanted: its first ones, in unit length again.
    pub dimensions: Option<u32>,
    /// Nobody wants the answer after this moment.
    pub deadline: Option<Instant>,
}

impl EmbedRequest {
    /// Texts of one request, at most.
    pub const TEXTS_MAX: usize = 512;
}

/// One vector for each text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embeddings {
    /// The embedder that made them.
    pub model: String,
    /// In the order of the texts, all of one length.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens that were read, of all texts together.
    pub prompt_tokens: u32,
    /// Texts that were longer than the embedder reads; their ends are not in their vectors.
    pub truncated_texts: u32,
}

/// What a client may know of an embedder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EmbedderCard {
    /// The name that requests ask for.
    pub name: String,
    /// Numbers of a vector.
    pub dimensions: u32,
    /// Tokens of a text that are read.
    pub context_tokens_max: u32,
    /// Seconds since 1970 at which its file was last changed.
    pub created: u64,
}
