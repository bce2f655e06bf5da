//! The device memory of the cache: every layer's keys and values, by slot.

use burn::tensor::{Device, Int, Tensor};
use fused_ops::store_kv;

/// Allocated once; a step writes rows into it and never moves it.
#[derive(Debug)]
pub(crate) struct Pool {
    layers: Vec<LayerPool>,
}

/// One layer's share. Each `[slots, kv_heads * head_dim]`, f32.
#[derive(Debug)]
pub(crate) struct LayerPool {
    keys: Tensor<2>,
    values: Tensor<2>,
}

impl Pool {
    pub(crate) fn new(layers: usize, slots: usize, width: usize, device: &Device) -> Self {
        let zeros = || Tensor::zeros([slots, width], device);
        let layers = (0..layers).map(|_| LayerPool { keys: zeros(), values: zeros() }).collect();
        Self { layers }
    }

    pub(crate) fn layers(&mut self) -> impl Iterator<Item = &mut LayerPool> {
        self.layers.iter_mut()
    }
}

impl LayerPool {
    /// Writes the keys and values of a step's tokens, each `[tokens, kv_heads * head_dim]`.
    pub(crate) fn store(&mut self, keys: Tensor<2>, values: Tensor<2>, slots: &Tensor<1, Int>) {
        self.keys.inplace(|pool| store_kv(pool, keys, slots.clone()));
        self.values.inplace(|pool| store_kv(pool, values, slots.clone()));
    }

    /// All keys and all values. To be dropped before the next [`store`](Self::store), which would
    /// copy what is shared.
    pub(crate) fn read(&self) -> (Tensor<2>, Tensor<2>) {
        (self.keys.clone(), self.values.clone())
    }
}
