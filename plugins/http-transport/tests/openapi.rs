//! The document of the API and what is served agree.

mod parrot;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;

use http_transport::{HttpConfig, HttpTransport};
use protocol::{Stop, Transport};
use serde_json::Value;

/// Head and body of the answers to some requests.
fn exchange(requests: &[(String, String)]) -> Vec<(String, String)> {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let transport = HttpTransport::bind(HttpConfig { address, ..HttpConfig::default() })
        .expect("loopback has a free port");
    let address = transport.address();
    let (handle, stop) = Stop::pair();
    let service = Arc::new(parrot::Parrot::default());
    let server = thread::spawn(move || Box::new(transport).serve(service, stop));
    let ask = |(method, path): &(String, String)| {
        let mut stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(parrot::SOON)).expect("a timeout");
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")
            .expect("the server reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the whole response");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.to_owned(), body.to_owned())
    };
    let answers = requests.iter().map(ask).collect();
    handle.raise();
    server.join().expect("no panic").expect("a clean end");
    answers
}

fn get(path: &str) -> (String, String) {
    exchange(&[("GET".into(), path.into())]).remove(0)
}

fn document() -> Value {
    let (head, body) = get("/openapi.json");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/json"), "{head}");
    serde_json::from_str(&body).expect("a JSON document")
}

#[test]
fn every_path_is_in_the_document_and_every_path_of_the_document_is_served() {
    let document = document();
    let told = document["paths"].as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let (_, body) = get("/no/such/path");
    let fault: Value = serde_json::from_str(&body).unwrap();
    let served = fault["message"].as_str().unwrap().strip_prefix("no such path; there are ");
    let served = served.unwrap().split(", ").map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(told, served);
}

#[test]
fn every_path_has_the_methods_of_the_document() {
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    let requests = paths.keys().map(|path| ("TRACE".to_owned(), path.replace("{id}", "parrot")));
    let answers = exchange(&requests.collect::<Vec<_>>());
    for ((path, operations), (head, _)) in paths.iter().zip(answers) {
        assert!(head.starts_with("HTTP/1.1 405"), "{path}: {head}");
        let allowed = head.lines().find_map(|line| line.strip_prefix("allow: ")).unwrap();
        let allowed: BTreeSet<_> =
            allowed.split(',').map(str::to_lowercase).filter(|method| method != "head").collect();
        let told = operations.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(told, allowed, "{path}");
    }
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    fn follow<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|member| follow(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| follow(item, found)),
            _ => {}
        }
    }
    let document = document();
    let mut references = Vec::new();
    follow(&document, &mut references);
    let used = references.iter().copied().collect::<BTreeSet<_>>();
    for reference in &used {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    for (name, _) in document["components"]["schemas"].as_object().unwrap() {
        let reference = format!("#/components/schemas/{name}");
        assert!(used.contains(reference.as_str()), "{name} is used by nobody");
    }
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
}
