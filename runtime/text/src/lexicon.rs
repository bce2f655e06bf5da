//! What each token of a vocabulary says: one table for every container.

use std::collections::HashMap;

use protocol::TokenId;

/// What one token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// These bytes; not always whole characters.
    Text(Vec<u8>),
    /// One byte of a character that has no token of its own.
    Byte(u8),
    /// Nothing.
    Control(String),
    /// That something could not be said.
    Unknown { name: String, surface: String },
}

/// How tokens become text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoding {
    /// Texts are whole characters, bytes come as tokens of their own. Encoding put a space in front,
    /// so decoding takes it away.
    SentencePiece { strips_space: bool },
    /// Texts are bytes.
    Bytes,
}

/// What every token says, by id.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    tokens: Vec<Token>,
    controls: HashMap<String, TokenId>,
    pub(crate) unknown: Option<TokenId>,
    pub(crate) decoding: Decoding,
}

impl Vocabulary {
    pub(crate) fn new(tokens: Vec<Token>, decoding: Decoding) -> Self {
        let mut controls = HashMap::new();
        let mut unknown = None;
        for (id, token) in (0..).map(TokenId).zip(&tokens) {
            match token {
                Token::Control(name) => {
                    controls.entry(name.clone()).or_insert(id);
                    if name == "<unk>" {
                        unknown.get_or_insert(id);
                    }
                }
                Token::Unknown { .. } => {
                    unknown.get_or_insert(id);
                }
                Token::Text(_) | Token::Byte(_) => {}
            }
        }
        Self { tokens, controls, unknown, decoding }
    }

    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(crate) fn token(&self, token: TokenId) -> Option<&Token> {
        self.tokens.get(token.0 as usize)
    }

    /// The name of a token that says no text of its own.
    pub(crate) fn name(&self, token: TokenId) -> Option<&str> {
        match self.token(token)? {
            Token::Control(name) | Token::Unknown { name, .. } => Some(name),
            Token::Text(_) | Token::Byte(_) => None,
        }
    }

    pub(crate) fn control(&self, name: &str) -> Option<TokenId> {
        self.controls.get(name).copied()
    }

    pub(crate) fn controls(&self) -> impl Iterator<Item = TokenId> {
        self.tokens.iter().zip(0..).filter_map(|(token, id)| {
            matches!(token, Token::Control(_) | Token::Unknown { .. }).then_some(TokenId(id))
        })
    }
}
