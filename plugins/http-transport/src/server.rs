//! The accept loop, the connections, and the end of both.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use protocol::{Service, Stop};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::HttpConfig;
use crate::batches::{self, Desk};
use crate::connection::Connections;
use crate::gate::gate;
use crate::guard::Guard;
use crate::listeners::{Arrival, Bound, Listeners};
use crate::routes::{Shared, inner, router};
use crate::tls::Tls;

/// Threads that turn bodies into prompts.
const TEXT_THREADS: usize = 4;

/// Pause after a failed accept: the usual cause, no free file descriptors, takes time to pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Time for the last bytes of answers that have ended.
const FAREWELL: Duration = Duration::from_secs(2);

pub(crate) fn serve(
    (bound, tls): (Bound, Option<Tls>),
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
    let outcome = runtime.block_on(run((bound, tls), config, desk, service, stop));
    // A service that hangs in `submit` must not hold up the end of the program.
    runtime.shutdown_timeout(FAREWELL);
    outcome
}

async fn run(
    (bound, tls): (Bound, Option<Tls>),
    config: HttpConfig,
    desk: Desk,
    service: Arc<dyn Service>,
    stop: &Stop,
) -> io::Result<()> {
    let listeners = bound.listen()?;
    let (closing, told) = watch::channel(false);
    let (drain, timeouts) = (config.drain, config.timeouts);
    let slots = Arc::new(Semaphore::new(config.connections_max.min(Semaphore::MAX_PERMITS)));
    let (gate, all_left) = gate();
    let guard = Guard::new(&config);
    let networks = Semaphore::new(crate::networks::RUNNING_MAX);
    let shared = Arc::new(Shared { service, config, gate, guard, networks, desk });
    let router = router(Arc::clone(&shared));
    let batches = batches::run(Arc::clone(&shared), inner(Arc::clone(&shared)));
    let batches = tokio::spawn(batches);
    let each = Connections { router, tls: tls.map(Arc::new), timeouts, closing: told };
    let mut hall = Hall { listeners, slots, each, closing, connections: JoinSet::new() };

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
    listeners: Listeners,
    slots: Arc<Semaphore>,
    each: Connections,
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
                (arrival, slot) = accept(&self.listeners, &self.slots) => {
                    self.connections.spawn(self.each.clone().serve(arrival, slot));
                }
            }
        }
    }

    /// Closes idle connections at once, and the others when their last bytes are sent.
    async fn farewell(mut self) {
        drop(self.listeners);
        self.closing.send_replace(true);
        let all = async { while self.connections.join_next().await.is_some() {} };
        if timeout(FAREWELL, all).await.is_err() {
            self.connections.abort_all();
        }
    }
}

async fn accept(
    listeners: &Listeners,
    slots: &Arc<Semaphore>,
) -> (Arrival, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed; were it, connections would go uncounted, not unserved.
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    loop {
        match listeners.next().await {
            Ok(arrival) => return (arrival, slot),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
