//! One tool of a server, as everybody else sees it.

use std::time::{Duration, Instant};

use protocol::{Tool, ToolError, ToolSpec};
use serde_json::Value;
use tokio::sync::mpsc;

use super::approvals::Approved;
use super::session::Arguments;
use super::{Approval, Grant};

/// Most bytes of arguments.
const ARGUMENTS_BYTES_MAX: usize = 64 << 10;
/// How long a call may not notice that nobody wants its result.
const NOTICE: Duration = Duration::from_millis(50);
/// How much later than its deadline a call may come back: the time to say that it is late.
const LATE: Duration = Duration::from_millis(500);

/// A call on its way to the server's thread.
pub(super) struct Call {
    pub(super) tool: String,
    pub(super) arguments: Arguments,
    pub(super) deadline: Instant,
    pub(super) answer: flume::Sender<Result<String, ToolError>>,
}

/// An approved tool of a server that runs.
pub(super) struct McpTool {
    spec: ToolSpec,
    name: String,
    needs_approval: bool,
    calls: mpsc::Sender<Call>,
}

/// What the model reads of an approved tool.
pub(super) fn spec(function: &str, approved: &Approved) -> ToolSpec {
    ToolSpec {
        name: function.to_owned(),
        description: approved.description.clone(),
        parameters: approved.parameters.clone(),
        strict: false,
    }
}

impl McpTool {
    pub(super) fn new(grant: &Grant, approved: &Approved, calls: mpsc::Sender<Call>) -> Self {
        Self {
            spec: spec(&grant.function, approved),
            name: grant.name.clone(),
            needs_approval: match grant.approval {
                Approval::Never => false,
                Approval::Client => !approved.reads_only,
                Approval::Always => true,
            },
            calls,
        }
    }
}

impl Tool for McpTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, arguments: &str, deadline: Instant) -> Result<String, ToolError> {
        self.call_while(arguments, deadline, &|| true)
    }

    fn call_while(
        &self,
        arguments: &str,
        deadline: Instant,
        wanted: &dyn Fn() -> bool,
    ) -> Result<String, ToolError> {
        let arguments = read(arguments)?;
        let (answer, result) = flume::bounded(1);
        let call = Call { tool: self.name.clone(), arguments, deadline, answer };
        self.calls.try_send(call).map_err(|error| {
            ToolError(match error {
                mpsc::error::TrySendError::Full(_) => "too many calls wait for this tool".into(),
                mpsc::error::TrySendError::Closed(_) => "this tool is not there any more".into(),
            })
        })?;
        while wanted() {
            let left = (deadline + LATE).saturating_duration_since(Instant::now());
            match result.recv_timeout(left.min(NOTICE)) {
                Ok(result) => return result,
                Err(flume::RecvTimeoutError::Timeout) if left > NOTICE => {}
                Err(flume::RecvTimeoutError::Timeout) => {
                    return Err(ToolError("no result came in time".into()));
                }
                Err(flume::RecvTimeoutError::Disconnected) => {
                    let message = "the program of this tool ended before it gave a result";
                    return Err(ToolError(message.into()));
                }
            }
        }
        Err(ToolError("the request was cancelled".into()))
    }

    fn needs_approval(&self) -> bool {
        self.needs_approval
    }
}

fn read(arguments: &str) -> Result<Arguments, ToolError> {
    if arguments.len() > ARGUMENTS_BYTES_MAX {
        return Err(ToolError(format!("arguments are over {ARGUMENTS_BYTES_MAX} bytes")));
    }
    match arguments.trim() {
        "" => Ok(Arguments::new()),
        text => match serde_json::from_str(text) {
            Ok(Value::Object(arguments)) => Ok(arguments),
            _ => Err(ToolError("arguments are not a JSON object".into())),
        },
    }
}
