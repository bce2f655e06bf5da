//! A server on real sockets with any service behind it, and a client that writes what it likes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use http_transport::{HttpConfig, HttpTransport};
use protocol::{Service, Stop, StopHandle, Transport, TransportError};
use serde_json::{Value, json};

use crate::parrot::SOON;

/// A running server; stops when dropped.
pub(crate) struct Door<S> {
    pub(crate) address: SocketAddr,
    pub(crate) service: Arc<S>,
    stop: Option<StopHandle>,
    thread: Option<JoinHandle<Result<(), TransportError>>>,
}

impl<S: Service + 'static> Door<S> {
    /// Opens it on a free port of the address.
    pub(crate) fn open(config: HttpConfig, service: S) -> Self {
        let any_port = SocketAddr::new(config.address.ip(), 0);
        let transport =
            HttpTransport::bind(HttpConfig { address: any_port, ..config }).expect("a free port");
        let (address, service) = (transport.address(), Arc::new(service));
        let (handle, stop) = Stop::pair();
        let behind = Arc::clone(&service);
        let thread = thread::spawn(move || Box::new(transport).serve(behind, stop));
        Self { address, service, stop: Some(handle), thread: Some(thread) }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        stream
    }

    pub(crate) fn get(&self, headers: &str, path: &str) -> Response {
        self.request("GET", headers, path)
    }

    pub(crate) fn request(&self, method: &str, headers: &str, path: &str) -> Response {
        let mut stream = self.connect();
        let host = self.address;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{headers}connection: close\r\n\r\n"
        )
        .expect("the server reads");
        read_response(stream)
    }

    pub(crate) fn post(&self, headers: &str, path: &str, body: &Value) -> Response {
        let mut stream = self.connect();
        stream.write_all(post(headers, path, &body.to_string()).as_bytes()).expect("it reads");
        read_response(stream)
    }
}

impl<S> Drop for Door<S> {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic").expect("a clean end");
        }
    }
}

/// The bytes of a request that closes its connection.
pub(crate) fn post(headers: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    )
}

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("a JSON body")
    }
}

/// Reads to the end of the connection.
pub(crate) fn read_response(mut stream: impl Read) -> Response {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the whole response");
    let text = String::from_utf8(bytes).expect("UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Response { status, head: head.to_owned(), body: body.to_owned() }
}

pub(crate) fn ask(model: &str, more: &Value) -> Value {
    let mut body =
        json!({"model": model, "messages": [{"role": "user", "content": "Once upon a time"}]});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}
