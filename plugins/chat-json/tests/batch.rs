//! Orders of many requests: what is understood, what is refused.

use chat_json::{BatchOrder, Strictness, parse_batch, parse_batch_job};
use expect_test::expect;
use protocol::Fault;
use serde_json::{Value, json};

fn mistral(body: Value) -> Result<BatchOrder, Fault> {
    parse_batch_job(body.to_string().as_bytes(), Strictness::Lenient)
}

fn items(order: &BatchOrder, file: &str) -> Result<Vec<String>, Fault> {
    let files = if order.files.is_empty() { Vec::new() } else { vec![file.into()] };
    let items = order.items(&files, 3)?;
    Ok(items.into_iter().map(|item| String::from_utf8(item).expect("JSON")).collect())
}

#[test]
fn requests_are_made_ready_to_run() {
    let order = mistral(json!({
        "endpoint": "/v1/chat/completions", "model": "tiny", "metadata": {"a": "b"},
        "requests": [{"custom_id": "0", "body": {"messages": [], "stream": true}}, {"body": {"model": "other"}}],
    }))
    .unwrap();
    assert_eq!((order.timeout_hours, &order.metadata), (24, &json!({"a": "b"})));
    expect![[r#"
        {"custom_id":"0","body":{"messages":[],"model":"tiny","ext":{"priority":"batch"}}}
        {"custom_id":null,"body":{"model":"other","ext":{"priority":"batch"}}}"#]]
    .assert_eq(&items(&order, "").unwrap().join("\n"));
    let vectors = json!({"endpoint": "/v1/embeddings", "requests": [{"body": {"input": "x"}}]});
    assert_eq!(
        items(&mistral(vectors).unwrap(), "").unwrap(),
        [r#"{"custom_id":null,"body":{"input":"x"}}"#]
    );
}

#[test]
fn openais_form_names_one_file() {
    let body = json!({
        "input_file_id": "f", "endpoint": "/v1/chat/completions", "completion_window": "24h",
    });
    let order = parse_batch(body.to_string().as_bytes()).unwrap();
    assert_eq!(order.files, ["f"]);
    let line = r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{}}"#;
    assert_eq!(items(&order, &format!("{line}\n\n  \n")).unwrap().len(), 1);
    let lines: Vec<_> = [
        String::new(),
        "x".into(),
        format!("{line}\n[]"),
        format!("{line}\n{line}"),
        r#"{"custom_id":7,"body":{}}"#.into(),
        r#"{"body":[]}"#.into(),
        "{}".into(),
        r#"{"url":"/v1/embeddings","body":{}}"#.into(),
        "{\"body\":{}}\n".repeat(4),
    ]
    .iter()
    .map(|file| items(&order, file).expect_err("must be refused").message)
    .collect();
    expect![[r#"
        input_files: has no requests
        input_files[0] line 1: the body is not usable JSON: expected value at line 1 column 1
        input_files[0] line 2: must be an object, not a list
        input_files[0] line 2.custom_id: an earlier request has the same one
        input_files[0] line 1.custom_id: must be a string, not a number
        input_files[0] line 1.body: must be an object, not a list
        input_files[0] line 1.body: field required
        input_files[0] line 1.url: the batch is for /v1/chat/completions
        input_files[0] line 4: more than 3 requests in one batch"#]]
    .assert_eq(&lines.join("\n"));
}

#[test]
fn an_order_that_makes_no_sense_is_refused_by_its_field() {
    let with = |more: Value| {
        let mut body = json!({"endpoint": "/v1/chat/completions", "requests": [{"body": {}}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        mistral(body).expect_err("must be refused").message
    };
    let lines = [
        with(json!({"endpoint": null})),
        with(json!({"endpoint": "/v1/ocr"})),
        with(json!({"requests": []})),
        with(json!({"input_files": ["f"]})),
        with(json!({"input_files": [7], "requests": null})),
        with(json!({"timeout_hours": 0})),
        with(json!({"timeout_hours": 169})),
        with(json!({"metadata": []})),
        with(json!({"agent_id": "a"})),
        with(json!({"requests": vec![json!({"body": {}}); 10_001]})),
    ];
    expect![[r#"
        endpoint: field required
        endpoint: must be one of /v1/chat/completions, /v1/fim/completions, /v1/completions, /v1/classifications, /v1/chat/classifications, /v1/embeddings, /v1/moderations, /v1/chat/moderations
        input_files: send input_files or requests
        requests: send input_files or requests, not both
        input_files[0]: must be the id of a file, not a number
        timeout_hours: must be a whole number between 1 and 168
        timeout_hours: must be a whole number between 1 and 168
        metadata: must be an object, not a list
        agent_id: there are no agents here
        requests: 10001 items; at most 10000 are accepted"#]].assert_eq(&lines.join("\n"));
}
