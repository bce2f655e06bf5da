//! The same on the flex backend, with and without a graph.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Flex};
use burn::tensor::TensorData;
use cpu_kernels::Span;
use cpu_kernels::learn::{
    self, Attended, Likelihoods, Matrix, Normed, StepAttention, Wanted, gate, gate_slopes, norm,
    norm_slopes,
};

use super::{LearnedOps, StepHeads};
use crate::weight::STACK_MAX;
use crate::{PageSpan, Products};

fn floats(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("contiguous f32")
}

fn indices(tensor: &FlexTensor) -> &[i32] {
    tensor.as_slice().expect("contiguous indices of 32 bits")
}

fn width(tensor: &FlexTensor) -> usize {
    tensor.layout().shape()[1]
}

fn tensor(values: Vec<f32>, width: usize) -> FlexTensor {
    let rows = values.len() / width;
    FlexTensor::from_data(TensorData::new(values, [rows, width]))
}

fn matrix(tensor: &FlexTensor) -> Matrix<'_> {
    Matrix::whole(floats(tensor), width(tensor))
}

/// The slopes of a matrix by those of its products and by what it was multiplied with.
fn slopes_of_matrix(slopes: Matrix<'_>, x: Matrix<'_>, weight: &FlexTensor) -> FlexTensor {
    let cols = width(weight);
    let mut out = vec![0.0; floats(weight).len()];
    slopes.transposed().multiply(x, 1.0, false, &mut out, cols);
    tensor(out, cols)
}

/// What [`LearnedOps::learned_products`] is differentiated by.
#[derive(Debug, Clone)]
struct Multiplied {
    x: FlexTensor,
    gain: FlexTensor,
    matrices: Vec<FlexTensor>,
    normed: Arc<Normed>,
    /// Products of a gate, where there is one.
    both: Option<Arc<Vec<f32>>>,
}

impl Multiplied {
    fn new(
        [x, gain, first, second, third]: [FlexTensor; 2 + STACK_MAX],
        count: usize,
        epsilon: f32,
        products: Products,
    ) -> (FlexTensor, Self) {
        let x = x.to_contiguous();
        let mut matrices = vec![first, second, third];
        matrices.truncate(count);
        let normed = norm(floats(&x), floats(&gain), epsilon);
        let views: Vec<Matrix<'_>> = matrices.iter().map(matrix).collect();
        let rows: usize = views.iter().map(Matrix::rows).sum();
        let out = learn::products(Matrix::whole(&normed.values, width(&x)), &views);
        let (out, both) = match products {
            Products::Stacked => (tensor(out, rows), None),
            Products::Gated => (tensor(gate(&out, rows / 2), rows / 2), Some(Arc::new(out))),
        };
        (out, Self { x, gain, matrices, normed: Arc::new(normed), both })
    }

    /// Of `x`, of the gain and of each matrix.
    fn slopes(&self, slopes: &FlexTensor) -> (FlexTensor, FlexTensor, Vec<FlexTensor>) {
        let slopes = slopes.to_contiguous();
        let gated =
            self.both.as_ref().map(|both| gate_slopes(both, floats(&slopes), width(&slopes)));
        let slopes = gated.as_deref().unwrap_or_else(|| floats(&slopes));
        let (cols, tokens) = (width(&self.x), self.normed.factors.len());
        let all = slopes.len() / tokens;
        let normed = Matrix::whole(&self.normed.values, cols);
        let mut of_normed = vec![0.0; tokens * cols];
        let mut of_matrices = Vec::with_capacity(self.matrices.len());
        let mut first = 0;
        for part in &self.matrices {
            let rows = matrix(part).rows();
            let slopes = Matrix::new(&slopes[first..], tokens, rows, all);
            slopes.multiply(matrix(part), 1.0, first > 0, &mut of_normed, cols);
            of_matrices.push(slopes_of_matrix(slopes, normed, part));
            first += rows;
        }
        let (x, gain) = (floats(&self.x), floats(&self.gain));
        let (of_x, of_gain) = norm_slopes(x, gain, &self.normed.factors, &of_normed);
        let of_gain = FlexTensor::from_data(TensorData::new(of_gain, [cols]));
        (tensor(of_x, cols), of_gain, of_matrices)
    }
}

/// `sum + x · Wᵀ`
fn linear_add(x: &FlexTensor, weight: &FlexTensor, sum: &FlexTensor) -> FlexTensor {
    let rows = width(sum);
    let mut out = floats(sum).to_vec();
    matrix(x).multiply(matrix(weight).transposed(), 1.0, true, &mut out, rows);
    tensor(out, rows)
}

/// What [`LearnedOps::learned_attend`] is differentiated by.
#[derive(Debug, Clone)]
struct Seen {
    angles: FlexTensor,
    positions: FlexTensor,
    slots: FlexTensor,
    spans: Vec<Span>,
    heads: StepHeads,
    /// Empty of what attention gave.
    attended: Arc<Attended>,
}

impl Seen {
    fn new(
        qkv: FlexTensor,
        [angles, positions, slots]: [FlexTensor; 3],
        spans: &[PageSpan],
        heads: StepHeads,
    ) -> (FlexTensor, Self) {
        let span = |span: &PageSpan| Span {
            query_start: span.query_start,
            query_tokens: span.query_tokens,
            context_tokens: span.context_tokens,
            first_page: span.first_page,
        };
        let spans: Vec<Span> = spans.iter().map(span).collect();
        let qkv = qkv.to_contiguous();
        let mut attended =
            step_attention(&angles, &positions, &slots, &spans, heads).attend(floats(&qkv));
        let out = tensor(std::mem::take(&mut attended.out), heads.heads * heads.head_dim);
        let attended = Arc::new(attended);
        (out, Self { angles, positions, slots, spans, heads, attended })
    }
}

impl OfOne for Seen {
    fn slopes(&self, slopes: &FlexTensor) -> FlexTensor {
        let Self { angles, positions, slots, spans, heads, attended } = self;
        let Attended { turned, log_sums, .. } = &**attended;
        let slopes = slopes.to_contiguous();
        let attention = step_attention(angles, positions, slots, spans, *heads);
        let of_qkv = attention.slopes(turned, log_sums, floats(&slopes));
        tensor(of_qkv, (heads.heads + 2 * heads.kv_heads) * heads.head_dim)
    }
}

fn step_attention<'a>(
    angles: &'a FlexTensor,
    positions: &'a FlexTensor,
    slots: &'a FlexTensor,
    spans: &'a [Span],
    heads: StepHeads,
) -> StepAttention<'a> {
    let StepHeads { heads, kv_heads, head_dim, scale, pairing } = heads;
    let (angles, positions, slots) = (floats(angles), indices(positions), indices(slots));
    StepAttention { heads, kv_heads, head_dim, scale, pairing, angles, positions, slots, spans }
}

/// What [`LearnedOps::learned_log_likelihoods`] is differentiated by.
#[derive(Debug, Clone)]
struct Likely {
    logits: FlexTensor,
    wanted: Arc<[Wanted]>,
    log_sums: Arc<Vec<f32>>,
}

impl Likely {
    fn new(logits: FlexTensor, wanted: Arc<[Wanted]>) -> (FlexTensor, Self) {
        let logits = logits.to_contiguous();
        let Likelihoods { values, log_sums } =
            learn::log_likelihoods(floats(&logits), width(&logits), &wanted);
        (tensor(values, 1), Self { logits, wanted, log_sums: Arc::new(log_sums) })
    }
}

impl OfOne for Likely {
    fn slopes(&self, slopes: &FlexTensor) -> FlexTensor {
        let Self { logits, wanted, log_sums } = self;
        let (slopes, width) = (slopes.to_contiguous(), width(logits));
        let of_logits =
            learn::log_likelihoods_slopes(floats(logits), width, wanted, log_sums, floats(&slopes));
        tensor(of_logits, width)
    }
}

impl LearnedOps for Flex {
    fn learned_products(
        x: FlexTensor,
        gain: FlexTensor,
        first: FlexTensor,
        second: FlexTensor,
        third: FlexTensor,
        count: usize,
        epsilon: f32,
        products: Products,
    ) -> FlexTensor {
        Multiplied::new([x, gain, first, second, third], count, epsilon, products).0
    }

    fn learned_linear_add(x: FlexTensor, matrix: FlexTensor, sum: FlexTensor) -> FlexTensor {
        linear_add(&x.to_contiguous(), &matrix, &sum.to_contiguous())
    }

    fn learned_attend(
        qkv: FlexTensor,
        angles: FlexTensor,
        positions: FlexTensor,
        slots: FlexTensor,
        spans: Vec<PageSpan>,
        heads: StepHeads,
    ) -> FlexTensor {
        Seen::new(qkv, [angles, positions, slots], &spans, heads).0
    }

    fn learned_log_likelihoods(logits: FlexTensor, wanted: Arc<[Wanted]>) -> FlexTensor {
        Likely::new(logits, wanted).0
    }
}

/// Registers an operation with what it is differentiated by.
macro_rules! node {
    ($step:expr, $strategy:ty, $parents:expr, $state:expr, $out:expr) => {
        match $step.prepare::<$strategy>($parents).compute_bound().stateful() {
            OpsKind::Tracked(node) => node.finish($state, $out),
            OpsKind::UnTracked(node) => node.finish($out),
        }
    };
}

/// Steps back, by the operation that each undoes.
#[derive(Debug)]
struct ProductsBack;
#[derive(Debug)]
struct LinearAddBack;
#[derive(Debug)]
struct OfOneBack<S>(PhantomData<S>);

/// What an operation of one tensor is differentiated by.
trait OfOne: Clone + Debug + Send + 'static {
    fn slopes(&self, slopes: &FlexTensor) -> FlexTensor;
}

impl Backward<Flex, { 2 + STACK_MAX }> for ProductsBack {
    type State = Multiplied;

    fn backward(
        self,
        ops: Ops<Multiplied, { 2 + STACK_MAX }>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let slopes = gradients.consume::<Flex>(&ops.node);
        let (of_x, of_gain, of_matrices) = ops.state.slopes(&slopes);
        let all = [of_x, of_gain].into_iter().chain(of_matrices);
        for (parent, of_parent) in ops.parents.into_iter().zip(all) {
            if let Some(parent) = parent {
                gradients.register::<Flex>(parent.id, of_parent);
            }
        }
    }
}

impl Backward<Flex, 3> for LinearAddBack {
    /// `x` and the matrix.
    type State = [FlexTensor; 2];

    fn backward(
        self,
        ops: Ops<[FlexTensor; 2], 3>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let slopes = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let ([x, weight], [of_x, of_weight, of_sum]) = (ops.state, ops.parents);
        let cols = width(&x);
        if let Some(parent) = of_x {
            let mut out = vec![0.0; floats(&x).len()];
            matrix(&slopes).multiply(matrix(&weight), 1.0, false, &mut out, cols);
            gradients.register::<Flex>(parent.id, tensor(out, cols));
        }
        if let Some(parent) = of_weight {
            let of_weight = slopes_of_matrix(matrix(&slopes), matrix(&x), &weight);
            gradients.register::<Flex>(parent.id, of_weight);
        }
        if let Some(parent) = of_sum {
            gradients.register::<Flex>(parent.id, slopes);
        }
    }
}

impl<S: OfOne> Backward<Flex, 1> for OfOneBack<S> {
    type State = S;

    fn backward(self, ops: Ops<S, 1>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let slopes = gradients.consume::<Flex>(&ops.node);
        if let [Some(parent)] = ops.parents {
            gradients.register::<Flex>(parent.id, ops.state.slopes(&slopes));
        }
    }
}

impl<C: CheckpointStrategy> LearnedOps for Autodiff<Flex, C> {
    fn learned_products(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        count: usize,
        epsilon: f32,
        products: Products,
    ) -> FloatTensor<Self> {
        let parts = [x, gain, first, second, third].map(|tensor| tensor.into_parts());
        let tensors = parts.each_ref().map(|(tensor, _)| tensor.clone());
        let (out, state) = Multiplied::new(tensors, count, epsilon, products);
        node!(ProductsBack, C, parts.map(|(_, parent)| parent), state, out)
    }

    fn learned_linear_add(
        x: FloatTensor<Self>,
        matrix: FloatTensor<Self>,
        sum: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let ((x, x_node), (matrix, node)) = (x.into_parts(), matrix.into_parts());
        let (sum, sum_node) = sum.into_parts();
        let x = x.to_contiguous();
        let out = linear_add(&x, &matrix, &sum.to_contiguous());
        node!(LinearAddBack, C, [x_node, node, sum_node], [x, matrix], out)
    }

    fn learned_attend(
        qkv: FloatTensor<Self>,
        angles: FloatTensor<Self>,
        positions: IntTensor<Self>,
        slots: IntTensor<Self>,
        spans: Vec<PageSpan>,
        heads: StepHeads,
    ) -> FloatTensor<Self> {
        let ((qkv, parent), (angles, _)) = (qkv.into_parts(), angles.into_parts());
        let (out, state) = Seen::new(qkv, [angles, positions, slots], &spans, heads);
        node!(OfOneBack(PhantomData), C, [parent], state, out)
    }

    fn learned_log_likelihoods(
        logits: FloatTensor<Self>,
        wanted: Arc<[Wanted]>,
    ) -> FloatTensor<Self> {
        let (logits, parent) = logits.into_parts();
        let (out, state) = Likely::new(logits, wanted);
        node!(OfOneBack(PhantomData), C, [parent], state, out)
    }
}
