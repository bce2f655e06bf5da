//! Weights to begin with: small random numbers, and among them heads that copy.
//!
//! What an answer names stands in its prompt, so copying is most of what is to be learned, and a network learns it
//! late: two heads in blocks behind each other have to become something together. They begin as it. Two heads of
//! the first block look at the token before; two of the second look for the place behind an earlier token like
//! this one, and say what stands there. Training does with them what it likes.
//!
//! Source: Olsson et al. 2022, arXiv:2209.11895 (induction heads).

use std::collections::HashMap;

use weights::{Hyper, Part, TensorName};

use crate::dice::Dice;

/// Numbers of a token's code, by which heads know it; one half for each of two heads.
const CODE: usize = 64;
/// Where the stream has a token's own code, that of the token before, and that of the next as it is guessed.
const OWN: usize = 0;
const BEFORE: usize = CODE;
const NEXT: usize = 2 * CODE;
/// Deviation of a code's numbers in the stream.
const CODE_SIZE: f32 = 0.7;
/// What every token has in its last number: positions are told apart by it alone.
const CONSTANT: f32 = 2.0;

/// What codes weigh in the output: a copied token gets about 7 nats more than the others.
const OUTPUT: f32 = 0.12;
/// Rotary pairs, the fastest, by which a head that looks back tells neighbours apart.
const BACK_PAIRS: usize = 4;
/// Weight of the constant in them: the token before gets about 5 nats more than its neighbours.
const BACK: f32 = 1.45;
/// Weight of a code that was read there: as large in the stream as it was there.
const BACK_OUT: f32 = 0.43;
/// Where the slow rotary pairs of a head begin; faster ones turn too far over a prompt to be compared.
const SLOW_FROM: usize = 14;
/// Weight of codes that are compared: the same code gets some 20 nats more than another.
const MATCH: f32 = 2.3;
/// Weight of a code that was found.
const MATCH_OUT: f32 = 0.8;

/// The tensors of a network by name.
pub(crate) fn weights(hyper: &Hyper, seed: u64) -> HashMap<TensorName, Vec<f32>> {
    let mut dice = Dice::new(seed);
    let (matrices, gains) = crate::parameters::names(hyper);
    let mut values = HashMap::new();
    for name in matrices {
        values.insert(name, random(hyper, name, &mut dice));
    }
    for name in gains {
        values.insert(name, vec![1.0; hyper.shape_of(name)[0]]);
    }
    if hyper.layers >= 2 && hyper.hidden as usize >= 3 * CODE && hyper.kv_heads >= 2 {
        let mut copiers = Copiers { hyper, values: &mut values };
        copiers.codes();
        copiers.look_back();
        copiers.look_for();
    }
    values
}

/// Numbers that keep the size of what goes through them.
fn random(hyper: &Hyper, name: TensorName, dice: &mut Dice) -> Vec<f32> {
    let shape = hyper.shape_of(name);
    let (rows, cols) = (shape[0], shape[1]);
    // What is added to the stream once in each block starts small.
    let added = matches!(name, TensorName::Block { part: Part::AttentionOutput | Part::Down, .. });
    let scale = match name {
        TensorName::Embedding | TensorName::Output => 0.02,
        _ if added => 0.5 / ((2 * hyper.layers) as f32 * cols as f32).sqrt(),
        _ => 0.7 / (cols as f32).sqrt(),
    };
    (0..rows * cols).map(|_| scale * dice.normal()).collect()
}

/// Heads that copy, as they are written into random weights.
struct Copiers<'a> {
    hyper: &'a Hyper,
    values: &'a mut HashMap<TensorName, Vec<f32>>,
}

impl Copiers<'_> {
    fn width(&self) -> usize {
        self.hyper.hidden as usize
    }

    fn head_dim(&self) -> usize {
        self.hyper.head_dim as usize
    }

    /// The first query head of a key head.
    fn head(&self, group: usize) -> usize {
        group * (self.hyper.heads / self.hyper.kv_heads) as usize
    }

    fn set(&mut self, layer: u16, part: Part, row: usize, col: usize, value: f32) {
        let name = TensorName::Block { layer, part };
        let cols = self.hyper.shape_of(name)[1];
        self.values.get_mut(&name).expect("a matrix of the block")[row * cols + col] = value;
    }

    /// Nothing of the stream comes into a head but what is set.
    fn clear(&mut self, layer: u16, part: Part, head: usize) {
        let name = TensorName::Block { layer, part };
        let cols = self.hyper.shape_of(name)[1];
        let size = self.head_dim() * cols;
        let values = self.values.get_mut(&name).expect("a matrix of the block");
        values[head * size..(head + 1) * size].iter_mut().for_each(|value| *value *= 0.05);
    }

    /// Each token has a code of its own, by which the output knows it too.
    fn codes(&mut self) {
        let width = self.width();
        // The same for every seed.
        let mut dice = Dice::new(0);
        let rows = self.hyper.vocabulary as usize;
        for row in 0..rows {
            for at in 0..CODE {
                let code = CODE_SIZE * dice.normal();
                let embedding = self.values.get_mut(&TensorName::Embedding).expect("vectors");
                embedding[row * width + OWN + at] = code;
                embedding[row * width + width - 1] = CONSTANT;
                if NEXT + at < width - 1 {
                    let output = self.values.get_mut(&TensorName::Output).expect("vectors");
                    output[row * width + NEXT + at] = OUTPUT * code;
                }
            }
        }
    }

    /// In the first block: what the token before is.
    fn look_back(&mut self) {
        let (width, head_dim) = (self.width(), self.head_dim());
        for group in 0..2 {
            let head = self.head(group);
            self.clear(0, Part::Query, head);
            self.clear(0, Part::Key, group);
            self.clear(0, Part::Value, group);
            for pair in 0..BACK_PAIRS {
                let angle = self.hyper.rope_theta.powf(-2.0 * pair as f64 / head_dim as f64) as f32;
                let constant = width - 1;
                self.set(0, Part::Key, group * head_dim + 2 * pair, constant, BACK);
                self.set(0, Part::Query, head * head_dim + 2 * pair, constant, BACK * angle.cos());
                self.set(
                    0,
                    Part::Query,
                    head * head_dim + 2 * pair + 1,
                    constant,
                    -BACK * angle.sin(),
                );
            }
            for at in 0..CODE / 2 {
                let code = group * CODE / 2 + at;
                self.set(0, Part::Value, group * head_dim + at, OWN + code, 1.0);
                self.set(0, Part::AttentionOutput, BEFORE + code, head * head_dim + at, BACK_OUT);
            }
        }
    }

    /// In the second block: what stood behind a token like this one.
    fn look_for(&mut self) {
        let (width, head_dim) = (self.width(), self.head_dim());
        for group in 0..2 {
            let head = self.head(group);
            self.clear(1, Part::Query, head);
            self.clear(1, Part::Key, group);
            self.clear(1, Part::Value, group);
            for at in SLOW_FROM..head_dim {
                let code = group * CODE / 2 + at;
                self.set(1, Part::Key, group * head_dim + at, BEFORE + code, MATCH);
                self.set(1, Part::Query, head * head_dim + at, OWN + code, MATCH);
            }
            for at in 0..CODE / 2 {
                let code = group * CODE / 2 + at;
                self.set(1, Part::Value, group * head_dim + at, OWN + code, 1.0);
                if NEXT + code < width - 1 {
                    self.set(
                        1,
                        Part::AttentionOutput,
                        NEXT + code,
                        head * head_dim + at,
                        MATCH_OUT,
                    );
                }
            }
        }
    }
}
