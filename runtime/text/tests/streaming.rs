//! What holds for any tokens and any text, on a vocabulary made here.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use protocol::{Input, Message, Request, TokenId, TokenLogprob, ToolChoice, ToolSpec};
use serde_json::json;
use text::{Codec, Decoder, Piece, Stops, StreamDecoder, TemplateVersion, TextError, Tokenizer};
use vocabularies::{CONTROLS, WORDS, hugging_face, sentencepiece, tekken, vocabulary};
use weights::TokenKind;

mod vocabularies;

static TOKENIZERS: LazyLock<[Arc<Tokenizer>; 3]> =
    LazyLock::new(|| [sentencepiece(), tekken(), hugging_face()]);

fn tokenizers() -> impl Iterator<Item = &'static Arc<Tokenizer>> {
    TOKENIZERS.iter()
}

fn codec(tokenizer: &Arc<Tokenizer>) -> Codec {
    Codec::new(Arc::clone(tokenizer), TemplateVersion::V7).unwrap()
}

fn chat(text: &str) -> Request {
    Request::new("x", Input::Chat(vec![Message::User { content: vec![text.into()] }]))
}

fn with_tool(mut request: Request) -> Request {
    let parameters = json!({"type": "object"});
    request.tools.push(ToolSpec {
        name: "f".into(),
        description: String::new(),
        parameters,
        strict: false,
    });
    request
}

fn run(decoder: &mut Decoder, tokens: &[TokenId]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = tokens.iter().flat_map(|&token| decoder.push(token)).collect();
    pieces.extend(decoder.finish());
    pieces
}

/// The same with likelihoods: that of the token at place `n` is `-n`.
fn run_told(tokenizer: &Tokenizer, decoder: &mut Decoder, tokens: &[TokenId]) -> Vec<Piece> {
    let told = tokens.iter().zip(0u16..).map(|(&token, place)| {
        let chosen = tokenizer.likelihood(token, -f32::from(place));
        TokenLogprob { chosen, likeliest: Vec::new() }
    });
    let mut pieces: Vec<Piece> = told.flat_map(|told| decoder.push_told(told)).collect();
    pieces.extend(decoder.finish());
    pieces
}

/// The text of each piece, and the places of the tokens that are told with it.
fn told_of(pieces: &[Piece]) -> Vec<(&str, Vec<u16>)> {
    let mut told = Vec::new();
    for piece in pieces {
        if let Piece::Text { text, logprobs, .. } = piece {
            let places = logprobs.iter().map(|told| -told.chosen.logprob as u16);
            told.push((text.as_str(), places.collect()));
        }
    }
    told
}

fn text_of(pieces: &[Piece]) -> String {
    let text = |piece: &Piece| match piece {
        Piece::Text { text, .. } => text.clone(),
        Piece::ToolCall(_) | Piece::Stop => String::new(),
    };
    pieces.iter().map(text).collect()
}

fn tokens() -> impl Strategy<Value = Vec<TokenId>> {
    prop::collection::vec((0..300u32).prop_map(TokenId), 0..24)
}

proptest! {
    #[test]
    fn pieces_join_to_the_whole(tokens in tokens()) {
        for tokenizer in tokenizers() {
            let mut stream = StreamDecoder::new(Arc::clone(tokenizer));
            let mut joined: String = tokens.iter().map(|&token| stream.push(token)).collect();
            joined += &stream.finish();
            prop_assert_eq!(&joined, &tokenizer.decode(&tokens));

            let codec = codec(tokenizer);
            let prompt = codec.encode(&chat("x")).unwrap();
            let pieces = run(&mut codec.decoder(&prompt), &tokens);
            prop_assert_eq!(&text_of(&pieces), &joined);
            let is_empty = |piece: &Piece| matches!(piece, Piece::Text { text, .. } if text.is_empty());
            prop_assert!(!pieces.iter().any(is_empty));
        }
    }

    #[test]
    fn stop_texts_never_show(tokens in tokens(), stops in prop::collection::vec("[ab<é ]{1,3}", 1..4)) {
        for tokenizer in tokenizers() {
            let codec = codec(tokenizer);
            let mut request = chat("x");
            request.limits.stop = stops.clone();
            let pieces = run(&mut codec.decoder(&codec.encode(&request).unwrap()), &tokens);
            let shown = text_of(&pieces);
            let whole = tokenizer.decode(&tokens);
            let first = stops.iter().filter_map(|stop| whole.find(stop.as_str())).min();
            prop_assert_eq!(shown, &whole[..first.unwrap_or(whole.len())]);
            prop_assert_eq!(pieces.last() == Some(&Piece::Stop), first.is_some());
        }
    }

    #[test]
    fn likelihoods_come_with_the_text_that_their_tokens_begin(
        text in "[ab<é日 ]{0,16}", stops in prop::collection::vec("[ab<é ]{1,3}", 0..3),
    ) {
        for tokenizer in tokenizers() {
            let codec = codec(tokenizer);
            let mut request = chat("x");
            request.limits.stop = stops.clone();
            let prompt = codec.encode(&request).unwrap();
            let tokens = tokenizer.encode(&text).unwrap();
            let told = run_told(tokenizer, &mut codec.decoder(&prompt), &tokens);
            let plain = run(&mut codec.decoder(&prompt), &tokens);
            prop_assert_eq!(text_of(&told), text_of(&plain));

            let bytes = |token: &TokenId| tokenizer.likelihood(*token, 0.0).bytes.unwrap().len();
            let all: usize = tokens.iter().map(bytes).sum();
            // The space that encoding put in front of the text is said by a token and not shown.
            let (mut shown, mut next) = (all - tokenizer.decode(&tokens).len(), 0);
            for (text, places) in told_of(&told) {
                shown += text.len();
                for place in places {
                    prop_assert_eq!(place, next, "in order, none left out");
                    let before: usize = tokens[..usize::from(place)].iter().map(bytes).sum();
                    prop_assert!(before < shown, "{:?} begins in later text", place);
                    next += 1;
                }
                let told: usize = tokens[..usize::from(next)].iter().map(bytes).sum();
                prop_assert!(told >= shown, "{:?} has text of a token that is not told", text);
            }
        }
    }

    #[test]
    fn text_never_becomes_a_control_token(words in prop::collection::vec(prop::sample::select([&CONTROLS[..], &WORDS[..], &["x", " ", "\n", "日本"]].concat()), 0..12)) {
        let text = words.concat();
        for tokenizer in tokenizers() {
            let tokens = tokenizer.encode(&text).unwrap();
            prop_assert!(!tokens.iter().any(|&token| tokenizer.is_control(token)));
            // An escaped space in the text itself reads back as a space.
            prop_assert_eq!(tokenizer.decode(&tokens).replace('▁', " "), text.replace('▁', " "));
        }
    }
}

#[test]
fn call_is_given_whole_and_its_spelling_never_shows() {
    for tokenizer in tokenizers() {
        let codec = codec(tokenizer);
        let prompt = codec.encode(&with_tool(chat("x"))).unwrap();
        let mut answer = tokenizer.encode("ab").unwrap();
        answer.push(tokenizer.control("[TOOL_CALLS]").unwrap());
        let calls = r#"[{"name": "f", "arguments": {"x": "]"}}, {"name": "f", "id": "abcdefghi"}]"#;
        answer.extend(tokenizer.encode(calls).unwrap());
        let pieces = run(&mut codec.decoder(&prompt), &answer);
        let [Piece::Text { text, tokens, .. }, Piece::ToolCall(first), Piece::ToolCall(second)] =
            pieces.as_slice()
        else {
            panic!("{pieces:?}");
        };
        assert!(text == "ab" && *tokens > 0);
        assert_eq!((first.name.as_str(), first.arguments.as_str()), ("f", r#"{"x": "]"}"#));
        assert!(first.id.len() == 9 && first.id.bytes().all(|b| b.is_ascii_alphanumeric()));
        assert_eq!(second.id, "abcdefghi");
        assert_eq!(run(&mut codec.decoder(&prompt), &answer), pieces);
    }
}

#[test]
fn likelihoods_of_calls_steering_tokens_and_ends_are_not_told() {
    for tokenizer in tokenizers() {
        let codec = codec(tokenizer);
        let prompt = codec.encode(&with_tool(chat("x"))).unwrap();
        let calls = tokenizer.control("[TOOL_CALLS]").unwrap();
        let word = tokenizer.encode("ab").unwrap();
        let words = word.len() as u16;

        let mut answer = [word.clone(), vec![calls]].concat();
        answer.extend(tokenizer.encode(r#"[{"name": "f", "arguments": {}}]"#).unwrap());
        answer.push(tokenizer.eos());
        let pieces = run_told(tokenizer, &mut codec.decoder(&prompt), &answer);
        assert_eq!(told_of(&pieces), [("ab", (0..words).collect())]);
        assert!(matches!(pieces.last(), Some(Piece::ToolCall(_))));

        // What looked like a call and is none is text, told like any other.
        let mut answer = [word, vec![calls]].concat();
        let broken = tokenizer.encode("{}").unwrap();
        answer.extend(&broken);
        let pieces = run_told(tokenizer, &mut codec.decoder(&prompt), &answer);
        let broken = words + 1..words + 1 + broken.len() as u16;
        assert_eq!(told_of(&pieces), [("ab", (0..words).collect()), ("{}", broken.collect())]);
    }
}

#[test]
fn likelihoods_spell_parts_of_characters_and_name_what_says_nothing() {
    let tokenizer = tekken();
    let [first, second] = [0xc3, 0xa9].map(|byte| {
        (0..300)
            .map(TokenId)
            .find(|&token| tokenizer.likelihood(token, 0.0).bytes == Some(vec![byte]))
    });
    let codec = codec(&tokenizer);
    let prompt = codec.encode(&chat("x")).unwrap();
    let pieces =
        run_told(&tokenizer, &mut codec.decoder(&prompt), &[first, second].map(Option::unwrap));
    assert_eq!(told_of(&pieces), [("é", vec![0, 1])]);
    assert_eq!(tokenizer.likelihood(first.unwrap(), 0.0).text, "\u{fffd}");
    let end = tokenizer.likelihood(tokenizer.eos(), 0.0);
    assert_eq!((end.text.as_str(), end.bytes), ("</s>", None));
}

#[test]
fn call_that_is_cut_off_is_no_text_and_those_before_it_are_calls() {
    let tokenizer = sentencepiece();
    let codec = codec(&tokenizer);
    let prompt = codec.encode(&with_tool(chat("x"))).unwrap();
    let mut answer = vec![tokenizer.control("[TOOL_CALLS]").unwrap()];
    answer.extend(tokenizer.encode(r#"[{"name": "f", "#).unwrap());
    assert_eq!(run(&mut codec.decoder(&prompt), &answer), []);
    answer.extend(tokenizer.encode(r#""arguments": {}}, {"name": "g", "#).unwrap());
    let pieces = run(&mut codec.decoder(&prompt), &answer);
    assert!(matches!(pieces.as_slice(), [Piece::ToolCall(call)] if call.name == "f"), "{pieces:?}");
}

#[test]
fn steering_tokens_are_banned_where_they_have_no_place() {
    let tokenizer = sentencepiece();
    let codec = codec(&tokenizer);
    let calls = tokenizer.control("[TOOL_CALLS]").unwrap();
    let plain = codec.encode(&chat("x")).unwrap();
    assert!(plain.banned.contains(&calls) && plain.banned.contains(&TokenId(0)));
    assert!(!plain.banned.contains(&tokenizer.eos()));
    assert_eq!(plain.announces_calls, None);

    let offered = codec.encode(&with_tool(chat("x"))).unwrap();
    assert!(!offered.banned.contains(&calls));
    assert_eq!(offered.announces_calls, Some(calls));

    let mut refused = with_tool(chat("x"));
    refused.tool_choice = ToolChoice::None;
    assert!(codec.encode(&refused).unwrap().banned.contains(&calls));
    assert!(codec.encode(&Request::new("x", Input::Text("x".into()))).unwrap().banned.is_empty());
}

#[test]
fn continued_text_keeps_the_space_between() {
    let tokenizer = sentencepiece();
    let codec = codec(&tokenizer);
    let answer = tokenizer.encode("the").unwrap();
    let shown = |input: Input| {
        let prompt = codec.encode(&Request::new("x", input)).unwrap();
        text_of(&run(&mut codec.decoder(&prompt), &answer))
    };
    assert_eq!(shown(Input::Text("ab".into())), " the");
    assert_eq!(shown(Input::Text(String::new())), "the");
    assert_eq!(shown(Input::Chat(vec![Message::User { content: vec!["ab".into()] }])), "the");
    assert_eq!(shown(Input::Tokens(vec![tokenizer.bos()])), "the");
}

#[test]
fn template_without_its_control_tokens_is_refused() {
    let bare = vec![
        ("<unk>".to_owned(), TokenKind::Unknown),
        ("<s>".to_owned(), TokenKind::Control),
        ("</s>".to_owned(), TokenKind::Control),
        ("a".to_owned(), TokenKind::Normal),
    ];
    let tokenizer = Arc::new(Tokenizer::from_vocabulary(&vocabulary("llama", None, bare)).unwrap());
    assert_eq!(tokenizer.likely_version(), TemplateVersion::V1);
    let codec = Codec::new(Arc::clone(&tokenizer), TemplateVersion::V1).unwrap();
    assert!(codec.encode(&chat("a")).is_ok());
    for version in [TemplateVersion::V2, TemplateVersion::V3, TemplateVersion::V7] {
        assert!(matches!(codec.with_version(version), Err(TextError::MissingControl { .. })));
    }
}

#[test]
fn requests_over_a_limit_name_the_field() {
    let codec = codec(&sentencepiece());
    let fault = |request: &Request| protocol::Fault::from(codec.encode(request).unwrap_err());
    let mut request = chat("x");
    request.limits.stop = vec![String::new()];
    assert_eq!(fault(&request).param.as_deref(), Some("stop"));
    let mut request = chat("x");
    request.format = protocol::Format::JsonSchema(serde_json::json!({"not": {}}));
    assert_eq!(fault(&request).code, protocol::FaultCode::Unsupported);
    let mut request = chat("x");
    request.tool_choice = ToolChoice::Any;
    assert_eq!(fault(&request).param.as_deref(), Some("tool_choice"));
    let request = Request::new("x", Input::Tokens(vec![TokenId(1 << 30)]));
    assert_eq!(fault(&request).param.as_deref(), Some("tokens"));
    assert_eq!(Stops::new(&[]).unwrap().texts().len(), 0);
}

#[test]
fn malformed_tokenizers_are_errors() {
    for content in [
        &b""[..],
        b"hello",
        b"{",
        b"{}",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0a\x03\x0a\x01a",
        br#"{"config":{"pattern":"a","default_vocab_size":4000000000,"default_num_special_tokens":0,"version":"v3"},"vocab":[]}"#,
        br#"{"config":{"pattern":"a","default_vocab_size":1256,"default_num_special_tokens":1000,"version":"v13"},"vocab":[]}"#,
        br#"{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,"model":{"type":"BPE","vocab":{"a":4000000000},"merges":[]}}"#,
    ] {
        assert!(Tokenizer::from_bytes(content).is_err());
    }
}
