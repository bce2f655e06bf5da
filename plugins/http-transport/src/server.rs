//! The accept loop, the connections, and the end of both.

use std::future::Future;
use std::io;
use std::net::TcpListener as StdListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use protocol::{Service, Stop};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::HttpConfig;
use crate::batches::{self, Desk};
use crate::gate::gate;
use crate::patience::Patient;
use crate::routes::{Shared, inner, router};

/// Threads that turn bodies into prompts.
const TEXT_THREADS: usize = 4;

/// Time for the head of a request, the idle time before it included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// A connection whose client takes no bytes for this long is closed.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause after a failed accept: the usual cause, no free file descriptors, takes time to pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Time for the last bytes of answers that have ended.
const FAREWELL: Duration = Duration::from_secs(2);

pub(crate) fn serve(
    listener: StdListener,
    config: HttpConfig,
    desk: Desk,
    service: Arc<dyn Service>,
    stop: &Stop,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(TEXT_THREADS)
        .thread_name("zonda-http-text")
        .build()?;
    let outcome = runtime.block_on(run(listener, config, desk, service, stop));
    // A service that hangs in `submit` must not hold up the end of the program.
    runtime.shutdown_timeout(FAREWELL);
    outcome
}

async fn run(
    listener: StdListener,
    config: HttpConfig,
    desk: Desk,
    service: Arc<dyn Service>,
    stop: &Stop,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let (closing, _) = watch::channel(false);
    let drain = config.drain;
    let slots = Arc::new(Semaphore::new(config.connections_max.min(Semaphore::MAX_PERMITS)));
    let (gate, all_left) = gate();
    let networks = Semaphore::new(crate::networks::RUNNING_MAX);
    let shared = Arc::new(Shared { service, config, gate, networks, desk });
    let router = router(Arc::clone(&shared));
    let batches = batches::run(Arc::clone(&shared), inner(Arc::clone(&shared)));
    let batches = tokio::spawn(batches);
    let mut hall = Hall { listener, slots, router, closing, connections: JoinSet::new() };

    hall.welcome_until(stop.wait_async()).await;
    shared.gate.close();
    shared.desk.ring();
    // Whoever asks now is told 503; a refused connection would say less.
    let drained = async {
        if timeout(drain, all_left.wait()).await.is_err() {
            tracing::warn!(?drain, "answers are cut off at the end of the drain");
        }
    };
    hall.welcome_until(drained).await;
    batches.abort();
    hall.farewell().await;
    shared.desk.put_back();
    Ok(())
}

/// The open connections and how new ones come in.
struct Hall {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    router: Router,
    closing: watch::Sender<bool>,
    connections: JoinSet<()>,
}

impl Hall {
    async fn welcome_until(&mut self, end: impl Future<Output = ()>) {
        let mut end = pin!(end);
        loop {
            tokio::select! {
                biased;
                () = &mut end => return,
                Some(_) = self.connections.join_next() => {}
                (stream, slot) = accept(&self.listener, &self.slots) => {
                    let router = self.router.clone();
                    let closing = self.closing.subscribe();
                    self.connections.spawn(connection(stream, slot, router, closing));
                }
            }
        }
    }

    /// Closes idle connections at once, and the others when their last bytes are sent.
    async fn farewell(mut self) {
        drop(self.listener);
        self.closing.send_replace(true);
        let all = async { while self.connections.join_next().await.is_some() {} };
        if timeout(FAREWELL, all).await.is_err() {
            self.connections.abort_all();
        }
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed; were it, connections would go uncounted, not unserved.
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, slot),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    slot: Option<OwnedSemaphorePermit>,
    router: Router,
    mut closing: watch::Receiver<bool>,
) {
    let _slot = slot;
    // Tokens are small: waiting to fill a packet would delay each of them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(
            TokioIo::new(Patient::new(stream, STALL_TIMEOUT)),
            TowerToHyperService::new(router),
        );
    let mut connection = pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = async { closing.wait_for(|closing| *closing).await.map_or((), |_| ()) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "connection ended early");
    }
}
