//! A service that does what the last message of a conversation says, for tests of the border.
//!
//! `count N` says `w0 ` to `wN-1 `; `endless` talks until it is cancelled; `silent` says nothing
//! until then; `tool` calls a function; `umlaut` says text of several bytes a character; `fault`
//! fails after one word; `busy` is refused; `defect` panics; anything else says that the kitchen light is on.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use protocol::{
    Description, Event, EventSink, Fault, FaultCode, FinishReason, Input, Message, ModelCard,
    Reply, Request, SendOutcome, Service, ToolCall, Usage, reply_pair,
};

/// Events that an answer may run ahead of its reader.
const EVENTS_MAX: usize = 4;

#[derive(Default)]
pub(crate) struct Script {
    stopped: Arc<AtomicBool>,
    pub(crate) ended: Arc<AtomicU64>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Script {
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
        let told = told(&request.input);
        match told.as_str() {
            "busy" => {
                return Err(Fault::new(FaultCode::Busy, "queue full").retry_after_ms(250));
            }
            "defect" => panic!("scripted defect"),
            _ => {}
        }
        let (sink, reply) = reply_pair(request.id.clone(), EVENTS_MAX);
        let (stopped, ended) = (Arc::clone(&self.stopped), Arc::clone(&self.ended));
        let answering = move || {
            let teller = Teller { sink, stopped, deadline: request.limits.deadline };
            teller.tell(request.id, &told);
            ended.fetch_add(1, Ordering::AcqRel);
        };
        let mut threads = self.threads.lock().expect("no thread panics with it");
        threads.retain(|thread| !thread.is_finished());
        threads.push(std::thread::spawn(answering));
        Ok(reply)
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

struct Teller {
    sink: EventSink,
    stopped: Arc<AtomicBool>,
    deadline: Option<Instant>,
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
