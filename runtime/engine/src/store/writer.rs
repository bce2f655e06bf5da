//! The thread that writes and removes kept pages.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::Key;

/// Pages that wait to be written, at most.
const WRITES_MAX: usize = 8;
/// Removals may wait beside them.
const ORDERS_MAX: usize = 1024;
/// How the name of a file ends that is not whole yet.
const UNFINISHED: &str = "part";

/// What the thread is told.
pub(super) enum Order {
    /// The whole file of a page.
    Write(Key, Vec<u8>),
    Remove(Key),
}

/// The thread and its mailboxes. Ends when dropped, after what it was told.
pub(super) struct Writer {
    orders: Option<flume::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(folder: &Path) -> io::Result<Self> {
        let (orders, told) = flume::bounded(ORDERS_MAX);
        let folder = folder.to_owned();
        let work = move || run(&folder, &told);
        let thread = std::thread::Builder::new().name("prefixes".into()).spawn(work)?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    pub(super) fn has_room(&self) -> bool {
        self.orders.as_ref().is_some_and(|orders| orders.len() < WRITES_MAX)
    }

    /// Hands an order over; whether there was room for it.
    pub(super) fn order(&self, order: Order) -> bool {
        self.orders.as_ref().is_some_and(|orders| orders.try_send(order).is_ok())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.orders = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that keeps beginnings ended by a defect");
        }
    }
}

/// Whether a file was being written when the program ended.
pub(super) fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(UNFINISHED)
        .and_then(|name| name.strip_suffix('.'))
        .is_some_and(|name| Key::of_name(name).is_some())
}

fn run(folder: &Path, orders: &flume::Receiver<Order>) {
    let mut fails = false;
    for order in orders {
        let outcome = match &order {
            Order::Write(key, bytes) => write(folder, key, bytes),
            Order::Remove(key) => remove(&key.path(folder)),
        };
        // A full or broken disk is told once, not for every page.
        match outcome {
            Err(error) if !fails => {
                tracing::warn!(folder = %folder.display(), %error, "beginnings are not kept");
                fails = true;
            }
            Err(_) => {}
            Ok(()) => fails = false,
        }
    }
}

fn write(folder: &Path, key: &Key, bytes: &[u8]) -> io::Result<()> {
    let unfinished = PathBuf::from(format!("{}.{UNFINISHED}", key.path(folder).display()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&unfinished).and_then(|mut file| file.write_all(bytes));
    // Not flushed to the disk: what a power cut damages, the checksum finds.
    let outcome = written.and_then(|()| fs::rename(&unfinished, key.path(folder)));
    outcome.inspect_err(|_| {
        let _ = fs::remove_file(&unfinished);
    })
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
