//! OpenAI's legacy completions: bodies and answers.

use chat_json::{Choices, Strictness, parse_completion};
use expect_test::expect;
use protocol::{
    Event, Fault, FinishReason, Input, Likelihood, RequestId, TokenId, TokenLogprob, Usage,
};
use serde_json::{Value, json};

fn parse(body: Value) -> Result<chat_json::Chat, Fault> {
    parse_completion(body.to_string().as_bytes(), RequestId("id".into()), Strictness::Lenient)
}

fn inputs(body: Value) -> Vec<Input> {
    let chat = parse(body).expect("a usable body");
    chat.requests().into_iter().map(|request| request.input).collect()
}

fn finished(tokens: u32) -> Event {
    let usage = Usage { prompt_tokens: 5, completion_tokens: tokens, ..Usage::default() };
    Event::Finished { reason: FinishReason::Stop, usage }
}

fn accepted() -> Event {
    Event::Accepted {
        id: RequestId("id".into()),
        model: "m".into(),
        prompt_tokens: 5,
        cached_tokens: 0,
    }
}

#[test]
fn a_prompt_is_a_text_tokens_or_a_list_of_them() {
    let text = |text: &str| Input::Text(text.into());
    let tokens = |ids: &[u32]| Input::Tokens(ids.iter().copied().map(TokenId).collect());
    assert_eq!(inputs(json!({"prompt": "a"})), [text("a")]);
    assert_eq!(inputs(json!({"prompt": ["a", "b"], "n": 2})).len(), 4);
    assert_eq!(inputs(json!({"prompt": ["a", "b"], "n": 2}))[2], text("b"));
    assert_eq!(inputs(json!({"prompt": [1, 2]})), [tokens(&[1, 2])]);
    assert_eq!(inputs(json!({"prompt": [[1], [2, 3]]})), [tokens(&[1]), tokens(&[2, 3])]);
    let fill = Input::Fill { prefix: "a".into(), suffix: Some("z".into()) };
    assert_eq!(inputs(json!({"prompt": "a", "suffix": "z"})), [fill]);
    assert_eq!(parse(json!({"prompt": "a"})).unwrap().request.limits.max_tokens, Some(16));
}

#[test]
fn what_cannot_be_told_is_refused_by_its_field() {
    let lines: Vec<_> = [
        json!({}),
        json!({"prompt": []}),
        json!({"prompt": 7}),
        json!({"prompt": [1, "a"]}),
        json!({"prompt": [[]]}),
        json!({"prompt": ["a", 1]}),
        json!({"prompt": vec!["a"; 9], "n": 2}),
        json!({"prompt": "a", "best_of": 2}),
        json!({"prompt": "a", "logprobs": true}),
        json!({"prompt": "a", "logprobs": 21}),
        json!({"prompt": "a", "echo": true, "logprobs": 1}),
        json!({"prompt": [1], "echo": true}),
        json!({"prompt": [1], "suffix": "z"}),
    ]
    .into_iter()
    .map(|body| parse(body).expect_err("must be refused"))
    .map(|fault| format!("{} {}", fault.code.status(), fault.message))
    .collect();
    expect![[r#"
        422 prompt: field required
        422 prompt: must not be empty
        422 prompt: must be a text, tokens, or a list of them, not a number
        422 prompt[1]: must be the id of a token
        422 prompt[0]: must be a text or tokens, not a list
        422 prompt[1]: must be a text or tokens, not a number
        422 prompt: 18 answers, of all prompts together; at most 16
        400 best_of: answers are not compared; leave it out, or set it to n
        422 logprobs: must be a whole number, not a boolean
        422 logprobs: must be a whole number between 0 and 20
        400 echo: likelihoods of the prompt are not told; drop logprobs
        400 echo: needs prompts of text, without a suffix
        400 suffix: needs a prompt of text"#]]
    .assert_eq(&lines.join("\n"));
}

#[test]
fn answers_are_texts_whole_and_in_chunks() {
    let body = json!({"prompt": ["ab", "cd"], "echo": true, "stream": true});
    let mut choices = Choices::new(&parse(body).unwrap(), 7);
    let mut chunks = Vec::new();
    for index in [0, 1] {
        for event in [accepted(), Event::text("x", 1), finished(1)] {
            chunks.extend(choices.push(index, &event));
        }
    }
    let lines: Vec<_> =
        chunks.iter().map(|chunk| format!("{} {}", chunk["choices"], chunk["usage"])).collect();
    expect![[r#"
        [{"index":0,"text":"ab","logprobs":null,"finish_reason":null}] null
        [{"index":0,"text":"x","logprobs":null,"finish_reason":null}] null
        [{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}] null
        [{"index":1,"text":"cd","logprobs":null,"finish_reason":null}] null
        [{"index":1,"text":"x","logprobs":null,"finish_reason":null}] null
        [{"index":1,"text":"","logprobs":null,"finish_reason":"stop"}] {"prompt_tokens":10,"completion_tokens":2,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":0}}"#]].assert_eq(&lines.join("\n"));
    let whole = choices.completion();
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(whole["choices"][1]["text"], "cdx");
    assert_eq!(whole["usage"]["prompt_tokens"], 10, "both prompts count");
}

#[test]
fn likelihoods_come_in_columns() {
    let chat = parse(json!({"prompt": "ab", "logprobs": 1})).unwrap();
    assert_eq!(chat.request.sampling.logprobs, Some(1));
    let mut choices = Choices::new(&chat, 7);
    let told = |text: &str| {
        let likelihood = Likelihood {
            token: TokenId(1),
            text: text.into(),
            bytes: Some(text.bytes().collect()),
            logprob: -0.5,
        };
        TokenLogprob { chosen: likelihood.clone(), likeliest: vec![likelihood] }
    };
    for event in [
        accepted(),
        Event::Text { text: "né".into(), tokens: 1, logprobs: vec![told("né")] },
        Event::Text { text: "e".into(), tokens: 1, logprobs: vec![told("e")] },
        finished(2),
    ] {
        choices.push(0, &event);
    }
    expect![[r#"{"tokens":["né","e"],"token_logprobs":[-0.5,-0.5],"top_logprobs":[{"né":-0.5},{"e":-0.5}],"text_offset":[0,2]}"#]]
        .assert_eq(&choices.completion()["choices"][0]["logprobs"].to_string());
}
