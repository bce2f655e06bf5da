//! Replies as a response: whole, or as server-sent events while it is made.

use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use chat_json::{Chat, Choices, fault_body};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream, SelectAll};
use protocol::{Event, Fault, FaultCode, Reply};
use serde_json::Value;
use tokio::time::timeout;

use crate::fault_response::{json_response, refuse};
use crate::gate::Ticket;

/// Silence after which a comment tells clients and proxies that the connection lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What an answer needs of its chat, which itself is handed to the service.
pub(crate) struct Telling {
    choices: Choices,
    headers: HeaderMap,
    stream: bool,
}

impl Telling {
    pub(crate) fn of(chat: &Chat) -> Self {
        Self {
            choices: Choices::new(chat, seconds_since_1970()),
            headers: request_headers(&chat.request.id.0, &chat.ignored),
            stream: chat.stream,
        }
    }

    /// Answers with what the replies bring, one for each choice. Dropping the response cancels all
    /// of its requests.
    pub(crate) async fn tell(self, replies: Vec<Reply>, ticket: Ticket) -> Response {
        let flow = Flow {
            events: events_of(replies),
            choices: self.choices,
            first: None,
            over: false,
            _ticket: ticket,
        };
        let response = if self.stream { flow.stream().await } else { flow.whole().await };
        (self.headers, response).into_response()
    }
}

/// Events, each with the place of its answer. The answers take turns.
type Events = SelectAll<BoxStream<'static, (usize, Event)>>;

fn events_of(replies: Vec<Reply>) -> Events {
    stream::select_all(replies.into_iter().enumerate().map(|(index, reply)| {
        let next = move |mut reply: Reply| async move {
            let event = reply.recv_async().await?;
            Some(((index, event), reply))
        };
        stream::unfold(reply, next).boxed()
    }))
}

/// The answers to one request on their way.
struct Flow {
    events: Events,
    choices: Choices,
    first: Option<(usize, Event)>,
    over: bool,
    _ticket: Ticket,
}

impl Flow {
    async fn whole(mut self) -> Response {
        while let Some((index, event)) = self.events.next().await {
            self.choices.push(index, &event);
            if let Some(fault) = self.choices.failed() {
                return refuse(fault);
            }
        }
        json_response(self.choices.completion())
    }

    /// The first event decides the status. A client that waits long in the queue gets its headers
    /// before it, so that it can tell a slow box from a dead one.
    async fn stream(mut self) -> Response {
        match timeout(KEEP_ALIVE, self.events.next()).await {
            Ok(Some((_, Event::Failed(fault)))) => return refuse(&fault),
            Ok(Some(event)) => self.first = Some(event),
            Ok(None) => return refuse(&Fault::new(FaultCode::Internal, "an empty answer")),
            Err(_) => {}
        }
        let frames = stream::unfold(self, async |mut flow| {
            let frame = flow.next_frame().await?;
            Some((Ok::<_, Infallible>(Bytes::from(frame)), flow))
        });
        let headers = [
            (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
            (header::CACHE_CONTROL, "no-cache"),
            // Asks a proxy to pass each token on as it comes.
            (header::HeaderName::from_static("x-accel-buffering"), "no"),
        ];
        (headers, Body::from_stream(frames)).into_response()
    }

    async fn next_frame(&mut self) -> Option<String> {
        while !self.over {
            let event = match self.first.take() {
                Some(event) => Some(event),
                None => match timeout(KEEP_ALIVE, self.events.next()).await {
                    Ok(event) => event,
                    Err(_) => return Some(": still working\n\n".to_owned()),
                },
            };
            let (index, event) = event?;
            let frame = self.frame_of(index, &event);
            if !frame.is_empty() {
                return Some(frame);
            }
        }
        None
    }

    fn frame_of(&mut self, index: usize, event: &Event) -> String {
        let chunks = self.choices.push(index, event);
        let mut frame: String = chunks.iter().map(data_line).collect();
        if let Some(fault) = self.choices.failed() {
            frame.push_str(&data_line(&fault_body(fault)));
            // The others have nobody to talk to any more.
            self.events.clear();
        } else if self.choices.is_over() {
            frame.push_str("data: [DONE]\n\n");
        }
        self.over = self.choices.is_over();
        frame
    }
}

/// JSON text has no line breaks, so one line carries it.
fn data_line(body: &Value) -> String {
    format!("data: {body}\n\n")
}

/// The headers that every answer to a request carries.
pub(crate) fn request_headers(id: &str, ignored: &[String]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert("x-request-id", id);
    }
    if !ignored.is_empty()
        && let Ok(ignored) = HeaderValue::from_str(&ignored.join(", "))
    {
        headers.insert("x-ignored-fields", ignored);
    }
    headers
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use chat_json::{Strictness, parse_chat};
    use protocol::{EventSink, FinishReason, RequestId, Usage, reply_pair};

    /// A clock that jumps to the next timer when nothing else can happen.
    fn block_on(future: impl Future<Output = ()>) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(future);
    }

    fn asked() -> (EventSink, Flow) {
        let id = RequestId("a".into());
        let body = br#"{"messages":[{"role":"user","content":"hi"}],"stream":true}"#;
        let chat = parse_chat(body, id.clone(), Strictness::Lenient).expect("a usable body");
        let (sink, reply) = reply_pair(id, 4);
        let (gate, _all_left) = crate::gate::gate();
        let choices = Choices::new(&chat, 0);
        let _ticket = gate.enter().expect("the gate is open");
        let events = events_of(vec![reply]);
        (sink, Flow { events, choices, first: None, over: false, _ticket })
    }

    #[test]
    fn a_slow_answer_shows_signs_of_life() {
        block_on(async {
            let (sink, mut flow) = asked();
            for _ in 0..3 {
                assert_eq!(flow.next_frame().await.as_deref(), Some(": still working\n\n"));
            }
            sink.send(Event::text("hi", 1));
            assert!(
                flow.next_frame().await.is_some_and(|frame| frame.contains(r#""content":"hi""#))
            );
            let usage = Usage::default();
            sink.send(Event::Finished { reason: FinishReason::Stop, usage });
            assert!(flow.next_frame().await.is_some_and(|frame| frame.ends_with("[DONE]\n\n")));
            assert_eq!(flow.next_frame().await, None);
        });
    }

    #[test]
    fn a_request_that_waits_in_the_queue_gets_its_headers() {
        block_on(async {
            let (_sink, flow) = asked();
            let response = flow.stream().await;
            assert_eq!(response.status(), 200);
        });
    }
}
