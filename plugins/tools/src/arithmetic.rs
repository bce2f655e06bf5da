//! Arithmetic expressions: a grammar of four levels, read and computed in one pass.
//!
//! ```text
//! sum     = product { ("+" | "-") product }
//! product = signed { ("*" | "/" | "%") signed }
//! signed  = ("+" | "-") signed | power
//! power   = atom [ "^" signed ]
//! atom    = number | name [ "(" sum { "," sum } ")" ] | "(" sum ")"
//! ```
//!
//! Numbers are f64; `^` binds to the right and before a sign, as in mathematics: `-2^2` is -4.

/// A longer expression is refused.
const CHARACTERS_MAX: usize = 1024;
/// Parentheses, signs and powers inside each other.
const DEPTH_MAX: u32 = 64;

type Unary = fn(f64) -> f64;

const FUNCTIONS: &[(&str, Unary)] = &[
    ("abs", f64::abs),
    ("sqrt", f64::sqrt),
    ("round", f64::round),
    ("floor", f64::floor),
    ("ceil", f64::ceil),
    ("ln", f64::ln),
    ("log10", f64::log10),
    ("exp", f64::exp),
    ("sin", f64::sin),
    ("cos", f64::cos),
    ("tan", f64::tan),
];

/// The value of an expression.
///
/// Errors: what is wrong and at which character, from 1.
pub(crate) fn evaluate(expression: &str) -> Result<f64, String> {
    let characters: Vec<char> = expression.chars().take(CHARACTERS_MAX + 1).collect();
    if characters.len() > CHARACTERS_MAX {
        return Err(format!("the expression is over {CHARACTERS_MAX} characters"));
    }
    let mut parser = Parser { characters, at: 0, depth: 0 };
    let value = parser.sum()?;
    match parser.peek() {
        None => Ok(value),
        Some(character) => Err(parser.error(&format!("unexpected {character:?}"))),
    }
}

/// The value: whole numbers exactly, others in at most 15 digits, which hides that 0.1 has no
/// exact binary form.
pub(crate) fn text(value: f64) -> String {
    /// From here on not every whole number is an f64.
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= WHOLE_MAX {
        // Adding zero turns the negative zero into the common one.
        return format!("{:.0}", value + 0.0);
    }
    let rounded: f64 = format!("{value:.14e}").parse().unwrap_or(value);
    match (1e-6..1e16).contains(&rounded.abs()) {
        true => format!("{rounded}"),
        false => format!("{rounded:e}"),
    }
}

struct Parser {
    characters: Vec<char>,
    at: usize,
    depth: u32,
}

impl Parser {
    fn sum(&mut self) -> Result<f64, String> {
        let mut value = self.product()?;
        while let Some(sign) = self.accept(&['+', '-', '−']) {
            let right = self.product()?;
            value = self.finite(if sign == '+' { value + right } else { value - right })?;
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<f64, String> {
        let mut value = self.signed()?;
        while let Some(operator) = self.accept(&['*', '×', '·', '/', '÷', '%']) {
            let place = self.at;
            let right = self.signed()?;
            let multiplies = matches!(operator, '*' | '×' | '·');
            if !multiplies && right == 0.0 {
                return Err(format!("division by zero at character {place}"));
            }
            value = self.finite(match operator {
                _ if multiplies => value * right,
                '%' => value % right,
                _ => value / right,
            })?;
        }
        Ok(value)
    }

    fn signed(&mut self) -> Result<f64, String> {
        self.deeper(|parser| match parser.accept(&['+', '-', '−']) {
            Some('+') => parser.signed(),
            Some(_) => Ok(-parser.signed()?),
            None => parser.power(),
        })
    }

    fn power(&mut self) -> Result<f64, String> {
        let base = self.atom()?;
        match self.accept(&['^']) {
            None => Ok(base),
            Some(_) => {
                let exponent = self.signed()?;
                self.finite(base.powf(exponent))
            }
        }
    }

    fn atom(&mut self) -> Result<f64, String> {
        match self.peek() {
            Some('(') => {
                self.at += 1;
                let value = self.sum()?;
                self.expect(')')?;
                Ok(value)
            }
            Some(character) if character.is_ascii_digit() || character == '.' => self.number(),
            Some(character) if character.is_ascii_alphabetic() => self.named(),
            Some(character) => Err(self.error(&format!("unexpected {character:?}"))),
            None => Err(self.error("the expression ends here, a number is missing")),
        }
    }

    fn number(&mut self) -> Result<f64, String> {
        let start = self.at;
        let digits = |parser: &mut Self| {
            while parser.here().is_some_and(|c| c.is_ascii_digit() || c == '.') {
                parser.at += 1;
            }
        };
        digits(self);
        // An exponent only where digits follow: `2e` is 2 and a name.
        let sign = usize::from(matches!(self.characters.get(self.at + 1), Some('+' | '-')));
        let exponent = self.characters.get(self.at + 1 + sign);
        if matches!(self.here(), Some('e' | 'E')) && exponent.is_some_and(char::is_ascii_digit) {
            self.at += 1 + sign;
            digits(self);
        }
        let text: String = self.characters[start..self.at].iter().collect();
        match text.parse::<f64>() {
            Ok(value) => self.finite(value),
            Err(_) => Err(format!("{text} at character {} is no number", start + 1)),
        }
    }

    fn named(&mut self) -> Result<f64, String> {
        let start = self.at;
        while self.here().is_some_and(|c| c.is_ascii_alphanumeric()) {
            self.at += 1;
        }
        let name: String = self.characters[start..self.at].iter().collect();
        match name.as_str() {
            "pi" => return Ok(std::f64::consts::PI),
            "e" => return Ok(std::f64::consts::E),
            _ => {}
        }
        let function = FUNCTIONS.iter().find(|(known, _)| *known == name);
        if function.is_none() && name != "min" && name != "max" {
            return Err(format!("unknown name {name} at character {}", start + 1));
        }
        self.expect('(')?;
        let mut value = self.sum()?;
        match function {
            Some((_, compute)) => value = compute(value),
            None => {
                while self.accept(&[',', ';']).is_some() {
                    let other = self.sum()?;
                    value = if name == "min" { value.min(other) } else { value.max(other) };
                }
            }
        }
        self.expect(')')?;
        self.finite(value)
    }

    /// Bounds how deep the program's own stack grows.
    fn deeper(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<f64, String>,
    ) -> Result<f64, String> {
        if self.depth == DEPTH_MAX {
            return Err(self.error(&format!("more than {DEPTH_MAX} levels")));
        }
        self.depth += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn finite(&self, value: f64) -> Result<f64, String> {
        match value.is_finite() {
            true => Ok(value),
            false => Err(format!("there is no such number before character {}", self.at + 1)),
        }
    }

    fn here(&self) -> Option<char> {
        self.characters.get(self.at).copied()
    }

    /// The next character that is no space.
    fn peek(&mut self) -> Option<char> {
        while self.here().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
        self.here()
    }

    fn accept(&mut self, wanted: &[char]) -> Option<char> {
        let found = self.peek().filter(|character| wanted.contains(character))?;
        self.at += 1;
        Some(found)
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        match self.accept(&[wanted]) {
            Some(_) => Ok(()),
            None => Err(self.error(&format!("{wanted:?} is missing"))),
        }
    }

    fn error(&self, message: &str) -> String {
        format!("{message} at character {}", self.at + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn expressions_mean_what_mathematics_says() {
        let cases = [
            ("6 * 7", "42"),
            ("1 + 2 * 3", "7"),
            ("(1 + 2) * 3", "9"),
            ("10 - 4 - 3", "3"),
            ("100 / 10 / 5", "2"),
            ("2 ^ 3 ^ 2", "512"),
            ("-2 ^ 2", "-4"),
            ("2 ^ -1", "0.5"),
            ("--3", "3"),
            ("7 % 4 * 2", "6"),
            ("0.1 + 0.2", "0.3"),
            ("1 / 3", "0.333333333333333"),
            (".5 + 5.", "5.5"),
            ("1e3 + 2E-1", "1000.2"),
            ("2 ^ 53", "9007199254740992"),
            ("1e300", "1e300"),
            ("sqrt(2) ^ 2", "2"),
            ("max(1, min(5, 3), 2)", "3"),
            ("round(pi * 100) / 100", "3.14"),
            ("ln(e)", "1"),
            ("3 × 4 ÷ 2 − 1", "5"),
            ("1 - 1", "0"),
            ("0 * -1", "0"),
        ];
        for (expression, expected) in cases {
            let value = evaluate(expression).map(text);
            assert_eq!(value.as_deref(), Ok(expected), "{expression}");
        }
    }

    #[test]
    fn mistakes_name_their_place() {
        let cases = [
            ("", "the expression ends here, a number is missing at character 1"),
            ("1 +", "the expression ends here, a number is missing at character 4"),
            ("1 2", "unexpected '2' at character 3"),
            ("(1", "')' is missing at character 3"),
            ("1.2.3", "1.2.3 at character 1 is no number"),
            ("1 / (2 - 2)", "division by zero at character 3"),
            ("sqrt(-1)", "there is no such number before character 9"),
            ("9 ^ 9 ^ 9", "there is no such number before character 10"),
            ("system(1)", "unknown name system at character 1"),
            ("sqrt 2", "'(' is missing at character 6"),
            ("2 $ 3", "unexpected '$' at character 3"),
        ];
        for (expression, message) in cases {
            assert_eq!(evaluate(expression), Err(message.to_owned()), "{expression:?}");
        }
    }

    #[test]
    fn size_and_depth_are_bounded() {
        assert!(evaluate(&"1+".repeat(600)).unwrap_err().contains("over 1024 characters"));
        assert!(evaluate(&"(".repeat(1000)).unwrap_err().contains("more than 64 levels"));
        assert!(evaluate(&"-".repeat(1000)).unwrap_err().contains("more than 64 levels"));
        assert!(evaluate(&format!("1{}", "^1".repeat(500))).unwrap_err().contains("64 levels"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9a-z+*/%^(), .−-]{0,80}|\\PC{0,40}") {
            let _value = evaluate(&text);
        }

        #[test]
        fn sums_and_products_agree_with_the_machine(a in -1e6..1e6f64, b in 1.0..1e3f64) {
            prop_assert_eq!(evaluate(&format!("({a}) + {b} * {b} / {b}")), Ok(a + b * b / b));
        }
    }
}
