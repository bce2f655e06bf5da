//! Which device computes which blocks.

use std::ops::Range;

use fused_ops::OpenDevice;
use weights::{Archive, Part, TensorName};

use crate::fit;
use crate::load::{CacheLimits, LoadError, held_bytes, slots};

/// The devices of a network: one, or one for the first blocks and one for the rest and the output.
#[derive(Debug, Clone)]
pub struct Placement {
    first: OpenDevice,
    rest: Option<(u32, OpenDevice)>,
}

impl Placement {
    /// Everything on one device.
    pub fn whole(device: OpenDevice) -> Self {
        Self { first: device, rest: None }
    }

    /// The first `blocks` blocks on `first`, the others and the output on `rest`.
    pub fn split(first: OpenDevice, blocks: u32, rest: OpenDevice) -> Self {
        if blocks == 0 { Self::whole(rest) } else { Self { first, rest: Some((blocks, rest)) } }
    }

    /// As many blocks, with their cache, as `bytes` of the device hold; all of them and the output, if
    /// they fit.
    ///
    /// # Errors
    /// A tensor of the archive that is missing or not whole blocks.
    pub fn fitting(
        first: OpenDevice,
        bytes: u64,
        rest: OpenDevice,
        archive: &dyn Archive,
        cache: CacheLimits,
    ) -> Result<Self, LoadError> {
        let hyper = archive.hyper();
        let layers = u16::try_from(hyper.layers).map_err(|_| LoadError::layers(hyper))?;
        let layer_cache = slots(cache)
            .saturating_mul(CacheLimits::token_bytes(hyper, cache.encoding))
            / u64::from(hyper.layers.max(1));
        let mut left = bytes;
        for layer in 0..layers {
            let mut wanted = layer_cache;
            for part in Part::ALL {
                let tensor = archive.tensor(TensorName::Block { layer, part })?;
                wanted = wanted.saturating_add(held_bytes(&tensor)?);
            }
            let Some(less) = left.checked_sub(wanted) else {
                return Ok(Self::split(first, layer.into(), rest));
            };
            left = less;
        }
        let output = held_bytes(&archive.tensor(TensorName::Output)?)?;
        if output <= left {
            return Ok(Self::whole(first));
        }
        Ok(Self::split(first, layers.into(), rest))
    }

    /// What [`fitting`](Self::fitting) may fill of a GPU with memory of its own: what its driver says
    /// there is, less what a step and others need. `None` where the memory is that of the box, or the
    /// driver says nothing.
    ///
    /// # Errors
    /// Limits that make no sense.
    pub fn room(
        device: &OpenDevice,
        archive: &dyn Archive,
        cache: CacheLimits,
    ) -> Result<Option<u64>, LoadError> {
        fit::room(device, archive.hyper(), cache)
    }

    /// The device of the first blocks.
    pub fn first(&self) -> &OpenDevice {
        &self.first
    }

    /// The device of the output.
    pub fn last(&self) -> &OpenDevice {
        self.rest.as_ref().map_or(&self.first, |(_, rest)| rest)
    }

    /// For logs and answers: `cuda: NVIDIA H100`, or `20 of 56 blocks on …, the rest on flex`.
    pub fn describe(&self, layers: u32) -> String {
        match &self.rest {
            None => self.first.name.clone(),
            Some((blocks, rest)) => format!(
                "{} of {layers} blocks on {}, the rest on {}",
                blocks.min(&layers),
                self.first.name,
                rest.name
            ),
        }
    }

    /// The devices and their blocks, in order; none is without blocks but the one of the output.
    pub(crate) fn stages(&self, layers: u16) -> Vec<(&OpenDevice, Range<u16>)> {
        match &self.rest {
            None => vec![(&self.first, 0..layers)],
            Some((blocks, rest)) => {
                let first = u16::try_from(*blocks).unwrap_or(u16::MAX).min(layers);
                vec![(&self.first, 0..first), (rest, first..layers)]
            }
        }
    }

    /// The device of each block, in order.
    pub(crate) fn devices(&self, layers: u16) -> impl Iterator<Item = &OpenDevice> {
        let of_stage = |(device, blocks): (_, Range<u16>)| blocks.map(move |_| device);
        self.stages(layers).into_iter().flat_map(of_stage)
    }
}
