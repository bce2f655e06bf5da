//! Bodies that are refused, and with which words.

use chat_json::{Chat, Strictness, fault_body, parse_chat};
use expect_test::expect;
use protocol::{Fault, FaultCode, RequestId};
use serde_json::{Value, json};

const ID: &str = "0123456789abcdef0123456789abcdef";

fn lenient(body: &Value) -> Result<Chat, Fault> {
    parse_chat(body.to_string().as_bytes(), RequestId(ID.into()), Strictness::Lenient)
}

/// A smallest body with more members.
fn with(more: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    let (Value::Object(body_members), Value::Object(more)) = (&mut body, more) else {
        panic!("members must be an object");
    };
    body_members.extend(more);
    body
}

#[test]
fn every_bad_body_says_what_is_wrong_and_where() {
    let tool = |function: Value| json!({"tools": [{"type": "function", "function": function}]});
    let message = |message: Value| json!({"messages": [message]});
    let many = |count: usize, item: Value| Value::Array(vec![item; count]);
    let table = [
        json!({"messages": null}),
        json!({"messages": []}),
        json!({"messages": "hi"}),
        json!({"messages": ["hi"]}),
        json!({"messages": many(1025, json!({"role": "user", "content": "x"}))}),
        message(json!({"content": "x"})),
        message(json!({"role": "wizard", "content": "x"})),
        message(json!({"role": "system"})),
        message(json!({"role": "user", "content": 7})),
        message(json!({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]})),
        message(json!({"role": "user", "content": [{"type": "text"}]})),
        message(
            json!({"role": "user", "content": many(257, json!({"type": "text", "text": "x"}))}),
        ),
        message(json!({"role": "tool", "tool_call_id": "x"})),
        message(json!({"role": "assistant", "tool_calls": [{"id": "x"}]})),
        message(
            json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}),
        ),
        message(json!({"role": "assistant", "function_call": {"name": "f"}})),
        json!({"model": 7}),
        json!({"model": "m".repeat(257)}),
        json!({"temperature": -1}),
        json!({"temperature": 2.1}),
        json!({"temperature": "hot"}),
        json!({"top_p": 1.5}),
        json!({"presence_penalty": 3}),
        json!({"max_tokens": -1}),
        json!({"max_tokens": 1.5}),
        json!({"max_tokens": 4294967296_u64}),
        json!({"max_tokens": 1, "max_completion_tokens": 2}),
        json!({"random_seed": -1}),
        json!({"random_seed": 1, "seed": 2}),
        json!({"stop": [""]}),
        json!({"stop": [1]}),
        json!({"stop": many(65, json!("x"))}),
        json!({"stop": "x".repeat(1025)}),
        json!({"stream": 1}),
        json!({"n": 0}),
        json!({"n": 17}),
        json!({"n": 2, "prediction": {"type": "content", "content": "x"}}),
        json!({"logprobs": 1}),
        json!({"top_logprobs": 5}),
        json!({"logprobs": false, "top_logprobs": 5}),
        json!({"logprobs": true, "top_logprobs": 21}),
        json!({"logit_bias": {"x": 1}}),
        json!({"logit_bias": {"1": 101}}),
        json!({"temperature": 2.0000000000000004}),
        json!({"safe_prompt": "yes"}),
        json!({"metadata": "x"}),
        json!({"prompt_cache_key": 7}),
        json!({"service_tier": 7}),
        json!({"prompt_mode": "poetry"}),
        json!({"prediction": {"type": "content", "content": [{"type": "image_url", "text": "x"}]}}),
        json!({"prompt_mode": "reasoning"}),
        json!({"reasoning_effort": "high"}),
        json!({"guardrails": [{}]}),
        json!({"functions": []}),
        json!({"tools": many(129, json!({"type": "function"}))}),
        json!({"tools": [{"type": "web_search"}]}),
        tool(json!({"parameters": {}})),
        tool(json!({"name": "f", "parameters": "x"})),
        json!({"tool_choice": "sometimes"}),
        json!({"response_format": {"type": "yaml"}}),
        json!({"response_format": {"type": "json_schema"}}),
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
    ];
    let lines: Vec<_> = table
        .into_iter()
        .map(|more| {
            let fault = lenient(&with(more)).expect_err("must be refused");
            let message = &fault.message;
            assert!(fault.param.is_some_and(|param| message.contains(&param)), "{message}");
            format!("{} {message}", fault.code.status())
        })
        .collect();
    expect![[r#"
        422 messages: field required
        400 messages: a conversation has at least one message
        422 messages: must be a list, not a string
        422 messages[0]: must be an object, not a string
        422 messages: 1025 items; at most 1024 are accepted
        422 messages[0].role: field required
        422 messages[0].role: must be system, user, assistant or tool
        422 messages[0].content: field required
        422 messages[0].content: must be a string or a list of chunks, not a number
        400 messages[0].content[0].type: image_url chunks cannot be read by a text model; send text
        422 messages[0].content[0].text: field required
        422 messages[0].content: 257 items; at most 256 are accepted
        422 messages[0].content: field required
        422 messages[0].tool_calls[0].function: field required
        422 messages[0].tool_calls[0].function.arguments: must be JSON text or an object, not a list
        400 messages[0].function_call: use tool_calls
        422 model: must be a string, not a number
        422 model: longer than 256 bytes
        422 temperature: must be between 0 and 2
        422 temperature: must be between 0 and 2
        422 temperature: must be a number, not a string
        422 top_p: must be between 0 and 1
        422 presence_penalty: must be between -2 and 2
        422 max_tokens: must be a whole number between 0 and 4294967295
        422 max_tokens: must be a whole number between 0 and 4294967295
        422 max_tokens: must be a whole number between 0 and 4294967295
        422 max_completion_tokens: max_tokens and max_completion_tokens contradict each other; send one
        422 random_seed: must be a whole number between 0 and 9223372036854775807
        422 seed: random_seed and seed contradict each other; send one
        422 stop[0]: must not be empty
        422 stop[0]: must be a string, not a number
        422 stop: 65 items; at most 64 are accepted
        422 stop: longer than 1024 bytes
        422 stream: must be true or false, not a number
        422 n: must be a whole number between 1 and 16
        422 n: must be a whole number between 1 and 16
        422 n: must be 1 where there is a prediction
        422 logprobs: must be true or false, not a number
        422 top_logprobs: needs logprobs to be true
        422 top_logprobs: needs logprobs to be true
        422 top_logprobs: must be a whole number between 0 and 20
        422 logit_bias: keys must be token ids in digits
        422 logit_bias: values must be between -100 and 100
        422 temperature: must be between 0 and 2
        422 safe_prompt: must be true or false, not a string
        422 metadata: must be an object, not a string
        422 prompt_cache_key: must be a string, not a number
        422 service_tier: must be a string, not a number
        422 prompt_mode: must be reasoning or null
        400 prediction.content[0].type: image_url chunks cannot be read by a text model; send text
        400 prompt_mode: this model has no reasoning mode
        400 reasoning_effort: this model has no reasoning mode
        400 guardrails: no guardrails are configurable per request
        400 functions: use tools
        422 tools: 129 items; at most 128 are accepted
        400 tools[0].type: only function tools are known
        422 tools[0].function.name: field required
        422 tools[0].function.parameters: must be a JSON Schema, not a string
        422 tool_choice: must be auto, none, any, required or a function
        422 response_format.type: must be text, json_object, json_schema, regex, grammar or choice
        422 response_format.json_schema: field required
        422 response_format.json_schema.schema: field required"#]].assert_eq(&lines.join("\n"));
}

#[test]
fn bytes_that_are_no_object_are_a_bad_request() {
    for body in
        [&b""[..], b"[]", b"null", b"{", b"\xff", b"{\"messages\":NaN}", b"{\"a\":1,\"a\":1}"]
    {
        let fault = parse_chat(body, RequestId(ID.into()), Strictness::Lenient).unwrap_err();
        assert_eq!((fault.code, fault.param), (FaultCode::BadRequest, None));
    }
}

#[test]
fn no_damage_to_a_body_makes_the_reader_panic() {
    let body = with(json!({"stop": ["\u{e9}"], "temperature": 0.7, "ext": {"id": "a", "ttl_s": 1},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": [1e3, null]}}}],
        "messages": [{"role": "assistant", "content": [{"type": "text", "text": "\"\\u00e9"}],
            "tool_calls": [{"id": "call_1", "function": {"name": "f", "arguments": {}}}]}]}))
    .to_string()
    .into_bytes();
    let read = |bytes: &[u8]| {
        let id = RequestId(ID.into());
        if let Err(fault) = parse_chat(bytes, id, Strictness::Lenient) {
            assert!(!fault.message.is_empty());
            fault_body(&fault);
        }
    };
    read(&body);
    for end in 0..body.len() {
        read(&body[..end]);
    }
    // Every byte replaced by each that means something to JSON, or to nobody.
    for at in 0..body.len() {
        for byte in *b"{}[]\",:0-e\\u\0\xff t" {
            let mut damaged = body.clone();
            damaged[at] = byte;
            read(&damaged);
        }
    }
}

#[test]
fn no_fault_repeats_what_the_client_wrote() {
    let secret = "hunter2 is the password";
    for more in [
        json!({"temperature": secret}),
        json!({"stop": {secret: 1}}),
        json!({"messages": [{"role": secret}]}),
        json!({"messages": secret}),
        json!({"tool_choice": secret}),
        json!({"response_format": {"type": secret}}),
        json!({"ext": {secret: 1}}),
        json!({"logit_bias": {secret: 1}}),
    ] {
        let fault = lenient(&with(more)).unwrap_err();
        assert!(!fault_body(&fault).to_string().contains("hunter2"), "{fault:?}");
    }
    let twice = format!("{{\"{secret}\":1,\"{secret}\":2}}");
    let fault =
        parse_chat(twice.as_bytes(), RequestId(ID.into()), Strictness::Lenient).unwrap_err();
    assert!(!fault.message.contains("hunter2"), "{fault:?}");
}
