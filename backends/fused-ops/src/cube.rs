//! The operations on GPUs: kernels over the buffers that a tensor is.

mod kv;

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cube_kernels::{Matrix, Outcome, quantize, reads_floats, scale_count, word_count};

use crate::likeliest::{LIKELIEST_WORDS, WEIGHING_NUMBERS};
use crate::{FusedOps, HeadLayout, PackedLayout, PageSpan, Products, Stack};

const _: () = assert!(LIKELIEST_WORDS == cube_kernels::LIKELIEST_WORDS);
const _: () = assert!(WEIGHING_NUMBERS == cube_kernels::WEIGHING_NUMBERS);

/// A tensor beside another one, with nothing in it yet. Its rows stand behind each other: CUDA's
/// would otherwise begin at the next multiple of 256 bytes, and kernels here know no gaps.
fn beside(tensor: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(tensor.client.clone(), tensor.device.clone(), shape.into(), dtype)
}

/// `[tokens, cols]`
fn sides(tensor: &CubeTensor) -> [usize; 2] {
    let shape = tensor.shape();
    [shape[0], shape[1]]
}

/// What a step multiplies, in each form that its matrices want: made when the first one wants it.
struct Activations {
    x: CubeTensor,
    /// Not behind the norm yet.
    norm: Option<(CubeTensor, f32)>,
    floats: Option<CubeTensor>,
    integers: Option<[CubeTensor; 2]>,
}

impl Activations {
    fn new(x: CubeTensor, norm: Option<(CubeTensor, f32)>) -> Self {
        Self { x: into_contiguous(x), norm, floats: None, integers: None }
    }

    fn floats(&mut self) -> CubeTensor {
        let (x, norm) = (&self.x, &self.norm);
        let made = self.floats.get_or_insert_with(|| match norm {
            None => x.clone(),
            Some((gain, epsilon)) => {
                let out = beside(x, x.shape(), DType::F32);
                let (from, to) = (x.clone().into_buffer_arg(), out.clone().into_buffer_arg());
                let gain = gain.clone().into_buffer_arg();
                cube_kernels::rms_norm(&x.client, from, gain, *epsilon, to);
                out
            }
        });
        made.clone()
    }

    /// Words and scales.
    fn integers(&mut self) -> [CubeTensor; 2] {
        let (x, norm) = (&self.x, &self.norm);
        let made = self.integers.get_or_insert_with(|| {
            let [tokens, cols] = sides(x);
            let words = beside(x, [word_count(tokens, cols)], DType::U32);
            let scales = beside(x, [scale_count(tokens, cols)], DType::F32);
            quantize(
                &x.client,
                x.clone().into_buffer_arg(),
                match norm {
                    Some((gain, epsilon)) => (gain.clone().into_buffer_arg(), Some(*epsilon)),
                    None => (x.clone().into_buffer_arg(), None),
                },
                cols,
                words.clone().into_buffer_arg(),
                scales.clone().into_buffer_arg(),
            );
            [words, scales]
        });
        made.clone()
    }

    /// Multiplies with one matrix, into columns of `out` from `first_col` on.
    fn multiply(
        &mut self,
        (panels, layout): (&CubeTensor, PackedLayout),
        out: &CubeTensor,
        first_col: usize,
        outcome: Outcome,
    ) {
        let PackedLayout { encoding, rows, cols } = layout;
        let [tokens, out_cols] = sides(out);
        let panels = panels.clone().into_buffer_arg();
        let matrix = Matrix { panels, encoding, rows, cols };
        let shape = cube_kernels::Shape { tokens, out_cols, first_col };
        let client = self.x.client.clone();
        let to = out.clone().into_buffer_arg();
        if reads_floats(encoding) {
            let x = self.floats().into_buffer_arg();
            cube_kernels::linear_floats(&client, matrix, x, to, shape, outcome);
        } else {
            let [words, scales] = self.integers().map(CubeTensor::into_buffer_arg);
            cube_kernels::linear(&client, matrix, words, scales, to, shape, outcome);
        }
    }
}

impl FusedOps for CubeBackend {
    fn norm_linear(
        x: CubeTensor,
        gain: CubeTensor,
        first: CubeTensor,
        second: CubeTensor,
        third: CubeTensor,
        stack: Stack,
        epsilon: f32,
        products: Products,
    ) -> CubeTensor {
        let mut x = Activations::new(x, Some((into_contiguous(gain), epsilon)));
        let [tokens, _] = sides(&x.x);
        let rows = match products {
            Products::Stacked => stack.rows(),
            Products::Gated => stack.rows() / 2,
        };
        let out = beside(&x.x, [tokens, rows], DType::F32);
        let mut first_col = 0;
        for (index, (layout, panels)) in stack.parts().zip([&first, &second, &third]).enumerate() {
            let outcome = match products {
                Products::Gated if index == 1 => Outcome::Gate,
                _ => Outcome::Store,
            };
            x.multiply((panels, layout), &out, first_col, outcome);
            if products == Products::Stacked {
                first_col += layout.rows;
            }
        }
        out
    }

    fn linear_add(x: CubeTensor, panels: CubeTensor, stack: Stack, sum: CubeTensor) -> CubeTensor {
        let sum = into_contiguous(sum);
        // In place when nobody else holds it, otherwise on a copy.
        let sum = if sum.can_mut() { sum } else { into_contiguous(sum.copy()) };
        let layout = stack.parts().next().expect("a matrix");
        Activations::new(x, None).multiply((&panels, layout), &sum, 0, Outcome::Add);
        sum
    }

    fn store_packed_kv(
        pool: CubeTensor,
        qkv: CubeTensor,
        slots: CubeTensor,
        positions: CubeTensor,
        angles: CubeTensor,
        layout: HeadLayout,
    ) -> CubeTensor {
        kv::store(pool, qkv, slots, positions, angles, layout)
    }

    fn attend_packed_kv(
        pool: CubeTensor,
        qkv: CubeTensor,
        pages: CubeTensor,
        positions: CubeTensor,
        angles: CubeTensor,
        span_table: CubeTensor,
        spans: Vec<PageSpan>,
        layout: HeadLayout,
    ) -> CubeTensor {
        kv::attend(pool, qkv, pages, positions, angles, span_table, spans, layout)
    }

    fn argmax(logits: CubeTensor) -> CubeTensor {
        let logits = into_contiguous(logits);
        let [rows, _] = sides(&logits);
        let out = beside(&logits, [rows], DType::I32);
        let to = out.clone().into_buffer_arg();
        cube_kernels::argmax(&logits.client, logits.clone().into_buffer_arg(), to);
        out
    }

    fn likeliest(logits: CubeTensor, weighing: CubeTensor) -> CubeTensor {
        let (logits, weighing) = (into_contiguous(logits), into_contiguous(weighing));
        let [rows, _] = sides(&logits);
        let out = beside(&logits, [rows, LIKELIEST_WORDS], DType::I32);
        let to = out.clone().into_buffer_arg();
        let (from, weighing) = (logits.clone().into_buffer_arg(), weighing.into_buffer_arg());
        cube_kernels::likeliest(&logits.client, from, weighing, to);
        out
    }
}
