//! The labels of a classification as a trie of their tokens, and how far it is known.
//!
//! Labels share the tokens that they begin with, so each is computed once. The trie is walked depth
//! first on the sequence itself: what follows the branch point is given up and its places in the
//! cache are written again by the next branch. The last token of a label, the end of the answer, is
//! never computed: its probability is in the row of the token before it.

use protocol::{Scores, TokenId};

use crate::batch::RowLogits;
use crate::likelihood::Total;
use crate::sampler::{SampleError, drawable};

/// The node behind the prompt.
const ROOT: usize = 0;

/// Labels on their way to scores.
#[derive(Debug)]
pub(crate) struct Labels {
    names: Vec<String>,
    /// The root, then the tokens that are computed, each before what follows it.
    nodes: Vec<Node>,
    /// Tokens that have an outcome; ids at or above it are never drawn.
    drawable_tokens: u32,
    /// Outcomes that were taken, in the order of `nodes`.
    taken: usize,
    log_probabilities: Vec<f64>,
}

#[derive(Debug)]
struct Node {
    token: TokenId,
    /// Tokens of labels before this one.
    depth: usize,
    log_probability: f64,
    /// What may follow: a token, and where it leads.
    branches: Vec<(TokenId, Target)>,
}

#[derive(Debug, Clone, Copy)]
enum Target {
    Node(usize),
    Label(usize),
}

/// Tokens to compute next, behind `kept` tokens of the path so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) kept: usize,
    pub(crate) tokens: Vec<TokenId>,
}

/// A row that tells nothing about labels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RowError {
    #[error(transparent)]
    Row(#[from] SampleError),
    #[error("the network gave an outcome that nobody asked for")]
    Unasked,
}

impl Labels {
    /// `tokens`: those of each label, each with an end that occurs nowhere else in it.
    pub(crate) fn new(names: Vec<String>, tokens: &[Vec<TokenId>], drawable_tokens: u32) -> Self {
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        // In this order a depth-first walk is the order of insertion.
        order.sort_by(|a, b| tokens[*a].cmp(&tokens[*b]));
        let mut labels = Self {
            log_probabilities: vec![f64::NEG_INFINITY; names.len()],
            names,
            nodes: vec![Node::new(TokenId(0), 0)],
            drawable_tokens,
            taken: 0,
        };
        for label in order {
            labels.insert(label, &tokens[label]);
        }
        labels
    }

    fn insert(&mut self, label: usize, tokens: &[TokenId]) {
        let Some((&end, inner)) = tokens.split_last() else {
            return;
        };
        let mut at = ROOT;
        for &token in inner {
            let known = self.nodes[at].branches.iter().find_map(|(other, target)| match target {
                Target::Node(next) if *other == token => Some(*next),
                Target::Node(_) | Target::Label(_) => None,
            });
            at = known.unwrap_or_else(|| {
                let next = self.nodes.len();
                let depth = self.nodes[at].depth + usize::from(at != ROOT);
                self.nodes.push(Node::new(token, depth));
                self.nodes[at].branches.push((token, Target::Node(next)));
                next
            });
        }
        self.nodes[at].branches.push((end, Target::Label(label)));
    }

    /// Tokens of labels that are computed in all.
    #[cfg(test)]
    pub(crate) fn computed_tokens(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Outcomes that were taken; the first is the prompt's.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// Tokens of labels before the next token whose outcome is wanted; `None` while that is the
    /// prompt's last.
    pub(crate) fn next_depth(&self) -> Option<usize> {
        self.nodes.get(self.taken).filter(|_| self.taken != ROOT).map(|node| node.depth)
    }

    /// Takes the next outcome of the walk. Computed in f64.
    pub(crate) fn take(&mut self, row: RowLogits) -> Result<(), RowError> {
        let (Some(node), RowLogits::All(mut logits)) = (self.nodes.get(self.taken), row) else {
            return Err(RowError::Unasked);
        };
        let logits = drawable(&mut logits, self.drawable_tokens)?;
        let total = Total::of(logits);
        let path = node.log_probability;
        let branches = node.branches.clone();
        for (token, target) in branches {
            let logit = logits.get(token.0 as usize).copied().ok_or(RowError::Unasked)?;
            let log_probability = path + total.logprob(logit);
            match target {
                Target::Node(next) => self.nodes[next].log_probability = log_probability,
                Target::Label(label) => self.log_probabilities[label] = log_probability,
            }
        }
        self.taken += 1;
        Ok(())
    }

    /// What to compute next, at most `tokens_max` tokens of one path; `None` when all is known.
    pub(crate) fn next_run(&self, tokens_max: usize) -> Option<Run> {
        let first = self.nodes.get(self.taken)?;
        let path = self.nodes[self.taken..].iter().zip(first.depth..);
        let path = path.take_while(|(node, depth)| node.depth == *depth).take(tokens_max);
        Some(Run { kept: first.depth, tokens: path.map(|(node, _)| node.token).collect() })
    }

    /// How well each label fits, in the order of the request.
    pub(crate) fn scores(&self) -> Scores {
        Scores::of_logs(self.names.iter().cloned().zip(self.log_probabilities.iter().copied()))
    }
}

impl Node {
    fn new(token: TokenId, depth: usize) -> Self {
        Self { token, depth, log_probability: 0.0, branches: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::WholeRow;

    fn labels(texts: &[&[u32]]) -> Labels {
        let tokens: Vec<Vec<TokenId>> = texts
            .iter()
            .map(|text| text.iter().chain(&[9]).copied().map(TokenId).collect())
            .collect();
        let names = texts.iter().map(|text| format!("{text:?}")).collect();
        Labels::new(names, &tokens, 10)
    }

    /// The runs of a walk, each as how much is kept and what is computed.
    fn walk(texts: &[&[u32]], tokens_max: usize) -> Vec<(usize, Vec<u32>)> {
        let mut labels = labels(texts);
        let row = || RowLogits::All(vec![0.0; 10]);
        labels.take(row()).unwrap();
        let mut runs = Vec::new();
        while let Some(run) = labels.next_run(tokens_max) {
            for at in 0..run.tokens.len() {
                assert_eq!(labels.next_depth(), Some(run.kept + at));
                labels.take(row()).unwrap();
            }
            runs.push((run.kept, run.tokens.iter().map(|token| token.0).collect()));
        }
        assert_eq!(labels.take(row()), Err(RowError::Unasked));
        for (label, text) in labels.scores().labels.iter().zip(texts) {
            let expected = -(text.len() as f64 + 1.0) * 10f64.ln();
            assert!((label.log_probability - expected).abs() < 1e-12, "{label:?}");
        }
        runs
    }

    #[test]
    fn each_shared_token_is_computed_once_and_the_end_never() {
        assert_eq!(
            walk(&[&[4, 5, 6], &[1], &[4, 5], &[4, 2, 3, 3], &[1, 1]], 16),
            [(0, vec![1, 1]), (0, vec![4, 2, 3, 3]), (1, vec![5, 6])]
        );
        assert_eq!(walk(&[&[7]], 16), [(0, vec![7])]);
        assert_eq!(labels(&[&[4, 5], &[4, 6]]).computed_tokens(), 3);
    }

    #[test]
    fn a_long_path_is_computed_in_parts() {
        let parts = [(0, vec![1, 2]), (2, vec![3, 4]), (4, vec![5]), (2, vec![8])];
        assert_eq!(walk(&[&[1, 2, 3, 4, 5], &[1, 2, 8]], 2), parts);
    }

    #[test]
    fn a_row_without_numbers_is_an_error() {
        let mut labels = labels(&[&[1]]);
        let narrow = RowLogits::All(vec![0.0; 9]);
        assert_eq!(labels.take(narrow), Err(SampleError::Width { found: 9, wanted: 10 }.into()));
        let mut logits = vec![0.0; 10];
        logits[3] = f32::NAN;
        assert_eq!(
            labels.take(RowLogits::All(logits)),
            Err(SampleError::NotFinite { token: 3 }.into())
        );
        assert_eq!(
            labels.take(RowLogits::Argmax(TokenId(1), WholeRow::new(|| Ok(Vec::new())))),
            Err(RowError::Unasked)
        );
    }
}
