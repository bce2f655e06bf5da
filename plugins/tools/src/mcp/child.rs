//! A server's process, and those that it starts.

use std::io;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::ServerConfig;

/// How long a child may take to end by itself, and again after it was told to.
const GRACE: Duration = Duration::from_secs(1);
/// How often what it writes to standard error is told.
const NOTE_EVERY: Duration = Duration::from_secs(10);
/// Pieces of it that are logged in that time, at level `debug` alone.
const NOTE_PIECES_MAX: u32 = 20;
const NOTE_CHARACTERS_MAX: usize = 500;
const PIECE_BYTES: usize = 16 << 10;
/// A child that floods its standard error waits for us, not we for it.
const PIECE_PAUSE: Duration = Duration::from_millis(5);

/// A running child with a process group of its own. Dropping it kills the group.
pub(super) struct Child {
    child: tokio::process::Child,
    group: Pid,
    /// Ends when nobody of the group holds standard error any more.
    drain: JoinHandle<()>,
}

impl Child {
    /// Starts the server with nothing of this program's but what its configuration names.
    pub(super) fn start(config: &ServerConfig) -> io::Result<(Self, ChildStdout, ChildStdin)> {
        let mut child = Command::new(&config.command)
            .args(&config.args)
            .env_clear()
            .envs(config.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&config.working_folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let missing = || io::Error::other("it has no standard streams");
        let id = child.id().ok_or_else(missing)?;
        let group = Pid::from_raw(i32::try_from(id).map_err(|_| missing())?);
        let (output, input) = (child.stdout.take(), child.stdin.take());
        let errors = child.stderr.take().ok_or_else(missing)?;
        let drain = tokio::spawn(drain(config.name.clone(), errors));
        let child = Self { child, group, drain };
        Ok((child, output.ok_or_else(missing)?, input.ok_or_else(missing)?))
    }

    /// Waits for its end after its input was closed, tells it to end, and kills what is left.
    pub(super) async fn end(mut self) {
        if timeout(GRACE, &mut self.drain).await.is_err() {
            self.signal(Signal::SIGTERM);
            // What has not ended then is killed below.
            let _ended = timeout(GRACE, &mut self.drain).await;
        }
        self.kill().await;
    }

    /// Kills it and those of its group at once.
    pub(super) async fn kill(mut self) {
        // Before the child is waited for: until then its number, and the group's, is not given to
        // another.
        self.signal(Signal::SIGKILL);
        if timeout(GRACE, self.child.wait()).await.is_err() {
            tracing::error!(process = self.group.as_raw(), "a killed tools' server does not end");
        }
    }

    fn signal(&self, signal: Signal) {
        // Nobody of the group is left: then there is nobody to tell.
        let _told = killpg(self.group, signal);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // An id says that it was not waited for.
        if self.child.id().is_some() {
            self.signal(Signal::SIGKILL);
        }
        self.drain.abort();
    }
}

/// Reads standard error to its end. How much there is, is told; what it says, only at `debug`.
async fn drain(server: String, mut errors: ChildStderr) {
    let mut piece = vec![0; PIECE_BYTES];
    let (mut bytes, mut pieces, mut began) = (0_u64, 0_u32, Instant::now());
    let tell = |bytes: u64| {
        if bytes > 0 {
            tracing::info!(server, bytes, "a tools' server writes to its standard error");
        }
    };
    loop {
        let waited = timeout(NOTE_EVERY, errors.read(&mut piece)).await;
        if began.elapsed() >= NOTE_EVERY {
            tell(bytes);
            (bytes, pieces, began) = (0, 0, Instant::now());
        }
        match waited {
            Err(_nothing_yet) => {}
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(read)) => {
                bytes += read as u64;
                pieces += 1;
                if pieces <= NOTE_PIECES_MAX {
                    let text = String::from_utf8_lossy(&piece[..read]);
                    let text: String = text.chars().take(NOTE_CHARACTERS_MAX).collect();
                    tracing::debug!(server, "standard error: {:?}", text);
                }
                if read == PIECE_BYTES {
                    sleep(PIECE_PAUSE).await;
                }
            }
        }
    }
    tell(bytes);
}
