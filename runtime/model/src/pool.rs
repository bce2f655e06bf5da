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

    /// Bytes of a page in all layers.
    pub(crate) fn page_bytes(&self, page_tokens: usize) -> usize {
        self.layers.iter().map(|layer| layer.page_bytes(page_tokens)).sum()
    }

    /// A page of all layers, one behind the other.
    pub(crate) fn read_page(&self, page: usize, page_tokens: usize) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::with_capacity(self.page_bytes(page_tokens));
        self.layers.iter().try_for_each(|layer| layer.read_page(page, page_tokens, &mut bytes))?;
        Ok(bytes)
    }

    /// Puts a page of all layers back.
    pub(crate) fn write_page(&mut self, page: usize, page_tokens: usize, mut bytes: &[u8]) {
        for layer in &mut self.layers {
            let own;
            (own, bytes) = bytes.split_at(layer.page_bytes(page_tokens));
            layer.write_page(page, page_tokens, own);
        }
    }

    pub(crate) fn layers(&mut self) -> impl Iterator<Item = &mut KvPool> {
        self.layers.iter_mut()
    }
}
