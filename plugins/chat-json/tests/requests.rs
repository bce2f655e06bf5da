//! Bodies of requests in both dialects: what is understood.

use chat_json::{Chat, Dialect, Mode, Strictness, fault_body, parse_chat, parse_fill};
use expect_test::expect;
use protocol::{Fault, FaultCode, Format, Input, Message, RequestId, ToolChoice};
use serde_json::{Value, json};

const ID: &str = "0123456789abcdef0123456789abcdef";

fn lenient(body: &Value) -> Result<Chat, Fault> {
    parse_chat(body.to_string().as_bytes(), RequestId(ID.into()), Strictness::Lenient)
}

fn strict(body: &Value) -> Result<Chat, Fault> {
    parse_chat(body.to_string().as_bytes(), RequestId(ID.into()), Strictness::MistralStrict)
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

fn messages(chat: &Chat) -> &[Message] {
    match &chat.request.input {
        Input::Chat(messages) => messages,
        other => panic!("not a chat: {other:?}"),
    }
}

#[test]
fn a_mistral_body_is_understood() {
    let chat = strict(&json!({
        "model": "mistral-small-2402",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "", "tool_calls": [
                {"id": "D681PevKs", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}, "index": 0}]},
            {"role": "tool", "tool_call_id": "D681PevKs", "name": "f", "content": "1"},
            {"role": "assistant", "content": "The answer", "prefix": true},
        ],
        "temperature": 0.7, "top_p": 0.9, "max_tokens": 16, "stop": ["\n\n", "END"], "random_seed": 7,
        "stream": true, "n": 1, "presence_penalty": 0.5, "frequency_penalty": -0.5,
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "strict": true,
            "parameters": {"type": "object", "properties": {"z": {}, "a": {}}}}}],
        "tool_choice": "any", "parallel_tool_calls": true,
        "response_format": {"type": "text"}, "safe_prompt": false, "metadata": {"k": "v"},
    }))
    .unwrap();
    expect![[r#"
        Chat {
            request: Request {
                id: RequestId(
                    "0123456789abcdef0123456789abcdef",
                ),
                model: "mistral-small-2402",
                client: None,
                task: Generate,
                input: Chat(
                    [
                        System {
                            content: [
                                "Be brief.",
                            ],
                        },
                        User {
                            content: [
                                "a",
                                "b",
                            ],
                        },
                        Assistant {
                            content: Some(
                                [
                                    "",
                                ],
                            ),
                            tool_calls: [
                                ToolCall {
                                    id: "D681PevKs",
                                    name: "f",
                                    arguments: "{\"x\": 1}",
                                },
                            ],
                            prefix: false,
                        },
                        Tool {
                            content: [
                                "1",
                            ],
                            call_id: Some(
                                "D681PevKs",
                            ),
                            name: Some(
                                "f",
                            ),
                        },
                        Assistant {
                            content: Some(
                                [
                                    "The answer",
                                ],
                            ),
                            tool_calls: [],
                            prefix: true,
                        },
                    ],
                ),
                sampling: Sampling {
                    temperature: Some(
                        0.7,
                    ),
                    top_p: 0.9,
                    typical_p: 1.0,
                    top_k: 0,
                    min_p: 0.0,
                    presence_penalty: 0.5,
                    frequency_penalty: -0.5,
                    repetition_penalty: 1.0,
                    seed: Some(
                        7,
                    ),
                    bias: [],
                    logprobs: None,
                },
                format: Free,
                tools: [
                    ToolSpec {
                        name: "f",
                        description: "d",
                        parameters: Object {
                            "type": String("object"),
                            "properties": Object {
                                "z": Object {},
                                "a": Object {},
                            },
                        },
                        strict: true,
                    },
                ],
                tool_choice: Any,
                approved_calls: [],
                parallel_tool_calls: true,
                prediction: None,
                limits: Limits {
                    max_tokens: Some(
                        16,
                    ),
                    min_tokens: 0,
                    stop: [
                        "\n\n",
                        "END",
                    ],
                    deadline: None,
                    priority: Normal,
                },
                explains_reuse: false,
            },
            answers: 1,
            stream: true,
            include_usage: false,
            dialect: Mistral,
            ignored: [],
            ext: Ext {
                id: None,
                reply_to: None,
                ttl_s: None,
                priority: Normal,
                approved_calls: [],
                explain: false,
                flush_ms: None,
                mode: Delta,
                max_reply_bytes: None,
                cancel_on_offline: None,
                accept_stale: false,
                hops: 0,
            },
            prefix_text: Some(
                "The answer",
            ),
            legacy: None,
        }
    "#]]
    .assert_debug_eq(&chat);
}

#[test]
fn an_openai_body_is_understood() {
    let chat = lenient(&json!({
        "model": "gpt-4o",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "hi", "name": "eve"},
        ],
        "temperature": 2, "max_completion_tokens": 16.0, "stop": "END", "seed": -1, "stream": true,
        "stream_options": {"include_usage": true}, "logit_bias": {"7": -100, "8": 1.5}, "user": "u",
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_object"}, "parallel_tool_calls": false, "logprobs": true,
        "top_logprobs": 2, "n": 3,
        "top_k": 40, "typical_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.1,
    }))
    .unwrap();
    expect![[r#"
        Chat {
            request: Request {
                id: RequestId(
                    "0123456789abcdef0123456789abcdef",
                ),
                model: "gpt-4o",
                client: None,
                task: Generate,
                input: Chat(
                    [
                        System {
                            content: [
                                "Be brief.",
                            ],
                        },
                        User {
                            content: [
                                "hi",
                            ],
                        },
                    ],
                ),
                sampling: Sampling {
                    temperature: Some(
                        2.0,
                    ),
                    top_p: 1.0,
                    typical_p: 0.95,
                    top_k: 40,
                    min_p: 0.05,
                    presence_penalty: 0.0,
                    frequency_penalty: 0.0,
                    repetition_penalty: 1.1,
                    seed: Some(
                        18446744073709551615,
                    ),
                    bias: [
                        (
                            TokenId(
                                7,
                            ),
                            -100.0,
                        ),
                        (
                            TokenId(
                                8,
                            ),
                            1.5,
                        ),
                    ],
                    logprobs: Some(
                        2,
                    ),
                },
                format: JsonObject,
                tools: [
                    ToolSpec {
                        name: "f",
                        description: "",
                        parameters: Object {
                            "type": String("object"),
                            "properties": Object {},
                        },
                        strict: false,
                    },
                ],
                tool_choice: Function(
                    "f",
                ),
                approved_calls: [],
                parallel_tool_calls: false,
                prediction: None,
                limits: Limits {
                    max_tokens: Some(
                        16,
                    ),
                    min_tokens: 0,
                    stop: [
                        "END",
                    ],
                    deadline: None,
                    priority: Normal,
                },
                explains_reuse: false,
            },
            answers: 3,
            stream: true,
            include_usage: true,
            dialect: OpenAi,
            ignored: [
                "user",
                "messages[1].name",
            ],
            ext: Ext {
                id: None,
                reply_to: None,
                ttl_s: None,
                priority: Normal,
                approved_calls: [],
                explain: false,
                flush_ms: None,
                mode: Delta,
                max_reply_bytes: None,
                cancel_on_offline: None,
                accept_stale: false,
                hops: 0,
            },
            prefix_text: None,
            legacy: None,
        }
    "#]]
    .assert_debug_eq(&chat);
}

#[test]
fn a_smallest_body_has_every_default() {
    let chat = lenient(&json!({"messages": [{"role": "user", "content": null}]})).unwrap();
    assert_eq!(messages(&chat), [Message::User { content: vec![] }]);
    assert_eq!(chat.request.model, "");
    assert_eq!(chat.request.sampling, protocol::Sampling::default());
    assert_eq!(chat.request.limits, protocol::Limits::default());
    assert_eq!(chat.request.tool_choice, ToolChoice::Auto);
    assert!(chat.request.parallel_tool_calls);
    assert!(!chat.stream && chat.ignored.is_empty() && chat.dialect == Dialect::Mistral);
    assert_eq!(lenient(&with(json!({"model": "default"}))).unwrap().request.model, "");
}

#[test]
fn null_is_as_good_as_absent() {
    let names = [
        "temperature",
        "top_p",
        "max_tokens",
        "stop",
        "random_seed",
        "seed",
        "stream",
        "n",
        "presence_penalty",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "prediction",
        "prompt_mode",
        "guardrails",
        "metadata",
        "stream_options",
        "logit_bias",
        "ext",
        "never_heard_of",
    ];
    let nulls = names.map(|name| (name.to_owned(), Value::Null)).into_iter().collect();
    let chat = lenient(&with(Value::Object(nulls))).unwrap();
    assert_eq!(chat.request.sampling, protocol::Sampling::default());
    assert!(chat.ignored.is_empty(), "{:?}", chat.ignored);
}

#[test]
fn foreign_call_ids_are_replaced_alike_in_call_and_result() {
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": [2]}}});
    let result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": "1"});
    let (openai, uuid) = ("call_abcdefghijklmnopqrstuvwx", "0198c1de-0000-7000-8000-000000000000");
    let chat = lenient(&with(json!({"messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": null, "refusal": null, "tool_calls": [call(openai), call(uuid), call("D681PevKs")]},
        result(openai), result(uuid), result("D681PevKs"),
    ]})))
    .unwrap();
    let [_, Message::Assistant { tool_calls, .. }, results @ ..] = messages(&chat) else {
        panic!("other messages");
    };
    let asked: Vec<_> = tool_calls.iter().map(|call| call.id.as_str()).collect();
    let answered: Vec<_> = results
        .iter()
        .map(|message| match message {
            Message::Tool { call_id: Some(id), .. } => id.as_str(),
            other => panic!("not a result: {other:?}"),
        })
        .collect();
    assert_eq!(asked, answered);
    assert_eq!(asked[2], "D681PevKs");
    assert!(asked.iter().all(|id| id.len() == 9));
    assert_eq!(tool_calls[0].arguments, r#"{"b":1,"a":[2]}"#);
}

#[test]
fn unknown_fields_are_listed_or_refused() {
    let body = with(json!({"user": "u", "store": true, "messages": [
        {"role": "user", "content": "hi", "name": "eve", "weird name": 1}]}));
    let chat = lenient(&body).unwrap();
    assert_eq!(chat.ignored, ["user", "store", "messages[0].name", "messages[0].(unprintable)"]);
    let fault = strict(&body).unwrap_err();
    assert_eq!(fault.param.as_deref(), Some("user"));
    let nested = with(json!({"messages": [{"role": "user", "content": "hi", "name": "eve"}]}));
    expect![[r#"
        {
          "object": "error",
          "message": "messages[0].name: Extra inputs are not permitted",
          "type": "invalid_request_error",
          "param": "messages[0].name",
          "code": "invalid_field",
          "raw_status_code": 422,
          "error": {
            "message": "messages[0].name: Extra inputs are not permitted",
            "type": "invalid_request_error",
            "param": "messages[0].name",
            "code": "invalid_field"
          },
          "detail": [
            {
              "type": "extra_forbidden",
              "loc": [
                "body",
                "messages",
                0,
                "name"
              ],
              "msg": "Extra inputs are not permitted"
            }
          ]
        }"#]]
    .assert_eq(&format!("{:#}", fault_body(&strict(&nested).unwrap_err())));
    let many = (0..1000).map(|n| (format!("field{n}"), json!(1))).collect();
    assert_eq!(lenient(&with(Value::Object(many))).unwrap().ignored.len(), 32);
}

#[test]
fn strict_refuses_what_only_openai_has() {
    for more in [
        json!({"seed": 1}),
        json!({"max_completion_tokens": 1}),
        json!({"stream_options": {"include_usage": true}}),
        json!({"temperature": 1.6}),
        json!({"messages": [{"role": "developer", "content": "x"}]}),
        json!({"tools": [{"type": "function", "function": {"name": "f"}}]}),
        json!({"top_k": 1}),
    ] {
        let body = with(more);
        assert!(lenient(&body).is_ok(), "{body}");
        assert_eq!(strict(&body).unwrap_err().code, FaultCode::InvalidField, "{body}");
    }
}

#[test]
fn formats_reach_the_request() {
    let format =
        |format: Value| lenient(&with(json!({"response_format": format}))).unwrap().request.format;
    let schema = json!({"type": "object"});
    assert_eq!(format(json!({"type": "text"})), Format::Free);
    assert_eq!(format(json!({"type": "json_object"})), Format::JsonObject);
    assert_eq!(
        format(
            json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": true}})
        ),
        Format::JsonSchema(schema)
    );
}

#[test]
fn ext_is_read_and_nothing_unknown_hides_in_it() {
    let ext = json!({"id": "0198-a.b_c", "reply_to": "zonda/v1/a/client/plc7/reply/17", "ttl_s": 120,
        "priority": "batch", "flush_ms": 50, "mode": "text", "max_reply_bytes": 255,
        "approved_calls": ["AbCd12345", "call_7"]});
    for chat in [lenient(&with(json!({"ext": ext}))), strict(&with(json!({"ext": ext})))] {
        let chat = chat.unwrap();
        assert_eq!(chat.ext.id.as_deref(), Some("0198-a.b_c"));
        assert_eq!(chat.ext.mode, Mode::Text);
        assert_eq!((chat.ext.ttl_s, chat.ext.flush_ms), (Some(120), Some(50)));
        assert_eq!(chat.ext.max_reply_bytes, Some(255));
        assert_eq!(chat.request.approved_calls[0], "AbCd12345");
        assert_eq!(chat.request.approved_calls[1].len(), 9, "as in the conversation");
        assert!(chat.request.limits.deadline.is_some());
        assert_eq!(chat.request.limits.priority, protocol::Priority::Batch);
        assert_eq!(chat.request.id.0, ID, "the transport names the request");
    }
    for (bad, param) in [
        (json!({"reply": "x"}), "ext.reply"),
        (json!({"id": ""}), "ext.id"),
        (json!({"id": "a/b"}), "ext.id"),
        (json!({"ttl_s": 0}), "ext.ttl_s"),
        (json!({"ttl_s": 1e9}), "ext.ttl_s"),
        (json!({"mode": "fast"}), "ext.mode"),
        (json!({"priority": "high"}), "ext.priority"),
        (json!({"reply_to": "a/#"}), "ext.reply_to"),
        (json!({"max_reply_bytes": 0}), "ext.max_reply_bytes"),
        (json!({"approved_calls": "AbCd12345"}), "ext.approved_calls"),
        (json!({"approved_calls": [1]}), "ext.approved_calls"),
        (json!({"approved_calls": vec!["AbCd12345"; 33]}), "ext.approved_calls"),
        (json!([]), "ext"),
    ] {
        let fault = lenient(&with(json!({"ext": bad}))).unwrap_err();
        assert_eq!((fault.code, fault.param.as_deref()), (FaultCode::InvalidField, Some(param)));
    }
}

#[test]
fn a_hole_is_understood() {
    let read =
        |body: &str| parse_fill(body.as_bytes(), RequestId(ID.into()), Strictness::MistralStrict);
    let chat = read(r#"{"model":"c","prompt":"def f(","suffix":"return 1","min_tokens":2,"max_tokens":8,"stream":true}"#).unwrap();
    assert_eq!(
        chat.request.input,
        Input::Fill { prefix: "def f(".into(), suffix: Some("return 1".into()) }
    );
    assert_eq!((chat.request.limits.min_tokens, chat.request.limits.max_tokens), (2, Some(8)));
    assert!(chat.stream);
    let open = read(r#"{"model":"c","prompt":""}"#).unwrap();
    assert_eq!(open.request.input, Input::Fill { prefix: String::new(), suffix: None });
    let fault = read(r#"{"model":"c","suffix":"x"}"#).unwrap_err();
    assert_eq!((fault.code, fault.param.as_deref()), (FaultCode::InvalidField, Some("prompt")));
    assert!(read(r#"{"model":"c","prompt":"x","messages":[]}"#).is_err());
}
