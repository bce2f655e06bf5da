//! What the two strictnesses make of a field that Mistral's API does not have, at every level.

use chat_json::{
    Chat, InputKind, Strictness, fault_body, parse_chat, parse_classification, parse_fill,
};
use expect_test::expect;
use protocol::{Description, Fault, ModelCard, RequestId};
use serde_json::{Value, json};

type Parse = fn(&[u8], RequestId, Strictness) -> Result<Chat, Fault>;

/// A body with every part that has members.
fn full() -> Value {
    json!({
        "model": "m",
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "s"}]},
            {"role": "user", "content": [{"type": "text", "text": "u"}]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "D681PevKs", "function": {"name": "f", "arguments": {}}}]},
            {"role": "tool", "tool_call_id": "D681PevKs", "content": "1"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
        "prediction": {"type": "content", "content": [{"type": "text", "text": "p"}]},
    })
}

/// Where a body may have a field too many.
const LEVELS: &[&str] = &[
    "",
    "/messages/0",
    "/messages/0/content/0",
    "/messages/1",
    "/messages/1/content/0",
    "/messages/2",
    "/messages/2/tool_calls/0",
    "/messages/2/tool_calls/0/function",
    "/messages/3",
    "/tools/0",
    "/tools/0/function",
    "/tool_choice",
    "/tool_choice/function",
    "/response_format",
    "/response_format/json_schema",
    "/prediction",
    "/prediction/content/0",
];

fn read(parse: Parse, body: &Value, strictness: Strictness) -> Result<Chat, Fault> {
    parse(body.to_string().as_bytes(), RequestId("id".into()), strictness)
}

#[test]
fn a_field_too_many_is_refused_or_listed_at_every_level() {
    let mut lines = Vec::new();
    for level in LEVELS {
        let mut body = full();
        read(parse_chat, &body, Strictness::MistralStrict).expect("nothing is too many yet");
        body.pointer_mut(level).expect("a level of the body")["extra"] = json!(1);
        let lenient = read(parse_chat, &body, Strictness::Lenient).expect("it is ignored");
        let fault = read(parse_chat, &body, Strictness::MistralStrict).expect_err("is refused");
        let told = fault_body(&fault);
        assert_eq!(told["detail"][0]["type"], "extra_forbidden", "{told}");
        lines.push(format!("{:?} {}", lenient.ignored, told["detail"][0]["loc"]));
    }
    expect![[r#"
        ["extra"] ["body","extra"]
        ["messages[0].extra"] ["body","messages",0,"extra"]
        ["messages[0].content[0].extra"] ["body","messages",0,"content",0,"extra"]
        ["messages[1].extra"] ["body","messages",1,"extra"]
        ["messages[1].content[0].extra"] ["body","messages",1,"content",0,"extra"]
        ["messages[2].extra"] ["body","messages",2,"extra"]
        ["messages[2].tool_calls[0].extra"] ["body","messages",2,"tool_calls",0,"extra"]
        ["messages[2].tool_calls[0].function.extra"] ["body","messages",2,"tool_calls",0,"function","extra"]
        ["messages[3].extra"] ["body","messages",3,"extra"]
        ["tools[0].extra"] ["body","tools",0,"extra"]
        ["tools[0].function.extra"] ["body","tools",0,"function","extra"]
        ["tool_choice.extra"] ["body","tool_choice","extra"]
        ["tool_choice.function.extra"] ["body","tool_choice","function","extra"]
        ["response_format.extra"] ["body","response_format","extra"]
        ["response_format.json_schema.extra"] ["body","response_format","json_schema","extra"]
        ["prediction.extra"] ["body","prediction","extra"]
        ["prediction.content[0].extra"] ["body","prediction","content",0,"extra"]"#]].assert_eq(&lines.join("\n"));
}

#[test]
fn what_clients_of_others_send_is_not_mistrals() {
    let with = |more: Value| {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for more in [
        json!({"seed": 1}),
        json!({"max_completion_tokens": 1}),
        json!({"stream_options": {"include_usage": true}}),
        json!({"logit_bias": {"1": 1}}),
        json!({"typical_p": 0.5}),
        json!({"min_p": 0.5}),
        json!({"user": "u"}),
        json!({"temperature": 1.6}),
        json!({"service_tier": "flex"}),
        json!({"response_format": {"type": "regex", "regex": "a"}}),
        json!({"response_format": {"type": "choice", "choices": ["a"]}}),
        json!({"messages": [{"role": "developer", "content": "x"}]}),
        json!({"tools": [{"type": "function", "function": {"name": "f"}}]}),
        json!({"model": null}),
    ] {
        let body = with(more);
        read(parse_chat, &body, Strictness::Lenient).expect("lenient takes it");
        let fault =
            read(parse_chat, &body, Strictness::MistralStrict).expect_err("strict does not");
        assert_eq!(fault.code.status(), 422, "{fault}");
    }
}

#[test]
fn fill_and_classification_are_as_strict() {
    let fill = json!({"model": "m", "prompt": "a", "extra": 1});
    assert_eq!(read(parse_fill, &fill, Strictness::Lenient).unwrap().ignored, ["extra"]);
    assert!(read(parse_fill, &fill, Strictness::MistralStrict).is_err());
    let body = json!({
        "model": "m", "labels": ["a", "b"],
        "input": {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "extra": 1}]}]},
    })
    .to_string();
    let read = |strictness| {
        let card = ModelCard { id: "m".into(), ..ModelCard::default() };
        let models = Description { models: vec![card], ..Description::default() };
        let id = RequestId("id".into());
        parse_classification(body.as_bytes(), id, InputKind::Chat, strictness, &models)
    };
    let ignored = read(Strictness::Lenient).unwrap().ignored;
    assert_eq!(ignored.len(), 1, "{ignored:?}");
    assert!(ignored[0].ends_with("messages[0].content[0].extra"), "{ignored:?}");
    assert!(read(Strictness::MistralStrict).is_err());
}

#[test]
fn a_safe_prompt_stands_before_the_conversation() {
    let body =
        json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "safe_prompt": true});
    let chat = read(parse_chat, &body, Strictness::MistralStrict).unwrap();
    let protocol::Input::Chat(messages) = chat.request.input else { panic!("a chat") };
    assert!(matches!(&messages[..], [
        protocol::Message::System { content }, protocol::Message::User { .. }
    ] if content[0].starts_with("Always assist with care, respect, and truth.")));
    let fill = json!({"model": "m", "prompt": "a", "safe_prompt": true});
    assert!(read(parse_fill, &fill, Strictness::Lenient).is_err());
}
