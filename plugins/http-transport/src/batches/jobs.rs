//! `/v1/batch/jobs` in Mistral's form, `/v1/batches` in OpenAI's, over one store.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use chat_json::{BatchOrder, Strictness, parse_batch, parse_batch_job};
use journal::{Batches, Job, NewJob};
use protocol::Fault;
use serde_json::{Value, json};

use super::shapes::{Page, list_body, mistral_body, openai_body};
use super::{fault_of, no_such, owner_of, with_store};
use crate::fault_response::{json_response, refuse};
use crate::routes::{Shared, bring};

/// How a job is told.
type Tell = fn(&Job) -> Value;

pub(crate) async fn create(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    order(shared, request, parse_batch_job, mistral_body).await
}

pub(crate) async fn openai_create(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    order(shared, request, |body, _| parse_batch(body), openai_body).await
}

pub(crate) async fn list(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    list_as(shared, request, mistral_body).await
}

pub(crate) async fn openai_list(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    list_as(shared, request, openai_body).await
}

pub(crate) async fn one(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let page = match Page::of(request.uri().query()) {
        Ok(page) => page,
        Err(fault) => return refuse(&fault),
    };
    let owner = owner_of(&request);
    let told = with_store(&shared, move |store| {
        let job = find(store, &owner, &id)?;
        let mut body = mistral_body(&job);
        if let Some(file) = job.answers.as_deref().filter(|_| page.inline) {
            let text = store.content(&owner, file).map_err(fault_of)?.unwrap_or_default();
            let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            body["outputs"] = lines
                .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
                .collect::<Vec<_>>()
                .into();
        }
        Ok(body)
    });
    told.await.map_or_else(|fault| refuse(&fault), json_response)
}

pub(crate) async fn openai_one(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let owner = owner_of(&request);
    let told = with_store(&shared, move |store| Ok(openai_body(&find(store, &owner, &id)?)));
    told.await.map_or_else(|fault| refuse(&fault), json_response)
}

pub(crate) async fn cancel(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    cancel_as(shared, id, owner_of(&request), mistral_body).await
}

pub(crate) async fn openai_cancel(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    cancel_as(shared, id, owner_of(&request), openai_body).await
}

pub(crate) async fn remove(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let owner = owner_of(&request);
    let removed = with_store(&shared, move |store| {
        let job = find(store, &owner, &id)?;
        if !store.remove_job(&owner, &job.id).map_err(fault_of)? {
            let message = "the batch is not over: cancel it first";
            return Err(Fault::new(protocol::FaultCode::Conflict, message));
        }
        Ok(json!({"id": id, "object": "batch", "deleted": true}))
    });
    removed.await.map_or_else(|fault| refuse(&fault), json_response)
}

async fn order(
    shared: Arc<Shared>,
    request: Request,
    parse: fn(&[u8], Strictness) -> Result<BatchOrder, Fault>,
    tell: Tell,
) -> Response {
    let owner = owner_of(&request);
    let strictness = shared.config.strictness;
    let brought = match bring(&shared, request).await {
        Ok(brought) => brought,
        Err(fault) => return refuse(&fault),
    };
    let accepted = with_store(&shared, move |store| {
        accept(store, &owner, &parse(&brought.body, strictness)?, strictness)
    });
    match accepted.await {
        Ok(job) => {
            shared.desk.ring();
            json_response(tell(&job))
        }
        Err(fault) => refuse(&fault),
    }
}

fn accept(
    store: &Batches,
    owner: &str,
    order: &BatchOrder,
    strictness: Strictness,
) -> Result<Job, Fault> {
    let mut files = Vec::with_capacity(order.files.len());
    for (at, id) in order.files.iter().enumerate() {
        let found = store.content(owner, id).map_err(fault_of)?;
        files.push(found.ok_or_else(|| no_such("file").at(format!("input_files[{at}]")))?);
    }
    let items = order.items(&files, store.limits().items_max)?;
    let about = json!({
        "endpoint": order.endpoint,
        "model": order.model,
        "metadata": order.metadata,
        "input_files": order.files,
        "strict": strictness == Strictness::MistralStrict,
    });
    let job = NewJob {
        id: uuid::Uuid::now_v7().to_string(),
        owner: owner.to_owned(),
        about: about.to_string().into_bytes(),
        lifetime_s: u64::from(order.timeout_hours) * 3600,
        items,
    };
    store.add_job(&job).map_err(fault_of)
}

async fn list_as(shared: Arc<Shared>, request: Request, tell: Tell) -> Response {
    let page = match Page::of(request.uri().query()) {
        Ok(page) => page,
        Err(fault) => return refuse(&fault),
    };
    let owner = owner_of(&request);
    let told = with_store(&shared, move |store| {
        let mut jobs = store.jobs(&owner).map_err(fault_of)?;
        jobs.retain(|job| page.wants(job));
        Ok(list_body(&page, &jobs, |job| &job.id, tell))
    });
    told.await.map_or_else(|fault| refuse(&fault), json_response)
}

async fn cancel_as(shared: Arc<Shared>, id: String, owner: String, tell: Tell) -> Response {
    let told = with_store(&shared, move |store| {
        let job = store.cancel(&owner, &id).map_err(fault_of)?;
        job.ok_or_else(|| no_such("batch"))
    });
    match told.await {
        Ok(job) => {
            shared.desk.ring();
            json_response(tell(&job))
        }
        Err(fault) => refuse(&fault),
    }
}

fn find(store: &Batches, owner: &str, id: &str) -> Result<Job, Fault> {
    store.job(owner, id).map_err(fault_of)?.ok_or_else(|| no_such("batch"))
}
