//! Which model this is, for what is kept of its cache.

use sha2::{Digest, Sha256};
use weights::{Archive, Part, TensorName};

use crate::load::{CacheLimits, LoadError};

/// Bytes that are looked at in a place of a tensor.
const SAMPLE_BYTES: usize = 256;
/// Places of each tensor, evenly spread from its first byte to its last.
const SAMPLES: usize = 4;

/// Names the weights, and how the cache of their keys and values lies, which is the same on every
/// device.
///
/// Reads some samples of each tensor, not all of it: models that differ in training differ in
/// nearly every number, and a name that took minutes would not be worth having.
pub(crate) fn identity(archive: &dyn Archive, cache: CacheLimits) -> Result<[u8; 32], LoadError> {
    let hyper = archive.hyper();
    let layers = u16::try_from(hyper.layers).map_err(|_| LoadError::layers(hyper))?;
    let mut hash = Sha256::new();
    // Angles, scales and widths: all that is known of the model beside its numbers.
    hash.update(format!("{hyper:?}"));
    hash.update(format!("{:?} {}", cache.encoding, cache.page_tokens));
    let blocks = (0..layers)
        .flat_map(|layer| Part::ALL.into_iter().map(move |part| TensorName::Block { layer, part }));
    for name in [TensorName::Embedding].into_iter().chain(blocks) {
        let tensor = archive.tensor(name)?;
        hash.update(format!("{name:?} {:?} {:?}", tensor.encoding, tensor.layout));
        for place in 0..SAMPLES {
            let last = tensor.bytes.len().saturating_sub(SAMPLE_BYTES);
            let from = last / (SAMPLES - 1) * place;
            let until = tensor.bytes.len().min(from + SAMPLE_BYTES);
            hash.update(&tensor.bytes[from..until]);
        }
    }
    Ok(hash.finalize().into())
}
