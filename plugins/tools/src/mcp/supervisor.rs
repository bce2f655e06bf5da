//! Keeps one server running, as long as it behaves.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use protocol::{Tool, ToolError};
use rmcp::model::CallToolRequestParams;
use rmcp::service::ServiceError;
use rmcp::{Peer, RoleClient};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until, timeout_at};

use super::session::{Session, answers};
use super::tool::{Call, McpTool};
use super::{Approvals, Check, ServerConfig, Shared, Standing, result};

/// Calls of one server at the same time.
const CALLS_MAX: usize = 8;
/// Calls that wait; one more is refused.
const WAITING_MAX: usize = 32;

/// When things are done again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// The pause before the first restart; it doubles with each.
    pub(super) pause_first: Duration,
    pub(super) pause_max: Duration,
    /// One more in the window, and the server stays off.
    pub(super) failures_max: usize,
    pub(super) window: Duration,
    /// The least time between two looks at a list that changed.
    pub(super) list_every: Duration,
    /// How often the file of approvals is looked at.
    pub(super) look_every: Duration,
    /// How long a server that let a call time out may take to show that it lives.
    pub(super) ping: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            pause_first: Duration::from_secs(1),
            pause_max: Duration::from_secs(60),
            failures_max: 5,
            window: Duration::from_secs(300),
            list_every: Duration::from_secs(2),
            look_every: Duration::from_secs(2),
            ping: Duration::from_secs(5),
        }
    }
}

/// One server's keeper.
pub(super) struct Supervisor {
    pub(super) place: usize,
    pub(super) config: Arc<ServerConfig>,
    pub(super) approvals_file: PathBuf,
    pub(super) check: Check,
    pub(super) pace: Pace,
    pub(super) shared: Arc<Shared>,
    pub(super) stopped: watch::Receiver<bool>,
}

/// Why a run of a server is over.
enum End {
    Stopped,
    Failed(String),
}

/// What a call showed of its server.
enum Health {
    Alive,
    Hung,
}

impl Supervisor {
    /// Runs the server until told to stop, or until it failed too often.
    pub(super) async fn run(self) {
        let server = &*self.config.name;
        let mut failures = VecDeque::new();
        let mut pause = self.pace.pause_first;
        loop {
            let began = Instant::now();
            let end = self.live().await;
            self.shared.publish(self.place, Vec::new());
            let End::Failed(reason) = end else {
                return;
            };
            let now = Instant::now();
            failures.push_back(now);
            while failures.front().is_some_and(|first| now - *first > self.pace.window) {
                failures.pop_front();
            }
            if failures.len() > self.pace.failures_max {
                tracing::error!(server, reason, "a tools' server failed too often and stays off");
                return;
            }
            if now - began > self.pace.window {
                pause = self.pace.pause_first;
            }
            tracing::warn!(server, reason, "a tools' server failed; it starts again in {pause:?}");
            tokio::select! {
                () = sleep(pause) => {}
                () = self.told_to_stop() => return,
            }
            pause = (pause * 2).min(self.pace.pause_max);
        }
    }

    /// One run of the server.
    async fn live(&self) -> End {
        let opened = tokio::select! {
            opened = Session::open(&self.config) => opened,
            () = self.told_to_stop() => return End::Stopped,
        };
        let mut session = match opened {
            Ok(session) => session,
            Err(reason) => return End::Failed(reason),
        };
        let (sender, calls) = mpsc::channel(WAITING_MAX);
        let end = self.serve(&mut session, sender, calls).await;
        // Nobody is given a tool that is about to go.
        self.shared.publish(self.place, Vec::new());
        session.close().await;
        end
    }

    async fn serve(
        &self,
        session: &mut Session,
        sender: mpsc::Sender<Call>,
        mut calls: mpsc::Receiver<Call>,
    ) -> End {
        let mut offer = Offer { sender, standings: Vec::new() };
        let mut seen = stamp(&self.approvals_file);
        offer.publish(self, session);
        let mut running: JoinSet<Health> = JoinSet::new();
        let mut look = interval(self.pace.look_every);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut is_stale, mut list_at) = (false, tokio::time::Instant::now());
        loop {
            tokio::select! {
                Some(call) = calls.recv(), if running.len() < CALLS_MAX => {
                    running.spawn(run(session.peer().clone(), call, self.config.call, self.pace.ping));
                }
                Some(end) = running.join_next(), if !running.is_empty() => {
                    if !matches!(end, Ok(Health::Alive)) {
                        return End::Failed("it does not answer any more".into());
                    }
                }
                () = session.changed(), if !is_stale => is_stale = true,
                () = sleep_until(list_at), if is_stale => {
                    if let Err(reason) = session.list_again().await {
                        return End::Failed(reason);
                    }
                    (is_stale, list_at) = (false, tokio::time::Instant::now() + self.pace.list_every);
                    offer.publish(self, session);
                }
                _tick = look.tick() => {
                    let now = stamp(&self.approvals_file);
                    if now != seen {
                        seen = now;
                        offer.publish(self, session);
                    }
                }
                reason = session.closed() => return End::Failed(reason),
                () = self.told_to_stop() => return End::Stopped,
            }
        }
    }

    async fn told_to_stop(&self) {
        let mut stopped = self.stopped.clone();
        // Who could say so is gone: that says it too.
        let _said = stopped.wait_for(|stopped| *stopped).await;
    }
}

/// What is offered of a server, and how its tools stood when that was last decided.
struct Offer {
    sender: mpsc::Sender<Call>,
    standings: Vec<Standing>,
}

impl Offer {
    fn publish(&mut self, supervisor: &Supervisor, session: &Session) {
        let server = &*supervisor.config.name;
        let approvals = Approvals::load(&supervisor.approvals_file).unwrap_or_else(|error| {
            tracing::error!(server, %error, "no tool of this server is offered");
            Approvals::default()
        });
        let grants = &supervisor.config.grants;
        let standings: Vec<Standing> = grants
            .iter()
            .map(|grant| Standing::of(server, grant, session.tools(), &approvals, supervisor.check))
            .collect();
        let mut tools: Vec<Arc<dyn Tool>> = Vec::new();
        for (place, (grant, standing)) in grants.iter().zip(&standings).enumerate() {
            if let Standing::Approved(approved) = standing {
                tools.push(Arc::new(McpTool::new(grant, approved, self.sender.clone())));
            }
            if self.standings.get(place) != Some(standing) {
                tell(server, &grant.name, standing);
            }
        }
        self.standings = standings;
        supervisor.shared.publish(supervisor.place, tools);
    }
}

fn tell(server: &str, tool: &str, standing: &Standing) {
    match standing {
        Standing::Approved(_) => tracing::info!(server, tool, "a tool is offered"),
        Standing::New => tracing::warn!(
            server,
            tool,
            "a tool is off until it is approved: zonda tool approve {server}"
        ),
        Standing::Changed => tracing::warn!(
            server,
            tool,
            "a tool is off: it is not what was approved; look at it with zonda tool list, then \
             zonda tool approve {server}"
        ),
        Standing::Missing => tracing::warn!(server, tool, "a tool is not listed by its server"),
        Standing::Ambiguous => tracing::warn!(server, tool, "a tool is listed twice and is off"),
        Standing::Unfit(reason) => tracing::warn!(server, tool, reason, "a tool is off"),
    }
}

/// Runs one call, and looks at the server where it gave no result in time.
async fn run(peer: Peer<RoleClient>, call: Call, most: Duration, ping: Duration) -> Health {
    let Call { tool, arguments, deadline, answer } = call;
    let until = deadline.min(Instant::now() + most);
    let params = CallToolRequestParams::new(tool).with_arguments(arguments);
    let called = timeout_at(until.into(), peer.call_tool_once(params)).await;
    let is_late = called.is_err();
    let result = match called {
        Ok(Ok(response)) => result::read(response),
        Ok(Err(ServiceError::McpError(error))) => Err(ToolError(error.message.into_owned())),
        Ok(Err(ServiceError::UnexpectedResponse)) => {
            Err(ToolError("the tool's result has no form that can be read".into()))
        }
        Ok(Err(_)) => Err(ToolError("the program of this tool ended".into())),
        Err(_) => Err(ToolError("no result came in time".into())),
    };
    // Who asked may have given up.
    let _taken = answer.send(result);
    match is_late && !answers(&peer, ping).await {
        true => Health::Hung,
        false => Health::Alive,
    }
}

/// Tells two versions of a file apart.
fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
