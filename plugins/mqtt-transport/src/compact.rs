//! Messages for clients whose buffer holds 256 bytes, header and topic included, as the common
//! library for microcontrollers does: what a client can do without goes until they fit.

use serde_json::Value;

/// A packet of 3.1.1 that such a client can read.
const PACKET_BYTES_MAX: usize = 256;
/// Fixed header, length of the topic, packet id, and the byte that the library keeps back.
const FRAME_BYTES: usize = 9;
/// Least room, however long a topic is.
const ROOM_BYTES_MIN: usize = 32;

/// Bytes of payload that fit beside a topic.
pub(crate) fn room(topic: &str) -> usize {
    PACKET_BYTES_MAX.saturating_sub(FRAME_BYTES + topic.len()).max(ROOM_BYTES_MIN)
}

/// Takes from the end of an answer what can be done without, as long as `written` is more than
/// `room`. Calls of functions stay, whatever they take.
pub(crate) fn shrink_end(body: &mut Value, room: usize, written: impl Fn(&Value) -> usize) {
    let steps: [fn(&mut Value); 6] = [
        |body| keep_counts(&mut body["usage"]),
        |body| remove(body, &["id", "created"]),
        |body| {
            let choice = &mut body["choices"][0];
            remove(choice, &["index", "logprobs"]);
            let message = choice["message"].as_object();
            if message.is_some_and(|message| message.keys().all(|key| key == "role")) {
                remove(choice, &["message"]);
            }
        },
        |body| remove(body, &["object"]),
        |body| remove(body, &["usage"]),
        |body| remove(body, &["model"]),
    ];
    for step in steps {
        if written(body) <= room {
            return;
        }
        step(body);
    }
}

/// Cuts the words of an error until it fits.
pub(crate) fn shrink_fault(body: &mut Value, room: usize) {
    if body.to_string().len() > room {
        // Mistral's form says beside `error` what stands in it.
        remove(body, &["object", "message", "type", "param", "code", "raw_status_code"]);
    }
    for key in ["param", "type"] {
        if body.to_string().len() > room {
            remove(&mut body["error"], &[key]);
        }
    }
    let over = body.to_string().len().saturating_sub(room);
    if let Value::String(message) = &mut body["error"]["message"]
        && over > 0
    {
        message.truncate(message.floor_char_boundary(message.len().saturating_sub(over)));
    }
}

fn keep_counts(usage: &mut Value) {
    if let Some(usage) = usage.as_object_mut() {
        usage.retain(|_, count| count.is_number());
    }
}

fn remove(value: &mut Value, keys: &[&str]) {
    if let Some(object) = value.as_object_mut() {
        object.retain(|key, _| !keys.contains(&key.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn end() -> Value {
        json!({
            "id": "x".repeat(36), "object": "chat.completion", "created": 1_700_000_000,
            "model": "mistral-7b-instruct-v0.3",
            "choices": [{"index": 0, "message": {"role": "assistant"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "total_tokens": 5, "prompt_tokens_details": {"a": 1}},
        })
    }

    #[test]
    fn an_end_loses_what_it_must_and_no_more() {
        let written = |body: &Value| body.to_string().len();
        let mut whole = end();
        shrink_end(&mut whole, 1000, written);
        assert_eq!(whole, end());
        let mut small = end();
        shrink_end(&mut small, 150, written);
        assert!(written(&small) <= 150, "{small}");
        assert_eq!(small["choices"][0]["finish_reason"], "stop");
        assert_eq!(small["usage"]["total_tokens"], 5);
        let mut least = end();
        shrink_end(&mut least, 0, written);
        assert_eq!(least, json!({"choices": [{"finish_reason": "stop"}]}));
    }

    #[test]
    fn calls_stay_whatever_they_take() {
        let mut body = end();
        body["choices"][0]["message"]["tool_calls"] = json!([{"id": "abc"}]);
        shrink_end(&mut body, 0, |body| body.to_string().len());
        assert_eq!(body["choices"][0]["message"]["tool_calls"][0]["id"], "abc");
    }

    #[test]
    fn an_error_is_cut_at_a_character() {
        let fault = json!({"error": {
            "message": "é".repeat(200), "type": "t", "param": "ext.mode", "code": "bad_request",
        }});
        for room in [120, 121, 200] {
            let mut small = fault.clone();
            shrink_fault(&mut small, room);
            assert!(small.to_string().len() <= room);
            assert!(small["error"]["message"].as_str().is_some_and(|text| text.len() > 40));
            assert_eq!(small["error"]["code"], "bad_request");
        }
    }

    #[test]
    fn the_room_is_what_the_topic_leaves() {
        assert_eq!(room("zonda/v1/plant1/client/plc7/reply/17/end"), 256 - 9 - 40);
        assert_eq!(room(&"x".repeat(300)), ROOM_BYTES_MIN);
    }
}
