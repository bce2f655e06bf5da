//! One answer: events in, parcels out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chat_json::{Answer, Chat};
use protocol::{Event, Fault, FaultCode, FinishReason, Reply, Service, TokenLogprob};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::address::{Address, Closing, Parcel};
use crate::ledger::Key;
use crate::presence::unix_seconds;

/// Text that waits for its delta is sent when it is this long, whatever the time.
const DELTA_BYTES: usize = 1024;
/// Tokens whose likelihood waits for its delta, those in their places counted in, before it is sent.
const DELTA_LIKELIHOODS: usize = 256;
/// Longer pieces of text are sent as several deltas.
const DELTA_BYTES_MAX: usize = 16 << 10;
/// The engine ends a request at its deadline; this much later we end it ourselves.
const DEADLINE_GRACE: Duration = Duration::from_secs(2);
/// Brokers keep the order of messages within one QoS alone: an end that follows its last piece by
/// less than this may arrive before it. Clients go by `seq`; this spares them most of it.
const END_DISTANCE: Duration = Duration::from_millis(10);
const RETRY_AFTER_MS: u64 = 1000;
/// Between two tries to hand a promised request to a service that is busy.
const SUBMIT_AGAIN: Duration = Duration::from_millis(250);

/// What an answer tells the courier.
#[derive(Debug)]
pub(crate) enum Note {
    Send(Parcel),
    /// The final, behind which nothing follows; the closing is kept for repeats of the request.
    Ended {
        key: Key,
        parcel: Parcel,
        closing: Option<Closing>,
    },
    /// The answer to a request that is not written down; its repeats are computed anew.
    Computed {
        number: u64,
        parcel: Parcel,
    },
}

/// One accepted request and how its answer is delivered.
pub(crate) struct Job {
    pub(crate) key: Key,
    pub(crate) address: Address,
    pub(crate) chat: Chat,
    /// Says that it was accepted and sends pieces; else only the end.
    pub(crate) streams: bool,
    /// Least time between two pieces.
    pub(crate) flush: Duration,
    /// Bytes of the answer's text, at most.
    pub(crate) text_bytes_max: Option<usize>,
    pub(crate) deadline: std::time::Instant,
    pub(crate) cancelled: oneshot::Receiver<()>,
    /// Published in the place of a refusal when the engine has no room: another node may have.
    pub(crate) onward: Option<Parcel>,
    /// It was promised in an earlier life of the program: a service that has no room is asked
    /// again until it has.
    pub(crate) promised: bool,
    /// Bytes of one payload, at most; the broker may lower it.
    pub(crate) payload_bytes_max: Arc<AtomicUsize>,
    pub(crate) service: Arc<dyn Service>,
    pub(crate) notes: flume::Sender<Note>,
}

/// Computes and delivers one answer, and always ends it.
pub(crate) async fn answer(job: Job) {
    let (key, address, notes) = (job.key.clone(), job.address.clone(), job.notes.clone());
    let onward = job.onward.clone();
    // A task of its own, so that a panic in one answer neither loses its end nor its slot.
    let end = tokio::spawn(deliver(job)).await.unwrap_or_else(|_panicked| {
        Some(Err(Fault::new(FaultCode::Internal, "this answer met a defect; report it")))
    });
    let (parcel, closing) = match end {
        Some(Ok(closing)) => (address.last(&closing), Some(closing)),
        // In the place of a refusal, for another node may have room.
        Some(Err(fault)) => match onward.filter(|_| fault.code == FaultCode::Busy) {
            Some(onward) => (onward, None),
            None => end_of(&address, fault),
        },
        None => return,
    };
    tell(&notes, Note::Ended { key, parcel, closing }).await;
}

/// The end of a request that failed, and what its repeats get: the same, unless the fault asks
/// for a repeat.
pub(crate) fn end_of(address: &Address, mut fault: Fault) -> (Parcel, Option<Closing>) {
    let again = matches!(fault.code, FaultCode::Busy | FaultCode::Unavailable);
    if again {
        fault.retry_after_ms.get_or_insert(RETRY_AFTER_MS);
    }
    let parcel = address.fault(&fault);
    let status = fault.code.status();
    let closing = Closing { payload: parcel.payload.clone(), status, seq: 0 };
    (parcel, (!again).then_some(closing))
}

/// Ends as a closing or a fault; `None` when nobody listens any more.
type End = Option<Result<Closing, Fault>>;

async fn deliver(mut job: Job) -> End {
    let mut writer = Writer::new(&job);
    let mut reply = match submit(&mut job).await {
        Ok(reply) => reply,
        Err(fault) => return Some(Err(fault)),
    };
    let canceller = reply.canceller();
    if job.streams {
        writer.send(writer.address.accepted()).await?;
    }
    let give_up = Instant::from_std(job.deadline) + DEADLINE_GRACE;
    let mut listening = true;
    loop {
        let flush_at = writer.flush_at();
        tokio::select! {
            biased;
            _ = &mut job.cancelled, if listening => {
                listening = false;
                canceller.cancel();
            }
            event = reply.recv_async() => match event {
                Some(Event::Failed(fault)) => {
                    writer.flush().await?;
                    writer.keep_distance().await;
                    return Some(writer.failed(fault));
                }
                Some(event) => {
                    writer.take(&event).await?;
                    if let Event::Finished { reason, .. } = event {
                        writer.keep_distance().await;
                        return Some(writer.finished(reason));
                    }
                }
                None => {
                    let fault = Fault::new(FaultCode::Internal, "the answer has no end");
                    return Some(writer.failed(fault));
                }
            },
            () = sleep_until(flush_at), if writer.has_pending() => writer.flush().await?,
            () = sleep_until(give_up) => {
                let fault = Fault::new(FaultCode::Deadline, "the deadline of this request passed");
                return Some(writer.failed(fault));
            }
        }
    }
}

/// Hands the request to the service, which may think about its text for a while.
async fn submit(job: &mut Job) -> Result<Reply, Fault> {
    loop {
        let (service, request) = (Arc::clone(&job.service), job.chat.request.clone());
        let submitted = tokio::task::spawn_blocking(move || service.submit(request)).await;
        let fault = match submitted {
            Ok(Ok(reply)) => return Ok(reply),
            Ok(Err(fault)) => fault,
            Err(_panicked) => {
                Fault::new(FaultCode::Internal, "this request met a defect; report it")
            }
        };
        let patient = job.promised && fault.code == FaultCode::Busy;
        let again = Instant::now() + SUBMIT_AGAIN;
        if !patient || again >= Instant::from_std(job.deadline) {
            return Err(fault);
        }
        tokio::select! {
            biased;
            _ = &mut job.cancelled => {
                return Err(Fault::new(FaultCode::Cancelled, "it was cancelled before it began"));
            }
            () = sleep_until(again) => {}
        }
    }
}

async fn tell(notes: &flume::Sender<Note>, note: Note) -> Option<()> {
    notes.send_async(note).await.ok()
}

struct Writer {
    address: Address,
    answer: Answer,
    notes: flume::Sender<Note>,
    streams: bool,
    flush: Duration,
    last_flush: Option<Instant>,
    pending: String,
    pending_tokens: u32,
    pending_logprobs: Vec<TokenLogprob>,
    text_bytes_max: Option<usize>,
    /// Bytes of text that may still be sent in pieces.
    text_bytes_left: usize,
    cut: bool,
    seq: u32,
    payload_bytes_max: Arc<AtomicUsize>,
}

impl Writer {
    fn new(job: &Job) -> Self {
        Self {
            address: job.address.clone(),
            answer: Answer::new(&job.chat, unix_seconds()),
            notes: job.notes.clone(),
            streams: job.streams,
            flush: job.flush,
            last_flush: None,
            pending: String::new(),
            pending_tokens: 0,
            pending_logprobs: Vec::new(),
            text_bytes_max: job.text_bytes_max,
            text_bytes_left: job.text_bytes_max.unwrap_or(usize::MAX),
            cut: false,
            seq: 0,
            payload_bytes_max: Arc::clone(&job.payload_bytes_max),
        }
    }

    fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The first piece goes at once, later ones keep their distance.
    fn flush_at(&self) -> Instant {
        self.last_flush.map_or_else(Instant::now, |last| last + self.flush)
    }

    async fn keep_distance(&self) {
        if let (true, Some(last)) = (self.streams, self.last_flush) {
            sleep_until(last + END_DISTANCE).await;
        }
    }

    async fn send(&self, parcel: Parcel) -> Option<()> {
        tell(&self.notes, Note::Send(parcel)).await
    }

    async fn take(&mut self, event: &Event) -> Option<()> {
        let Event::Text { text, tokens, logprobs } = event else {
            self.flush().await?;
            let chunks = self.answer.push(event);
            // The end has a message of its own.
            let is_end = matches!(event, Event::Finished { .. });
            return if is_end { Some(()) } else { self.deliver(chunks).await };
        };
        self.pending.push_str(text);
        self.pending_tokens = self.pending_tokens.saturating_add(*tokens);
        self.pending_logprobs.extend_from_slice(logprobs);
        let told: usize = self.pending_logprobs.iter().map(|told| 1 + told.likeliest.len()).sum();
        let due = self.flush_at() <= Instant::now() || told >= DELTA_LIKELIHOODS;
        if due || self.pending.len() >= DELTA_BYTES || text.contains('\n') {
            self.flush().await?;
        }
        Some(())
    }

    async fn flush(&mut self) -> Option<()> {
        let pending = std::mem::take(&mut self.pending);
        let mut tokens = std::mem::take(&mut self.pending_tokens);
        let bytes_max = self.address.text_room().unwrap_or(DELTA_BYTES_MAX);
        let mut rest = pending.as_str();
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(rest.floor_char_boundary(bytes_max));
            rest = tail;
            let event = Event::Text {
                text: piece.to_owned(),
                tokens: std::mem::take(&mut tokens),
                logprobs: std::mem::take(&mut self.pending_logprobs),
            };
            let chunks = self.answer.push(&event);
            self.deliver(chunks).await?;
            self.last_flush = Some(Instant::now());
        }
        Some(())
    }

    async fn deliver(&mut self, chunks: Vec<Value>) -> Option<()> {
        if !self.streams {
            return Some(());
        }
        for mut chunk in chunks {
            let delta = &mut chunk["choices"][0]["delta"];
            let calls = !delta["tool_calls"].is_null();
            let text = delta["content"].as_str().unwrap_or_default();
            let kept = text.floor_char_boundary(self.text_bytes_left);
            self.cut |= kept < text.len();
            // Behind a cut nothing more of the text follows, however small it is.
            self.text_bytes_left = if kept < text.len() { 0 } else { self.text_bytes_left - kept };
            let text = text[..kept].to_owned();
            if text.is_empty() && !calls {
                continue;
            }
            let parcel = if self.address.compact {
                // Calls are told by the end.
                if text.is_empty() {
                    continue;
                }
                self.seq += 1;
                self.address.text(self.seq, text)
            } else {
                if !calls {
                    delta["content"] = Value::String(text);
                }
                self.seq += 1;
                self.chunk(chunk)
            };
            self.send(parcel).await?;
        }
        Some(())
    }

    /// A delta; without its likelihoods where its text is cut or it would be too long with them.
    fn chunk(&self, mut chunk: Value) -> Parcel {
        if self.cut {
            drop_logprobs(&mut chunk);
        }
        let parcel = self.address.chunk(self.seq, chunk.clone());
        let limit = self.payload_bytes_max.load(Ordering::Relaxed);
        if parcel.payload.len() > limit && drop_logprobs(&mut chunk) {
            return self.address.chunk(self.seq, chunk);
        }
        parcel
    }

    fn finished(&mut self, reason: FinishReason) -> Result<Closing, Fault> {
        self.close(if reason == FinishReason::Cancelled { 499 } else { 200 })
    }

    fn failed(&mut self, fault: Fault) -> Result<Closing, Fault> {
        if fault.code == FaultCode::Cancelled {
            self.answer.push(&Event::Failed(fault));
            return self.close(499);
        }
        Err(fault)
    }

    /// The whole answer, cut where its text or its message is too long: then it tells no
    /// likelihoods, which go first.
    fn close(&mut self, status: u16) -> Result<Closing, Fault> {
        self.seq += 1;
        let mut body = self.answer.completion();
        self.cut |= self.answer.has_lost_likelihoods();
        if let Some(max) = self.text_bytes_max {
            self.cut |= shorten(&mut body, max);
        }
        if self.cut {
            drop_logprobs(&mut body);
        }
        if self.address.compact
            && let Some(message) = body["choices"][0]["message"].as_object_mut()
        {
            // Its text went out in pieces, to a client whose buffer may be a few hundred bytes.
            message.remove("content");
        }
        self.address.shrink_end(&mut body, self.seq, status, self.cut);
        let limit = self.payload_bytes_max.load(Ordering::Relaxed);
        let closing = self.address.closing(body.clone(), self.seq, status, self.cut);
        if closing.payload.len() <= limit {
            return Ok(closing);
        }
        if drop_logprobs(&mut body) {
            let closing = self.address.closing(body.clone(), self.seq, status, true);
            if closing.payload.len() <= limit {
                return Ok(closing);
            }
        }
        if let Some(text) = content(&mut body) {
            let text = std::mem::take(text);
            let frame = self.address.closing(body.clone(), self.seq, status, true).payload.len();
            let kept = written_within(&text, limit.saturating_sub(frame));
            if frame <= limit && kept > 0 {
                body["choices"][0]["message"]["content"] = Value::from(&text[..kept]);
                return Ok(self.address.closing(body, self.seq, status, true));
            }
        }
        let fault = Fault::new(
            FaultCode::TooLarge,
            format!("the answer does not fit into a message of {limit} bytes: ask for less"),
        );
        Err(fault)
    }
}

fn content(body: &mut Value) -> Option<&mut String> {
    match &mut body["choices"][0]["message"]["content"] {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// Takes the likelihoods out of a completion or a chunk; whether there were some.
fn drop_logprobs(body: &mut Value) -> bool {
    let choice = body["choices"][0].as_object_mut();
    let told = choice.and_then(|choice| choice.get_mut("logprobs"));
    told.is_some_and(|told| !told.take().is_null())
}

/// Cuts the text of a completion at a code point; says whether there was something to cut.
fn shorten(body: &mut Value, bytes_max: usize) -> bool {
    let Some(text) = content(body).filter(|text| text.len() > bytes_max) else {
        return false;
    };
    text.truncate(text.floor_char_boundary(bytes_max));
    true
}

/// Bytes of the longest beginning of `text` that JSON writes in at most `bytes_max`.
fn written_within(text: &str, bytes_max: usize) -> usize {
    let mut written = 0;
    for (index, c) in text.char_indices() {
        written += match c {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            '\0'..='\u{1f}' => "\\u0000".len(),
            c => c.len_utf8(),
        };
        if written > bytes_max {
            return index;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_by_what_json_makes_of_it() {
        let text = "a\"\n\u{1}é🌊z";
        for bytes_max in 0..20 {
            let kept = &text[..written_within(text, bytes_max)];
            let written = |text: &str| Value::from(text).to_string().len() - 2;
            assert!(written(kept) <= bytes_max, "{kept:?}");
            if let Some(next) = text[kept.len()..].chars().next() {
                assert!(written(&format!("{kept}{next}")) > bytes_max, "{kept:?} is too short");
            }
        }
    }
}
