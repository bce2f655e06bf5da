//! A plugin as a filter: its verdicts become changes and refusals.

use protocol::{Asked, Event, Fault, FaultCode, Filter, Input, Message, Request, Task};

use crate::limits::TEXTS_MAX;
use crate::manifest::Fail;
use crate::plugin::Plugin;
use crate::supervisor::CallError;
use crate::wire::{Ask, Say, Texts, Verdict};

/// When a request may come again that could not be judged.
const RETRY_AFTER_MS: u64 = 1000;

pub(crate) struct PluginFilter {
    plugin: Plugin,
}

/// A text of a request or an answer, with its role.
type Place<'a> = (&'static str, &'a mut String);

impl PluginFilter {
    pub(crate) fn new(plugin: Plugin) -> Self {
        Self { plugin }
    }

    fn id(&self) -> &str {
        &self.plugin.manifest().id
    }

    fn fails_open(&self) -> bool {
        self.plugin.manifest().fail == Fail::Open
    }

    /// Shows the texts to the plugin and does what it says.
    fn judge(&self, asked: &Asked, is_final: bool, places: Vec<Place<'_>>) -> Result<(), Fault> {
        let verdict = match places.len() <= TEXTS_MAX {
            true => self.ask(asked, is_final, &places),
            false => Err(CallError::TooLarge(format!("more than {TEXTS_MAX} texts"))),
        };
        match verdict {
            Ok(Verdict::Pass) => Ok(()),
            Ok(Verdict::Replace(replaced)) => {
                let mut places = places;
                for (index, text) in replaced {
                    if let Some((_, place)) = places.get_mut(index) {
                        **place = text;
                    }
                }
                Ok(())
            }
            Ok(Verdict::Reject { status, message }) => Err(Fault::new(code(status), message)),
            Err(error) => self.without_verdict(&error),
        }
    }

    fn ask(
        &self,
        asked: &Asked,
        is_final: bool,
        places: &[Place<'_>],
    ) -> Result<Verdict, CallError> {
        let texts = places.iter().map(|(role, text)| ((*role).to_owned(), (**text).clone()));
        let texts = Texts {
            request_id: asked.id.0.clone(),
            client: asked.client.clone().unwrap_or_default(),
            model: asked.model.clone(),
            texts: texts.collect(),
        };
        match self.plugin.call(&Ask::Judge { is_final, texts }, None)? {
            Say::Verdict(verdict) => Ok(verdict),
            _ => Err(CallError::Broke("it gave no verdict".into())),
        }
    }

    fn without_verdict(&self, error: &CallError) -> Result<(), Fault> {
        let id = self.id();
        if self.fails_open() {
            self.plugin.note(&format!("passed without a verdict: {error}"));
            return Ok(());
        }
        self.plugin.note(&format!("refused without a verdict: {error}"));
        let code = match error {
            CallError::TooLarge(_) => FaultCode::TooLarge,
            CallError::Busy => FaultCode::Busy,
            CallError::Down(_) | CallError::Late | CallError::Broke(_) => FaultCode::Unavailable,
        };
        let message = format!("the filter {id} cannot judge this request, so it is refused");
        Err(Fault::new(code, message).retry_after_ms(RETRY_AFTER_MS))
    }
}

impl Filter for PluginFilter {
    fn name(&self) -> &str {
        self.id()
    }

    fn on_request(&self, request: &mut Request) -> Result<(), Fault> {
        let ready = self.plugin.shown().ready;
        if ready.is_some_and(|ready| !ready.judges_requests) {
            return Ok(());
        }
        if matches!(request.input, Input::Tokens(_)) && !self.fails_open() {
            let message = format!("tokens cannot be read by the filter {}", self.id());
            return Err(Fault::new(FaultCode::Forbidden, message));
        }
        let asked = Asked::of(request);
        self.judge(&asked, false, of_request(request))
    }

    fn on_event(&self, _event: &mut Event) -> Result<(), Fault> {
        Ok(())
    }

    fn judges_answers(&self) -> bool {
        match self.plugin.shown().ready {
            Some(ready) => ready.judges_answers,
            // Until it was ready once nobody knows; a guard that cannot judge must not be passed.
            None => !self.fails_open(),
        }
    }

    fn on_answer(&self, asked: &Asked, answer: &mut Vec<Event>) -> Result<(), Fault> {
        let before: Vec<String> =
            of_answer(answer).iter().map(|(_, text)| (**text).clone()).collect();
        if before.is_empty() {
            return Ok(());
        }
        self.judge(asked, true, of_answer(answer))?;
        let texts = answer.iter_mut().filter(|event| has_text(event));
        for (event, before) in texts.zip(before) {
            if let Event::Text { text, logprobs, .. } = event
                && *text != before
            {
                // They spell what was taken away.
                logprobs.clear();
            }
        }
        Ok(())
    }
}

/// What the client is told; any other number is a refusal as such.
fn code(status: u16) -> FaultCode {
    match status {
        400 => FaultCode::BadRequest,
        413 => FaultCode::TooLarge,
        422 => FaultCode::InvalidField,
        429 => FaultCode::Busy,
        503 => FaultCode::Unavailable,
        _ => FaultCode::Forbidden,
    }
}

/// Every text that comes from outside and that the model reads.
fn of_request(request: &mut Request) -> Vec<Place<'_>> {
    let mut places = Vec::new();
    match &mut request.input {
        Input::Text(text) => places.push(("text", text)),
        Input::Fill { prefix, suffix } => {
            places.push(("prefix", prefix));
            places.extend(suffix.iter_mut().map(|text| ("suffix", text)));
        }
        Input::Chat(messages) => messages.iter_mut().for_each(|m| of_message(m, &mut places)),
        Input::Tokens(_) => {}
    }
    places.extend(request.prediction.iter_mut().map(|text| ("prediction", text)));
    if let Task::Classify(classify) = &mut request.task {
        places.extend(classify.instruction.iter_mut().map(|text| ("instruction", text)));
        places.extend(classify.labels.iter_mut().map(|text| ("label", text)));
    }
    places
}

fn of_message<'a>(message: &'a mut Message, places: &mut Vec<Place<'a>>) {
    let (role, content) = match message {
        Message::System { content } => ("system", content),
        Message::User { content } => ("user", content),
        Message::Tool { content, .. } => ("tool", content),
        Message::Assistant { content, tool_calls, .. } => {
            places.extend(content.iter_mut().flatten().map(|text| ("assistant", text)));
            places.extend(tool_calls.iter_mut().map(|call| ("arguments", &mut call.arguments)));
            return;
        }
    };
    places.extend(content.iter_mut().map(|text| (role, text)));
}

fn has_text(event: &Event) -> bool {
    matches!(event, Event::Text { .. } | Event::ToolCall(_))
}

fn of_answer(answer: &mut [Event]) -> Vec<Place<'_>> {
    let mut places = Vec::new();
    for event in answer {
        match event {
            Event::Text { text, .. } => places.push(("assistant", text)),
            Event::ToolCall(call) => places.push(("arguments", &mut call.arguments)),
            _ => {}
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use protocol::{Classify, ToolCall};

    use super::*;

    #[test]
    fn every_text_of_a_request_is_shown_with_its_role() {
        let call = ToolCall { id: "1".into(), name: "f".into(), arguments: "{}".into() };
        let mut request = Request::new(
            "r",
            Input::Chat(vec![
                Message::System { content: vec!["a".into()] },
                Message::User { content: vec!["b".into(), "c".into()] },
                Message::Assistant {
                    content: Some(vec!["d".into()]),
                    tool_calls: vec![call],
                    prefix: false,
                },
                Message::Tool { content: vec!["e".into()], call_id: None, name: None },
            ]),
        );
        request.prediction = Some("f".into());
        request.task = Task::Classify(Classify::new(vec!["g".into()]));
        let shown: Vec<String> = of_request(&mut request)
            .into_iter()
            .map(|(role, text)| format!("{role}={text}"))
            .collect();
        let wanted = "system=a user=b user=c assistant=d arguments={} tool=e prediction=f label=g";
        assert_eq!(shown.join(" "), wanted);
    }

    #[test]
    fn unknown_numbers_refuse_as_such() {
        assert_eq!(code(413), FaultCode::TooLarge);
        for odd in [0, 200, 302, 500, 999] {
            assert_eq!(code(odd), FaultCode::Forbidden);
        }
    }
}
