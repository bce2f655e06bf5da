//! Bodies that ask for scores of labels or for tokens, and their answers.

use chat_json::{
    Classification, InputKind, Strictness, classifier_body, detokenize_body, parse_classification,
    parse_detokenize, parse_tokenize,
};
use protocol::{
    ClassifierCard, Classify, Description, Encoded, Event, Fault, FaultCode, FinishReason, Input,
    ModelCard, Priority, RequestId, Scores, Task, TokenId, Usage,
};
use serde_json::{Value, json};

fn description() -> Description {
    let card = ModelCard { id: "tiny".into(), fill: true, tools: true, ..ModelCard::default() };
    let targets = vec!["device".into(), "wish".into()];
    Description {
        models: vec![card],
        classifiers: vec![ClassifierCard { name: "house".into(), targets }],
        ..Description::default()
    }
}

fn parse(kind: InputKind, body: &Value) -> Result<Classification, Fault> {
    let (id, strictness) = (RequestId("id".into()), Strictness::Lenient);
    parse_classification(body.to_string().as_bytes(), id, kind, strictness, &description())
}

fn scores(labels: &[(&str, f64)], abstained: bool) -> Event {
    let labels = labels.iter().map(|(label, share)| ((*label).to_owned(), share.ln()));
    Event::Scores(Scores { abstained, ..Scores::of_logs(labels) })
}

#[test]
fn each_target_of_each_input_is_a_request_and_results_keep_their_order() {
    let body = json!({
        "model": "house", "input": ["one", "two"], "ext": {"priority": "batch"}, "colour": 1,
    });
    let mut asked = parse(InputKind::Text, &body).unwrap();
    assert_eq!(asked.ignored, ["colour"]);
    let found: Vec<_> = asked.requests.iter().map(|r| (&r.id.0[..], &r.input)).collect();
    let text = |text: &str| Input::Text(text.to_owned());
    let (one, two) = (text("one"), text("two"));
    assert_eq!(found, [("id-0", &one), ("id-1", &one), ("id-2", &two), ("id-3", &two)]);
    let asks_wish = Classify { target: "wish".into(), ..Classify::new(Vec::new()) };
    assert_eq!(asked.requests[3].task, Task::Classify(asks_wish));
    assert_eq!(asked.requests[3].limits.priority, Priority::Batch);
    for number in 1..=4 {
        let share = f64::from(number) / 8.0;
        assert_eq!(asked.push(scores(&[("a", share), ("b", 1.0 - share)], number == 1)), Ok(false));
        let usage = Usage { prompt_tokens: 5, completion_tokens: number, ..Usage::default() };
        assert_eq!(asked.push(Event::Finished { reason: FinishReason::Stop, usage }), Ok(true));
    }
    let told = asked.body().unwrap();
    assert_eq!((&told["id"], &told["model"]), (&json!("id"), &json!("house")));
    let share =
        |at: usize, target: &str| told["results"][at][target]["scores"]["a"].as_f64().unwrap();
    let shares = [share(0, "device"), share(0, "wish"), share(1, "device"), share(1, "wish")];
    assert!(shares.iter().zip([1.0, 2.0, 3.0, 4.0]).all(|(a, b)| (a * 8.0 - b).abs() < 1e-9));
    assert_eq!(told["results"][0]["device"]["label"], Value::Null);
    assert_eq!(told["results"][0]["device"]["abstained"], true);
    assert_eq!(told["results"][0]["wish"]["label"], "b");
    assert_eq!(told["usage"]["total_tokens"], 4 * 5 + 1 + 2 + 3 + 4);
}

#[test]
fn a_body_may_bring_its_own_labels() {
    let body = json!({
        "model": "tiny", "input": {"messages": [{"role": "user", "content": "hi"}]},
        "labels": ["a", "b"], "instruction": "Which?", "calibrate": true, "temperature": 2,
        "abstain_below": 0.5,
    });
    let asked = parse(InputKind::Chat, &body).unwrap();
    let expected = Classify {
        instruction: Some("Which?".into()),
        calibrate: true,
        temperature: 2.0,
        abstain_below: 0.5,
        ..Classify::new(vec!["a".into(), "b".into()])
    };
    assert_eq!(asked.requests.len(), 1);
    assert_eq!(asked.requests[0].task, Task::Classify(expected));
    assert!(asked.body().is_err(), "nothing is decided yet");
}

#[test]
fn bad_bodies_name_the_field_at_fault() {
    let check = |kind, body: Value, code, param: &str| {
        let fault = parse(kind, &body).expect_err("must be refused");
        assert_eq!((fault.code, fault.param.as_deref()), (code, Some(param)), "{body}");
    };
    let (text, chat) = (InputKind::Text, InputKind::Chat);
    let invalid = FaultCode::InvalidField;
    check(text, json!({"model": "x", "input": "a"}), FaultCode::UnknownModel, "model");
    check(text, json!({"model": "house"}), invalid, "input");
    check(text, json!({"model": "house", "input": []}), invalid, "input");
    check(text, json!({"model": "house", "input": ["a", 1]}), invalid, "input[1]");
    check(text, json!({"model": "house", "input": vec!["a"; 65]}), invalid, "input");
    check(text, json!({"model": "house", "input": "a", "labels": ["b"]}), invalid, "labels");
    check(text, json!({"input": "a"}), invalid, "labels");
    check(text, json!({"input": "a", "labels": [1]}), invalid, "labels[0]");
    check(text, json!({"input": "a", "labels": vec!["a"; 257]}), invalid, "labels");
    check(text, json!({"input": "a", "labels": ["a"], "temperature": 0}), invalid, "temperature");
    check(chat, json!({"model": "house", "input": "a"}), invalid, "input");
    check(chat, json!({"model": "house", "input": [{}]}), invalid, "input[0].messages");
}

#[test]
fn a_classifier_is_a_model_that_classifies_and_does_not_chat() {
    let description = description();
    let body = classifier_body(&description, &description.classifiers[0]);
    assert_eq!((&body["id"], &body["root"]), (&json!("house"), &json!("tiny")));
    let can = |what: &str| body["capabilities"][what].as_bool().unwrap();
    assert!(can("classification"));
    assert!(!can("completion_chat") && !can("completion_fim") && !can("function_calling"));
}

#[test]
fn tokens_are_told_with_and_without_the_one_in_front() {
    let encoded = Encoded {
        tokens: [1, 7, 9].map(TokenId).into(),
        spelled: ["<s>", "a", "b"].map(str::to_owned).into(),
        context_tokens_max: 64,
    };
    let told = |body: Value| {
        let parsed = parse_tokenize(body.to_string().as_bytes(), RequestId("id".into()));
        parsed.unwrap().body(&encoded)
    };
    assert_eq!(
        told(json!({"prompt": "ab", "return_token_strs": true})),
        json!({"count": 3, "max_model_len": 64, "tokens": [1, 7, 9], "token_strs": ["<s>", "a", "b"]})
    );
    assert_eq!(
        told(json!({"prompt": "ab", "add_special_tokens": false})),
        json!({"count": 2, "max_model_len": 64, "tokens": [7, 9], "token_strs": null})
    );
    let chat =
        json!({"messages": [{"role": "user", "content": "ab"}], "add_special_tokens": false});
    assert_eq!(told(chat)["count"], 3, "a conversation is written by its template");
    assert_eq!(detokenize_body("ab"), json!({"prompt": "ab"}));
    let parsed = parse_detokenize(br#"{"tokens": [3, 4], "model": "m"}"#);
    assert_eq!(parsed, Ok(("m".into(), [3, 4].map(TokenId).into())));
    for body in [&br#"{"tokens": [-1]}"#[..], br#"{"tokens": [4294967296]}"#, b"{}"] {
        assert_eq!(parse_detokenize(body).unwrap_err().code, FaultCode::InvalidField);
    }
}
