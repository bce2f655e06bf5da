//! Files and batches as Mistral's and OpenAI's clients expect them.

use journal::{FileCard, FileKind, Job, JobState};
use protocol::{Fault, FaultCode};
use serde_json::{Value, json};

/// Most things on one page of a list.
const PAGE_SIZE_MAX: usize = 1000;

/// Mistral's words for how far a batch is.
const STATUSES: &[&str] = &[
    "QUEUED",
    "RUNNING",
    "SUCCESS",
    "FAILED",
    "TIMEOUT_EXCEEDED",
    "CANCELLATION_REQUESTED",
    "CANCELLED",
];

/// What a batch is for; what the store keeps of it beside its requests.
#[derive(Debug, Clone)]
pub(super) struct About(pub(super) Value);

impl About {
    pub(super) fn of(job: &Job) -> Self {
        Self(serde_json::from_slice(&job.about).unwrap_or_default())
    }

    pub(super) fn endpoint(&self) -> &str {
        self.0["endpoint"].as_str().unwrap_or_default()
    }
}

/// Which part of a list a client wants.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Mistral's way: the number of a page and its size.
    page: usize,
    size: Option<usize>,
    /// OpenAI's way: what the last page ended with.
    after: Option<String>,
    oldest_first: bool,
    purpose: Option<String>,
    statuses: Vec<String>,
    model: Option<String>,
    /// Whether the answers of a job come with it.
    pub(super) inline: bool,
}

impl Page {
    /// Reads the part of an address behind the question mark; what it does not know is ignored.
    pub(super) fn of(query: Option<&str>) -> Result<Self, Fault> {
        let mut page = Self::default();
        for pair in query.unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "page" => page.page = number(name, value, 0..=1_000_000)?,
                "page_size" | "limit" => page.size = Some(number(name, value, 1..=PAGE_SIZE_MAX)?),
                "after" => page.after = Some(value.to_owned()),
                "order_by" => {
                    page.oldest_first = one_of(name, value, &["-created", "created"])? == 1;
                }
                "order" => page.oldest_first = one_of(name, value, &["desc", "asc"])? == 1,
                "purpose" => page.purpose = Some(value.to_owned()),
                "status" => {
                    one_of(name, value, STATUSES)?;
                    page.statuses.push(value.to_owned());
                }
                "model" => page.model = Some(value.to_owned()),
                "inline" => page.inline = one_of(name, value, &["false", "true"])? == 1,
                _ => {}
            }
        }
        Ok(page)
    }

    pub(super) fn wants_purpose(&self, kind: FileKind) -> bool {
        match self.purpose.as_deref() {
            None | Some("batch") => true,
            Some("batch_output") => kind != FileKind::Brought,
            Some(_) => false,
        }
    }

    pub(super) fn wants(&self, job: &Job) -> bool {
        let is_wanted = |statuses: &[String]| {
            statuses.is_empty() || statuses.iter().any(|status| status == mistral_status(job.state))
        };
        let model = || About::of(job).0["model"].as_str().map(str::to_owned);
        is_wanted(&self.statuses) && (self.model.is_none() || self.model == model())
    }
}

/// Which of some words it is.
fn one_of(name: &str, value: &str, words: &[&str]) -> Result<usize, Fault> {
    words.iter().position(|word| *word == value).ok_or_else(|| {
        let message = format!("{name}: must be one of {}", words.join(", "));
        Fault::new(FaultCode::InvalidField, message).at(name)
    })
}

fn number(name: &str, value: &str, range: std::ops::RangeInclusive<usize>) -> Result<usize, Fault> {
    value.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        let message =
            format!("{name}: must be a whole number between {} and {}", range.start(), range.end());
        Fault::new(FaultCode::InvalidField, message).at(name)
    })
}

/// A list in both forms: `total` is Mistral's, `has_more` and the ids are OpenAI's.
pub(super) fn list_body<T>(
    page: &Page,
    all: &[T],
    id: impl Fn(&T) -> &str,
    body: impl Fn(&T) -> Value,
) -> Value {
    let ordered: Vec<&T> =
        if page.oldest_first { all.iter().rev().collect() } else { all.iter().collect() };
    let size = page.size.unwrap_or(100);
    let begin = match &page.after {
        Some(after) => ordered.iter().position(|one| id(one) == after).map_or(0, |at| at + 1),
        None => page.page.saturating_mul(size),
    };
    let shown: Vec<&T> = ordered.iter().copied().skip(begin).take(size).collect();
    json!({
        "object": "list",
        "data": shown.iter().map(|one| body(one)).collect::<Vec<_>>(),
        "total": all.len(),
        "has_more": begin.saturating_add(shown.len()) < all.len(),
        "first_id": shown.first().map(|one| id(one)),
        "last_id": shown.last().map(|one| id(one)),
    })
}

pub(super) fn file_body(card: &FileCard) -> Value {
    let (sample_type, source) = match card.kind {
        FileKind::Brought => ("batch_request", "upload"),
        FileKind::Answers => ("batch_result", "mistral"),
        FileKind::Faults => ("batch_error", "mistral"),
    };
    json!({
        "id": card.id,
        "object": "file",
        "bytes": card.bytes,
        "created_at": card.created_s,
        "filename": card.name,
        "purpose": "batch",
        "sample_type": sample_type,
        "source": source,
        "num_lines": card.lines,
        "mimetype": "application/jsonl",
        "signature": null,
        "expires_at": null,
        "status": "processed",
    })
}

pub(super) fn mistral_status(state: JobState) -> &'static str {
    match state {
        JobState::Queued => "QUEUED",
        JobState::Running => "RUNNING",
        JobState::Cancelling => "CANCELLATION_REQUESTED",
        JobState::Done => "SUCCESS",
        JobState::Failed => "FAILED",
        JobState::TimedOut => "TIMEOUT_EXCEEDED",
        JobState::Cancelled => "CANCELLED",
    }
}

pub(super) fn mistral_body(job: &Job) -> Value {
    let About(about) = About::of(job);
    let errors = match job.failed {
        0 => json!([]),
        count => {
            json!([{"message": "requests failed; error_file has their faults", "count": count}])
        }
    };
    json!({
        "id": job.id,
        "object": "batch",
        "input_files": about["input_files"],
        "metadata": about["metadata"],
        "endpoint": about["endpoint"],
        "model": about["model"],
        "agent_id": null,
        "output_file": job.answers,
        "error_file": job.faults,
        "outputs": null,
        "errors": errors,
        "status": mistral_status(job.state),
        "created_at": job.created_s,
        "started_at": job.begun_s,
        "completed_at": job.ended_s,
        "total_requests": job.items,
        "completed_requests": job.done + job.failed,
        "succeeded_requests": job.done,
        "failed_requests": job.failed,
    })
}

pub(super) fn openai_body(job: &Job) -> Value {
    let About(about) = About::of(job);
    let (status, moment) = match job.state {
        JobState::Queued => ("validating", ""),
        JobState::Running => ("in_progress", ""),
        JobState::Cancelling => ("cancelling", ""),
        JobState::Done => ("completed", "completed_at"),
        // What failed is each request, and their faults are in a file: OpenAI calls that complete.
        JobState::Failed => ("completed", "completed_at"),
        JobState::TimedOut => ("expired", "expired_at"),
        JobState::Cancelled => ("cancelled", "cancelled_at"),
    };
    let mut body = json!({
        "id": job.id,
        "object": "batch",
        "endpoint": about["endpoint"],
        "errors": null,
        "input_file_id": about["input_files"].get(0).cloned().unwrap_or_else(|| json!("")),
        "completion_window": "24h",
        "status": status,
        "output_file_id": job.answers,
        "error_file_id": job.faults,
        "created_at": job.created_s,
        "in_progress_at": job.begun_s,
        "expires_at": job.created_s.saturating_add(job.lifetime_s),
        "request_counts": {"total": job.items, "completed": job.done, "failed": job.failed},
        "metadata": about["metadata"],
    });
    if !moment.is_empty() {
        body[moment] = json!(job.ended_s);
    }
    body
}
