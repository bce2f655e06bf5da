//! Mistral's and OpenAI's HTTP API with server-sent events.
//!
//! Its secret is HTTP: who may enter, how large a body is, when a client is gone, and how an
//! answer is told while it is made. The bodies are `chat-json`'s. Dropping a connection drops the
//! reply, and that cancels the request: there is no other bookkeeping of clients.
//!
//! One thread carries all connections; reading a body into a request and encoding its text happen
//! on a few threads beside it, so that a long prompt delays nobody's tokens.
#![forbid(unsafe_code)]

mod answers;
mod batches;
mod classify;
mod fault_response;
mod gate;
mod guard;
mod networks;
mod patience;
mod routes;
mod server;
mod tokens;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chat_json::Strictness;
use protocol::{Service, Stop, Transport, TransportError};

use crate::batches::Desk;

const NAME: &str = "http";

/// Where and for whom to listen.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// Port 0 takes a free one. Beyond loopback, tokens are mandatory.
    pub address: SocketAddr,
    /// SHA-256 of each bearer token that may enter; none lets everybody on this box enter.
    pub token_sha256: Vec<[u8; 32]>,
    /// Largest body of a request, in bytes.
    pub body_bytes_max: usize,
    /// Connections at one time; further ones wait in the listen queue.
    pub connections_max: usize,
    /// What happens to fields that Mistral's API does not have.
    pub strictness: Strictness,
    /// How long running answers may go on after the stop.
    pub drain: Duration,
    /// Where files and batches are kept over a restart; without it they are in memory.
    pub batch_folder: Option<PathBuf>,
    /// Bytes of files and batches together; 64 MiB at most where they are in memory.
    pub batch_bytes_max: u64,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8080)),
            token_sha256: Vec::new(),
            body_bytes_max: 4 << 20,
            connections_max: 256,
            strictness: Strictness::Lenient,
            drain: Duration::from_secs(30),
            batch_folder: None,
            batch_bytes_max: 1 << 30,
        }
    }
}

/// A bound socket that waits to be served.
#[derive(Debug)]
pub struct HttpTransport {
    listener: TcpListener,
    address: SocketAddr,
    config: HttpConfig,
    desk: Desk,
}

impl HttpTransport {
    /// Takes the address. Connections queue from now on; [`Transport::serve`] answers them.
    ///
    /// Errors: `Address` where the address is taken or not ours; `Configuration` for limits of 0,
    /// and for an address beyond loopback without tokens, and a
    /// `batch_folder` that cannot be used.
    pub fn bind(config: HttpConfig) -> Result<Self, TransportError> {
        let refuse =
            |message: String| Err(TransportError::Configuration { transport: NAME, message });
        if !config.address.ip().is_loopback() && config.token_sha256.is_empty() {
            return refuse(format!(
                "{} can be reached from other machines; set at least one token or listen on 127.0.0.1",
                config.address
            ));
        }
        if config.body_bytes_max == 0 || config.connections_max == 0 {
            return refuse("body_bytes_max and connections_max must be at least 1".to_owned());
        }
        let unusable = |source| TransportError::Address {
            transport: NAME,
            address: config.address.to_string(),
            source,
        };
        let listener = TcpListener::bind(config.address).map_err(unusable)?;
        listener.set_nonblocking(true).map_err(unusable)?;
        let address = listener.local_addr().map_err(unusable)?;
        let desk = Desk::open(config.batch_folder.as_deref(), config.batch_bytes_max).map_err(
            |error| TransportError::Configuration { transport: NAME, message: error.to_string() },
        )?;
        Ok(Self { listener, address, config, desk })
    }

    /// Where it listens, with the port that was found.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Transport for HttpTransport {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Answers until `stop` is raised. While running answers end, up to
    /// [`HttpConfig::drain`], new requests get 503; then the socket closes.
    fn serve(self: Box<Self>, service: Arc<dyn Service>, stop: Stop) -> Result<(), TransportError> {
        server::serve(self.listener, self.config, self.desk, service, &stop)
            .map_err(|error| TransportError::Broken { transport: NAME, message: error.to_string() })
    }
}
