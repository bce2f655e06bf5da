//! Products for many tokens on a device's matrix units: CUDA's tensor cores, Vulkan's cooperative
//! matrices, Metal's matrices of a SIMD group.
//!
//! Weights and activations are unpacked to halves in shared memory; a plane's matrices sum in f32.

use std::sync::atomic::{AtomicBool, Ordering};

use cubecl::client::Client;
use cubecl::cmma::{self, Matrix as Fragment, MatrixIdent, MatrixLayout};
use cubecl::features::MmaConfig;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use half::f16;

use crate::UNITS;
use crate::activations::{GROUP, SCALES};
use crate::blocks::{Blocks, ROWS, group, slot_scales, step_words};
use crate::matrix::{Operands, Outcome, finish};

/// Rows of a work-group's tile.
const TILE_ROWS: usize = 128;
/// Units of a plane, on the devices that these kernels know.
const PLANE: usize = 32;
const PLANES: usize = UNITS / PLANE;
/// Planes along the rows, each with its share of them.
const ROW_PLANES: usize = 4;
const PLANE_ROWS: usize = TILE_ROWS / ROW_PLANES;
/// Halves between the ends of a row and the next, so that neighbouring rows lie in other banks.
const GAP: usize = 8;
/// The greatest half.
const HALF_MAX: f32 = 65504.0;

/// Whether matrix units failed on a device of this process.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// Multiplies without matrix units from now on, or with them again: for a device on which their
/// kernels do not compile, as where CUDA's `crt/mma.h` is not installed, or compute something else.
///
/// Threads: any. It holds for all devices of the process.
pub fn refuse_matrix_units(refused: bool) {
    REFUSED.store(refused, Ordering::Relaxed);
}

/// Whether [`refuse_matrix_units`] was called for.
pub fn matrix_units_refused() -> bool {
    REFUSED.load(Ordering::Relaxed)
}

/// How a device multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Tiling {
    /// Rows, tokens and columns of the matrices of a plane.
    edge: usize,
    /// Tokens of a work-group's tile.
    tokens: usize,
}

impl Tiling {
    /// `None` where the device has no matrix units, or none of a known kind, and where they failed.
    pub(crate) fn of(client: &Client, blocks: &Blocks, tokens: usize) -> Option<Self> {
        if matrix_units_refused() {
            return None;
        }
        let properties = client.properties();
        let hardware = &properties.hardware;
        let plane = PLANE as u32;
        if hardware.plane_size_min != plane || hardware.plane_size_max != plane {
            return None;
        }
        let edge = [16, 8].into_iter().find(|edge| {
            let half = ElemType::Float(FloatKind::F16);
            let sum = ElemType::Float(FloatKind::F32);
            let (m, n, k) = (*edge, *edge, *edge);
            let wanted = MmaConfig { a_type: half, b_type: half, cd_type: sum, m, n, k };
            properties.features.matmul.cmma.contains(&wanted)
        })? as usize;
        [128, 64]
            .into_iter()
            .filter(|most| *most == 64 || tokens > 64)
            .map(|tokens| Self { edge, tokens })
            .find(|tiling| tiling.shared_bytes(blocks) <= hardware.max_shared_memory_size)
    }

    /// Matrices that a plane has along its rows, and along its tokens.
    fn of_plane(&self) -> (usize, usize) {
        (PLANE_ROWS / self.edge, self.tokens / (PLANES / ROW_PLANES) / self.edge)
    }

    fn shared_bytes(&self, blocks: &Blocks) -> usize {
        let halves = (TILE_ROWS + self.tokens) * stride(blocks);
        halves * 2 + PLANES * self.edge * self.edge * 4
    }
}

/// Halves from one row's first to the next one's.
fn stride(blocks: &Blocks) -> usize {
    blocks.chunk_words() * 4 + GAP
}

/// The caller has compared all lengths.
pub(crate) fn launch(
    client: &Client,
    operands: Operands,
    (blocks, tiling, outcome): (Blocks, Tiling, Outcome),
) {
    let Operands { matrix, words, scales, out, shape } = operands;
    let tiles = (matrix.rows.div_ceil(TILE_ROWS), shape.tokens.div_ceil(tiling.tokens));
    // SAFETY: `linear` has compared the lengths of all four buffers with these numbers; rows and
    // tokens beyond the last are read as the last.
    unsafe {
        cooperative_kernel::launch_unchecked(
            client,
            CubeCount::Static(tiles.0 as u32, tiles.1 as u32, 1),
            CubeDim::new_1d(UNITS as u32),
            matrix.panels,
            words,
            scales,
            out,
            matrix.cols,
            matrix.rows,
            shape.tokens,
            shape.out_cols,
            shape.first_col,
            blocks,
            tiling,
            outcome,
        );
    }
}

/// A work-group has 128 rows of a tile of tokens, and walks along the columns a chunk at a time;
/// a plane has 32 of these rows and half of the tokens.
#[cube(launch_unchecked)]
fn cooperative_kernel(
    panels: &[u32],
    words: &[u32],
    scales: &[f32],
    out: &mut [f32],
    cols: usize,
    rows: usize,
    tokens: usize,
    out_cols: usize,
    first_col: usize,
    #[comptime] blocks: Blocks,
    #[comptime] tiling: Tiling,
    #[comptime] outcome: Outcome,
) {
    let (edge, width) = comptime!((tiling.edge, stride(&blocks)));
    let (row_tiles, token_tiles) = comptime!(tiling.of_plane());
    let mut weights = Shared::<[f16]>::new_aligned_slice(comptime!(TILE_ROWS * width), 32usize);
    let mut activations =
        Shared::<[f16]>::new_aligned_slice(comptime!(tiling.tokens * width), 32usize);
    let mut sums = Sequence::<Fragment<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(row_tiles * token_tiles) {
        sums.push(Fragment::<f32>::from_value(
            MatrixIdent::Accumulator,
            edge,
            edge,
            edge,
            MatrixLayout::Undefined,
            0.0f32,
        ));
    }
    let first_row = CUBE_POS_X as usize * TILE_ROWS;
    let first_token = CUBE_POS_Y as usize * comptime!(tiling.tokens);
    let plane = UNIT_POS as usize / PLANE;
    let plane_row = plane % ROW_PLANES * PLANE_ROWS;
    let plane_token = plane / ROW_PLANES * comptime!(token_tiles * edge);
    let row_blocks = cols / comptime!(blocks.groups * 4);
    for item in 0..row_blocks * comptime!(blocks.chunks) {
        unpack_weights(panels, &mut weights, first_row, rows, row_blocks, item, blocks);
        unpack_activations(
            words,
            scales,
            &mut activations,
            first_token,
            tokens,
            cols,
            item,
            blocks,
            tiling,
        );
        sync_cube();
        multiply(&weights, &activations, &sums, plane_row, plane_token, blocks, tiling);
        sync_cube();
    }
    let place = Place {
        row: first_row + plane_row,
        token: first_token + plane_token,
        rows,
        tokens,
        out_cols,
        first_col,
    };
    write(out, &sums, &place, tiling, outcome);
}

/// Where a plane's sums belong: its first row and token, and what the output has.
#[derive(CubeType)]
struct Place {
    row: usize,
    token: usize,
    rows: usize,
    tokens: usize,
    out_cols: usize,
    first_col: usize,
}

/// Puts a plane's sums where they belong, a matrix after the other through shared memory.
#[cube]
fn write(
    out: &mut [f32],
    sums: &Sequence<Fragment<f32>>,
    place: &Place,
    #[comptime] tiling: Tiling,
    #[comptime] outcome: Outcome,
) {
    let edge = comptime!(tiling.edge);
    let (row_tiles, token_tiles) = comptime!(tiling.of_plane());
    let mut results = Shared::<[f32]>::new_aligned_slice(comptime!(PLANES * edge * edge), 32usize);
    let own = UNIT_POS as usize / PLANE * comptime!(edge * edge);
    let lane = UNIT_POS as usize % PLANE;
    #[unroll]
    for i in 0..row_tiles {
        #[unroll]
        for j in 0..token_tiles {
            let end = own + comptime!(edge * edge);
            cmma::store(
                &mut results[own..end],
                &sums[i * token_tiles + j],
                comptime!(edge as u32),
                MatrixLayout::ColMajor,
            );
            sync_plane();
            for at in range_stepped(lane, comptime!(edge * edge), PLANE) {
                let row = place.row + comptime!(i * edge) + at % edge;
                let token = place.token + comptime!(j * edge) + at / edge;
                if row < place.rows && token < place.tokens {
                    let to = token * place.out_cols + place.first_col + row;
                    finish(out, to, results[own + at], outcome);
                }
            }
            sync_plane();
        }
    }
}

/// Unpacks a chunk of the tile's rows; the units beside each other take rows beside each other.
#[cube]
fn unpack_weights(
    panels: &[u32],
    weights: &mut Shared<[f16]>,
    first_row: usize,
    rows: usize,
    row_blocks: usize,
    item: usize,
    #[comptime] blocks: Blocks,
) {
    let (slots, steps, width) = comptime!((blocks.slots, blocks.steps, stride(&blocks)));
    let side = UNIT_POS as usize % TILE_ROWS;
    let share = UNIT_POS as usize / TILE_ROWS;
    let helpers = comptime!(UNITS / TILE_ROWS);
    let panel = min((first_row + side) / ROWS, (rows - 1) / ROWS);
    let block = item / comptime!(blocks.chunks);
    let chunk = item % comptime!(blocks.chunks);
    let first = (panel * row_blocks + block) * comptime!(blocks.words);
    let row = side % ROWS;
    let mut integers = Array::<u32>::new(slots);
    let mut factors = Array::<f32>::new(2usize);
    let mut of_slots = Array::<f32>::new(slots);
    let mut less = Array::<f32>::new(slots);
    #[unroll]
    for slot in 0..slots {
        slot_scales(panels, first, row, chunk, slot, &mut factors, blocks);
        of_slots[slot] = factors[0];
        less[slot] = 0.0f32;
        if comptime!(blocks.minimum) {
            less[slot] = factors[1];
        }
    }
    #[unroll]
    for turn in 0..comptime!(steps / helpers) {
        let step = share + turn * helpers;
        step_words(panels, first, row, chunk, step, &mut integers, blocks);
        #[unroll]
        for slot in 0..slots {
            let at = side * width + (slot * steps + step) * 4;
            #[unroll]
            for byte in 0..4usize {
                let integer = byte_of(integers[slot], byte);
                weights[at + byte] = f16::cast_from(integer * of_slots[slot] - less[slot]);
            }
        }
    }
}

/// The activations that a chunk is multiplied with.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a kernel's variables are no structure")]
fn unpack_activations(
    words: &[u32],
    scales: &[f32],
    activations: &mut Shared<[f16]>,
    first_token: usize,
    tokens: usize,
    cols: usize,
    item: usize,
    #[comptime] blocks: Blocks,
    #[comptime] tiling: Tiling,
) {
    let (slots, steps, width) = comptime!((blocks.slots, blocks.steps, stride(&blocks)));
    let side = UNIT_POS as usize % comptime!(tiling.tokens);
    let share = UNIT_POS as usize / comptime!(tiling.tokens);
    let helpers = comptime!(UNITS / tiling.tokens);
    let token = min(first_token + side, tokens - 1);
    let before = item / comptime!(blocks.chunks) * comptime!(blocks.groups);
    let chunk = item % comptime!(blocks.chunks);
    #[unroll]
    for turn in 0..comptime!(steps / helpers) {
        let step = share + turn * helpers;
        #[unroll]
        for slot in 0..slots {
            let word = before + group(chunk, step, slot, blocks);
            let scale = scales[(token * (cols / GROUP) + word / 8) * SCALES];
            let integers = words[token * (cols / 4) + word];
            let at = side * width + (slot * steps + step) * 4;
            #[unroll]
            for byte in 0..4usize {
                let value = byte_of(integers, byte) * scale;
                // An activation beyond the halves becomes the greatest of them, no infinity.
                let value = max(min(value, HALF_MAX), -HALF_MAX);
                activations[at + byte] = f16::cast_from(value);
            }
        }
    }
}

/// Byte `index` of a word, as the whole number of 8 bits that it is.
#[cube]
fn byte_of(word: u32, #[comptime] index: usize) -> f32 {
    let shifted = i32::reinterpret(word << comptime!(24 - 8 * index as u32));
    f32::cast_from(shifted >> 24i32)
}

/// Adds a chunk's products to a plane's sums.
#[cube]
fn multiply(
    weights: &Shared<[f16]>,
    activations: &Shared<[f16]>,
    sums: &Sequence<Fragment<f32>>,
    plane_row: usize,
    plane_token: usize,
    #[comptime] blocks: Blocks,
    #[comptime] tiling: Tiling,
) {
    let (edge, width) = comptime!((tiling.edge, stride(&blocks)));
    let (row_tiles, token_tiles) = comptime!(tiling.of_plane());
    #[unroll]
    for part in 0..comptime!(blocks.chunk_words() * 4 / edge) {
        let mut columns = Sequence::<Fragment<f16>>::new();
        #[unroll]
        for j in 0..token_tiles {
            let first = (plane_token + comptime!(j * edge)) * width + comptime!(part * edge);
            columns.push(Fragment::<f16>::from_slice(
                MatrixIdent::B,
                edge,
                edge,
                edge,
                MatrixLayout::ColMajor,
                &activations[first..comptime!(tiling.tokens * width)],
                comptime!(width as u32),
            ));
        }
        #[unroll]
        for i in 0..row_tiles {
            let first = (plane_row + comptime!(i * edge)) * width + comptime!(part * edge);
            let of_rows = Fragment::<f16>::from_slice(
                MatrixIdent::A,
                edge,
                edge,
                edge,
                MatrixLayout::RowMajor,
                &weights[first..comptime!(TILE_ROWS * width)],
                comptime!(width as u32),
            );
            #[unroll]
            for j in 0..token_tiles {
                let sum = &sums[i * token_tiles + j];
                cmma::execute(&of_rows, &columns[j], sum, sum);
            }
        }
    }
}
