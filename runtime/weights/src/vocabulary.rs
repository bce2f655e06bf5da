//! The vocabulary that a GGUF file carries.

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// Text.
    Normal,
    /// Stands for what the vocabulary cannot say.
    Unknown,
    /// A control token: text from a user never becomes one.
    Control,
    /// Added to the vocabulary by whoever made the model.
    UserDefined,
    /// A hole.
    Unused,
    /// One raw byte, spelled `<0x00>`.
    Byte,
}

impl TokenKind {
    /// In the order of GGUF's numbers, which begin with one.
    pub(crate) const ALL: [Self; 6] =
        [Self::Normal, Self::Unknown, Self::Control, Self::UserDefined, Self::Unused, Self::Byte];

    /// The number that stands for it in a GGUF file.
    pub(crate) const fn number(self) -> i32 {
        self as i32 + 1
    }
}

/// The vocabulary as the file states it. `tokens`, `kinds` and, unless empty, `scores` have one
/// entry for each token id; every id named here is one of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Vocabulary {
    /// "llama" is SentencePiece-like, "gpt2" is byte-level byte-pair encoding.
    pub model: String,
    /// Which pre-tokenizer cuts the text.
    pub pre: Option<String>,
    /// The tokens' text, by id.
    pub tokens: Vec<String>,
    /// SentencePiece's scores; empty where the model has none.
    pub scores: Vec<f32>,
    /// What each token is for.
    pub kinds: Vec<TokenKind>,
    /// Byte-pair merges, best first, each "left right"; empty where the model has none.
    pub merges: Vec<String>,
    /// Begin of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// The unknown token.
    pub unknown: Option<u32>,
    /// Whether text gets a space in front before it is cut.
    pub add_space_prefix: Option<bool>,
    /// Whether an encoded text begins with `bos`.
    pub add_bos: Option<bool>,
    /// The chat template in the file. It is data to show, never a program to run.
    pub chat_template: Option<String>,
}

impl Vocabulary {
    /// A vocabulary without merges: the sooner a token stands, the sooner it is joined. `<s>`, `</s>`
    /// and `<unk>` have their meaning where they are there; what a file may leave unsaid is unsaid.
    pub fn new(model: &str, tokens: Vec<(String, TokenKind)>) -> Self {
        let id = |name: &str| tokens.iter().position(|(text, _)| text == name).map(|id| id as u32);
        Self {
            model: model.into(),
            pre: None,
            bos: id("<s>"),
            eos: id("</s>"),
            unknown: id("<unk>"),
            scores: (0..tokens.len()).map(|id| -(id as f32)).collect(),
            kinds: tokens.iter().map(|(_, kind)| *kind).collect(),
            tokens: tokens.into_iter().map(|(text, _)| text).collect(),
            merges: Vec::new(),
            add_space_prefix: None,
            add_bos: None,
            chat_template: None,
        }
    }
}
