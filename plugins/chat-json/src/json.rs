//! Foreign bytes to a JSON value, with limits.
//!
//! Stricter than JSON's grammar where a difference between two readers could hide something:
//! a key may occur once in an object. Depth and the number of values are limited while reading,
//! so that a small body cannot become a large tree.

use std::cell::Cell;
use std::fmt;

use protocol::Fault;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Levels of nested objects and lists that a body may have.
pub const DEPTH_MAX: usize = 32;

/// Values, counted at every level, that a body may have.
pub const VALUES_MAX: usize = 131_072;

/// Under this key `serde_json` hands over a number whose digits it keeps.
const NUMBER_KEY: &str = "$serde_json::private::Number";

/// Reads one JSON value.
///
/// Errors: `BadRequest` for anything that is not one JSON value in UTF-8, for a key that occurs
/// twice in an object, and beyond [`DEPTH_MAX`] and [`VALUES_MAX`].
pub fn parse_json(body: &[u8]) -> Result<Value, Fault> {
    let values_left = Cell::new(VALUES_MAX);
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = Tree { depth: 0, values_left: &values_left }
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value));
    value.map_err(|error| {
        let mut message = format!("the body is not usable JSON: {error}");
        if message.contains("hex escape") {
            message.push_str("; surrogates come in pairs");
        }
        Fault::bad_request(message)
    })
}

/// Reads one value at `depth` levels below the body.
#[derive(Clone, Copy)]
struct Tree<'a> {
    depth: usize,
    values_left: &'a Cell<usize>,
}

impl Tree<'_> {
    fn below<E: Error>(self) -> Result<Self, E> {
        if self.depth == DEPTH_MAX {
            return Err(E::custom(format_args!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        let Some(left) = self.values_left.get().checked_sub(1) else {
            return Err(D::Error::custom(format_args!("more than {VALUES_MAX} values")));
        };
        self.values_left.set(left);
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(below)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.is_empty() && key == NUMBER_KEY {
                let digits: String = entries.next_value()?;
                return digits
                    .parse()
                    .map(Value::Number)
                    .map_err(|_| A::Error::custom("not a number"));
            }
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!(
                    "the key {} occurs twice in one object",
                    crate::fields::spelled(&key)
                )));
            }
            let value = entries.next_value_seed(self.below()?)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::FaultCode;

    fn message(body: &[u8]) -> String {
        let fault = parse_json(body).expect_err("must be refused");
        assert_eq!(fault.code, FaultCode::BadRequest);
        fault.message
    }

    fn nested(levels: usize) -> Vec<u8> {
        [vec![b'['; levels], vec![b']'; levels]].concat()
    }

    #[test]
    fn numbers_and_key_order_survive_as_written() {
        let text = r#"{"b":1.50,"a":[-0,12345678901234567890123,1e+400],"c":{"d":null,"e":true}}"#;
        assert_eq!(parse_json(text.as_bytes()).unwrap().to_string(), text);
    }

    #[test]
    fn a_body_is_as_deep_as_the_limit_and_no_deeper() {
        assert!(parse_json(&nested(DEPTH_MAX)).is_ok());
        assert!(message(&nested(DEPTH_MAX + 1)).contains("32 levels"));
        assert!(message(&vec![b'['; 4 << 20]).contains("32 levels"));
    }

    #[test]
    fn a_body_has_as_many_values_as_the_limit_and_no_more() {
        let list = |count: usize| format!("[{}]", vec!["0"; count].join(","));
        assert!(parse_json(list(VALUES_MAX - 1).as_bytes()).is_ok());
        assert!(message(list(VALUES_MAX).as_bytes()).contains("131072 values"));
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        assert!(message(br#"{"a":1,"\u0061":2}"#).contains("'a' occurs twice"));
        assert!(
            message(br#"{"a":[{"x y":1,"x y":2}]}"#).contains("key (unprintable) occurs twice")
        );
        for text in [r#""\ud800""#, r#""\ud800\u0041""#, r#""\udc00""#, r#""\ud800x""#] {
            assert!(message(text.as_bytes()).contains("surrogates come in pairs"), "{text}");
        }
        assert!(message(b"\"\xff\"").contains("unicode"));
        for text in ["NaN", "[Infinity]", "{\"a\":-Infinity}", "", "{", "{} {}", "'a'", "[1,]"] {
            assert!(message(text.as_bytes()).contains("not usable JSON"), "{text}");
        }
    }

    #[test]
    fn a_forged_number_is_a_number_or_refused() {
        let forged = |inner: &str| format!("{{\"{NUMBER_KEY}\":{inner}}}");
        assert_eq!(parse_json(forged("\"7\"").as_bytes()).unwrap(), Value::from(7));
        assert!(parse_json(forged("\"seven\"").as_bytes()).is_err());
        assert!(parse_json(forged("\"7\",\"a\":1").as_bytes()).is_err());
    }
}
