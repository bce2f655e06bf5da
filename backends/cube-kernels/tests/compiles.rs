//! Every kernel as CUDA's compiler takes it, in the forms that the fused operations ask for.
//!
//! Needs NVRTC, CUDA's headers and a driver; the driver may be one that computes nothing
//! (`tests/pretended-cuda`), because no number is looked at. Runs where `ZONDA_CUDA_COMPILES` is set.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and speak")]

use cube_kernels::attention::{Attention, Cache, Queries, Span, attend};
use cube_kernels::kv::{KvEncoding, KvLayout, Rotation, Tokens, store};
use cube_kernels::{
    BufferArg, LIKELIEST_WORDS, Matrix, Outcome, Shape, WEIGHING_NUMBERS, argmax, likeliest,
    linear, linear_floats, quantize, reads_floats, rms_norm, scale_count, word_count,
};
use cubecl::client::Client;
use cubecl::device::Device;
use cubecl::server::Handle;
use weights::{Encoding, RopePairing};

const COLS: usize = 256;
const ROWS: usize = 32;

/// The first device, unless nobody wants these tests.
fn device() -> Option<Client> {
    if std::env::var_os("ZONDA_CUDA_COMPILES").is_none() {
        println!("skipped: ZONDA_CUDA_COMPILES asks for no CUDA");
        return None;
    }
    Some(Device::cuda(0).expect("CUDA is built in").client())
}

/// Words, or numbers of 32 bits.
fn buffer(client: &Client, length: usize) -> BufferArg {
    let (_, argument) = output(client, length);
    argument
}

/// A buffer that a kernel writes.
fn output(client: &Client, length: usize) -> (Handle, BufferArg) {
    let handle = client.create_from_slice(&vec![0; length * 4]);
    // SAFETY: it was made as long.
    let argument = unsafe { BufferArg::from_raw_parts(handle.clone(), length) };
    (handle, argument)
}

/// What the compiler says of the kernel that writes a buffer comes back with the buffer.
fn expect_compiled(client: &Client, written: Handle, what: &str) {
    client.read_one(written).expect(what);
}

#[test]
fn products_of_all_encodings_compile() {
    let Some(client) = device() else { return };
    for encoding in Encoding::ALL {
        for tokens in [1, 8, 9, 65] {
            for outcome in [Outcome::Store, Outcome::Add, Outcome::Gate] {
                let words = ROWS * encoding.row_bytes(COLS).unwrap() / 4;
                let panels = buffer(&client, words);
                let matrix = Matrix { panels, encoding, rows: ROWS, cols: COLS };
                let shape = Shape { tokens, out_cols: ROWS, first_col: 0 };
                let (written, out) = output(&client, tokens * ROWS);
                if reads_floats(encoding) {
                    let x = buffer(&client, tokens * COLS);
                    linear_floats(&client, matrix, x, out, shape, outcome);
                } else {
                    let words = buffer(&client, word_count(tokens, COLS));
                    let scales = buffer(&client, scale_count(tokens, COLS));
                    linear(&client, matrix, words, scales, out, shape, outcome);
                }
                let what = format!("{} of {tokens}: {outcome:?}", encoding.name());
                expect_compiled(&client, written, &what);
            }
        }
    }
}

#[test]
fn what_stands_between_products_compiles() {
    let Some(client) = device() else { return };
    let x = || buffer(&client, 2 * COLS);
    let (written, out) = output(&client, 2 * COLS);
    rms_norm(&client, x(), buffer(&client, COLS), 1e-5, out);
    expect_compiled(&client, written, "norm");
    for epsilon in [None, Some(1e-5)] {
        let (written, words) = output(&client, word_count(2, COLS));
        let scales = buffer(&client, scale_count(2, COLS));
        quantize(&client, x(), (buffer(&client, COLS), epsilon), COLS, words, scales);
        expect_compiled(&client, written, "rounding");
    }
    let (written, out) = output(&client, 2);
    argmax(&client, x(), out);
    expect_compiled(&client, written, "argmax");
    let (written, out) = output(&client, 2 * LIKELIEST_WORDS);
    likeliest(&client, x(), buffer(&client, 2 * WEIGHING_NUMBERS), out);
    expect_compiled(&client, written, "heads of rows");
    let (written, out) = output(&client, 1 << 12);
    cube_kernels::copy(&client, buffer(&client, 1 << 12), out);
    expect_compiled(&client, written, "copy");
}

#[test]
fn attention_compiles() {
    let Some(client) = device() else { return };
    let (heads, kv_heads, page_tokens) = (8, 2, 64);
    for encoding in [KvEncoding::F16, KvEncoding::Int8, KvEncoding::F32] {
        for (head_dim, pairing) in [(64, RopePairing::HalfSplit), (128, RopePairing::Adjacent)] {
            // An answer, a prompt, and an answer behind more than one part of the context.
            for (tokens, context) in [(1, 9), (12, 12), (1, 1500)] {
                let layout = KvLayout { kv_heads, head_dim, page_tokens, encoding };
                let pages = usize::div_ceil(context, page_tokens);
                let what = format!("{encoding:?}, heads of {head_dim}, {context}");
                let (cache, pool) = output(&client, pages * layout.page_words());
                let qkv = || buffer(&client, tokens * (heads + 2 * kv_heads) * head_dim);
                let table = || Rotation { table: buffer(&client, context * head_dim), pairing };
                let indices = || buffer(&client, tokens);
                let new = Tokens { qkv: qkv(), slots: indices(), positions: indices() };
                store(&client, pool, layout, heads, new, table());
                expect_compiled(&client, cache, &what);
                let pool = buffer(&client, pages * layout.page_words());
                let span = Span {
                    query_start: 0,
                    query_tokens: tokens,
                    context_tokens: context,
                    first_page: 0,
                };
                let queries = Queries {
                    qkv: qkv(),
                    pages: buffer(&client, pages),
                    span_table: client.create_from_slice(&[0; 16]),
                    spans: &[span],
                };
                let attention = Attention { heads, scale: 0.1, window_tokens: None };
                let (written, out) = output(&client, tokens * heads * head_dim);
                attend(&client, Cache { pool, layout }, &attention, queries, table(), out);
                expect_compiled(&client, written, &what);
            }
        }
    }
}
