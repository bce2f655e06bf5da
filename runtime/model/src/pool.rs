//! The device memory of the cache: every layer's keys and values, by slot.

use fused_ops::{Heads, KvEncoding, KvPool, LayerCache, OpenDevice};

/// Allocated once; a step writes into it and never moves it.
#[derive(Debug)]
pub(crate) struct Pool {
    layers: Vec<KvPool>,
}

impl Pool {
    /// A layer on each of the devices.
    pub(crate) fn new<'a>(
        devices: impl Iterator<Item = &'a OpenDevice>,
        encoding: KvEncoding,
        heads: &Heads,
        pages: usize,
        page_tokens: usize,
    ) -> Self {
        let layer = |device| KvPool::new(device, encoding, heads, pages, page_tokens);
        Self { layers: devices.map(layer).collect() }
    }

    /// Bytes of a page in all layers.
    pub(crate) fn page_bytes(&self) -> usize {
        self.layers.iter().map(KvPool::page_bytes).sum()
    }

    /// A page of all layers, one behind the other.
    pub(crate) fn read_page(&self, page: usize) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::with_capacity(self.page_bytes());
        self.layers.iter().try_for_each(|layer| layer.read_page(page, &mut bytes))?;
        Ok(bytes)
    }

    /// Puts a page of all layers back.
    pub(crate) fn write_page(&mut self, page: usize, mut bytes: &[u8]) {
        for layer in &mut self.layers {
            let own;
            (own, bytes) = bytes.split_at(layer.page_bytes());
            layer.write_page(page, own);
        }
    }

    /// Each layer's.
    pub(crate) fn layers(&mut self) -> impl Iterator<Item = LayerCache<'_>> {
        self.layers.iter_mut().map(LayerCache::Pages)
    }
}
