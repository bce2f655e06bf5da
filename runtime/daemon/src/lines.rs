//! JSON lines: one question a line in, one answer a line out, each with the question's id.

use std::io::{BufRead, Write};

use protocol::{Fault, TokenId};
use serde_json::{Value, json};

use crate::error::AssembleError;

/// Longest line that is read, in bytes.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// Answers each line of `input` on a line of `output`, in order; empty lines are skipped.
///
/// The answer is an object; the question's `id` is put before its keys.
pub(crate) fn answer_lines(
    input: &mut dyn BufRead,
    output: &mut dyn Write,
    mut answer: impl FnMut(&Value) -> Value,
) -> Result<(), AssembleError> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = read_line(input, &mut line)?;
        if read == 0 {
            return Ok(output.flush()?);
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let (id, body) = match serde_json::from_slice::<Value>(&line) {
            Ok(question) => (question["id"].clone(), answer(&question)),
            Err(error) => (Value::Null, json!({ "error": format!("not a JSON line: {error}") })),
        };
        let mut reply = serde_json::Map::new();
        reply.insert("id".into(), id);
        if let Value::Object(body) = body {
            reply.extend(body);
        }
        serde_json::to_writer(&mut *output, &reply).map_err(std::io::Error::from)?;
        output.write_all(b"\n")?;
    }
}

fn read_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> Result<usize, AssembleError> {
    let read = std::io::Read::take(&mut *input, LINE_BYTES_MAX).read_until(b'\n', line)?;
    if read as u64 == LINE_BYTES_MAX && line.last() != Some(&b'\n') {
        return Err(AssembleError::Input {
            message: format!("a line is longer than {LINE_BYTES_MAX} bytes; split the input"),
        });
    }
    Ok(read)
}

/// The `tokens` of a question: an array of ids that fit 32 bits.
pub(crate) fn tokens_of(line: &Value) -> Result<Vec<TokenId>, Fault> {
    let wrong = || Fault::bad_request("\"tokens\" must be an array of token ids");
    line["tokens"]
        .as_array()
        .ok_or_else(wrong)?
        .iter()
        .map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()).map(TokenId).ok_or_else(wrong))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: &str) {
        let mut output = Vec::new();
        answer_lines(&mut input.as_bytes(), &mut output, |line| match tokens_of(line) {
            Ok(tokens) => json!({ "count": tokens.len() }),
            Err(fault) => json!({ "error": fault.message }),
        })
        .unwrap();
        assert_eq!(String::from_utf8(output).unwrap(), expected);
    }

    #[test]
    fn every_line_is_answered_in_order_with_its_id() {
        check(
            "{\"id\":\"a\",\"tokens\":[1,2]}\n\n{\"id\":7,\"tokens\":[]}",
            "{\"id\":\"a\",\"count\":2}\n{\"id\":7,\"count\":0}\n",
        );
    }

    #[test]
    fn a_bad_line_is_answered_and_does_not_end_the_run() {
        check(
            "{\"id\":\"a\",\"tokens\":[-1]}\n{\"id\":\"b\",\"tokens\":[1]}\n",
            "{\"id\":\"a\",\"error\":\"\\\"tokens\\\" must be an array of token ids\"}\n{\"id\":\"b\",\"count\":1}\n",
        );
    }
}
