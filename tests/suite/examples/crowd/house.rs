//! The service without a model, and both entrances before it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_transport::{HttpConfig, HttpTransport};
use mqtt_transport::{EmbeddedBroker, MqttConfig, MqttTransport};
use protocol::{
    Description, Event, EventSink, Fault, FaultCode, FinishReason, ModelCard, Reply, Request,
    SendOutcome, Service, Stop, Transport, Usage, reply_pair,
};

/// Events that wait for a slow reader, as the engine has it.
const EVENTS_MAX: usize = 256;
/// Requests that may wait for the next step.
const QUEUE_MAX: usize = 4096;
/// Least time of a step.
const STEP: Duration = Duration::from_millis(2);
/// Tokens of an answer that names no length.
const TOKENS: u32 = 20;

/// Writes a token for each answer in each step.
struct Paced(flume::Sender<Answer>);

struct Answer {
    sink: EventSink,
    /// What the reader had no room for.
    kept: Option<Event>,
    left: u32,
}

impl Service for Paced {
    fn submit(&self, request: Request) -> Result<Reply, Fault> {
        let (sink, reply) = reply_pair(request.id.clone(), EVENTS_MAX);
        let accepted = Event::Accepted {
            id: request.id,
            model: "paced".into(),
            prompt_tokens: 5,
            cached_tokens: 0,
        };
        let left = request.limits.max_tokens.unwrap_or(TOKENS);
        self.0
            .try_send(Answer { sink, kept: Some(accepted), left })
            .map_err(|_| Fault::new(FaultCode::Busy, "full").retry_after_ms(100))?;
        Ok(reply)
    }

    fn describe(&self) -> Description {
        let card =
            ModelCard { id: "paced".into(), context_tokens_max: 1 << 24, ..ModelCard::default() };
        Description { models: vec![card], ..Description::default() }
    }
}

/// One step of one answer; whether there is a next.
fn step(answer: &mut Answer) -> bool {
    let usage = Usage { prompt_tokens: 5, completion_tokens: TOKENS, ..Usage::default() };
    if answer.sink.is_cancelled() {
        answer.kept = Some(Event::Finished { reason: FinishReason::Cancelled, usage });
    }
    let event = answer.kept.take().unwrap_or_else(|| {
        answer.left = answer.left.saturating_sub(1);
        match answer.left {
            0 => Event::Finished { reason: FinishReason::Stop, usage },
            _ => Event::text("token ", 1),
        }
    });
    let is_last = event.is_last();
    match answer.sink.send(event) {
        SendOutcome::Sent => !is_last,
        SendOutcome::Full(event) => {
            answer.kept = Some(event);
            true
        }
        SendOutcome::Gone => false,
    }
}

fn run(queue: &flume::Receiver<Answer>) {
    let mut running: Vec<Answer> = Vec::new();
    loop {
        if running.is_empty() {
            let Ok(first) = queue.recv() else { return };
            running.push(first);
        }
        let begun = Instant::now();
        running.extend(queue.try_iter());
        running.retain_mut(step);
        std::thread::sleep(STEP.saturating_sub(begun.elapsed()));
    }
}

/// Serves until it is killed; prints where. `broker` is a URL, or nothing for the embedded one;
/// `journal` a file that keeps requests and answers, if there is one.
pub(crate) fn serve(broker: &str, journal: Option<&str>) {
    let (sender, queue) = flume::bounded(QUEUE_MAX);
    std::thread::spawn(move || run(&queue));
    let service: Arc<dyn Service> = Arc::new(Paced(sender));
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = HttpConfig { address: any, connections_max: 1024, ..HttpConfig::default() };
    let http = HttpTransport::bind(config).unwrap();
    let embedded = broker.is_empty().then(|| EmbeddedBroker::start(any).unwrap());
    let url = embedded.as_ref().map(|embedded| format!("mqtt://{}", embedded.address()));
    let url = url.unwrap_or_else(|| broker.to_owned());
    let mut config = MqttConfig::new(&url, "crowd", "box");
    config.journal = journal.map(Into::into);
    config.queue_requests_max = 1024;
    config.client_requests_max = 1024;
    let mqtt = MqttTransport::new(config).unwrap();
    println!("{} {}", http.address(), url.trim_start_matches("mqtt://"));
    let (_running, stop) = Stop::pair();
    let (behind, stopped) = (Arc::clone(&service), stop.clone());
    let thread = std::thread::spawn(move || Box::new(mqtt).serve(behind, stopped));
    Box::new(http).serve(service, stop).unwrap();
    thread.join().unwrap().unwrap();
}
