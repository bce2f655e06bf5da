//! Bodies of embeddings and their answers.

use chat_json::{Embedding, Strictness, embedder_body, models_body, parse_embeddings};
use protocol::{Description, EmbedderCard, Embeddings, Fault, FaultCode};
use serde_json::{Value, json};

fn parse(body: &Value) -> Result<Embedding, Fault> {
    parse_embeddings(body.to_string().as_bytes(), Strictness::Lenient)
}

/// What a body's answer says of one vector.
fn told(mut body: Value, vector: &[f32]) -> Value {
    body["input"] = json!("x");
    let embeddings = Embeddings { vectors: vec![vector.to_vec()], ..Embeddings::default() };
    parse(&body).expect("a sound body").body("id", &embeddings)["data"][0]["embedding"].take()
}

#[test]
fn mistrals_and_openais_fields_are_read() {
    let mistral = parse(&json!({
        "model": "minilm", "input": ["one", "two"], "output_dimension": 64,
        "output_dtype": "float", "encoding_format": "float",
    }));
    let mistral = mistral.unwrap();
    assert_eq!((&mistral.request.model[..], mistral.request.dimensions), ("minilm", Some(64)));
    assert_eq!(mistral.request.texts, ["one", "two"]);
    assert!(mistral.ignored.is_empty());
    let openai = parse(&json!({
        "model": "minilm", "input": "one", "dimensions": 64, "encoding_format": "base64",
        "user": "somebody", "ext": {"ttl_s": 5},
    }));
    let openai = openai.unwrap();
    assert_eq!((openai.request.dimensions, openai.request.texts.len()), (Some(64), 1));
    assert!(openai.request.deadline.is_some());
    assert_eq!(openai.ignored, ["user"]);
    assert_eq!(parse(&json!({"model": "default", "input": ""})).unwrap().request.model, "");
}

#[test]
fn the_answer_is_a_list_with_usage() {
    let asked = parse(&json!({"model": "minilm", "input": ["one", "two"]})).unwrap();
    let answer = asked.body(
        "id",
        &Embeddings {
            model: "minilm".into(),
            vectors: vec![vec![0.1, -0.7], vec![0.5, 0.25]],
            prompt_tokens: 6,
            truncated_texts: 0,
        },
    );
    let wanted = json!({
        "id": "id",
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.1, -0.7]},
            {"object": "embedding", "index": 1, "embedding": [0.5, 0.25]},
        ],
        "model": "minilm",
        "usage": {"prompt_tokens": 6, "completion_tokens": 0, "total_tokens": 6},
    });
    assert_eq!(answer, wanted);
}

#[test]
fn numbers_come_as_asked() {
    // Length 5, so that unit length is 0.6 and -0.8.
    let vector = [3.0, -4.0];
    let as_dtype = |dtype: &str| told(json!({"output_dtype": dtype}), &vector);
    assert_eq!(as_dtype("float"), json!([3, -4]));
    assert_eq!(as_dtype("int8"), json!([76, -102]));
    assert_eq!(as_dtype("uint8"), json!([204, 26]));
    assert_eq!(as_dtype("ubinary"), json!([0b1000_0000]));
    assert_eq!(as_dtype("binary"), json!([0]));
    let nine = [0.5, 0.0, -0.5, 0.5, 0.5, -1.0, 1.0, 1.0, 1.0];
    assert_eq!(told(json!({"output_dtype": "ubinary"}), &nine), json!([0b1001_1011, 0b1000_0000]));
    assert_eq!(told(json!({"output_dtype": "binary"}), &nine), json!([27, 0]));
    assert_eq!(told(json!({"output_dtype": "int8"}), &[0.0, 0.0]), json!([0, 0]));
}

#[test]
fn base64_holds_little_endian_bytes() {
    let with = |dtype: &str, vector: &[f32]| {
        told(json!({"encoding_format": "base64", "output_dtype": dtype}), vector)
    };
    assert_eq!(with("float", &[1.0, -2.0]), json!("AACAPwAAAMA="));
    assert_eq!(with("int8", &[3.0, -4.0]), json!("TJo="));
    assert_eq!(with("ubinary", &[3.0, -4.0]), json!("gA=="));
}

#[test]
fn what_cannot_be_done_is_refused_at_its_field() {
    let check = |body: Value, code: FaultCode, param: &str| {
        let fault = parse(&body).unwrap_err();
        assert_eq!((fault.code, fault.param.as_deref()), (code, Some(param)), "{body}");
    };
    use FaultCode::{InvalidField, Unsupported};
    check(json!({"input": [1, 2, 3]}), Unsupported, "input[0]");
    check(json!({"input": [[1, 2], [3]]}), Unsupported, "input[0]");
    check(json!({"input": vec![7; 5000]}), Unsupported, "input[0]");
    check(json!({"input": vec!["x"; 513]}), InvalidField, "input");
    check(json!({"input": []}), InvalidField, "input");
    check(json!({"input": ["x", null]}), InvalidField, "input[1]");
    check(json!({"input": {}}), InvalidField, "input");
    check(json!({"model": "m"}), InvalidField, "input");
    check(json!({"input": "x", "dimensions": 0}), InvalidField, "dimensions");
    let both = json!({"input": "x", "dimensions": 3, "output_dimension": 4});
    check(both, InvalidField, "dimensions");
    check(json!({"input": "x", "output_dtype": "int4"}), InvalidField, "output_dtype");
    check(json!({"input": "x", "encoding_format": "hex"}), InvalidField, "encoding_format");
    let strict = json!({"model": "m", "input": "x", "dimensions": 3}).to_string();
    let fault = parse_embeddings(strict.as_bytes(), Strictness::MistralStrict).unwrap_err();
    assert_eq!(fault.param.as_deref(), Some("dimensions"));
}

#[test]
fn embedders_are_listed_as_models_that_do_nothing_else() {
    let card = EmbedderCard {
        name: "minilm".into(),
        dimensions: 384,
        context_tokens_max: 256,
        created: 7,
    };
    let body = embedder_body(&card);
    assert_eq!((&body["id"], &body["max_context_length"]), (&json!("minilm"), &json!(256)));
    assert_eq!(body["description"], "embeddings of 384 numbers");
    let capabilities = body["capabilities"].as_object().unwrap();
    assert!(capabilities.values().all(|value| value == false));
    let listed = models_body(&Description { embedders: vec![card], ..Description::default() });
    assert_eq!(listed["data"], json!([body]));
}
