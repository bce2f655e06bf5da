//! A service without a model: it repeats the last words it heard. Which trouble it makes is asked
//! for by the name of the model.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use protocol::{
    Description, EmbedRequest, EmbedderCard, Embeddings, Event, EventSink, Fault, FaultCode,
    FinishReason, Input, Load, Message, ModelCard, Reply, Request, RequestId, SendOutcome, Service,
    ToolCall, ToolChoice, Usage, reply_pair,
};

/// Longest wait of a test for something that must happen.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Events that a reply holds; no answer here is longer.
const EVENTS_MAX: usize = 4096;

/// The fake service and the replies it keeps open.
#[derive(Default)]
pub(crate) struct Parrot {
    kept: Mutex<Vec<EventSink>>,
    asked: Mutex<Vec<Request>>,
}

impl Service for Parrot {
    fn submit(&self, request: Request) -> Result<Reply, Fault> {
        self.asked.lock().expect("no test panics here").push(request.clone());
        let busy = Fault::new(FaultCode::Busy, "8 requests wait already").retry_after_ms(1500);
        let (sink, reply) = reply_pair(request.id.clone(), EVENTS_MAX);
        match request.model.as_str() {
            "" | "parrot" | "polly" => send_all(&sink, &answer(&request)),
            "busy" => return Err(busy),
            "late" => send_all(&sink, &[Event::Failed(busy)]),
            "broken" => {
                let fault = Fault::new(FaultCode::Internal, "the parrot flew away");
                send_all(&sink, &[accepted(&request.id), word("Hel"), Event::Failed(fault)]);
            }
            "patient" => {
                send_all(&sink, &[accepted(&request.id), word("wait")]);
                self.kept.lock().expect("no test panics here").push(sink);
            }
            "narrow" => {
                let mut kept = self.kept.lock().expect("no test panics here");
                if kept.len() == 2 {
                    return Err(busy);
                }
                kept.push(sink);
            }
            "mute" => self.kept.lock().expect("no test panics here").push(sink),
            "panic" => panic!("asked for"),
            _ => {
                let message = "no such model; /v1/models lists them";
                return Err(Fault::new(FaultCode::UnknownModel, message).at("model"));
            }
        }
        Ok(reply)
    }

    fn describe(&self) -> Description {
        let card = ModelCard {
            id: "parrot".into(),
            aliases: vec!["polly".into()],
            context_tokens_max: 4096,
            fill: true,
            tools: true,
            default_temperature: 0.7,
            created: 1_700_000_000,
            encoding: "v3".into(),
        };
        let load = Load { active: 1, queued: 2, queue_requests_max: 8, ..Load::default() };
        let embedders = vec![EmbedderCard {
            name: "nest".into(),
            dimensions: 2,
            context_tokens_max: 256,
            created: 1_700_000_000,
        }];
        Description { models: vec![card], embedders, load, ..Description::default() }
    }

    /// How long each text is, and 1; it has read no more than four bytes of it.
    fn embed(&self, request: EmbedRequest) -> Result<Embeddings, Fault> {
        if request.model != "nest" {
            let message = "no such embedder; /v1/models lists them";
            return Err(Fault::new(FaultCode::UnknownModel, message).at("model"));
        }
        let lengths = request.texts.iter().map(String::len);
        Ok(Embeddings {
            model: request.model.clone(),
            vectors: lengths.clone().map(|length| vec![length as f32, 1.0]).collect(),
            prompt_tokens: lengths.clone().sum::<usize>() as u32,
            truncated_texts: lengths.filter(|length| *length > 4).count() as u32,
        })
    }
}

#[allow(dead_code, reason = "the example shares this file and only answers")]
impl Parrot {
    /// The last request, once there is one.
    pub(crate) fn last_request(&self) -> Option<Request> {
        self.asked.lock().expect("no test panics here").last().cloned()
    }

    /// Waits for an answer that is kept open.
    pub(crate) fn kept(&self) -> EventSink {
        eventually(|| self.kept.lock().expect("no test panics here").pop())
    }
}

/// What `attempt` gives, as soon as it gives something.
#[allow(dead_code, reason = "the example shares this file and only answers")]
pub(crate) fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(begun.elapsed() < SOON, "it did not happen");
        thread::yield_now();
    }
}

pub(crate) fn send_all(sink: &EventSink, events: &[Event]) {
    for event in events {
        assert_eq!(sink.send(event.clone()), SendOutcome::Sent);
    }
}

pub(crate) fn finished(reason: FinishReason, completion_tokens: u32) -> Event {
    let usage = Usage { prompt_tokens: 5, cached_tokens: 2, completion_tokens, ..Usage::default() };
    Event::Finished { reason, usage }
}

fn accepted(id: &RequestId) -> Event {
    Event::Accepted { id: id.clone(), model: "parrot".into(), prompt_tokens: 5, cached_tokens: 2 }
}

fn word(text: &str) -> Event {
    Event::text(text, 1)
}

fn answer(request: &Request) -> Vec<Event> {
    let mut events = vec![accepted(&request.id)];
    if let ToolChoice::Function(name) = &request.tool_choice {
        let arguments = r#"{"city": "Pavia", "n": 3}"#.to_owned();
        events.push(Event::ToolCall(ToolCall {
            id: "D681PevKs".into(),
            name: name.clone(),
            arguments,
        }));
        events.push(finished(FinishReason::ToolCalls, 9));
        return events;
    }
    let heard = heard(request);
    let words: Vec<_> = heard.split_inclusive(' ').collect();
    let tokens_max = request.limits.max_tokens.map_or(words.len(), |tokens| tokens as usize);
    let mut reason =
        if words.len() > tokens_max { FinishReason::Length } else { FinishReason::Stop };
    let mut said = words[..words.len().min(tokens_max)].concat();
    if let Some(end) = request.limits.stop.iter().filter_map(|stop| said.find(stop)).min() {
        said.truncate(end);
        reason = FinishReason::Stop;
    }
    let words: Vec<_> = said.split_inclusive(' ').map(word).collect();
    let tokens = words.len() as u32;
    events.extend(words);
    events.push(finished(reason, tokens));
    events
}

fn heard(request: &Request) -> String {
    match &request.input {
        Input::Chat(messages) => messages
            .iter()
            .rev()
            .find_map(|message| match message {
                Message::User { content } => Some(content.concat()),
                _ => None,
            })
            .unwrap_or_default(),
        Input::Fill { prefix, suffix } => {
            format!("{prefix} ... {}", suffix.as_deref().unwrap_or_default())
        }
        Input::Text(text) => text.clone(),
        Input::Tokens(tokens) => format!("{} tokens", tokens.len()),
    }
}
