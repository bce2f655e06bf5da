//! `zonda model inspect`: what a model's files state, without loading them.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Value, json};
use text::Tokenizer;
use weights::{Archive, RopePairing};

use crate::error::AssembleError;
use crate::model_files::ModelFiles;

/// Prints what `files` state, for people or as one JSON object.
pub(crate) fn inspect(
    files: &ModelFiles,
    as_json: bool,
    with_tensors: bool,
    output: &mut dyn Write,
) -> Result<(), AssembleError> {
    let archive = files.open()?;
    let tokenizer = files.tokenizer(archive.as_ref());
    let facts = facts_with_tokenizer(archive.as_ref(), &tokenizer, with_tensors);
    if as_json {
        serde_json::to_writer(&mut *output, &facts).map_err(std::io::Error::from)?;
        return Ok(writeln!(output)?);
    }
    print(&facts, "", output)
}

/// As [`facts`], with what was found of the tokenizer.
pub(crate) fn facts_with_tokenizer(
    archive: &dyn Archive,
    tokenizer: &Result<Tokenizer, AssembleError>,
    with_tensors: bool,
) -> Value {
    let mut facts = facts(archive, with_tensors);
    facts["tokenizer"] = match tokenizer {
        Ok(tokenizer) => json!({
            "tokens": tokenizer.vocabulary_size(),
            "encoding": tokenizer.likely_version().to_string(),
        }),
        Err(error) => json!({ "error": error.to_string() }),
    };
    facts
}

/// What the files state, as one JSON object. Sizes are bytes.
pub(crate) fn facts(archive: &dyn Archive, with_tensors: bool) -> Value {
    let hyper = archive.hyper();
    let tensors = archive.tensors();
    let mut encodings: BTreeMap<&str, u64> = BTreeMap::new();
    for tensor in &tensors {
        *encodings.entry(tensor.encoding.name()).or_default() += tensor.bytes;
    }
    let mut facts = json!({
        "name": hyper.name,
        "license": hyper.license,
        "container": archive.container().name(),
        "file_bytes": archive.file_bytes(),
        "parameters": tensors.iter().map(|t| t.shape.iter().product::<usize>() as u64).sum::<u64>(),
        "tensors": tensors.len(),
        "encoding_bytes": encodings,
        "vocabulary": hyper.vocabulary,
        "context_tokens_max": hyper.context_tokens_max,
        "layers": hyper.layers,
        "hidden": hyper.hidden,
        "feed_forward": hyper.feed_forward,
        "heads": hyper.heads,
        "kv_heads": hyper.kv_heads,
        "head_dim": hyper.head_dim,
        "rope_theta": hyper.rope_theta,
        "rope_pairing": match hyper.pairing {
            RopePairing::Adjacent => "adjacent",
            RopePairing::HalfSplit => "half-split",
        },
        "rms_epsilon": hyper.rms_epsilon,
        "sliding_window": hyper.sliding_window,
        "tied_embeddings": hyper.tied_embeddings,
    });
    if with_tensors {
        facts["tensor_list"] = tensors
            .iter()
            .map(|tensor| {
                json!({
                    "name": tensor.name,
                    "shape": tensor.shape,
                    "encoding": tensor.encoding.name(),
                    "bytes": tensor.bytes,
                })
            })
            .collect();
    }
    facts
}

fn print(facts: &Value, indent: &str, output: &mut dyn Write) -> Result<(), AssembleError> {
    for (key, value) in facts.as_object().into_iter().flatten() {
        match value {
            Value::Null => {}
            Value::Object(_) => {
                writeln!(output, "{indent}{key}")?;
                print(value, &format!("{indent}  "), output)?;
            }
            Value::Array(list) => {
                for entry in list {
                    writeln!(
                        output,
                        "{indent}{:<40} {:<8} {}",
                        entry["name"].as_str().unwrap_or_default(),
                        entry["encoding"].as_str().unwrap_or_default(),
                        entry["shape"]
                    )?;
                }
            }
            Value::String(text) => writeln!(output, "{indent}{key:<20} {text}")?,
            other => writeln!(output, "{indent}{key:<20} {other}")?,
        }
    }
    Ok(())
}
