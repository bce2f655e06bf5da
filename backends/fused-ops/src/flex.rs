//! The operations on the flex backend.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::TensorData;

use crate::likeliest::LIKELIEST_WORDS;
use crate::{FusedOps, HeadLayout, PageSpan, Products, Stack, cpu};

fn floats(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("contiguous f32")
}

fn bytes(tensor: &FlexTensor) -> &[u8] {
    tensor.as_slice().expect("contiguous bytes")
}

fn indices(tensor: &FlexTensor) -> &[i32] {
    tensor.as_slice().expect("contiguous indices of 32 bits")
}

fn tensor(values: Vec<f32>, tokens: usize) -> FlexTensor {
    let width = values.len() / tokens;
    FlexTensor::from_data(TensorData::new(values, [tokens, width]))
}

fn tokens(x: &FlexTensor) -> usize {
    x.layout().shape()[0]
}

impl FusedOps for Flex {
    fn norm_linear(
        x: FlexTensor,
        gain: FlexTensor,
        first: FlexTensor,
        second: FlexTensor,
        third: FlexTensor,
        stack: Stack,
        epsilon: f32,
        products: Products,
    ) -> FlexTensor {
        let x = x.to_contiguous();
        let y = cpu::norm_linear(
            floats(&x),
            floats(&gain),
            [bytes(&first), bytes(&second), bytes(&third)],
            &stack,
            epsilon,
            products,
        );
        tensor(y, tokens(&x))
    }

    fn linear_add(
        x: FlexTensor,
        panels: FlexTensor,
        stack: Stack,
        mut sum: FlexTensor,
    ) -> FlexTensor {
        if !sum.is_contiguous() {
            sum = sum.to_contiguous();
        }
        // In place when nobody else holds it, otherwise on a copy.
        cpu::linear_add(
            floats(&x.to_contiguous()),
            bytes(&panels),
            &stack,
            sum.storage_mut::<f32>(),
        );
        sum
    }

    fn store_packed_kv(
        mut pool: FlexTensor,
        qkv: FlexTensor,
        slots: FlexTensor,
        positions: FlexTensor,
        angles: FlexTensor,
        layout: HeadLayout,
    ) -> FlexTensor {
        let (slots, positions) = (indices(&slots), indices(&positions));
        let qkv = qkv.to_contiguous();
        cpu::store_kv(
            pool.storage_mut::<u8>(),
            floats(&qkv),
            slots,
            positions,
            floats(&angles),
            layout,
        );
        pool
    }

    fn attend_packed_kv(
        pool: FlexTensor,
        qkv: FlexTensor,
        pages: FlexTensor,
        positions: FlexTensor,
        angles: FlexTensor,
        _span_table: FlexTensor,
        spans: Vec<PageSpan>,
        layout: HeadLayout,
    ) -> FlexTensor {
        let qkv = qkv.to_contiguous();
        let out = cpu::attend_kv(
            bytes(&pool),
            floats(&qkv),
            indices(&pages),
            indices(&positions),
            floats(&angles),
            &spans,
            layout,
        );
        tensor(out, tokens(&qkv))
    }

    fn argmax(logits: FlexTensor) -> FlexTensor {
        let logits = logits.to_contiguous();
        let width = logits.layout().shape()[1];
        let found = cpu::argmax(floats(&logits), width);
        let rows = found.len();
        FlexTensor::from_data(TensorData::new(found, [rows]))
    }

    fn likeliest(logits: FlexTensor, weighing: FlexTensor) -> FlexTensor {
        let (logits, weighing) = (logits.to_contiguous(), weighing.to_contiguous());
        let words = cpu::likeliest(floats(&logits), floats(&weighing));
        FlexTensor::from_data(TensorData::new(words, [tokens(&logits), LIKELIEST_WORDS]))
    }
}
