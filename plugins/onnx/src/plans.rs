//! A network made ready for texts of any length.
//!
//! Where tract can keep the length as an unknown, one plan runs them all. Where the file states a
//! length, every text is padded to it. Where tract cannot keep it unknown, two plans are made and a
//! text is padded to the shorter one that holds it: each has its own copy of the weights.

use std::path::Path;
use std::sync::Arc;

use tract_onnx::prelude::{
    DatumType, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, TDim, TValue,
    Tensor, ToDim, TractResult, TypedSimplePlan,
};
use tract_onnx::tract_hir::infer::Factoid;

use crate::OnnxError;
use crate::graph::guarded;
use crate::words::Piece;

/// Texts up to this have a plan of their own where lengths are fixed, in tokens.
const SHORT_TOKENS: usize = 64;

/// What an input of the network wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Ids,
    Mask,
    Types,
    Positions,
}

#[derive(Debug, Clone, Copy)]
struct Feed {
    role: Role,
    datum: DatumType,
}

/// A plan and the length that it takes, where that is fixed.
struct Plan {
    tokens: Option<usize>,
    runnable: Arc<TypedSimplePlan>,
}

/// Every plan of one network, shortest first.
pub(crate) struct Plans {
    feeds: Vec<Feed>,
    plans: Vec<Plan>,
}

/// One output of a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Output {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

impl Plans {
    /// Makes the plans for texts of at most `tokens_max` tokens, and runs each once at its longest.
    pub(crate) fn new(
        path: &Path,
        model: InferenceModel,
        output: &[&str],
        tokens_max: usize,
    ) -> Result<Self, OnnxError> {
        let unfit = |message| OnnxError::Unfit { path: path.to_owned(), message };
        let feeds = feeds(&model).map_err(unfit)?;
        let model = guarded(|| with_output(model, output)).map_err(unfit)?;
        if let Some(tokens) = stated_tokens(&model, &feeds) {
            if tokens < tokens_max {
                return Err(unfit(format!(
                    "it takes texts of {tokens} tokens; set tokens_max = {tokens}"
                )));
            }
            return Self::made(&model, &feeds, &[Some(tokens)], tokens_max).map_err(unfit);
        }
        match Self::made(&model, &feeds, &[None], tokens_max) {
            Ok(plans) => Ok(plans),
            Err(_) => Self::padded(&model, &feeds, tokens_max).map_err(unfit),
        }
    }

    fn padded(model: &InferenceModel, feeds: &[Feed], tokens_max: usize) -> Result<Self, String> {
        let lengths = [Some(SHORT_TOKENS), Some(tokens_max)];
        let lengths = if tokens_max <= SHORT_TOKENS { &lengths[1..] } else { &lengths[..] };
        Self::made(model, feeds, lengths, tokens_max)
    }

    fn made(
        model: &InferenceModel,
        feeds: &[Feed],
        lengths: &[Option<usize>],
        tokens_max: usize,
    ) -> Result<Self, String> {
        let ready = |message| {
            format!(
                "it cannot be made ready for {tokens_max} tokens, which is tokens_max: {message}"
            )
        };
        let plans = lengths.iter().map(|tokens| prepared(model, feeds, *tokens).map_err(ready));
        let plans = plans.collect::<Result<Vec<_>, _>>()?;
        Self { feeds: feeds.to_vec(), plans }.tried(tokens_max)
    }

    /// Runs one piece. Only its own rows come back: what was padded is cut off.
    pub(crate) fn run(&self, piece: &Piece) -> Result<Output, OnnxError> {
        self.outcome(piece).map_err(|message| OnnxError::Run { message })
    }

    /// The lengths that texts are padded to; empty where none is padded.
    pub(crate) fn lengths(&self) -> Vec<usize> {
        self.plans.iter().filter_map(|plan| plan.tokens).collect()
    }

    /// A network that takes fewer tokens than it should must not show so in the middle of a request.
    fn tried(self, tokens_max: usize) -> Result<Self, String> {
        for tokens in [1, tokens_max.min(SHORT_TOKENS), tokens_max] {
            let piece = Piece { ids: vec![0; tokens], types: vec![0; tokens] };
            let tried = self.outcome(&piece);
            tried.map_err(|message| format!("it does not take {tokens} tokens: {message}"))?;
        }
        Ok(self)
    }

    fn outcome(&self, piece: &Piece) -> Result<Output, String> {
        let tokens = piece.ids.len();
        let holds = |plan: &&Plan| plan.tokens.is_none_or(|length| length >= tokens);
        let plan = self.plans.iter().find(holds);
        let plan = plan.ok_or_else(|| format!("{tokens} tokens are too many"))?;
        let length = plan.tokens.unwrap_or(tokens);
        guarded(|| {
            let inputs = self.feeds.iter().map(|feed| filled(*feed, piece, length));
            let inputs = inputs.collect::<TractResult<_>>()?;
            let outputs = plan.runnable.run(inputs)?;
            let output = outputs.first().ok_or_else(|| anyhow_of("it has no output"))?;
            let output = output.cast_to::<f32>()?;
            let values = output.try_as_plain_ram()?.as_slice::<f32>()?.to_vec();
            Ok(Output { shape: output.shape().to_vec(), values })
        })
        .map(|output| output.without_padding(length, tokens))
    }
}

impl Output {
    /// `[1, length, …]` as `[1, tokens, …]`; any other shape as it is.
    fn without_padding(mut self, length: usize, tokens: usize) -> Self {
        if self.shape.len() == 3 && self.shape[1] == length && tokens < length {
            self.shape[1] = tokens;
            self.values.truncate(tokens * self.shape[2]);
        }
        self
    }
}

fn anyhow_of(message: &'static str) -> tract_onnx::tract_core::tract_data::TractError {
    tract_onnx::tract_core::tract_data::TractError::msg(message)
}

/// What each input is, by its name.
fn feeds(model: &InferenceModel) -> Result<Vec<Feed>, String> {
    let mut feeds = Vec::with_capacity(model.inputs.len());
    for outlet in &model.inputs {
        let name = model.node(outlet.node).name.as_str();
        let role = match name {
            "input_ids" | "ids" | "tokens" => Role::Ids,
            "attention_mask" | "mask" | "input_mask" => Role::Mask,
            "token_type_ids" | "segment_ids" => Role::Types,
            "position_ids" => Role::Positions,
            other => {
                let shown: String = other.chars().take(64).flat_map(char::escape_debug).collect();
                return Err(format!(
                    "the input {shown:?} is not known; a network for texts has input_ids, \
                     attention_mask and token_type_ids"
                ));
            }
        };
        let datum = model.outlet_fact(*outlet).ok().and_then(|fact| fact.datum_type.concretize());
        let datum = datum.unwrap_or(DatumType::I64);
        feeds.push(Feed { role, datum });
    }
    match feeds.iter().any(|feed| feed.role == Role::Ids) {
        true => Ok(feeds),
        false => Err("it has no input input_ids".to_owned()),
    }
}

/// The first of these outputs that the network has, else its first one, and no other.
fn with_output(mut model: InferenceModel, names: &[&str]) -> TractResult<InferenceModel> {
    let label = |outlet: &tract_onnx::prelude::OutletId| model.outlet_label(*outlet);
    let outputs = model.output_outlets()?.to_vec();
    let named = names.iter().find_map(|name| {
        outputs.iter().copied().find(|outlet| {
            label(outlet) == Some(*name) || model.node(outlet.node).name.as_str() == *name
        })
    });
    let chosen = named.or_else(|| outputs.first().copied());
    let chosen = chosen.ok_or_else(|| anyhow_of("it has no output"))?;
    model.select_output_outlets(&[chosen])?;
    Ok(model)
}

/// The number of tokens that the file itself fixes.
fn stated_tokens(model: &InferenceModel, feeds: &[Feed]) -> Option<usize> {
    let ids = feeds.iter().position(|feed| feed.role == Role::Ids)?;
    let fact = model.outlet_fact(model.inputs[ids]).ok()?;
    let dim = fact.shape.dims().nth(1)?.concretize()?;
    dim.to_i64().ok().and_then(|tokens| usize::try_from(tokens).ok())
}

/// A plan for one text of so many tokens; for any number without one.
fn prepared(model: &InferenceModel, feeds: &[Feed], tokens: Option<usize>) -> Result<Plan, String> {
    guarded(|| {
        let mut model = model.clone();
        let length = match tokens {
            Some(tokens) => tokens.to_dim(),
            None => TDim::from(model.symbols.new_with_prefix("tokens")),
        };
        for (at, feed) in feeds.iter().enumerate() {
            let shape = [1.to_dim(), length.clone()];
            model.set_input_fact(at, InferenceFact::dt_shape(feed.datum, shape))?;
        }
        let runnable = model.into_optimized()?.into_runnable()?;
        Ok(Plan { tokens, runnable })
    })
}

fn filled(feed: Feed, piece: &Piece, length: usize) -> TractResult<TValue> {
    let tokens = piece.ids.len();
    let padded = |numbers: &[i64]| {
        let mut numbers = numbers.to_vec();
        numbers.resize(length, 0);
        numbers
    };
    let numbers = match feed.role {
        Role::Ids => padded(&piece.ids),
        Role::Types => padded(&piece.types),
        Role::Mask => padded(&vec![1; tokens]),
        Role::Positions => (0..length as i64).collect(),
    };
    let tensor = Tensor::from_shape(&[1, length], &numbers)?;
    Ok(tensor.cast_to_dt(feed.datum)?.into_owned().into())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::graph::open;
    use crate::words::Words;

    fn fixture(name: &str) -> std::path::PathBuf {
        Path::new("../../tests/fixtures/onnx").join(name)
    }

    /// The same text through a plan for any length and through padded ones.
    #[test]
    fn padding_changes_no_vector() {
        let model = open(&fixture("embedder.onnx")).unwrap();
        let words = Words::open(&fixture("tokenizer.json"), 64, 0).unwrap();
        let feeds = feeds(&model).unwrap();
        let any = Plans::made(&model, &feeds, &[None], 64).unwrap();
        let lengths = [Some(16), Some(64)];
        let padded = Plans::made(&model, &feeds, &lengths, 64).unwrap();
        assert_eq!((any.lengths(), padded.lengths()), (vec![], vec![16, 64]));
        for text in ["a", "Turn on the kitchen light.", &"the pump ".repeat(40)] {
            let piece = &words.pieces(text).unwrap()[0];
            let (any, padded) = (any.run(piece).unwrap(), padded.run(piece).unwrap());
            assert_eq!(any.shape, [1, piece.ids.len(), 32]);
            assert_eq!(any.shape, padded.shape);
            let far = any.values.iter().zip(&padded.values).map(|(a, b)| (a - b).abs());
            assert!(far.fold(0.0, f32::max) < 1e-5, "{text}");
        }
    }

    #[test]
    fn a_network_for_fewer_tokens_is_refused_before_it_is_used() {
        let path = fixture("embedder.onnx");
        let refused = Plans::new(&path, open(&path).unwrap(), &[], 65).err().unwrap().to_string();
        assert!(refused.contains("ready for 65 tokens, which is tokens_max"), "{refused}");
        let path = fixture("detector.onnx");
        let refused = Plans::new(&path, open(&path).unwrap(), &[], 64).err().unwrap().to_string();
        assert!(refused.contains("the input \"window\" is not known"), "{refused}");
    }
}
