//! A conversation as the sequence of control tokens and texts that a model was trained on.
//!
//! A template gives parts, not a string: texts are cut one by one and control tokens are ids, so no
//! spelling in a text can pass for one. The versions differ in where system text and functions go,
//! in what of the history is kept, and in how calls and results are spelled; each difference is one
//! question on [`TemplateVersion`].
//! Source: Mistral AI, `mistral-common`, tokenizer versions 1, 2, 3 and 7.

use std::fmt;
use std::str::FromStr;

use protocol::{Message, ToolCall, ToolSpec};

use crate::{TextError, python_json};

/// How prompts are encoded; a model understands the one it was trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TemplateVersion {
    /// `[INST]` as plain text; no functions.
    V1,
    /// Control tokens; functions of the last turn only.
    V2,
    /// Functions in the whole history, calls with ids; SentencePiece.
    V3,
    /// As V3, with a tekken vocabulary.
    V3Tekken,
    /// System text between control tokens, where it stands.
    V7,
}

impl TemplateVersion {
    /// All of them, oldest first.
    pub const ALL: [Self; 5] = [Self::V1, Self::V2, Self::V3, Self::V3Tekken, Self::V7];

    /// The name that configuration, answers and `zonda encode` use.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::V3 => "v3",
            Self::V3Tekken => "v3-tekken",
            Self::V7 => "v7",
        }
    }

    /// Whether it can say functions, calls and results.
    pub fn knows_tools(self) -> bool {
        self != Self::V1
    }

    /// Whether it can say a text with a hole.
    pub fn knows_fill(self) -> bool {
        self != Self::V1
    }

    /// System text stays where it stands, and an answer may hold both text and calls.
    pub(crate) fn keeps_system_in_place(self) -> bool {
        self == Self::V7
    }

    /// Calls and results carry nine-character ids.
    pub(crate) fn names_calls(self) -> bool {
        self >= Self::V3
    }

    /// The control tokens without which it cannot be written.
    pub(crate) fn marks(self) -> &'static [Mark] {
        match self {
            Self::V1 => &[],
            Self::V2 | Self::V3 | Self::V3Tekken => &Mark::ALL[..7],
            Self::V7 => &Mark::ALL[..10],
        }
    }
}

impl fmt::Display for TemplateVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TemplateVersion {
    type Err = TextError;

    fn from_str(name: &str) -> Result<Self, TextError> {
        Self::ALL.into_iter().find(|version| version.name() == name).ok_or_else(|| {
            TextError::Unsupported {
                param: "version",
                message: "unknown prompt encoding; choose v1, v2, v3, v3-tekken or v7".into(),
            }
        })
    }
}

/// The control tokens of the templates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Instruction,
    InstructionEnd,
    Tools,
    ToolsEnd,
    ToolCalls,
    ToolResults,
    ToolResultsEnd,
    System,
    SystemEnd,
    ToolContent,
    Prefix,
    Suffix,
}

impl Mark {
    /// Every mark at the index that it converts to: seven of v2, three more of v7, two of filling.
    pub(crate) const ALL: [Self; 12] = [
        Self::Instruction,
        Self::InstructionEnd,
        Self::Tools,
        Self::ToolsEnd,
        Self::ToolCalls,
        Self::ToolResults,
        Self::ToolResultsEnd,
        Self::System,
        Self::SystemEnd,
        Self::ToolContent,
        Self::Prefix,
        Self::Suffix,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Instruction => "[INST]",
            Self::InstructionEnd => "[/INST]",
            Self::Tools => "[AVAILABLE_TOOLS]",
            Self::ToolsEnd => "[/AVAILABLE_TOOLS]",
            Self::ToolCalls => "[TOOL_CALLS]",
            Self::ToolResults => "[TOOL_RESULTS]",
            Self::ToolResultsEnd => "[/TOOL_RESULTS]",
            Self::System => "[SYSTEM_PROMPT]",
            Self::SystemEnd => "[/SYSTEM_PROMPT]",
            Self::ToolContent => "[TOOL_CONTENT]",
            Self::Prefix => "[PREFIX]",
            Self::Suffix => "[SUFFIX]",
        }
    }
}

/// One part of a rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// A control token.
    Mark(Mark),
    /// A text, cut on its own.
    Text(String),
    /// The end of an answer.
    End,
    /// From here on, the parts are the beginning of the answer itself.
    PrefixStart,
}

/// The texts of a conversation, in order, as a prompt of this version has them between its control
/// tokens: what a vocabulary for such prompts is learned from. Checks nothing but what the version
/// cannot say.
///
/// Errors: what the version cannot say.
pub fn prompt_texts(
    version: TemplateVersion,
    messages: &[Message],
    tools: &[ToolSpec],
) -> Result<Vec<String>, TextError> {
    let texts = render(version, messages, tools)?.into_iter().filter_map(|part| match part {
        Part::Text(text) => Some(text),
        Part::Mark(_) | Part::End | Part::PrefixStart => None,
    });
    Ok(texts.collect())
}

/// What a model writes behind `[TOOL_CALLS]`: calls without ids, which it does not give.
pub fn calls_text(calls: &[ToolCall]) -> String {
    spell_calls(TemplateVersion::V2, &calls.iter().collect::<Vec<_>>())
}

/// Renders a checked conversation.
///
/// Errors: what the version cannot say.
pub(crate) fn render(
    version: TemplateVersion,
    messages: &[Message],
    tools: &[ToolSpec],
) -> Result<Vec<Part>, TextError> {
    let (turns, system) = turns(version, messages);
    let is_user = |turn: &Turn<'_>| matches!(turn, Turn::User(_));
    let first_user = turns.iter().position(is_user);
    let last_user = turns.iter().rposition(is_user);
    if version == TemplateVersion::V2 {
        check_single_results(&turns, last_user.unwrap_or(0))?;
    }
    let mut parts = Vec::new();
    for (index, turn) in turns.iter().enumerate() {
        let is_past = last_user.is_some_and(|last| index < last);
        match turn {
            Turn::System(text) => {
                parts.push(Part::Mark(Mark::System));
                parts.push(Part::Text(text.clone()));
                parts.push(Part::Mark(Mark::SystemEnd));
            }
            Turn::User(text) if version == TemplateVersion::V1 => {
                let system = system.as_deref().filter(|_| first_user == Some(index));
                let text = with_system(system, text);
                parts.push(Part::Text(format!("[INST] {text} [/INST]")));
            }
            Turn::User(text) => {
                let is_last = last_user == Some(index);
                if is_last && !tools.is_empty() {
                    parts.push(Part::Mark(Mark::Tools));
                    parts.push(Part::Text(spell_tools(tools)));
                    parts.push(Part::Mark(Mark::ToolsEnd));
                }
                parts.push(Part::Mark(Mark::Instruction));
                let system = system.as_deref().filter(|_| is_last);
                parts.push(Part::Text(with_system(system, text)));
                parts.push(Part::Mark(Mark::InstructionEnd));
            }
            Turn::Assistant(answer) => render_answer(version, answer, is_past, &mut parts)?,
            Turn::Tool(result) => render_result(version, result, is_past, &mut parts)?,
        }
    }
    Ok(parts)
}

fn render_answer(
    version: TemplateVersion,
    answer: &Answer<'_>,
    is_past: bool,
    parts: &mut Vec<Part>,
) -> Result<(), TextError> {
    if answer.calls.is_empty() && answer.text.is_empty() {
        return Err(TextError::rule(
            "messages",
            "an assistant message has neither content nor tool_calls",
        ));
    }
    if !answer.calls.is_empty() {
        if !version.knows_tools() {
            return Err(no_tools(version));
        }
        if !answer.text.is_empty() && !version.keeps_system_in_place() {
            return Err(TextError::rule(
                "messages",
                "consecutive assistant messages hold both content and tool_calls; \
                 this model's prompt encoding allows one of them",
            ));
        }
        if version == TemplateVersion::V2 && is_past {
            return Ok(());
        }
    }
    if answer.prefix {
        parts.push(Part::PrefixStart);
    }
    if !answer.text.is_empty() {
        let text = match version {
            TemplateVersion::V1 => answer.text.as_str(),
            _ => answer.text.trim_end_matches(' '),
        };
        parts.push(Part::Text(text.into()));
    }
    if !answer.calls.is_empty() {
        parts.push(Part::Mark(Mark::ToolCalls));
        parts.push(Part::Text(spell_calls(version, &answer.calls)));
    }
    if !answer.prefix {
        parts.push(Part::End);
    }
    Ok(())
}

fn render_result(
    version: TemplateVersion,
    result: &ToolResult<'_>,
    is_past: bool,
    parts: &mut Vec<Part>,
) -> Result<(), TextError> {
    match version {
        TemplateVersion::V1 => return Err(no_tools(version)),
        TemplateVersion::V2 if is_past => return Ok(()),
        _ => {}
    }
    parts.push(Part::Mark(Mark::ToolResults));
    if version == TemplateVersion::V7 {
        parts.push(Part::Text(result.call_id.unwrap_or_default().into()));
        parts.push(Part::Mark(Mark::ToolContent));
        parts.push(Part::Text(result.text.clone()));
    } else {
        let content = respelled_or_quoted(&result.text);
        let mut spelled = String::new();
        if version == TemplateVersion::V2 {
            spelled.push_str("[{\"name\": ");
            match result.name {
                Some(name) => python_json::spell_string(name, &mut spelled),
                None => spelled.push_str("null"),
            }
            spelled.push_str(", \"content\": ");
            spelled.push_str(&content);
            spelled.push_str("}]");
        } else {
            spelled.push_str("{\"content\": ");
            spelled.push_str(&content);
            spelled.push_str(", \"call_id\": ");
            python_json::spell_string(result.call_id.unwrap_or_default(), &mut spelled);
            spelled.push('}');
        }
        parts.push(Part::Text(spelled));
    }
    parts.push(Part::Mark(Mark::ToolResultsEnd));
    Ok(())
}

/// Several results behind the calls of one answer have no spelling in v2.
fn check_single_results(turns: &[Turn<'_>], last_user: usize) -> Result<(), TextError> {
    let (mut follows_calls, mut results) = (false, 0);
    for turn in &turns[last_user..] {
        match turn {
            Turn::Assistant(answer) => (follows_calls, results) = (!answer.calls.is_empty(), 0),
            Turn::Tool(_) if follows_calls => results += 1,
            Turn::Tool(_) => {}
            Turn::User(_) | Turn::System(_) => (follows_calls, results) = (false, 0),
        }
        if results > 1 {
            return Err(TextError::Unsupported {
                param: "messages",
                message: "prompt encoding v2 takes one tool result for each assistant turn".into(),
            });
        }
    }
    Ok(())
}

fn no_tools(version: TemplateVersion) -> TextError {
    TextError::Unsupported {
        param: "messages",
        message: format!("prompt encoding {version} knows no tool calls and no tool results"),
    }
}

fn with_system(system: Option<&str>, text: &str) -> String {
    match system {
        Some(system) if !system.is_empty() => format!("{system}\n\n{text}"),
        _ => text.into(),
    }
}

fn spell_tools(tools: &[ToolSpec]) -> String {
    let mut spelled = String::from("[");
    for (index, tool) in tools.iter().enumerate() {
        if index > 0 {
            spelled.push_str(", ");
        }
        spelled.push_str("{\"type\": \"function\", \"function\": {\"name\": ");
        python_json::spell_string(&tool.name, &mut spelled);
        spelled.push_str(", \"description\": ");
        python_json::spell_string(&tool.description, &mut spelled);
        spelled.push_str(", \"parameters\": ");
        python_json::spell(&tool.parameters, &mut spelled);
        spelled.push_str("}}");
    }
    spelled.push(']');
    spelled
}

fn spell_calls(version: TemplateVersion, calls: &[&ToolCall]) -> String {
    let mut spelled = String::from("[");
    for (index, call) in calls.iter().enumerate() {
        if index > 0 {
            spelled.push_str(", ");
        }
        spelled.push_str("{\"name\": ");
        python_json::spell_string(&call.name, &mut spelled);
        spelled.push_str(", \"arguments\": ");
        spelled.push_str(&respelled_or_quoted(&call.arguments));
        if version.names_calls() {
            spelled.push_str(", \"id\": ");
            python_json::spell_string(&call.id, &mut spelled);
        }
        spelled.push('}');
    }
    spelled.push(']');
    spelled
}

/// JSON is spelled anew, nothing is an empty object, any other text goes in as a string.
fn respelled_or_quoted(text: &str) -> String {
    if text.is_empty() {
        return "{}".into();
    }
    python_json::respell(text).unwrap_or_else(|| {
        let mut quoted = String::new();
        python_json::spell_string(text, &mut quoted);
        quoted
    })
}

/// One turn: consecutive messages of a role, joined.
enum Turn<'a> {
    System(String),
    User(String),
    Assistant(Answer<'a>),
    Tool(ToolResult<'a>),
}

struct Answer<'a> {
    text: String,
    calls: Vec<&'a ToolCall>,
    prefix: bool,
}

struct ToolResult<'a> {
    text: String,
    call_id: Option<&'a str>,
    name: Option<&'a str>,
}

/// Joins consecutive messages of users and assistants. Before v7 the system text is taken out and
/// an empty user turn begins a conversation that lacks one.
fn turns(version: TemplateVersion, messages: &[Message]) -> (Vec<Turn<'_>>, Option<String>) {
    let in_place = version.keeps_system_in_place();
    let mut turns: Vec<Turn<'_>> = Vec::new();
    let mut system: Option<String> = None;
    // A system message that is taken out still keeps its neighbours apart.
    let mut is_apart = true;
    for message in messages {
        let is_joined = !std::mem::take(&mut is_apart);
        match (message, turns.last_mut().filter(|_| is_joined)) {
            (Message::System { content }, _) if in_place => turns.push(Turn::System(join(content))),
            (Message::System { content }, _) => {
                is_apart = true;
                if content.iter().any(|chunk| !chunk.is_empty()) {
                    append(system.get_or_insert_default(), &join(content));
                }
            }
            (Message::User { content }, Some(Turn::User(text))) => append(text, &join(content)),
            (Message::User { content }, _) => turns.push(Turn::User(join(content))),
            (Message::Assistant { content, tool_calls, prefix }, last) => {
                let text = content.as_deref().map(join).unwrap_or_default();
                if let Some(Turn::Assistant(answer)) = last {
                    append(&mut answer.text, &text);
                    answer.calls.extend(tool_calls);
                    answer.prefix |= prefix;
                } else {
                    let calls = tool_calls.iter().collect();
                    turns.push(Turn::Assistant(Answer { text, calls, prefix: *prefix }));
                }
            }
            (Message::Tool { content, call_id, name }, _) => turns.push(Turn::Tool(ToolResult {
                text: join(content),
                call_id: call_id.as_deref(),
                name: name.as_deref(),
            })),
        }
    }
    if !in_place && !matches!(turns.first(), Some(Turn::User(_))) {
        turns.insert(0, Turn::User(String::new()));
    }
    (turns, system)
}

/// Chunks of one message; empty ones leave no trace.
fn join(chunks: &[impl AsRef<str>]) -> String {
    let mut joined = String::new();
    for chunk in chunks {
        append(&mut joined, chunk.as_ref());
    }
    joined
}

fn append(text: &mut String, more: &str) {
    if !text.is_empty() && !more.is_empty() {
        text.push_str("\n\n");
    }
    text.push_str(more);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn system(text: &str) -> Message {
        Message::System { content: vec![text.into()] }
    }

    fn user(text: &str) -> Message {
        Message::User { content: vec![text.into()] }
    }

    fn assistant(text: &str, calls: &[&str]) -> Message {
        let call = |arguments: &&str| ToolCall {
            id: "abcdefghi".into(),
            name: "f".into(),
            arguments: (*arguments).into(),
        };
        Message::Assistant {
            content: Some(vec![text.into()]),
            tool_calls: calls.iter().map(call).collect(),
            prefix: false,
        }
    }

    fn result(text: &str) -> Message {
        let (call_id, name) = (Some("abcdefghi".into()), Some("f".into()));
        Message::Tool { content: vec![text.into()], call_id, name }
    }

    /// Texts between bars, so that each cut shows.
    fn rendered(version: TemplateVersion, messages: &[Message]) -> String {
        let parameters = json!({"a": [1e-5]});
        let tool =
            ToolSpec { name: "f".into(), description: String::new(), parameters, strict: false };
        let part = |part: Part| match part {
            Part::Mark(mark) => mark.name().to_owned(),
            Part::Text(text) => format!("|{text}|"),
            Part::End => "</s>".into(),
            Part::PrefixStart => "<prefix>".into(),
        };
        render(version, messages, &[tool]).unwrap().into_iter().map(part).collect()
    }

    #[test]
    fn system_text_goes_where_the_version_puts_it() {
        let messages = [user("a"), assistant("b ", &[]), user("c"), system("S"), user("d")];
        let check = |version, expected: &str| assert_eq!(rendered(version, &messages), expected);
        check(
            TemplateVersion::V1,
            "|[INST] S\n\na [/INST]||b |</s>|[INST] c [/INST]||[INST] d [/INST]|",
        );
        let tools = r#"[AVAILABLE_TOOLS]|[{"type": "function", "function": {"name": "f", "description": "", "parameters": {"a": [1e-05]}}}]|[/AVAILABLE_TOOLS]"#;
        let before = "[INST]|a|[/INST]|b|</s>[INST]|c|[/INST]";
        check(TemplateVersion::V3, &format!("{before}{tools}[INST]|S\n\nd|[/INST]"));
        let in_place = "[SYSTEM_PROMPT]|S|[/SYSTEM_PROMPT]";
        check(TemplateVersion::V7, &format!("{before}{in_place}{tools}[INST]|d|[/INST]"));
    }

    #[test]
    fn calls_and_results_are_spelled_as_the_version_does() {
        let messages = [
            user("a"),
            assistant("", &["{\"x\":1}"]),
            result("22"),
            assistant("", &[""]),
            result("no"),
        ];
        let check = |version, expected: &str| {
            let rendered = rendered(version, &messages);
            assert_eq!(rendered.split_once("|a|[/INST]").unwrap().1, expected);
        };
        check(
            TemplateVersion::V2,
            r#"[TOOL_CALLS]|[{"name": "f", "arguments": {"x": 1}}]|</s>[TOOL_RESULTS]|[{"name": "f", "content": 22}]|[/TOOL_RESULTS][TOOL_CALLS]|[{"name": "f", "arguments": {}}]|</s>[TOOL_RESULTS]|[{"name": "f", "content": "no"}]|[/TOOL_RESULTS]"#,
        );
        let calls = |arguments: &str| {
            format!(
                r#"[TOOL_CALLS]|[{{"name": "f", "arguments": {arguments}, "id": "abcdefghi"}}]|</s>"#
            )
        };
        let (first, second) = (calls(r#"{"x": 1}"#), calls("{}"));
        check(
            TemplateVersion::V3Tekken,
            &format!(
                r#"{first}[TOOL_RESULTS]|{{"content": 22, "call_id": "abcdefghi"}}|[/TOOL_RESULTS]{second}[TOOL_RESULTS]|{{"content": "no", "call_id": "abcdefghi"}}|[/TOOL_RESULTS]"#
            ),
        );
        let raw =
            |text: &str| format!("[TOOL_RESULTS]|abcdefghi|[TOOL_CONTENT]|{text}|[/TOOL_RESULTS]");
        check(TemplateVersion::V7, &format!("{first}{}{second}{}", raw("22"), raw("no")));
    }

    #[test]
    fn second_version_forgets_calls_of_past_turns() {
        let messages =
            [user("a"), assistant("", &["{}"]), result("1"), assistant("b", &[]), user("c")];
        let rendered = rendered(TemplateVersion::V2, &messages);
        assert!(rendered.starts_with("[INST]|a|[/INST]|b|</s>[AVAILABLE_TOOLS]"), "{rendered}");
    }
}
