//! The vectors of texts: one request, one message.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chat_json::Embedding;
use protocol::{Fault, FaultCode, Service};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::address::{Address, Closing};
use crate::answer::{Note, end_of};

/// Requests whose vectors are computed at the same time. Each holds a thread that also reads
/// prompts, so not all of those may wait.
pub(crate) const VECTORS_RUNNING_MAX: usize = 2;
/// Requests that are not answered yet, those that run among them. Brokers send as few as 10
/// messages before the first is confirmed, and prompts have to come through between them.
pub(crate) const VECTORS_WAITING_MAX: usize = 6;

/// One request and where its vectors go.
pub(crate) struct Errand {
    pub(crate) number: u64,
    pub(crate) address: Address,
    pub(crate) asked: Embedding,
    pub(crate) deadline: std::time::Instant,
    pub(crate) cancelled: oneshot::Receiver<()>,
    pub(crate) turns: Arc<Semaphore>,
    /// Bytes of one payload, at most; the broker may lower it.
    pub(crate) payload_bytes_max: Arc<AtomicUsize>,
    pub(crate) service: Arc<dyn Service>,
    pub(crate) notes: flume::Sender<Note>,
}

/// Computes the vectors of one request, and always answers it.
pub(crate) async fn run(errand: Errand) {
    let (number, address, notes) = (errand.number, errand.address.clone(), errand.notes.clone());
    // A task of its own, so that a panic neither loses the answer nor the request's place.
    let end = tokio::spawn(vectors(errand)).await.unwrap_or_else(|_panicked| {
        Err(Fault::new(FaultCode::Internal, "this request met a defect; report it"))
    });
    let parcel = match end {
        Ok(closing) => address.last(&closing),
        Err(fault) => end_of(&address, fault).0,
    };
    // A courier that is gone wants to know nothing.
    let _told = notes.send_async(Note::Computed { number, parcel }).await;
}

async fn vectors(errand: Errand) -> Result<Closing, Fault> {
    let Errand { address, asked, cancelled, turns, payload_bytes_max, service, .. } = errand;
    let work = async move {
        // It is never closed.
        let turn = turns.acquire_owned().await;
        let computed = tokio::task::spawn_blocking(move || {
            // Whoever waits for it may give up; the thread is busy until here.
            let _turn = turn;
            let embeddings = service.embed(asked.request.clone())?;
            let body = asked.body(&address.id, &embeddings);
            Ok(address.vectors(body, embeddings.truncated_texts))
        });
        computed.await.unwrap_or_else(|_panicked| {
            Err(Fault::new(FaultCode::Internal, "this request met a defect; report it"))
        })
    };
    let closing = tokio::select! {
        biased;
        // A sender that is gone cancels nothing.
        Ok(()) = cancelled => {
            return Err(Fault::new(FaultCode::Cancelled, "it was cancelled"));
        }
        closing = work => closing?,
        () = sleep_until(Instant::from_std(errand.deadline)) => {
            let fault = Fault::new(FaultCode::Deadline, "the deadline of this request passed");
            return Err(fault);
        }
    };
    let (bytes, limit) = (closing.payload.len(), payload_bytes_max.load(Ordering::Relaxed));
    if bytes <= limit {
        return Ok(closing);
    }
    let text = format!(
        "the vectors take {bytes} bytes and a message holds {limit}: send fewer texts, or ask for \
         less with output_dimension, output_dtype \"int8\" or encoding_format \"base64\"",
    );
    Err(Fault::new(FaultCode::TooLarge, text))
}
