//! Limits how much is asked and how much is answered.

use protocol::{Event, Fault, FaultCode, Filter, Input, Request};
use serde::Deserialize;

use crate::{FilterError, Settings, texts};

const KIND: &str = "length";

/// Settings; what is missing is not limited.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Length {
    /// Characters of all texts together.
    input_characters_max: Option<u64>,
    /// Messages of a conversation.
    messages_max: Option<u32>,
    /// Tokens of the answer: a request that asks for more gets so many and ends with `length`.
    answer_tokens_max: Option<u32>,
}

pub(crate) fn build(settings: &Settings) -> Result<Box<dyn Filter>, FilterError> {
    let length: Length = crate::read(KIND, settings)?;
    let refuse = |message: &str| FilterError::Settings { kind: KIND, message: message.into() };
    match length {
        Length { input_characters_max: None, messages_max: None, answer_tokens_max: None } => {
            Err(refuse("set input_characters_max, messages_max or answer_tokens_max"))
        }
        Length { messages_max: Some(0), .. }
        | Length { input_characters_max: Some(0), .. }
        | Length { answer_tokens_max: Some(0), .. } => {
            Err(refuse("a limit of 0 refuses everything; leave it out to have no limit"))
        }
        _ => Ok(Box::new(length)),
    }
}

impl Filter for Length {
    fn name(&self) -> &'static str {
        KIND
    }

    fn on_request(&self, request: &mut Request) -> Result<(), Fault> {
        if let (Some(limit), Input::Chat(messages)) = (self.messages_max, &request.input)
            && messages.len() > limit as usize
        {
            return Err(too_long(messages.len() as u64, u64::from(limit), "messages"));
        }
        if let Some(limit) = self.input_characters_max {
            if matches!(request.input, Input::Tokens(_)) {
                let message = "tokens cannot be measured in characters, which are limited here";
                return Err(Fault::new(FaultCode::Forbidden, message));
            }
            let mut characters = 0_u64;
            let mut count = |text: &mut String| characters += text.chars().count() as u64;
            texts::for_each(request, &mut count);
            texts::for_each_arguments(request, count);
            if characters > limit {
                return Err(too_long(characters, limit, "characters"));
            }
        }
        if let Some(limit) = self.answer_tokens_max {
            let asked = request.limits.max_tokens.unwrap_or(limit);
            request.limits.max_tokens = Some(asked.min(limit));
        }
        Ok(())
    }

    fn on_event(&self, _event: &mut Event) -> Result<(), Fault> {
        Ok(())
    }
}

fn too_long(found: u64, limit: u64, unit: &str) -> Fault {
    let message = format!("the request has {found} {unit}, the limit is {limit}; send less");
    Fault::new(FaultCode::TooLarge, message)
}

#[cfg(test)]
mod tests {
    use protocol::Message;
    use serde_json::json;

    use super::*;

    fn filter(settings: serde_json::Value) -> Box<dyn Filter> {
        build(settings.as_object().unwrap()).unwrap()
    }

    fn chat(texts: &[&str]) -> Request {
        let user = |text: &&str| Message::User { content: vec![(*text).to_owned()] };
        Request::new("r", Input::Chat(texts.iter().map(user).collect()))
    }

    #[test]
    fn characters_are_counted_over_all_texts_and_not_in_bytes() {
        let filter = filter(json!({ "input_characters_max": 6 }));
        assert_eq!(filter.on_request(&mut chat(&["äöü", "äöü"])), Ok(()));
        let fault = filter.on_request(&mut chat(&["äöü", "äöüx"])).unwrap_err();
        assert_eq!(fault.code, FaultCode::TooLarge);
        assert_eq!(fault.message, "the request has 7 characters, the limit is 6; send less");
    }

    #[test]
    fn functions_and_both_sides_of_a_hole_count() {
        let filter = filter(json!({ "input_characters_max": 3 }));
        let call = protocol::ToolCall {
            id: String::new(),
            name: String::new(),
            arguments: "{\"a\":1}".into(),
        };
        let assistant = Message::Assistant { content: None, tool_calls: vec![call], prefix: false };
        let mut with_call = Request::new("r", Input::Chat(vec![assistant]));
        assert!(filter.on_request(&mut with_call).is_err());
        let hole = |suffix: &str| Input::Fill { prefix: "ab".into(), suffix: Some(suffix.into()) };
        assert!(filter.on_request(&mut Request::new("r", hole("c"))).is_ok());
        assert!(filter.on_request(&mut Request::new("r", hole("cd"))).is_err());
        assert!(filter.on_request(&mut Request::new("r", Input::Text("abcd".into()))).is_err());
        let tokens = Input::Tokens(vec![protocol::TokenId(1)]);
        let fault = filter.on_request(&mut Request::new("r", tokens)).unwrap_err();
        assert_eq!(fault.code, FaultCode::Forbidden);
    }

    #[test]
    fn messages_are_counted() {
        let filter = filter(json!({ "messages_max": 2 }));
        assert_eq!(filter.on_request(&mut chat(&["a", "b"])), Ok(()));
        assert!(filter.on_request(&mut chat(&["a", "b", "c"])).is_err());
    }

    #[test]
    fn answers_are_capped_and_never_lengthened() {
        let filter = filter(json!({ "answer_tokens_max": 10 }));
        for (asked, capped) in [(None, 10), (Some(5), 5), (Some(10), 10), (Some(11), 10)] {
            let mut request = chat(&["a"]);
            request.limits.max_tokens = asked;
            filter.on_request(&mut request).unwrap();
            assert_eq!(request.limits.max_tokens, Some(capped));
        }
    }
}
