//! What a client's Lark grammar must not ask for.
//!
//! The compiler's dialect reaches further than grammars: to tokens by number, to schemas with
//! options of their own, to sampling. Only what describes a text goes through.

use super::{LITERAL_BYTES_MAX, patterns};

/// Nesting of brackets; the compiler recurses.
const DEPTH_MAX: usize = 64;
/// Terminals that are intersected; the compiler's work is the product of them all.
const ANDS_MAX: usize = 4;

/// Checks a grammar before it is compiled.
///
/// Errors: what is not supported, as the end of a sentence.
pub(super) fn check(grammar: &str) -> Result<(), String> {
    let (mut depth, mut ands) = (0usize, 0usize);
    let mut rest = grammar;
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '/' if rest.starts_with("//") => line(rest),
            quote @ ('"' | '/') => {
                let bytes = quoted(rest, quote);
                if bytes > LITERAL_BYTES_MAX {
                    return Err(format!(
                        "has a terminal of {bytes} bytes, the limit is {LITERAL_BYTES_MAX}"
                    ));
                }
                if quote == '/' {
                    patterns::check_repeats(rest[..bytes].trim_matches('/'))?;
                }
                bytes
            }
            '#' => line(rest),
            '<' => {
                return Err("names tokens (<…>), which is not supported; write text".into());
            }
            '@' => {
                return Err("refers to another grammar (@…), which is not supported".into());
            }
            '=' => {
                return Err("has attributes of a rule (such as stop= or max_tokens=), which are \
                     not supported"
                    .into());
            }
            '%' => {
                let word = rest[1..].split(|c: char| !c.is_ascii_alphanumeric()).next();
                let word = word.unwrap_or_default();
                if !matches!(word, "ignore" | "import" | "regex") {
                    return Err(format!("has %{word:.16}, which is not supported"));
                }
                1 + word.len()
            }
            '&' => {
                ands += 1;
                if ands > ANDS_MAX {
                    return Err(format!("has more than {ANDS_MAX} intersections (&)"));
                }
                1
            }
            '(' | '[' | '{' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(format!("nests brackets deeper than {DEPTH_MAX}"));
                }
                1
            }
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                1
            }
            other => other.len_utf8(),
        };
        rest = &rest[taken..];
    }
    Ok(())
}

/// Bytes up to the end of the line.
fn line(text: &str) -> usize {
    text.find('\n').unwrap_or(text.len())
}

/// Bytes of a quoted text, its quotes included.
fn quoted(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammars_of_text_go_through() {
        for grammar in [
            "start: \"a\" | B\nB: /[<@=%]+/i // <x> @y z=1\n",
            "start: (\"x\" \",\"?)~1..3 # %json\n%ignore / +/",
            "%import common.INT\nstart: INT[\"\\\"<a>\"]",
        ] {
            assert_eq!(check(grammar), Ok(()), "{grammar}");
        }
    }

    #[test]
    fn what_reaches_further_is_refused() {
        for grammar in [
            "start: <[1]>",
            "start: \"a\" <|tool|>",
            "start: @other",
            "start[stop=\"x\"]: /a*/",
            "start[max_tokens = 3]: /a*/",
            "start: %json {}",
            "%llguidance {\"allow_invalid_utf8\": true}\nstart: \"a\"",
            "start: /a\\/<b/ <x>",
            &format!("start: {}\"a\"", "(".repeat(100)),
            "start: T\nT: /a/ & /a/ & /a/ & /a/ & /a/ & /a/",
            &format!("start: \"{}\"", "a".repeat(LITERAL_BYTES_MAX)),
            "start: /((a{100}){100}){100}/",
        ] {
            assert!(check(grammar).is_err(), "{grammar}");
        }
    }
}
