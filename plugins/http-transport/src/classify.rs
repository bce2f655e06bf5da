//! Many inputs to one answer: each is a request of its own, a few at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use chat_json::{Classification, InputKind, parse_classification};
use protocol::{Fault, FaultCode, Reply};
use serde_json::Value;

use crate::answers::request_headers;
use crate::fault_response::{json_response, refuse};
use crate::routes::{Brought, Shared, aside, bring};

/// Requests of one body that wait or run at the same time.
const RUNNING_MAX: usize = 8;

pub(crate) async fn texts(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    classify(shared, request, InputKind::Text).await
}

pub(crate) async fn chats(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    classify(shared, request, InputKind::Chat).await
}

async fn classify(shared: Arc<Shared>, request: Request, kind: InputKind) -> Response {
    let Brought { ticket: _ticket, id, client, body } = match bring(&shared, request).await {
        Ok(brought) => brought,
        Err(fault) => return refuse(&fault),
    };
    let service = Arc::clone(&shared.service);
    let (name, strictness) = (id.0.clone(), client.strictness);
    let parsed =
        aside(move || parse_classification(&body, id, kind, strictness, &service.describe()));
    let mut classification = match parsed.await {
        Ok(classification) => classification,
        Err(fault) => return refuse(&fault),
    };
    classification.requests.iter_mut().for_each(|request| request.client.clone_from(&client.name));
    let count = u32::try_from(classification.requests.len()).unwrap_or(u32::MAX);
    if let Err(fault) = shared.service.admits(client.name.as_deref(), count, 1) {
        return refuse(&fault);
    }
    let headers = request_headers(&name, &classification.ignored);
    match decide(&shared, classification).await {
        Ok(body) => (headers, json_response(body)).into_response(),
        Err(fault) => refuse(&fault),
    }
}

/// Submits the requests in their order and takes their answers in the same. Where the queue is full
/// it waits for one of its own; the fault is told where it has none in flight. Dropping this cancels
/// what runs.
async fn decide(shared: &Shared, mut classification: Classification) -> Result<Value, Fault> {
    let requests = classification.requests.clone();
    let mut running: VecDeque<Reply> = VecDeque::new();
    for request in requests {
        if running.len() >= RUNNING_MAX {
            finish_first(&mut running, &mut classification).await?;
        }
        loop {
            let (service, request) = (Arc::clone(&shared.service), request.clone());
            match aside(move || service.submit(request)).await {
                Ok(reply) => break running.push_back(reply),
                Err(fault) if is_passing(&fault) && !running.is_empty() => {
                    finish_first(&mut running, &mut classification).await?;
                }
                Err(fault) => return Err(fault),
            }
        }
    }
    while !running.is_empty() {
        finish_first(&mut running, &mut classification).await?;
    }
    classification.body()
}

/// Whether the end of one of these requests makes room for the next.
fn is_passing(fault: &Fault) -> bool {
    matches!(fault.code, FaultCode::Busy | FaultCode::RateLimited)
}

async fn finish_first(
    running: &mut VecDeque<Reply>,
    classification: &mut Classification,
) -> Result<(), Fault> {
    if let Some(mut reply) = running.pop_front() {
        while let Some(event) = reply.recv_async().await {
            if classification.push(event)? {
                break;
            }
        }
    }
    Ok(())
}
