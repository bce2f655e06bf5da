//! Texts to vectors: one body, one answer.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use chat_json::parse_embeddings;
use protocol::Fault;

use crate::answers::request_headers;
use crate::fault_response::{json_response, refuse};
use crate::routes::{Brought, Shared, aside, bring, fresh_id};

/// Bodies whose vectors are computed at the same time. Each holds a thread that also reads prompts,
/// so not all of those may wait for vectors.
pub(crate) const RUNNING_MAX: usize = 2;

pub(crate) async fn embed(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    match answer(shared, request).await {
        Ok(response) => response,
        Err(fault) => refuse(&fault),
    }
}

async fn answer(shared: Arc<Shared>, request: Request) -> Result<Response, Fault> {
    let Brought { ticket: _ticket, client, body } = bring(&shared, request).await?;
    // The semaphore is never closed.
    let _turn = shared.embeddings.acquire().await;
    let (service, strictness) = (Arc::clone(&shared.service), shared.config.strictness);
    let id = fresh_id().0;
    let told = id.clone();
    let (body, ignored, truncated) = aside(move || {
        let mut asked = parse_embeddings(&body, strictness)?;
        drop(body);
        asked.request.client = client;
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
