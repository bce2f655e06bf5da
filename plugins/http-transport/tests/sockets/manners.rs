//! HTTP itself over real sockets: limits, times, and what clients may do with a connection.

#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::door::{Door, ask, post};
use crate::parrot::{Parrot, SOON, eventually};
use http_transport::{HttpConfig, Timeouts};
use serde_json::{Value, json};

const SHORT: Duration = Duration::from_millis(300);

fn open(config: HttpConfig) -> Door<Parrot> {
    Door::open(config, Parrot::default())
}

fn hurried() -> HttpConfig {
    let timeouts = Timeouts { head: SHORT, body: SHORT, stall: SHORT, ..Timeouts::default() };
    HttpConfig { timeouts, ..HttpConfig::default() }
}

/// Reads one response with a Content-Length and leaves the connection as it is.
fn next_response(stream: &mut TcpStream) -> (u16, String, Value) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).expect("more of the head"), 1, "the connection ended");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).expect("the whole body");
    (status, head, serde_json::from_slice(&body).unwrap_or_default())
}

fn kept(path: &str, body: &str) -> String {
    post("", path, body).replace("connection: close\r\n", "")
}

#[test]
fn a_connection_serves_many_requests_and_those_sent_ahead_in_their_order() {
    let door = open(HttpConfig::default());
    let mut stream = door.connect();
    let chat = |words: u32| ask("parrot", &json!({"max_tokens": words})).to_string();
    for words in 1..=3 {
        stream.write_all(kept("/v1/chat/completions", &chat(words)).as_bytes()).unwrap();
        let (status, head, body) = next_response(&mut stream);
        assert_eq!((status, &body["usage"]["completion_tokens"]), (200, &json!(words)));
        assert!(!head.contains("connection: close"), "{head}");
    }
    let ahead: String = (1..=4).map(|words| kept("/v1/chat/completions", &chat(words))).collect();
    stream.write_all(ahead.as_bytes()).unwrap();
    for words in 1..=4 {
        assert_eq!(next_response(&mut stream).2["usage"]["completion_tokens"], words);
    }
    // A refusal that has read its body leaves the connection open, too.
    stream.write_all(kept("/v1/chat/completions", "[]").as_bytes()).unwrap();
    assert_eq!(next_response(&mut stream).0, 400);
    stream.write_all(kept("/v1/chat/completions", &chat(1)).as_bytes()).unwrap();
    assert_eq!(next_response(&mut stream).0, 200);
}

#[test]
fn who_asks_first_is_told_to_go_on_or_refused_without_its_body() {
    let door = open(HttpConfig { body_bytes_max: 1000, ..HttpConfig::default() });
    let body = ask("parrot", &json!({})).to_string();
    let head = |length: usize| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n\
             content-length: {length}\r\n\r\n"
        )
    };
    let mut stream = door.connect();
    stream.write_all(head(body.len()).as_bytes()).unwrap();
    let (status, _, _) = next_response(&mut stream);
    assert_eq!(status, 100);
    stream.write_all(body.as_bytes()).unwrap();
    assert_eq!(next_response(&mut stream).0, 200);

    let mut stream = door.connect();
    stream.write_all(head(1_000_000).as_bytes()).unwrap();
    let (status, head, body) = next_response(&mut stream);
    assert_eq!((status, &body["code"]), (413, &json!("too_large")));
    assert!(head.contains("connection: close"));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn heads_too_large_or_malformed_are_refused() {
    let door = open(HttpConfig::default());
    let cases = [
        (
            format!(
                "GET /health HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
                "y".repeat(140_000)
            ),
            431,
        ),
        (format!("GET /health HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(200)), 431),
        (format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "y".repeat(66_000)), 414),
        ("GET /health HTTP/9.9\r\n\r\n".to_owned(), 400),
        ("hello\r\n\r\n".to_owned(), 400),
        (
            "POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\
             content-length: 2\r\n\r\nab"
                .to_owned(),
            400,
        ),
    ];
    for (request, status) in cases {
        let mut stream = door.connect();
        // The server may have refused it before its end.
        let _written = stream.write_all(request.as_bytes());
        assert_eq!(next_response(&mut stream).0, status, "{}", &request[..request.len().min(80)]);
    }
}

#[test]
fn slow_heads_and_bodies_are_told_so_and_idle_connections_are_closed() {
    let door = open(hurried());
    let mut slow_head = door.connect();
    slow_head.write_all(b"GET /health HTTP/1.1\r\nhost: lo").unwrap();
    let (status, head, _) = next_response(&mut slow_head);
    assert_eq!(status, 408);
    assert!(head.contains("connection: close"));
    assert_eq!(slow_head.read(&mut [0]).unwrap(), 0);

    let mut slow_body = door.connect();
    let request = kept("/v1/chat/completions", &ask("parrot", &json!({})).to_string());
    slow_body.write_all(&request.as_bytes()[..request.len() - 5]).unwrap();
    let (status, _, body) = next_response(&mut slow_body);
    assert_eq!((status, &body["code"]), (408, &json!("deadline_exceeded")));

    let mut idle = door.connect();
    assert_eq!(idle.read(&mut [0]).unwrap(), 0, "no word to who said none");
    let mut idle_later = door.connect();
    idle_later.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    assert_eq!(next_response(&mut idle_later).0, 200);
    assert_eq!(idle_later.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_client_that_sends_drop_by_drop_is_cut_off_however_busy_it_looks() {
    let door = open(hurried());
    let mut stream = door.connect();
    let begun = Instant::now();
    let mut closed = false;
    for byte in b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: ".iter().chain([b'y'; 400].iter()) {
        std::thread::sleep(Duration::from_millis(10));
        if stream.write_all(&[*byte]).is_err() {
            closed = true;
            break;
        }
    }
    assert!(closed || next_response(&mut stream).0 == 408);
    assert!(begun.elapsed() < SOON);
}

#[test]
fn a_client_that_stops_reading_loses_its_answer_and_no_one_elses() {
    let door = open(hurried());
    let mut stuck = door.connect();
    let body = ask("patient", &json!({"stream": true})).to_string();
    stuck.write_all(post("", "/v1/chat/completions", &body).as_bytes()).unwrap();
    let sink = door.service.kept();
    let piece = "x".repeat(1 << 16);
    let mut others = 0;
    eventually(|| {
        // It reads nothing: what is sent fills the buffers of both ends, then nothing moves.
        let _full = sink.send(protocol::Event::text(piece.clone(), 1));
        if others < 20 {
            others += 1;
            let answer = door.post("", "/v1/chat/completions", &ask("parrot", &json!({})));
            assert_eq!(answer.status, 200);
        }
        sink.is_gone().then_some(())
    });
    assert_eq!(others, 20);
}

#[test]
fn methods_are_those_of_the_path() {
    let door = open(HttpConfig::default());
    let whole = door.get("", "/v1/models");
    let head = door.request("HEAD", "", "/v1/models");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), whole.header("content-length"));
    for (method, path, allowed) in [
        ("GET", "/v1/chat/completions", "POST"),
        ("HEAD", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/chat/completions", "POST"),
        ("OPTIONS", "/v1/chat/completions", "POST"),
        ("OPTIONS", "/health", "GET,HEAD"),
        ("POST", "/v1/models", "GET,HEAD"),
    ] {
        let answer = door.request(method, "origin: http://localhost:3000\r\n", path);
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some(allowed)),
            "{method} {path}"
        );
    }
}

#[test]
fn no_answer_invites_other_pages() {
    let door = open(HttpConfig::default());
    let preflight = "origin: http://localhost:3000\r\naccess-control-request-method: POST\r\n\
                     access-control-request-headers: content-type\r\n";
    let chat = ask("parrot", &json!({}));
    let answers = [
        door.request("OPTIONS", preflight, "/v1/chat/completions"),
        door.post("origin: http://localhost:3000\r\n", "/v1/chat/completions", &chat),
        door.post("origin: https://evil.example\r\n", "/v1/chat/completions", &chat),
        door.get("origin: http://localhost:3000\r\n", "/health"),
        door.get("origin: http://localhost:3000\r\n", "/nothing"),
    ];
    for answer in answers {
        assert!(!answer.head.to_ascii_lowercase().contains("access-control"), "{}", answer.head);
    }
}
