//! Cuts text into the words inside which tekken merges.
//!
//! The rule is one regular expression with a look-ahead, the same in every published `tekken.json`.
//! Its alternatives are written out here as a scan over classes of characters: an engine for
//! expressions took 19 µs a character on text of mixed scripts, and megabytes of states; the scan is
//! linear in the text, whatever somebody sends. The classes come from `regex-syntax`, so a character
//! is a letter here exactly if it is one there.

use regex_syntax::hir::{Class, HirKind};

use crate::TextError;

/// The rule, as files state it.
pub(crate) const PATTERN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// The expressions of the classes, each with its bit; every character has one class.
const CLASSES: [(&str, u8); 7] = [
    (r"[\p{Lu}\p{Lt}]", UPPER),
    (r"\p{Ll}", LOWER),
    (r"[\p{Lm}\p{Lo}]", CASELESS),
    (r"\p{M}", MARK),
    (r"\p{N}", NUMBER),
    (r"[\s--[\r\n]]", SPACE),
    (r"[\r\n]", LINE_BREAK),
];
const UPPER: u8 = 1;
const LOWER: u8 = 2;
const CASELESS: u8 = 4;
const MARK: u8 = 8;
const NUMBER: u8 = 16;
const SPACE: u8 = 32;
const LINE_BREAK: u8 = 64;
const OTHER: u8 = 128;

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
const HEAD: u8 = UPPER | CASELESS | MARK;
/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
const TAIL: u8 = LOWER | CASELESS | MARK;
/// `[^\r\n\p{L}\p{N}]`
const LEAD: u8 = MARK | SPACE | OTHER;
/// `[^\s\p{L}\p{N}]`
const SIGN: u8 = MARK | OTHER;
const WHITE: u8 = SPACE | LINE_BREAK;

/// Characters below this have their class in a table.
const TABLE_CHARACTERS: usize = 0x1_0000;

/// The scan, with the classes of all characters.
#[derive(Debug)]
pub(crate) struct Words {
    table: Box<[u8]>,
    /// First and last character, and class, of what lies above the table, in order.
    ranges: Vec<(u32, u32, u8)>,
}

impl Words {
    pub(crate) fn new() -> Result<Self, TextError> {
        let mut table = vec![OTHER; TABLE_CHARACTERS].into_boxed_slice();
        let mut ranges = Vec::new();
        for (expression, class) in CLASSES {
            for (first, last) in characters(expression)? {
                for code in first..=last.min(TABLE_CHARACTERS as u32 - 1) {
                    table[code as usize] = class;
                }
                if last as usize >= TABLE_CHARACTERS {
                    ranges.push((first, last, class));
                }
            }
        }
        ranges.sort_unstable();
        Ok(Self { table, ranges })
    }

    /// Gives every word of `text` in order; together they are the text.
    pub(crate) fn cut<'a>(&self, text: &'a str, mut each: impl FnMut(&'a str)) {
        let mut rest = text;
        while !rest.is_empty() {
            let (word, behind) = rest.split_at(self.first_word(rest));
            each(word);
            rest = behind;
        }
    }

    fn class(&self, character: char) -> u8 {
        let code = u32::from(character);
        if let Some(&class) = self.table.get(code as usize) {
            return class;
        }
        let place = self.ranges.partition_point(|&(_, last, _)| last < code);
        self.ranges.get(place).filter(|range| range.0 <= code).map_or(OTHER, |range| range.2)
    }

    /// Bytes at the beginning of `text` whose characters are of these classes.
    fn run(&self, text: &str, classes: u8) -> usize {
        text.find(|character| self.class(character) & classes == 0).unwrap_or(text.len())
    }

    /// The bytes of the first word: the alternatives of the rule, in their order.
    fn first_word(&self, text: &str) -> usize {
        let Some(first) = text.chars().next() else {
            return 0;
        };
        let class = self.class(first);
        let lead = if class & LEAD == 0 { 0 } else { first.len_utf8() };
        // `X?` takes the character first and goes without where the rest then fails.
        let starts = [lead, 0];
        let starts = if lead == 0 { &starts[..1] } else { &starts[..] };
        let lower = starts.iter().find_map(|&at| Some(at + self.lower_word(&text[at..])?));
        let upper = || starts.iter().find_map(|&at| Some(at + self.upper_word(&text[at..])?));
        if let Some(length) = lower.or_else(upper) {
            return length;
        }
        if class == NUMBER {
            return first.len_utf8();
        }
        let signs = usize::from(first == ' ');
        let length = signs + self.run(&text[signs..], SIGN);
        if length > signs {
            let is_tail = |character| matches!(character, '\r' | '\n' | '/');
            return text.len() - text[length..].trim_start_matches(is_tail).len();
        }
        self.white_word(text)
    }

    /// `[HEAD]*[TAIL]+`: the tail behind the head, or what the head gives back.
    fn lower_word(&self, text: &str) -> Option<usize> {
        let head = self.run(text, HEAD);
        let tail = self.run(&text[head..], TAIL);
        if tail > 0 {
            return Some(head + tail);
        }
        let last = text[..head].rfind(|character| self.class(character) & TAIL != 0)?;
        Some(last + text[last..].chars().next().map_or(0, char::len_utf8))
    }

    /// `[HEAD]+[TAIL]*`
    fn upper_word(&self, text: &str) -> Option<usize> {
        let head = self.run(text, HEAD);
        (head > 0).then(|| head + self.run(&text[head..], TAIL))
    }

    /// `\s*[\r\n]+|\s+(?!\S)|\s+`
    fn white_word(&self, text: &str) -> usize {
        let white = self.run(text, WHITE);
        if let Some(last) = text[..white].rfind(['\r', '\n']) {
            return last + 1;
        }
        let last = text[..white].chars().next_back().map_or(0, char::len_utf8);
        if white < text.len() && white > last { white - last } else { white }
    }
}

fn characters(expression: &str) -> Result<Vec<(u32, u32)>, TextError> {
    let parsed = regex_syntax::parse(expression)
        .map_err(|error| TextError::malformed("table of character classes", error.to_string()))?;
    let HirKind::Class(Class::Unicode(class)) = parsed.kind() else {
        return Err(TextError::malformed("table of character classes", "it is not of characters"));
    };
    Ok(class.iter().map(|range| (u32::from(range.start()), u32::from(range.end()))).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    static WORDS: LazyLock<Words> = LazyLock::new(|| Words::new().unwrap());
    /// The rule without its look-ahead, which the engine lacks.
    static RULE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(&PATTERN.replace(r"|\s+(?!\S)", "")).unwrap());

    fn words(text: &str) -> Vec<&str> {
        let mut words = Vec::new();
        WORDS.cut(text, |word| words.push(word));
        words
    }

    fn words_by_rule(text: &str) -> Vec<&str> {
        let (mut words, mut at) = (Vec::new(), 0);
        while let Some(found) = RULE.find_at(text, at) {
            let mut word = found.as_str();
            let is_run = word.chars().all(|c| c.is_whitespace() && !matches!(c, '\r' | '\n'));
            if is_run && found.end() < text.len() && word.chars().count() > 1 {
                word = &word[..word.len() - word.chars().next_back().unwrap().len_utf8()];
            }
            words.push(word);
            at += word.len();
        }
        words
    }

    #[test]
    fn words_are_cut_by_the_rule() {
        for (text, expected) in [
            ("Hello wORLD's  x", &["Hello", " w", "ORLD", "'s", " ", " x"][..]),
            ("a1 23//\r\n/x", &["a", "1", " ", "2", "3", "//\r\n/", "x"]),
            ("  \n \n  end  ", &["  \n \n", " ", " end", "  "]),
            ("中AB\u{301}c", &["中AB\u{301}c"]),
            ("AB中CD", &["AB中", "CD"]),
        ] {
            assert_eq!(words(text), expected);
            assert_eq!(words_by_rule(text), expected);
        }
    }

    proptest! {
        #[test]
        fn scan_and_rule_agree(text in "([ \t\r\n/]{0,3}([aBǅʰ中\u{301}1²_/.😀 \u{3000}]|\\PC){0,5}){0,6}") {
            prop_assert_eq!(words(&text), words_by_rule(&text));
            prop_assert_eq!(words(&text).concat(), text);
        }
    }
}
