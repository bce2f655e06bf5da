//! TLS and the socket in the file system, with real clients: rustls here, curl where it is.

#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::door::{Door, ask, post, read_response};
use crate::parrot::{Parrot, SOON};
use http_transport::{HttpConfig, HttpTransport, Timeouts, TlsFiles};
use protocol::TransportError;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;

/// Certificates made here: an authority, and what it signed.
struct Papers {
    folder: tempfile::TempDir,
    authority: Issuer<'static, KeyPair>,
}

impl Papers {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "house");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        fs::write(folder.path().join("ca.pem"), pem).unwrap();
        let papers = Self { folder, authority: Issuer::new(params, key) };
        papers.sign("box", "localhost");
        papers
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn sign(&self, file: &str, subject: &str) {
        let params = CertificateParams::new(vec![subject.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.authority).unwrap().pem();
        fs::write(self.path(&format!("{file}.pem")), pem).unwrap();
        let path = self.path(&format!("{file}.key"));
        fs::write(&path, key.serialize_pem()).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn files(&self, asks: bool) -> TlsFiles {
        TlsFiles {
            cert_file: self.path("box.pem"),
            key_file: self.path("box.key"),
            client_ca_file: asks.then(|| self.path("ca.pem")),
        }
    }

    fn config(&self, asks: bool) -> HttpConfig {
        HttpConfig { tls: Some(self.files(asks)), ..HttpConfig::default() }
    }

    /// A client that trusts the authority, and shows the certificate of this name.
    fn client(&self, own: Option<&str>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let chain =
                    CertificateDer::from_pem_file(self.path(&format!("{own}.pem"))).unwrap();
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{own}.key"))).unwrap();
                builder.with_client_auth_cert(vec![chain], key).unwrap()
            }
        })
    }
}

type Encrypted = StreamOwned<ClientConnection, TcpStream>;

fn encrypted(stream: TcpStream, client: &Arc<ClientConfig>) -> Encrypted {
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::clone(client), name).unwrap(), stream)
}

#[test]
fn an_encrypted_chat_is_answered_whole_and_streamed() {
    let papers = Papers::new();
    let door = Door::open(papers.config(false), Parrot::default());
    let client = papers.client(None);
    for stream in [false, true] {
        let mut line = encrypted(door.connect(), &client);
        let body = ask("parrot", &json!({"stream": stream})).to_string();
        line.write_all(post("", "/v1/chat/completions", &body).as_bytes()).unwrap();
        let answer = read_response(&mut line);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body.contains("data: [DONE]"), stream);
        assert_eq!(line.conn.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(line.conn.alpn_protocol(), None);
    }
}

#[test]
fn a_client_that_speaks_plainly_gets_nothing() {
    let papers = Papers::new();
    let door = Door::open(papers.config(false), Parrot::default());
    let mut plain = door.connect();
    plain.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut said = Vec::new();
    // Reset or closed, and a TLS alert at most.
    let _ended = plain.read_to_end(&mut said);
    assert!(said.len() < 16 && !said.starts_with(b"HTTP"), "{said:?}");
}

#[test]
fn a_slow_handshake_holds_up_nobody_and_is_ended() {
    let papers = Papers::new();
    let timeouts = Timeouts { handshake: Duration::from_millis(500), ..Timeouts::default() };
    let config = HttpConfig { timeouts, ..papers.config(false) };
    let door = Door::open(config, Parrot::default());
    let mut silent: Vec<_> = (0..20).map(|_| door.connect()).collect();
    // The beginning of a handshake record, and no more.
    silent.iter_mut().for_each(|stream| stream.write_all(&[22, 3, 1, 2, 0, 1]).unwrap());
    let mut line = encrypted(door.connect(), &papers.client(None));
    line.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .unwrap();
    assert_eq!(read_response(&mut line).status, 200);
    for stream in &mut silent {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it is closed, not timed out here");
    }
}

#[test]
fn clients_show_certificates_where_they_must() {
    let papers = Papers::new();
    papers.sign("plc7", "plc7");
    let door = Door::open(papers.config(true), Parrot::default());
    let body = ask("parrot", &json!({})).to_string();
    let request = post("", "/v1/chat/completions", &body);
    let mut line = encrypted(door.connect(), &papers.client(Some("plc7")));
    line.write_all(request.as_bytes()).unwrap();
    assert_eq!(read_response(&mut line).status, 200);
    let client = door.service.last_request().unwrap().client.expect("a name");
    assert!(client.starts_with("cert-") && client.len() == 13, "{client}");

    let mut line = encrypted(door.connect(), &papers.client(None));
    let mut said = Vec::new();
    let outcome = line.write_all(request.as_bytes()).and_then(|()| line.read_to_end(&mut said));
    let error = outcome.expect_err("no certificate, no answer");
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}

#[test]
fn the_network_is_open_to_certificates_and_keys_that_are_encrypted() {
    let papers = Papers::new();
    let any = "0.0.0.0:0".parse().unwrap();
    let bind = |tls, token_sha256, insecure| {
        let config =
            HttpConfig { address: any, tls, token_sha256, insecure, ..HttpConfig::default() };
        HttpTransport::bind(config).map_err(|error| match error {
            TransportError::Configuration { message, .. } => message,
            other => panic!("{other}"),
        })
    };
    let key = vec![[7; 32]];
    assert!(bind(Some(papers.files(true)), vec![], false).is_ok());
    assert!(bind(Some(papers.files(false)), key.clone(), false).is_ok());
    assert!(bind(None, key.clone(), true).is_ok());
    assert!(
        bind(Some(papers.files(false)), vec![], false).unwrap_err().contains("at least one key")
    );
    assert!(bind(None, vec![], true).unwrap_err().contains("at least one key"));
    assert!(bind(None, key, false).unwrap_err().contains("encryption"));
}

#[test]
fn the_socket_answers_beside_the_address_and_alone() {
    for tcp in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let config = HttpConfig { tcp, unix_socket: Some(path.clone()), ..HttpConfig::default() };
        let door = Door::open(config, Parrot::default());
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let body = ask("parrot", &json!({})).to_string();
        stream.write_all(post("", "/v1/chat/completions", &body).as_bytes()).unwrap();
        assert_eq!(read_response(stream).status, 200);
        assert_eq!(TcpStream::connect(door.address).is_ok(), tcp);
        drop(door);
        assert!(!path.exists(), "its name goes with it");
    }
}

#[test]
fn curl_talks_to_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    let config =
        HttpConfig { tcp: false, unix_socket: Some(path.clone()), ..HttpConfig::default() };
    let _door = Door::open(config, Parrot::default());
    let body = ask("parrot", &json!({})).to_string();
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-m", "20", "--unix-socket"]).arg(&path);
    curl.args(["http://zonda/v1/chat/completions", "-H", "content-type: application/json", "-d"]);
    let Ok(output) = curl.arg(&body).output() else {
        println!("skipped: no curl");
        return;
    };
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("Once upon a time"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_renewed_certificate_is_shown_without_a_restart() {
    let papers = Papers::new();
    let door = Door::open(papers.config(false), Parrot::default());
    let shown = || {
        let mut line = encrypted(door.connect(), &papers.client(None));
        line.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .unwrap();
        assert_eq!(read_response(&mut line).status, 200);
        line.conn.peer_certificates().unwrap()[0].to_vec()
    };
    let first = shown();
    papers.sign("box", "localhost");
    let begun = Instant::now();
    while shown() == first {
        assert!(begun.elapsed() < SOON, "the new certificate is not shown");
        std::thread::yield_now();
    }
}
