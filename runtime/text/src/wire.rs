//! Reads the wire format of protocol buffers, as far as SentencePiece models use it.
//!
//! Foreign bytes: every length is checked against what is left, nothing is allocated on its word.

/// The bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WireError(&'static str);

impl WireError {
    pub(crate) fn new(message: &'static str) -> Self {
        Self(message)
    }
}

/// The value of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Number(u64),
    Word32(u32),
    Word64(u64),
    /// A string or a message of its own.
    Bytes(&'a [u8]),
}

/// The fields of a message, in the order of the file. Ends after the first error.
pub(crate) fn fields(message: &[u8]) -> impl Iterator<Item = Result<(u64, Value<'_>), WireError>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = read_field(&mut rest);
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

/// The text of a string field.
pub(crate) fn text(bytes: &[u8]) -> Result<String, WireError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| WireError("a text is not UTF-8"))
}

fn read_field<'a>(rest: &mut &'a [u8]) -> Result<(u64, Value<'a>), WireError> {
    let key = read_number(rest)?;
    let value = match key & 7 {
        0 => Value::Number(read_number(rest)?),
        1 => Value::Word64(u64::from_le_bytes(read_array(rest)?)),
        2 => {
            let length = usize::try_from(read_number(rest)?)
                .map_err(|_| WireError("a length does not fit this machine"))?;
            Value::Bytes(read_bytes(rest, length)?)
        }
        5 => Value::Word32(u32::from_le_bytes(read_array(rest)?)),
        _ => return Err(WireError("a field has a wire type that does not exist")),
    };
    Ok((key >> 3, value))
}

fn read_number(rest: &mut &[u8]) -> Result<u64, WireError> {
    let mut number = 0;
    for shift in (0..70).step_by(7) {
        let [byte] = read_array(rest)?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(WireError("a number is longer than 64 bits"))
}

fn read_array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], WireError> {
    let (head, tail) = rest.split_first_chunk().ok_or(WireError("the file ends inside a field"))?;
    *rest = tail;
    Ok(*head)
}

fn read_bytes<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], WireError> {
    let (head, tail) =
        rest.split_at_checked(length).ok_or(WireError("the file ends inside a field"))?;
    *rest = tail;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_in_order_with_their_values() {
        let message = [0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x1d, 0, 0, 0x80, 0x3f];
        let read: Vec<_> = fields(&message).collect();
        assert_eq!(
            read,
            [
                Ok((1, Value::Number(150))),
                Ok((2, Value::Bytes(b"hi"))),
                Ok((3, Value::Word32(1.0f32.to_bits()))),
            ]
        );
    }

    #[test]
    fn forged_lengths_are_errors() {
        for message in [
            &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01][..],
            &[0x12, 3, 1, 2],
            &[0x08, 0x80],
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x0b],
            &[0x0d, 1, 2],
        ] {
            let read: Vec<_> = fields(message).collect();
            assert!(matches!(read.as_slice(), [Err(_)]), "{message:?} gave {read:?}");
        }
    }
}
