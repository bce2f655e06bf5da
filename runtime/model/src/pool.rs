//! The device memory of the cache: every layer's keys and values, by slot.

use fused_ops::{Heads, KvEncoding, KvPool, OpenDevice};

/// Allocated once; a step writes into it and never moves it.
#[derive(Debug)]
pub(crate) struct Pool {
    layers: Vec<KvPool>,
}

impl Pool {
    pub(crate) fn new(
        layers: usize,
        device: &OpenDevice,
        encoding: KvEncoding,
        heads: &Heads,
        pages: usize,
        page_tokens: usize,
    ) -> Self {
        let layer = |_| KvPool::new(device, encoding, heads, pages, page_tokens);
        Self { layers: (0..layers).map(layer).collect() }
    }

    pub(crate) fn layers(&mut self) -> impl Iterator<Item = &mut KvPool> {
        self.layers.iter_mut()
    }
}
