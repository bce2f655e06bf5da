//! Functions of the host program that the model may call.
//!
//! The line of rooms runs its tools on the thread that carries the answer. Here such a call becomes
//! a callback on a thread of its own, so that a host which sleeps in it, or never answers, delays
//! neither the time limit nor a cancel; the answer comes later, by the call's number.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chat_json::TOOLS_MAX;
use protocol::{Fault, Tool, ToolError, ToolSpec, Toolbox};
use serde_json::{Value, json};

use crate::border::{Life, UserData, inside_callback};
use crate::layout::{Str, ToolCall};
use crate::lock;
use crate::status::{self, Refusal, Status};

/// Calls of one engine that wait for their answer, or whose callback runs.
pub(crate) const CALLS_OPEN_MAX: usize = 64;
/// Longest JSON of a function, and of the result of a call.
pub(crate) const TOOL_BYTES_MAX: usize = 64 << 10;
/// Longest name of a function, as prompt templates take it.
const NAME_BYTES_MAX: usize = 64;
/// How long a waiting call may not notice that its request is cancelled.
const NOTICE: Duration = Duration::from_millis(20);

/// The host's function behind a tool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ToolCallback {
    pub(crate) function: ToolCall,
    pub(crate) user_data: UserData,
}

/// The functions of one engine's host, and their calls.
pub(crate) struct HostTools {
    life: Arc<Life>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_closed: bool,
    tools: Vec<Arc<HostTool>>,
    calls: HashMap<u64, Call>,
    last_call: u64,
    /// The functions whose callbacks run now, one entry for each.
    inside: Vec<Arc<HostTool>>,
    threads: Vec<JoinHandle<()>>,
}

struct HostTool {
    spec: ToolSpec,
    callback: ToolCallback,
}

/// One call that nobody answered yet, or whose answer was not fetched yet.
struct Call {
    tool: Arc<HostTool>,
    answer: Option<Result<String, String>>,
}

impl HostTools {
    pub(crate) fn new(life: Arc<Life>) -> Arc<Self> {
        Arc::new(Self { life, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Offers a function, written as an entry of a request's `tools`, to every request from now on.
    pub(crate) fn register(&self, json: &str, callback: ToolCallback) -> Result<(), Refusal> {
        let spec = read_spec(json)?;
        let mut state = lock(&self.state);
        if state.is_closed {
            return Err(Refusal::state("the engine is shut down; create another one"));
        }
        if state.tools.iter().any(|tool| tool.spec.name == spec.name) {
            return Err(Refusal::state(format!(
                "the function {} is registered; unregister it first",
                spec.name
            )));
        }
        if state.tools.len() >= TOOLS_MAX {
            return Err(Refusal::new(
                status::OVERLOADED,
                format!("{TOOLS_MAX} functions are registered, which is the limit"),
            ));
        }
        state.tools.push(Arc::new(HostTool { spec, callback }));
        Ok(())
    }

    /// Withdraws a function: its open calls end with an error that the model reads, and when this
    /// returns none of its callbacks runs.
    pub(crate) fn unregister(&self, name: &str) -> Result<(), Refusal> {
        let mut state = lock(&self.state);
        let place = state.tools.iter().position(|tool| tool.spec.name == name);
        let Some(place) = place else {
            let message = "no function of this name is registered";
            return Err(Refusal::new(status::NOT_FOUND, message));
        };
        let tool = state.tools.remove(place);
        state.fail_calls("the function was withdrawn", |call| Arc::ptr_eq(&call.tool, &tool));
        self.changed.notify_all();
        while state.inside.iter().any(|other| Arc::ptr_eq(other, &tool)) {
            state = self.wait(state);
        }
        Ok(())
    }

    /// Gives a call its result: JSON text, or with `is_error` what went wrong, as JSON text too.
    pub(crate) fn respond(&self, id: u64, json: &[u8], is_error: bool) -> Result<(), Refusal> {
        let answer = read_result(json, is_error)?;
        let mut state = lock(&self.state);
        let last_call = state.last_call;
        match state.calls.get_mut(&id) {
            Some(call) if call.answer.is_none() => call.answer = Some(answer),
            _ if id == 0 || id > last_call => {
                let message = format!("there was no call {id}");
                return Err(Refusal::new(status::NOT_FOUND, message));
            }
            _ => {
                return Err(Refusal::state(format!(
                    "call {id} is over: it was answered, cancelled, out of time, or its function \
                     was withdrawn"
                )));
            }
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Starts no callback any more and ends every open call with an error.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.is_closed = true;
        state.fail_calls("the program shuts down", |_| true);
        self.changed.notify_all();
    }

    /// Waits until no callback runs.
    pub(crate) fn join(&self) {
        let threads = std::mem::take(&mut lock(&self.state).threads);
        for thread in threads {
            let _ended = thread.join();
        }
    }

    /// Numbers a call and starts its callback.
    fn open(self: &Arc<Self>, tool: &Arc<HostTool>, arguments: &str) -> Result<u64, ToolError> {
        let mut state = lock(&self.state);
        if state.is_closed || !state.tools.iter().any(|other| Arc::ptr_eq(other, tool)) {
            return Err(ToolError("the function is not offered any more".into()));
        }
        state.threads.retain(|thread| !thread.is_finished());
        if state.calls.len() >= CALLS_OPEN_MAX || state.threads.len() >= CALLS_OPEN_MAX {
            return Err(ToolError(format!("{CALLS_OPEN_MAX} calls are open; try again later")));
        }
        let id = state.last_call + 1;
        let (own, of_call) = (Arc::clone(self), Arc::clone(tool));
        let arguments = arguments.to_owned();
        let body = move || own.call_back(id, &of_call, &arguments);
        let thread = std::thread::Builder::new().name("zonda-tool".into()).spawn(body);
        let thread = thread.map_err(|_| ToolError("no thread is left for the function".into()))?;
        state.threads.push(thread);
        state.last_call = id;
        state.calls.insert(id, Call { tool: Arc::clone(tool), answer: None });
        Ok(id)
    }

    /// The life of a callback's thread.
    fn call_back(&self, id: u64, tool: &Arc<HostTool>, arguments: &str) {
        {
            let mut state = lock(&self.state);
            if state.calls.get(&id).is_none_or(|call| call.answer.is_some()) {
                return;
            }
            state.inside.push(Arc::clone(tool));
        }
        let (name, callback) = (Str::of(&tool.spec.name), tool.callback);
        let called = catch_unwind(AssertUnwindSafe(|| {
            inside_callback(&self.life, || {
                // SAFETY: the host gave this function for these calls; both texts outlive it.
                unsafe { (callback.function)(name, Str::of(arguments), id, callback.user_data.0) }
            })
        }));
        let ended = called.unwrap_or_else(|_panic| {
            self.life.poison();
            status::INTERNAL
        });
        let mut state = lock(&self.state);
        let place = state.inside.iter().position(|other| Arc::ptr_eq(other, tool));
        if let Some(place) = place {
            state.inside.swap_remove(place);
        }
        state.note_return(id, ended);
        self.changed.notify_all();
    }

    /// Waits for the answer to a call; whatever happens, the call is over then.
    fn answer(
        &self,
        id: u64,
        deadline: Instant,
        wanted: &dyn Fn() -> bool,
    ) -> Result<String, ToolError> {
        let mut state = lock(&self.state);
        loop {
            let answer = state.calls.get_mut(&id).and_then(|call| call.answer.take());
            let over = match answer {
                Some(answer) => Some(answer),
                None if Instant::now() >= deadline => {
                    Some(Err("the function did not answer in time".into()))
                }
                None if !wanted() => Some(Err("the request was cancelled".into())),
                None => None,
            };
            if let Some(answer) = over {
                state.calls.remove(&id);
                return answer.map_err(ToolError);
            }
            let left = deadline.saturating_duration_since(Instant::now()).min(NOTICE);
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(|broken| broken.into_inner()).0;
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(|broken| broken.into_inner())
    }
}

impl State {
    fn fail_calls(&mut self, why: &str, which: impl Fn(&Call) -> bool) {
        for call in self.calls.values_mut() {
            if call.answer.is_none() && which(call) {
                call.answer = Some(Err(why.into()));
            }
        }
    }

    /// A callback that refuses its call answers it by that.
    fn note_return(&mut self, id: u64, ended: Status) {
        if let Some(call) = self.calls.get_mut(&id)
            && call.answer.is_none()
            && ended != status::OK
        {
            let name = status::name(ended).to_string_lossy();
            call.answer = Some(Err(format!("the program refused the call: {name}")));
        }
    }
}

impl Toolbox for Offers {
    fn tools(&self) -> Vec<Arc<dyn Tool>> {
        let tools = lock(&self.0.state).tools.clone();
        let offer = |tool| Arc::new(Offer { host: Arc::clone(&self.0), tool }) as Arc<dyn Tool>;
        tools.into_iter().map(offer).collect()
    }
}

/// The host's functions as the line of rooms sees them.
pub(crate) struct Offers(pub(crate) Arc<HostTools>);

struct Offer {
    host: Arc<HostTools>,
    tool: Arc<HostTool>,
}

impl Tool for Offer {
    fn spec(&self) -> &ToolSpec {
        &self.tool.spec
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
        let id = self.host.open(&self.tool, arguments)?;
        self.host.answer(id, deadline, wanted)
    }
}

fn read_spec(json: &str) -> Result<ToolSpec, Refusal> {
    check_length(json.len(), "tool_json")?;
    let mut tool = parse(json.as_bytes(), "tool_json")?;
    if let Some(function) = tool.get_mut("function").and_then(Value::as_object_mut)
        && !function.contains_key("parameters")
    {
        function.insert("parameters".into(), json!({"type": "object", "properties": {}}));
    }
    let specs = chat_json::parse_tools(&Value::Array(vec![tool]));
    let specs = specs.map_err(|fault| {
        let place = fault.param.as_deref().unwrap_or_default().trim_start_matches("tools[0]");
        Refusal::argument(format!("tool_json{place}: {}", fault.message))
    })?;
    let Some(spec) = specs.into_iter().next() else {
        return Err(Refusal::argument("tool_json: no function"));
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let length = spec.name.len();
    if length == 0 || length > NAME_BYTES_MAX || !spec.name.bytes().all(is_plain) {
        return Err(Refusal::argument(format!(
            "tool_json.function.name must be 1 to {NAME_BYTES_MAX} of a-z, A-Z, 0-9, _ and -"
        )));
    }
    Ok(spec)
}

/// What the model will read, or the message of an error.
fn read_result(json: &[u8], is_error: bool) -> Result<Result<String, String>, Refusal> {
    check_length(json.len(), "result_json")?;
    let value = parse(json, "result_json")?;
    if is_error {
        return Ok(Err(match value {
            Value::String(message) => message,
            other => other.to_string(),
        }));
    }
    let text = std::str::from_utf8(json).map_err(|_| Refusal::argument("not UTF-8"))?;
    Ok(Ok(text.to_owned()))
}

fn check_length(bytes: usize, name: &str) -> Result<(), Refusal> {
    if bytes <= TOOL_BYTES_MAX {
        return Ok(());
    }
    Err(Refusal::argument(format!("{name} has {bytes} bytes; at most {TOOL_BYTES_MAX} are taken")))
}

fn parse(json: &[u8], name: &str) -> Result<Value, Refusal> {
    let explain = |fault: Fault| Refusal::argument(format!("{name}: {}", fault.message));
    chat_json::parse_json(json).map_err(explain)
}
