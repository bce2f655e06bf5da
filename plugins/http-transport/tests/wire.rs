//! The HTTP API over real sockets, with a service that has no model.

mod parrot;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use chat_json::Strictness;
use expect_test::expect;
use http_transport::{HttpConfig, HttpTransport};
use parrot::{Parrot, SOON, eventually, finished, send_all};
use protocol::{FinishReason, Stop, StopHandle, Transport, TransportError};
use serde_json::{Value, json};

/// A running server; stops when dropped.
struct Server {
    address: SocketAddr,
    parrot: Arc<Parrot>,
    stop: Option<StopHandle>,
    thread: Option<JoinHandle<Result<(), TransportError>>>,
}

impl Server {
    fn start(config: HttpConfig) -> Self {
        let any_port = SocketAddr::new(config.address.ip(), 0);
        let transport = HttpTransport::bind(HttpConfig { address: any_port, ..config })
            .expect("loopback has a free port");
        let (address, parrot) = (transport.address(), Arc::new(Parrot::default()));
        let (handle, stop) = Stop::pair();
        let service = Arc::clone(&parrot);
        let thread = thread::spawn(move || Box::new(transport).serve(service, stop));
        Self { address, parrot, stop: Some(handle), thread: Some(thread) }
    }

    fn plain() -> Self {
        Self::start(HttpConfig::default())
    }

    fn raise_stop(&mut self) {
        self.stop.take();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic").expect("a clean end");
        }
    }

    fn open(&self, head: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        let length = body.len();
        let host = self.address;
        write!(
            stream,
            "{head}host: {host}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        )
        .and_then(|()| stream.write_all(body))
        .expect("the server reads");
        stream
    }

    fn get(&self, path: &str) -> Response {
        read_response(self.open(&format!("GET {path} HTTP/1.1\r\n"), b""))
    }

    fn post(&self, path: &str, body: &Value) -> Response {
        read_response(self.open_chat(path, body))
    }

    fn open_chat(&self, path: &str, body: &Value) -> TcpStream {
        self.open(&format!("POST {path} HTTP/1.1\r\n"), body.to_string().as_bytes())
    }

    fn chat(&self, body: &Value) -> Response {
        self.post("/v1/chat/completions", body)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.raise_stop();
        self.join();
    }
}

struct Response {
    status: u16,
    head: String,
    body: String,
}

impl Response {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("a JSON body")
    }

    /// The payloads of server-sent events.
    fn data(&self) -> Vec<&str> {
        self.body.split_terminator("\n\n").filter_map(|line| line.strip_prefix("data: ")).collect()
    }
}

fn read_response(mut stream: TcpStream) -> Response {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the whole response");
    let text = String::from_utf8(bytes).expect("UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let chunked = head.contains("transfer-encoding: chunked");
    let body = if chunked { unchunked(body) } else { body.to_owned() };
    Response { status, head: head.to_owned(), body }
}

fn unchunked(mut rest: &str) -> String {
    let mut whole = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").expect("a chunk's size");
        let size = usize::from_str_radix(size, 16).expect("a chunk's size in hex");
        if size == 0 {
            return whole;
        }
        whole.push_str(&after[..size]);
        rest = &after[size + 2..];
    }
}

/// Reads until `wanted` has come.
fn read_until(stream: &mut TcpStream, wanted: &str) {
    let (mut found, mut buffer) = (String::new(), [0; 1024]);
    while !found.contains(wanted) {
        let count = stream.read(&mut buffer).expect("more bytes");
        assert!(count > 0, "ended before {wanted}: {found}");
        found.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
}

fn ask(model: &str, more: &Value) -> Value {
    let mut body =
        json!({"model": model, "messages": [{"role": "user", "content": "Once upon a time"}]});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

#[test]
fn a_chat_is_answered_whole() {
    let server = Server::plain();
    let response = server.chat(&ask("polly", &json!({"max_tokens": 3, "user": "u"})));
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("x-ignored-fields"), Some("user"));
    let body = response.json();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "parrot", "the model that really answered");
    assert_eq!(body["choices"][0]["message"]["content"], "Once upon a ");
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    assert_eq!(body["usage"]["total_tokens"], 8);
    let id = body["id"].as_str().unwrap();
    assert_eq!((id.len(), response.header("x-request-id")), (32, Some(id)));
}

#[test]
fn a_chat_is_streamed() {
    let server = Server::plain();
    let response = server.chat(&ask("parrot", &json!({"stream": true, "stop": " time"})));
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let data = response.data();
    assert_eq!(data.last(), Some(&"[DONE]"));
    let chunks: Vec<Value> =
        data[..data.len() - 1].iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
    let text: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, "Once upon a");
    let last = chunks.last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert_eq!(last["usage"]["completion_tokens"], 3);
}

#[test]
fn several_answers_come_whole_and_streamed() {
    let server = Server::plain();
    let whole = server.chat(&ask("parrot", &json!({"n": 3, "max_tokens": 2}))).json();
    let choices = whole["choices"].as_array().unwrap();
    let indexes: Vec<_> = choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, [0, 1, 2]);
    assert!(choices.iter().all(|choice| choice["message"]["content"] == "Once upon "));
    assert_eq!(whole["usage"]["prompt_tokens"], 5);
    assert_eq!(whole["usage"]["completion_tokens"], 6);
    assert_eq!(whole["usage"]["prompt_tokens_details"]["cached_tokens"], 2);

    let response = server.chat(&ask("parrot", &json!({"n": 3, "stream": true})));
    let data = response.data();
    assert_eq!(data.iter().filter(|data| **data == "[DONE]").count(), 1);
    let mut said = [String::new(), String::new(), String::new()];
    for chunk in &data[..data.len() - 1] {
        let chunk: Value = serde_json::from_str(chunk).unwrap();
        let choice = &chunk["choices"][0];
        let text = choice["delta"]["content"].as_str().unwrap();
        said[choice["index"].as_u64().unwrap() as usize].push_str(text);
    }
    assert_eq!(said, ["Once upon a time"; 3]);
}

#[test]
fn a_refused_answer_refuses_the_request_and_cancels_the_others() {
    let server = Server::plain();
    for stream in [false, true] {
        let response = server.chat(&ask("narrow", &json!({"n": 3, "stream": stream})));
        assert_eq!((response.status, response.header("retry-after")), (429, Some("2")));
        for _ in 0..2 {
            let sink = server.parrot.kept();
            eventually(|| sink.is_gone().then_some(()));
        }
    }
}

#[test]
fn a_client_that_leaves_cancels_all_its_answers() {
    let server = Server::plain();
    for stream in [false, true] {
        let client = server
            .open_chat("/v1/chat/completions", &ask("narrow", &json!({"n": 2, "stream": stream})));
        let sinks = [server.parrot.kept(), server.parrot.kept()];
        drop(client);
        for sink in sinks {
            eventually(|| sink.is_gone().then_some(()));
        }
    }
}

#[test]
fn a_hole_is_filled() {
    let server = Server::plain();
    let body = json!({"model": "parrot", "prompt": "def f(", "suffix": "return 1"});
    let response = server.post("/v1/fim/completions", &body);
    assert_eq!(response.json()["choices"][0]["message"]["content"], "def f( ... return 1");
}

#[test]
fn models_are_found_under_every_name() {
    let server = Server::plain();
    assert_eq!(server.get("/v1/models").json()["data"][0]["id"], "parrot");
    let alias = server.get("/v1/models/polly").json();
    assert_eq!((&alias["id"], &alias["root"]), (&json!("polly"), &json!("parrot")));
    let unknown = server.get("/v1/models/some/other");
    assert_eq!((unknown.status, &unknown.json()["code"]), (404, &json!("model_not_found")));
}

#[test]
fn nobody_deletes_a_model() {
    let server = Server::plain();
    for (name, status) in [("parrot", 403), ("polly", 403), ("some/other", 404)] {
        let head = format!("DELETE /v1/models/{name} HTTP/1.1\r\n");
        assert_eq!(read_response(server.open(&head, b"")).status, status, "{name}");
    }
}

#[test]
fn a_text_goes_on_without_a_conversation() {
    let server = Server::plain();
    let body = json!({"model": "parrot", "prompt": ["one two", "three"], "n": 2});
    let whole = server.post("/v1/completions", &body).json();
    assert_eq!(whole["object"], "text_completion");
    let texts: Vec<_> =
        whole["choices"].as_array().unwrap().iter().map(|choice| &choice["text"]).collect();
    assert_eq!(texts, ["one two", "one two", "three", "three"]);
    assert_eq!(whole["usage"]["prompt_tokens"], 10, "each prompt counts once");

    let body = json!({"model": "parrot", "prompt": "one two", "echo": true, "stream": true});
    let response = server.post("/v1/completions", &body);
    let data = response.data();
    assert_eq!(data.last(), Some(&"[DONE]"));
    let text: String = data[..data.len() - 1]
        .iter()
        .map(|chunk| serde_json::from_str::<Value>(chunk).unwrap())
        .map(|chunk| chunk["choices"][0]["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(text, "one twoone two");
}

#[test]
fn texts_become_vectors() {
    let server = Server::plain();
    let body = json!({"model": "nest", "input": ["one", "three"], "colour": 1});
    let response = server.post("/v1/embeddings", &body);
    assert_eq!(response.status, 200, "{}", response.body);
    assert_eq!(response.header("x-ignored-fields"), Some("colour"));
    assert_eq!(response.header("x-truncated-inputs"), Some("1"));
    let answer = response.json();
    assert_eq!(answer["data"][1]["embedding"], json!([5, 1]));
    assert_eq!(answer["usage"]["prompt_tokens"], 8);
    let refused = server.post("/v1/embeddings", &json!({"model": "parrot", "input": "one"}));
    assert_eq!((refused.status, &refused.json()["param"]), (404, &json!("model")));
    let listed = server.get("/v1/models").json();
    assert_eq!(listed["data"][1]["id"], "nest");
    assert_eq!(server.get("/v1/models/nest").json()["max_context_length"], 256);
}

#[test]
fn health_tells_the_model_and_the_load() {
    let response = Server::plain().get("/health");
    assert_eq!(response.status, 200);
    expect![[
        r#"{"status":"ok","model":"parrot","load":{"active":1,"queued":2,"queue_requests_max":8}}"#
    ]]
    .assert_eq(&response.body);
}

#[test]
fn every_refusal_is_json_with_its_status() {
    let server = Server::start(HttpConfig { body_bytes_max: 1000, ..HttpConfig::default() });
    let large = ask("parrot", &json!({"metadata": {"x": "y".repeat(1500)}}));
    let larger = ask("parrot", &json!({"metadata": {"x": "y".repeat(9000)}}));
    let cases = [
        (server.get("/"), 404, "not_found"),
        (server.get("/v1/nothing"), 404, "not_found"),
        (server.get("/v1/chat/completions"), 405, "method_not_allowed"),
        (server.post("/health", &json!({})), 405, "method_not_allowed"),
        (server.chat(&json!([])), 400, "bad_request"),
        (server.chat(&ask("parrot", &json!({"messages": []}))), 400, "bad_request"),
        (server.chat(&ask("parrot", &json!({"n": 17}))), 422, "invalid_field"),
        (server.chat(&ask("parrot", &json!({"temperature": -1}))), 422, "invalid_field"),
        (server.chat(&ask("nobody", &json!({}))), 404, "model_not_found"),
        (server.chat(&large), 413, "too_large"),
        (server.chat(&larger), 413, "too_large"),
        (server.chat(&ask("panic", &json!({}))), 500, "internal_error"),
        (server.chat(&ask("broken", &json!({}))), 500, "internal_error"),
    ];
    for (response, status, code) in cases {
        assert_eq!(response.status, status, "{code}");
        assert_eq!(response.header("content-type"), Some("application/json"));
        let body = response.json();
        assert_eq!((&body["code"], &body["error"]["code"]), (&json!(code), &json!(code)));
        assert_eq!(body["raw_status_code"], status);
    }
    assert_eq!(server.chat(&ask("parrot", &json!({}))).status, 200, "it serves on");
}

#[test]
fn a_body_that_never_ends_is_cut() {
    let server = Server::start(HttpConfig { body_bytes_max: 1000, ..HttpConfig::default() });
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n\
                transfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let piece = format!("200\r\n{}\r\n", "x".repeat(512)).repeat(4);
    stream.write_all(format!("{head}{piece}").as_bytes()).unwrap();
    assert_eq!(read_response(stream).status, 413);
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let server = Server::plain();
    for body in [
        ask("busy", &json!({})),
        ask("busy", &json!({"stream": true})),
        ask("late", &json!({})),
        ask("late", &json!({"stream": true})),
    ] {
        let response = server.chat(&body);
        assert_eq!(response.status, 429);
        assert_eq!(response.header("retry-after"), Some("2"));
        assert_eq!(response.header("retry-after-ms"), Some("1500"));
        assert_eq!(response.json()["code"], "queue_full");
    }
}

#[test]
fn a_fault_in_mid_stream_is_told_and_ends_it() {
    let response = Server::plain().chat(&ask("broken", &json!({"stream": true})));
    assert_eq!(response.status, 200);
    let last: Value = serde_json::from_str(response.data().last().unwrap()).unwrap();
    assert_eq!(last["error"]["message"], "the parrot flew away");
    assert!(!response.body.contains("[DONE]"));
}

#[test]
fn strictness_is_a_setting() {
    let config = HttpConfig { strictness: Strictness::MistralStrict, ..HttpConfig::default() };
    let response = Server::start(config).chat(&ask("parrot", &json!({"seed": 1})));
    assert_eq!(response.status, 422);
    let detail = &response.json()["detail"][0];
    assert_eq!(
        (&detail["type"], &detail["loc"]),
        (&json!("extra_forbidden"), &json!(["body", "seed"]))
    );
}

#[test]
fn a_client_that_leaves_cancels_its_request() {
    let server = Server::plain();
    for (model, stream) in [("mute", false), ("mute", true), ("patient", false), ("patient", true)]
    {
        let body = ask(model, &json!({"stream": stream}));
        let mut client = server.open_chat("/v1/chat/completions", &body);
        let sink = server.parrot.kept();
        if model == "patient" && stream {
            read_until(&mut client, "wait");
        }
        assert!(!sink.is_gone());
        drop(client);
        eventually(|| sink.is_gone().then_some(()));
    }
}

#[test]
fn tokens_are_demanded_where_they_are_set() {
    // SHA-256 of "open sesame".
    let token = "41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb";
    let token = std::array::from_fn(|i| u8::from_str_radix(&token[2 * i..2 * i + 2], 16).unwrap());
    let server = Server::start(HttpConfig { token_sha256: vec![token], ..HttpConfig::default() });
    let models = |header: &str| {
        read_response(server.open(&format!("GET /v1/models HTTP/1.1\r\n{header}"), b""))
    };
    let refused = models("");
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")));
    assert_eq!(models("authorization: Bearer sesame\r\n").status, 401);
    assert_eq!(models("authorization: Bearer open sesame\r\n").status, 200);
    assert_eq!(server.chat(&ask("parrot", &json!({}))).status, 401);
    assert_eq!(server.get("/health").status, 200, "a watchdog has no token");
    let body = ask("parrot", &json!({})).to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer open sesame\r\n";
    assert_eq!(read_response(server.open(head, body.as_bytes())).status, 200);
    let client = server.parrot.last_request().unwrap().client;
    assert_eq!(client.as_deref(), Some("token-41ef4bb0"));
}

#[test]
fn an_open_door_to_the_network_is_refused() {
    let address = SocketAddr::from(([0, 0, 0, 0], 0));
    let bound = HttpTransport::bind(HttpConfig { address, ..HttpConfig::default() });
    assert!(matches!(bound, Err(TransportError::Configuration { .. })));
    let config = HttpConfig { address, token_sha256: vec![[0; 32]], ..HttpConfig::default() };
    assert!(HttpTransport::bind(config.clone()).is_err(), "its key would be read on the way");
    assert!(HttpTransport::bind(HttpConfig { insecure: true, ..config }).is_ok());
}

#[test]
fn a_taken_address_is_named() {
    let server = Server::plain();
    let taken =
        HttpTransport::bind(HttpConfig { address: server.address, ..HttpConfig::default() });
    let error = taken.expect_err("the port is taken");
    assert!(error.to_string().contains(&server.address.to_string()), "{error}");
}

#[test]
fn connections_beyond_the_limit_wait_for_a_place() {
    let server = Server::start(HttpConfig { connections_max: 1, ..HttpConfig::default() });
    let first = TcpStream::connect(server.address).unwrap();
    let second = server.open("GET /health HTTP/1.1\r\n", b"");
    drop(first);
    assert_eq!(read_response(second).status, 200);
}

#[test]
fn running_answers_end_before_the_server_does() {
    let mut server = Server::plain();
    let streamed =
        server.open_chat("/v1/chat/completions", &ask("patient", &json!({"stream": true})));
    let (first, whole) = (
        server.parrot.kept(),
        server.open_chat("/v1/chat/completions", &ask("patient", &json!({}))),
    );
    let second = server.parrot.kept();
    server.raise_stop();
    let health = eventually(|| Some(server.get("/health")).filter(|health| health.status == 503));
    assert_eq!(health.json()["status"], "draining");
    let refused = server.chat(&ask("parrot", &json!({})));
    assert_eq!((refused.status, &refused.json()["code"]), (503, &json!("unavailable")));
    assert!(refused.header("retry-after").is_some());
    for sink in [first, second] {
        send_all(&sink, &[finished(FinishReason::Stop, 1)]);
    }
    assert_eq!(read_response(streamed).data().last(), Some(&"[DONE]"));
    assert_eq!(read_response(whole).json()["choices"][0]["message"]["content"], "wait");
    server.join();
    assert!(TcpStream::connect(server.address).is_err(), "the socket is closed");
}

#[test]
fn answers_that_do_not_end_are_cut_off_after_the_drain() {
    let drain = Duration::from_millis(10);
    let mut server = Server::start(HttpConfig { drain, ..HttpConfig::default() });
    let client =
        server.open_chat("/v1/chat/completions", &ask("patient", &json!({"stream": true})));
    let sink = server.parrot.kept();
    let begun = Instant::now();
    server.raise_stop();
    server.join();
    assert!(begun.elapsed() < SOON);
    assert!(sink.is_gone());
    drop(client);
}
