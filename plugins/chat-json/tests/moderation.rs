//! Bodies of moderations and their answers.

use chat_json::{InputKind, Moderation, Strictness, moderation_body, parse_moderation};
use protocol::{CategoryScore, Fault, FaultCode, Input, Message, Moderations};
use serde_json::{Value, json};

fn parse(kind: InputKind, body: &Value) -> Result<Moderation, Fault> {
    parse_moderation(body.to_string().as_bytes(), kind, Strictness::Lenient)
}

fn text(text: &str) -> Input {
    Input::Text(text.into())
}

#[test]
fn texts_come_one_several_or_as_parts() {
    let read = |input: Value| {
        let body = json!({"model": "guard", "input": input});
        parse(InputKind::Text, &body).expect("a sound body").request.inputs
    };
    assert_eq!(read(json!("one")), [text("one")]);
    assert_eq!(read(json!(["one", "two"])), [text("one"), text("two")]);
    assert_eq!(read(json!([{"type": "text", "text": "one"}])), [text("one")]);
    assert_eq!(
        read(json!([{"type": null, "text": "one"}, {"text": "two"}])),
        [text("one"), text("two")]
    );
}

#[test]
fn conversations_come_one_or_several() {
    let user = |text: &str| Input::Chat(vec![Message::User { content: vec![text.into()] }]);
    let read = |input: Value| {
        let body = json!({"input": input, "colour": 1});
        let asked = parse(InputKind::Chat, &body).expect("a sound body");
        assert_eq!(
            (&asked.request.model[..], &asked.ignored[..]),
            ("", &["colour".to_owned()][..])
        );
        asked.request.inputs
    };
    let one = json!({"role": "user", "content": "one"});
    let two = json!({"role": "user", "content": "two"});
    assert_eq!(read(json!([one])), [user("one")]);
    assert_eq!(read(json!([[one], [two]])), [user("one"), user("two")]);
    assert_eq!(read(json!({"messages": [one]})), [user("one")]);
    assert_eq!(read(json!([{"messages": [one]}, [two]])), [user("one"), user("two")]);
}

#[test]
fn what_is_no_input_is_refused_at_its_field() {
    let check = |kind, body: Value, param: &str| {
        let fault = parse(kind, &body).expect_err("refused");
        let found = (fault.code, fault.param.as_deref());
        assert_eq!(found, (FaultCode::InvalidField, Some(param)), "{body}");
    };
    check(InputKind::Text, json!({}), "input");
    check(InputKind::Text, json!({"input": []}), "input");
    check(InputKind::Text, json!({"input": vec!["x"; 65]}), "input");
    check(InputKind::Text, json!({"input": ["x", 1]}), "input[1]");
    check(InputKind::Text, json!({"input": [{"type": "image_url"}]}), "input[0]");
    check(InputKind::Chat, json!({"input": "x"}), "input");
    check(InputKind::Chat, json!({"input": [[]]}), "input[0]");
    check(InputKind::Chat, json!({"input": {}}), "input.messages");
}

#[test]
fn the_answer_has_flags_and_scores_of_each_category() {
    let one = |category: &str, score, is_flagged| CategoryScore {
        category: category.into(),
        score,
        is_flagged,
    };
    let moderations = Moderations {
        model: "guard".into(),
        results: vec![vec![one("pii", 0.75, true), one("sexual", 0.125, false)], vec![]],
        prompt_tokens: 9,
    };
    let wanted = json!({
        "id": "id",
        "model": "guard",
        "results": [
            {
                "flagged": true,
                "categories": {"pii": true, "sexual": false},
                "category_scores": {"pii": 0.75, "sexual": 0.125},
            },
            {"flagged": false, "categories": {}, "category_scores": {}},
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9},
    });
    assert_eq!(moderation_body("id", &moderations), wanted);
}
