//! One tokenizer, wherever it came from: what cuts text into tokens, and what each token says.
//!
//! Cutting differs by container and lives in `sentencepiece`, `tekken` and `hugging_face`. What a
//! token says is one table for all of them, so decoding is written once. Control tokens are in that
//! table and nowhere in the cutters: text can never become one.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use protocol::{Likelihood, TokenId};

use crate::cutter::Cutter;
use crate::joiner::Joiner;
use crate::lexicon::{Decoding, Token, Vocabulary};
use crate::{TemplateVersion, TextError, hugging_face, sentencepiece, tekken, vocabulary};

/// Bytes of a tokenizer file; the largest published one has 20 MB.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// Bytes of one text; offsets inside the cutters are 32 bits wide.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// Cuts text into tokens and joins them again. Immutable: share it between threads.
#[derive(Debug)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    cutter: Cutter,
    bos: TokenId,
    eos: TokenId,
    version: TemplateVersion,
}

impl Tokenizer {
    /// Loads `tokenizer.model*`, `tekken.json` or `tokenizer.json`; the content decides which.
    ///
    /// Errors: an unreadable, too large or malformed file, or one that needs what is not supported.
    pub fn from_file(path: &Path) -> Result<Self, TextError> {
        let unreadable = |source| TextError::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let bytes = file.metadata().map_err(unreadable)?.len();
        if bytes > FILE_BYTES_MAX {
            let (path, bytes_max) = (path.to_owned(), FILE_BYTES_MAX);
            return Err(TextError::TooLarge { path, bytes, bytes_max });
        }
        let mut content = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut content).map_err(unreadable)?;
        Self::from_bytes(&content)
    }

    /// Loads the content of a tokenizer file.
    ///
    /// Errors: as [`Self::from_file`].
    pub fn from_bytes(content: &[u8]) -> Result<Self, TextError> {
        let is_json = content.trim_ascii_start().first() == Some(&b'{');
        // SentencePiece models begin with the tag of their first piece.
        if !is_json && content.first() == Some(&0x0a) {
            let (vocabulary, cutter) = sentencepiece::parse(content)?;
            return Self::new(vocabulary, Cutter::SentencePiece(cutter), None);
        }
        if !is_json {
            return Err(TextError::malformed(
                "tokenizer",
                "it is neither a SentencePiece model nor JSON; give tokenizer.model, tekken.json \
                 or tokenizer.json",
            ));
        }
        if tekken::looks_like(content) {
            let (vocabulary, cutter, version) = tekken::parse(content)?;
            return Self::new(vocabulary, Cutter::Tekken(cutter), Some(version));
        }
        let (vocabulary, cutter) = hugging_face::parse(content)?;
        Self::new(vocabulary, Cutter::HuggingFace(Box::new(cutter)), None)
    }

    /// Builds the tokenizer that a GGUF file carries.
    ///
    /// Errors: a vocabulary that contradicts itself, or is of a kind that is not supported.
    pub fn from_vocabulary(vocabulary: &weights::Vocabulary) -> Result<Self, TextError> {
        let (table, cutter) = vocabulary::build(vocabulary)?;
        let ends = [vocabulary.bos, vocabulary.eos].map(|id| id.map(TokenId));
        Self::with_ends(table, cutter, None, ends)
    }

    fn new(
        vocabulary: Vocabulary,
        cutter: Cutter,
        version: Option<TemplateVersion>,
    ) -> Result<Self, TextError> {
        Self::with_ends(vocabulary, cutter, version, [None, None])
    }

    /// `ends`: the tokens that begin and end a sequence, where the container names them.
    fn with_ends(
        vocabulary: Vocabulary,
        cutter: Cutter,
        version: Option<TemplateVersion>,
        ends: [Option<TokenId>; 2],
    ) -> Result<Self, TextError> {
        let version = version.unwrap_or_else(|| {
            let has = |name| vocabulary.control(name).is_some();
            let is_byte_level = matches!(vocabulary.decoding, Decoding::Bytes);
            match () {
                () if has("[SYSTEM_PROMPT]") => TemplateVersion::V7,
                () if has("[INST]") && is_byte_level => TemplateVersion::V3Tekken,
                () if has("[PREFIX]") => TemplateVersion::V3,
                () if has("[INST]") => TemplateVersion::V2,
                () => TemplateVersion::V1,
            }
        });
        let end = |listed: Option<TokenId>, name: &str| {
            listed
                .or_else(|| vocabulary.control(name))
                .filter(|&token| vocabulary.token(token).is_some())
                .ok_or_else(|| {
                    TextError::malformed("vocabulary", format!("it has no control token {name}"))
                })
        };
        let (bos, eos) = (end(ends[0], "<s>")?, end(ends[1], "</s>")?);
        Ok(Self { vocabulary, cutter, bos, eos, version })
    }

    /// Number of tokens; ids below it exist.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// The token in front of every prompt.
    pub fn bos(&self) -> TokenId {
        self.bos
    }

    /// The token that ends an answer.
    pub fn eos(&self) -> TokenId {
        self.eos
    }

    /// The token for what the vocabulary cannot say, if it has one.
    pub fn unknown(&self) -> Option<TokenId> {
        self.vocabulary.unknown
    }

    /// Cuts plain text; adds nothing, and never gives a control token.
    ///
    /// Errors: a text over 64 MiB, or one that the tokenizer of a `tokenizer.json` refuses.
    pub fn encode(&self, text: &str) -> Result<Vec<TokenId>, TextError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TextError::rule(
                "messages",
                format!("a text has {} bytes, the limit is {TEXT_BYTES_MAX}", text.len()),
            ));
        }
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        match &self.cutter {
            Cutter::SentencePiece(cutter) => cutter.encode(text, &mut ids),
            Cutter::Tekken(cutter) => cutter.encode(text, &mut ids),
            Cutter::HuggingFace(cutter) => {
                cutter.encode(text, &mut ids)?;
                if ids.iter().any(|&id| self.is_control(TokenId(id))) {
                    return Err(TextError::Uncut {
                        message: "its rules turn plain text into a control token".into(),
                    });
                }
            }
        }
        Ok(ids.into_iter().map(TokenId).collect())
    }

    /// Cuts text that goes on behind other text: no space goes in front.
    ///
    /// Errors: as [`Self::encode`].
    pub(crate) fn encode_continued(&self, text: &str) -> Result<Vec<TokenId>, TextError> {
        match &self.cutter {
            Cutter::SentencePiece(cutter) => {
                let mut ids = Vec::with_capacity(text.len() / 3 + 2);
                cutter.encode_continued(text, &mut ids);
                Ok(ids.into_iter().map(TokenId).collect())
            }
            Cutter::Tekken(_) | Cutter::HuggingFace(_) => self.encode(text),
        }
    }

    /// Joins tokens to text. Control tokens and ids outside the vocabulary are skipped; bytes that
    /// are no UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[TokenId]) -> String {
        let mut text = String::new();
        let mut joiner = Joiner::new(true);
        for &token in tokens {
            joiner.push(&self.vocabulary, token, &mut text);
        }
        joiner.finish(&self.vocabulary, &mut text);
        text
    }

    /// The prompt encoding that this tokenizer was made for, by what its file holds.
    pub fn likely_version(&self) -> TemplateVersion {
        self.version
    }

    /// Whether a token steers the model and says nothing; ids outside the vocabulary do neither.
    pub fn is_control(&self, token: TokenId) -> bool {
        matches!(self.vocabulary.token(token), Some(Token::Control(_)))
    }

    /// The control token of this name, such as `[INST]`.
    pub fn control(&self, name: &str) -> Option<TokenId> {
        self.vocabulary.control(name)
    }

    /// Whether all tokens say the same in both; control tokens may have other names.
    pub fn speaks_like(&self, other: &Self) -> bool {
        let size = self.vocabulary_size();
        let mut ids = (0..u32::try_from(size).unwrap_or(u32::MAX)).map(TokenId);
        size == other.vocabulary_size() && ids.all(|id| self.says(id) == other.says(id))
    }

    /// The bytes of a token that says text; empty for all others.
    pub(crate) fn says(&self, token: TokenId) -> &[u8] {
        match self.vocabulary.token(token) {
            Some(Token::Text(bytes)) => bytes,
            Some(Token::Byte(byte)) => std::slice::from_ref(byte),
            Some(Token::Control(_) | Token::Unknown { .. }) | None => &[],
        }
    }

    /// What a token of this likelihood says, or what it is called.
    pub fn likelihood(&self, token: TokenId, logprob: f32) -> Likelihood {
        let (text, bytes) = match self.vocabulary.token(token) {
            Some(Token::Control(name) | Token::Unknown { name, .. }) => (name.clone(), None),
            Some(Token::Text(_) | Token::Byte(_)) | None => {
                let bytes = self.says(token).to_vec();
                (String::from_utf8_lossy(&bytes).into_owned(), Some(bytes))
            }
        };
        Likelihood { token, text, bytes, logprob }
    }

    pub(crate) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }
}
