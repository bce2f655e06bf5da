//! The network as the engine drives it.

use burn::tensor::{DType, Device, Element, Tensor, TensorData};
use engine::{Batch, Capacity, Forward, ForwardError, Logits, PageBytes, Row, RowLogits, Want};
use fused_ops::argmax;
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
    /// Names the weights and how the cache lies.
    pub(crate) identity: [u8; 32],
}

impl Forward for Network {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ForwardError> {
        let embed = |tokens: &[TokenId], device: &Device| self.embedding.vectors(tokens, device);
        let step = upload(batch, &self.capacity, embed, self.mistral.devices())?;
        match self.mistral.forward(step, self.pool.layers()) {
            None => Ok(Logits { rows: Vec::new() }),
            Some(logits) => download(logits, &batch.rows),
        }
    }

    fn pages(&mut self) -> Option<&mut dyn PageBytes> {
        Some(self)
    }
}

impl PageBytes for Network {
    fn identity(&self) -> [u8; 32] {
        self.identity
    }

    fn page_bytes(&self) -> usize {
        self.pool.page_bytes()
    }

    fn read(&mut self, page: u32) -> Result<Vec<u8>, String> {
        self.pool.read_page(page as usize)
    }

    fn write(&mut self, page: u32, bytes: &[u8]) {
        self.pool.write_page(page as usize, bytes);
    }
}

/// Waits for the device and takes what each row wants, and no more. `logits: [rows, vocabulary]`
fn download(logits: Tensor<2>, rows: &[Row]) -> Result<Logits, ForwardError> {
    let vocabulary = logits.dims()[1];
    let likeliest = if rows.iter().any(|row| row.want == Want::Argmax) {
        numbers::<i32>(argmax(logits.clone()).try_into_data())?
    } else {
        Vec::new()
    };
    let whole: Vec<i32> =
        (0..).zip(rows).filter(|(_, row)| row.want == Want::Logits).map(|(at, _)| at).collect();
    let values = match whole.len() {
        0 => Vec::new(),
        all if all == rows.len() => numbers::<f32>(logits.try_into_data())?,
        some => {
            let chosen = TensorData::new(whole, [some]);
            let chosen = Tensor::from_data(chosen, (&logits.device(), DType::I32));
            numbers::<f32>(logits.select(0, chosen).try_into_data())?
        }
    };
    let mut values = values.chunks_exact(vocabulary);
    let rows = rows.iter().enumerate().map(|(at, row)| match row.want {
        Want::Logits => values.next().map(|logits| RowLogits::All(logits.to_vec())),
        Want::Argmax => likeliest.get(at).map(|id| RowLogits::Argmax(TokenId(id.cast_unsigned()))),
    });
    let rows = rows.collect::<Option<Vec<_>>>();
    Ok(Logits { rows: rows.ok_or_else(|| lost("it gave fewer rows than it has"))? })
}

fn numbers<T: Element>(data: Result<TensorData, impl ToString>) -> Result<Vec<T>, ForwardError> {
    data.map_err(lost)?.try_into_vec().map_err(|error| lost(format!("{error:?}")))
}

fn lost(reason: impl ToString) -> ForwardError {
    ForwardError::DeviceLost { reason: reason.to_string() }
}
