//! A reply as a response: whole, or as server-sent events while it is made.

use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use chat_json::{Answer, Chat, fault_body};
use futures_util::stream;
use protocol::{Event, Fault, FaultCode, Reply};
use serde_json::Value;
use tokio::time::timeout;

use crate::fault_response::{json_response, refuse};
use crate::gate::Ticket;

/// Silence after which a comment tells clients and proxies that the connection lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What an answer needs of its chat, which itself is handed to the service.
pub(crate) struct Telling {
    answer: Answer,
    headers: HeaderMap,
    stream: bool,
}

impl Telling {
    pub(crate) fn of(chat: &Chat) -> Self {
        Self {
            answer: Answer::new(chat, seconds_since_1970()),
            headers: note_headers(chat),
            stream: chat.stream,
        }
    }

    /// Answers with what the reply brings. Dropping the response cancels the request.
    pub(crate) async fn tell(self, reply: Reply, ticket: Ticket) -> Response {
        let flow = Flow { reply, answer: self.answer, first: None, over: false, _ticket: ticket };
        let response = if self.stream { flow.stream().await } else { flow.whole().await };
        (self.headers, response).into_response()
    }
}

/// One answer on its way.
struct Flow {
    reply: Reply,
    answer: Answer,
    first: Option<Event>,
    over: bool,
    _ticket: Ticket,
}

impl Flow {
    async fn whole(mut self) -> Response {
        while let Some(event) = self.reply.recv_async().await {
            self.answer.push(&event);
        }
        match self.answer.failed() {
            Some(fault) => refuse(fault),
            None => json_response(self.answer.completion()),
        }
    }

    /// The first event decides the status. A client that waits long in the queue gets its headers
    /// before it, so that it can tell a slow box from a dead one.
    async fn stream(mut self) -> Response {
        match timeout(KEEP_ALIVE, self.reply.recv_async()).await {
            Ok(Some(Event::Failed(fault))) => return refuse(&fault),
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
                None => match timeout(KEEP_ALIVE, self.reply.recv_async()).await {
                    Ok(event) => event,
                    Err(_) => return Some(": still working\n\n".to_owned()),
                },
            };
            let frame = self.frame_of(&event?);
            if !frame.is_empty() {
                return Some(frame);
            }
        }
        None
    }

    fn frame_of(&mut self, event: &Event) -> String {
        let chunks = self.answer.push(event);
        let mut frame: String = chunks.iter().map(data_line).collect();
        if let Some(fault) = self.answer.failed() {
            frame.push_str(&data_line(&fault_body(fault)));
        } else if self.answer.is_over() {
            frame.push_str("data: [DONE]\n\n");
        }
        self.over = self.answer.is_over();
        frame
    }
}

/// JSON text has no line breaks, so one line carries it.
fn data_line(body: &Value) -> String {
    format!("data: {body}\n\n")
}

fn note_headers(chat: &Chat) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(id) = HeaderValue::from_str(&chat.request.id.0) {
        headers.insert("x-request-id", id);
    }
    if !chat.ignored.is_empty()
        && let Ok(ignored) = HeaderValue::from_str(&chat.ignored.join(", "))
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
        let answer = Answer::new(&chat, 0);
        let _ticket = gate.enter().expect("the gate is open");
        (sink, Flow { reply, answer, first: None, over: false, _ticket })
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
