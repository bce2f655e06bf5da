//! Files and batches: requests that nobody waits for.
//!
//! Each request of a batch goes the way of one that came over a connection, through the same
//! paths, a few at a time and behind those that somebody waits for.

mod files;
mod jobs;
mod runner;
mod shapes;

use std::path::Path;
use std::sync::Arc;

use axum::extract::Request;
use axum::routing::{MethodRouter, get, post};
use journal::{BatchLimits, Batches, JournalError};
use protocol::{Fault, FaultCode};
use tokio::sync::Notify;

use crate::guard::Client;
use crate::routes::{Shared, aside};

pub(crate) use runner::run;

/// Bytes of files and batches where no folder is configured: they are in memory then.
const MEMORY_BYTES_MAX: u64 = 64 << 20;

/// The name of the file in the folder.
const FILE_NAME: &str = "batches.db";

/// A client that is told that the store is full may ask again after this time.
const FULL_RETRY_MS: u64 = 60_000;

/// The store, and a bell for who works on it.
#[derive(Debug)]
pub(crate) struct Desk {
    store: Arc<Batches>,
    bell: Notify,
}

impl Desk {
    /// Opens the store in `folder`, or one in memory.
    pub(crate) fn open(folder: Option<&Path>, bytes_max: u64) -> Result<Self, JournalError> {
        let bytes_max = match folder {
            Some(_) => bytes_max,
            None => bytes_max.min(MEMORY_BYTES_MAX),
        };
        let limits = BatchLimits {
            files_max: 1024,
            file_bytes_max: bytes_max / 4,
            jobs_max: 1024,
            items_max: 100_000,
            bytes_max,
        };
        let path = folder.map(|folder| folder.join(FILE_NAME));
        let store = Arc::new(Batches::open(path.as_deref(), limits)?);
        Ok(Self { store, bell: Notify::new() })
    }

    /// Wakes who works through the batches: there is more to do, or nothing any more.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    /// What is under way at an orderly end counts as not begun.
    pub(crate) fn put_back(&self) {
        if let Err(error) = self.store.put_all_back() {
            tracing::error!(%error, "the store of batches, at the end");
        }
    }
}

/// The paths of files and batches.
pub(crate) fn routes() -> Vec<(&'static str, MethodRouter<Arc<Shared>>)> {
    vec![
        ("/v1/files", get(files::list).post(files::upload)),
        ("/v1/files/{id}", get(files::one).delete(files::remove)),
        ("/v1/files/{id}/content", get(files::content)),
        ("/v1/batch/jobs", get(jobs::list).post(jobs::create)),
        ("/v1/batch/jobs/{id}", get(jobs::one).delete(jobs::remove)),
        ("/v1/batch/jobs/{id}/cancel", post(jobs::cancel)),
        ("/v1/batches", get(jobs::openai_list).post(jobs::openai_create)),
        ("/v1/batches/{id}", get(jobs::openai_one)),
        ("/v1/batches/{id}/cancel", post(jobs::openai_cancel)),
    ]
}

/// Whose files and batches these are. Without tokens everybody on this box is the same.
fn owner_of(request: &Request) -> String {
    let client = request.extensions().get::<Client>().and_then(|client| client.name.clone());
    client.unwrap_or_default()
}

/// Works with the store beside the thread of the connections.
async fn with_store<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Batches) -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let shared = Arc::clone(shared);
    aside(move || work(&shared.desk.store)).await
}

fn fault_of(error: JournalError) -> Fault {
    match error {
        JournalError::Limit { what: "bytes in one file", limit } => {
            Fault::new(FaultCode::TooLarge, format!("the file is larger than {limit} bytes"))
        }
        JournalError::Limit { what, limit } => Fault::new(
            FaultCode::Busy,
            format!("there are {limit} {what}, the most that this box keeps: delete some"),
        )
        .retry_after_ms(FULL_RETRY_MS),
        error if error.is_full() => Fault::new(
            FaultCode::Busy,
            "no room for more files and batches: delete some, or raise http.batch_bytes_max",
        )
        .retry_after_ms(FULL_RETRY_MS),
        error => {
            tracing::error!(%error, "the store of files and batches");
            Fault::new(FaultCode::Internal, "the store of files and batches cannot be used")
        }
    }
}

fn no_such(what: &str) -> Fault {
    Fault::new(FaultCode::NotFound, format!("no such {what}, or it is somebody else's"))
}
