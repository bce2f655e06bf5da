//! One connection: the handshake, the requests on it, and its end.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::Timeouts;
use crate::guard::Peer;
use crate::listeners::Arrival;
use crate::patience::Patient;
use crate::tls::Tls;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// The head of a request did not come to its end in time.
const TOO_SLOW: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// What every connection needs.
#[derive(Clone)]
pub(crate) struct Connections {
    pub(crate) router: Router,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) timeouts: Timeouts,
    pub(crate) closing: watch::Receiver<bool>,
}

impl Connections {
    /// Answers on one connection until it ends; `slot` is its place among them.
    pub(crate) async fn serve(self, arrival: Arrival, slot: Option<OwnedSemaphorePermit>) {
        let _slot = slot;
        match arrival {
            Arrival::Unix(stream) => self.converse(stream, Peer::default()).await,
            Arrival::Tcp(stream, address) => {
                // Tokens are small: waiting to fill a packet would delay each of them.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "no TCP_NODELAY");
                }
                match self.tls.clone() {
                    None => {
                        let peer = Peer { address: Some(address), certificate: None };
                        self.converse(stream, peer).await;
                    }
                    Some(tls) => self.encrypt(stream, address, &tls).await,
                }
            }
        }
    }

    async fn encrypt(self, stream: TcpStream, address: IpAddr, tls: &Tls) {
        let handshake = TlsAcceptor::from(tls.config()).accept(stream);
        match timeout(self.timeouts.handshake, handshake).await {
            Ok(Ok(stream)) => {
                let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let peer = Peer { address: Some(address), certificate: shown.map(name_of) };
                self.converse(stream, peer).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, %address, "no TLS with this client"),
            Err(_) => tracing::debug!(%address, "the TLS handshake took too long"),
        }
    }

    async fn converse<S>(mut self, stream: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let routes = TowerToHyperService::new(self.router);
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            routes.call(request)
        });
        let io = TokioIo::new(Patient::new(stream, self.timeouts.stall));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.timeouts.head)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(io, service);
        let mut closed =
            pin!(async { self.closing.wait_for(|closing| *closing).await.map_or((), |_| ()) });
        let outcome = tokio::select! {
            outcome = &mut connection => outcome,
            () = &mut closed => {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                (&mut connection).await
            }
        };
        let Err(error) = outcome else {
            return;
        };
        tracing::debug!(%error, "connection ended early");
        let parts = connection.into_parts();
        // Who has said nothing is only idle, and is left without a word.
        if error.is_timeout() && !parts.read_buf.is_empty() {
            let mut stream = parts.io.into_inner();
            if let Err(error) = stream.write_all(TOO_SLOW).await {
                tracing::debug!(%error, "a slow client is gone");
            }
            // TLS says goodbye, too.
            let _closed = stream.shutdown().await;
        }
    }
}

/// A certificate names its client by the beginning of its SHA-256.
fn name_of(certificate: &CertificateDer<'_>) -> String {
    let digest = Sha256::digest(certificate);
    let shown: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("cert-{shown}")
}
