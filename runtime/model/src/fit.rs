//! Whether a network fits into the memories of its devices.

use std::ops::Range;

use fused_ops::{KvPool, OpenDevice};
use weights::{Archive, Hyper, Part, TensorName};

use crate::load::{CacheLimits, LoadError, capacity, held_bytes, slots, within};
use crate::memory::{Footprint, available_bytes, workspace_bytes};
use crate::placement::Placement;

/// Of this many bytes of a GPU's own memory one is left to its driver and to other programs.
const OTHERS: u64 = 16;

/// What shall lie in one memory.
struct Share<'a> {
    device: &'a OpenDevice,
    footprint: Footprint,
    /// Of the cache, in this memory.
    token_bytes: u64,
}

impl Share<'_> {
    fn available_bytes(&self) -> Option<u64> {
        let of_box = self.device.shares_memory.then(available_bytes).flatten();
        [of_box, self.device.memory_bytes].into_iter().flatten().min()
    }
}

/// Compares what lies in the memory of the box, and in that of a GPU, with what there is, where it
/// says so.
///
/// # Errors
/// It exceeds one of them, or the cache of a block exceeds a buffer.
pub(crate) fn check(
    archive: &dyn Archive,
    placement: &Placement,
    cache: CacheLimits,
) -> Result<Footprint, LoadError> {
    let hyper = archive.hyper();
    let layers = u16::try_from(hyper.layers).map_err(|_| LoadError::layers(hyper))?;
    let workspace_bytes = workspace(hyper, cache)?;
    let block_token = block_token_bytes(hyper, cache);
    let stages = placement.stages(layers);
    let mut shares: Vec<Share<'_>> = Vec::new();
    for (index, (device, blocks)) in stages.iter().enumerate() {
        let tokens_max = device.buffer_bytes_max / block_token.max(1);
        within("tokens of the cache", slots(cache), tokens_max)?;
        let token_bytes = block_token.saturating_mul(blocks.len() as u64);
        let mut weights_bytes = blocks_bytes(archive, blocks.clone())?;
        if index + 1 == stages.len() {
            weights_bytes = weights_bytes.saturating_add(ends_bytes(archive)?);
        }
        let pool_bytes = slots(cache).saturating_mul(token_bytes);
        match shares.last_mut() {
            // One memory, whichever device reads it.
            Some(share) if share.device.shares_memory && device.shares_memory => {
                share.footprint.weights_bytes += weights_bytes;
                share.footprint.pool_bytes = share.footprint.pool_bytes.saturating_add(pool_bytes);
                share.token_bytes += token_bytes;
            }
            _ => {
                let footprint = Footprint { weights_bytes, pool_bytes, workspace_bytes };
                shares.push(Share { device, footprint, token_bytes });
            }
        }
    }
    shares.iter().try_for_each(fits)?;
    Ok(shares.iter().map(|share| share.footprint).fold(Footprint::default(), Footprint::and))
}

/// Bytes that blocks, their cache and the output may take of a GPU's own memory; `None` where the
/// memory is that of the box, or its driver does not say how much it has.
///
/// # Errors
/// Limits that make no sense.
pub(crate) fn room(
    device: &OpenDevice,
    hyper: &Hyper,
    cache: CacheLimits,
) -> Result<Option<u64>, LoadError> {
    let Some(bytes) = device.memory_bytes.filter(|_| !device.shares_memory) else {
        return Ok(None);
    };
    Ok(Some((bytes - bytes / OTHERS).saturating_sub(workspace(hyper, cache)?)))
}

fn workspace(hyper: &Hyper, cache: CacheLimits) -> Result<u64, LoadError> {
    let capacity = capacity(hyper, cache)?;
    let (batch, context) = (capacity.batch_tokens_max, capacity.context_tokens_max);
    Ok(workspace_bytes(hyper, batch.into(), context.into()))
}

/// Bytes that a token takes in the cache of one block.
fn block_token_bytes(hyper: &Hyper, cache: CacheLimits) -> u64 {
    KvPool::token_bytes(cache.encoding, hyper.kv_heads as usize, hyper.head_dim as usize) as u64
}

fn blocks_bytes(archive: &dyn Archive, blocks: Range<u16>) -> Result<u64, LoadError> {
    let names = blocks
        .flat_map(|layer| Part::ALL.into_iter().map(move |part| TensorName::Block { layer, part }));
    held(archive, names)
}

/// What is no block's.
fn ends_bytes(archive: &dyn Archive) -> Result<u64, LoadError> {
    let output = held(archive, [TensorName::OutputNorm, TensorName::Output].into_iter())?;
    // Its rows are read where the file has them, beside what the output makes of it when it is tied.
    let embedding = archive.tensor(TensorName::Embedding)?;
    Ok(output.saturating_add(embedding.bytes.len() as u64))
}

fn held(
    archive: &dyn Archive,
    mut names: impl Iterator<Item = TensorName>,
) -> Result<u64, LoadError> {
    names.try_fold(0, |bytes: u64, name| {
        Ok(bytes.saturating_add(held_bytes(&archive.tensor(name)?)?))
    })
}

fn fits(share: &Share<'_>) -> Result<(), LoadError> {
    let Share { device, footprint, token_bytes } = share;
    let Some(available_bytes) = share.available_bytes() else { return Ok(()) };
    if footprint.total_bytes() <= available_bytes {
        return Ok(());
    }
    let without_pool = footprint.weights_bytes.saturating_add(footprint.workspace_bytes);
    let context_tokens_max = available_bytes.saturating_sub(without_pool) / token_bytes.max(&1);
    let mut advice = if context_tokens_max == 0 {
        "Not even a cache of one token fits: take a smaller model, or one in a smaller encoding"
            .into()
    } else {
        format!("Give the cache at most {context_tokens_max} tokens, or take a smaller encoding")
    };
    if !device.shares_memory {
        advice += ", or leave more blocks to the CPU (device.gpu_layers)";
    }
    let place = if device.shares_memory { "this box".into() } else { device.name.clone() };
    let footprint = *footprint;
    Err(LoadError::DoesNotFit { place, footprint, available_bytes, context_tokens_max, advice })
}
