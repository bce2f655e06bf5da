//! The thread that writes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::store::Store;
use crate::usage::bytes_of;
use crate::{Change, JournalError};

/// Changes that may wait to be written.
const ORDERS_MAX: usize = 4096;
/// Changes of one commit.
const BATCH_MAX: usize = 256;
/// Bytes of one commit, and at least one change.
const BATCH_BYTES_MAX: u64 = 8 << 20;
/// Between two looks for what is too old.
const TIDY_EVERY: Duration = Duration::from_secs(1);

type Done = Box<dyn FnOnce(Result<(), JournalError>) + Send>;

struct Order {
    change: Change,
    done: Done,
}

/// An open journal. Dropping it writes what waits and closes the file.
#[derive(Debug)]
pub struct Journal {
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
    next: AtomicU64,
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Order")
    }
}

impl Journal {
    pub(crate) fn start(store: Store, next: u64) -> Result<Self, JournalError> {
        let path = store.path().to_owned();
        let (sender, orders) = sync_channel(ORDERS_MAX);
        let thread = std::thread::Builder::new()
            .name("zonda-journal".into())
            .spawn(move || write_all(store, &orders))
            .map_err(|error| JournalError::unwritable(&path, &error))?;
        Ok(Self { orders: Some(sender), thread: Some(thread), next: AtomicU64::new(next) })
    }

    /// A number that no entry had yet.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Has a change written. `done` hears on the journal's thread, which it must not hold up,
    /// when the change is on the disk or why it is not.
    ///
    /// Returns at once. Errors, and then `done` is never called: too many changes wait already.
    pub fn write(
        &self,
        change: Change,
        done: impl FnOnce(Result<(), JournalError>) + Send + 'static,
    ) -> Result<(), JournalError> {
        let orders = self.orders.as_ref().ok_or(JournalError::Closed)?;
        orders.try_send(Order { change, done: Box::new(done) }).map_err(|refused| match refused {
            TrySendError::Full(_) => JournalError::Behind { waiting: ORDERS_MAX },
            TrySendError::Disconnected(_) => JournalError::Closed,
        })
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the journal's thread had ended in a panic");
        }
    }
}

fn write_all(mut store: Store, orders: &Receiver<Order>) {
    let mut tidied = Instant::now();
    let mut complained = false;
    loop {
        match orders.recv_timeout(TIDY_EVERY) {
            Ok(first) => write_batch(&mut store, gather(first, orders)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if tidied.elapsed() >= TIDY_EVERY {
            tidied = Instant::now();
            let result = store.tidy(tidied);
            if let (Err(error), false) = (&result, complained) {
                tracing::warn!(%error, "old entries of the journal cannot be deleted");
            }
            complained = result.is_err();
        }
    }
    if let Err(error) = store.tidy(Instant::now()) {
        tracing::warn!(%error, "the journal was not tidied at its end");
    }
}

/// What came in while the last commit was made goes into one.
fn gather(first: Order, orders: &Receiver<Order>) -> Vec<Order> {
    let mut bytes = bytes_of(&first.change);
    let mut batch = vec![first];
    while batch.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
        let Ok(order) = orders.try_recv() else { break };
        bytes += bytes_of(&order.change);
        batch.push(order);
    }
    batch
}

fn write_batch(store: &mut Store, batch: Vec<Order>) {
    let changes: Vec<&Change> = batch.iter().map(|order| &order.change).collect();
    let together = store.commit(&changes);
    // One that does not fit must not take the others along.
    let alone = together.is_err() && batch.len() > 1;
    for order in batch {
        let result = if alone { store.commit(&[&order.change]) } else { together.clone() };
        (order.done)(result);
    }
}
