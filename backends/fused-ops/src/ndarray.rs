//! The operations on the ndarray backend.
//!
//! Upstream has deprecated this backend in favour of flex; it stays while Burn has it.
#![expect(deprecated, reason = "the backend is deprecated as a whole")]

use burn::backend::NdArray;
use burn::tensor::TensorData;
use burn_ndarray::NdArrayTensor;

use crate::likeliest::LIKELIEST_WORDS;
use crate::{FusedOps, HeadLayout, PageSpan, Products, Stack, cpu};

/// The numbers of a tensor in the order of its shape; copied where they lie otherwise.
fn floats(tensor: &NdArrayTensor) -> Vec<f32> {
    let NdArrayTensor::F32(storage) = tensor else { unreachable!("activations are f32") };
    storage.view().iter().copied().collect()
}

fn with_floats<R>(tensor: &NdArrayTensor, then: impl FnOnce(&[f32]) -> R) -> R {
    let NdArrayTensor::F32(storage) = tensor else { unreachable!("activations are f32") };
    match storage.view().as_slice() {
        Some(slice) => then(slice),
        None => then(&floats(tensor)),
    }
}

fn with_bytes<R>(tensor: &NdArrayTensor, then: impl FnOnce(&[u8]) -> R) -> R {
    let NdArrayTensor::U8(storage) = tensor else { unreachable!("panels and pages are bytes") };
    then(storage.view().as_slice().expect("bytes are contiguous"))
}

fn indices(tensor: &NdArrayTensor) -> Vec<i32> {
    let NdArrayTensor::I32(storage) = tensor else { unreachable!("indices have 32 bits") };
    storage.view().iter().copied().collect()
}

fn tensor(values: Vec<f32>, tokens: usize) -> NdArrayTensor {
    let width = values.len() / tokens;
    NdArrayTensor::from_data(TensorData::new(values, [tokens, width]))
}

fn tokens(x: &NdArrayTensor) -> usize {
    let NdArrayTensor::F32(storage) = x else { unreachable!("activations are f32") };
    storage.shape()[0]
}

impl FusedOps for NdArray {
    fn norm_linear(
        x: NdArrayTensor,
        gain: NdArrayTensor,
        first: NdArrayTensor,
        second: NdArrayTensor,
        third: NdArrayTensor,
        stack: Stack,
        epsilon: f32,
        products: Products,
    ) -> NdArrayTensor {
        let gain = floats(&gain);
        let y = with_floats(&x, |x| {
            with_bytes(&first, |first| {
                with_bytes(&second, |second| {
                    with_bytes(&third, |third| {
                        let panels = [first, second, third];
                        cpu::norm_linear(x, &gain, panels, &stack, epsilon, products)
                    })
                })
            })
        });
        tensor(y, tokens(&x))
    }

    fn linear_add(
        x: NdArrayTensor,
        panels: NdArrayTensor,
        stack: Stack,
        sum: NdArrayTensor,
    ) -> NdArrayTensor {
        let mut y = floats(&sum);
        with_floats(&x, |x| {
            with_bytes(&panels, |panels| cpu::linear_add(x, panels, &stack, &mut y));
        });
        tensor(y, tokens(&sum))
    }

    fn store_packed_kv(
        pool: NdArrayTensor,
        qkv: NdArrayTensor,
        slots: NdArrayTensor,
        positions: NdArrayTensor,
        angles: NdArrayTensor,
        layout: HeadLayout,
    ) -> NdArrayTensor {
        let NdArrayTensor::U8(pool) = pool else { unreachable!("pages are bytes") };
        // Without a copy when nobody else holds it.
        let mut pool = pool.into_owned();
        let view = pool.as_slice_mut().expect("bytes are contiguous");
        with_floats(&qkv, |qkv| {
            with_floats(&angles, |angles| {
                cpu::store_kv(view, qkv, &indices(&slots), &indices(&positions), angles, layout);
            });
        });
        NdArrayTensor::U8(pool.into())
    }

    fn attend_packed_kv(
        pool: NdArrayTensor,
        qkv: NdArrayTensor,
        pages: NdArrayTensor,
        positions: NdArrayTensor,
        angles: NdArrayTensor,
        _span_table: NdArrayTensor,
        spans: Vec<PageSpan>,
        layout: HeadLayout,
    ) -> NdArrayTensor {
        let (pages, positions) = (indices(&pages), indices(&positions));
        let out = with_bytes(&pool, |pool| {
            with_floats(&qkv, |qkv| {
                with_floats(&angles, |angles| {
                    cpu::attend_kv(pool, qkv, &pages, &positions, angles, &spans, layout)
                })
            })
        });
        tensor(out, tokens(&qkv))
    }

    fn argmax(logits: NdArrayTensor) -> NdArrayTensor {
        let rows = tokens(&logits);
        let found = with_floats(&logits, |logits| cpu::argmax(logits, logits.len() / rows.max(1)));
        NdArrayTensor::from_data(TensorData::new(found, [rows]))
    }

    fn likeliest(logits: NdArrayTensor, weighing: NdArrayTensor) -> NdArrayTensor {
        let words = with_floats(&logits, |logits| {
            with_floats(&weighing, |weighing| cpu::likeliest(logits, weighing))
        });
        NdArrayTensor::from_data(TensorData::new(words, [tokens(&logits), LIKELIEST_WORDS]))
    }
}
