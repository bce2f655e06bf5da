//! How many answers are on their way, and whether new ones may begin.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;

/// Gives out tickets until it is closed.
#[derive(Debug)]
pub(crate) struct Gate(Mutex<Option<mpsc::Sender<Infallible>>>);

/// Held by an answer until its last byte is handed to the connection.
#[derive(Debug)]
pub(crate) struct Ticket {
    _sender: mpsc::Sender<Infallible>,
}

/// Waits for the tickets to come back.
#[derive(Debug)]
pub(crate) struct AllLeft(mpsc::Receiver<Infallible>);

pub(crate) fn gate() -> (Gate, AllLeft) {
    let (sender, receiver) = mpsc::channel(1);
    (Gate(Mutex::new(Some(sender))), AllLeft(receiver))
}

impl Gate {
    /// A ticket, or `None` once the gate is closed.
    pub(crate) fn enter(&self) -> Option<Ticket> {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sender.clone().map(|sender| Ticket { _sender: sender })
    }

    pub(crate) fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

impl AllLeft {
    /// Ends when the gate is closed and every ticket is dropped.
    pub(crate) async fn wait(mut self) {
        // Nothing can be sent: the only end of this wait is the last sender's drop.
        let _nothing = self.0.recv().await;
    }
}
