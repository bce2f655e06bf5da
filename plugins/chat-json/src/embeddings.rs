//! Bodies of `/v1/embeddings` and their answers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::{EmbedRequest, Embeddings, Fault};
use serde_json::{Value, json};

use crate::bodies::short;
use crate::ext::{Ext, read_ext};
use crate::fields::{Fields, Notes, Strictness, invalid, unsupported, wrong_type};
use crate::json::parse_json;
use crate::settings::{deadline, read_model};

/// Most numbers of a vector that a body may ask for.
const DIMENSIONS_MAX: i64 = 65_536;

/// What a number of a vector is told as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dtype {
    Float,
    /// From -127 to 127: 127 times the number of the vector in unit length.
    Int8,
    /// As `Int8`, plus 128.
    Uint8,
    /// One bit for each number, 1 where it is above 0, the first number's bit highest; minus 128.
    Binary,
    /// As `Binary`, without the subtraction.
    Ubinary,
}

const DTYPES: &[(&str, Dtype)] = &[
    ("float", Dtype::Float),
    ("int8", Dtype::Int8),
    ("uint8", Dtype::Uint8),
    ("binary", Dtype::Binary),
    ("ubinary", Dtype::Ubinary),
];

/// One body: texts, and how their vectors are told.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// What is asked.
    pub request: EmbedRequest,
    /// Settings of the delivery.
    pub ext: Ext,
    /// Paths of fields that were sent and have no effect.
    pub ignored: Vec<String>,
    dtype: Dtype,
    is_base64: bool,
}

/// Reads a body: Mistral's `output_dimension` and `output_dtype`, OpenAI's `dimensions`, and
/// `encoding_format` of both.
///
/// Errors: as [`parse_chat`](crate::parse_chat); `Unsupported` for tokens instead of texts.
pub fn parse_embeddings(body: &[u8], strictness: Strictness) -> Result<Embedding, Fault> {
    let value = parse_json(body)?;
    let body = Fields::of(&value, "")?;
    let mut notes = Notes::new(strictness);
    let mistral = ["model", "input", "output_dimension", "output_dtype", "encoding_format"];
    let others = ["metadata", "ext", "dimensions"];
    let taken = if notes.is_strict() { &others[..2] } else { &others[..] };
    body.only(&[&mistral[..], taken].concat(), &mut notes)?;
    let ext = body.object("ext")?.as_ref().map_or_else(|| Ok(Ext::default()), read_ext)?;
    let dtype = word(&body, "output_dtype", DTYPES)?.unwrap_or(Dtype::Float);
    let formats = &[("float", false), ("base64", true)];
    let is_base64 = word(&body, "encoding_format", formats)?.unwrap_or(false);
    let request = EmbedRequest {
        model: read_model(&body, &notes)?,
        texts: read_texts(&body)?,
        dimensions: read_dimensions(&body)?,
        deadline: deadline(&ext),
        ..EmbedRequest::default()
    };
    Ok(Embedding { request, ext, ignored: notes.ignored, dtype, is_base64 })
}

impl Embedding {
    /// The whole answer. `id`: its name.
    pub fn body(&self, id: &str, embeddings: &Embeddings) -> Value {
        let told = |(index, vector): (usize, &Vec<f32>)| json!({ "object": "embedding", "index": index, "embedding": self.told(vector) });
        let data: Vec<Value> = embeddings.vectors.iter().enumerate().map(told).collect();
        json!({
            "id": id,
            "object": "list",
            "data": data,
            "model": embeddings.model,
            "usage": {
                "prompt_tokens": embeddings.prompt_tokens,
                "completion_tokens": 0,
                "total_tokens": embeddings.prompt_tokens,
            },
        })
    }

    fn told(&self, vector: &[f32]) -> Value {
        let bytes: Vec<u8> = match self.dtype {
            Dtype::Float if !self.is_base64 => {
                return vector.iter().map(|number| short(*number)).collect();
            }
            Dtype::Float => vector.iter().flat_map(|number| number.to_le_bytes()).collect(),
            Dtype::Int8 => eighths(vector).map(|number| number as u8).collect(),
            Dtype::Uint8 => eighths(vector).map(|number| (number as u8) ^ 0x80).collect(),
            Dtype::Binary => bits(vector).map(|byte| byte ^ 0x80).collect(),
            Dtype::Ubinary => bits(vector).collect(),
        };
        if self.is_base64 {
            return Value::String(STANDARD.encode(bytes));
        }
        let is_signed = matches!(self.dtype, Dtype::Int8 | Dtype::Binary);
        let number = |byte: u8| if is_signed { json!(byte.cast_signed()) } else { json!(byte) };
        bytes.into_iter().map(number).collect()
    }
}

/// The vector in unit length, in 8 bits: no number of it lies outside -1 to 1.
fn eighths(vector: &[f32]) -> impl Iterator<Item = i8> {
    let square: f64 = vector.iter().map(|number| f64::from(*number).powi(2)).sum();
    let scale = if square > 0.0 { 127.0 / square.sqrt() } else { 0.0 };
    vector.iter().map(move |number| (f64::from(*number) * scale).round() as i8)
}

fn bits(vector: &[f32]) -> impl Iterator<Item = u8> {
    vector.chunks(8).map(|eight| {
        let bit = |(at, number): (usize, &f32)| u8::from(*number > 0.0) << (7 - at);
        eight.iter().enumerate().map(bit).sum()
    })
}

fn read_texts(body: &Fields<'_>) -> Result<Vec<String>, Fault> {
    let tokens = |path: String| {
        Err(unsupported("tokens are not taken: they are another vocabulary's; send texts", path))
    };
    let items = match body.value("input") {
        None => return Err(body.missing("input")),
        Some(Value::String(text)) => return Ok(vec![text.clone()]),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong_type(other, "a string or a list of strings", "input")),
    };
    // A list of tokens may be longer than one of texts; what it is, is said first.
    if let Some(at) = items.iter().position(|item| item.is_number() || item.is_array()) {
        return tokens(format!("input[{at}]"));
    }
    let items = body.list("input", EmbedRequest::TEXTS_MAX)?.unwrap_or_default();
    if items.is_empty() {
        return Err(invalid("must not be empty", "input"));
    }
    let text = |(at, item): (usize, &Value)| match item {
        Value::String(text) => Ok(text.clone()),
        other => Err(wrong_type(other, "a string", format!("input[{at}]"))),
    };
    items.iter().enumerate().map(text).collect()
}

/// One number with two names: either, or both where they agree.
fn read_dimensions(body: &Fields<'_>) -> Result<Option<u32>, Fault> {
    let first = body.integer("output_dimension", 1..=DIMENSIONS_MAX)?;
    let second = body.integer("dimensions", 1..=DIMENSIONS_MAX)?;
    if let (Some(first), Some(second)) = (first, second)
        && first != second
    {
        let message = "output_dimension and dimensions contradict each other; send one";
        return Err(invalid(message, "dimensions"));
    }
    // In range of u32, so the cast keeps the number.
    Ok(first.or(second).map(|dimensions| dimensions as u32))
}

fn word<T: Copy>(body: &Fields<'_>, name: &str, words: &[(&str, T)]) -> Result<Option<T>, Fault> {
    let Some(found) = body.string(name)? else {
        return Ok(None);
    };
    match words.iter().find(|(word, _)| *word == found) {
        Some((_, meant)) => Ok(Some(*meant)),
        None => {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            Err(invalid(format!("must be one of {}", known.join(", ")), name))
        }
    }
}
