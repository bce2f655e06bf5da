//! Calls of an earlier answer that the client lets this box run now.

use std::sync::Arc;

use protocol::{Fault, Input, Message, Request, Tool, ToolCall};

/// The calls at the end of the conversation that have no result yet: those are run, or refused in the
/// client's name.
///
/// Errors: an approved call is not among them, or one of them is not of `tools`.
pub(super) fn open_calls(
    request: &Request,
    tools: &[Arc<dyn Tool>],
) -> Result<Vec<ToolCall>, Fault> {
    let messages = match &request.input {
        Input::Chat(messages) => messages.as_slice(),
        _ => &[],
    };
    let results = messages.iter().rev().map_while(|message| match message {
        Message::Tool { call_id, .. } => Some(call_id.as_deref()),
        _ => None,
    });
    let results: Vec<Option<&str>> = results.collect();
    let calls = match messages.iter().rev().nth(results.len()) {
        Some(Message::Assistant { tool_calls, .. }) => tool_calls.as_slice(),
        _ => &[],
    };
    let is_open = |call: &&ToolCall| !results.contains(&Some(&call.id));
    let open: Vec<ToolCall> = calls.iter().filter(is_open).cloned().collect();
    let is_known = |id: &String| open.iter().any(|call| call.id == *id);
    if !request.approved_calls.iter().all(is_known) {
        return Err(refused(
            "approved_calls names a call that does not wait for a result at the end of the \
             conversation",
        ));
    }
    let is_ours = |call: &ToolCall| tools.iter().any(|tool| tool.spec().name == call.name);
    if !open.iter().all(is_ours) {
        return Err(refused(
            "a call at the end of the conversation is not of a function that this box has now; \
             send its result",
        ));
    }
    Ok(open)
}

fn refused(message: &str) -> Fault {
    Fault::bad_request(message).at("ext.approved_calls")
}
