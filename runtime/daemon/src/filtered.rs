//! A service that shows every request and every event to the filters of the profile.

use std::sync::Arc;

use protocol::{
    Asked, Description, EmbedRequest, Embeddings, Encoded, Event, Fault, FaultCode, Filter, Input,
    ModerateRequest, Moderations, Observer, Reply, Request, Service, TokenId,
};

use crate::held::Held;
use crate::relay::{Gone, Outlet, Relays};
use crate::watch::Watch;

/// Filters and observers around a service.
pub(crate) struct Filtered {
    inner: Arc<dyn Service>,
    filters: Arc<[Box<dyn Filter>]>,
    observers: Arc<[Box<dyn Observer>]>,
    relays: Relays,
}

impl Filtered {
    /// Puts `filters`, in this order, before `inner`, and `observers` around both; at most
    /// `requests_max` answers at a time.
    pub(crate) fn new(
        inner: Arc<dyn Service>,
        filters: Vec<Box<dyn Filter>>,
        observers: Vec<Box<dyn Observer>>,
        requests_max: u32,
    ) -> Self {
        let relays = Relays::new("filters", requests_max);
        Self { inner, filters: filters.into(), observers: observers.into(), relays }
    }

    /// Takes the watch along where an answer begins.
    fn begin(&self, mut request: Request, watch: &mut Option<Watch>) -> Result<Reply, Fault> {
        self.filters.iter().try_for_each(|filter| filter.on_request(&mut request))?;
        let seat = self.relays.seat()?;
        let asked = Asked::of(&request);
        let answer = self.inner.submit(request)?;
        let filters = Arc::clone(&self.filters);
        let is_held = filters.iter().any(|filter| filter.judges_answers());
        let id = asked.id.clone();
        let held = is_held.then(Held::default);
        let mut line = Line { filters, asked, watch: watch.take(), held };
        seat.run(id, move |outlet| {
            // The reader is gone: there is nobody left to tell.
            let _gone = line.run(answer, &outlet);
        })
    }
}

impl Service for Filtered {
    fn submit(&self, request: Request) -> Result<Reply, Fault> {
        if self.filters.is_empty() && self.observers.is_empty() {
            return self.inner.submit(request);
        }
        let mut watch = Some(Watch::new(Arc::clone(&self.observers), &request.model));
        let reply = self.begin(request, &mut watch);
        if let (Err(fault), Some(watch)) = (&reply, &mut watch) {
            watch.refused(fault);
        }
        reply
    }

    fn describe(&self) -> Description {
        self.inner.describe()
    }

    fn encode(&self, mut request: Request) -> Result<Encoded, Fault> {
        self.filters.iter().try_for_each(|filter| filter.on_request(&mut request))?;
        self.inner.encode(request)
    }

    fn decode(&self, model: &str, tokens: &[TokenId]) -> Result<String, Fault> {
        self.inner.decode(model, tokens)
    }

    /// What is to be judged comes as it is: a filter that masks or refuses would decide before.
    fn moderate(&self, request: ModerateRequest) -> Result<Moderations, Fault> {
        self.inner.moderate(request)
    }

    /// Each text is shown to the filters as a prompt would be.
    fn embed(&self, mut request: EmbedRequest) -> Result<Embeddings, Fault> {
        for text in &mut request.texts {
            let mut shown = Request {
                model: request.model.clone(),
                client: request.client.clone(),
                ..Request::new("embedding", Input::Text(std::mem::take(text)))
            };
            self.filters.iter().try_for_each(|filter| filter.on_request(&mut shown))?;
            *text = match shown.input {
                Input::Text(text) => text,
                _ => {
                    let message = "a filter turned a text into something else";
                    return Err(Fault::new(FaultCode::Internal, message));
                }
            };
        }
        self.inner.embed(request)
    }
}

/// One answer on its way to its reader.
struct Line {
    filters: Arc<[Box<dyn Filter>]>,
    asked: Asked,
    watch: Option<Watch>,
    /// Where a filter judges answers as a whole.
    held: Option<Held>,
}

impl Line {
    fn run(&mut self, mut answer: Reply, outlet: &Outlet) -> Result<(), Gone> {
        while let Some(mut event) = outlet.next(&mut answer)? {
            let verdict = self.filters.iter().try_for_each(|filter| filter.on_event(&mut event));
            if let Err(fault) = verdict {
                event = Event::Failed(fault);
            }
            let events = match &mut self.held {
                Some(held) => held.pass(event, &self.asked, &self.filters),
                None => vec![event],
            };
            for event in events {
                self.watch.iter_mut().for_each(|watch| watch.see(&event));
                let last = event.is_last();
                outlet.send(event, &answer)?;
                if last {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::{Duration, Instant};

    use protocol::{
        EventSink, FaultCode, FinishReason, Input, Observation, SendOutcome, Usage, reply_pair,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Answers with an open sink, so that the test is the engine.
    #[derive(Default)]
    struct Open {
        sinks: Mutex<Vec<EventSink>>,
        requests: Mutex<Vec<Request>>,
    }

    impl Service for Open {
        fn submit(&self, request: Request) -> Result<Reply, Fault> {
            let (sink, reply) = reply_pair(request.id.clone(), 4);
            self.sinks.lock().unwrap().push(sink);
            self.requests.lock().unwrap().push(request);
            Ok(reply)
        }

        fn describe(&self) -> Description {
            Description::default()
        }
    }

    /// Upper-cases text, and ends the answer at a forbidden one.
    struct Shout;

    impl Filter for Shout {
        fn name(&self) -> &str {
            "shout"
        }

        fn on_request(&self, request: &mut Request) -> Result<(), Fault> {
            match &mut request.input {
                Input::Text(text) if text == "refuse" => {
                    Err(Fault::new(FaultCode::Forbidden, "refused"))
                }
                Input::Text(text) => {
                    text.make_ascii_uppercase();
                    Ok(())
                }
                _ => Ok(()),
            }
        }

        fn on_event(&self, event: &mut Event) -> Result<(), Fault> {
            match event {
                Event::Text { text, .. } if text == "forbidden" => {
                    Err(Fault::new(FaultCode::Forbidden, "stopped"))
                }
                Event::Text { text, .. } if text == "panic" => panic!("a defect of a filter"),
                Event::Text { text, .. } => {
                    text.make_ascii_uppercase();
                    Ok(())
                }
                _ => Ok(()),
            }
        }
    }

    /// Marks that it ran, to show the order.
    struct Mark;

    impl Filter for Mark {
        fn name(&self) -> &str {
            "mark"
        }

        fn on_request(&self, request: &mut Request) -> Result<(), Fault> {
            if let Input::Text(text) = &mut request.input {
                text.push('m');
            }
            Ok(())
        }

        fn on_event(&self, event: &mut Event) -> Result<(), Fault> {
            if let Event::Text { text, .. } = event {
                text.push('m');
            }
            Ok(())
        }
    }

    fn filtered(requests_max: u32) -> (Arc<Open>, Filtered) {
        let open = Arc::new(Open::default());
        let filters: Vec<Box<dyn Filter>> = vec![Box::new(Shout), Box::new(Mark)];
        (Arc::clone(&open), Filtered::new(open, filters, Vec::new(), requests_max))
    }

    fn request(text: &str) -> Request {
        Request::new("r", Input::Text(text.into()))
    }

    fn text(text: &str) -> Event {
        Event::text(text, 1)
    }

    fn finished() -> Event {
        Event::Finished { reason: FinishReason::Stop, usage: Usage::default() }
    }

    fn until(what: &str, holds: impl Fn() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < PATIENCE, "{what} does not hold");
            std::thread::yield_now();
        }
    }

    #[test]
    fn filters_see_requests_and_events_in_their_order() {
        let (open, filtered) = filtered(4);
        let mut reply = filtered.submit(request("ask")).unwrap();
        assert_eq!(open.requests.lock().unwrap()[0].input, Input::Text("ASKm".into()));
        let sink = open.sinks.lock().unwrap()[0].clone();
        for event in [text("one"), text("two"), finished()] {
            assert_eq!(sink.send(event), SendOutcome::Sent);
        }
        assert_eq!(reply.recv(), Some(text("ONEm")));
        assert_eq!(reply.recv(), Some(text("TWOm")));
        assert_eq!(reply.recv(), Some(finished()));
        assert_eq!(reply.recv(), None);
    }

    #[test]
    fn a_refused_request_does_not_reach_the_service() {
        let (open, filtered) = filtered(4);
        let fault = filtered.submit(request("refuse")).unwrap_err();
        assert_eq!(fault.code, FaultCode::Forbidden);
        assert!(open.requests.lock().unwrap().is_empty());
    }

    #[test]
    fn a_fault_in_mid_answer_ends_it_and_cancels_what_lies_behind() {
        let (open, filtered) = filtered(4);
        let mut reply = filtered.submit(request("ask")).unwrap();
        let sink = open.sinks.lock().unwrap()[0].clone();
        sink.send(text("fine"));
        sink.send(text("forbidden"));
        assert_eq!(reply.recv(), Some(text("FINEm")));
        assert!(matches!(reply.recv(), Some(Event::Failed(fault)) if fault.message == "stopped"));
        assert_eq!(reply.recv(), None);
        until("the engine sees that the reader is gone", || sink.is_gone());
    }

    #[test]
    fn a_panic_of_a_filter_fails_its_answer_and_frees_its_seat() {
        let (open, filtered) = filtered(1);
        let mut reply = filtered.submit(request("ask")).unwrap();
        open.sinks.lock().unwrap()[0].send(text("panic"));
        assert!(
            matches!(reply.recv(), Some(Event::Failed(fault)) if fault.code == FaultCode::Internal)
        );
        until("the seat is free", || filtered.submit(request("again")).is_ok());
    }

    #[test]
    fn dropping_the_reply_drops_the_one_behind() {
        let (open, filtered) = filtered(4);
        let reply = filtered.submit(request("ask")).unwrap();
        let sink = open.sinks.lock().unwrap()[0].clone();
        drop(reply);
        until("the engine sees that the reader is gone", || sink.is_gone());
    }

    #[test]
    fn a_cancel_passes_through_and_the_last_event_comes_back() {
        let (open, filtered) = filtered(4);
        let mut reply = filtered.submit(request("ask")).unwrap();
        let sink = open.sinks.lock().unwrap()[0].clone();
        reply.canceller().cancel();
        until("the cancel passes", || sink.is_cancelled());
        let last = Event::Finished { reason: FinishReason::Cancelled, usage: Usage::default() };
        sink.send(last.clone());
        assert_eq!(reply.recv(), Some(last));
    }

    #[test]
    fn a_slow_reader_holds_back_the_engine_and_loses_nothing() {
        let (open, filtered) = filtered(4);
        let mut reply = filtered.submit(request("ask")).unwrap();
        let sink = open.sinks.lock().unwrap()[0].clone();
        // Both queues, and the event in the relay's hand.
        let room = crate::relay::RELAY_EVENTS_MAX + 4 + 1;
        for number in 0..room {
            let event = text(&number.to_string());
            until("there is room", || sink.send(event.clone()) == SendOutcome::Sent);
        }
        assert!(matches!(sink.send(text("more")), SendOutcome::Full(_)));
        for number in 0..room {
            assert_eq!(reply.recv(), Some(text(&format!("{number}m"))));
        }
        sink.send(finished());
        assert_eq!(reply.recv(), Some(finished()));
    }

    /// Judges answers as a whole.
    struct Whole;

    impl Filter for Whole {
        fn name(&self) -> &str {
            "whole"
        }

        fn on_request(&self, _request: &mut Request) -> Result<(), Fault> {
            Ok(())
        }

        fn on_event(&self, _event: &mut Event) -> Result<(), Fault> {
            Ok(())
        }

        fn judges_answers(&self) -> bool {
            true
        }

        fn on_answer(&self, asked: &Asked, answer: &mut Vec<Event>) -> Result<(), Fault> {
            assert_eq!(asked.id.0, "r");
            match answer.as_mut_slice() {
                [Event::Text { text, .. }] if text == "bad end" => {
                    Err(Fault::new(FaultCode::Forbidden, "no"))
                }
                [Event::Text { text, .. }] => {
                    text.push('!');
                    Ok(())
                }
                _ => Ok(()),
            }
        }
    }

    /// Keeps what it hears.
    struct Ear(Arc<Mutex<Vec<Observation>>>);

    impl Observer for Ear {
        fn observe(&self, seen: &Observation) {
            self.0.lock().unwrap().push(seen.clone());
        }
    }

    fn judged() -> (Arc<Open>, Filtered, Arc<Mutex<Vec<Observation>>>) {
        let open = Arc::new(Open::default());
        let heard = Arc::default();
        let observers: Vec<Box<dyn Observer>> = vec![Box::new(Ear(Arc::clone(&heard)))];
        let filtered = Filtered::new(
            Arc::clone(&open) as Arc<dyn Service>,
            vec![Box::new(Whole)],
            observers,
            4,
        );
        (open, filtered, heard)
    }

    #[test]
    fn an_answer_is_held_until_it_is_judged_as_a_whole() {
        let (open, filtered, heard) = judged();
        for (end, wanted) in [(" end", None), (" good", Some("bad good!"))] {
            let mut reply = filtered.submit(request("ask")).unwrap();
            let sink = open.sinks.lock().unwrap().pop().unwrap();
            sink.send(text("bad"));
            sink.send(text(end));
            assert!(reply.recv_timeout(Duration::from_millis(50)).is_err(), "something was sent");
            sink.send(finished());
            match wanted {
                Some(wanted) => {
                    assert_eq!(reply.recv(), Some(Event::text(wanted, 2)));
                    assert_eq!(reply.recv(), Some(finished()));
                }
                None => assert!(matches!(reply.recv(), Some(Event::Failed(_)))),
            }
            assert_eq!(reply.recv(), None);
        }
        until("both are observed", || heard.lock().unwrap().len() == 2);
        let outcomes: Vec<_> = heard.lock().unwrap().iter().map(|seen| seen.outcome).collect();
        assert_eq!(outcomes, ["forbidden", "stop"]);
    }

    #[test]
    fn an_answer_too_long_to_be_held_is_refused() {
        let (open, filtered, _heard) = judged();
        let mut reply = filtered.submit(request("ask")).unwrap();
        let sink = open.sinks.lock().unwrap().pop().unwrap();
        sink.send(Event::text("x".repeat(2 << 20), 1));
        let last = reply.recv();
        assert!(matches!(last, Some(Event::Failed(fault)) if fault.code == FaultCode::TooLarge));
    }

    #[test]
    fn observers_hear_of_requests_that_nobody_waits_for() {
        let (_open, filtered, heard) = judged();
        drop(filtered.submit(request("ask")).unwrap());
        until("it is observed", || !heard.lock().unwrap().is_empty());
        let seen = heard.lock().unwrap()[0].clone();
        assert_eq!((seen.outcome, seen.accepted, seen.first_text), ("cancelled", None, None));
    }

    #[test]
    fn more_answers_than_seats_are_refused_with_an_advice() {
        let (open, filtered) = filtered(1);
        let first = filtered.submit(request("ask")).unwrap();
        let fault = filtered.submit(request("ask")).unwrap_err();
        assert_eq!(fault.code, FaultCode::Busy);
        assert!(fault.retry_after_ms.is_some());
        assert_eq!(open.requests.lock().unwrap().len(), 1);
        drop(first);
        until("the seat is free", || filtered.submit(request("ask")).is_ok());
    }
}
