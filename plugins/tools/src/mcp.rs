//! Tools of other programs: children of this one, spoken to in the Model Context Protocol over
//! their standard input and output.
//!
//! What a server says of its tools is foreign text that the model would read as the operator's, so
//! a tool is offered only while it is, word for word, what the operator approved. What a server
//! sends is limited in size, number and time; one that misbehaves is stopped, started again later
//! and later, and at last left off. All servers share one thread with an async runtime; nothing of
//! it is seen outside.

mod approvals;
mod child;
mod live;
mod meter;
mod result;
mod session;
mod supervisor;
mod tool;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use protocol::{Tool, ToolSpec, Toolbox};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

pub use approvals::{Approvals, Approved};
pub use live::{Listed, Standing};

/// One server: how it is started, and which of its tools may be offered.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Its name in logs and in the file of approvals.
    pub name: String,
    /// The program.
    pub command: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// The folder that it runs in.
    pub working_folder: PathBuf,
    /// How long it may take from its start until its tools are known.
    pub handshake: Duration,
    /// How long one call may take.
    pub call: Duration,
    /// The tools that may be offered.
    pub grants: Vec<Grant>,
}

/// One tool that may be offered.
#[derive(Debug, Clone)]
pub struct Grant {
    /// As its server names it.
    pub name: String,
    /// As the model sees it.
    pub function: String,
    /// Who must agree to a call.
    pub approval: Approval,
}

/// Whether whoever asked must agree before a call is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approval {
    /// For every call of a tool that does not state that it only reads.
    Client,
    /// For no call.
    Never,
    /// For every call.
    Always,
}

/// Says why the model's room would refuse a function.
pub type Check = fn(&ToolSpec) -> Result<(), String>;

/// A server cannot be asked, or the file of approvals not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum McpError {
    /// The file of approvals cannot be read or written, or is not as it was written.
    #[error("{}: {message}", path.display())]
    Approvals {
        /// Which file.
        path: PathBuf,
        /// What, and what to do.
        message: String,
    },
    /// The server did not start, or not as the protocol demands.
    #[error("{server}: {message}")]
    Server {
        /// Its name.
        server: String,
        /// What.
        message: String,
    },
    /// The thread of the servers cannot be started.
    #[error("cannot start the thread of the tools' servers: {0}")]
    Thread(std::io::Error),
}

/// Every configured server, running. Dropping it ends them and their children.
pub struct Servers {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Servers {
    /// Starts the servers on a thread of their own and comes back at once.
    ///
    /// Errors: where the file of approvals is damaged. A server that does not start is no error: it
    /// is logged and tried again.
    pub fn start(
        servers: Vec<ServerConfig>,
        approvals_file: &Path,
        check: Check,
    ) -> Result<Self, McpError> {
        Self::start_at(servers, approvals_file, check, supervisor::Pace::default())
    }

    fn start_at(
        servers: Vec<ServerConfig>,
        approvals_file: &Path,
        check: Check,
        pace: supervisor::Pace,
    ) -> Result<Self, McpError> {
        // What is damaged shows at the start, not in a log later.
        Approvals::load(approvals_file)?;
        let shared = Arc::new(Shared::new(servers.len()));
        let (stop, stopped) = watch::channel(false);
        let runtime = runtime()?;
        let desks: Vec<supervisor::Supervisor> = servers
            .into_iter()
            .enumerate()
            .map(|(place, config)| supervisor::Supervisor {
                place,
                config: Arc::new(config),
                approvals_file: approvals_file.to_owned(),
                check,
                pace,
                shared: Arc::clone(&shared),
                stopped: stopped.clone(),
            })
            .collect();
        let run = move || {
            runtime.block_on(async {
                let mut running = tokio::task::JoinSet::new();
                for desk in desks {
                    running.spawn(desk.run());
                }
                while let Some(end) = running.join_next().await {
                    if end.is_err() {
                        tracing::error!("the supervisor of a tools' server panicked");
                    }
                }
            });
        };
        let thread = std::thread::Builder::new()
            .name("zonda-mcp".into())
            .spawn(run)
            .map_err(McpError::Thread)?;
        Ok(Self { shared, stop, thread: Mutex::new(Some(thread)) })
    }

    /// Waits until each server was started or failed once, at most `patience`.
    pub fn wait(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut state = self.shared.lock();
        while state.iter().any(|server| !server.was_tried) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.tried.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends every server with its children; calls that run come back with an error.
    ///
    /// Threads: blocks until all have ended, a few seconds at most.
    pub fn stop(&self) {
        // Without a receiver there is nobody left to tell.
        let _told = self.stop.send(true);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread of the tools' servers panicked");
        }
    }
}

impl Toolbox for Servers {
    fn tools(&self) -> Vec<Arc<dyn Tool>> {
        self.shared.lock().iter().flat_map(|server| server.tools.iter().cloned()).collect()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts a server, asks it for its tools and ends it again.
///
/// Threads: blocks for the server's handshake limit at most, and for its end.
pub fn probe(config: &ServerConfig) -> Result<Vec<Listed>, McpError> {
    let listing = runtime()?.block_on(async {
        let session = session::Session::open(config).await?;
        let tools = session.tools().to_vec();
        session.close().await;
        Ok(tools)
    });
    listing.map_err(|message: String| McpError::Server { server: config.name.clone(), message })
}

fn runtime() -> Result<Runtime, McpError> {
    Builder::new_current_thread().enable_all().build().map_err(McpError::Thread)
}

/// What the supervisors tell everybody else.
struct Shared {
    servers: Mutex<Vec<Published>>,
    tried: Condvar,
}

#[derive(Default)]
struct Published {
    was_tried: bool,
    tools: Vec<Arc<dyn Tool>>,
}

impl Shared {
    fn new(servers: usize) -> Self {
        let published = std::iter::repeat_with(Published::default).take(servers).collect();
        Self { servers: Mutex::new(published), tried: Condvar::new() }
    }

    fn publish(&self, place: usize, tools: Vec<Arc<dyn Tool>>) {
        self.lock()[place] = Published { was_tried: true, tools };
        self.tried.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Published>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "mcp/tests.rs"]
mod tests;
