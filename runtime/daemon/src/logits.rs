//! `zonda logits`: JSON lines of token ids in, JSON lines of the next token's logits out.

use std::io::{BufRead, Write};

use engine::{RowLogits, Want};
use firmware_config::Profile;
use serde_json::{Value, json};

use crate::assemble::open_model;
use crate::error::AssembleError;
use crate::model_files::ModelFiles;
use crate::single::Single;

/// Answers each line with all logits of its last position.
pub(crate) fn logits(
    profile: &Profile,
    model: &ModelFiles,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<(), AssembleError> {
    let mut opened = open_model(profile, model, &mut crate::progress::bar("loading"))?;
    crate::lines::answer_lines(input, output, |line| {
        let outcome = crate::lines::tokens_of(line)
            .map_err(AssembleError::from)
            .and_then(|tokens| Single::new(&mut opened.network).feed(&tokens, Want::Logits));
        match outcome {
            Ok(RowLogits::All(logits)) => finite(&logits),
            Ok(_) => json!({ "error": "the network gave no logits" }),
            Err(error) => json!({ "error": error.to_string() }),
        }
    })
}

/// JSON has no infinities; a network that gives one is reported, not papered over.
fn finite(logits: &[f32]) -> Value {
    match logits.iter().position(|logit| !logit.is_finite()) {
        Some(token) => json!({ "error": format!("the logit of token {token} is not a number") }),
        None => json!({ "logits_last": logits }),
    }
}
