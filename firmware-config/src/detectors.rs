//! Detectors: networks that watch numbers which machines publish.

use std::time::Duration;

use crate::Origin;
use crate::reader::Reader;

/// Most topics of one detector.
const TOPICS_MAX: usize = 16;
/// Longest topic, in bytes.
const TOPIC_BYTES_MAX: usize = 512;
/// Longest prompt, in bytes.
const PROMPT_BYTES_MAX: usize = 16 << 10;
/// What may stand in a prompt for what was found.
const PLACEHOLDERS: [&str; 5] = ["detector", "topic", "score", "threshold", "values"];

/// What a detector listens to, and when it gives alarm.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectorConfig {
    /// MQTT topics, each a stream of numbers by itself.
    pub topics: Vec<String>,
    /// Where in a JSON payload the number stands (RFC 6901); `None` for bare numbers.
    pub field: Option<String>,
    /// Numbers that the network reads at once; `None` where its file states it.
    pub window: Option<u32>,
    /// Numbers between two looks; `None` for a quarter of the window.
    pub stride: Option<u32>,
    /// A score that reaches it is odd.
    pub threshold: f64,
    /// A score below it is normal again.
    pub clear_below: f64,
    /// Odd scores in a row that raise the alarm.
    pub raise_after: u32,
    /// Normal scores in a row that end it.
    pub clear_after: u32,
    /// An alarm lasts at least this long.
    pub hold: Duration,
    /// Numbers of one topic in a second, at most; more are dropped.
    pub rate_max: u32,
    /// What the model is asked when an alarm begins.
    pub prompt: Option<String>,
    /// Tokens of its answer, at most.
    pub prompt_tokens_max: u32,
}

/// Reads the keys of the role; `None` where one is missing or wrong.
pub(crate) fn read(reader: &mut Reader, origin: &Origin) -> Option<DetectorConfig> {
    let topics = reader.texts("topics", "a topic without + and #", TOPICS_MAX, is_topic);
    let field = reader.text("field", "a JSON pointer such as \"/value\"", |text| {
        text.len() <= TOPIC_BYTES_MAX && (text.is_empty() || text.starts_with('/'))
    });
    let window = numbers(reader, "window", 2..=4096);
    let stride = numbers(reader, "stride", 1..=4096);
    let threshold = reader.number("threshold", -1e12..=1e12);
    let clear_below = reader.number("clear_below", -1e12..=1e12);
    let raise_after = reader.count("raise_after", 2, 1..=1000);
    let clear_after = reader.count("clear_after", 2, 1..=1000);
    let hold = reader.milliseconds("hold_ms", 60_000, 0..=86_400_000);
    let rate_max = reader.count("rate_max", 100, 1..=10_000);
    let expected = format!("a text whose placeholders are among {{{}}}", PLACEHOLDERS.join("}, {"));
    let prompt = reader.text("prompt", &expected, is_template);
    let prompt_tokens_max = reader.count("prompt_tokens_max", 128, 1..=8192);
    if !reader.problems.is_empty() {
        return None;
    }
    let repeated = (1..topics.len()).any(|at| topics[..at].contains(&topics[at]));
    let wrong = match threshold {
        _ if topics.is_empty() => Some("topics is missing: where the numbers are published"),
        _ if repeated => Some("topics: one is there twice"),
        None => Some("threshold is missing: a score that reaches it is odd"),
        Some(threshold) if clear_below.is_some_and(|clear| clear > threshold) => {
            Some("clear_below is greater than threshold")
        }
        Some(_) => None,
    };
    if let Some(wrong) = wrong {
        reader.problem(origin.clone(), wrong);
        return None;
    }
    let threshold = threshold?;
    Some(DetectorConfig {
        topics,
        field,
        window,
        stride,
        threshold,
        clear_below: clear_below.unwrap_or(threshold),
        raise_after,
        clear_after,
        hold,
        rate_max,
        prompt,
        prompt_tokens_max,
    })
}

/// A detector's name is a level of topics.
pub(crate) fn is_level(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// A whole number that may be left out.
fn numbers(reader: &mut Reader, key: &str, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
    // 0 stands for what is left out, and is outside every range here.
    let wide = 0..=*range.end();
    let found = reader.count(key, 0, wide);
    if found == 0 || range.contains(&found) {
        return (found != 0).then_some(found);
    }
    let origin = reader.origin_of(key);
    reader.problem(origin, format!("{key} is {} to {}", range.start(), range.end()));
    None
}

fn is_topic(topic: &str) -> bool {
    (1..=TOPIC_BYTES_MAX).contains(&topic.len())
        && !topic.starts_with('$')
        && !topic.contains(|c: char| c == '+' || c == '#' || c.is_control())
}

/// Whether every brace of a prompt belongs to a placeholder that is known.
fn is_template(text: &str) -> bool {
    if text.is_empty() || text.len() > PROMPT_BYTES_MAX {
        return false;
    }
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let Some(inside) = rest[at..].strip_prefix('{') else { return false };
        let Some((name, tail)) = inside.split_once('}') else { return false };
        if !PLACEHOLDERS.contains(&name) {
            return false;
        }
        rest = tail;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_name_what_is_known() {
        assert!(is_template("Why is {topic} odd? {score} of {threshold}: {values}"));
        assert!(is_template("no placeholder"));
        for wrong in ["", "{", "}", "{}", "{topic", "{Topic}", "{{topic}}", "a } b {topic}"] {
            assert!(!is_template(wrong), "{wrong}");
        }
    }

    #[test]
    fn topics_have_no_wildcards() {
        assert!(is_topic("plant/pump/1/vibration") && is_topic("a b"));
        for wrong in ["", "a/#", "+/a", "$SYS/x", "a\u{0}b"] {
            assert!(!is_topic(wrong), "{wrong}");
        }
    }
}
