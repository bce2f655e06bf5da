//! The one door of this room: a request goes in, a prompt comes out, and the prompt's decoder turns
//! the answer back into text.

use std::sync::{Arc, OnceLock};

use protocol::{Format, Input, Request, TokenId, ToolChoice, ToolSpec};

use crate::grammar::{self, AllowedCalls, Compiler, Shape};
use crate::template::{Mark, Part};
use crate::validation::Strictness;
use crate::{
    Constraint, Decoder, Stops, TemplateVersion, TextError, Tokenizer, template, validation,
};

/// Encodes requests by one tokenizer and one template. Immutable and cheap to clone: share it.
#[derive(Debug, Clone)]
pub struct Codec {
    tokenizer: Arc<Tokenizer>,
    version: TemplateVersion,
    marks: [Option<TokenId>; Mark::ALL.len()],
    /// Made when the first answer has to have a shape, for its trie takes a while and some room.
    compiler: Arc<OnceLock<Result<Compiler, String>>>,
}

/// What the model gets, and how its answer is to be read.
#[non_exhaustive]
pub struct Prompt {
    /// The tokens, the begin-of-sequence token included.
    pub tokens: Vec<TokenId>,
    /// Keeps the answer in shape; `None` where any answer will do.
    pub constraint: Option<Box<dyn Constraint>>,
    /// What the client expects the answer to be; guesses are taken from it.
    pub predicted: Vec<TokenId>,
    /// Texts that end the answer.
    pub stops: Stops,
    /// Tokens that must not be drawn: those that steer and have no place in this answer.
    pub banned: Vec<TokenId>,
    /// So many tokens at the end are the beginning of the answer itself, which the client gave.
    pub prefix_tokens: usize,
    /// The answer continues a text, so that a space in front of it is meant.
    pub continues_text: bool,
    /// The token that announces function calls, where the answer may hold some.
    pub announces_calls: Option<TokenId>,
}

impl Prompt {
    /// A prompt of these tokens, for an answer without any rule.
    pub fn new(tokens: Vec<TokenId>) -> Self {
        Self {
            tokens,
            constraint: None,
            predicted: Vec::new(),
            stops: Stops::default(),
            banned: Vec::new(),
            prefix_tokens: 0,
            continues_text: true,
            announces_calls: None,
        }
    }
}

impl std::fmt::Debug for Prompt {
    /// Says how much there is, never what.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prompt")
            .field("tokens", &self.tokens.len())
            .field("prefix_tokens", &self.prefix_tokens)
            .field("is_constrained", &self.constraint.is_some())
            .field("banned", &self.banned.len())
            .finish_non_exhaustive()
    }
}

impl Codec {
    /// Joins a tokenizer and a template.
    ///
    /// Errors: the vocabulary lacks a control token of the template.
    pub fn new(tokenizer: Arc<Tokenizer>, version: TemplateVersion) -> Result<Self, TextError> {
        let marks = Mark::ALL.map(|mark| tokenizer.control(mark.name()));
        let lacks = |mark: &&Mark| marks[**mark as usize].is_none();
        if let Some(mark) = version.marks().iter().find(lacks) {
            return Err(TextError::MissingControl { version, token: mark.name() });
        }
        Ok(Self { tokenizer, version, marks, compiler: Arc::default() })
    }

    /// The same tokenizer with another template.
    ///
    /// Errors: as [`Self::new`].
    pub fn with_version(&self, version: TemplateVersion) -> Result<Self, TextError> {
        let codec = Self::new(Arc::clone(&self.tokenizer), version)?;
        Ok(Self { compiler: Arc::clone(&self.compiler), ..codec })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The tokenizer, to keep.
    pub fn shared_tokenizer(&self) -> Arc<Tokenizer> {
        Arc::clone(&self.tokenizer)
    }

    /// The template.
    pub fn version(&self) -> TemplateVersion {
        self.version
    }

    /// Whether a request may name functions.
    pub fn knows_tools(&self) -> bool {
        self.version.knows_tools()
    }

    /// Whether a text with a hole can be encoded: the template and the vocabulary know how.
    pub fn knows_fill(&self) -> bool {
        self.version.knows_fill()
            && self.mark(Mark::Prefix).is_some()
            && self.mark(Mark::Suffix).is_some()
    }

    /// Whether a token ends an answer.
    pub fn is_end(&self, token: TokenId) -> bool {
        token == self.tokenizer.eos()
    }

    /// Encodes a request that is to be answered.
    ///
    /// Errors: a request that breaks a rule of the conversation, is over a limit, or asks for what
    /// the template or this build cannot do; the field at fault is named.
    pub fn encode(&self, request: &Request) -> Result<Prompt, TextError> {
        self.check_supported(request)?;
        let mut prompt = self.build(request, Strictness::Serving)?;
        prompt.stops = Stops::new(&request.limits.stop)?;
        if let Some(text) = &request.prediction {
            prompt.predicted = self.tokenizer.encode(text)?;
        }
        if matches!(request.input, Input::Chat(_) | Input::Fill { .. }) {
            let allows_calls = matches!(request.input, Input::Chat(_))
                && !request.tools.is_empty()
                && request.tool_choice != ToolChoice::None;
            prompt.announces_calls = self.mark(Mark::ToolCalls).filter(|_| allows_calls);
            let is_banned =
                |&token: &TokenId| !self.is_end(token) && prompt.announces_calls != Some(token);
            prompt.banned = self.tokenizer.vocabulary().controls().filter(is_banned).collect();
        }
        prompt.constraint = self.constrain(request, &prompt)?;
        Ok(prompt)
    }

    /// Keeps the answer in the shape that the request asks for, if it does.
    fn constrain(
        &self,
        request: &Request,
        prompt: &Prompt,
    ) -> Result<Option<Box<dyn Constraint>>, TextError> {
        let calls = prompt.announces_calls.map(|announced_by| AllowedCalls {
            tools: match &request.tool_choice {
                ToolChoice::Function(name) => {
                    let is_meant = |tool: &(usize, &ToolSpec)| tool.1.name == *name;
                    request.tools.iter().enumerate().filter(is_meant).collect()
                }
                ToolChoice::Auto | ToolChoice::None | ToolChoice::Any => {
                    request.tools.iter().enumerate().collect()
                }
            },
            are_forced: is_forced(&request.tool_choice),
            are_single: !request.parallel_tool_calls,
            have_ids: self.version.names_calls(),
            announced_by,
        });
        if calls.is_none() && request.format == Format::Free {
            return Ok(None);
        }
        let compiler = self.compiler.get_or_init(|| Compiler::new(self.shared_tokenizer()));
        let compiler = compiler.as_ref().map_err(|message| TextError::Unsupported {
            param: "response_format",
            message: message.clone(),
        })?;
        let prefix = &prompt.tokens[prompt.tokens.len() - prompt.prefix_tokens..];
        let begins_text = !prompt.continues_text || !prefix.is_empty();
        let shape = Shape { format: &request.format, calls, prefix, begins_text };
        grammar::constraint(compiler, &self.tokenizer, shape)
    }

    /// Encodes a request to look at its tokens: calls may lack results, and what only an answer
    /// needs is not looked at.
    ///
    /// Errors: a request that breaks a rule of the conversation or that the template cannot say.
    pub fn render(&self, request: &Request) -> Result<Prompt, TextError> {
        self.build(request, Strictness::Rendering)
    }

    /// Begins the decoding of one answer.
    pub fn decoder(&self, prompt: &Prompt) -> Decoder {
        Decoder::new(Arc::clone(&self.tokenizer), prompt)
    }

    fn mark(&self, mark: Mark) -> Option<TokenId> {
        self.marks[mark as usize]
    }

    fn check_supported(&self, request: &Request) -> Result<(), TextError> {
        let unsupported = |param, message: String| Err(TextError::Unsupported { param, message });
        check_choice(request)?;
        let offers_tools = !request.tools.is_empty() && request.tool_choice != ToolChoice::None;
        if offers_tools && !self.knows_tools() {
            return unsupported(
                "tools",
                format!("this model's prompt encoding {} knows no tools", self.version),
            );
        }
        if matches!(request.input, Input::Fill { .. }) && !self.knows_fill() {
            return unsupported(
                "suffix",
                "this model's vocabulary has no tokens for fill-in-the-middle".into(),
            );
        }
        Ok(())
    }

    fn build(&self, request: &Request, strictness: Strictness) -> Result<Prompt, TextError> {
        match &request.input {
            Input::Chat(messages) => {
                validation::check(self.version, strictness, messages, &request.tools)?;
                self.assemble(template::render(self.version, messages, &request.tools)?)
            }
            Input::Text(text) => {
                let mut tokens = vec![self.tokenizer.bos()];
                tokens.extend(self.tokenizer.encode(text)?);
                let continues_text = !text.is_empty();
                Ok(Prompt { continues_text, ..Prompt::new(tokens) })
            }
            Input::Fill { prefix, suffix } => self.fill(prefix, suffix.as_deref()),
            Input::Tokens(tokens) => self.check_tokens(tokens),
        }
    }

    fn assemble(&self, parts: Vec<Part>) -> Result<Prompt, TextError> {
        let mut prompt = Prompt::new(vec![self.tokenizer.bos()]);
        let mut prefix_start = None;
        for part in parts {
            match part {
                Part::Mark(mark) => prompt.tokens.push(
                    self.mark(mark).expect("a codec has every mark that its template writes"),
                ),
                Part::Text(text) => prompt.tokens.extend(self.tokenizer.encode(&text)?),
                Part::End => prompt.tokens.push(self.tokenizer.eos()),
                Part::PrefixStart => prefix_start = Some(prompt.tokens.len()),
            }
        }
        prompt.prefix_tokens = prefix_start.map_or(0, |start| prompt.tokens.len() - start);
        prompt.continues_text = prompt.prefix_tokens > 0;
        Ok(prompt)
    }

    /// The text behind the hole comes first. SentencePiece puts a space in front of every text; the
    /// smiling face takes it, and both are cut off.
    fn fill(&self, prefix: &str, suffix: Option<&str>) -> Result<Prompt, TextError> {
        if !self.version.knows_fill() {
            return Err(TextError::Unsupported {
                param: "suffix",
                message: format!("prompt encoding {} knows no fill-in-the-middle", self.version),
            });
        }
        // Where the vocabulary lacks the token, rendering shows the unknown one.
        let mark = |mark| self.mark(mark).or_else(|| self.tokenizer.unknown());
        let (Some(suffix_mark), Some(prefix_mark)) = (mark(Mark::Suffix), mark(Mark::Prefix))
        else {
            let (version, token) = (self.version, Mark::Suffix.name());
            return Err(TextError::MissingControl { version, token });
        };
        let mut tokens = vec![self.tokenizer.bos(), suffix_mark];
        if let Some(suffix) = suffix.filter(|suffix| !suffix.is_empty()) {
            tokens.extend(self.tokenizer.encode(&format!("\u{263a}{suffix}"))?.iter().skip(2));
        }
        tokens.push(prefix_mark);
        tokens.extend(self.tokenizer.encode(prefix)?);
        Ok(Prompt::new(tokens))
    }

    fn check_tokens(&self, tokens: &[TokenId]) -> Result<Prompt, TextError> {
        let vocabulary_size = self.tokenizer.vocabulary_size();
        if let Some(token) = tokens.iter().find(|token| token.0 as usize >= vocabulary_size) {
            return Err(TextError::UnknownToken { token: token.0, vocabulary_size });
        }
        let Some(&last) = tokens.last() else {
            return Err(TextError::rule("tokens", "the prompt has no tokens; send at least one"));
        };
        let continues_text = !self.tokenizer.is_control(last);
        Ok(Prompt { continues_text, ..Prompt::new(tokens.to_vec()) })
    }
}

fn is_forced(choice: &ToolChoice) -> bool {
    matches!(choice, ToolChoice::Any | ToolChoice::Function(_))
}

/// A call that has to be made needs a function to call.
fn check_choice(request: &Request) -> Result<(), TextError> {
    let choice = &request.tool_choice;
    if !is_forced(choice) {
        return Ok(());
    }
    if !matches!(request.input, Input::Chat(_)) {
        return Err(TextError::rule("tool_choice", "only a chat may have functions to call"));
    }
    let has = match choice {
        ToolChoice::Function(name) => request.tools.iter().any(|tool| tool.name == *name),
        _ => !request.tools.is_empty(),
    };
    if has {
        return Ok(());
    }
    Err(TextError::rule(
        "tool_choice",
        "tool_choice demands a call of a function that is not among the tools; send it in tools",
    ))
}
