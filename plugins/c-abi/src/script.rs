//! A service that does what the last message of a conversation says, for tests of the border.
//!
//! `count N` says `w0 ` to `wN-1 `; `endless` talks until it is cancelled; `silent` says nothing
//! until then; `tool` calls a function; `umlaut` says text of several bytes a character; `fault`
//! fails after one word; `recall` says the whole conversation; `call NAME JSON` runs a function of the host and says its result; `busy` is refused; `defect` panics; anything else says that the kitchen light is on.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use protocol::{
    Description, EmbedRequest, Embeddings, Event, EventSink, Fault, FaultCode, FinishReason, Input,
    Message, ModelCard, Reply, Request, SendOutcome, Service, ToolCall, Toolbox, Usage, reply_pair,
};

/// Events that an answer may run ahead of its reader.
const EVENTS_MAX: usize = 4;

#[derive(Default)]
pub(crate) struct Script {
    stopped: Arc<AtomicBool>,
    pub(crate) ended: Arc<AtomicU64>,
    toolbox: Option<Arc<dyn Toolbox>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Script {
    pub(crate) fn with(toolbox: Arc<dyn Toolbox>) -> Self {
        Self { toolbox: Some(toolbox), ..Self::default() }
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        let threads = std::mem::take(&mut *self.threads.lock().expect("no thread panics with it"));
        for thread in threads {
            thread.join().expect("a scripted answer does not panic");
        }
    }
}

impl Service for Script {
    fn submit(&self, request: Request) -> Result<Reply, Fault> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(Fault::new(FaultCode::Unavailable, "shutting down"));
        }
        let mut told = told(&request.input);
        if told == "recall" {
            told = format!("say {}", recalled(&request.input));
        }
        match told.as_str() {
            "busy" => {
                return Err(Fault::new(FaultCode::Busy, "queue full").retry_after_ms(250));
            }
            "defect" => panic!("scripted defect"),
            _ => {}
        }
        let (sink, reply) = reply_pair(request.id.clone(), EVENTS_MAX);
        let toolbox = self.toolbox.clone();
        let (stopped, ended) = (Arc::clone(&self.stopped), Arc::clone(&self.ended));
        let answering = move || {
            let teller = Teller { sink, stopped, deadline: request.limits.deadline, toolbox };
            teller.tell(request.id, &told);
            ended.fetch_add(1, Ordering::AcqRel);
        };
        let mut threads = self.threads.lock().expect("no thread panics with it");
        threads.retain(|thread| !thread.is_finished());
        threads.push(std::thread::spawn(answering));
        Ok(reply)
    }

    fn embed(&self, request: EmbedRequest) -> Result<Embeddings, Fault> {
        let vectors = request.texts.iter().map(|text| vec![text.len() as f32, 0.5]).collect();
        Ok(Embeddings { model: "scripted".into(), vectors, prompt_tokens: 2, truncated_texts: 0 })
    }

    fn describe(&self) -> Description {
        let card = ModelCard { id: "script".into(), ..ModelCard::default() };
        Description { models: vec![card], ..Description::default() }
    }
}

fn told(input: &Input) -> String {
    let Input::Chat(messages) = input else {
        return String::new();
    };
    match messages.last() {
        Some(Message::User { content }) => content.concat(),
        _ => String::new(),
    }
}

/// Every message with who said it, or how many calls it makes.
fn recalled(input: &Input) -> String {
    let Input::Chat(messages) = input else {
        return String::new();
    };
    let shown = messages.iter().map(|message| match message {
        Message::System { content } => format!("system:{}", content.concat()),
        Message::User { content } => format!("user:{}", content.concat()),
        Message::Tool { content, .. } => format!("tool:{}", content.concat()),
        Message::Assistant { tool_calls, .. } if !tool_calls.is_empty() => {
            format!("assistant:+{}", tool_calls.len())
        }
        Message::Assistant { content, .. } => {
            format!("assistant:{}", content.as_deref().unwrap_or_default().concat())
        }
    });
    shown.collect::<Vec<_>>().join("|")
}

struct Teller {
    sink: EventSink,
    stopped: Arc<AtomicBool>,
    deadline: Option<Instant>,
    toolbox: Option<Arc<dyn Toolbox>>,
}

impl Teller {
    fn tell(&self, id: protocol::RequestId, told: &str) {
        let accepted =
            Event::Accepted { id, model: "script".into(), prompt_tokens: 3, cached_tokens: 1 };
        self.send(accepted);
        let (verb, number) = told.split_once(' ').unwrap_or((told, ""));
        let mut said = 0;
        let end = match verb {
            "count" => {
                let words: u32 = number.parse().unwrap_or(0);
                self.words(words, &mut said).unwrap_or(Ok(FinishReason::Stop))
            }
            "endless" => self.words(u32::MAX, &mut said).unwrap_or(Ok(FinishReason::Length)),
            "silent" => loop {
                if let Some(end) = self.interrupted() {
                    break end;
                }
                std::thread::park_timeout(Duration::from_millis(1));
            },
            "say" => {
                self.send(Event::text(number, 1));
                Ok(FinishReason::Stop)
            }
            "umlaut" => {
                self.send(Event::text("größe 🌬", 5));
                Ok(FinishReason::Stop)
            }
            "tool" => {
                self.send(Event::ToolCall(ToolCall {
                    id: "abcdefghi".into(),
                    name: "weather".into(),
                    arguments: r#"{"city": "Mendoza"}"#.into(),
                }));
                Ok(FinishReason::ToolCalls)
            }
            "call" => {
                let (name, arguments) = number.split_once(' ').unwrap_or((number, "{}"));
                let said = self.call(name, arguments);
                self.send(Event::text(said, 1));
                self.interrupted().unwrap_or(Ok(FinishReason::Stop))
            }
            "fault" => {
                self.send(Event::text("so ", 1));
                Err(Fault::new(FaultCode::Internal, "scripted fault"))
            }
            _ => {
                for word in "The kitchen light is on.".split_inclusive(' ') {
                    self.send(Event::text(word, 1));
                }
                Ok(FinishReason::Stop)
            }
        };
        self.send(match end {
            Ok(reason) => Event::Finished {
                reason,
                usage: Usage {
                    prompt_tokens: 3,
                    cached_tokens: 1,
                    completion_tokens: said,
                    ..Usage::default()
                },
            },
            Err(fault) => Event::Failed(fault),
        });
    }

    /// What the model would read as the result of a call.
    fn call(&self, name: &str, arguments: &str) -> String {
        let tools = self.toolbox.as_ref().map_or_else(Vec::new, |toolbox| toolbox.tools());
        let Some(tool) = tools.into_iter().find(|tool| tool.spec().name == name) else {
            return "no such function".into();
        };
        let deadline = self.deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
        let wanted = || self.interrupted().is_none();
        match tool.call_while(arguments, deadline, &wanted) {
            Ok(result) => result,
            Err(error) => format!("error: {error}"),
        }
    }

    fn words(&self, count: u32, said: &mut u32) -> Option<Result<FinishReason, Fault>> {
        for word in 0..count {
            if let Some(end) = self.interrupted() {
                return Some(end);
            }
            self.send(Event::text(format!("w{word} "), 1));
            *said += 1;
        }
        None
    }

    fn interrupted(&self) -> Option<Result<FinishReason, Fault>> {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Some(Err(Fault::new(FaultCode::Deadline, "the deadline has passed")));
        }
        let cancelled = self.sink.is_cancelled() || self.sink.is_gone();
        (cancelled || self.stopped.load(Ordering::Acquire)).then_some(Ok(FinishReason::Cancelled))
    }

    /// Waits for room; gives up where nobody will ever read.
    fn send(&self, mut event: Event) {
        while let SendOutcome::Full(back) = self.sink.send(event) {
            let over = self.stopped.load(Ordering::Acquire) || self.interrupted().is_some();
            if over && !back.is_last() {
                return;
            }
            if self.stopped.load(Ordering::Acquire) {
                return;
            }
            event = back;
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}
