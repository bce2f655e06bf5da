//! Answers of a given shape: what a request's format and functions allow, as a constraint.
//!
//! Schemas, regular expressions, choices and Lark grammars all become one kind of grammar, which
//! the crate `llguidance` compiles to an automaton over the vocabulary. Whatever a schema says is
//! honoured or refused by name; only for a function that is not strict, what no grammar keeps is
//! left out. JSON is spelled as the models saw it, with
//! `", "` and `": "` and no other space, so that most of its tokens are forced and need no model.

mod answer;
mod arguments;
mod automaton;
mod compiler;
mod complaints;
mod keywords;
mod lark;
mod patterns;
mod source;
mod weight;

use llguidance::Matcher;
use protocol::{Format, TokenId, ToolSpec};
use serde_json::{Map, Value};

use crate::lexicon::Decoding;
use crate::{Constraint, ConstraintError, TextError, Tokenizer, schema};

use answer::{Answer, Calls, Text};
use automaton::Automaton;
pub(crate) use compiler::Compiler;
use complaints::refused;
use keywords::{Care, Cause, Refusal};
use source::{Source, Space};

/// Bytes of all schemas, or of the grammar, of one request; the largest published schemas that a
/// model could follow have half of this.
const GRAMMAR_BYTES_MAX: usize = 256 << 10;
/// Bytes of a regular expression; longer ones are lists of choices.
const REGEX_BYTES_MAX: usize = 16 << 10;
/// Texts to choose from.
const CHOICES_MAX: usize = 1024;
/// Bytes of one literal text; compiling takes the square of its length.
const LITERAL_BYTES_MAX: usize = 8 << 10;

const FORMAT: &str = "response_format";
const SCHEMA: &str = "response_format.json_schema.schema";

/// What one answer has to be.
pub(crate) struct Shape<'a> {
    /// What its text is.
    pub(crate) format: &'a Format,
    /// The functions that it may call, with the token that announces calls.
    pub(crate) calls: Option<AllowedCalls<'a>>,
    /// What the client began it with.
    pub(crate) prefix: &'a [TokenId],
    /// It begins a text, of which decoding takes the first space away.
    pub(crate) begins_text: bool,
}

/// Function calls of one answer.
pub(crate) struct AllowedCalls<'a> {
    /// At least one; the place of each in the request.
    pub(crate) tools: Vec<(usize, &'a ToolSpec)>,
    /// There has to be a call, and no text.
    pub(crate) are_forced: bool,
    /// There may be one call at most.
    pub(crate) are_single: bool,
    /// A call may carry an id.
    pub(crate) have_ids: bool,
    /// The control token in front.
    pub(crate) announced_by: TokenId,
}

/// Keeps an answer in shape; `None` where any text will do.
///
/// Errors: a format or a function's parameters that cannot be honoured, are malformed, or exceed a
/// limit; a prefix that does not fit.
pub(crate) fn constraint(
    compiler: &Compiler,
    tokenizer: &Tokenizer,
    shape: Shape<'_>,
) -> Result<Option<Box<dyn Constraint>>, TextError> {
    let strips_space =
        tokenizer.vocabulary().decoding == Decoding::SentencePiece { strips_space: true };
    let calls = match &shape.calls {
        Some(allowed) => Some(Calls {
            announced_by: allowed.announced_by,
            list: Automaton::new(arguments::calls(compiler, allowed, strips_space)?),
        }),
        None => None,
    };
    let are_forced = shape.calls.as_ref().is_some_and(|calls| calls.are_forced);
    let text = match shape.format {
        _ if are_forced => Text::Forbidden,
        Format::Free if calls.is_none() => return Ok(None),
        Format::Free => Text::Free,
        format => {
            let may_lose_space = strips_space && shape.begins_text;
            Text::Shaped(Box::new(Automaton::new(text(
                compiler,
                tokenizer,
                format,
                may_lose_space,
            )?)))
        }
    };
    let mut answer = Answer::new(text, calls, tokenizer.eos(), tokenizer.vocabulary_size());
    for &token in shape.prefix {
        answer.accept(token).map_err(|error| unfit_prefix(&error))?;
    }
    Ok(Some(Box::new(answer)))
}

fn unfit_prefix(error: &ConstraintError) -> TextError {
    let message = match error {
        ConstraintError::Unfit(_) => "the message that the answer continues does not fit the \
             shape that is asked for; JSON is spelled with \", \" and \": \" and no other space \
             outside of strings, and properties stand in the order of the schema"
            .to_owned(),
        other => other.to_string(),
    };
    TextError::rule("messages", message)
}

/// The automaton of a text.
fn text(
    compiler: &Compiler,
    tokenizer: &Tokenizer,
    format: &Format,
    may_lose_space: bool,
) -> Result<Matcher, TextError> {
    let optional = if may_lose_space { Space::Optional } else { Space::None };
    let (source, space) = match format {
        Format::Free => (Source::regex("(?s:.*)"), optional),
        Format::JsonObject => {
            let mut object = Map::new();
            object.insert("type".into(), "object".into());
            (Source::schema(object), optional)
        }
        Format::JsonSchema(schema) => (Source::schema(checked_schema(schema)?), optional),
        Format::Choice(choices) => (choice(choices, may_lose_space)?, Space::None),
        Format::Regex(regex) => {
            check_size("the regular expression", regex.len(), REGEX_BYTES_MAX)?;
            patterns::check_whole(regex).map_err(|problem| {
                TextError::rule(FORMAT, format!("the regular expression {problem}"))
            })?;
            let source = Source::regex(regex);
            let space =
                space_in_front(compiler, tokenizer, &source, place(format), may_lose_space)?;
            (source, space)
        }
        Format::Grammar(grammar) => {
            check_size("the grammar", grammar.len(), GRAMMAR_BYTES_MAX)?;
            lark::check(grammar).map_err(|problem| TextError::Unsupported {
                param: FORMAT,
                message: format!("the grammar {problem}"),
            })?;
            let source = Source::lark(grammar);
            let space =
                space_in_front(compiler, tokenizer, &source, place(format), may_lose_space)?;
            (source, space)
        }
    };
    compile(compiler, &source.behind(space))
        .map_err(|message| refused(FORMAT, place(format), &message))
}

/// A text that may begin with a space of its own needs the one that decoding takes away.
fn space_in_front(
    compiler: &Compiler,
    tokenizer: &Tokenizer,
    source: &Source,
    place: &str,
    may_lose_space: bool,
) -> Result<Space, TextError> {
    if !may_lose_space {
        return Ok(Space::None);
    }
    let matcher = compile(compiler, source).map_err(|message| refused(FORMAT, place, &message))?;
    let mut answer = Answer::new(
        Text::Shaped(Box::new(Automaton::new(matcher))),
        None,
        tokenizer.eos(),
        tokenizer.vocabulary_size(),
    );
    let mask = answer.mask().map_err(|error| TextError::rule(FORMAT, error.to_string()))?;
    let says_space = |token| tokenizer.says(token).first() == Some(&b' ');
    let begins_with_space = mask.is_some_and(|mask| mask.tokens().any(says_space));
    Ok(if begins_with_space { Space::Required } else { Space::Optional })
}

fn choice(choices: &[String], may_lose_space: bool) -> Result<Source, TextError> {
    if choices.is_empty() || choices.len() > CHOICES_MAX {
        return Err(TextError::rule(
            FORMAT,
            format!("{} choices; allowed are 1 to {CHOICES_MAX}", choices.len()),
        ));
    }
    if choices.iter().any(|choice| choice.is_empty() || choice.len() > LITERAL_BYTES_MAX) {
        let message = format!("a choice is empty or has more than {LITERAL_BYTES_MAX} bytes");
        return Err(TextError::rule(FORMAT, message));
    }
    let bytes = choices.iter().map(String::len).sum();
    check_size("the choices together", bytes, GRAMMAR_BYTES_MAX)?;
    if !may_lose_space {
        return Ok(Source::choice(choices.iter().map(String::as_str)));
    }
    let spaced: Vec<String> = choices.iter().map(|choice| format!(" {choice}")).collect();
    let bare = choices.iter().filter(|choice| !choice.starts_with(' '));
    Ok(Source::choice(bare.chain(&spaced).map(String::as_str)))
}

fn check_size(what: &str, bytes: usize, bytes_max: usize) -> Result<(), TextError> {
    if bytes <= bytes_max {
        return Ok(());
    }
    Err(TextError::rule(FORMAT, format!("{what} has {bytes} bytes, the limit is {bytes_max}")))
}

fn checked_schema(schema: &Value) -> Result<Map<String, Value>, TextError> {
    check_size("the schema", schema.to_string().len(), GRAMMAR_BYTES_MAX)?;
    if schema.is_object() {
        schema::check(schema).map_err(|problem| {
            let place = format!("{SCHEMA}{}", problem.path);
            let message = format!("{place} is no JSON Schema of draft 7: {}", problem.message);
            TextError::rule(place, message)
        })?;
    }
    keywords::reduce(schema, Care::Whole).map_err(|refusal| refused_schema(FORMAT, SCHEMA, refusal))
}

fn compile(compiler: &Compiler, source: &Source) -> Result<Matcher, String> {
    compiler.matcher(&source.key(), || source.compilable())
}

fn refused_schema(param: &'static str, place: &str, refusal: Refusal) -> TextError {
    let place = format!("{place}{}", refusal.path);
    let message = format!("{place}: {}", refusal.message);
    if refusal.cause == Cause::Malformed {
        return TextError::Rule { param: place, message };
    }
    TextError::Unsupported { param, message }
}

/// What the format is called in an error.
fn place(format: &Format) -> &'static str {
    match format {
        Format::Free => "the text",
        Format::JsonObject | Format::JsonSchema(_) => SCHEMA,
        Format::Regex(_) => "the regular expression",
        Format::Grammar(_) => "the grammar",
        Format::Choice(_) => "the choices",
    }
}
