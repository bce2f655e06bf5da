//! Paths and what is behind them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use chat_json::{
    Chat, Strictness, classifier_body, embedder_body, model_body, models_body, parse_chat,
    parse_completion, parse_fill,
};
use futures_util::StreamExt;
use protocol::{Description, Fault, FaultCode, ModelCard, Reply, RequestId, Service};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::HttpConfig;
use crate::answers::Telling;
use crate::batches::{self, Desk};
use crate::fault_response::{json_response, json_text, refuse, refuse_method};
use crate::gate::{Gate, Ticket};
use crate::guard::{Client, Guard, Peer};
use crate::{allowance_headers, classify, networks, tokens};

/// A client that is told to come back to a box which is shutting down.
const RESTART_MS: u64 = 5_000;

/// The document of this API: every path, body and answer. Tests compare it with what is served.
const OPENAPI: &str = include_str!("../openapi.json");

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What every request needs.
pub(crate) struct Shared {
    pub(crate) service: Arc<dyn Service>,
    pub(crate) config: HttpConfig,
    pub(crate) gate: Gate,
    /// Turns of those who wait for a network beside the model.
    pub(crate) networks: Semaphore,
    pub(crate) guard: Guard,
    pub(crate) desk: Desk,
}

type Parse = fn(&[u8], RequestId, Strictness) -> Result<Chat, Fault>;

/// Every path that asks who comes.
fn guarded() -> Vec<(&'static str, MethodRouter<Arc<Shared>>)> {
    vec![
        ("/v1/chat/completions", post(chat)),
        ("/v1/fim/completions", post(fill)),
        ("/v1/completions", post(complete_text)),
        ("/v1/classifications", post(classify::texts)),
        ("/v1/chat/classifications", post(classify::chats)),
        ("/v1/embeddings", post(networks::embed)),
        ("/v1/moderations", post(networks::moderate)),
        ("/v1/chat/moderations", post(networks::moderate_chats)),
        ("/tokenize", post(tokens::tokenize)),
        ("/detokenize", post(tokens::detokenize)),
        ("/v1/models", get(models)),
        ("/v1/models/{*id}", get(model).delete(keep_model)),
    ]
}

/// Every path that does not.
fn open() -> Vec<(&'static str, MethodRouter<Arc<Shared>>)> {
    vec![("/health", get(health)), ("/openapi.json", get(async || json_text(OPENAPI)))]
}

/// The paths without a guard, for requests that were let in before.
pub(crate) fn inner(shared: Arc<Shared>) -> Router {
    let add = |router: Router<_>, (path, methods)| router.route(path, methods);
    guarded().into_iter().fold(Router::new(), add).with_state(shared)
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let guarded: Vec<_> = guarded().into_iter().chain(batches::routes()).collect();
    let open = open();
    let names = guarded.iter().chain(&open).map(|(path, _)| path.replace("{*", "{"));
    let message = format!("no such path; there are {}", names.collect::<Vec<_>>().join(", "));
    let no_such_path = Fault::new(FaultCode::NotFound, message);
    let add = |router: Router<_>, (path, methods)| router.route(path, methods);
    let guarded = guarded.into_iter().fold(Router::new(), add);
    let guarded = guarded.route_layer(middleware::from_fn_with_state(Arc::clone(&shared), guard));
    open.into_iter()
        .fold(guarded, add)
        .method_not_allowed_fallback(async || refuse_method())
        .fallback(async move || refuse(&no_such_path))
        .layer(middleware::from_fn(stamp))
        .with_state(shared)
}

async fn guard(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let admitted = match request.extensions().get::<Peer>() {
        Some(peer) => shared.guard.admit(request.headers(), peer),
        None => Err(Fault::new(FaultCode::Internal, "a connection without a peer")),
    };
    let client = match admitted {
        Ok(client) => client,
        Err(fault) => return refuse(&fault),
    };
    let name = client.name.clone();
    request.extensions_mut().insert(client);
    let mut response = next.run(request).await;
    // What is left when the answer begins: its own tokens are taken while it is told.
    if let Some(allowance) = shared.service.allowance(name.as_deref()) {
        allowance_headers::tell(&allowance, response.headers_mut());
    }
    response
}

/// Gives every request its id, and every answer that does not tell one.
async fn stamp(mut request: Request, next: Next) -> Response {
    let id = fresh_id();
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).await;
    if let Ok(id) = HeaderValue::from_str(&id.0) {
        response.headers_mut().entry(REQUEST_ID).or_insert(id);
    }
    response
}

async fn chat(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    complete(shared, request, parse_chat).await
}

async fn fill(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    complete(shared, request, parse_fill).await
}

async fn complete_text(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    complete(shared, request, parse_completion).await
}

async fn complete(shared: Arc<Shared>, request: Request, parse: Parse) -> Response {
    let Brought { ticket, id, client, body } = match bring(&shared, request).await {
        Ok(brought) => brought,
        Err(fault) => return refuse(&fault),
    };
    let submitted = aside(move || {
        let mut chat = parse(&body, id, client.strictness)?;
        drop(body);
        chat.request.client = client.name;
        let telling = Telling::of(&chat);
        let requests = chat.requests();
        admit_together(&shared, &requests)?;
        let submitted = requests.into_iter().map(|request| shared.service.submit(request));
        // Where one is refused, the others are dropped, which cancels them.
        let replies = submitted.collect::<Result<_, _>>()?;
        Ok::<(Telling, Vec<Reply>), Fault>((telling, replies))
    });
    match submitted.await {
        Ok((telling, replies)) => telling.tell(replies, ticket).await,
        Err(fault) => refuse(&fault),
    }
}

/// Refuses answers of which a part would be refused, before any of them is begun.
fn admit_together(shared: &Shared, requests: &[protocol::Request]) -> Result<(), Fault> {
    let count = u32::try_from(requests.len()).unwrap_or(u32::MAX);
    match requests {
        [first, _, ..] => shared.service.admits(first.client.as_deref(), count, count),
        _ => Ok(()),
    }
}

/// A request that was let in and is read to its end.
pub(crate) struct Brought {
    pub(crate) ticket: Ticket,
    pub(crate) id: RequestId,
    pub(crate) client: Client,
    pub(crate) body: Bytes,
}

pub(crate) async fn bring(shared: &Shared, request: Request) -> Result<Brought, Fault> {
    bring_up_to(shared, request, shared.config.body_bytes_max).await
}

pub(crate) async fn bring_up_to(
    shared: &Shared,
    request: Request,
    bytes_max: usize,
) -> Result<Brought, Fault> {
    let ticket = shared.gate.enter().ok_or_else(shutting_down)?;
    let id = request.extensions().get().cloned().unwrap_or_else(fresh_id);
    let strictness = shared.config.strictness;
    let client = request.extensions().get().cloned().unwrap_or(Client { name: None, strictness });
    let body = read_body(request.into_body(), bytes_max, shared.config.timeouts.body).await?;
    Ok(Brought { ticket, id, client, body })
}

pub(crate) fn fresh_id() -> RequestId {
    RequestId(uuid::Uuid::now_v7().simple().to_string())
}

/// Does text work beside the thread of the connections: it takes long for long prompts.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        tracing::error!("a request made its service panic");
        Err(Fault::new(FaultCode::Internal, "the request met a defect of this program"))
    })
}

fn shutting_down() -> Fault {
    Fault::new(FaultCode::Unavailable, "the service is shutting down").retry_after_ms(RESTART_MS)
}

async fn read_body(body: Body, bytes_max: usize, time_max: Duration) -> Result<Bytes, Fault> {
    let too_large =
        || Fault::new(FaultCode::TooLarge, format!("the body is larger than {bytes_max} bytes"));
    // Up to as much again is read and dropped: a client that is still sending when the answer
    // comes sees a broken connection instead of the answer.
    let patience = bytes_max.saturating_mul(2);
    if body.size_hint().lower() > u64::try_from(patience).unwrap_or(u64::MAX) {
        return Err(too_large());
    }
    let collect = async {
        let mut stream = body.into_data_stream();
        let mut bytes = Vec::new();
        let mut received = 0_usize;
        while let Some(piece) = stream.next().await {
            let piece =
                piece.map_err(|_| Fault::bad_request("the body ended before it was complete"))?;
            received = received.saturating_add(piece.len());
            if received > patience {
                break;
            }
            if received <= bytes_max {
                bytes.extend_from_slice(&piece);
            }
        }
        if received > bytes_max { Err(too_large()) } else { Ok(Bytes::from(bytes)) }
    };
    timeout(time_max, collect).await.unwrap_or_else(|_| {
        let message = format!("the body did not come within {time_max:?}");
        Err(Fault::new(FaultCode::Deadline, message))
    })
}

async fn models(State(shared): State<Arc<Shared>>) -> Response {
    json_response(models_body(&shared.service.describe()))
}

async fn model(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let answers_to = |card: &&ModelCard| card.id == id || card.aliases.contains(&id);
    let description = shared.service.describe();
    if let Some(card) = description.models.iter().find(answers_to) {
        return json_response(model_body(card, &id));
    }
    if let Some(card) = description.embedders.iter().find(|card| card.name == id) {
        return json_response(embedder_body(card));
    }
    match description.classifiers.iter().find(|card| card.name == id) {
        Some(card) => json_response(classifier_body(&description, card)),
        None => refuse(&no_such_model()),
    }
}

/// Mistral's clients may delete what they have trained; here nothing is trained.
async fn keep_model(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let Description { models, classifiers, .. } = shared.service.describe();
    let is_known = models.iter().any(|card| card.id == id || card.aliases.contains(&id))
        || classifiers.iter().any(|card| card.name == id);
    let message = "models are what the configuration of this box says; nobody deletes them here";
    refuse(&match is_known {
        true => Fault::new(FaultCode::Forbidden, message).at("model"),
        false => no_such_model(),
    })
}

fn no_such_model() -> Fault {
    Fault::new(FaultCode::UnknownModel, "no such model; /v1/models lists them").at("model")
}

async fn health(State(shared): State<Arc<Shared>>) -> Response {
    let Description { models, load, .. } = shared.service.describe();
    let status = match models.first() {
        _ if shared.gate.is_closed() => "draining",
        None => "no_model",
        Some(_) => "ok",
    };
    let code = if status == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "status": status,
        "model": models.first().map(|card| &card.id),
        "load": {
            "active": load.active,
            "queued": load.queued,
            "queue_requests_max": load.queue_requests_max,
        },
    });
    (code, json_response(body)).into_response()
}
