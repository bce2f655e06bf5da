//! `/v1/files`: what batches read and what they leave.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use multer::Multipart;
use protocol::{Fault, FaultCode};
use serde_json::json;

use super::shapes::{Page, file_body, list_body};
use super::{fault_of, no_such, owner_of, with_store};
use crate::fault_response::{json_response, refuse};
use crate::routes::{Shared, bring_up_to};

/// What a form has beside the file.
const FORM_BYTES_MAX: usize = 64 << 10;

/// Longest name of a file, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// A form as a client sends it.
struct Form {
    name: String,
    body: Bytes,
}

pub(crate) async fn upload(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let outcome = async {
        let owner = owner_of(&request);
        let boundary = boundary_of(&request)?;
        let file_bytes_max = shared.desk.store.limits().file_bytes_max;
        let bytes_max = usize::try_from(file_bytes_max).unwrap_or(usize::MAX);
        let brought =
            bring_up_to(&shared, request, bytes_max.saturating_add(FORM_BYTES_MAX)).await?;
        let form = read_form(boundary, brought.body).await?;
        with_store(&shared, move |store| {
            let id = uuid::Uuid::now_v7().to_string();
            store.add_file(&owner, &id, &form.name, &form.body).map_err(fault_of)
        })
        .await
    };
    outcome.await.map_or_else(|fault| refuse(&fault), |card| json_response(file_body(&card)))
}

pub(crate) async fn list(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (owner, page) = (owner_of(&request), Page::of(request.uri().query()));
    let cards = match page {
        Ok(page) => with_store(&shared, move |store| store.files(&owner).map_err(fault_of))
            .await
            .map(|mut cards| {
                cards.retain(|card| page.wants_purpose(card.kind));
                list_body(&page, &cards, |card| &card.id, file_body)
            }),
        Err(fault) => Err(fault),
    };
    cards.map_or_else(|fault| refuse(&fault), json_response)
}

pub(crate) async fn one(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let owner = owner_of(&request);
    let found = with_store(&shared, move |store| {
        store.file(&owner, &id).map_err(fault_of)?.ok_or_else(|| no_such("file"))
    });
    found.await.map_or_else(
        |fault| refuse(&fault),
        |card| {
            let mut body = file_body(&card);
            body["deleted"] = json!(false);
            json_response(body)
        },
    )
}

pub(crate) async fn content(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let owner = owner_of(&request);
    let found = with_store(&shared, move |store| {
        store.content(&owner, &id).map_err(fault_of)?.ok_or_else(|| no_such("file"))
    });
    match found.await {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response(),
        Err(fault) => refuse(&fault),
    }
}

pub(crate) async fn remove(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let owner = owner_of(&request);
    let removed = with_store(&shared, move |store| {
        match store.remove_file(&owner, &id).map_err(fault_of)? {
            true => Ok(json!({"id": id, "object": "file", "deleted": true})),
            false => Err(no_such("file")),
        }
    });
    removed.await.map_or_else(|fault| refuse(&fault), json_response)
}

fn boundary_of(request: &Request) -> Result<String, Fault> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.and_then(|kind| multer::parse_boundary(kind).ok()).ok_or_else(|| {
        Fault::bad_request("the body must be multipart/form-data with the parts purpose and file")
    })
}

async fn read_form(boundary: String, body: Bytes) -> Result<Form, Fault> {
    let broken = |error: multer::Error| {
        tracing::debug!(%error, "a form");
        Fault::bad_request("the body is no whole multipart/form-data")
    };
    let bytes = stream::iter([Ok::<_, std::io::Error>(body)]);
    let mut parts = Multipart::new(bytes, boundary);
    let mut file = None;
    while let Some(part) = parts.next_field().await.map_err(broken)? {
        match part.name() {
            Some("file") if file.is_none() => {
                let name = part.file_name().unwrap_or("file.jsonl").to_owned();
                file = Some(Form { name, body: part.bytes().await.map_err(broken)? });
            }
            Some("purpose") => {
                let purpose = part.bytes().await.map_err(broken)?;
                if &purpose[..] != b"batch" {
                    let message = "purpose: only batch is known here";
                    return Err(Fault::new(FaultCode::InvalidField, message).at("purpose"));
                }
            }
            // How long a file lives and who of a workspace sees it means nothing here.
            _ => {}
        }
    }
    let missing = || Fault::new(FaultCode::InvalidField, "file: field required").at("file");
    let form = file.ok_or_else(missing)?;
    if form.name.len() > NAME_BYTES_MAX || form.name.chars().any(char::is_control) {
        let message = format!("file: its name must be text of at most {NAME_BYTES_MAX} bytes");
        return Err(Fault::new(FaultCode::InvalidField, message).at("file"));
    }
    Ok(form)
}
