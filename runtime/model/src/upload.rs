//! What a step sends to the device, all of it before the first operation.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use engine::{Batch, Capacity, ForwardError};
use fused_ops::{PageMap, PageSpan};
use protocol::TokenId;

/// The tensors of one step.
#[derive(Debug)]
pub(crate) struct Step {
    /// Each token's vector, on the first device. `[tokens, hidden]`
    pub(crate) embedded: Tensor<2>,
    /// What each device's blocks need, in their order.
    pub(crate) stages: Vec<StepTensors>,
    /// The tokens whose logits are wanted, on the last device; `None` where there are none. `[rows]`
    pub(crate) rows: Option<Tensor<1, Int>>,
}

/// What the blocks of one device need in a step.
#[derive(Debug)]
pub(crate) struct StepTensors {
    /// Where each token's key and value go. `[tokens]`
    pub(crate) slots: Tensor<1, Int>,
    /// Where the sequences' keys and values lie, and the tokens' positions.
    pub(crate) map: PageMap,
}

/// Checks a batch against what the network can take, and sends it to the devices, of which there is
/// one at least. `embed` gives the tokens' vectors on the first of them, `[tokens, hidden]`.
///
/// Errors: [`ForwardError::Rejected`] with the rule that the batch breaks.
pub(crate) fn upload<'a>(
    batch: &Batch,
    capacity: &Capacity,
    embed: impl FnOnce(&[TokenId], &Device) -> Result<Tensor<2>, String>,
    devices: impl Iterator<Item = &'a Device>,
) -> Result<Step, ForwardError> {
    let rejected = |reason| ForwardError::Rejected { tokens: batch.tokens.len(), reason };
    let spans = checked_spans(batch, capacity).map_err(rejected)?;
    let devices: Vec<&Device> = devices.collect();
    let (Some(first), Some(last)) = (devices.first(), devices.last()) else {
        return Err(rejected("the network has no device".into()));
    };
    let embedded = embed(&batch.tokens, first).map_err(rejected)?;
    let wanted: Vec<u32> = batch.rows.iter().map(|row| row.token).collect();
    let stage = |device: &&Device| StepTensors {
        slots: indices(&batch.slots, device),
        map: PageMap::new(
            indices(&batch.pages, device),
            indices(&batch.positions, device),
            spans.clone(),
            capacity.page_tokens as usize,
        ),
    };
    Ok(Step {
        embedded,
        stages: devices.iter().map(stage).collect(),
        rows: (!wanted.is_empty()).then(|| indices(&wanted, last)),
    })
}

/// Indices as devices have them. `[values]`
pub(crate) fn indices(values: &[u32], device: &Device) -> Tensor<1, Int> {
    // Every index is below a limit that load has checked to fit.
    let values: Vec<i32> = values.iter().map(|v| v.cast_signed()).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), (device, DType::I32))
}

/// The spans of a batch in which nothing points outside.
fn checked_spans(batch: &Batch, capacity: &Capacity) -> Result<Vec<PageSpan>, String> {
    let tokens = batch.tokens.len();
    require(tokens > 0, || "it is empty".into())?;
    require(tokens <= capacity.batch_tokens_max as usize, || {
        format!("the limit is {} tokens", capacity.batch_tokens_max)
    })?;
    require(batch.positions.len() == tokens && batch.slots.len() == tokens, || {
        format!("{} positions and {} slots", batch.positions.len(), batch.slots.len())
    })?;
    let slots = u64::from(capacity.pages) * u64::from(capacity.page_tokens);
    all_below("slot", batch.slots.iter().copied(), slots)?;
    all_below("page", batch.pages.iter().copied(), capacity.pages.into())?;
    all_below("row", batch.rows.iter().map(|row| row.token), tokens as u64)?;
    let mut next = 0;
    let mut spans = Vec::with_capacity(batch.spans.len());
    for (index, span) in batch.spans.iter().enumerate() {
        let span = PageSpan {
            query_start: span.query_start as usize,
            query_tokens: span.query_tokens as usize,
            context_tokens: span.context_tokens as usize,
            first_page: span.first_page as usize,
        };
        check_span(batch, capacity, span, next).map_err(|why| format!("span {index}: {why}"))?;
        next += span.query_tokens;
        spans.push(span);
    }
    require(next == tokens, || format!("its spans cover {next} tokens"))?;
    Ok(spans)
}

fn check_span(
    batch: &Batch,
    capacity: &Capacity,
    span: PageSpan,
    start: usize,
) -> Result<(), String> {
    let PageSpan { query_start, query_tokens, context_tokens, first_page } = span;
    require(query_start == start, || format!("begins at {query_start}, not at {start}"))?;
    require(0 < query_tokens && query_tokens <= context_tokens, || {
        format!("{query_tokens} tokens of a context of {context_tokens}")
    })?;
    require(context_tokens <= capacity.context_tokens_max as usize, || {
        let limit = capacity.context_tokens_max;
        format!("a context of {context_tokens} tokens, the limit is {limit}")
    })?;
    let pages = context_tokens.div_ceil(capacity.page_tokens as usize);
    require(first_page + pages <= batch.pages.len(), || {
        format!("{pages} pages from {first_page}, the table has {}", batch.pages.len())
    })?;
    let positions = batch.positions.get(start..start + query_tokens).unwrap_or_default();
    let expected = context_tokens - query_tokens..context_tokens;
    require(positions.iter().map(|p| *p as usize).eq(expected), || {
        "its positions are not the end of its context".into()
    })
}

fn all_below(
    what: &str,
    values: impl Iterator<Item = u32> + Clone,
    limit: u64,
) -> Result<(), String> {
    match values.max() {
        Some(value) if u64::from(value) >= limit => {
            Err(format!("{what} {value} is outside the {limit} there are"))
        }
        _ => Ok(()),
    }
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
