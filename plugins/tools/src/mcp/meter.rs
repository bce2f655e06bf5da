//! A limit on what a child may say in a time.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, ReadBuf};

/// Longest message.
pub(super) const LINE_BYTES_MAX: usize = 4 << 20;
const WINDOW: Duration = Duration::from_secs(1);
const WINDOW_BYTES_MAX: usize = 16 << 20;
const WINDOW_LINES_MAX: usize = 1000;

/// Passes bytes on until there are too many of them; then reading fails, for good.
pub(super) struct Meter<R> {
    inner: R,
    began: Instant,
    bytes: usize,
    lines: usize,
    line_bytes: usize,
    verdict: Arc<OnceLock<&'static str>>,
}

impl<R> Meter<R> {
    /// Where too much comes, `verdict` says of what.
    pub(super) fn new(inner: R, verdict: Arc<OnceLock<&'static str>>) -> Self {
        Self { inner, began: Instant::now(), bytes: 0, lines: 0, line_bytes: 0, verdict }
    }

    fn count(&mut self, fresh: &[u8], now: Instant) {
        if now.duration_since(self.began) >= WINDOW {
            (self.began, self.bytes, self.lines) = (now, 0, 0);
        }
        self.bytes += fresh.len();
        for part in fresh.split_inclusive(|byte| *byte == b'\n') {
            self.line_bytes += part.len();
            if self.line_bytes > LINE_BYTES_MAX {
                let _first = self.verdict.set("it sent a message of more than 4 MiB");
            }
            if part.ends_with(b"\n") {
                self.lines += 1;
                self.line_bytes = 0;
            }
        }
        if self.bytes > WINDOW_BYTES_MAX {
            let _first = self.verdict.set("it sent more than 16 MiB in a second");
        }
        if self.lines > WINDOW_LINES_MAX {
            let _first = self.verdict.set("it sent more than 1000 messages in a second");
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Meter<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        self.count(&buffer.filled()[before..], Instant::now());
        match self.verdict.get() {
            None => Poll::Ready(Ok(())),
            Some(verdict) => Poll::Ready(Err(io::Error::other(*verdict))),
        }
    }
}
