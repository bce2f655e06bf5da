//! The cache of keys and values on a GPU.

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::{empty_device_contiguous_dtype, zeros};
use burn_cubecl::tensor::CubeTensor;
use cube_kernels::BufferArg;
use cube_kernels::attention::{Attention, Cache, Queries, Span};
use cube_kernels::kv::{self, Rotation, Tokens};

use crate::{HeadLayout, KvEncoding, KvLayout, PageSpan};

/// See [`FusedOps::store_packed_kv`](crate::FusedOps::store_packed_kv).
pub(super) fn store(
    pool: CubeTensor,
    qkv: CubeTensor,
    slots: CubeTensor,
    positions: CubeTensor,
    angles: CubeTensor,
    layout: HeadLayout,
) -> CubeTensor {
    assert_eq!(pool.dtype, DType::U32, "a cache of words");
    let pool = if pool.can_mut() { pool } else { into_contiguous(pool.copy()) };
    kv::store(
        &pool.client.clone(),
        pool.clone().into_buffer_arg(),
        cache_layout(layout.cache),
        layout.heads,
        Tokens { qkv: floats(qkv), slots: indices(slots), positions: indices(positions) },
        rotation(angles, layout),
    );
    pool
}

/// See [`FusedOps::attend_packed_kv`](crate::FusedOps::attend_packed_kv).
#[expect(clippy::too_many_arguments, reason = "those of the operation")]
pub(super) fn attend(
    pool: CubeTensor,
    qkv: CubeTensor,
    pages: CubeTensor,
    _positions: CubeTensor,
    angles: CubeTensor,
    span_table: CubeTensor,
    spans: Vec<PageSpan>,
    layout: HeadLayout,
) -> CubeTensor {
    assert_eq!(pool.dtype, DType::U32, "a cache of words");
    let (client, device) = (pool.client.clone(), pool.device.clone());
    let tokens = qkv.shape()[0];
    let shape = Shape::new([tokens, layout.heads * layout.cache.head_dim]);
    let spans: Vec<Span> = spans
        .into_iter()
        .map(|span| Span {
            query_start: span.query_start,
            query_tokens: span.query_tokens,
            context_tokens: span.context_tokens,
            first_page: span.first_page,
        })
        .collect();
    let queries: usize = spans.iter().map(|span| span.query_tokens).sum();
    let out = if queries == tokens {
        empty_device_contiguous_dtype(client.clone(), device, shape, DType::F32)
    } else {
        into_contiguous(zeros(device, shape, DType::F32))
    };
    assert_eq!(span_table.dtype, DType::I32, "spans as numbers of 32 bits");
    cube_kernels::attention::attend(
        &client,
        Cache { pool: pool.into_buffer_arg(), layout: cache_layout(layout.cache) },
        &Attention {
            heads: layout.heads,
            scale: layout.scale,
            window_tokens: layout.window_tokens,
        },
        Queries {
            qkv: floats(qkv),
            pages: indices(pages),
            span_table: into_contiguous(span_table).handle,
            spans: &spans,
        },
        rotation(angles, layout),
        out.clone().into_buffer_arg(),
    );
    out
}

fn floats(tensor: CubeTensor) -> BufferArg {
    assert_eq!(tensor.dtype, DType::F32, "activations and angles are f32");
    into_contiguous(tensor).into_buffer_arg()
}

fn indices(tensor: CubeTensor) -> BufferArg {
    assert_eq!(tensor.dtype, DType::I32, "indices have 32 bits");
    into_contiguous(tensor).into_buffer_arg()
}

fn rotation(angles: CubeTensor, layout: HeadLayout) -> Rotation {
    Rotation { table: floats(angles), pairing: layout.pairing }
}

fn cache_layout(layout: KvLayout) -> kv::KvLayout {
    let KvLayout { kv_heads, head_dim, page_tokens, encoding } = layout;
    let encoding = match encoding {
        KvEncoding::F16 => kv::KvEncoding::F16,
        KvEncoding::Int8 => kv::KvEncoding::Int8,
        KvEncoding::F32 => kv::KvEncoding::F32,
    };
    kv::KvLayout { kv_heads, head_dim, page_tokens, encoding }
}
