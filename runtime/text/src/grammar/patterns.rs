//! Regular expressions, looked at before a compiler that knows no JavaScript gets them.

use regex_syntax::ast::parse::Parser;
use regex_syntax::hir::{Hir, HirKind};

/// Bytes of one pattern of a schema; most have less than 100.
const PATTERN_BYTES_MAX: usize = 8 << 10;
/// Times that a part has to be repeated; the compiler writes forced text out.
const REPEATS_MAX: u64 = 10_000;

/// JavaScript's white space; the compiler's has U+0085 and lacks U+FEFF.
const SPACES: &str =
    r"\t-\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}";

/// A pattern of a schema, JavaScript's by the standard, in the compiler's words.
///
/// Errors: what keeps it from meaning the same, as the end of a sentence.
pub(super) fn translated(pattern: &str) -> Result<String, String> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(format!("has {} bytes, the limit is {PATTERN_BYTES_MAX}", pattern.len()));
    }
    if has_flags(pattern) {
        return Err("sets flags, which is not supported".into());
    }
    let translated = translate(pattern)?;
    parse(&translated)?;
    check_repeats(&translated)?;
    // The compiler forgets control characters of a literal that it cannot escape.
    let spelled = llguidance::regex_to_lark(&translated, "dw");
    let hir = regex_syntax::parse(&spelled).map_err(|_| "is not supported".to_owned())?;
    if has_control(&hir) {
        return Err("has control characters, which is not supported".into());
    }
    Ok(translated)
}

/// Whether a text has a character that JSON spells by number only.
pub(super) fn is_unspeakable(text: &str) -> bool {
    text.bytes().any(is_unspeakable_byte)
}

fn is_unspeakable_byte(byte: u8) -> bool {
    byte.is_ascii_control() && !matches!(byte, 8 | b'\t' | b'\n' | 12 | b'\r')
}

fn has_control(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Literal(literal) => literal.0.iter().any(|&byte| is_unspeakable_byte(byte)),
        HirKind::Repetition(repetition) => has_control(&repetition.sub),
        HirKind::Capture(capture) => has_control(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().any(has_control),
        HirKind::Empty | HirKind::Class(_) | HirKind::Look(_) => false,
    }
}

/// Whether repetitions inside each other stay within what the compiler can write out.
pub(super) fn check_repeats(regex: &str) -> Result<(), String> {
    let Ok(hir) = regex_syntax::parse(regex) else {
        return Ok(());
    };
    match repeats(&hir) {
        times if times > REPEATS_MAX => Err(format!(
            "repeats a part {times} times, the limit is {REPEATS_MAX}; use smaller numbers"
        )),
        _ => Ok(()),
    }
}

/// How often the most repeated part has to come.
fn repeats(hir: &Hir) -> u64 {
    match hir.kind() {
        HirKind::Repetition(repetition) => {
            u64::from(repetition.min.max(1)).saturating_mul(repeats(&repetition.sub))
        }
        HirKind::Capture(capture) => repeats(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            parts.iter().map(repeats).max().unwrap_or(1)
        }
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => 1,
    }
}

/// Whether a regular expression can be matched against a whole text. Anchors around it do no harm.
///
/// Errors: it is none, as the end of a sentence.
pub(super) fn check_whole(regex: &str) -> Result<(), String> {
    if regex.is_empty() {
        return Err("is empty".into());
    }
    parse(regex)?;
    check_repeats(regex)
}

fn parse(pattern: &str) -> Result<(), String> {
    Parser::new().parse(pattern).map(drop).map_err(|error| {
        let (kind, at) = (error.kind(), error.span().start.offset);
        format!("is not supported: {kind} (at byte {at})")
    })
}

/// A group that is no more than one may set flags: `(?i)`, `(?x:…)`.
fn has_flags(pattern: &str) -> bool {
    let is_flag = |rest: &str| {
        rest.starts_with(|first: char| first.is_ascii_alphabetic() || first == '-')
            && !rest.starts_with("P<")
    };
    pattern.match_indices("(?").any(|(at, _)| is_flag(&pattern[at + 2..]))
}

/// Spells white space out. Brackets and double signs inside a class nest and subtract for the
/// compiler, and are characters in JavaScript.
fn translate(pattern: &str) -> Result<String, String> {
    let mut translated = String::with_capacity(pattern.len());
    let mut in_class = false;
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                match characters.next() {
                    Some('s') if in_class => translated.push_str(SPACES),
                    Some('s') => translated.extend(["[", SPACES, "]"]),
                    Some('S') => translated.extend(["[^", SPACES, "]"]),
                    Some(other) => translated.extend(['\\', other]),
                    None => translated.push('\\'),
                }
                continue;
            }
            '[' if in_class => {
                return Err("has a bracket inside a class; write it with a backslash".into());
            }
            '[' => {
                in_class = true;
                translated.push('[');
                translated.extend(characters.next_if_eq(&'^'));
                if characters.peek() == Some(&']') {
                    return Err("has an empty class, which is not supported".into());
                }
                continue;
            }
            ']' => in_class = false,
            '&' | '-' | '~' if in_class && characters.peek() == Some(&character) => {
                return Err(format!("has {character}{character} inside a class; write it once"));
            }
            _ => {}
        }
        translated.push(character);
    }
    Ok(translated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_expressions_are_refused() {
        for regex in ["", "(a", r"a\", "*", "[a", "((a{100}){100}){100}"] {
            assert!(check_whole(regex).is_err(), "{regex}");
        }
        assert_eq!(check_whole(r"(?i)^a/\d+$|\x{e9}"), Ok(()));
    }

    #[test]
    fn patterns_that_mean_something_else_are_refused() {
        for pattern in [
            "[a&&b]",
            "[a[b]]",
            "[]a]",
            "[^]",
            "(?i)a",
            "(?s:.)",
            "a\\",
            "(",
            "[a--b]",
            "a\u{1}b",
            r"(a\x7fb)+",
        ] {
            assert!(translated(pattern).is_err(), "{pattern}");
        }
        for pattern in [
            "^[a-z-]+$",
            r"[\[\]]",
            "(?:a|b){2,3}",
            r"\d+\.\d",
            "(?<n>a)",
            "(?P<n>a)",
            r"[\x00-\x20]\n",
        ] {
            assert_eq!(translated(pattern).as_deref(), Ok(pattern));
        }
        let long = "a".repeat(PATTERN_BYTES_MAX + 1);
        assert!(translated(&long).unwrap_err().contains("limit"));
    }

    #[test]
    fn white_space_is_that_of_javascript() {
        for (pattern, fits, fits_not) in [
            (r"^\s$", "\u{feff}", "\u{85}"),
            (r"^\S$", "\u{85}", "\u{feff}"),
            (r"^[\sa]$", " ", "b"),
            (r"^[^\s]$", "b", "\u{2003}"),
            (r"^[\Sx]$", "a", "\n"),
        ] {
            let regex = regex::Regex::new(&translated(pattern).unwrap()).unwrap();
            assert!(regex.is_match(fits) && !regex.is_match(fits_not), "{pattern}");
        }
    }
}
