//! From an opened archive to a network, by construction.

use burn::tensor::{Tensor, TensorData};
use engine::Capacity;
use fused_ops::{
    KvEncoding, KvPool, Norm, OpenDevice, PackedLayout, TILE_TOKENS, Weight, WeightError,
};
use weights::{Archive, Hyper, RawTensor, TensorLayout, TensorName, WeightsError};

use crate::embedding::Embedding;
use crate::fit;
use crate::forward::Network;
use crate::identity::identity;
use crate::memory::{Footprint, Gibibytes};
use crate::mistral::{Mistral, Source, heads};
use crate::placement::Placement;
use crate::pool::Pool;

/// Indices on the device are signed and have 32 bits.
const SLOTS_MAX: u64 = i32::MAX as u64;

/// How much cache a network gets, and how large a step may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// Pages of the cache.
    pub pages: u32,
    /// Tokens that one page holds.
    pub page_tokens: u32,
    /// Tokens of one step.
    pub batch_tokens_max: u32,
    /// How keys and values are kept.
    pub encoding: KvEncoding,
}

/// A model cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A tensor of the file cannot be had.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A matrix cannot be taken: prepared for another device, or no memory for it.
    #[error("{0}")]
    Matrix(WeightError),
    /// Model and cache exceed the memory of the box.
    #[error(
        "the model does not fit into the memory of {place}: {footprint}, but {} are available. {advice}",
        Gibibytes(*.available_bytes)
    )]
    DoesNotFit {
        /// Whose memory.
        place: String,
        /// What it would occupy there.
        footprint: Footprint,
        /// What there is.
        available_bytes: u64,
        /// The longest context, in tokens, whose cache would fit beside the weights.
        context_tokens_max: u64,
        /// What to do.
        advice: String,
    },
    /// The limits make no sense.
    #[error("{what} is {found}; it must be from 1 to {limit}")]
    Limit {
        /// Which number.
        what: &'static str,
        /// What it is.
        found: u64,
        /// What it may be.
        limit: u64,
    },
}

impl CacheLimits {
    /// Bytes that one token takes in all layers.
    pub fn token_bytes(hyper: &Hyper, encoding: KvEncoding) -> u64 {
        let (kv_heads, head_dim) = (hyper.kv_heads as usize, hyper.head_dim as usize);
        let layer = KvPool::token_bytes(encoding, kv_heads, head_dim) as u64;
        layer.saturating_mul(hyper.layers.into())
    }
}

impl From<WeightError> for LoadError {
    fn from(error: WeightError) -> Self {
        match error {
            WeightError::Weights(error) => Self::Weights(error),
            error => Self::Matrix(error),
        }
    }
}

impl LoadError {
    /// Whether a box with more memory would load it.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::DoesNotFit { .. } | Self::Matrix(WeightError::Memory(_)))
    }

    pub(crate) fn layers(hyper: &Hyper) -> Self {
        Self::Limit {
            what: "the number of layers",
            found: hyper.layers.into(),
            limit: u16::MAX.into(),
        }
    }
}

impl Network {
    /// Builds the network on its devices and allocates its cache.
    ///
    /// Matrices are moved into panels, and the pages of the archive's files that they came from are
    /// given back, so that they are in memory once. `progress` is told the share that is done, from 0
    /// to 1.
    ///
    /// Errors: [`LoadError::DoesNotFit`] before anything is allocated; a tensor that is missing or
    /// has another shape.
    pub fn load(
        archive: &dyn Archive,
        placement: &Placement,
        cache: CacheLimits,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self, LoadError> {
        let hyper = archive.hyper();
        let layers = u16::try_from(hyper.layers).map_err(|_| LoadError::layers(hyper))?;
        let capacity = capacity(hyper, cache)?;
        let footprint = fit::check(archive, placement, cache)?;
        tracing::info!(device = %placement.describe(hyper.layers), memory = %footprint, "loading the model");
        let weights_bytes = footprint.weights_bytes;
        let mut loader = Loader { archive, done_bytes: 0, weights_bytes, progress };
        let mistral = Mistral::build(&mut loader, placement, capacity.context_tokens_max as usize)?;
        let output = placement.stages(layers).pop();
        Ok(Self {
            mistral,
            gives_heads: output.is_some_and(|(device, _)| !device.is_cpu()),
            embedding: Embedding::new(archive.tensor(TensorName::Embedding)?)?,
            pool: Pool::new(
                placement.devices(layers),
                cache.encoding,
                &heads(hyper),
                cache.pages as usize,
                cache.page_tokens as usize,
            ),
            capacity,
            identity: identity(archive, cache)?,
        })
    }
}

/// Fetches tensors by name and puts them on the device.
struct Loader<'a> {
    archive: &'a dyn Archive,
    done_bytes: u64,
    weights_bytes: u64,
    progress: &'a mut dyn FnMut(f32),
}

impl Source for Loader<'_> {
    fn hyper(&self) -> &Hyper {
        self.archive.hyper()
    }

    fn matrices(&mut self, names: &[TensorName], device: &OpenDevice) -> Result<Weight, LoadError> {
        let raw: Vec<RawTensor> =
            names.iter().map(|name| self.archive.tensor(*name)).collect::<Result<_, _>>()?;
        let weight = Weight::new(&raw, device)?;
        for (name, raw) in names.iter().zip(&raw) {
            self.done_bytes += held_bytes(raw)?;
            // What lies in panels already is read where it is.
            if raw.layout == TensorLayout::Rows {
                self.archive.release(*name);
            }
        }
        (self.progress)((self.done_bytes as f64 / self.weights_bytes.max(1) as f64).min(1.0) as f32);
        Ok(weight)
    }

    fn norm(&mut self, name: TensorName, device: &OpenDevice) -> Result<Norm, LoadError> {
        let raw = self.archive.tensor(name)?;
        let length = raw.shape[0];
        let mut values = vec![0.0; length];
        raw.encoding.unpack(&raw.bytes, &mut values)?;
        let gain = Tensor::from_data(TensorData::new(values, [length]), &device.device);
        Ok(Norm { gain, epsilon: self.hyper().rms_epsilon })
    }
}

pub(crate) fn slots(cache: CacheLimits) -> u64 {
    u64::from(cache.pages) * u64::from(cache.page_tokens)
}

pub(crate) fn capacity(hyper: &Hyper, cache: CacheLimits) -> Result<Capacity, LoadError> {
    within("cache pages", cache.pages.into(), SLOTS_MAX)?;
    within("tokens of a cache page", cache.page_tokens.into(), SLOTS_MAX)?;
    within("tokens of the cache", slots(cache), SLOTS_MAX)?;
    within("tokens of a step", cache.batch_tokens_max.into(), SLOTS_MAX)?;
    let context = u64::from(hyper.context_tokens_max).min(slots(cache));
    Ok(Capacity {
        vocabulary: hyper.vocabulary,
        pages: cache.pages,
        page_tokens: cache.page_tokens,
        context_tokens_max: u32::try_from(context).unwrap_or(u32::MAX),
        batch_tokens_max: cache.batch_tokens_max,
        tile_tokens: TILE_TOKENS as u32,
    })
}

pub(crate) fn within(what: &'static str, found: u64, limit: u64) -> Result<(), LoadError> {
    if (1..=limit).contains(&found) {
        return Ok(());
    }
    Err(LoadError::Limit { what, found, limit })
}

/// What a matrix, or a vector, takes on the device.
pub(crate) fn held_bytes(raw: &RawTensor) -> Result<u64, LoadError> {
    match raw.shape[..] {
        [rows, cols] => {
            let layout = PackedLayout { encoding: raw.encoding, rows, cols };
            Ok(layout.bytes()? as u64)
        }
        ref shape => {
            Ok(shape.iter().fold(4, |bytes: u64, side| bytes.saturating_mul(*side as u64)))
        }
    }
}
