//! The rules of a conversation, as the models' own vendor enforces them.
//!
//! Source: Mistral AI, `mistral-common`, request validator for versions 1, 2, 3 and 7. Messages name
//! the place and the rule, never what somebody wrote.

use protocol::{Message, ToolSpec};

use crate::tool_calls::is_id;
use crate::{TemplateVersion, TextError, schema};

/// Letters of a function's name.
const NAME_BYTES_MAX: usize = 64;

/// How much of the rules holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// All: every call has its result.
    Serving,
    /// Calls may lack results at the end.
    Rendering,
}

/// Checks a conversation and the functions that go with it.
pub(crate) fn check(
    version: TemplateVersion,
    strictness: Strictness,
    messages: &[Message],
    tools: &[ToolSpec],
) -> Result<(), TextError> {
    check_order(messages)?;
    check_results(strictness, messages)?;
    for (index, message) in messages.iter().enumerate() {
        check_message(version, message, index, index + 1 == messages.len())?;
    }
    for (index, tool) in tools.iter().enumerate() {
        check_tool(tool, index)?;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    System,
    User,
    Assistant,
    Tool,
}

impl Role {
    fn of(message: &Message) -> Self {
        match message {
            Message::System { .. } => Self::System,
            Message::User { .. } => Self::User,
            Message::Assistant { .. } => Self::Assistant,
            Message::Tool { .. } => Self::Tool,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }

    fn may_follow(self, previous: Self) -> bool {
        match previous {
            Self::System | Self::User => self != Self::Tool,
            Self::Assistant | Self::Tool => self != Self::System,
        }
    }
}

fn check_order(messages: &[Message]) -> Result<(), TextError> {
    let Some(last) = messages.last() else {
        return Err(TextError::rule("messages", "messages is empty; send at least one"));
    };
    if messages.len() == 1 && !matches!(last, Message::User { .. } | Message::System { .. }) {
        return Err(TextError::rule(
            "messages",
            "a conversation begins with a message of the user or the system",
        ));
    }
    if matches!(last, Message::Assistant { prefix: false, .. }) {
        return Err(TextError::rule(
            "messages",
            "the last message is the assistant's; it must be of the user or a tool, or carry \
             prefix: true to be continued",
        ));
    }
    for (index, pair) in messages.windows(2).enumerate() {
        let (previous, role) = (Role::of(&pair[0]), Role::of(&pair[1]));
        if !role.may_follow(previous) {
            return Err(TextError::rule(
                format!("messages[{}].role", index + 1),
                format!(
                    "messages[{}] has the role {}, which cannot follow {}",
                    index + 1,
                    role.name(),
                    previous.name()
                ),
            ));
        }
    }
    Ok(())
}

/// Between two answers there are as many results as the first one has calls. A conversation's very
/// first message does not count, whatever it is.
fn check_results(strictness: Strictness, messages: &[Message]) -> Result<(), TextError> {
    let mismatch = |index: usize| {
        TextError::rule(
            "messages",
            format!("before messages[{index}], tool calls and tool results differ in number"),
        )
    };
    let mut open: i64 = 0;
    for (index, message) in messages.iter().enumerate().skip(1) {
        match message {
            Message::Tool { .. } => open -= 1,
            Message::Assistant { .. } if open != 0 => return Err(mismatch(index)),
            Message::Assistant { tool_calls, .. } => open = tool_calls.len() as i64,
            Message::System { .. } | Message::User { .. } => {}
        }
    }
    if open != 0 && strictness == Strictness::Serving {
        return Err(mismatch(messages.len()));
    }
    Ok(())
}

fn check_message(
    version: TemplateVersion,
    message: &Message,
    index: usize,
    is_last: bool,
) -> Result<(), TextError> {
    match message {
        Message::System { .. } | Message::User { .. } => Ok(()),
        Message::Assistant { content, tool_calls, prefix } => {
            let has_text = content.iter().flatten().any(|chunk| !chunk.is_empty());
            if !version.keeps_system_in_place() && has_text != tool_calls.is_empty() {
                return Err(TextError::rule(
                    format!("messages[{index}]"),
                    format!(
                        "messages[{index}] must have either content or tool_calls, and not both"
                    ),
                ));
            }
            for (call, tool_call) in tool_calls.iter().enumerate() {
                let place = format!("messages[{index}].tool_calls[{call}]");
                if version.names_calls() {
                    check_id(&tool_call.id, format!("{place}.id"))?;
                }
                check_name(&tool_call.name, format!("{place}.function.name"))?;
            }
            if *prefix && !is_last {
                return Err(TextError::rule(
                    format!("messages[{index}].prefix"),
                    format!("messages[{index}] has prefix: true, which only the last may have"),
                ));
            }
            Ok(())
        }
        Message::Tool { call_id, name, .. } => {
            if let Some(name) = name {
                check_name(name, format!("messages[{index}].name"))?;
            }
            let place = format!("messages[{index}].tool_call_id");
            match call_id {
                _ if !version.names_calls() => Ok(()),
                Some(id) => check_id(id, place),
                None => Err(TextError::rule(
                    place.clone(),
                    format!("{place} is missing; it names the call that this result answers"),
                )),
            }
        }
    }
}

/// Whether any request may offer this function: its name and the form of its schema.
///
/// Errors: which rule is broken, where in the schema.
pub fn check_function(function: &ToolSpec) -> Result<(), TextError> {
    check_tool(function, 0)
}

fn check_tool(tool: &ToolSpec, index: usize) -> Result<(), TextError> {
    check_name(&tool.name, format!("tools[{index}].function.name"))?;
    schema::check(&tool.parameters).map_err(|problem| {
        let place = format!("tools[{index}].function.parameters{}", problem.path);
        let message = format!("{place} is no JSON Schema of draft 7: {}", problem.message);
        TextError::rule(place, message)
    })
}

fn check_id(id: &str, place: String) -> Result<(), TextError> {
    if is_id(id) {
        return Ok(());
    }
    let message = format!("{place} must be nine letters or digits (a-z, A-Z, 0-9)");
    Err(TextError::rule(place, message))
}

fn check_name(name: &str, place: String) -> Result<(), TextError> {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_valid) {
        return Ok(());
    }
    let message = format!(
        "{place} must be 1 to {NAME_BYTES_MAX} letters, digits, underscores and dashes \
         (a-z, A-Z, 0-9, _, -)"
    );
    Err(TextError::rule(place, message))
}
