//! Answers of a given shape, drawn by an adversary: whatever the constraint lets through fits.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    dead_code,
    reason = "a test panics to fail, and says when it is skipped; helpers are shared"
)]

use protocol::{Format, Input, Message, Request, TokenId, ToolChoice, ToolSpec};
use serde_json::{Value, json};
use text::{Codec, ConstraintError, TextError};

mod constrained;
mod vocabularies;

use constrained::{Answer, CODECS, Dice, accepts, chat, drive, fits, read, spell};

const SEEDS: u64 = 12;

/// Real vocabularies take longer, and are there to show that size changes nothing.
fn seeds(codec: &Codec) -> u64 {
    if codec.tokenizer().vocabulary_size() < 1000 { SEEDS } else { 3 }
}

/// Draws answers with every codec, on a prompt that begins an answer and on one that goes on.
fn answers(format: &Format, mut check: impl FnMut(&Answer, &str)) {
    for (name, codec) in CODECS.iter() {
        let mut finished = 0;
        for seed in 0..seeds(codec) {
            let begins = chat(format.clone());
            let goes_on = Request { input: Input::Text("x".into()), ..begins.clone() };
            for request in [begins, goes_on] {
                let answer = drive(codec, &request, seed);
                if answer.is_finished {
                    finished += 1;
                    check(&answer, name);
                }
            }
        }
        assert!(finished >= seeds(codec) / 2, "{name}: only {finished} answers ended: {format:?}");
    }
}

#[test]
fn json_fits_its_schema() {
    for schema in [
        json!({"type": "object"}),
        json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": -3, "maximum": 40},
            "b\"\\é": {"type": ["string", "null"], "maxLength": 4}, "c": {"type": "boolean"}},
            "required": ["b\"\\é"], "additionalProperties": false}),
        json!({"properties": {"a": {"const": "x"}}, "additionalProperties": {"type": "number"},
            "type": "object", "required": ["a"], "minProperties": 2, "maxProperties": 3}),
        json!({"type": "array", "prefixItems": [{"enum": ["a", 1, null, {"k": [true]}]}],
            "items": {"type": "string", "pattern": "^[a-c]+(d|é)?$"}, "minItems": 1, "maxItems": 3}),
        json!({"type": "string", "minLength": 2, "maxLength": 5}),
        json!({"type": "number", "exclusiveMinimum": 0.5, "maximum": 17.25}),
        json!({"type": "integer", "multipleOf": 7}),
        json!({"anyOf": [{"type": "null"}, {"type": "object", "patternProperties": {"^s": {"type": "string"}},
            "additionalProperties": {"type": "integer"}}]}),
        json!({"oneOf": [{"type": "object", "properties": {"t": {"const": "a"}}, "required": ["t"]},
            {"type": "object", "properties": {"t": {"const": "b"}, "n": {"type": "integer"}}, "required": ["t", "n"]}]}),
        json!({"$defs": {"node": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["next"], "additionalProperties": false}}, "$ref": "#/$defs/node"}),
        json!({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"type": "object", "properties": {"a": {"minimum": 2}, "b": {"type": "boolean"}}, "required": ["b"]}]}),
        (0..20).fold(
            json!({"type": "boolean"}),
            |inner, _| json!({"type": "array", "items": inner, "minItems": 1, "maxItems": 1}),
        ),
        json!({"type": "string", "pattern": "^a|b"}),
        json!({"type": "string", "pattern": "^(a|b$)|^c", "maxLength": 6}),
        json!({"enum": ["a", "ab", 1.5, -0.25, 1000000]}),
        json!({"type": "string", "format": "date-time"}),
    ] {
        answers(&Format::JsonSchema(schema.clone()), |answer, name| {
            let value: Value = serde_json::from_str(&answer.text)
                .unwrap_or_else(|error| panic!("{name}: {:?}: {error}", answer.text));
            assert!(fits(&schema, &value), "{name}: {:?} does not fit {schema}", answer.text);
        });
    }
    answers(&Format::JsonObject, |answer, name| {
        let value: Result<Value, _> = serde_json::from_str(&answer.text);
        assert!(value.is_ok_and(|value| value.is_object()), "{name}: {:?}", answer.text);
    });
}

#[test]
fn texts_match_their_expression() {
    for regex in
        ["[a-z]{2,5}", "^(ab|cd)+$", r" ?a/b\d?", "é+x?", "(?i)yes|no", r#""\w{1,3}""#, " x"]
    {
        let whole = regex::Regex::new(&format!("^(?:{regex})$")).unwrap();
        answers(&Format::Regex(regex.into()), |answer, name| {
            assert!(whole.is_match(&answer.text), "{name}: {:?} is no {regex}", answer.text);
        });
    }
    let choices = ["yes", "no", " maybe", "ye", "a \"b\"\\\n\u{7f}é", "/x/ | \"y\""];
    let choices: Vec<String> = choices.map(str::to_owned).into();
    let mut seen = std::collections::HashSet::new();
    answers(&Format::Choice(choices.clone()), |answer, name| {
        assert!(choices.contains(&answer.text), "{name}: {:?}", answer.text);
        seen.insert(answer.text.clone());
    });
    assert_eq!(seen.len(), choices.len(), "{seen:?}");
    let grammar = "start: sum\nsum: TERM (\"+\" TERM)*\nTERM: /[0-9]{1,2}/ | \"(x)\"";
    let sum = regex::Regex::new(r"^(?:\d{1,2}|\(x\))(?:\+(?:\d{1,2}|\(x\)))*$").unwrap();
    answers(&Format::Grammar(grammar.into()), |answer, name| {
        assert!(sum.is_match(&answer.text), "{name}: {:?}", answer.text);
    });
}

fn tools() -> Vec<ToolSpec> {
    let tool = |name: &str, parameters| ToolSpec {
        name: name.into(),
        description: String::new(),
        parameters,
        strict: false,
    };
    vec![
        tool("f", json!({})),
        tool(
            "f-o_o",
            json!({"type": "object", "properties": {"é\"\\": {"type": "integer", "maximum": 9}},
            "required": ["é\"\\"], "additionalProperties": false}),
        ),
        tool(
            "F00",
            json!({"$ref": "#/definitions/d", "definitions": {"d": {"properties": {"x": {"enum": ["}]", "\"}]"]}},
            "additionalProperties": false}}}),
        ),
    ]
}

fn calling(choice: ToolChoice) -> Request {
    Request { tools: tools(), tool_choice: choice, ..chat(Format::Free) }
}

fn check_calls(name: &str, answer: &Answer) {
    for call in &answer.calls {
        let tool = tools().into_iter().find(|tool| tool.name == call.name).unwrap();
        let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
        let fits = arguments.is_object() && fits(&tool.parameters, &arguments);
        assert!(fits, "{name}: {} for {}", call.arguments, tool.parameters);
        assert!(call.id.len() == 9 && call.id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}

#[test]
fn forced_calls_are_calls_of_the_right_functions() {
    for (name, codec) in CODECS.iter() {
        for seed in 0..seeds(codec) {
            let any = drive(codec, &calling(ToolChoice::Any), seed);
            check_calls(name, &any);
            assert!(!any.is_finished || (!any.calls.is_empty() && any.text.is_empty()), "{any:?}");

            let one = Request { parallel_tool_calls: false, ..calling(ToolChoice::Any) };
            let one = drive(codec, &one, seed);
            check_calls(name, &one);
            assert!(!one.is_finished || one.calls.len() == 1, "{one:?}");

            let named = drive(codec, &calling(ToolChoice::Function("f-o_o".into())), seed);
            assert!(named.calls.iter().all(|call| call.name == "f-o_o"), "{named:?}");
            assert!(!named.is_finished || !named.calls.is_empty());
        }
    }
}

#[test]
fn calls_that_the_model_decides_on_are_kept_in_shape() {
    for (name, codec) in CODECS.iter() {
        let (mut texts, mut calls) = (0, 0);
        for seed in 0..3 * seeds(codec) {
            let free = drive(codec, &calling(ToolChoice::Auto), seed);
            check_calls(name, &free);
            let shaped = Request { format: Format::JsonObject, ..calling(ToolChoice::Auto) };
            let shaped = drive(codec, &shaped, seed);
            check_calls(name, &shaped);
            if shaped.is_finished && shaped.calls.is_empty() {
                assert!(serde_json::from_str::<Value>(&shaped.text).unwrap().is_object());
            }
            texts += usize::from(free.calls.is_empty()) + usize::from(shaped.calls.is_empty());
            calls += free.calls.len() + shaped.calls.len();
        }
        assert!(texts > 0 && calls > 0, "{name}: {texts} texts, {calls} calls");
        let none = Request { tools: tools(), ..chat(Format::JsonObject) };
        let none = Request { tool_choice: ToolChoice::None, ..none };
        assert!((0..seeds(codec)).all(|seed| drive(codec, &none, seed).calls.is_empty()));
    }
}

#[test]
fn sleeping_constraint_wakes_at_the_announcement_and_goes_back_to_sleep() {
    for (_, codec) in CODECS.iter() {
        let prompt = codec.encode(&calling(ToolChoice::Auto)).unwrap();
        let announcer = prompt.announces_calls.unwrap();
        let mut constraint = prompt.constraint.unwrap();
        for token in codec.tokenizer().encode("a b").unwrap() {
            assert!(constraint.mask().unwrap().is_none() && constraint.forced().is_empty());
            constraint.accept(token).unwrap();
        }
        constraint.accept(announcer).unwrap();
        assert!(!constraint.mask().unwrap().unwrap().allows(codec.tokenizer().eos()));
        let calls = codec.tokenizer().encode("[{\"name\": \"f\", \"arguments\": {}}]").unwrap();
        calls.iter().for_each(|&token| constraint.accept(token).unwrap());
        let mask = constraint.mask().unwrap().unwrap();
        assert_eq!(mask.tokens().collect::<Vec<_>>(), [codec.tokenizer().eos()]);
        assert_eq!(constraint.forced(), [codec.tokenizer().eos()]);
        constraint.rollback(calls.len() + 1).unwrap();
        assert!(constraint.mask().unwrap().is_none());
    }
}

#[test]
fn taking_back_is_as_if_never_taken() {
    let schema = json!({"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}},
        "required": ["name", "n"]});
    for (name, codec) in CODECS.iter() {
        let requests = [
            chat(Format::JsonSchema(schema.clone())),
            calling(ToolChoice::Any),
            Request { format: Format::JsonObject, ..calling(ToolChoice::Auto) },
            chat(Format::Regex("a{3}(b|cd)*".into())),
        ];
        for (request, seed) in requests.iter().flat_map(|request| [(request, 1), (request, 2)]) {
            let answer = drive(codec, request, seed).tokens;
            let mut plain = codec.encode(request).unwrap().constraint.unwrap();
            let mut shaken = codec.encode(request).unwrap().constraint.unwrap();
            let mut dice = Dice(seed);
            for (at, &token) in answer.iter().enumerate() {
                let ahead = dice.below(answer.len() - at + 1);
                for &token in &answer[at..at + ahead] {
                    shaken.accept(token).unwrap();
                    if dice.below(3) == 0 {
                        shaken.mask().unwrap();
                    }
                }
                shaken.rollback(ahead).unwrap();
                let error = shaken.rollback(at + 1).unwrap_err();
                assert_eq!(error, ConstraintError::TooFar { tokens: at + 1, accepted: at });
                let masks = (plain.mask().unwrap().cloned(), shaken.mask().unwrap().cloned());
                assert_eq!(masks.0, masks.1, "{name} at {at}");
                assert_eq!(plain.forced(), shaken.forced(), "{name} at {at}");
                assert!(shaken.accept(TokenId(0)).is_err());
                plain.accept(token).unwrap();
                shaken.accept(token).unwrap();
            }
        }
    }
}

#[test]
fn forced_tokens_are_what_the_tokenizer_writes() {
    let schema = json!({"type": "object", "properties": {"first_name": {"const": "Ada"}, "age": {"const": 36}},
        "required": ["first_name", "age"], "additionalProperties": false});
    let text = r#"{"first_name": "Ada", "age": 36}"#;
    for (name, codec) in CODECS.iter() {
        let request = chat(Format::JsonSchema(schema.clone()));
        let prompt = codec.encode(&request).unwrap();
        let mut constraint = codec.encode(&request).unwrap().constraint.unwrap();
        let (mut tokens, mut drawn) = (Vec::new(), 0);
        while tokens.last() != Some(&codec.tokenizer().eos()) {
            let forced = constraint.forced();
            assert!(forced.len() <= 64);
            let next = if forced.is_empty() {
                drawn += 1;
                vec![constraint.mask().unwrap().unwrap().tokens().next().unwrap()]
            } else {
                forced
            };
            for token in next {
                constraint.accept(token).unwrap();
                tokens.push(token);
            }
        }
        let answer = read(codec, &prompt, tokens);
        assert_eq!(answer.text, text, "{name}");
        println!("{name}: {drawn} of {} tokens are drawn", answer.tokens.len());
        assert!(drawn <= 4, "{name}: {drawn} of {} tokens are drawn", answer.tokens.len());
    }
}

#[test]
fn given_beginnings_count() {
    let schema =
        json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
    for (name, codec) in CODECS.iter() {
        let with_prefix = |prefix: &str| {
            let user = Message::User { content: vec!["x".into()] };
            let begun = Message::Assistant {
                content: Some(vec![prefix.into()]),
                tool_calls: Vec::new(),
                prefix: true,
            };
            let format = Format::JsonSchema(schema.clone());
            Request { format, ..Request::new("x", Input::Chat(vec![user, begun])) }
        };
        for seed in 0..seeds(codec) {
            let prefix = "{\"a\": 1";
            let answer = drive(codec, &with_prefix(prefix), seed);
            let whole = format!("{prefix}{}", answer.text);
            assert!(
                !answer.is_finished || fits(&schema, &serde_json::from_str(&whole).unwrap()),
                "{name}: {whole}"
            );
        }
        for prefix in ["{\"a\":1", "[", "{\"b\": 1, \"a\"", "Sure: {"] {
            let error = codec.encode(&with_prefix(prefix)).unwrap_err();
            assert!(
                matches!(error, TextError::Rule { param, .. } if param == "messages"),
                "{prefix}"
            );
        }
    }
}

#[test]
fn spaces_in_front_are_text_or_not() {
    for (name, codec) in CODECS.iter() {
        let strips = name.contains("sentencepiece") || name == "v3";
        let goes_on = |format| Request { format, ..Request::new("x", Input::Text("x".into())) };
        // Encoding puts the space in front that decoding takes away.
        let text = spell(&json!({"a": [1]}));
        assert!(accepts(codec, &chat(Format::JsonObject), &text), "{name}");
        assert_eq!(accepts(codec, &goes_on(Format::JsonObject), &text), !strips, "{name}");
        let spaced = Format::Regex(" +a".into());
        assert!(!accepts(codec, &chat(spaced.clone()), "a"), "{name}");
        assert!(accepts(codec, &chat(spaced), " a"), "{name}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let (_, codec) = &CODECS[1];
    let fault = |request: &Request| protocol::Fault::from(codec.encode(request).unwrap_err());
    let many = (0..2000).map(|n| n.to_string()).collect();
    for (format, word) in [
        (
            Format::JsonSchema(json!({"properties": {"a": {"uniqueItems": true}}})),
            "properties.a: uniqueItems",
        ),
        (Format::JsonSchema(json!({"type": "objekt"})), "type"),
        (Format::JsonSchema(json!({"oneOf": [{"minimum": 1}, {"maximum": 3}]})), "oneOf"),
        (Format::JsonSchema(json!({"$ref": "https://json-schema.org/schema"})), "$ref"),
        (Format::JsonSchema(json!({"const": "x".repeat(300 << 10)})), "limit"),
        (Format::JsonSchema(json!({"pattern": "x(^a|b$)?"})), "pattern"),
        (Format::Regex("(".into()), "regular expression"),
        (Format::Regex("a(?=b)".into()), "regular expression"),
        (Format::Regex("a".repeat(17 << 10)), "limit"),
        (Format::Grammar("start: <[7]>".into()), "tokens"),
        (Format::Grammar("start: unknown".into()), "grammar"),
        (Format::Choice(Vec::new()), "choices"),
        (Format::Choice(vec![String::new()]), "choice"),
        (Format::Choice(many), "choices"),
    ] {
        let fault = fault(&chat(format.clone()));
        assert!(fault.message.contains(word), "{format:?}: {}", fault.message);
        assert!(fault.param.unwrap().starts_with("response_format"));
        assert!(fault.message.len() < 600);
    }
    let mut request = calling(ToolChoice::Auto);
    request.tools[2].strict = true;
    request.tools[2].parameters = json!({"properties": {"x": {"not": {}}}});
    let message = fault(&request).message;
    assert!(message.contains("tools[2].function.parameters.properties.x: not"), "{message}");
    assert!(message.contains("without strict"), "{message}");
    request.tools[2].parameters = json!({"oneOf": [{"minProperties": 1}, {"maxProperties": 3}]});
    assert!(fault(&request).message.contains("tools[2].function.parameters: oneOf"));
    request.tools[2].strict = false;
    assert!(codec.encode(&request).is_ok());
    request.tools[2].parameters = json!({"type": "string"});
    assert!(fault(&request).message.contains("object"));
    for choice in [ToolChoice::Any, ToolChoice::Function("g".into())] {
        let mut request = Request { tool_choice: choice, ..chat(Format::Free) };
        assert_eq!(fault(&request).param.as_deref(), Some("tool_choice"));
        request.input = Input::Text("x".into());
        request.tools = tools();
        assert_eq!(fault(&request).param.as_deref(), Some("tool_choice"));
    }
}

#[test]
fn fills_and_tokens_may_have_a_format() {
    for (name, codec) in CODECS.iter() {
        let fill = Input::Fill { prefix: "x = ".into(), suffix: Some(";".into()) };
        let tokens = Input::Tokens(codec.tokenizer().encode("x").unwrap());
        for input in [fill, tokens] {
            let request =
                Request { input, ..chat(Format::Choice(vec!["yes".into(), "no".into()])) };
            let answer = drive(codec, &request, 3);
            assert!(answer.text == "yes" || answer.text == "no", "{name}: {answer:?}");
        }
    }
}

/// The words of a schema that have no place of their own: a codec is shared between threads.
#[test]
fn codecs_are_shared() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Codec>();
}
