//! Mistral's and OpenAI's HTTP API with server-sent events.
//!
//! Its secret is HTTP: who may enter, how large a body is, when a client is gone, and how an
//! answer is told while it is made. The bodies are `chat-json`'s. Dropping a connection drops the
//! reply, and that cancels the request: there is no other bookkeeping of clients.
//!
//! One thread carries all connections; reading a body into a request and encoding its text happen
//! on a few threads beside it, so that a long prompt delays nobody's tokens.
#![forbid(unsafe_code)]

mod allowance_headers;
mod answers;
mod batches;
mod classify;
mod connection;
mod fault_response;
mod gate;
mod guard;
mod listeners;
mod networks;
mod patience;
mod routes;
mod server;
mod tls;
mod tokens;
mod wrong_keys;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chat_json::Strictness;
use protocol::{Service, Stop, Transport, TransportError};

use crate::batches::Desk;
use crate::listeners::Bound;
use crate::tls::Tls;

pub use crate::tls::TlsFiles;

const NAME: &str = "http";

/// Where and for whom to listen.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// Port 0 takes a free one. Beyond loopback, TLS is mandatory, and keys or client certificates.
    pub address: SocketAddr,
    /// Whether it listens on `address`.
    pub tcp: bool,
    /// A socket in the file system, for its owner's group, with or without `address`.
    pub unix_socket: Option<PathBuf>,
    /// Encrypts what comes over `address`.
    pub tls: Option<TlsFiles>,
    /// Lets go of TLS beyond loopback, where the network is trusted.
    pub insecure: bool,
    /// SHA-256 of each bearer token of a client without a name.
    pub token_sha256: Vec<[u8; 32]>,
    /// Who may enter by name. Without any key here and above, everybody on this box may.
    pub clients: Vec<HttpClient>,
    /// Largest body of a request, in bytes.
    pub body_bytes_max: usize,
    /// Connections at one time; further ones wait in the listen queue.
    pub connections_max: usize,
    /// What happens to fields that Mistral's API does not have.
    pub strictness: Strictness,
    /// How long clients may take.
    pub timeouts: Timeouts,
    /// How long running answers may go on after the stop.
    pub drain: Duration,
    /// Where files and batches are kept over a restart; without it they are in memory.
    pub batch_folder: Option<PathBuf>,
    /// Bytes of files and batches together; 64 MiB at most where they are in memory.
    pub batch_bytes_max: u64,
}

/// How long a client may take for its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For the head of a request, the idle time before it included.
    pub head: Duration,
    /// For the body of a request.
    pub body: Duration,
    /// Between two bytes that it takes of an answer.
    pub stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(30),
            body: Duration::from_secs(60),
            stall: Duration::from_secs(60),
        }
    }
}

/// A client that shows a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpClient {
    /// Its name in requests.
    pub name: String,
    /// SHA-256 of each of its keys.
    pub key_sha256: Vec<[u8; 32]>,
    /// What happens to fields that Mistral's API does not have, where not as
    /// [`HttpConfig::strictness`] says.
    pub strictness: Option<Strictness>,
}

impl HttpConfig {
    fn check(&self) -> Result<(), String> {
        let asks_for_certificates =
            self.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
        if self.tcp && !self.address.ip().is_loopback() {
            let reachable = format!("{} can be reached from other machines", self.address);
            if !self.has_keys() && !asks_for_certificates {
                return Err(format!(
                    "{reachable}; set at least one key, ask for client certificates, or listen on \
                     127.0.0.1"
                ));
            }
            if self.tls.is_none() && !self.insecure {
                return Err(format!(
                    "{reachable}, where keys and prompts need encryption; name a certificate, or set \
                     insecure where the network is trusted"
                ));
            }
        }
        if !self.tcp && self.unix_socket.is_none() {
            return Err("neither an address nor a socket is left to listen on".to_owned());
        }
        if self.body_bytes_max == 0 || self.connections_max == 0 {
            return Err("body_bytes_max and connections_max must be at least 1".to_owned());
        }
        Ok(())
    }

    /// Whether a key is known that a client may show.
    fn has_keys(&self) -> bool {
        let is_with_key = |client: &HttpClient| !client.key_sha256.is_empty();
        !self.token_sha256.is_empty() || self.clients.iter().any(is_with_key)
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tcp: true,
            unix_socket: None,
            tls: None,
            insecure: false,
            token_sha256: Vec::new(),
            clients: Vec::new(),
            body_bytes_max: 4 << 20,
            connections_max: 256,
            strictness: Strictness::Lenient,
            timeouts: Timeouts::default(),
            drain: Duration::from_secs(30),
            batch_folder: None,
            batch_bytes_max: 1 << 30,
        }
    }
}

/// Bound sockets that wait to be served.
#[derive(Debug)]
pub struct HttpTransport {
    bound: Bound,
    tls: Option<Tls>,
    config: HttpConfig,
    desk: Desk,
}

impl HttpTransport {
    /// Takes the address and the socket. Connections queue from now on; [`Transport::serve`] answers
    /// them.
    ///
    /// Errors: `Address` where one is taken or not ours; `Configuration` for limits of 0, for
    /// certificates that cannot be used, and for an address beyond loopback that is open to
    /// everybody or not encrypted, and for a `batch_folder` that cannot be used.
    pub fn bind(config: HttpConfig) -> Result<Self, TransportError> {
        let wrong = |message| TransportError::Configuration { transport: NAME, message };
        config.check().map_err(wrong)?;
        let tls = config.tls.clone().map(Tls::open).transpose().map_err(wrong)?;
        let tcp = config.tcp.then_some(config.address);
        let bound = Bound::new(tcp, config.unix_socket.as_deref());
        let bound = bound.map_err(|(address, source)| TransportError::Address {
            transport: NAME,
            address,
            source,
        })?;
        let desk = Desk::open(config.batch_folder.as_deref(), config.batch_bytes_max)
            .map_err(|error| wrong(error.to_string()))?;
        Ok(Self { bound, tls, config, desk })
    }

    /// Where it listens, with the port that was found; as configured where TCP is off.
    pub fn address(&self) -> SocketAddr {
        self.bound.address().unwrap_or(self.config.address)
    }

    /// Every entrance, for people to read: `https://0.0.0.0:8443,unix:/run/zonda/http.sock`.
    pub fn entrances(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let tcp = self.bound.address().map(|address| format!("{scheme}://{address}"));
        let socket = self.config.unix_socket.as_ref();
        let socket = socket.map(|path| format!("unix:{}", path.display()));
        tcp.into_iter().chain(socket).collect::<Vec<_>>().join(",")
    }
}

impl Transport for HttpTransport {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Answers until `stop` is raised. While running answers end, up to
    /// [`HttpConfig::drain`], new requests get 503; then the socket closes.
    fn serve(self: Box<Self>, service: Arc<dyn Service>, stop: Stop) -> Result<(), TransportError> {
        server::serve((self.bound, self.tls), self.config, self.desk, service, &stop)
            .map_err(|error| TransportError::Broken { transport: NAME, message: error.to_string() })
    }
}
