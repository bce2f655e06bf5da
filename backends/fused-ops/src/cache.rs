//! The cache of keys and values, as each kind of device holds it.

use burn::backend::Dispatch;
use burn::tensor::{DType, Int, Tensor, TensorData};
use cpu_kernels::{KvEncoding, KvLayout, prefer_large_pages};
use weights::RopePairing;

use crate::{
    AttentionOptions, FusedOps, HeadLayout, OpenDevice, PageMap, paged_attention, rope, store_kv,
};

/// How positions turn queries and keys.
#[derive(Debug)]
pub struct Rotation {
    /// From [`rope_table`](crate::rope_table). `[context, head_dim]`
    pub table: Tensor<2>,
    /// Which numbers of a head's vector are a pair.
    pub pairing: RopePairing,
}

/// What the heads of a layer are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// Numbers of a head's vector.
    pub head_dim: usize,
    /// What attention needs to know.
    pub options: AttentionOptions,
}

/// One layer's keys and values, by slot. Allocated once.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one for each layer")]
pub enum KvPool {
    /// As f32 in two tensors.
    Dense {
        /// `[slots, kv_heads * head_dim]`
        keys: Tensor<2>,
        /// As `keys`.
        values: Tensor<2>,
    },
    /// In the pages of `cpu_kernels`, the same bytes on every device.
    Packed {
        /// `[bytes]` of type U8; on GPUs `[words]` of type U32, each four of the bytes.
        pages: Tensor<1, Int>,
        /// How they lie there.
        layout: KvLayout,
    },
}

impl Heads {
    /// Heads of queries, keys and values, in numbers of one token.
    fn width(&self) -> usize {
        (self.heads + 2 * self.options.kv_heads) * self.head_dim
    }

    fn layout(&self, cache: KvLayout, rotation: &Rotation) -> HeadLayout {
        HeadLayout {
            heads: self.heads,
            cache,
            pairing: rotation.pairing,
            scale: self.options.scale as f32,
            window_tokens: self.options.window_tokens,
        }
    }

    /// Part `first..` of each token's vector, as heads.
    fn part(&self, qkv: &Tensor<2>, first: usize, heads: usize) -> Tensor<3> {
        let tokens = qkv.dims()[0];
        qkv.clone().narrow(1, first * self.head_dim, heads * self.head_dim).reshape([
            tokens,
            heads,
            self.head_dim,
        ])
    }
}

impl KvPool {
    /// Bytes that one token takes in one layer's pool.
    pub fn token_bytes(
        device: &OpenDevice,
        encoding: KvEncoding,
        kv_heads: usize,
        head_dim: usize,
    ) -> usize {
        if device.reads_packed_weights() {
            KvLayout { kv_heads, head_dim, page_tokens: 1, encoding }.page_bytes()
        } else {
            2 * 4 * kv_heads * head_dim
        }
    }

    /// A pool that nothing was stored in. The encoding counts where the device packs its cache.
    pub fn new(
        device: &OpenDevice,
        encoding: KvEncoding,
        heads: &Heads,
        pages: usize,
        page_tokens: usize,
    ) -> Self {
        let kv_heads = heads.options.kv_heads;
        if device.reads_packed_weights() {
            let layout = KvLayout { kv_heads, head_dim: heads.head_dim, page_tokens, encoding };
            Self::Packed { pages: zeros(device, pages * layout.page_bytes()), layout }
        } else {
            let shape = [pages * page_tokens, kv_heads * heads.head_dim];
            let zeros = || Tensor::zeros(shape, &device.device);
            Self::Dense { keys: zeros(), values: zeros() }
        }
    }

    /// Bytes of a page of so many tokens, as [`read_page`](Self::read_page) gives them.
    pub fn page_bytes(&self, page_tokens: usize) -> usize {
        match self {
            Self::Packed { layout, .. } => layout.page_bytes(),
            Self::Dense { keys, .. } => 2 * keys.dims()[1] * page_tokens * size_of::<f32>(),
        }
    }

    /// Copies a page out, behind what `bytes` holds, waiting for the device.
    ///
    /// Errors: what the device says.
    pub fn read_page(
        &self,
        page: usize,
        page_tokens: usize,
        bytes: &mut Vec<u8>,
    ) -> Result<(), String> {
        match self {
            Self::Packed { pages, layout } => {
                let numbers = layout.page_bytes() / pages.dtype().size();
                let page = pages.clone().narrow(0, page * numbers, numbers);
                let data = page.try_into_data().map_err(|error| error.to_string())?;
                bytes.extend_from_slice(data.as_bytes());
            }
            Self::Dense { keys, values } => {
                for pool in [keys, values] {
                    let rows = pool.clone().narrow(0, page * page_tokens, page_tokens);
                    let data = rows.try_into_data().map_err(|error| error.to_string())?;
                    bytes.extend_from_slice(data.as_bytes());
                }
            }
        }
        Ok(())
    }

    /// Puts a page back that [`read_page`](Self::read_page) of an equal pool has given, in place.
    ///
    /// Panics: when `bytes` are not as many as [`page_bytes`](Self::page_bytes) says.
    pub fn write_page(&mut self, page: usize, page_tokens: usize, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.page_bytes(page_tokens), "a page of another size");
        match self {
            Self::Packed { pages, .. } => {
                let dtype = pages.dtype();
                let numbers = bytes.len() / dtype.size();
                let from = page * numbers;
                let data = TensorData::from_bytes_vec(bytes.to_vec(), [numbers], dtype);
                let new = Tensor::from_data(data, (&pages.device(), dtype));
                pages.inplace(|pages| pages.slice_assign([from..from + numbers], new));
            }
            Self::Dense { keys, values } => {
                let (width, from) = (keys.dims()[1], page * page_tokens);
                let (half, _) = bytes.as_chunks::<4>();
                let floats: Vec<f32> = half.iter().map(|four| f32::from_ne_bytes(*four)).collect();
                let pools = [keys, values].into_iter();
                for (pool, floats) in pools.zip(floats.chunks_exact(width * page_tokens)) {
                    let data = TensorData::new(floats.to_vec(), [page_tokens, width]);
                    let new = Tensor::from_data(data, &pool.device());
                    pool.inplace(|pool| pool.slice_assign(from..from + page_tokens, new));
                }
            }
        }
    }

    /// Writes the keys, turned by their positions, and the values of a step's tokens into their
    /// slots, in place.
    ///
    /// Shapes: `qkv: [tokens, (heads + 2 · kv_heads) · head_dim]`, each token's query, key and
    /// value; `slots: [tokens]`, all different.
    pub fn store(
        &mut self,
        qkv: &Tensor<2>,
        slots: &Tensor<1, Int>,
        map: &PageMap,
        heads: &Heads,
        rotation: &Rotation,
    ) {
        debug_assert_eq!(qkv.dims()[1], heads.width());
        match self {
            Self::Packed { pages, layout } => {
                let layout = heads.layout(*layout, rotation);
                pages.inplace(|pages| {
                    Tensor::from_dispatch(<Dispatch as FusedOps>::store_packed_kv(
                        pages.into_dispatch(),
                        qkv.clone().into_dispatch(),
                        slots.clone().into_dispatch(),
                        map.positions.clone().into_dispatch(),
                        rotation.table.clone().into_dispatch(),
                        layout,
                    ))
                });
            }
            Self::Dense { keys, values } => {
                let kv_heads = heads.options.kv_heads;
                let tokens = qkv.dims()[0];
                let width = kv_heads * heads.head_dim;
                let key = heads.part(qkv, heads.heads, kv_heads);
                let key =
                    rope(key, map.positions.clone(), rotation.table.clone(), rotation.pairing);
                let value = heads.part(qkv, heads.heads + kv_heads, kv_heads);
                let (key, value) = (key.reshape([tokens, width]), value.reshape([tokens, width]));
                keys.inplace(|pool| store_kv(pool, key, slots.clone()));
                values.inplace(|pool| store_kv(pool, value, slots.clone()));
            }
        }
    }

    /// Attention of each sequence's new tokens, turned by their positions, over its own pages:
    /// `qkv` as for [`store`](Self::store) → `[tokens, heads · head_dim]`. See
    /// [`paged_attention`].
    pub fn attend(
        &self,
        qkv: Tensor<2>,
        map: &PageMap,
        heads: &Heads,
        rotation: &Rotation,
    ) -> Tensor<2> {
        match self {
            Self::Packed { pages, layout } => {
                Tensor::from_dispatch(<Dispatch as FusedOps>::attend_packed_kv(
                    pages.clone().into_dispatch(),
                    qkv.into_dispatch(),
                    map.pages.clone().into_dispatch(),
                    map.positions.clone().into_dispatch(),
                    rotation.table.clone().into_dispatch(),
                    map.span_table.clone().into_dispatch(),
                    map.spans.clone(),
                    heads.layout(*layout, rotation),
                ))
            }
            Self::Dense { keys, values } => {
                let query = heads.part(&qkv, 0, heads.heads);
                let query =
                    rope(query, map.positions.clone(), rotation.table.clone(), rotation.pairing);
                let tokens = query.dims()[0];
                paged_attention(query, keys.clone(), values.clone(), map, heads.options)
                    .reshape([tokens, heads.heads * heads.head_dim])
            }
        }
    }
}

/// So many bytes of zeros, made where they stay.
fn zeros(device: &OpenDevice, bytes: usize) -> Tensor<1, Int> {
    if !device.is_cpu() {
        assert!(bytes.is_multiple_of(4), "{bytes} bytes are not whole words");
        return Tensor::zeros([bytes / 4], (&device.device, DType::U32));
    }
    // Zeros that the system gives occupy nothing until something is stored in them.
    let mut zeros = vec![0u8; bytes];
    prefer_large_pages(&mut zeros);
    Tensor::from_data(TensorData::new(zeros, [bytes]), (&device.device, DType::U8))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE_TOKENS: usize = 4;

    /// Rows of numbers that are all different.
    fn numbers(rows: usize, width: usize) -> Tensor<2> {
        let values: Vec<f32> = (0..rows * width).map(|number| number as f32).collect();
        Tensor::from_data(TensorData::new(values, [rows, width]), &Default::default())
    }

    fn pools() -> [KvPool; 2] {
        let layout = KvLayout {
            kv_heads: 2,
            head_dim: 8,
            page_tokens: PAGE_TOKENS,
            encoding: KvEncoding::F16,
        };
        let bytes: Vec<u8> = (0..3 * layout.page_bytes()).map(|at| (at % 251) as u8).collect();
        let data = TensorData::new(bytes.clone(), [bytes.len()]);
        let pages = Tensor::from_data(data, (&Default::default(), DType::U8));
        let keys = numbers(3 * PAGE_TOKENS, 16);
        let values = keys.clone() * -1.0;
        [KvPool::Packed { pages, layout }, KvPool::Dense { keys, values }]
    }

    #[test]
    fn a_page_comes_back_where_it_is_put_and_nowhere_else() {
        for mut pool in pools() {
            let page = |pool: &KvPool, page| {
                let mut bytes = Vec::new();
                pool.read_page(page, PAGE_TOKENS, &mut bytes).unwrap();
                assert_eq!(bytes.len(), pool.page_bytes(PAGE_TOKENS));
                bytes
            };
            let before = [0, 1, 2].map(|number| page(&pool, number));
            assert!(before[0] != before[1] && before[1] != before[2]);
            pool.write_page(1, PAGE_TOKENS, &before[2]);
            let after = [0, 1, 2].map(|number| page(&pool, number));
            assert_eq!(after, [before[0].clone(), before[2].clone(), before[2].clone()]);
        }
    }
}
