//! One sequence's logits from the definition, in f64.

use weights::{Hyper, Part, RopePairing, TensorName};

use crate::made::Made;

/// `[out, in]` times `[in]`.
fn times(matrix: &[f64], x: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}

fn normed(x: &[f64], gain: &[f64], epsilon: f64) -> Vec<f64> {
    let root = (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64 + epsilon).sqrt();
    x.iter().zip(gain).map(|(v, g)| v / root * g).collect()
}

/// One sequence's logits behind every token, from the definition.
pub(crate) struct Plain<'a> {
    made: &'a Made,
    keys: Vec<Vec<Vec<f64>>>,
    values: Vec<Vec<Vec<f64>>>,
}

impl<'a> Plain<'a> {
    pub(crate) fn logits(made: &'a Made, tokens: &[u32]) -> Vec<Vec<f64>> {
        let layers = made.hyper.layers as usize;
        let mut plain = Self { made, keys: vec![vec![]; layers], values: vec![vec![]; layers] };
        tokens.iter().map(|token| plain.step(*token as usize)).collect()
    }

    fn step(&mut self, token: usize) -> Vec<f64> {
        let Hyper { hidden, layers, rms_epsilon, .. } = self.made.hyper;
        let hidden = hidden as usize;
        let embedding = self.made.numbers(TensorName::Embedding);
        let mut x = embedding[token * hidden..(token + 1) * hidden].to_vec();
        for layer in 0..layers as u16 {
            let numbers = |part| self.made.numbers(TensorName::Block { layer, part });
            let h = normed(&x, &numbers(Part::AttentionNorm), rms_epsilon);
            let mut query = times(&numbers(Part::Query), &h);
            let mut key = times(&numbers(Part::Key), &h);
            let value = times(&numbers(Part::Value), &h);
            let position = self.keys[layer as usize].len();
            self.rotate(&mut query, position);
            self.rotate(&mut key, position);
            self.keys[layer as usize].push(key);
            self.values[layer as usize].push(value);
            let seen = self.attend(&query, layer as usize);
            let added = times(&numbers(Part::AttentionOutput), &seen);
            x.iter_mut().zip(added).for_each(|(x, a)| *x += a);
            let h = normed(&x, &numbers(Part::FeedForwardNorm), rms_epsilon);
            let up = times(&numbers(Part::Up), &h);
            let inner: Vec<f64> = times(&numbers(Part::Gate), &h)
                .iter()
                .zip(up)
                .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
                .collect();
            let added = times(&numbers(Part::Down), &inner);
            x.iter_mut().zip(added).for_each(|(x, a)| *x += a);
        }
        let h = normed(&x, &self.made.numbers(TensorName::OutputNorm), rms_epsilon);
        times(&self.made.numbers(TensorName::Output), &h)
    }

    fn rotate(&self, x: &mut [f64], position: usize) {
        let dim = self.made.hyper.head_dim as usize;
        for head in x.chunks_exact_mut(dim) {
            for pair in 0..dim / 2 {
                let (a, b) = match self.made.hyper.pairing {
                    RopePairing::Adjacent => (2 * pair, 2 * pair + 1),
                    RopePairing::HalfSplit => (pair, pair + dim / 2),
                };
                let turn = self.made.hyper.rope_theta.powf(-2.0 * pair as f64 / dim as f64);
                let (sin, cos) = (position as f64 * turn).sin_cos();
                (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
            }
        }
    }

    fn attend(&self, query: &[f64], layer: usize) -> Vec<f64> {
        let hyper = &self.made.hyper;
        let (dim, group) = (hyper.head_dim as usize, (hyper.heads / hyper.kv_heads) as usize);
        let (keys, values) = (&self.keys[layer], &self.values[layer]);
        let first =
            hyper.sliding_window.map_or(0, |window| keys.len().saturating_sub(window as usize));
        let mut output = Vec::new();
        for (head, query) in query.chunks_exact(dim).enumerate() {
            let at = head / group * dim;
            let shares: Vec<f64> = keys[first..]
                .iter()
                .map(|key| {
                    let product: f64 =
                        key[at..at + dim].iter().zip(query).map(|(k, q)| k * q).sum();
                    (product / (dim as f64).sqrt()).exp()
                })
                .collect();
            let whole: f64 = shares.iter().sum();
            output.extend((at..at + dim).map(|i| {
                let sum: f64 = values[first..].iter().zip(&shares).map(|(v, s)| v[i] * s).sum();
                sum / whole
            }));
        }
        output
    }
}
