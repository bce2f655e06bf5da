//! What is asked and answered when texts are to be judged by categories.

use std::time::Instant;

use crate::Input;

/// Inputs whose categories are wanted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModerateRequest {
    /// The classifier's name; empty for the first one that has categories.
    pub model: String,
    /// Who asks, where the transport knows.
    pub client: Option<String>,
    /// In the order of the answer.
    pub inputs: Vec<Input>,
    /// Nobody wants the answer after this moment.
    pub deadline: Option<Instant>,
}

/// One verdict for each input.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Moderations {
    /// The classifier that judged.
    pub model: String,
    /// In the order of the inputs, each with every category of the classifier.
    pub results: Vec<Vec<CategoryScore>>,
    /// Tokens that were read, of all inputs together.
    pub prompt_tokens: u32,
}

/// How much an input is of a category.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CategoryScore {
    /// The category's name.
    pub category: String,
    /// 0 to 1.
    pub score: f64,
    /// The score reaches the category's threshold.
    pub is_flagged: bool,
}
