//! Who is let in over real sockets, and how much: keys, limits, and what the answers tell of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::door::{Door, ask};
use chat_json::Strictness;
use http_transport::{HttpClient, HttpConfig};
use protocol::{
    Allowance, Description, Encoded, Fault, FaultCode, Remaining, Reply, Request, Service,
};
use serde_json::json;
use sha2::{Digest, Sha256};

/// The parrot behind a limit that the test sets.
#[derive(Default)]
struct Limited {
    parrot: crate::parrot::Parrot,
    /// Requests that are still let in for the client `few`.
    left: AtomicU64,
}

impl Service for Limited {
    fn submit(&self, request: Request) -> Result<Reply, Fault> {
        if request.client.as_deref() == Some("few") {
            self.admits(Some("few"), 1, 1)?;
            self.left.fetch_sub(1, Ordering::Relaxed);
        }
        self.parrot.submit(request)
    }

    fn describe(&self) -> Description {
        self.parrot.describe()
    }

    fn encode(&self, _request: Request) -> Result<Encoded, Fault> {
        Ok(Encoded::default())
    }

    fn admits(&self, client: Option<&str>, requests: u32, _at_once: u32) -> Result<(), Fault> {
        if client != Some("few") || u64::from(requests) <= self.left.load(Ordering::Relaxed) {
            return Ok(());
        }
        let fault = Fault::new(FaultCode::RateLimited, "this client has had its requests");
        Err(fault.retry_after_ms(1_500))
    }

    fn allowance(&self, client: Option<&str>) -> Option<Allowance> {
        let left = self.left.load(Ordering::Relaxed);
        let requests =
            Remaining { limit: 3, remaining: left as u32, reset: Duration::from_millis(60_500) };
        (client == Some("few"))
            .then_some(Allowance { requests: Some(requests), ..Allowance::default() })
    }
}

fn client(name: &str, key: &str, strictness: Option<Strictness>) -> HttpClient {
    HttpClient { name: name.into(), key_sha256: vec![Sha256::digest(key).into()], strictness }
}

fn with_clients() -> HttpConfig {
    HttpConfig {
        clients: vec![
            client("few", "key-of-few", None),
            client("strict", "key-of-strict", Some(Strictness::MistralStrict)),
        ],
        ..HttpConfig::default()
    }
}

const FEW: &str = "authorization: Bearer key-of-few\r\n";
const STRICT: &str = "authorization: Bearer key-of-strict\r\n";

#[test]
fn a_key_names_the_client_and_sets_its_mode() {
    let door = Door::open(with_clients(), Limited { left: 9.into(), ..Limited::default() });
    let body = ask("parrot", &json!({"seed": 1}));
    let lenient = door.post(FEW, "/v1/chat/completions", &body);
    assert_eq!((lenient.status, lenient.header("x-ignored-fields")), (200, None));
    let body = ask("parrot", &json!({"user": "u"}));
    let lenient = door.post(FEW, "/v1/chat/completions", &body);
    assert_eq!((lenient.status, lenient.header("x-ignored-fields")), (200, Some("user")));
    assert_eq!(door.service.parrot.last_request().unwrap().client.as_deref(), Some("few"));
    let strict = door.post(STRICT, "/v1/chat/completions", &body);
    assert_eq!(strict.status, 422);
    assert_eq!(strict.json()["detail"][0]["type"], "extra_forbidden");
    assert_eq!(door.post("", "/v1/chat/completions", &body).status, 401);
}

#[test]
fn answers_tell_what_is_left_and_when_to_come_back() {
    let door = Door::open(with_clients(), Limited { left: 2.into(), ..Limited::default() });
    for (left, stream) in [("1", false), ("0", true)] {
        let body = ask("parrot", &json!({"stream": stream}));
        let answer = door.post(FEW, "/v1/chat/completions", &body);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("3"));
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some(left));
        assert_eq!(answer.header("x-ratelimit-reset-requests"), Some("1m0.5s"));
        assert_eq!(answer.header("x-ratelimit-limit-tokens"), None, "these are not limited");
    }
    for stream in [false, true] {
        let refused =
            door.post(FEW, "/v1/chat/completions", &ask("parrot", &json!({"stream": stream})));
        assert_eq!(refused.status, 429);
        assert_eq!(refused.header("retry-after"), Some("2"));
        assert_eq!(refused.header("retry-after-ms"), Some("1500"));
        assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("0"));
        let body = refused.json();
        assert_eq!(
            (&body["type"], &body["code"]),
            (&json!("rate_limited"), &json!("rate_limited"))
        );
        assert_eq!(body["raw_status_code"], 429);
    }
    let unlimited = door.post(STRICT, "/v1/chat/completions", &ask("parrot", &json!({})));
    assert_eq!(unlimited.header("x-ratelimit-limit-requests"), None);
}

#[test]
fn several_answers_are_begun_together_or_not_at_all() {
    let door = Door::open(with_clients(), Limited { left: 2.into(), ..Limited::default() });
    let three = ask("mute", &json!({"n": 3}));
    assert_eq!(door.post(FEW, "/v1/chat/completions", &three).status, 429);
    assert!(door.service.parrot.last_request().is_none(), "none of them was begun");
    let two = ask("parrot", &json!({"n": 2}));
    assert_eq!(door.post(FEW, "/v1/chat/completions", &two).status, 200);
    let input = json!({"model": "parrot", "input": ["a", "b", "c"], "labels": ["on", "off"]});
    assert_eq!(door.post(FEW, "/v1/classifications", &input).status, 429);
}

#[test]
fn wrong_keys_are_slowed_before_they_are_compared() {
    let door = Door::open(with_clients(), Limited { left: 9.into(), ..Limited::default() });
    for _ in 0..5 {
        assert_eq!(door.get("authorization: Bearer guess\r\n", "/v1/models").status, 401);
    }
    for key in ["authorization: Bearer guess\r\n", FEW] {
        let refused = door.get(key, "/v1/models");
        assert_eq!(refused.status, 429);
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((50..=61).contains(&wait), "{wait}");
        assert!(refused.header("retry-after-ms").is_some());
    }
    assert_eq!(door.get("", "/health").status, 200);
}

#[test]
fn every_answer_has_an_id_a_type_and_nothing_of_the_program() {
    let door = Door::open(with_clients(), Limited { left: 9.into(), ..Limited::default() });
    let chat = ask("parrot", &json!({}));
    let stream = ask("parrot", &json!({"stream": true}));
    let answers = [
        (door.post(FEW, "/v1/chat/completions", &chat), 200),
        (door.post(FEW, "/v1/chat/completions", &stream), 200),
        (door.post(STRICT, "/v1/chat/completions", &ask("busy", &json!({}))), 429),
        (door.post(STRICT, "/v1/chat/completions", &json!([])), 400),
        (door.post("", "/v1/chat/completions", &chat), 401),
        (door.get(FEW, "/v1/models"), 200),
        (door.get(FEW, "/v1/models/nobody"), 404),
        (door.get(FEW, "/v1/chat/completions"), 405),
        (door.get("", "/health"), 200),
        (door.get("", "/nothing"), 404),
        (door.request("OPTIONS", "origin: http://localhost\r\n", "/v1/models"), 405),
    ];
    let mut ids = std::collections::HashSet::new();
    for (answer, status) in answers {
        assert_eq!(answer.status, status, "{}", answer.head);
        let id = answer.header("x-request-id").expect("an id").to_owned();
        assert_eq!(id.len(), 32);
        assert!(ids.insert(id), "an id of its own");
        assert!(answer.header("content-type").is_some(), "{}", answer.head);
        let head = answer.head.to_ascii_lowercase();
        for unwanted in ["\r\nserver:", "x-powered-by", "access-control-", "set-cookie", "hyper"] {
            assert!(!head.contains(unwanted), "{unwanted} in {head}");
        }
    }
}
