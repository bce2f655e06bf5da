//! What the tests of this crate share: a tiny codec, a tiny network's capacity, requests.

use std::sync::Arc;

use protocol::{Event, Input, ModelCard, Reply, Request, TokenId};
use text::{Codec, TemplateVersion, Tokenizer};

use crate::batch::Capacity;
use crate::intake::Serving;

/// Ends an answer.
pub(crate) const END: TokenId = TokenId(2);

/// Entries of the vocabulary: three control tokens and the letters.
pub(crate) const VOCABULARY: u32 = 29;

pub(crate) fn capacity() -> Capacity {
    Capacity {
        vocabulary: VOCABULARY,
        pages: 16,
        page_tokens: 4,
        context_tokens_max: 48,
        batch_tokens_max: 16,
        tile_tokens: 1,
    }
}

/// A codec whose tokens 3 to 28 are the letters `a` to `z`.
pub(crate) fn codec() -> Codec {
    let letters = ('a'..='z').map(String::from).collect();
    let tokenizer = tokenizer(&["<unk>", "<s>", "</s>"], letters);
    Codec::new(tokenizer, TemplateVersion::V1).expect("v1 needs no control tokens")
}

/// A codec that knows function calls; its texts are printable ASCII, a token for each character.
pub(crate) fn codec_with_tools() -> Codec {
    let controls = [
        "<unk>",
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "[TOOL_CALLS]",
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]",
    ];
    let tokenizer = tokenizer(&controls, (' '..='~').map(String::from).collect());
    Codec::new(tokenizer, TemplateVersion::V3).expect("the control tokens of v3 are there")
}

/// A tokenizer of control tokens and, behind them, one token for each text.
fn tokenizer(controls: &[&str], texts: Vec<String>) -> Arc<Tokenizer> {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let texts = controls.iter().map(|text| text.to_string()).chain(texts);
    let vocabulary: Vec<String> =
        texts.enumerate().map(|(id, text)| format!("\"{}\":{id}", quoted(&text))).collect();
    let flags = "\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\
                 \"special\":true";
    let added = controls.iter().enumerate();
    let added: Vec<String> =
        added.map(|(id, text)| format!("{{\"id\":{id},\"content\":\"{text}\",{flags}}}")).collect();
    let json = format!(
        "{{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[{}],\
         \"normalizer\":null,\"pre_tokenizer\":null,\"post_processor\":null,\
         \"decoder\":{{\"type\":\"ByteFallback\"}},\
         \"model\":{{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":\"<unk>\",\
         \"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,\
         \"byte_fallback\":false,\"vocab\":{{{}}},\"merges\":[]}}}}",
        added.join(","),
        vocabulary.join(",")
    );
    Arc::new(Tokenizer::from_bytes(json.as_bytes()).expect("the tiny tokenizer loads"))
}

pub(crate) fn serving() -> Serving {
    let card = ModelCard { id: "tiny".into(), ..ModelCard::default() };
    Serving { card, codec: codec(), aliases: Vec::new() }
}

/// A greedy request to continue these letters.
pub(crate) fn request(id: &str, letters: &str) -> Request {
    let mut request = Request::new(id, Input::Tokens(tokens(letters)));
    request.sampling.temperature = Some(0.0);
    request
}

pub(crate) fn tokens(letters: &str) -> Vec<TokenId> {
    letters.bytes().map(|letter| TokenId(u32::from(letter - b'a') + 3)).collect()
}

/// What a reply said, in short: its texts joined, and its last event.
pub(crate) fn read(reply: &mut Reply) -> (String, Event) {
    let mut said = String::new();
    loop {
        match reply.recv() {
            Some(Event::Text { text, .. }) => said.push_str(&text),
            Some(last) if last.is_last() => return (said, last),
            Some(_) => {}
            None => unreachable!("a reply ends with a last event"),
        }
    }
}
