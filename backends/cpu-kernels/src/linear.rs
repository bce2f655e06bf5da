//! `y = x · Wᵀ` with `W` as panels: one pass over the weights for all tokens of a step.
//!
//! A task is a few panels with all tokens, so that each weight comes from memory once, whatever
//! the number of tokens; threads take tasks as they become free.

use std::marker::PhantomData;

use weights::Encoding;

use crate::activations::{Activations, Form, Tile, WIDEST};
use crate::encodings::*;
use crate::kernels::{Bf16, By32, By256, F16, F32, Floats, Kernel, RUN, STAGE_BYTES, fetch};
use crate::panels::{ROWS, panel_bytes, panel_count};
use crate::simd::{self, Isa, Simd, Work};
use crate::threads;

#[cfg(test)]
mod tests;

/// Panels that one task takes at least, in bytes: enough that taking it costs nothing.
const TASK_BYTES: usize = 96 << 10;

/// Panels that are multiplied together where they are staged: tokens of a run stay in a cache for all of them.
const STAGED_PANELS: usize = 4;

/// Calls a generic function for the kernel of an encoding.
macro_rules! with_kernel {
    ($encoding:expr, $kernel:ident => $body:expr) => {
        match $encoding {
            Encoding::F32 => {
                type $kernel = Floats<F32>;
                $body
            }
            Encoding::F16 => {
                type $kernel = Floats<F16>;
                $body
            }
            Encoding::Bf16 => {
                type $kernel = Floats<Bf16>;
                $body
            }
            Encoding::Q8_0 => {
                type $kernel = By32<Q8_0>;
                $body
            }
            Encoding::Q4_0 => {
                type $kernel = By32<Q4_0>;
                $body
            }
            Encoding::Q4_1 => {
                type $kernel = By32<Q4_1>;
                $body
            }
            Encoding::Q5_0 => {
                type $kernel = By32<Q5_0>;
                $body
            }
            Encoding::Q5_1 => {
                type $kernel = By32<Q5_1>;
                $body
            }
            Encoding::Iq4Nl => {
                type $kernel = By32<Iq4Nl>;
                $body
            }
            Encoding::Q2K => {
                type $kernel = By256<Q2K>;
                $body
            }
            Encoding::Q3K => {
                type $kernel = By256<Q3K>;
                $body
            }
            Encoding::Q4K => {
                type $kernel = By256<Q4K>;
                $body
            }
            Encoding::Q5K => {
                type $kernel = By256<Q5K>;
                $body
            }
            Encoding::Q6K => {
                type $kernel = By256<Q6K>;
                $body
            }
            Encoding::Iq4Xs => {
                type $kernel = By256<Iq4Xs>;
                $body
            }
        }
    };
}

/// A weight matrix as panels.
#[derive(Debug, Clone, Copy)]
pub struct PackedMatrix<'a> {
    /// `[panels][panel_bytes]`
    pub panels: &'a [u8],
    /// How they stand for numbers.
    pub encoding: Encoding,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
}

impl PackedMatrix<'_> {
    fn panel_bytes(&self) -> usize {
        panel_bytes(self.encoding, self.cols).expect("rows are whole blocks")
    }

    fn check(&self) {
        assert!(self.rows > 0 && self.cols > 0, "a matrix of {} rows", self.rows);
        let bytes = panel_count(self.rows) * self.panel_bytes();
        assert_eq!(self.panels.len(), bytes, "panels are not [{}, {}]", self.rows, self.cols);
    }
}

/// What becomes of the products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Those of all matrices stand behind each other in `y`.
    Store,
    /// Of one matrix; they are added to what `y` holds.
    Add,
    /// Of two matrices: the first one's, through `silu`, times the second one's.
    Gate,
}

/// Multiplies each token's vector with matrices of the same width.
///
/// Shapes: `x: [tokens, cols]`, each matrix `[rows, cols]` → `y: [tokens, sum of rows]`, and for
/// [`Outcome::Gate`] `[tokens, rows]`. Integers are summed exactly, blocks in f32; activations are
/// rounded to 8 bits where the encoding is packed.
/// Threads: all of the pool.
/// Panics: when the slices do not have these lengths, or a row is not whole blocks.
pub fn linear(x: &[f32], matrices: &[PackedMatrix<'_>], outcome: Outcome, y: &mut [f32]) {
    linear_on(Isa::best(), x, matrices, outcome, y);
}

pub(crate) fn linear_on(
    isa: Isa,
    x: &[f32],
    matrices: &[PackedMatrix<'_>],
    outcome: Outcome,
    y: &mut [f32],
) {
    let cols = matrices.first().expect("a matrix").cols;
    let tokens = x.len() / cols;
    assert_eq!(x.len(), tokens * cols, "x is not whole rows of {cols}");
    for matrix in matrices {
        matrix.check();
        assert_eq!(matrix.cols, cols, "matrices differ in their columns");
    }
    let width = match outcome {
        Outcome::Store => matrices.iter().map(|matrix| matrix.rows).sum(),
        Outcome::Add => {
            assert_eq!(matrices.len(), 1, "one matrix is added");
            matrices[0].rows
        }
        Outcome::Gate => {
            assert!(
                matrices.len() == 2 && matrices[0].rows == matrices[1].rows,
                "two matrices of the same shape are a gate"
            );
            matrices[0].rows
        }
    };
    assert_eq!(y.len(), tokens * width, "y is not [{tokens}, {width}]");
    if tokens == 0 {
        return;
    }
    let mut forms: Vec<Activations> = Vec::new();
    for matrix in matrices {
        let form = form_of(matrix.encoding, isa);
        if !forms.iter().any(|activations| activations.form() == form) {
            forms.push(Activations::new(isa, form, x, cols));
        }
    }
    let parts: Vec<Part<'_>> = parts(isa, matrices, &forms, outcome);
    let y = Output { y: y.as_mut_ptr(), width, outcome };
    let tasks: usize = parts.iter().map(Part::tasks).sum();
    threads::for_each(tasks, |mut task| {
        for part in &parts {
            if task < part.tasks() {
                return part.run(isa, task, &y);
            }
            task -= part.tasks();
        }
    });
}

/// One matrix, or two that are one gate.
struct Part<'a> {
    matrices: [PackedMatrix<'a>; 2],
    activations: [&'a Activations; 2],
    /// 1, or 2 for a gate.
    count: usize,
    /// Column of `y` where its products begin.
    first_column: usize,
    task_panels: usize,
}

fn parts<'a>(
    isa: Isa,
    matrices: &[PackedMatrix<'a>],
    forms: &'a [Activations],
    outcome: Outcome,
) -> Vec<Part<'a>> {
    let activations = |matrix: &PackedMatrix<'_>| {
        let form = form_of(matrix.encoding, isa);
        forms.iter().find(|activations| activations.form() == form).expect("made above")
    };
    let count = if outcome == Outcome::Gate { 2 } else { 1 };
    let mut first_column = 0;
    let mut parts = Vec::with_capacity(matrices.len());
    for chunk in matrices.chunks(count) {
        let (first, last) = (chunk[0], chunk[count - 1]);
        let panel_bytes = first.panel_bytes() * count;
        let share = first.panels.len() * count / (4 * threads::count());
        let task_bytes = share.clamp(TASK_BYTES, 4 * TASK_BYTES);
        parts.push(Part {
            matrices: [first, last],
            activations: [activations(&first), activations(&last)],
            count,
            first_column,
            task_panels: (task_bytes / panel_bytes).max(together(forms)),
        });
        first_column += first.rows;
    }
    parts
}

/// Panels that are multiplied together.
fn together(forms: &[Activations]) -> usize {
    if forms.iter().any(Activations::are_staged) { STAGED_PANELS } else { 1 }
}

/// Where products go. Threads write different columns.
struct Output {
    y: *mut f32,
    width: usize,
    outcome: Outcome,
}

// SAFETY: each task writes the columns of its own panels, and nobody reads before all are done.
unsafe impl Sync for Output {}

thread_local! {
    /// Sums of some panels, for each matrix of a part, and the stage.
    static SCRATCH: std::cell::RefCell<(Vec<f32>, Vec<f32>, Box<Stage>)> =
        std::cell::RefCell::new((Vec::new(), Vec::new(), Box::new(Stage([0; STAGE_BYTES]))));
}

/// Begins at a cache line.
#[repr(align(64))]
struct Stage([u8; STAGE_BYTES]);

impl Part<'_> {
    fn tasks(&self) -> usize {
        panel_count(self.matrices[0].rows).div_ceil(self.task_panels)
    }

    fn run(&self, isa: Isa, task: usize, output: &Output) {
        let first = task * self.task_panels;
        let last = panel_count(self.matrices[0].rows).min(first + self.task_panels);
        let tokens = self.activations[0].tokens();
        #[cfg(target_arch = "x86_64")]
        let in_tiles = self.activations.iter().any(|activations| activations.in_tiles() > 0);
        #[cfg(target_arch = "x86_64")]
        let _registers = in_tiles.then(crate::tiles::Registers::set);
        let sums_of_panel = tokens.next_multiple_of(WIDEST) * ROWS;
        let together = if self.activations[0].are_staged() { STAGED_PANELS } else { 1 };
        SCRATCH.with_borrow_mut(|(sums, gated, stage)| {
            for first in (first..last).step_by(together) {
                let panels = first..last.min(first + together);
                let both = [&mut *sums, &mut *gated].into_iter().take(self.count);
                for (index, sums) in both.enumerate() {
                    sums.clear();
                    sums.resize(panels.len() * sums_of_panel, 0.0);
                    let matrix = &self.matrices[index];
                    let bytes = matrix.panel_bytes();
                    let work = PanelsTimesTokens {
                        panels: &matrix.panels[panels.start * bytes..panels.end * bytes],
                        cols: matrix.cols,
                        activations: self.activations[index],
                        stage: &mut stage.0,
                        sums,
                    };
                    // SAFETY: callers choose among the kinds that the machine is; the slices were
                    // checked against the shapes.
                    with_kernel!(matrix.encoding, K => unsafe {
                        simd::run(isa, OfKernel(work, PhantomData::<K>));
                    });
                }
                if output.outcome == Outcome::Gate {
                    // SAFETY: callers choose among the kinds that the machine is.
                    unsafe { simd::run(isa, GateSums { gates: sums, ups: gated }) }
                }
                for (panel, sums) in panels.zip(sums.chunks_exact(sums_of_panel)) {
                    let rows = ROWS.min(self.matrices[0].rows - panel * ROWS);
                    let column = self.first_column + panel * ROWS;
                    // SAFETY: `y` is `[tokens, width]`, and these columns are this task's.
                    unsafe { output.write(sums, tokens, column, rows) }
                }
            }
        });
    }
}

impl Output {
    /// # Safety
    /// `y` has these columns in each of its rows, and nobody else writes them.
    unsafe fn write(&self, sums: &[f32], tokens: usize, column: usize, rows: usize) {
        for token in 0..tokens {
            // SAFETY: the caller's.
            let y = unsafe {
                std::slice::from_raw_parts_mut(self.y.add(token * self.width + column), rows)
            };
            let sums = &sums[token * ROWS..][..rows];
            match self.outcome {
                Outcome::Store | Outcome::Gate => y.copy_from_slice(sums),
                Outcome::Add => y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum),
            }
        }
    }
}

/// `gate / (1 + exp(−gate)) · up`, in place of the gates.
struct GateSums<'a> {
    /// `[tokens][16]`
    gates: &'a mut [f32],
    /// As `gates`.
    ups: &'a [f32],
}

impl Work for GateSums<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (gates, ups) in
            self.gates.chunks_exact_mut(S::LANES).zip(self.ups.chunks_exact(S::LANES))
        {
            // SAFETY: as the trait says; the chunks are whole vectors.
            unsafe {
                let gate = S::load_f32(gates.as_ptr());
                let below = S::exp(S::sub_f32(S::splat_f32(0.0), gate));
                let silu = S::div_f32(gate, S::add_f32(S::splat_f32(1.0), below));
                let gated = S::mul_f32(silu, S::load_f32(ups.as_ptr()));
                S::store_f32(gates.as_mut_ptr(), gated);
            }
        }
    }
}

/// Panels behind each other, and all tokens.
struct PanelsTimesTokens<'a> {
    panels: &'a [u8],
    cols: usize,
    activations: &'a Activations,
    stage: &'a mut [u8; STAGE_BYTES],
    /// `[panels][tokens, filled up to whole tiles][16]`, zeros.
    sums: &'a mut [f32],
}

/// What a matrix in this encoding multiplies with.
fn form_of(encoding: Encoding, isa: Isa) -> Form {
    let offset = isa.signed_offset();
    with_kernel!(encoding, K => K::form(offset))
}

/// The kernel is a type, so that each encoding is a function of its own.
struct OfKernel<'a, K>(PanelsTimesTokens<'a>, PhantomData<K>);

impl<K: Kernel> Work for OfKernel<'_, K> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let PanelsTimesTokens { panels, cols, activations, stage, sums } = self.0;
        let blocks = cols / K::BLOCK;
        let sums_of_panel = activations.tokens().next_multiple_of(WIDEST) * ROWS;
        for first in (0..blocks).step_by(RUN / K::BLOCK) {
            let count = (blocks - first).min(RUN / K::BLOCK);
            let all = panels.chunks_exact(blocks * K::BYTES);
            for (panel, sums) in all.zip(sums.chunks_exact_mut(sums_of_panel)) {
                let run = &panel[first * K::BYTES..][..count * K::BYTES];
                // SAFETY: the run has these blocks, the activations have them for each tile, and the
                // sums have room for whole tiles.
                unsafe { run_times_tokens::<K, S>(run, [first, count], activations, stage, sums) };
            }
        }
    }
}

/// Adds the products of `count` blocks of a panel, from block `first` on, to the sums of all tokens.
///
/// # Safety
/// As the functions of [`Kernel`]; the run has these blocks, the activations have them for each tile, and
/// the sums have room for whole tiles.
#[inline(always)]
unsafe fn run_times_tokens<K: Kernel, S: Simd>(
    run: &[u8],
    [first, count]: [usize; 2],
    activations: &Activations,
    stage: &mut [u8; STAGE_BYTES],
    sums: &mut [f32],
) {
    let (run, bytes) = (run.as_ptr(), run.len());
    let is_staged = activations.are_staged();
    // SAFETY: the caller's.
    unsafe {
        if is_staged {
            K::stage::<S>(run, count, stage.as_mut_ptr());
        }
        let stage = stage.as_ptr();
        #[cfg(not(target_arch = "x86_64"))]
        let done = 0;
        #[cfg(target_arch = "x86_64")]
        let done = if activations.in_tiles() > 0 {
            fetch::<S>(run.wrapping_add(bytes), bytes, 0, 1);
            K::tiled::<S>(stage, activations, first, sums.as_mut_ptr())
        } else {
            0
        };
        for tile in Tile::cut(activations.tokens()).skip(done / WIDEST) {
            let view = activations.at(&tile, first);
            let sums = sums[tile.first * ROWS..][..tile.width * ROWS].as_mut_ptr();
            if is_staged {
                // Each tile's time pays for a part of what follows in the panel.
                let (number, tiles) = (tile.first / WIDEST, activations.tokens().div_ceil(WIDEST));
                fetch::<S>(run.wrapping_add(bytes), bytes, number, tiles);
            }
            match (is_staged, tile.width) {
                (false, 1) => K::direct::<S, 1>(run, count, view, sums),
                (false, 2) => K::direct::<S, 2>(run, count, view, sums),
                (false, 4) => K::direct::<S, 4>(run, count, view, sums),
                (false, _) => K::direct::<S, 8>(run, count, view, sums),
                (true, 1) => K::staged::<S, 1>(stage, count, view, sums),
                (true, 2) => K::staged::<S, 2>(stage, count, view, sums),
                (true, 4) => K::staged::<S, 4>(stage, count, view, sums),
                (true, _) => K::staged::<S, 8>(stage, count, view, sums),
            }
        }
    }
}
