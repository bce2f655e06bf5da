//! The texts of a request, wherever they stand.

use protocol::{Input, Message, Request};

/// Shows every text that the model would read as such to `each`: contents and the results of
/// functions. Descriptions of functions are the application's own and left out.
pub(crate) fn for_each(request: &mut Request, mut each: impl FnMut(&mut String)) {
    match &mut request.input {
        Input::Text(text) => each(text),
        Input::Fill { prefix, suffix } => {
            each(prefix);
            suffix.iter_mut().for_each(each);
        }
        Input::Chat(messages) => {
            for message in messages {
                of_message(message, &mut each);
            }
        }
        Input::Tokens(_) => {}
    }
}

/// Shows the arguments of every function call of the conversation, which are JSON text.
pub(crate) fn for_each_arguments(request: &mut Request, mut each: impl FnMut(&mut String)) {
    let Input::Chat(messages) = &mut request.input else {
        return;
    };
    for message in messages {
        if let Message::Assistant { tool_calls, .. } = message {
            tool_calls.iter_mut().map(|call| &mut call.arguments).for_each(&mut each);
        }
    }
}

fn of_message(message: &mut Message, each: &mut impl FnMut(&mut String)) {
    match message {
        Message::System { content } | Message::User { content } | Message::Tool { content, .. } => {
            content.iter_mut().for_each(each);
        }
        Message::Assistant { content, .. } => content.iter_mut().flatten().for_each(each),
    }
}
