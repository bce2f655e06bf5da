//! Grammars to automata over the tokens of one vocabulary, the last ones kept.
//!
//! The vocabulary is a trie of the bytes that its tokens say. Control tokens are not in it, so no
//! grammar and no text can ask for one.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};
use protocol::TokenId;

use crate::Tokenizer;
use crate::lexicon::Token;

/// Compiled grammars that are kept; a service uses a handful of schemas again and again.
const KEPT_MAX: usize = 16;
/// Bytes of the grammars that are kept, as text; compiled they take up to 500 times as much.
const KEPT_BYTES_MAX: usize = 512 << 10;
/// Bytes of one token in the trie, whose nodes count their depth in 10 bits.
const TOKEN_BYTES_MAX: usize = 1000;
/// Bytes of all tokens together, for the trie counts its nodes in 22 bits.
const TRIE_BYTES_MAX: usize = 4_000_000;
/// Stack of the thread that compiles: the compiler recurses over nesting and properties, within
/// the limits of `keywords`.
const STACK_BYTES: usize = 64 << 20;
/// Characters of a compiler's message that an error repeats.
const MESSAGE_CHARACTERS_MAX: usize = 300;

/// What bounds one grammar: about 20 ms to begin with, 15 ms for each mask, and 100 MB.
fn limits() -> ParserLimits {
    ParserLimits {
        // Alternatives at one place; an object of 1000 optional properties has 4000.
        max_items_in_row: 5000,
        // 50 000 are 1 ms; the largest published schema (FHIR) takes half of this.
        initial_lexer_fuel: 1_000_000,
        // 14 000 are 1 ms.
        step_lexer_fuel: 200_000,
        // 20 000 are 1 ms.
        step_max_items: 50_000,
        // 1 to 2 kB each.
        max_lexer_states: 50_000,
        // Symbols; FHIR has 200 000.
        max_grammar_size: 250_000,
        precompute_large_lexemes: true,
        // Errors would repeat the text.
        verbose_errors: false,
    }
}

/// Compiles grammars for one tokenizer. Immutable but for what it keeps: share it.
pub(crate) struct Compiler {
    factory: ParserFactory,
    kept: Mutex<Vec<(String, Matcher)>>,
}

impl std::fmt::Debug for Compiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiler").finish_non_exhaustive()
    }
}

impl Compiler {
    /// Builds the trie.
    ///
    /// Errors: a vocabulary that the trie cannot hold.
    pub(crate) fn new(tokenizer: Arc<Tokenizer>) -> Result<Self, String> {
        let words: TokEnv = Arc::new(Words::new(tokenizer)?);
        let capabilities = InferenceCapabilities { ff_tokens: true, ..Default::default() };
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&words, capabilities, &slices)
            .map_err(|error| shortened(&error.to_string()))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Self { factory, kept: Mutex::default() })
    }

    /// The automaton of a grammar, at its beginning. `key` says the same as `grammar`.
    ///
    /// Errors: what is wrong with the grammar, or which limit it exceeds.
    pub(super) fn matcher(
        &self,
        key: &str,
        grammar: impl FnOnce() -> TopLevelGrammar,
    ) -> Result<Matcher, String> {
        if let Some(kept) = self.take(key) {
            return Ok(kept);
        }
        let matcher = self.compile(grammar())?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.truncate(KEPT_MAX - 1);
        // Copies share nothing, so that no answer uses up another one's limits.
        kept.insert(0, (key.to_owned(), matcher.deep_clone()));
        while kept.len() > 1
            && kept.iter().map(|(key, _)| key.len()).sum::<usize>() > KEPT_BYTES_MAX
        {
            kept.pop();
        }
        Ok(matcher)
    }

    /// A kept automaton, which becomes the last one used.
    fn take(&self, key: &str) -> Option<Matcher> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().position(|(known, _)| known == key)?;
        kept[..=found].rotate_right(1);
        Some(kept[0].1.deep_clone())
    }

    fn compile(&self, grammar: TopLevelGrammar) -> Result<Matcher, String> {
        let compile = || {
            let mut matcher = Matcher::new(self.factory.create_parser(grammar));
            // The first mask finds grammars without any text, and is paid for once.
            matcher.compute_mask_or_eos().map(|_| matcher).map_err(|error| error.to_string())
        };
        let compiled = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            let running = thread.spawn_scoped(scope, compile).map_err(|error| error.to_string())?;
            running.join().map_err(|_| "the compiler of grammars failed".to_owned())?
        });
        compiled.map_err(|message| shortened(&message))
    }
}

/// The first line of a message, for the others draw pictures.
fn shortened(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    line.chars().take(MESSAGE_CHARACTERS_MAX).collect()
}

/// The vocabulary as the automata see it.
struct Words {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
}

impl Words {
    fn new(tokenizer: Arc<Tokenizer>) -> Result<Self, String> {
        let words = words(&tokenizer);
        let bytes: usize = words.iter().map(Vec::len).sum();
        if bytes > TRIE_BYTES_MAX {
            return Err(format!(
                "the tokens of this vocabulary have {bytes} bytes, the limit for grammars is \
                 {TRIE_BYTES_MAX}"
            ));
        }
        let info = TokRxInfo::new(words.len() as u32, tokenizer.eos().0);
        let trie = TokTrie::from(&info, &words);
        Ok(Self { tokenizer, trie })
    }
}

impl TokenizerEnv for Words {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    /// As the tokenizer cuts a text that goes on; where it cannot, the longest tokens first.
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        let text = std::str::from_utf8(bytes).ok();
        let cut = text.and_then(|text| self.tokenizer.encode_continued(text).ok());
        let cut = cut.map(|tokens| tokens.into_iter().map(|token| token.0).collect::<Vec<_>>());
        cut.filter(|tokens| self.trie.decode_raw(tokens) == bytes)
            .unwrap_or_else(|| self.trie.greedy_tokenize(bytes))
    }
}

/// What each token says; nothing for tokens that no grammar may use.
///
/// Those are control tokens, tokens with a byte that no UTF-8 has, and the second of two that say
/// the same, of which the spelled one is meant and not the byte.
fn words(tokenizer: &Tokenizer) -> Vec<Vec<u8>> {
    let vocabulary = tokenizer.vocabulary();
    let mut words = vec![Vec::new(); vocabulary.len()];
    let mut seen = HashSet::new();
    for spells_bytes in [false, true] {
        for (id, word) in (0..).map(TokenId).zip(&mut words) {
            let bytes = match vocabulary.token(id) {
                Some(Token::Text(bytes)) if !spells_bytes => bytes.as_slice(),
                Some(Token::Byte(byte)) if spells_bytes => std::slice::from_ref(byte),
                _ => continue,
            };
            let is_fit = bytes.len() <= TOKEN_BYTES_MAX && !bytes.contains(&0xff);
            if id != tokenizer.eos() && is_fit && seen.insert(bytes) {
                *word = bytes.to_vec();
            }
        }
    }
    words
}
