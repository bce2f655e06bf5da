//! Texts to vectors and verdicts by networks beside the model: one body, one answer.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use chat_json::{InputKind, moderation_body, parse_embeddings, parse_moderation};
use protocol::Fault;

use crate::answers::request_headers;
use crate::fault_response::{json_response, refuse};
use crate::routes::{Brought, Shared, aside, bring};

/// Bodies that wait for a network at the same time. Each holds a thread that also reads prompts, so
/// not all of those may wait.
pub(crate) const RUNNING_MAX: usize = 2;

pub(crate) async fn embed(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    match answer(shared, request).await {
        Ok(response) => response,
        Err(fault) => refuse(&fault),
    }
}

async fn answer(shared: Arc<Shared>, request: Request) -> Result<Response, Fault> {
    let Brought { ticket: _ticket, id, client, body } = bring(&shared, request).await?;
    // The semaphore is never closed.
    let _turn = shared.networks.acquire().await;
    let service = Arc::clone(&shared.service);
    let id = id.0;
    let told = id.clone();
    let (body, ignored, truncated) = aside(move || {
        let mut asked = parse_embeddings(&body, client.strictness)?;
        drop(body);
        asked.request.client = client.name;
        let embeddings = service.embed(asked.request.clone())?;
        Ok((asked.body(&told, &embeddings), asked.ignored, embeddings.truncated_texts))
    })
    .await?;
    let mut headers = request_headers(&id, &ignored);
    if truncated > 0 {
        headers.insert("x-truncated-inputs", HeaderValue::from(truncated));
    }
    Ok((headers, json_response(body)).into_response())
}

pub(crate) async fn moderate(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    judge(shared, request, InputKind::Text).await.unwrap_or_else(|fault| refuse(&fault))
}

pub(crate) async fn moderate_chats(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Response {
    judge(shared, request, InputKind::Chat).await.unwrap_or_else(|fault| refuse(&fault))
}

async fn judge(shared: Arc<Shared>, request: Request, kind: InputKind) -> Result<Response, Fault> {
    let Brought { ticket: _ticket, id, client, body } = bring(&shared, request).await?;
    // The semaphore is never closed.
    let _turn = shared.networks.acquire().await;
    let service = Arc::clone(&shared.service);
    let id = id.0;
    let told = id.clone();
    let (body, ignored) = aside(move || {
        let mut asked = parse_moderation(&body, kind, client.strictness)?;
        drop(body);
        asked.request.client = client.name;
        Ok((moderation_body(&told, &service.moderate(asked.request)?), asked.ignored))
    })
    .await?;
    Ok((request_headers(&id, &ignored), json_response(body)).into_response())
}
