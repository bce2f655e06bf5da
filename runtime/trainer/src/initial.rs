//! Weights to begin with: small random numbers, and among them heads that copy.
//!
//! What an answer names stands in its prompt, so copying is most of what is to be learned, and a network learns it
//! late: heads in blocks behind each other have to become something together. They begin as it. Four heads of
//! the first block look at the two tokens before; two of the second look for the place behind earlier tokens
//! like this one and the one before it, and say what stands there.
//!
//! Which function is meant is found by what stands behind its name, so another head of the second block tells each
//! token with what the latest name begins; two of the third look for the same word elsewhere and tell the name
//! that it belongs to; and heads of two later blocks say what they look at, wherever they learn to look. The other
//! heads of the first two blocks gather what was said nearby, from which the topic of a wish or a description is
//! learned, and heads of two later blocks find the function whose topic is that of the wish. Training does with all of
//! them what it likes.
//!
//! Source: Olsson et al. 2022, arXiv:2209.11895 (induction heads).

use std::collections::HashMap;
use std::ops::Range;

use weights::{Hyper, Part, TensorName};

use crate::dice::Dice;
use crate::lessons::Topics;
use crate::vocabulary;

/// Numbers of a token's code, by which heads know it; one half for each of two heads.
const CODE: usize = 40;
/// Where the stream has a token's own code, that of the token before, the first numbers of that of the latest
/// name's first token, and that of the next as it is guessed.
const OWN: usize = 0;
const BEFORE: usize = CODE;
const NAME: usize = 2 * CODE;
/// And where the first tokens of names are that words of the user belong to.
const MEANT: usize = NAME + NAME_CODE;
const NEXT: usize = MEANT + NAME_CODE;
/// Numbers of a code that one head can carry.
const NAME_CODE: usize = 32;
/// A code's numbers in the stream are this or its negative: codes of one length are most like themselves.
const CODE_SIZE: f32 = 0.7;
/// What every token has in its last number: positions are told apart by it alone.
const CONSTANT: f32 = 2.0;

/// What codes weigh in the output: a copied token gets about 7 nats more than the others.
const OUTPUT: f32 = 0.15;
/// Rotary pairs, the fastest, by which a head that looks back tells neighbours apart.
const BACK_PAIRS: usize = 4;
/// Weight of the constant in them: the token that is looked for gets about 5 nats more than its neighbours.
const BACK: f32 = 1.3;
/// Weight of a code that was read there: as large in the stream as it was there.
const BACK_OUT: f32 = 0.38;
/// What the token before the one before weighs beside that, where it is told and where it is compared. With it
/// 89 % of the tokens that follow a space in a value and are told by two tokens are found at first, none without.
const BEFORE_THAT: [f32; 2] = [0.6, 0.8];
/// Where the slow rotary pairs of a head begin; faster ones turn too far over a prompt to be compared.
const SLOW_FROM: usize = 14;
/// Weight of codes that are compared: the same code gets some 20 nats more than another.
const MATCH: f32 = 2.0;
/// Weight of a code that was found.
const MATCH_OUT: f32 = 2.2;
/// Rotary pairs that turn once in a few hundred tokens: by them the latest name is told from earlier ones.
const LATEST_PAIRS: Range<usize> = 4..7;
/// Weight of what stands before a name, and of the constant, in them: 10 nats for a name nearby.
const LATEST: f32 = 1.6;
const LATEST_OUT: f32 = 0.5;
/// Weight of words that are compared, of the constant that keeps a word from finding itself, and of what was
/// found. By these and the next, 152 functions are found by their descriptions at first where 129 are without.
const WORD: f32 = 3.0;
const ELSEWHERE: f32 = 0.5;
const WORD_OUT: f32 = 0.5;
/// Rotary pairs by which what is near is told from the rest, and the weight of the constant in them.
const NEAR_PAIRS: Range<usize> = 3..6;
const NEAR: f32 = 1.4;
/// Heads of the first two blocks that look at what is near, at some ten tokens or some thirty: their rotary
/// pairs, and the weight of the constant in them.
const GATHERING: [(u16, usize, Range<usize>, f32); 5] =
    [(0, 4, 3..7, 0.8), (0, 5, 4..7, 0.7), (1, 3, 3..7, 0.8), (1, 4, 4..7, 0.7), (1, 5, 4..7, 0.7)];
/// What they say weighs so many times what other heads say.
const GATHERED: f32 = 5.0;
/// Weight of what stands behind a description, and of the constant, where functions are looked for, and of topics
/// that are compared there.
const MARK: f32 = 2.5;
const TOPIC: f32 = 1.5;
/// Blocks whose heads say what they look at, wherever they learn to look, and how loud they begin.
const TELLING: Range<u16> = 3..5;
const TELLING_OUT: f32 = 0.6;

/// Tokens by which heads find their way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marks {
    /// Stands before names of functions.
    pub(crate) name: u32,
    /// Stands behind descriptions of functions.
    pub(crate) parameters: u32,
}

/// The tensors of a network by name. One too narrow or too flat for copiers begins without them.
pub(crate) fn weights(
    hyper: &Hyper,
    seed: u64,
    marks: Option<Marks>,
) -> HashMap<TensorName, Vec<f32>> {
    let mut dice = Dice::new(seed);
    let (matrices, gains) = crate::parameters::names(hyper);
    let mut values = HashMap::new();
    for name in matrices {
        values.insert(name, random(hyper, name, &mut dice));
    }
    for name in gains {
        values.insert(name, vec![1.0; hyper.shape_of(name)[0]]);
    }
    let has_room = hyper.hidden as usize > NEXT + CODE && hyper.head_dim as usize >= CODE / 2;
    if has_room && hyper.layers >= 2 && hyper.kv_heads >= 2 {
        let mut copiers = Copiers { hyper, values: &mut values };
        copiers.codes(&mut dice);
        copiers.look_back();
        copiers.look_for();
        if let Some(marks) = marks.filter(|_| hyper.kv_heads >= 6 && hyper.layers >= 3) {
            copiers.look_for_names(marks.name as usize);
            copiers.look_for_words();
            copiers.tell();
            copiers.gather();
            copiers.topics(&mut dice);
            copiers.look_for_topics(marks.parameters as usize);
        }
    }
    values
}

/// Where a number of a half of a code stands in its other order.
fn turned(at: usize) -> usize {
    (at + 7) % (CODE / 2)
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
    fn codes(&mut self, dice: &mut Dice) {
        let width = self.width();
        let mut vectors = |name| self.values.remove(&name).expect("vectors of tokens");
        let (mut inputs, mut outputs) =
            (vectors(TensorName::Embedding), vectors(TensorName::Output));
        for (input, output) in inputs.chunks_mut(width).zip(outputs.chunks_mut(width)) {
            for at in 0..CODE {
                input[OWN + at] = CODE_SIZE * dice.normal().signum();
                output[NEXT + at] = OUTPUT * input[OWN + at];
            }
            input[width - 1] = CONSTANT;
            output[width - 1] = 0.0;
        }
        self.values.extend([(TensorName::Embedding, inputs), (TensorName::Output, outputs)]);
    }

    /// In the first block: what the token before is, and in another order of numbers the one before that.
    fn look_back(&mut self) {
        for half in 0..2 {
            self.look_at(half, 1);
            self.carry_half(0, half, half, BEFORE, BACK_OUT);
            if self.looks_far() {
                self.look_at(2 + half, 2);
                let start = half * CODE / 2;
                let code = OWN + start..OWN + start + CODE / 2;
                let to = |at| BEFORE + start + turned(at);
                self.carry_to(0, 2 + half, code, to, BEFORE_THAT[0] * BACK_OUT);
            }
        }
    }

    fn looks_far(&self) -> bool {
        self.hyper.kv_heads >= 4
    }

    /// A head of the first block that looks at the token so many before.
    fn look_at(&mut self, group: usize, distance: usize) {
        let (constant, head_dim) = (self.width() - 1, self.head_dim());
        let head = self.begin(0, group);
        for pair in 0..BACK_PAIRS {
            let angle = self.hyper.rope_theta.powf(-2.0 * pair as f64 / head_dim as f64);
            let angle = (distance as f64 * angle) as f32;
            let (key, query) = (group * head_dim + 2 * pair, head * head_dim + 2 * pair);
            self.set(0, Part::Key, key, constant, BACK);
            self.set(0, Part::Query, query, constant, BACK * angle.cos());
            self.set(0, Part::Query, query + 1, constant, -BACK * angle.sin());
        }
    }

    /// In the second block: what stood behind two tokens like this one and the one before.
    fn look_for(&mut self) {
        for group in 0..2 {
            let head = self.begin(1, group);
            self.compare(1, group, BEFORE, MATCH);
            for at in 0..CODE / 2 {
                let row = SLOW_FROM + turned(at);
                if self.looks_far() && row < self.head_dim() {
                    let (row, from) =
                        (head * self.head_dim() + row, BEFORE + group * CODE / 2 + at);
                    self.set(1, Part::Query, row, from, BEFORE_THAT[1] * MATCH);
                }
            }
            self.carry_half(1, group, group, NEXT, MATCH_OUT);
        }
    }

    /// In the second block: with what token the latest name begins.
    fn look_for_names(&mut self, mark: usize) {
        let (width, head_dim) = (self.width(), self.head_dim());
        let code = self.code(mark);
        let size: f32 = code.iter().map(|number| number * number).sum();
        let head = self.begin(1, 2);
        for pair in LATEST_PAIRS {
            let (key, query) = (2 * head_dim + 2 * pair, head * head_dim + 2 * pair);
            for (at, number) in code.iter().enumerate() {
                self.set(1, Part::Key, key, BEFORE + at, LATEST * number / size);
            }
            self.set(1, Part::Query, query, width - 1, LATEST);
        }
        self.carry(1, 2, OWN..OWN + NAME_CODE, NAME, LATEST_OUT);
    }

    /// In the third block: the names that the same word elsewhere belongs to.
    fn look_for_words(&mut self) {
        for group in 0..2 {
            self.begin(2, group);
            self.compare(2, group, OWN, WORD);
            self.prefer(2, group, 0..BACK_PAIRS, [ELSEWHERE, -ELSEWHERE]);
            self.carry(2, group, NAME..NAME + NAME_CODE, MEANT, WORD_OUT);
        }
    }

    /// In later blocks: what is looked at comes next, or the name that it belongs to.
    fn tell(&mut self) {
        for layer in TELLING.filter(|layer| u32::from(*layer) < self.hyper.layers) {
            for (group, half) in [(0, 0), (1, 1), (3, 0), (4, 1)] {
                self.clear(layer, Part::Value, group);
                self.carry_half(layer, group, half, NEXT, TELLING_OUT);
            }
            for (group, from) in [(2, NAME), (5, MEANT)] {
                self.clear(layer, Part::Value, group);
                self.carry(layer, group, from..from + NAME_CODE, NEXT, TELLING_OUT);
            }
            // What the user has said is near.
            self.prefer(layer, 5, NEAR_PAIRS, [NEAR, NEAR]);
        }
    }

    /// Each topic has a code of its own, where that of the token before is no longer needed.
    fn topics(&mut self, dice: &mut Dice) {
        let width = self.width();
        let outputs = self.values.get_mut(&TensorName::Output).expect("vectors of tokens");
        for output in outputs.chunks_mut(width).skip(vocabulary::TOPICS).take(Topics::COUNT) {
            for number in &mut output[BEFORE..BEFORE + CODE] {
                *number = OUTPUT * dice.normal().signum();
            }
        }
    }

    /// In later blocks: which function is about the same topic, told behind its description, and its name.
    fn look_for_topics(&mut self, mark: usize) {
        let (width, head_dim) = (self.width(), self.head_dim());
        let code = self.code(mark);
        let size: f32 = code.iter().map(|number| number * number).sum();
        let (head, last) = (self.head(2), head_dim - 2);
        for layer in TELLING.filter(|layer| u32::from(*layer) < self.hyper.layers) {
            self.clear(layer, Part::Query, head);
            self.clear(layer, Part::Key, 2);
            for (at, number) in code.iter().enumerate() {
                self.set(layer, Part::Key, 2 * head_dim + last, OWN + at, MARK * number / size);
            }
            self.set(layer, Part::Query, head * head_dim + last, width - 1, MARK);
            let half = BEFORE + usize::from(layer % 2) * CODE / 2;
            for (row, topic) in (SLOW_FROM..last).zip(half..half + CODE / 2) {
                self.set(layer, Part::Key, 2 * head_dim + row, topic, TOPIC);
                self.set(layer, Part::Query, head * head_dim + row, topic, TOPIC);
            }
        }
    }

    fn code(&self, token: usize) -> Vec<f32> {
        let rows = &self.values[&TensorName::Embedding];
        rows[token * self.width() + OWN..][..CODE].to_vec()
    }

    /// In the first two blocks: all that was said nearby, in no order. What a wish or a description is about is
    /// told by a few of its words, and among all words of a prompt they are lost.
    fn gather(&mut self) {
        let (width, head_dim) = (self.width(), self.head_dim());
        for (layer, group, pairs, weight) in GATHERING {
            let head = self.head(group);
            self.clear(layer, Part::Query, head);
            self.clear(layer, Part::Key, group);
            self.prefer(layer, group, pairs, [weight, weight]);
            let name = TensorName::Block { layer, part: Part::AttentionOutput };
            let cols = self.hyper.shape_of(name)[1];
            let values = self.values.get_mut(&name).expect("a matrix of the block");
            for row in values.chunks_mut(cols).take(width) {
                let own = &mut row[head * head_dim..(head + 1) * head_dim];
                own.iter_mut().for_each(|value| *value *= GATHERED);
            }
        }
    }

    /// Makes room in a key head and the first of its query heads, and gives the number of that.
    fn begin(&mut self, layer: u16, group: usize) -> usize {
        let head = self.head(group);
        self.clear(layer, Part::Query, head);
        self.clear(layer, Part::Key, group);
        self.clear(layer, Part::Value, group);
        head
    }

    /// The head looks where its half of a code is that of its own token: at the codes in `key` of the stream.
    fn compare(&mut self, layer: u16, group: usize, key: usize, weight: f32) {
        let (head, head_dim) = (self.head(group), self.head_dim());
        for at in SLOW_FROM..head_dim.min(SLOW_FROM + CODE / 2) {
            let code = group * CODE / 2 + at - SLOW_FROM;
            self.set(layer, Part::Key, group * head_dim + at, key + code, weight);
            self.set(layer, Part::Query, head * head_dim + at, OWN + code, weight);
        }
    }

    /// The head looks near itself, or away from it where the weights of key and query differ in sign.
    fn prefer(&mut self, layer: u16, group: usize, pairs: Range<usize>, weights: [f32; 2]) {
        let (constant, head, head_dim) = (self.width() - 1, self.head(group), self.head_dim());
        for pair in pairs {
            self.set(layer, Part::Key, group * head_dim + 2 * pair, constant, weights[0]);
            self.set(layer, Part::Query, head * head_dim + 2 * pair, constant, weights[1]);
        }
    }

    /// Takes a half of the code of the token that the head looks at, to where it goes in the stream.
    fn carry_half(&mut self, layer: u16, group: usize, half: usize, to: usize, weight: f32) {
        let start = half * CODE / 2;
        self.carry(layer, group, OWN + start..OWN + start + CODE / 2, to + start, weight);
    }

    /// Takes some numbers of where the head looks to where they go in the stream.
    fn carry(&mut self, layer: u16, group: usize, from: Range<usize>, to: usize, weight: f32) {
        self.carry_to(layer, group, from, |at| to + at, weight);
    }

    /// The same where each of them has a place of its own.
    fn carry_to(
        &mut self,
        layer: u16,
        group: usize,
        from: Range<usize>,
        to: impl Fn(usize) -> usize,
        weight: f32,
    ) {
        let (head, head_dim) = (self.head(group), self.head_dim());
        for (at, number) in from.enumerate() {
            self.set(layer, Part::Value, group * head_dim + at, number, 1.0);
            self.set(layer, Part::AttentionOutput, to(at), head * head_dim + at, weight);
        }
    }
}
