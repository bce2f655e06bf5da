//! What a prompt is to the model, and back, without an answer.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use chat_json::{detokenize_body, parse_detokenize, parse_tokenize};
use protocol::Fault;
use serde_json::Value;

use crate::fault_response::{json_response, refuse};
use crate::routes::{Shared, aside, bring, fresh_id};

pub(crate) async fn tokenize(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    work(shared, request, |shared, body, client| {
        let mut tokenize = parse_tokenize(body, fresh_id())?;
        tokenize.request.client = client;
        let encoded = shared.service.encode(tokenize.request.clone())?;
        Ok(tokenize.body(&encoded))
    })
    .await
}

pub(crate) async fn detokenize(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    work(shared, request, |shared, body, _client| {
        let (model, tokens) = parse_detokenize(body)?;
        Ok(detokenize_body(&shared.service.decode(&model, &tokens)?))
    })
    .await
}

/// Turns a body and its client's name into the answer.
type Work = fn(&Shared, &[u8], Option<String>) -> Result<Value, Fault>;

async fn work(shared: Arc<Shared>, request: Request, work: Work) -> Response {
    let brought = match bring(&shared, request).await {
        Ok(brought) => brought,
        Err(fault) => return refuse(&fault),
    };
    let _ticket = brought.ticket;
    let done = aside(move || work(&shared, &brought.body, brought.client.name));
    done.await.map_or_else(|fault| refuse(&fault), json_response)
}
