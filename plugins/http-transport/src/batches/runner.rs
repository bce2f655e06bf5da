//! Works through the batches: the oldest first, a few requests at a time.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, header};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use journal::{Batches, Item, Job, JobState, JournalError};
use serde_json::{Value, json};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::shapes::About;
use crate::routes::Shared;

/// Requests of all batches together that wait or run.
const RUNNING_MAX: usize = 4;

/// Bytes of one answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Between two looks at the time that is left of a batch.
const LOOK: Duration = Duration::from_secs(1);

/// Between two tries to use a store that cannot be used.
const PAUSE: Duration = Duration::from_secs(5);

/// A request that finds the queue full tries again after this time at least, and at most.
const RETRY: std::ops::Range<Duration> = Duration::from_millis(100)..Duration::from_secs(5);

/// A request that was given to the service.
struct Flight {
    job: Job,
    number: u64,
    handle: AbortHandle,
}

/// What a look at the store asks for.
#[derive(Default)]
struct Plan {
    begin: Vec<(Job, Item)>,
    /// Jobs whose flights nobody wants any more.
    stop: Vec<String>,
    /// Whether some job is not over.
    is_busy: bool,
}

/// Runs until the gate is closed. `inner` has the paths of the API and asks nobody who they are.
pub(crate) async fn run(shared: Arc<Shared>, inner: Router) {
    let mut flights: Vec<Flight> = Vec::new();
    let mut tasks = JoinSet::new();
    while !shared.gate.is_closed() {
        let under_way = flights.iter().map(|flight| (flight.job.id.clone(), flight.number));
        let (under_way, store) = (under_way.collect::<Vec<_>>(), Arc::clone(&shared.desk.store));
        let looked = tokio::task::spawn_blocking(move || look(&store, &under_way));
        let Ok(Ok(plan)) = looked.await.map(|plan| plan.inspect_err(report)) else {
            sleep(PAUSE).await;
            continue;
        };
        for flight in flights.iter().filter(|flight| plan.stop.contains(&flight.job.id)) {
            flight.handle.abort();
        }
        for (job, item) in plan.begin {
            let number = item.number;
            let task = perform(Arc::clone(&shared), inner.clone(), job.clone(), item);
            flights.push(Flight { job, number, handle: tasks.spawn(task) });
        }
        let is_busy = plan.is_busy;
        tokio::select! {
            Some(_) = tasks.join_next() => {}
            () = shared.desk.bell.notified() => {}
            () = sleep(LOOK), if is_busy => {}
        }
        flights.retain(|flight| !flight.handle.is_finished());
    }
    // What is under way ends with the drain, or is begun again by the next program.
    while tasks.join_next().await.is_some() {}
}

/// Ends what is over and begins what there is room for.
fn look(store: &Batches, under_way: &[(String, u64)]) -> Result<Plan, JournalError> {
    let mut plan = Plan::default();
    let mut passed = Vec::new();
    while let Some(job) = store.next_job(&passed)? {
        passed.push(job.id.clone());
        let mut numbers: Vec<u64> =
            under_way.iter().filter(|(id, _)| *id == job.id).map(|(_, number)| *number).collect();
        let is_late = now_s() >= job.created_s.saturating_add(job.lifetime_s);
        if is_late || job.state == JobState::Cancelling {
            if numbers.is_empty() {
                let end = if is_late { JobState::TimedOut } else { JobState::Cancelled };
                end_job(store, &job, end)?;
                continue;
            }
            plan.stop.push(job.id);
            plan.is_busy = true;
            continue;
        }
        while under_way.len() + plan.begin.len() < RUNNING_MAX {
            let Some(item) = store.begin(&job, &numbers)? else { break };
            numbers.push(item.number);
            plan.begin.push((job.clone(), item));
        }
        if numbers.is_empty() && job.done + job.failed == job.items {
            let end = if job.done == 0 { JobState::Failed } else { JobState::Done };
            end_job(store, &job, end)?;
            continue;
        }
        plan.is_busy = true;
    }
    Ok(plan)
}

fn end_job(store: &Batches, job: &Job, end: JobState) -> Result<(), JournalError> {
    let ids = [(); 2].map(|()| uuid::Uuid::now_v7().to_string());
    store.end(job, end, [&ids[0], &ids[1]])
}

/// Runs one request to its end and notes what came of it.
async fn perform(shared: Arc<Shared>, inner: Router, job: Job, item: Item) {
    let asked: Value = serde_json::from_slice(&item.body).unwrap_or_default();
    let number = item.number;
    let name = asked["custom_id"].clone();
    let line = |response: Value, error: Value| {
        let id = format!("{}-{number}", job.id);
        json!({"id": id, "custom_id": name, "response": response, "error": error}).to_string()
    };
    let outcome = if item.gave_up {
        let message = "the program ended twice while it worked on this request";
        Some((false, line(Value::Null, json!({"code": "interrupted", "message": message}))))
    } else {
        answer(&shared, &inner, &job, &asked["body"].to_string()).await.map(|answer| {
            let error = match answer.status {
                200 => Value::Null,
                _ => json!({
                    "code": answer.body["code"], "message": answer.body["message"],
                }),
            };
            let response = json!({
                "status_code": answer.status,
                "request_id": answer.request_id,
                "body": answer.body,
            });
            (answer.status == 200, line(response, error))
        })
    };
    let store = Arc::clone(&shared.desk.store);
    let noted = tokio::task::spawn_blocking(move || match outcome {
        Some((true, line)) => store.settle(&job, number, Ok(line.as_bytes())),
        Some((false, line)) => store.settle(&job, number, Err(line.as_bytes())),
        None => store.put_back(&job, number),
    });
    if let Ok(Err(error)) = noted.await {
        report(&error);
    }
}

struct Answer {
    status: u16,
    request_id: Value,
    body: Value,
}

/// Asks until there is room; `None` when the program ends before.
async fn answer(shared: &Shared, inner: &Router, job: &Job, body: &str) -> Option<Answer> {
    let about = About::of(job);
    let service = TowerToHyperService::new(inner.clone());
    while !shared.gate.is_closed() {
        let request = Request::post(about.endpoint())
            .header(header::CONTENT_TYPE, "application/json")
            .extension(shared.guard.client_named(&job.owner))
            .body(Body::from(body.to_owned()))
            .ok()?;
        let Ok(response) = service.call(request).await;
        let status = response.status().as_u16();
        if status == 429 || (status == 503 && !shared.gate.is_closed()) {
            sleep(wait_of(response.headers())).await;
            continue;
        }
        if status == 503 {
            return None;
        }
        let request_id = response.headers().get("x-request-id");
        let request_id = json!(request_id.and_then(|id| id.to_str().ok()));
        let bytes = to_bytes(response.into_body(), ANSWER_BYTES_MAX).await.unwrap_or_default();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        return Some(Answer { status, request_id, body });
    }
    None
}

fn wait_of(headers: &HeaderMap) -> Duration {
    let told = headers.get("retry-after-ms").and_then(|wait| wait.to_str().ok()?.parse().ok());
    Duration::from_millis(told.unwrap_or(0)).clamp(RETRY.start, RETRY.end)
}

fn report(error: &JournalError) {
    tracing::error!(%error, "the store of batches; what it holds waits");
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use journal::{BatchLimits, NewJob};

    const LIMITS: BatchLimits = BatchLimits {
        files_max: 9,
        file_bytes_max: 1000,
        jobs_max: 9,
        items_max: 9,
        bytes_max: 1 << 20,
    };

    fn store_with(jobs: &[(&str, u64, usize)]) -> Batches {
        let store = Batches::open(None, LIMITS).expect("a store in memory");
        for (id, lifetime_s, items) in jobs {
            let (id, owner) = ((*id).to_owned(), String::new());
            let items = vec![b"{}".to_vec(); *items];
            let job = NewJob { id, owner, about: Vec::new(), lifetime_s: *lifetime_s, items };
            store.add_job(&job).expect("there is room");
        }
        store
    }

    fn state(store: &Batches, id: &str) -> JobState {
        store.job("", id).unwrap().expect("a job").state
    }

    #[test]
    fn the_oldest_goes_first_and_only_a_few_at_a_time() {
        let store = store_with(&[("a", 60, 3), ("b", 60, 3)]);
        let plan = look(&store, &[]).unwrap();
        let begun: Vec<_> =
            plan.begin.iter().map(|(job, item)| (job.id.as_str(), item.number)).collect();
        assert_eq!(begun, [("a", 0), ("a", 1), ("a", 2), ("b", 0)]);
        let under_way: Vec<_> =
            plan.begin.iter().map(|(job, item)| (job.id.clone(), item.number)).collect();
        let next = look(&store, &under_way).unwrap();
        assert!(next.begin.is_empty() && next.is_busy);
    }

    #[test]
    fn a_job_whose_time_is_over_is_stopped_and_then_ended() {
        let store = store_with(&[("late", 0, 2)]);
        let plan = look(&store, &[("late".into(), 0)]).unwrap();
        assert_eq!((plan.begin.len(), plan.stop), (0, vec!["late".to_owned()]));
        assert!(!look(&store, &[]).unwrap().is_busy);
        assert_eq!(state(&store, "late"), JobState::TimedOut);
    }

    #[test]
    fn a_job_without_any_answer_has_failed() {
        let store = store_with(&[("a", 60, 1)]);
        let plan = look(&store, &[]).unwrap();
        let (job, item) = &plan.begin[0];
        store.settle(job, item.number, Err(b"no")).unwrap();
        look(&store, &[]).unwrap();
        assert_eq!(state(&store, "a"), JobState::Failed);
    }
}
