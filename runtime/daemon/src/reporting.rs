//! What the model says of an alarm: a prompt from a template, and its answer as an event.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use protocol::{
    Event, Fault, FaultCode, FinishReason, Input, Message, News, NewsSink, Request, Service,
    ToolChoice,
};
use serde_json::json;

use crate::error::AssembleError;
use crate::unix_now;

/// What such an answer is called in topics.
const KIND: &str = "alarm_report";
/// Alarms that may wait for the model; more are told without it.
const QUESTIONS_MAX: usize = 8;
/// An answer takes this long, at most, its wait in the queue among it.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest answer that is told, in bytes.
const TEXT_BYTES_MAX: usize = 16 << 10;
/// The last numbers of a window that a prompt tells.
const VALUES_MAX: usize = 32;

/// An alarm that the model is to say something about.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) detector: String,
    pub(crate) topic: String,
    pub(crate) score: f64,
    pub(crate) threshold: f64,
    pub(crate) window: Vec<f32>,
    /// The template.
    pub(crate) prompt: String,
    pub(crate) tokens_max: u32,
}

/// The thread that asks. Dropping it ends it after what it waits for.
pub(crate) struct Reporting {
    questions: Option<flume::Sender<Question>>,
    thread: Option<JoinHandle<()>>,
}

impl Reporting {
    /// Errors: the system starts no thread.
    pub(crate) fn start(service: Arc<dyn Service>, news: NewsSink) -> Result<Self, AssembleError> {
        let (sender, questions) = flume::bounded::<Question>(QUESTIONS_MAX);
        let builder = std::thread::Builder::new().name("zonda-report".into());
        let thread = builder.spawn(move || {
            for question in questions {
                let body = question.report(answer(service.as_ref(), &question));
                news.tell(News::Event { kind: KIND.into(), body });
            }
        })?;
        Ok(Self { questions: Some(sender), thread: Some(thread) })
    }

    /// Asks, without waiting.
    pub(crate) fn ask(&self, question: Question) {
        let Some(questions) = &self.questions else { return };
        if questions.try_send(question).is_err() {
            tracing::warn!("the model says nothing of an alarm: too many wait for it");
        }
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        self.questions.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the alarms' reports panicked");
        }
    }
}

/// What the model said, and why it ended.
fn answer(service: &dyn Service, question: &Question) -> Result<(String, FinishReason), Fault> {
    let content = vec![question.words()];
    let id = format!("alarm-{}-{}", question.detector, unix_now());
    let mut request = Request::new(id, Input::Chat(vec![Message::User { content }]));
    // Nobody looks at what an alarm would set in motion.
    request.tool_choice = ToolChoice::None;
    request.limits.max_tokens = Some(question.tokens_max);
    request.limits.deadline = Some(Instant::now() + PATIENCE);
    let mut reply = service.submit(request)?;
    let mut text = String::new();
    while let Some(event) = reply.recv() {
        match event {
            Event::Text { text: more, .. } => {
                let room = TEXT_BYTES_MAX.saturating_sub(text.len());
                text.push_str(&more[..more.floor_char_boundary(room)]);
            }
            Event::Finished { reason, .. } => return Ok((text, reason)),
            Event::Failed(fault) => return Err(fault),
            _ => {}
        }
    }
    Err(Fault::new(FaultCode::Internal, "the answer has no end"))
}

impl Question {
    /// The template, filled in. What is filled in has no placeholders: numbers, and what the
    /// configuration says.
    fn words(&self) -> String {
        let last = &self.window[self.window.len().saturating_sub(VALUES_MAX)..];
        let values: Vec<String> = last.iter().map(f32::to_string).collect();
        let fields = [
            ("detector", self.detector.clone()),
            ("topic", self.topic.clone()),
            ("score", format!("{:.6}", self.score)),
            ("threshold", self.threshold.to_string()),
            ("values", values.join(", ")),
        ];
        let mut words = String::new();
        let mut rest = self.prompt.as_str();
        while let Some((before, inside)) = rest.split_once('{') {
            let (name, tail) = inside.split_once('}').unwrap_or((inside, ""));
            words.push_str(before);
            let field = fields.iter().find(|(known, _)| *known == name);
            words.push_str(field.map_or("", |(_, value)| value));
            rest = tail;
        }
        words + rest
    }

    fn report(&self, answer: Result<(String, FinishReason), Fault>) -> String {
        let mut body = json!({
            "kind": KIND,
            "detector": self.detector,
            "topic": self.topic,
            "score": self.score,
            "threshold": self.threshold,
            "time_s": unix_now(),
        });
        match answer {
            Ok((text, reason)) => {
                body["text"] = text.into();
                body["finish_reason"] = match reason {
                    FinishReason::Length => "length",
                    FinishReason::Cancelled => "cancelled",
                    _ => "stop",
                }
                .into();
            }
            Err(fault) => {
                tracing::warn!(code = %fault.code, "the model says nothing of an alarm");
                body["error"] = json!({"code": fault.code.name(), "message": fault.message});
            }
        }
        body.to_string()
    }
}

#[cfg(test)]
mod tests {
    use protocol::{Description, EventSink, Reply, Usage, news_pair, reply_pair};
    use serde_json::Value;

    use super::*;

    fn question(prompt: &str) -> Question {
        Question {
            detector: "pump".into(),
            topic: "plant/{score}/1".into(),
            score: 2.5,
            threshold: 0.5,
            window: (0..40).map(|n| n as f32).collect(),
            prompt: prompt.into(),
            tokens_max: 9,
        }
    }

    #[test]
    fn a_template_is_filled_in_once() {
        let words = question("{topic} of {detector}: {score} over {threshold}!").words();
        assert_eq!(words, "plant/{score}/1 of pump: 2.500000 over 0.5!");
        let words = question("{values}").words();
        assert!(words.starts_with("8, 9, ") && words.ends_with(", 38, 39"), "{words}");
    }

    /// Answers with what it was asked.
    struct Echo;

    impl Service for Echo {
        fn submit(&self, request: Request) -> Result<Reply, Fault> {
            let Input::Chat(messages) = &request.input else { panic!("a conversation") };
            let [Message::User { content }] = &messages[..] else { panic!("one message") };
            assert_eq!(request.limits.max_tokens, Some(9));
            assert_eq!(request.tool_choice, ToolChoice::None);
            if content[0] == "refuse" {
                return Err(Fault::new(FaultCode::Busy, "full"));
            }
            let (sink, reply): (EventSink, Reply) = reply_pair(request.id.clone(), 8);
            sink.send(Event::text(&content[0], 1));
            sink.send(Event::Finished { reason: FinishReason::Length, usage: Usage::default() });
            Ok(reply)
        }

        fn describe(&self) -> Description {
            Description::default()
        }
    }

    #[test]
    fn an_alarm_is_told_with_what_the_model_says() {
        let (sink, feed) = news_pair(8);
        let reporting = Reporting::start(Arc::new(Echo), sink).unwrap();
        reporting.ask(question("why {score}?"));
        reporting.ask(question("refuse"));
        drop(reporting);
        let told = |news: Option<News>| match news {
            Some(News::Event { kind, body }) if kind == KIND => {
                serde_json::from_str::<Value>(&body).unwrap()
            }
            other => panic!("no report: {other:?}"),
        };
        let first = told(feed.try_next());
        assert_eq!(
            (&first["text"], &first["finish_reason"]),
            (&json!("why 2.500000?"), &json!("length"))
        );
        assert_eq!((&first["detector"], &first["score"]), (&json!("pump"), &json!(2.5)));
        assert_eq!(told(feed.try_next())["error"]["code"], "queue_full");
    }
}
