//! The messages of one child, less those that nobody here needs.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rmcp::RoleClient;
use rmcp::model::{JsonRpcMessage, ServerNotification};
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::Notify;

use super::meter::{LINE_BYTES_MAX, Meter};

/// Requests of the server whose answers it has not taken; one more is passed over.
const OPEN_REQUESTS_MAX: usize = 16;

/// Messages in lines. The library behind it starts a task for each that it is given.
pub(super) struct Wire {
    lines: AsyncRwTransport<RoleClient, Meter<ChildStdout>, ChildStdin>,
    open: Arc<AtomicUsize>,
    closed: Arc<Notify>,
}

impl Wire {
    /// Raises `closed` when nothing more comes.
    pub(super) fn new(output: Meter<ChildStdout>, input: ChildStdin, closed: Arc<Notify>) -> Self {
        let lines = AsyncRwTransport::new(output, input).with_max_line_length(LINE_BYTES_MAX);
        Self { lines, open: Arc::default(), closed }
    }

    /// Whether the message is of use here, or has to be answered.
    fn takes(&self, message: &RxJsonRpcMessage<RoleClient>) -> bool {
        match message {
            JsonRpcMessage::Request(_) => {
                self.open.fetch_add(1, Ordering::Relaxed) < OPEN_REQUESTS_MAX || {
                    self.open.fetch_sub(1, Ordering::Relaxed);
                    false
                }
            }
            JsonRpcMessage::Notification(notification) => matches!(
                notification.notification,
                ServerNotification::ToolListChangedNotification(_)
            ),
            JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_) => true,
        }
    }
}

impl Transport<RoleClient> for Wire {
    type Error = io::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        let is_answer = matches!(message, JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_));
        let open = Arc::clone(&self.open);
        let send = self.lines.send(message);
        async move {
            let sent = send.await;
            if is_answer {
                open.fetch_sub(1, Ordering::Relaxed);
            }
            sent
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        loop {
            let Some(message) = self.lines.receive().await else {
                self.closed.notify_one();
                return None;
            };
            if self.takes(&message) {
                return Some(message);
            }
        }
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.lines.close().await
    }
}
