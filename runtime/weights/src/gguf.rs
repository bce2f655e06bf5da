//! GGUF: one file with hyper-parameters, vocabulary and tensors.

mod header;
mod prepare;
mod sink;
mod vocabulary;
mod write;

use std::collections::HashMap;

use header::{Array, Header, Value};

pub(crate) use header::is_gguf;
pub use prepare::{PackRows, prepare};
pub use write::{NewTensor, write_gguf};

use crate::archive::{Container, Opened};
use crate::hyper;
use crate::mapped::Mapped;
use crate::table::Table;
use crate::{Hyper, RopePairing, TensorLayout, TensorName, Vocabulary, WeightsError};

/// The one architecture that is read. Its converters interleave the rows of Query and Key, so
/// that rotary pairs are adjacent.
const ARCHITECTURE: &str = "llama";

/// Reads a mapped GGUF file.
pub(crate) fn open(file: Mapped) -> Result<Opened, WeightsError> {
    let (hyper, vocabulary, table) = {
        let Header { values, table, .. } = header::read(&file)?;
        refuse_panels_that_are_not_multiplied(&file, &table)?;
        let keys = Keys { file: &file, values };
        refuse_what_is_not_read(&keys)?;
        let vocabulary = vocabulary::read(&keys)?;
        let tokens = vocabulary.as_ref().map(|vocabulary| vocabulary.tokens.len());
        let hyper = read_hyper(&keys, &table, tokens)?;
        (hyper, vocabulary, table)
    };
    let path = file.path.clone();
    Opened::check(path, Container::Gguf, hyper, vec![file], table, vocabulary)
}

/// Reads the vocabulary alone, whatever architecture it was made for.
pub(crate) fn vocabulary(file: &Mapped) -> Result<Option<Vocabulary>, WeightsError> {
    let values = header::read(file)?.values;
    vocabulary::read(&Keys { file, values })
}

/// The metadata, by key, with errors in the file's spelling.
struct Keys<'a> {
    file: &'a Mapped,
    values: HashMap<&'a str, Value<'a>>,
}

impl<'a> Keys<'a> {
    fn wrong(&self, key: &str, expected: impl Into<String>) -> WeightsError {
        WeightsError::WrongValue {
            path: self.file.path.clone(),
            key: key.to_owned(),
            found: self.values.get(key).map_or_else(|| "missing".into(), Value::show),
            expected: expected.into(),
        }
    }

    fn missing(&self, key: &str) -> WeightsError {
        WeightsError::MissingKey { path: self.file.path.clone(), key: key.to_owned() }
    }

    fn unsupported(&self, what: impl Into<String>, advice: &str) -> WeightsError {
        let path = self.file.path.clone();
        WeightsError::Unsupported { path, what: what.into(), advice: advice.into() }
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, WeightsError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "a text")),
        }
    }

    fn bool(&self, key: &str) -> Result<Option<bool>, WeightsError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(*truth)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    fn integer(&self, key: &str) -> Result<Option<i128>, WeightsError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Integer(number)) => Ok(Some(*number)),
            Some(_) => Err(self.wrong(key, "an integer")),
        }
    }

    fn float(&self, key: &str) -> Result<Option<f64>, WeightsError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Float(number)) => Ok(Some(*number)),
            Some(_) => Err(self.wrong(key, "a float")),
        }
    }

    fn array(&self, key: &str) -> Result<Option<Array<'a>>, WeightsError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) => Ok(Some(*array)),
            Some(_) => Err(self.wrong(key, "an array")),
        }
    }

    /// A count from 1 to `limit`.
    fn count(&self, key: &str, limit: u32) -> Result<Option<u32>, WeightsError> {
        let Some(number) = self.integer(key)? else {
            return Ok(None);
        };
        let count = u32::try_from(number).ok().filter(|count| (1..=limit).contains(count));
        count.map(Some).ok_or_else(|| self.wrong(key, format!("an integer from 1 to {limit}")))
    }

    fn required(&self, key: &str, limit: u32) -> Result<u32, WeightsError> {
        self.count(key, limit)?.ok_or_else(|| self.missing(key))
    }
}

fn of(key: &str) -> String {
    format!("{ARCHITECTURE}.{key}")
}

/// Features that change what the weights mean.
fn refuse_what_is_not_read(keys: &Keys<'_>) -> Result<(), WeightsError> {
    let architecture =
        keys.text("general.architecture")?.ok_or_else(|| keys.missing("general.architecture"))?;
    if architecture != ARCHITECTURE {
        let shown: String = architecture.chars().take(60).collect();
        return Err(keys.unsupported(
            format!("architecture {shown:?}"),
            "Use a dense text model of the Mistral family, whose GGUF architecture is \"llama\".",
        ));
    }
    if keys.integer("split.count")?.is_some_and(|count| count > 1) {
        return Err(keys.unsupported(
            "a GGUF file in several parts",
            "Merge the parts into one file first (llama-gguf-split --merge).",
        ));
    }
    if keys.integer(&of("expert_count"))?.is_some_and(|count| count != 0) {
        return Err(keys.unsupported("a mixture of experts", "Use a dense model."));
    }
    if keys.bool(&of("attention.causal"))? == Some(false) {
        return Err(keys.unsupported("attention that looks ahead", "Use a generating model."));
    }
    // A scaling without a type is linear; a factor of 0 or 1 leaves the angles alone.
    let scaling = keys.text(&of("rope.scaling.type"))?.unwrap_or("linear");
    let factors = [of("rope.scaling.factor"), of("rope.scale_linear")];
    let mut scales = false;
    for factor in &factors {
        scales |= keys.float(factor)?.is_some_and(|factor| factor != 0.0 && factor != 1.0);
    }
    if !matches!(scaling, "none" | "linear") || (scaling == "linear" && scales) {
        return Err(keys.unsupported(
            format!("rope scaling {:?}", scaling.chars().take(60).collect::<String>()),
            "Use a model whose rotary angles are not scaled.",
        ));
    }
    Ok(())
}

fn is_multiplied(name: &str) -> bool {
    TensorName::from_spelling(Container::Gguf, name).is_some_and(TensorName::is_multiplied)
}

/// Everything but the matrices of products is read by rows.
fn refuse_panels_that_are_not_multiplied(file: &Mapped, table: &Table) -> Result<(), WeightsError> {
    for (name, place) in table.iter() {
        if place.layout == TensorLayout::Panels && !is_multiplied(name) {
            let problem = "it lies in panels, which only matrices of products do";
            return Err(file.malformed(format!("tensor `{name}`"), problem));
        }
    }
    Ok(())
}

fn read_hyper(
    keys: &Keys<'_>,
    table: &Table,
    tokens: Option<usize>,
) -> Result<Hyper, WeightsError> {
    let hidden = keys.required(&of("embedding_length"), hyper::HIDDEN_MAX)?;
    let heads = keys.required(&of("attention.head_count"), hyper::HEADS_MAX)?;
    let head_dim = read_head_dim(keys, hidden, heads)?;
    let window = match keys.integer(&of("attention.sliding_window"))? {
        Some(0) => None,
        _ => keys.count(&of("attention.sliding_window"), u32::MAX)?,
    };
    let float = |key: &str| keys.float(key)?.ok_or_else(|| keys.missing(key));
    let output = TensorName::Output.spelled(Container::Gguf);
    let claimed = keys.count(&of("context_length"), hyper::CONTEXT_TOKENS_MAX)?;
    let stated = Hyper {
        name: keys.text("general.name")?.map(str::to_owned),
        license: keys.text("general.license")?.map(str::to_owned),
        vocabulary: read_vocabulary_count(keys, table, tokens)?,
        hidden,
        feed_forward: keys.required(&of("feed_forward_length"), hyper::FEED_FORWARD_MAX)?,
        layers: keys.required(&of("block_count"), hyper::LAYERS_MAX)?,
        heads,
        kv_heads: keys.count(&of("attention.head_count_kv"), hyper::HEADS_MAX)?.unwrap_or(heads),
        head_dim,
        context_tokens_max: 0,
        rope_theta: keys.float(&of("rope.freq_base"))?.unwrap_or(10_000.0),
        rms_epsilon: float(&of("attention.layer_norm_rms_epsilon"))?,
        sliding_window: window,
        tied_embeddings: table.place(&output).is_none(),
        pairing: RopePairing::Adjacent,
    };
    stated.settle(claimed, &keys.file.path, &of("context_length"))
}

/// `key_length`; a file that leaves it out means `embedding_length / head_count`.
fn read_head_dim(keys: &Keys<'_>, hidden: u32, heads: u32) -> Result<u32, WeightsError> {
    let head_dim = match keys.count(&of("attention.key_length"), hyper::HEAD_DIM_MAX)? {
        Some(stated) => stated,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => return Err(keys.missing(&of("attention.key_length"))),
    };
    for key in [of("attention.value_length"), of("rope.dimension_count")] {
        if keys.integer(&key)?.is_some_and(|stated| stated != i128::from(head_dim)) {
            return Err(keys.wrong(&key, format!("the head size {head_dim}")));
        }
    }
    Ok(head_dim)
}

/// The number of tokens; where the file has no vocabulary, what it states or what it embeds.
fn read_vocabulary_count(
    keys: &Keys<'_>,
    table: &Table,
    tokens: Option<usize>,
) -> Result<u32, WeightsError> {
    let key = of("vocab_size");
    let limit = hyper::VOCABULARY_MAX as u32;
    let stated = keys.count(&key, limit)?;
    let embedding = TensorName::Embedding.spelled(Container::Gguf);
    let embedded = table.place(&embedding).and_then(|place| place.shape.first().copied());
    let Some(counted) = tokens.or_else(|| stated.map(|count| count as usize)).or(embedded) else {
        return Err(keys.missing(&key));
    };
    let Some(counted) = u32::try_from(counted).ok().filter(|count| (1..=limit).contains(count))
    else {
        return Err(keys.wrong(&key, format!("an integer from 1 to {limit}")));
    };
    if stated.is_some_and(|stated| stated != counted) {
        return Err(keys.wrong(&key, format!("the {counted} tokens of the vocabulary")));
    }
    Ok(counted)
}
