//! Texts that end an answer.

use crate::TextError;

/// Texts that one request may name.
pub const STOPS_MAX: usize = 16;
/// Bytes of one of them; so much text is held back at most.
pub const STOP_BYTES_MAX: usize = 256;

/// The stop texts of one request, within their limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stops(Vec<String>);

impl Stops {
    /// Checks number and length.
    ///
    /// Errors: more than [`STOPS_MAX`] texts, an empty one, or one over [`STOP_BYTES_MAX`] bytes.
    pub fn new(texts: &[String]) -> Result<Self, TextError> {
        if texts.len() > STOPS_MAX {
            return Err(TextError::rule(
                "stop",
                format!("stop has {} texts, the limit is {STOPS_MAX}", texts.len()),
            ));
        }
        for (index, text) in texts.iter().enumerate() {
            if text.is_empty() || text.len() > STOP_BYTES_MAX {
                return Err(TextError::rule(
                    "stop",
                    format!(
                        "stop[{index}] has {} bytes, allowed are 1 to {STOP_BYTES_MAX}",
                        text.len()
                    ),
                ));
            }
        }
        Ok(Self(texts.to_vec()))
    }

    /// The texts.
    pub fn texts(&self) -> &[String] {
        &self.0
    }

    /// Where the first of them begins in `text`.
    pub(crate) fn find(&self, text: &str) -> Option<usize> {
        self.0.iter().filter_map(|stop| text.find(stop.as_str())).min()
    }

    /// How many bytes at the end of `text` may be the beginning of one of them.
    pub(crate) fn begun(&self, text: &str) -> usize {
        let begun = |stop: &String| {
            let longest = text.len().min(stop.len() - 1);
            (1..=longest).rev().find(|&bytes| text.as_bytes().ends_with(&stop.as_bytes()[..bytes]))
        };
        self.0.iter().filter_map(begun).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_stated_in_the_error() {
        let many = vec!["x".to_owned(); STOPS_MAX + 1];
        let long = vec!["x".repeat(STOP_BYTES_MAX + 1)];
        for texts in [many, long, vec![String::new()]] {
            assert!(
                matches!(Stops::new(&texts), Err(TextError::Rule { param, .. }) if param == "stop")
            );
        }
    }

    #[test]
    fn begun_is_the_longest_possible_beginning() {
        let stops = Stops::new(&["</end>".into(), "<<".into(), "é!".into()]).unwrap();
        assert_eq!(stops.begun("text</en"), 4);
        assert_eq!(stops.begun("text<"), 1);
        assert_eq!(stops.begun("texté"), 2);
        assert_eq!(stops.begun("text"), 0);
        assert_eq!(stops.find("a<<b</end>"), Some(1));
    }
}
