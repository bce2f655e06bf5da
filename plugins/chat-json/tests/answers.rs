//! Events to bodies, in both dialects.

use chat_json::{
    Answer, Chat, Choices, Strictness, fault_body, model_body, models_body, parse_chat,
};
use expect_test::{Expect, expect};
use protocol::{
    Description, Event, Fault, FaultCode, FinishReason, Likelihood, ModelCard, RequestId, Reuse,
    ReuseEnd, TokenId, TokenLogprob, ToolCall, Usage,
};
use serde_json::{Value, json};

fn chat(more: Value) -> Chat {
    let mut body = json!({"model": "alias", "messages": [{"role": "user", "content": "hi"}]});
    for (name, value) in more.as_object().expect("members") {
        body[name] = value.clone();
    }
    let id = RequestId("0123456789abcdef0123456789abcdef".into());
    parse_chat(body.to_string().as_bytes(), id, Strictness::Lenient).expect("a usable body")
}

fn accepted() -> Event {
    Event::Accepted {
        id: RequestId("0123456789abcdef0123456789abcdef".into()),
        model: "tiny".into(),
        prompt_tokens: 5,
        cached_tokens: 2,
    }
}

fn text(text: &str) -> Event {
    Event::text(text, 1)
}

fn call() -> Event {
    let (name, arguments) = ("lookup".into(), r#"{"city": "Pavia"}"#.into());
    Event::ToolCall(ToolCall { id: "D681PevKs".into(), name, arguments })
}

fn finished(reason: FinishReason) -> Event {
    let usage =
        Usage { prompt_tokens: 5, cached_tokens: 2, completion_tokens: 3, ..Usage::default() };
    Event::Finished { reason, usage }
}

/// One line for each chunk, then the whole.
fn check(chat: &Chat, events: &[Event], wanted: Expect) {
    let mut answer = Answer::new(chat, 1_700_000_000);
    let mut lines: Vec<_> =
        events.iter().flat_map(|event| answer.push(event)).map(|chunk| chunk.to_string()).collect();
    lines.push(format!("{:#}", answer.completion()));
    wanted.assert_eq(&lines.join("\n"));
}

#[test]
fn usage_tells_where_the_known_part_of_a_prompt_ends_when_asked() {
    let reuse =
        Reuse { cached_tokens: 2, end: ReuseEnd::Differs { token: 3 }, text: "light".into() };
    let mut answer = Answer::new(&chat(json!({"ext": {"explain": true}})), 1_700_000_000);
    for event in [accepted(), Event::Reused(reuse), finished(FinishReason::Stop)] {
        answer.push(&event);
    }
    assert_eq!(
        answer.completion()["usage"]["prompt_tokens_details"],
        json!({"cached_tokens": 2, "reuse": {"end": "differs", "token": 3, "text": "light"}})
    );
}

#[test]
fn mistral_gets_usage_on_its_last_chunk() {
    let events = [accepted(), text("Once"), text(""), text(" upon"), finished(FinishReason::Stop)];
    check(
        &chat(json!({})),
        &events,
        expect![[r#"
        {"id":"0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"tiny","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}
        {"id":"0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"tiny","choices":[{"index":0,"delta":{"content":"Once"},"finish_reason":null}],"usage":null}
        {"id":"0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"tiny","choices":[{"index":0,"delta":{"content":" upon"},"finish_reason":null}],"usage":null}
        {"id":"0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"tiny","choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8,"prompt_tokens_details":{"cached_tokens":2},"prompt_audio_seconds":null}}
        {
          "id": "0123456789abcdef0123456789abcdef",
          "object": "chat.completion",
          "created": 1700000000,
          "model": "tiny",
          "choices": [
            {
              "index": 0,
              "message": {
                "role": "assistant",
                "content": "Once upon",
                "tool_calls": null,
                "prefix": false
              },
              "finish_reason": "stop"
            }
          ],
          "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 3,
            "total_tokens": 8,
            "prompt_tokens_details": {
              "cached_tokens": 2
            },
            "prompt_audio_seconds": null
          }
        }"#]],
    );
}

#[test]
fn openai_gets_usage_in_a_chunk_of_its_own_when_it_asks() {
    let chat = chat(json!({"stream_options": {"include_usage": true}}));
    check(
        &chat,
        &[accepted(), text("Once"), finished(FinishReason::ModelLength)],
        expect![[r#"
            {"id":"0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"tiny","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null,"logprobs":null}],"usage":null}
            {"id":"0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"tiny","choices":[{"index":0,"delta":{"content":"Once"},"finish_reason":null,"logprobs":null}],"usage":null}
            {"id":"0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"tiny","choices":[{"index":0,"delta":{},"finish_reason":"length","logprobs":null}],"usage":null}
            {"id":"0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"tiny","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8,"prompt_tokens_details":{"cached_tokens":2}}}
            {
              "id": "0123456789abcdef0123456789abcdef",
              "object": "chat.completion",
              "created": 1700000000,
              "model": "tiny",
              "choices": [
                {
                  "index": 0,
                  "message": {
                    "role": "assistant",
                    "content": "Once",
                    "refusal": null
                  },
                  "finish_reason": "length",
                  "logprobs": null
                }
              ],
              "usage": {
                "prompt_tokens": 5,
                "completion_tokens": 3,
                "total_tokens": 8,
                "prompt_tokens_details": {
                  "cached_tokens": 2
                }
              }
            }"#]],
    );
}

#[test]
fn a_call_comes_whole_in_one_delta() {
    let events = [accepted(), call(), call(), finished(FinishReason::ToolCalls)];
    check(
        &chat(json!({})),
        &events,
        expect![[r#"
        {"id":"0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"tiny","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}
        {"id":"0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"tiny","choices":[{"index":0,"delta":{"tool_calls":[{"id":"D681PevKs","type":"function","function":{"name":"lookup","arguments":"{\"city\": \"Pavia\"}"},"index":0}]},"finish_reason":null}],"usage":null}
        {"id":"0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"tiny","choices":[{"index":0,"delta":{"tool_calls":[{"id":"D681PevKs","type":"function","function":{"name":"lookup","arguments":"{\"city\": \"Pavia\"}"},"index":1}]},"finish_reason":null}],"usage":null}
        {"id":"0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"tiny","choices":[{"index":0,"delta":{"content":""},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8,"prompt_tokens_details":{"cached_tokens":2},"prompt_audio_seconds":null}}
        {
          "id": "0123456789abcdef0123456789abcdef",
          "object": "chat.completion",
          "created": 1700000000,
          "model": "tiny",
          "choices": [
            {
              "index": 0,
              "message": {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                  {
                    "id": "D681PevKs",
                    "type": "function",
                    "function": {
                      "name": "lookup",
                      "arguments": "{\"city\": \"Pavia\"}"
                    },
                    "index": 0
                  },
                  {
                    "id": "D681PevKs",
                    "type": "function",
                    "function": {
                      "name": "lookup",
                      "arguments": "{\"city\": \"Pavia\"}"
                    },
                    "index": 1
                  }
                ],
                "prefix": false
              },
              "finish_reason": "tool_calls"
            }
          ],
          "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 3,
            "total_tokens": 8,
            "prompt_tokens_details": {
              "cached_tokens": 2
            },
            "prompt_audio_seconds": null
          }
        }"#]],
    );
    check(
        &chat(json!({"seed": 1})),
        &events,
        expect![[r#"
        {"id":"0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"tiny","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null,"logprobs":null}],"usage":null}
        {"id":"0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"tiny","choices":[{"index":0,"delta":{"tool_calls":[{"id":"D681PevKs","type":"function","function":{"name":"lookup","arguments":"{\"city\": \"Pavia\"}"},"index":0}]},"finish_reason":null,"logprobs":null}],"usage":null}
        {"id":"0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"tiny","choices":[{"index":0,"delta":{"tool_calls":[{"id":"D681PevKs","type":"function","function":{"name":"lookup","arguments":"{\"city\": \"Pavia\"}"},"index":1}]},"finish_reason":null,"logprobs":null}],"usage":null}
        {"id":"0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"tiny","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls","logprobs":null}],"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8,"prompt_tokens_details":{"cached_tokens":2}}}
        {
          "id": "0123456789abcdef0123456789abcdef",
          "object": "chat.completion",
          "created": 1700000000,
          "model": "tiny",
          "choices": [
            {
              "index": 0,
              "message": {
                "role": "assistant",
                "content": null,
                "refusal": null,
                "tool_calls": [
                  {
                    "id": "D681PevKs",
                    "type": "function",
                    "function": {
                      "name": "lookup",
                      "arguments": "{\"city\": \"Pavia\"}"
                    },
                    "index": 0
                  },
                  {
                    "id": "D681PevKs",
                    "type": "function",
                    "function": {
                      "name": "lookup",
                      "arguments": "{\"city\": \"Pavia\"}"
                    },
                    "index": 1
                  }
                ]
              },
              "finish_reason": "tool_calls",
              "logprobs": null
            }
          ],
          "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 3,
            "total_tokens": 8,
            "prompt_tokens_details": {
              "cached_tokens": 2
            }
          }
        }"#]],
    );
}

#[test]
fn an_answer_begins_with_the_prefix_that_the_client_gave() {
    let chat = chat(json!({"messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Once", "prefix": true}]}));
    let mut answer = Answer::new(&chat, 0);
    let events = [accepted(), text(" upon"), finished(FinishReason::Length)];
    let deltas: Vec<_> = events
        .iter()
        .flat_map(|event| answer.push(event))
        .map(|chunk| chunk["choices"][0]["delta"]["content"].clone())
        .collect();
    assert_eq!(deltas, ["", "Once", " upon", ""]);
    assert_eq!(answer.completion()["choices"][0]["message"]["content"], "Once upon");
}

#[test]
fn a_fault_ends_the_answer_and_gives_no_chunk() {
    let mut answer = Answer::new(&chat(json!({})), 0);
    answer.push(&accepted());
    answer.push(&text("Once"));
    let fault = Fault::new(FaultCode::Internal, "the device is gone");
    assert!(answer.push(&Event::Failed(fault.clone())).is_empty());
    assert!(answer.is_over());
    assert_eq!(answer.failed(), Some(&fault));
    assert!(answer.push(&text(" upon")).is_empty(), "nothing follows the last event");
    assert_eq!(answer.text(), "Once");
    assert_eq!(answer.completion()["choices"][0]["finish_reason"], "error");
}

/// Text of one token, with what might have stood there.
fn likely(text: &str, logprob: f32, others: &[(&str, f32)]) -> Event {
    let spell = |(text, logprob): (&str, f32)| Likelihood {
        token: TokenId(7),
        text: text.into(),
        bytes: (text != "</s>").then(|| text.into()),
        logprob,
    };
    let chosen = spell((text, logprob));
    let likeliest = others.iter().copied().map(spell).collect();
    let logprobs = vec![TokenLogprob { chosen, likeliest }];
    Event::Text { text: text.into(), tokens: 1, logprobs }
}

#[test]
fn likelihoods_come_with_the_text_of_their_tokens() {
    let likely = [likely("Hé", -0.1, &[("Hé", -0.1), ("</s>", -2.5)]), likely("!", -3.25, &[])];
    let mut answer = Answer::new(&chat(json!({"logprobs": true, "top_logprobs": 2})), 0);
    let mut chunks = answer.push(&accepted());
    chunks.extend(likely.iter().flat_map(|event| answer.push(event)));
    chunks.extend(answer.push(&finished(FinishReason::Stop)));
    let told: Vec<_> = chunks.iter().map(|chunk| &chunk["choices"][0]["logprobs"]).collect();
    let first = r#"{"token":"Hé","logprob":-0.1,"bytes":[72,195,169],"token_id":7,"top_logprobs":[{"token":"Hé","logprob":-0.1,"bytes":[72,195,169],"token_id":7},{"token":"</s>","logprob":-2.5,"bytes":[],"token_id":7}]}"#;
    let second = r#"{"token":"!","logprob":-3.25,"bytes":[33],"token_id":7,"top_logprobs":[]}"#;
    let body = |content: &str| format!(r#"{{"content":[{content}],"refusal":null}}"#);
    let wanted = ["null".into(), body(first), body(second), "null".into()];
    assert_eq!(told.iter().map(|told| told.to_string()).collect::<Vec<_>>(), wanted);
    let whole = &answer.completion()["choices"][0]["logprobs"];
    assert_eq!(whole.to_string(), body(&format!("{first},{second}")));
}

#[test]
fn each_answer_of_several_has_its_request() {
    let ids = |requests: &[protocol::Request]| {
        requests.iter().map(|request| request.id.0.clone()).collect::<Vec<_>>()
    };
    let id = "0123456789abcdef0123456789abcdef";
    let requests = chat(json!({"n": 3, "seed": -1})).requests();
    assert_eq!(ids(&requests), [id.to_owned(), format!("{id}-1"), format!("{id}-2")]);
    let seeds: Vec<_> = requests.iter().map(|request| request.sampling.seed).collect();
    assert_eq!(seeds, [Some(u64::MAX), Some(0), Some(1)]);
    let one = chat(json!({"seed": -1}));
    assert_eq!(requests[0].sampling, one.request.sampling);
    assert!(one.check_single().is_ok());
    assert_eq!(ids(&one.requests()), [id]);

    let unseeded = chat(json!({"n": 2}));
    let fault = unseeded.check_single().expect_err("one at a time");
    assert_eq!((fault.code, fault.param.as_deref()), (FaultCode::Unsupported, Some("n")));
    assert!(unseeded.requests().iter().all(|request| request.sampling.seed.is_none()));
}

/// The end of an answer of 3 tokens to a prompt of 5, of which it found so many.
fn ended(cached_tokens: u32) -> Event {
    let usage = Usage { prompt_tokens: 5, cached_tokens, completion_tokens: 3, ..Usage::default() };
    Event::Finished { reason: FinishReason::Stop, usage }
}

#[test]
fn several_answers_are_told_as_one_and_their_prompt_counts_once() {
    let order = [
        (1, accepted()),
        (0, accepted()),
        (0, text("yes")),
        (1, text("no")),
        (1, ended(4)),
        (0, text("!")),
        (0, ended(2)),
        (0, text("late")),
        (9, text("nobody's")),
    ];
    let usage = json!({
        "prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11,
        "prompt_tokens_details": {"cached_tokens": 2},
    });
    for own_chunk in [false, true] {
        let more = json!({"n": 2, "user": "u", "stream_options": {"include_usage": own_chunk}});
        let mut choices = Choices::new(&chat(more), 0);
        let chunks: Vec<Value> =
            order.iter().flat_map(|(index, event)| choices.push(*index, event)).collect();
        let told = chunks.iter().filter_map(|chunk| {
            let choice = chunk["choices"].get(0)?;
            let said = choice["delta"]["content"].as_str();
            let said = said.or_else(|| choice["finish_reason"].as_str());
            Some(format!("{} {}", choice["index"], said.unwrap_or_default()))
        });
        let told: Vec<String> = told.collect();
        assert_eq!(told, ["1 ", "0 ", "0 yes", "1 no", "1 stop", "0 !", "0 stop"]);
        let usages: Vec<&Value> =
            chunks.iter().map(|chunk| &chunk["usage"]).filter(|usage| !usage.is_null()).collect();
        assert_eq!(usages, [&usage]);
        let last = chunks.last().unwrap();
        assert!(!last["usage"].is_null(), "it comes last");
        assert_eq!(last["choices"].as_array().unwrap().is_empty(), own_chunk);

        let whole = choices.completion();
        assert!(choices.is_over());
        let said = |index: usize| &whole["choices"][index]["message"]["content"];
        assert_eq!((said(0), said(1)), (&json!("yes!"), &json!("no")));
        assert_eq!(whole["choices"][1]["index"], 1);
        assert_eq!(whole["usage"], usage);
    }
}

#[test]
fn the_first_fault_ends_all_answers() {
    let mut choices = Choices::new(&chat(json!({"n": 2})), 0);
    choices.push(0, &accepted());
    let fault = Fault::new(FaultCode::Busy, "no room");
    assert!(choices.push(1, &Event::Failed(fault.clone())).is_empty());
    assert_eq!((choices.failed(), choices.is_over()), (Some(&fault), true));
    assert!(choices.push(0, &text("more")).is_empty());
}

#[test]
fn more_likelihoods_than_a_body_tells_are_left_to_chunks() {
    let others = [("x", -2.0); 20];
    let told = likely("x", -2.0, &others);
    let most = (1 << 17) / 16 / 21;
    let asked = |stream: bool| {
        chat(json!({"logprobs": true, "top_logprobs": 20, "n": 16, "stream": stream}))
    };
    let mut whole = Choices::new(&asked(false), 0);
    for _ in 0..most {
        whole.push(1, &told);
    }
    assert_eq!(whole.failed(), None);
    let content = &whole.completion()["choices"][1]["logprobs"]["content"];
    assert_eq!(content.as_array().unwrap().len(), most);
    whole.push(1, &told);
    let fault = whole.failed().expect("too large");
    assert_eq!((fault.code, fault.param.as_deref()), (FaultCode::TooLarge, Some("logprobs")));

    let mut streamed = Choices::new(&asked(true), 0);
    for _ in 0..=most {
        let chunks = streamed.push(1, &told);
        let told = &chunks.last().unwrap()["choices"][0]["logprobs"]["content"];
        assert_eq!(told.as_array().unwrap().len(), 1);
    }
    assert_eq!(streamed.failed(), None);

    let mut answer = Answer::new(&asked(false), 0);
    for _ in 0..=most {
        answer.push(&told);
    }
    assert!(answer.has_lost_likelihoods());
    assert_eq!(answer.completion()["choices"][0]["logprobs"], Value::Null);
    assert_eq!(answer.text().len(), most + 1);
}

#[test]
fn finish_reasons_are_words_of_the_dialect() {
    let word = |more: Value, reason| {
        let mut answer = Answer::new(&chat(more), 0);
        answer.push(&accepted());
        assert_eq!(answer.completion()["choices"][0]["finish_reason"], Value::Null);
        answer.push(&finished(reason));
        answer.completion()["choices"][0]["finish_reason"].clone()
    };
    for (reason, mistral, openai) in [
        (FinishReason::Stop, "stop", "stop"),
        (FinishReason::Length, "length", "length"),
        (FinishReason::ModelLength, "model_length", "length"),
        (FinishReason::ToolCalls, "tool_calls", "tool_calls"),
        (FinishReason::Cancelled, "error", "error"),
    ] {
        assert_eq!(word(json!({}), reason), mistral);
        assert_eq!(word(json!({"user": "u"}), reason), openai);
    }
}

#[test]
fn every_client_finds_its_fields_in_a_fault() {
    let invalid = Fault::new(FaultCode::InvalidField, "must be a string, not a list");
    let body = fault_body(&invalid.at("messages[12].tool_calls[0].function.name"));
    expect![[r#"
        {
          "object": "error",
          "message": "must be a string, not a list",
          "type": "invalid_request_error",
          "param": "messages[12].tool_calls[0].function.name",
          "code": "invalid_field",
          "raw_status_code": 422,
          "error": {
            "message": "must be a string, not a list",
            "type": "invalid_request_error",
            "param": "messages[12].tool_calls[0].function.name",
            "code": "invalid_field"
          },
          "detail": [
            {
              "type": "value_error",
              "loc": [
                "body",
                "messages",
                12,
                "tool_calls",
                0,
                "function",
                "name"
              ],
              "msg": "must be a string, not a list"
            }
          ]
        }"#]]
    .assert_eq(&format!("{body:#}"));
    let busy = Fault::new(FaultCode::Busy, "8 requests wait").retry_after_ms(1500);
    expect![[r#"{"object":"error","message":"8 requests wait","type":"overloaded_error","param":null,"code":"queue_full","raw_status_code":429,"error":{"message":"8 requests wait","type":"overloaded_error","param":null,"code":"queue_full"}}"#]].assert_eq(&fault_body(&busy).to_string());
}

#[test]
fn models_are_listed_with_their_aliases() {
    let card = ModelCard {
        id: "mistral-7b-instruct-v0.3".into(),
        aliases: vec!["mistral-small-2402".into()],
        context_tokens_max: 32_768,
        fill: false,
        tools: true,
        default_temperature: 0.7,
        created: 1_700_000_000,
        encoding: "v3".into(),
    };
    assert_eq!(model_body(&card, "mistral-small-2402")["id"], "mistral-small-2402");
    assert_eq!(model_body(&card, "mistral-small-2402")["root"], "mistral-7b-instruct-v0.3");
    let description = Description { models: vec![card], ..Description::default() };
    expect![[r#"
        {
          "object": "list",
          "data": [
            {
              "id": "mistral-7b-instruct-v0.3",
              "object": "model",
              "created": 1700000000,
              "owned_by": "mistralai",
              "root": "mistral-7b-instruct-v0.3",
              "capabilities": {
                "completion_chat": true,
                "completion_fim": false,
                "function_calling": true,
                "fine_tuning": false,
                "vision": false,
                "classification": false,
                "moderation": false,
                "ocr": false,
                "audio": false
              },
              "name": "mistral-7b-instruct-v0.3",
              "description": null,
              "max_context_length": 32768,
              "aliases": [
                "mistral-small-2402"
              ],
              "deprecation": null,
              "deprecation_replacement_model": null,
              "default_model_temperature": 0.7,
              "type": "base"
            }
          ]
        }"#]]
    .assert_eq(&format!("{:#}", models_body(&description)));
}
