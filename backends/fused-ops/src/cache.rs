//! The cache of keys and values.

use burn::backend::Dispatch;
use burn::tensor::{DType, Int, Tensor, TensorData};
use cpu_kernels::{KvEncoding, KvLayout, prefer_large_pages};
use weights::RopePairing;

#[cfg(feature = "learn")]
use crate::learned;
use crate::reference::{paged_attention, rope};
use crate::{AttentionOptions, FusedOps, HeadLayout, OpenDevice, PageMap};

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

/// One layer's keys and values, in the pages of `cpu_kernels`. Allocated once.
#[derive(Debug)]
pub struct KvPool {
    /// `[bytes]` of type U8, on GPUs `[words]` of type U32
    pages: Tensor<1, Int>,
    /// How they lie there.
    layout: KvLayout,
}

/// Where a layer's attention finds the keys and values of its step.
#[derive(Debug)]
pub enum LayerCache<'a> {
    /// In pages, those of earlier steps too.
    Pages(&'a mut KvPool),
    /// In the step itself, which has every token of its sequences: slot `i` is its token `i`. By
    /// Burn's own operations, which it can differentiate.
    Step,
}

impl LayerCache<'_> {
    /// Takes the keys and values of a step's tokens in, and gives the attention of each sequence's new
    /// tokens over all that is known of it.
    ///
    /// Shapes: `qkv: [tokens, (heads + 2 · kv_heads) · head_dim]`, each token's query, key and
    /// value; `slots: [tokens]`, all different → `[tokens, heads · head_dim]`.
    pub fn attend(
        &mut self,
        qkv: Tensor<2>,
        slots: &Tensor<1, Int>,
        map: &PageMap,
        heads: &Heads,
        rotation: &Rotation,
    ) -> Tensor<2> {
        match self {
            Self::Pages(pool) => {
                pool.store(&qkv, slots, map, heads, rotation);
                pool.attend(qkv, map, heads, rotation)
            }
            #[cfg(feature = "learn")]
            Self::Step
                if learned::has(&qkv.device())
                    && map.page_tokens == 1
                    && heads.options.window_tokens.is_none() =>
            {
                learned::attend(qkv, map, heads, rotation)
            }
            Self::Step => attend_step(qkv, map, heads, rotation),
        }
    }
}

/// [`LayerCache::Step`] in Burn's own operations.
pub(crate) fn attend_step(
    qkv: Tensor<2>,
    map: &PageMap,
    heads: &Heads,
    rotation: &Rotation,
) -> Tensor<2> {
    let Heads { heads, head_dim, options } = *heads;
    let (tokens, kv_heads) = (qkv.dims()[0], options.kv_heads);
    let qkv = qkv.reshape([tokens, heads + 2 * kv_heads, head_dim]);
    let turned = qkv.clone().narrow(1, 0, heads + kv_heads);
    let turned = rope(turned, map.positions.clone(), rotation.table.clone(), rotation.pairing);
    let flat = |x: Tensor<3>| x.reshape([tokens, kv_heads * head_dim]);
    let query = turned.clone().narrow(1, 0, heads);
    let keys = flat(turned.narrow(1, heads, kv_heads));
    let values = flat(qkv.narrow(1, heads + kv_heads, kv_heads));
    paged_attention(query, keys, values, map, options).reshape([tokens, heads * head_dim])
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
}

impl KvPool {
    /// Bytes that one token takes in one layer's pool.
    pub fn token_bytes(encoding: KvEncoding, kv_heads: usize, head_dim: usize) -> usize {
        KvLayout { kv_heads, head_dim, page_tokens: 1, encoding }.page_bytes()
    }

    /// A pool that nothing was stored in.
    pub fn new(
        device: &OpenDevice,
        encoding: KvEncoding,
        heads: &Heads,
        pages: usize,
        page_tokens: usize,
    ) -> Self {
        let (kv_heads, head_dim) = (heads.options.kv_heads, heads.head_dim);
        let layout = KvLayout { kv_heads, head_dim, page_tokens, encoding };
        Self { pages: zeros(device, pages * layout.page_bytes()), layout }
    }

    /// Bytes of a page, as [`read_page`](Self::read_page) gives them.
    pub fn page_bytes(&self) -> usize {
        self.layout.page_bytes()
    }

    /// Numbers of the pool's tensor that a page takes.
    fn page_numbers(&self) -> usize {
        self.page_bytes() / self.pages.dtype().size()
    }

    /// Copies a page out, behind what `bytes` holds, waiting for the device. The bytes are the same on
    /// every device.
    ///
    /// Errors: what the device says.
    pub fn read_page(&self, page: usize, bytes: &mut Vec<u8>) -> Result<(), String> {
        let numbers = self.page_numbers();
        let page = self.pages.clone().narrow(0, page * numbers, numbers);
        let data = page.try_into_data().map_err(|error| error.to_string())?;
        bytes.extend_from_slice(data.as_bytes());
        Ok(())
    }

    /// Puts a page back that [`read_page`](Self::read_page) of an equal pool has given, in place.
    ///
    /// Panics: when `bytes` are not as many as [`page_bytes`](Self::page_bytes) says.
    pub fn write_page(&mut self, page: usize, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.page_bytes(), "a page of another size");
        let (numbers, dtype) = (self.page_numbers(), self.pages.dtype());
        let from = page * numbers;
        let data = TensorData::from_bytes_vec(bytes.to_vec(), [numbers], dtype);
        let new = Tensor::from_data(data, (&self.pages.device(), dtype));
        self.pages.inplace(|pages| pages.slice_assign(from..from + numbers, new));
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
        let layout = heads.layout(self.layout, rotation);
        self.pages.inplace(|pages| {
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

    /// Attention of each sequence's new tokens, turned by their positions, over its own pages:
    /// `qkv` as for [`store`](Self::store) → `[tokens, heads · head_dim]`. See
    /// [`reference::paged_attention`](crate::reference::paged_attention).
    pub fn attend(
        &self,
        qkv: Tensor<2>,
        map: &PageMap,
        heads: &Heads,
        rotation: &Rotation,
    ) -> Tensor<2> {
        Tensor::from_dispatch(<Dispatch as FusedOps>::attend_packed_kv(
            self.pages.clone().into_dispatch(),
            qkv.into_dispatch(),
            map.pages.clone().into_dispatch(),
            map.positions.clone().into_dispatch(),
            rotation.table.clone().into_dispatch(),
            map.span_table.clone().into_dispatch(),
            map.spans.clone(),
            heads.layout(self.layout, rotation),
        ))
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

    fn pool() -> KvPool {
        let layout = KvLayout {
            kv_heads: 2,
            head_dim: 8,
            page_tokens: PAGE_TOKENS,
            encoding: KvEncoding::F16,
        };
        let bytes: Vec<u8> = (0..3 * layout.page_bytes()).map(|at| (at % 251) as u8).collect();
        let data = TensorData::new(bytes.clone(), [bytes.len()]);
        let pages = Tensor::from_data(data, (&Default::default(), DType::U8));
        KvPool { pages, layout }
    }

    #[test]
    fn a_page_comes_back_where_it_is_put_and_nowhere_else() {
        let mut pool = pool();
        let page = |pool: &KvPool, page| {
            let mut bytes = Vec::new();
            pool.read_page(page, &mut bytes).unwrap();
            assert_eq!(bytes.len(), pool.page_bytes());
            bytes
        };
        let before = [0, 1, 2].map(|number| page(&pool, number));
        assert!(before[0] != before[1] && before[1] != before[2]);
        pool.write_page(1, &before[2]);
        let after = [0, 1, 2].map(|number| page(&pool, number));
        assert_eq!(after, [before[0].clone(), before[2].clone(), before[2].clone()]);
    }
}
