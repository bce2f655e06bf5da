//! The network as the engine drives it.

use burn::tensor::{Device, Tensor};
use engine::{Batch, Capacity, Forward, ForwardError, Logits, PageBytes, Row, RowLogits, Want};
use protocol::TokenId;

use crate::embedding::Embedding;
use crate::mistral::Mistral;
use crate::pool::Pool;
use crate::upload::upload;

/// A loaded model and its cache.
#[derive(Debug)]
pub struct Network {
    pub(crate) mistral: Mistral,
    pub(crate) embedding: Embedding,
    pub(crate) pool: Pool,
    pub(crate) capacity: Capacity,
    pub(crate) device: Device,
    /// Names the weights and how the cache lies.
    pub(crate) identity: [u8; 32],
}

impl Forward for Network {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ForwardError> {
        let step = upload(batch, &self.capacity, &self.embedding, &self.device)?;
        match self.mistral.forward(step, &mut self.pool) {
            None => Ok(Logits { rows: Vec::new() }),
            Some(logits) => download(logits, &batch.rows),
        }
    }

    fn pages(&mut self) -> Option<&mut dyn PageBytes> {
        Some(self)
    }
}

impl Network {
    fn page_tokens(&self) -> usize {
        self.capacity.page_tokens as usize
    }
}

impl PageBytes for Network {
    fn identity(&self) -> [u8; 32] {
        self.identity
    }

    fn page_bytes(&self) -> usize {
        self.pool.page_bytes(self.page_tokens())
    }

    fn read(&mut self, page: u32) -> Result<Vec<u8>, String> {
        self.pool.read_page(page as usize, self.page_tokens())
    }

    fn write(&mut self, page: u32, bytes: &[u8]) {
        self.pool.write_page(page as usize, self.page_tokens(), bytes);
    }
}

/// Waits for the device and takes what each row wants. `logits: [rows, vocabulary]`
fn download(logits: Tensor<2>, rows: &[Row]) -> Result<Logits, ForwardError> {
    let vocabulary = logits.dims()[1];
    let lost = |reason: String| ForwardError::DeviceLost { reason };
    let data = logits.try_into_data().map_err(|error| lost(error.to_string()))?;
    let values: Vec<f32> = data.try_into_vec().map_err(|error| lost(format!("{error:?}")))?;
    let rows = values.chunks_exact(vocabulary).zip(rows).map(|(logits, row)| match row.want {
        Want::Logits => RowLogits::All(logits.to_vec()),
        Want::Argmax => RowLogits::Argmax(likeliest(logits)),
    });
    Ok(Logits { rows: rows.collect() })
}

/// The lowest id among those with the highest logit.
fn likeliest(logits: &[f32]) -> TokenId {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, logit) in (0..).zip(logits) {
        if *logit > best.1 {
            best = (id, *logit);
        }
    }
    TokenId(best.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowest_id_wins_a_tie() {
        assert_eq!(likeliest(&[0.5, 2.0, -1.0, 2.0]), TokenId(1));
    }
}
