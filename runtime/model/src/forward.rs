//! The network as the engine drives it.

use burn::tensor::{DType, Device, Element, Tensor, TensorData};
use engine::{
    Batch, Capacity, Forward, ForwardError, Likeliest, Logits, PageBytes, Row, RowLogits, Want,
    Weighing, WholeRow,
};
use fused_ops::{LIKELIEST_WORDS, argmax, likeliest};
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
    /// Whether it gives the heads of rows. Where logits lie in the program's memory, the sampler is as
    /// fast with all of them.
    pub(crate) gives_heads: bool,
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
            Some(logits) => download(logits, &self.wants(&batch.rows)),
        }
    }

    fn pages(&mut self) -> Option<&mut dyn PageBytes> {
        Some(self)
    }
}

impl Network {
    /// What rows want, as far as it is of use here.
    fn wants(&self, rows: &[Row]) -> Vec<Want> {
        let want = |row: &Row| match row.want {
            Want::Likeliest(_) if !self.gives_heads => Want::Logits,
            want => want,
        };
        rows.iter().map(want).collect()
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

/// Waits for the device and takes what is wanted of each row, and no more. `logits: [rows, vocabulary]`
fn download(logits: Tensor<2>, wants: &[Want]) -> Result<Logits, ForwardError> {
    let width = logits.dims()[1];
    if wants.iter().all(|want| *want == Want::Logits) {
        let rows = rows_of(numbers(logits.try_into_data())?, width);
        return Ok(Logits { rows: rows.map(RowLogits::All).collect() });
    }
    let few = || lost("it gave fewer rows than it has");
    let best = match wants.contains(&Want::Argmax) {
        true => numbers::<i32>(argmax(logits.clone()).try_into_data())?,
        false => Vec::new(),
    };
    let heads = heads(&logits, wants)?;
    let mut whole = rows_of(whole(&logits, wants)?, width);
    let outcome = |(at, want): (usize, &Want)| match want {
        Want::Logits => whole.next().map(RowLogits::All).ok_or_else(few),
        Want::Argmax => {
            let token = best.get(at).ok_or_else(few)?.cast_unsigned();
            Ok(RowLogits::Argmax(TokenId(token), later(&logits, at)))
        }
        Want::Likeliest(_) => {
            let words = heads.chunks_exact(LIKELIEST_WORDS).nth(at).ok_or_else(few)?;
            let row = later(&logits, at);
            let Some(fused_ops::Likeliest { tokens, rest }) = fused_ops::Likeliest::read(words)
            else {
                return row.fetch().map(RowLogits::All);
            };
            let tokens = tokens.into_iter().map(|(id, logit)| (TokenId(id), logit)).collect();
            Ok(RowLogits::Likeliest(Likeliest { tokens, rest, row }))
        }
    };
    let rows = wants.iter().enumerate().map(outcome).collect::<Result<_, _>>()?;
    Ok(Logits { rows })
}

/// The heads of all rows where one is wanted.
fn heads(logits: &Tensor<2>, wants: &[Want]) -> Result<Vec<i32>, ForwardError> {
    let weighing = |want: &Want| match *want {
        Want::Likeliest(Weighing { temperature, first, end }) => {
            fused_ops::Weighing { temperature, counted: first.0..end.0 }
        }
        Want::Logits | Want::Argmax => fused_ops::Weighing { temperature: 1.0, counted: 0..0 },
    };
    if !wants.iter().any(|want| matches!(want, Want::Likeliest(_))) {
        return Ok(Vec::new());
    }
    let weighing: Vec<_> = wants.iter().map(weighing).collect();
    numbers(likeliest(logits.clone(), &weighing).try_into_data())
}

/// The rows that are wanted whole, back to back.
fn whole(logits: &Tensor<2>, wants: &[Want]) -> Result<Vec<f32>, ForwardError> {
    let whole: Vec<i32> =
        (0..).zip(wants).filter(|(_, want)| **want == Want::Logits).map(|(at, _)| at).collect();
    if whole.is_empty() {
        return Ok(Vec::new());
    }
    let count = whole.len();
    let chosen = TensorData::new(whole, [count]);
    let chosen = Tensor::from_data(chosen, (&logits.device(), DType::I32));
    numbers(logits.clone().select(0, chosen).try_into_data())
}

fn rows_of(values: Vec<f32>, width: usize) -> impl Iterator<Item = Vec<f32>> {
    let rows = values.len() / width.max(1);
    (0..rows).map(move |row| values[row * width..][..width].to_vec())
}

/// A row that is fetched when somebody wants it.
fn later(logits: &Tensor<2>, row: usize) -> WholeRow {
    let logits = logits.clone();
    WholeRow::new(move || numbers(logits.narrow(0, row, 1).try_into_data()))
}

fn numbers<T: Element>(data: Result<TensorData, impl ToString>) -> Result<Vec<T>, ForwardError> {
    data.map_err(lost)?.try_into_vec().map_err(|error| lost(format!("{error:?}")))
}

fn lost(reason: impl ToString) -> ForwardError {
    ForwardError::DeviceLost { reason: reason.to_string() }
}
