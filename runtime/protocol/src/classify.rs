//! What is asked and answered when a text is to be put under one of several labels.

/// What is to be done with a request's input.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Task {
    /// Continue it.
    #[default]
    Generate,
    /// Say how well each of some labels continues it.
    Classify(Classify),
}

/// How an input is classified.
#[derive(Debug, Clone, PartialEq)]
pub struct Classify {
    /// The texts to choose from; empty where a configured classifier has them.
    pub labels: Vec<String>,
    /// Which question of a configured classifier is asked; empty where the request brings labels.
    pub target: String,
    /// What the model is told to decide; `None` for a general wording.
    pub instruction: Option<String>,
    /// Takes away what the model says of an input without content.
    pub calibrate: bool,
    /// Divides the labels' log-probabilities before they are normalised; 1 does nothing.
    pub temperature: f64,
    /// A best score below this is no decision; 0 decides always.
    pub abstain_below: f64,
}

impl Classify {
    /// Labels of a question, at most.
    pub const LABELS_MAX: usize = 256;

    /// These labels, with every default.
    pub fn new(labels: Vec<String>) -> Self {
        Self {
            labels,
            target: String::new(),
            instruction: None,
            calibrate: false,
            temperature: 1.0,
            abstain_below: 0.0,
        }
    }
}

/// How well each label fits.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores {
    /// In the order of the request's labels.
    pub labels: Vec<LabelScore>,
    /// The best score is below what was asked for.
    pub abstained: bool,
}

/// One label's score.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelScore {
    /// The label.
    pub label: String,
    /// Natural logarithm of the probability that the model answers exactly this.
    pub log_probability: f64,
    /// Its share among the labels, 0 to 1.
    pub score: f64,
}

impl Scores {
    /// Scores that add up to 1, from logarithms of weights.
    pub fn of_logs(labels: impl IntoIterator<Item = (String, f64)>) -> Self {
        let score = |(label, log_probability)| LabelScore { label, log_probability, score: 0.0 };
        let mut scores = Self { labels: labels.into_iter().map(score).collect(), abstained: false };
        let logs: Vec<f64> = scores.labels.iter().map(|label| label.log_probability).collect();
        scores.share(&logs);
        scores
    }

    /// Shares 1 among the labels by these logarithms of weights, one for each.
    pub fn share(&mut self, logs: &[f64]) {
        // The greatest weight becomes 1, so that no sum is 0 or infinite.
        let greatest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = logs.iter().map(|log| (log - greatest).exp()).sum();
        for (label, log) in self.labels.iter_mut().zip(logs) {
            label.score = (log - greatest).exp() / total;
        }
    }

    /// The label of the best score, the first of them where several are; `None` without labels.
    pub fn best(&self) -> Option<&LabelScore> {
        let better = |best: &'_ &LabelScore, other: &&LabelScore| other.score > best.score;
        self.labels.iter().reduce(|best, other| if better(&best, &other) { other } else { best })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_shares_however_small_the_probabilities() {
        let logs = [("a", -900.0), ("b", -900.0 - 3f64.ln()), ("c", f64::MIN / 2.0)];
        let scores = Scores::of_logs(logs.map(|(label, log)| (label.to_owned(), log)));
        let found: Vec<f64> = scores.labels.iter().map(|label| label.score).collect();
        assert!((found[0] - 0.75).abs() < 1e-12 && (found[1] - 0.25).abs() < 1e-12, "{found:?}");
        assert_eq!(found[2], 0.0);
        assert_eq!(scores.best().map(|best| best.label.as_str()), Some("a"));
        assert_eq!(Scores::default().best(), None);
    }
}
