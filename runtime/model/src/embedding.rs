//! The vectors of tokens.
//!
//! They stay in the file's mapping on every device: a step reads a few rows of a table that may
//! have 131072, and what it uploads is what it reads.

use burn::tensor::{Device, Tensor, TensorData};
use protocol::TokenId;
use weights::{RawTensor, WeightsError};

/// The token embedding, `[vocabulary, hidden]`, in the encoding of its file.
#[derive(Debug)]
pub(crate) struct Embedding {
    table: RawTensor,
    row_bytes: usize,
}

impl Embedding {
    pub(crate) fn new(table: RawTensor) -> Result<Self, WeightsError> {
        let row_bytes = table.encoding.row_bytes(table.shape[1])?;
        Ok(Self { table, row_bytes })
    }

    /// The tokens' vectors, on the device. `[tokens, hidden]`
    ///
    /// Errors: an id outside the vocabulary.
    pub(crate) fn vectors(&self, tokens: &[TokenId], device: &Device) -> Result<Tensor<2>, String> {
        let hidden = self.table.shape[1];
        let mut rows = vec![0.0; tokens.len() * hidden];
        for (token, row) in tokens.iter().zip(rows.chunks_exact_mut(hidden)) {
            let start = token.0 as usize * self.row_bytes;
            let packed = self.table.bytes.get(start..start + self.row_bytes).ok_or_else(|| {
                format!("token {} is outside the vocabulary of {}", token.0, self.table.shape[0])
            })?;
            self.table.encoding.unpack(packed, row).map_err(|error| error.to_string())?;
        }
        Ok(Tensor::from_data(TensorData::new(rows, [tokens.len(), hidden]), device))
    }
}
