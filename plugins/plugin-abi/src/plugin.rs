//! A plugin as the daemon uses it.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use protocol::{Filter, NewsSink, Observer, Tool};
use serde_json::{Map, Value};

use crate::child::HostProgram;
use crate::filter::PluginFilter;
use crate::journal::{Journal, Level};
use crate::limits::START_MAX;
use crate::manifest::Manifest;
use crate::observer::PluginObserver;
use crate::state::StateFolder;
use crate::supervisor::{self, Board, CallError, Charge, Mail, Shown, Supervisor};
use crate::tool::PluginTool;
use crate::wire::{Ask, Say};

/// How much later than due an answer of the supervising thread may come.
const SLACK: Duration = Duration::from_secs(1);

/// What all plugins of a daemon share.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Where their folders are.
    pub folder: PathBuf,
    /// What is remembered of them.
    pub state: StateFolder,
    /// What hosts them.
    pub host: HostProgram,
    /// Who is told when one of them fails.
    pub news: Option<NewsSink>,
}

/// A supervised plugin. The last clone to go, of it and of what came out of it, ends its process.
#[derive(Clone)]
pub struct Plugin(Arc<Running>);

struct Running {
    manifest: Manifest,
    journal: Journal,
    board: Board,
    mail: SyncSender<Mail>,
    thread: Option<JoinHandle<()>>,
}

impl Plugin {
    /// Starts a plugin and waits until it is ready or has failed for the first time, at most 10 s. A
    /// failure is no error: it is logged, and the plugin starts again or is given up by its limits.
    ///
    /// Errors: a thread cannot be started.
    pub fn start(
        surroundings: &Surroundings,
        manifest: Manifest,
        settings: &Map<String, Value>,
    ) -> std::io::Result<Self> {
        let journal = Journal::open(&manifest.id, &surroundings.state);
        let board = supervisor::board();
        let (mail, inbox) = supervisor::inbox();
        let charge = Charge {
            folder: surroundings.folder.join(&manifest.id),
            settings_json: Value::Object(settings.clone()).to_string(),
            state: surroundings.state.clone(),
            host: surroundings.host.clone(),
            news: surroundings.news.clone(),
            journal: journal.clone(),
            manifest: manifest.clone(),
        };
        let supervisor = Supervisor::new(charge, inbox, mail.clone(), Arc::clone(&board));
        let (first, first_end) = sync_channel(1);
        let thread =
            thread::Builder::new().name("plugin".into()).spawn(move || supervisor.run(&first))?;
        let _first = first_end.recv_timeout(START_MAX + SLACK);
        Ok(Self(Arc::new(Running { manifest, journal, board, mail, thread: Some(thread) })))
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    /// Why it does not run, if it does not.
    pub fn down(&self) -> Option<String> {
        self.shown().down
    }

    /// Whether it stays down until a person acts.
    pub fn is_given_up(&self) -> bool {
        self.shown().is_given_up
    }

    /// Its functions; none where it was never ready.
    pub fn tools(&self) -> Vec<Box<dyn Tool>> {
        let ready = self.shown().ready.unwrap_or_default();
        let specs = crate::tool::specs(&ready).unwrap_or_default();
        let tools = (0..).zip(specs);
        tools.map(|(at, spec)| PluginTool::boxed(self.clone(), at, spec)).collect()
    }

    /// It as a filter, whether it runs or not.
    pub fn filter(&self) -> Box<dyn Filter> {
        Box::new(PluginFilter::new(self.clone()))
    }

    /// It as an observer, whether it runs or not.
    ///
    /// Errors: a thread cannot be started.
    pub fn observer(&self) -> std::io::Result<Box<dyn Observer>> {
        Ok(Box::new(PluginObserver::start(self.clone())?))
    }

    pub(crate) fn shown(&self) -> Shown {
        self.0.board.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what a person should know of it.
    pub(crate) fn note(&self, line: &str) {
        self.0.journal.own(Level::Warn, line);
    }

    /// Calls it and waits for the result: at most `call_ms` for its turn, as long again for the
    /// call, and not beyond `by`.
    pub(crate) fn call(&self, ask: &Ask, by: Option<Instant>) -> Result<Say, CallError> {
        let now = Instant::now();
        let call_max = self.0.manifest.call_max;
        let by = by.unwrap_or(now + 2 * call_max + SLACK);
        let (call, result) = supervisor::call(ask, by.min(now + call_max))?;
        self.send(call)?;
        self.wait(&result, by)
    }

    fn send(&self, call: supervisor::Call) -> Result<(), CallError> {
        self.0.mail.try_send(Mail::Call(call)).map_err(|error| match error {
            TrySendError::Full(_) => CallError::Busy,
            TrySendError::Disconnected(_) => CallError::Down("its supervisor ended".into()),
        })
    }

    fn wait(
        &self,
        result: &Receiver<Result<Say, CallError>>,
        by: Instant,
    ) -> Result<Say, CallError> {
        match result.recv_timeout(by.saturating_duration_since(Instant::now())) {
            Ok(result) => result,
            Err(_) => Err(CallError::Late),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The thread takes mail until it stops, so this waits for no one else.
        let _stopped = self.mail.send(Mail::Stop);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}
