//! Files and batches over real sockets, in both forms.

mod parrot;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use http_transport::{HttpConfig, HttpTransport};
use parrot::{Parrot, eventually, finished, send_all};
use protocol::{FinishReason, Priority, Stop, StopHandle, Transport, TransportError};
use serde_json::{Value, json};

/// SHA-256 of "open sesame" and of "friend".
const TOKENS: [&str; 2] = [
    "41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb",
    "cde48537ca2c28084ff560826d0e6388b7c57a51497a6cb56f397289e52ff41b",
];

struct Server {
    address: SocketAddr,
    parrot: Arc<Parrot>,
    stop: Option<StopHandle>,
    thread: Option<JoinHandle<Result<(), TransportError>>>,
}

impl Server {
    fn start(config: HttpConfig) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let transport = HttpTransport::bind(HttpConfig { address, ..config }).expect("a free port");
        let (address, parrot) = (transport.address(), Arc::new(Parrot::default()));
        let (handle, stop) = Stop::pair();
        let service = Arc::clone(&parrot);
        let thread = thread::spawn(move || Box::new(transport).serve(service, stop));
        Self { address, parrot, stop: Some(handle), thread: Some(thread) }
    }

    fn kept_in(folder: &Path) -> Self {
        Self::start(HttpConfig { batch_folder: Some(folder.to_owned()), ..HttpConfig::default() })
    }

    fn ask(&self, head: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(parrot::SOON)).expect("a timeout");
        let (first, more) = head.split_once('\n').unwrap_or((head, ""));
        let more = more.replace('\n', "\r\n");
        let more = if more.is_empty() { more } else { more + "\r\n" };
        let (host, length) = (self.address, body.len());
        write!(
            stream,
            "{first} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\nconnection: close\r\n{more}\r\n"
        )
        .and_then(|()| stream.write_all(body))
        .expect("the server reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the whole response");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("a status"), body.to_owned())
    }

    fn json(&self, head: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, body) = self.ask(head, body.as_bytes());
        (status, serde_json::from_str(&body).expect("a JSON body"))
    }

    fn upload(&self, more: &str, purpose: &str, content: &str) -> (u16, Value) {
        let body = format!(
            "--x\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\n{purpose}\r\n--x\r\n\
             Content-Disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\
             Content-Type: application/jsonl\r\n\r\n{content}\r\n--x--\r\n"
        );
        let head = format!("POST /v1/files\ncontent-type: multipart/form-data; boundary=x{more}");
        let (status, body) = self.ask(&head, body.as_bytes());
        (status, serde_json::from_str(&body).expect("a JSON body"))
    }

    /// Waits until a job has this status and gives it.
    fn wait_for(&self, id: &str, status: &str) -> Value {
        eventually(|| {
            let (_, job) = self.json(&format!("GET /v1/batch/jobs/{id}"), &Value::Null);
            (job["status"] == status).then_some(job)
        })
    }

    fn end(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic").expect("a clean end");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn line(name: &str, model: &str) -> String {
    let body = json!({"model": model, "messages": [{"role": "user", "content": "one two"}]});
    json!({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body})
        .to_string()
}

fn inline(model: &str, count: usize) -> Value {
    let request = |at: usize| json!({"custom_id": at.to_string(), "body": {"messages": [{"role": "user", "content": "hi"}]}});
    json!({
        "endpoint": "/v1/chat/completions", "model": model, "timeout_hours": 1,
        "requests": (0..count).map(request).collect::<Vec<_>>(),
    })
}

fn id_of(value: &Value) -> String {
    value["id"].as_str().unwrap_or_else(|| panic!("no id in {value}")).to_owned()
}

#[test]
fn a_file_of_requests_becomes_files_of_answers_and_faults() {
    let server = Server::start(HttpConfig::default());
    let content = [line("a", "parrot"), line("b", "nobody"), line("c", "polly")].join("\n");
    let (status, file) = server.upload("", "batch", &content);
    assert_eq!(status, 200, "{file}");
    assert_eq!((&file["num_lines"], &file["sample_type"]), (&json!(3), &json!("batch_request")));
    let order = json!({
        "input_files": [id_of(&file)], "endpoint": "/v1/chat/completions", "metadata": {"k": "v"},
    });
    let (status, job) = server.json("POST /v1/batch/jobs", &order);
    assert_eq!((status, &job["status"]), (200, &json!("QUEUED")), "{job}");
    let job = server.wait_for(&id_of(&job), "SUCCESS");
    let counts = ["total", "completed", "succeeded", "failed"]
        .map(|word| job[format!("{word}_requests")].as_u64().unwrap());
    assert_eq!((counts, &job["metadata"]), ([3, 3, 2, 1], &json!({"k": "v"})));

    let lines = |file: &Value| -> Vec<Value> {
        let path = format!("GET /v1/files/{}/content", file.as_str().unwrap());
        let (_, text) = server.ask(&path, b"");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let answers = lines(&job["output_file"]);
    let names: Vec<_> = answers.iter().map(|answer| &answer["custom_id"]).collect();
    assert_eq!(names, ["a", "c"]);
    let response = &answers[0]["response"];
    assert_eq!(response["status_code"], 200);
    assert_eq!(response["body"]["choices"][0]["message"]["content"], "one two");
    let faults = lines(&job["error_file"]);
    assert_eq!((faults.len(), &faults[0]["custom_id"]), (1, &json!("b")));
    assert_eq!(faults[0]["error"]["code"], "model_not_found");
    let asked = server.parrot.last_request().unwrap();
    assert_eq!(asked.limits.priority, Priority::Batch);

    let path = format!("GET /v1/batch/jobs/{}?inline=true", id_of(&job));
    let (_, told) = server.json(&path, &Value::Null);
    assert_eq!(told["outputs"].as_array().unwrap().len(), 2);
    let (_, told) = server.json(&format!("GET /v1/batches/{}", id_of(&job)), &Value::Null);
    assert_eq!(
        (&told["status"], &told["request_counts"]["completed"]),
        (&json!("completed"), &json!(2))
    );
    let (_, files) = server.json("GET /v1/files?page_size=2", &Value::Null);
    assert_eq!((files["data"].as_array().unwrap().len(), &files["total"]), (2, &json!(3)));
    assert_eq!(files["has_more"], true);
    let (status, _) = server.json(&format!("DELETE /v1/files/{}", id_of(&file)), &Value::Null);
    assert_eq!(status, 200);
    let (status, _) = server.json(&format!("DELETE /v1/batch/jobs/{}", id_of(&job)), &Value::Null);
    assert_eq!(status, 200);
    let (status, _) = server.json(&format!("GET /v1/batch/jobs/{}", id_of(&job)), &Value::Null);
    assert_eq!(status, 404);
}

#[test]
fn a_batch_waits_behind_a_full_queue_and_is_cancelled() {
    let server = Server::start(HttpConfig::default());
    let (_, job) = server.json("POST /v1/batch/jobs", &inline("patient", 6));
    let id = id_of(&job);
    let first = server.parrot.kept();
    let running = server.wait_for(&id, "RUNNING");
    assert_eq!(running["completed_requests"], 0);
    let (status, refused) = server.json(&format!("DELETE /v1/batch/jobs/{id}"), &Value::Null);
    assert_eq!((status, &refused["code"]), (409, &json!("conflict")));
    send_all(&first, &[finished(FinishReason::Stop, 1)]);
    eventually(|| {
        let (_, job) = server.json(&format!("GET /v1/batch/jobs/{id}"), &Value::Null);
        (job["completed_requests"] == 1).then_some(())
    });
    let second = server.parrot.kept();
    let (_, cancelled) = server.json(&format!("POST /v1/batch/jobs/{id}/cancel"), &Value::Null);
    assert!(
        ["CANCELLATION_REQUESTED", "CANCELLED"].contains(&cancelled["status"].as_str().unwrap()),
        "{cancelled}"
    );
    let over = server.wait_for(&id, "CANCELLED");
    assert_eq!((&over["succeeded_requests"], over["output_file"].is_string()), (&json!(1), true));
    eventually(|| second.is_gone().then_some(()));
}

#[test]
fn a_batch_goes_on_where_the_last_program_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::kept_in(folder.path());
    let mut order = inline("parrot", 3);
    order["requests"][2]["body"]["model"] = json!("patient");
    let (_, job) = server.json("POST /v1/batch/jobs", &order);
    let id = id_of(&job);
    eventually(|| {
        let (_, job) = server.json(&format!("GET /v1/batch/jobs/{id}"), &Value::Null);
        (job["completed_requests"] == 2).then_some(())
    });
    let sink = server.parrot.kept();
    // The last request is under way; the end of the program lets it end.
    let ended = thread::spawn(move || {
        server.end();
        server
    });
    send_all(&sink, &[finished(FinishReason::Stop, 1)]);
    ended.join().unwrap();

    let server = Server::kept_in(folder.path());
    let job = server.wait_for(&id, "SUCCESS");
    assert_eq!(job["succeeded_requests"], 3);
    let folder_taken = HttpTransport::bind(HttpConfig {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        batch_folder: Some(folder.path().to_owned()),
        ..HttpConfig::default()
    });
    assert!(matches!(folder_taken, Err(TransportError::Configuration { .. })));
}

#[test]
fn nobody_sees_what_is_anothers() {
    let token_sha256 = TOKENS
        .map(|token| {
            std::array::from_fn(|i| u8::from_str_radix(&token[2 * i..2 * i + 2], 16).unwrap())
        })
        .to_vec();
    let server = Server::start(HttpConfig { token_sha256, ..HttpConfig::default() });
    let [ann, bob] =
        ["open sesame", "friend"].map(|token| format!("\nauthorization: Bearer {token}"));
    let (status, file) = server.upload(&ann, "batch", &line("a", "parrot"));
    assert_eq!(status, 200, "{file}");
    let file = id_of(&file);
    let order = json!({"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"});
    let (status, refused) = server.json(&format!("POST /v1/batches{bob}"), &order);
    assert_eq!((status, &refused["code"]), (404, &json!("not_found")));
    let (status, batch) = server.json(&format!("POST /v1/batches{ann}"), &order);
    assert_eq!(status, 200, "{batch}");
    let batch = id_of(&batch);
    for path in [
        format!("GET /v1/files/{file}"),
        format!("GET /v1/files/{file}/content"),
        format!("DELETE /v1/files/{file}"),
        format!("GET /v1/batches/{batch}"),
        format!("POST /v1/batches/{batch}/cancel"),
        format!("GET /v1/batch/jobs/{batch}"),
        format!("DELETE /v1/batch/jobs/{batch}"),
    ] {
        assert_eq!(server.json(&format!("{path}{bob}"), &Value::Null).0, 404, "{path}");
        assert_eq!(server.json(&path, &Value::Null).0, 401, "{path}");
    }
    for path in ["GET /v1/files", "GET /v1/batches", "GET /v1/batch/jobs"] {
        let (_, list) = server.json(&format!("{path}{bob}"), &Value::Null);
        assert_eq!((&list["data"], &list["total"]), (&json!([]), &json!(0)));
        let (_, list) = server.json(&format!("{path}{ann}"), &Value::Null);
        assert_ne!(list["total"], 0, "{path}");
    }
    eventually(|| {
        let (_, batch) = server.json(&format!("GET /v1/batches/{batch}{ann}"), &Value::Null);
        (batch["status"] == "completed").then_some(())
    });
    let client = server.parrot.last_request().unwrap().client;
    assert_eq!(client.as_deref(), Some("token-41ef4bb0"), "it runs in its owner's name");
}

#[test]
fn what_is_no_file_and_no_batch_is_refused() {
    let config = HttpConfig { batch_bytes_max: 1 << 20, ..HttpConfig::default() };
    let server = Server::start(config);
    assert_eq!(server.upload("", "fine-tune", "{}").0, 422);
    assert_eq!(server.upload("", "batch", &"x".repeat(300_000)).0, 413);
    assert_eq!(server.json("POST /v1/files", &json!({})).0, 400);
    let broken = "POST /v1/files\ncontent-type: multipart/form-data; boundary=x";
    assert_eq!(server.ask(broken, b"--x\r\nno form").0, 400);
    let (status, _) = server.ask(broken, b"--x--\r\n");
    assert_eq!(status, 422, "no file");
    for query in ["page_size=0", "page=x", "order_by=size", "status=LATE"] {
        let path = format!("GET /v1/batch/jobs?{query}");
        assert_eq!(server.json(&path, &Value::Null).0, 422, "{query}");
    }
    assert_eq!(server.json("GET /v1/files/nobody", &Value::Null).0, 404);
    let order = json!({"endpoint": "/v1/chat/completions", "input_files": ["nobody"]});
    assert_eq!(server.json("POST /v1/batch/jobs", &order).0, 404);
    assert_eq!(server.json("POST /v1/batch/jobs", &inline("parrot", 0)).0, 422);
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(server.upload("", "batch", &"x".repeat(250_000)).0);
    }
    assert_eq!(statuses.last(), Some(&429), "{statuses:?}");
}
