//! One run of a server: the handshake, its tools, its calls.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rmcp::model::{
    ClientCapabilities, ClientConfig, ClientRequest, Implementation, JsonObject,
    PaginatedRequestParams, PingRequest, ProtocolVersion,
};
use rmcp::service::{
    ClientCacheConfig, ClientInitializeError, MaybeSendFuture, NotificationContext, RunningService,
    ServiceError,
};
use rmcp::{ClientHandler, Peer, RoleClient};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::child::Child;
use super::meter::Meter;
use super::wire::Wire;
use super::{Listed, ServerConfig};

/// Most tools that a server may list; those that nobody granted count too.
const TOOLS_MAX: usize = 1024;
/// Most pages that it may list them on.
const PAGES_MAX: usize = 64;
/// How long the library may take to let go of a server.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// A server that has shaken hands. Dropping it kills its process group.
pub(super) struct Session {
    service: RunningService<RoleClient, Handler>,
    child: Child,
    tools: Vec<Listed>,
    changed: Arc<Notify>,
    closed: Arc<Notify>,
    verdict: Arc<OnceLock<&'static str>>,
    patience: Duration,
}

impl Session {
    /// Starts the server and asks for its tools, within the time for the handshake.
    ///
    /// Errors: what the server did wrong, in words that quote nothing of it.
    pub(super) async fn open(config: &ServerConfig) -> Result<Self, String> {
        let (child, output, input) = Child::start(config)
            .map_err(|error| format!("{} cannot be started: {error}", config.command.display()))?;
        let verdict = Arc::new(OnceLock::new());
        let (changed, closed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let meter = Meter::new(output, Arc::clone(&verdict));
        let wire = Wire::new(meter, input, Arc::clone(&closed));
        let handler = Handler { changed: Arc::clone(&changed) };
        let greet = async {
            let service = rmcp::serve_client(handler, wire).await.map_err(|error| said(&error))?;
            // What a server says about how long its list may be kept is not for it to decide.
            service.peer().set_response_cache_config(ClientCacheConfig::disabled()).await;
            let tools = list(service.peer()).await?;
            Ok((service, tools))
        };
        let greeted = timeout(config.handshake, greet).await.unwrap_or_else(|_| {
            let most = config.handshake.as_millis();
            Err(format!("it did not tell its tools within {most} ms"))
        });
        match greeted {
            Ok((service, tools)) => {
                let patience = config.handshake;
                Ok(Self { service, child, tools, changed, closed, verdict, patience })
            }
            Err(message) => {
                child.kill().await;
                Err(verdict.get().map_or(message, |verdict| (*verdict).to_owned()))
            }
        }
    }

    /// Its tools, as it told them last.
    pub(super) fn tools(&self) -> &[Listed] {
        &self.tools
    }

    /// Where calls go.
    pub(super) fn peer(&self) -> &Peer<RoleClient> {
        self.service.peer()
    }

    /// Waits until the server says that its tools changed.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Waits until the server ends or is cut off, and says why.
    pub(super) async fn closed(&self) -> String {
        self.closed.notified().await;
        self.verdict.get().copied().unwrap_or("it closed its output").to_owned()
    }

    /// Asks for its tools again.
    pub(super) async fn list_again(&mut self) -> Result<(), String> {
        let listing = timeout(self.patience, list(self.service.peer())).await;
        self.tools = listing.unwrap_or_else(|_| Err("it does not list its tools".into()))?;
        Ok(())
    }

    /// Lets the server end, and makes it if it does not.
    pub(super) async fn close(self) {
        let Self { mut service, child, .. } = self;
        // Whatever comes of it, the child ends below.
        let _closed = service.close_with_timeout(CLOSE_PATIENCE).await;
        drop(service);
        child.end().await;
    }
}

/// Whether the server answers at all.
pub(super) async fn answers(peer: &Peer<RoleClient>, patience: Duration) -> bool {
    let ping = PingRequest { method: Default::default(), extensions: Default::default() };
    let sent = peer.send_request(ClientRequest::PingRequest(ping));
    // An error is an answer too, unless it is ours.
    matches!(timeout(patience, sent).await, Ok(Ok(_) | Err(ServiceError::McpError(_))))
}

async fn list(peer: &Peer<RoleClient>) -> Result<Vec<Listed>, String> {
    let mut tools = Vec::new();
    let mut cursor = None;
    for _page in 0..PAGES_MAX {
        let mut page = PaginatedRequestParams::default();
        page.cursor = cursor;
        let listed = peer.list_tools(Some(page)).await.map_err(|error| match error {
            ServiceError::McpError(error) => {
                format!("it refuses to list its tools, with code {}", error.code.0)
            }
            ServiceError::TransportClosed => "it ended before it listed its tools".into(),
            _ => "it lists its tools in a form that the protocol does not know".into(),
        })?;
        tools.extend(listed.tools.iter().map(Listed::from_wire));
        if tools.len() > TOOLS_MAX {
            return Err(format!("it lists more than {TOOLS_MAX} tools"));
        }
        cursor = listed.next_cursor;
        if cursor.is_none() {
            return Ok(tools);
        }
    }
    Err(format!("it lists its tools on more than {PAGES_MAX} pages"))
}

/// Errors of the handshake, without the words of the server.
fn said(error: &ClientInitializeError) -> String {
    match error {
        ClientInitializeError::JsonRpcError(error) => {
            format!("it refuses the handshake, with code {}", error.code.0)
        }
        // It closed its output, or its input.
        ClientInitializeError::ConnectionClosed(_)
        | ClientInitializeError::TransportError { .. } => "it ended during the handshake".into(),
        _ => "its answer to the handshake is not what the protocol demands".into(),
    }
}

/// Declares nothing and takes nothing: no sampling, no roots, no questions to the user.
struct Handler {
    changed: Arc<Notify>,
}

impl ClientHandler for Handler {
    fn get_info(&self) -> ClientConfig {
        let name = Implementation::new("zonda", env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), name)
            .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
    }

    fn on_tool_list_changed(
        &self,
        _context: NotificationContext<RoleClient>,
    ) -> impl Future<Output = ()> + MaybeSendFuture + '_ {
        self.changed.notify_one();
        std::future::ready(())
    }
}

/// The arguments of a call, as the protocol takes them.
pub(super) type Arguments = JsonObject;
