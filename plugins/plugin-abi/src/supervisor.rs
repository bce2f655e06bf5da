//! The daemon's side of one plugin: a thread that starts its process, hands it one call at a time,
//! ends it when it breaks a rule, starts it again, and at last gives it up.
//!
//! Nothing here waits for the plugin without a limit: the thread waits for mail, or for the nearest
//! of the moments at which something is overdue.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use protocol::{News, NewsSink};
use serde_json::json;

use crate::child::{HostProgram, Process, Readers};
use crate::journal::{Journal, Level};
use crate::limiter;
use crate::limits::{REASON_BYTES_MAX, START_MAX, STOP_MAX, WAITING_MAX};
use crate::manifest::Manifest;
use crate::offers;
use crate::restarts::Restarts;
use crate::state::{Quarantine, Remembered, StateFolder};
use crate::wire::{self, Ask, PROTOCOL, Ready, Say, Start};

/// What a failure is called in news.
const CRASHED: &str = "plugin_crashed";
/// How often a quarantined plugin's state is looked at, when it is called.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Everything that a plugin's supervision needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Charge {
    pub(crate) manifest: Manifest,
    pub(crate) folder: PathBuf,
    pub(crate) settings_json: String,
    pub(crate) state: StateFolder,
    pub(crate) host: HostProgram,
    pub(crate) journal: Journal,
    pub(crate) news: Option<NewsSink>,
}

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    #[error("the plugin does not run: {0}")]
    Down(String),
    #[error("{WAITING_MAX} calls wait for the plugin already")]
    Busy,
    #[error("{0}")]
    TooLarge(String),
    #[error("the plugin gave no result in time")]
    Late,
    #[error("the plugin failed: {0}")]
    Broke(String),
}

/// What comes to the supervising thread.
pub(crate) enum Mail {
    Call(Call),
    Said { generation: u64, say: Say },
    Closed { generation: u64, why: Option<String> },
    Stop,
}

/// A call that waits for its turn.
pub(crate) struct Call {
    frame: Vec<u8>,
    turn_by: Instant,
    answer: SyncSender<Result<Say, CallError>>,
}

/// What others may know of the plugin at any time.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    /// Of the process that runs, or of the one before.
    pub(crate) ready: Option<Ready>,
    /// Why it does not run.
    pub(crate) down: Option<String>,
    /// Whether it stays down until a person acts.
    pub(crate) is_given_up: bool,
}

pub(crate) type Board = Arc<Mutex<Shown>>;

pub(crate) fn board() -> Board {
    let down = Some("it has not started yet".to_owned());
    Arc::new(Mutex::new(Shown { ready: None, down, is_given_up: false }))
}

pub(crate) fn inbox() -> (SyncSender<Mail>, Receiver<Mail>) {
    sync_channel(WAITING_MAX)
}

/// A call of the plugin, ready to be sent; its answer comes to the receiver.
pub(crate) fn call(
    ask: &Ask,
    turn_by: Instant,
) -> Result<(Call, Receiver<Result<Say, CallError>>), CallError> {
    let frame = wire::frame(ask).map_err(|error| CallError::TooLarge(error.to_string()))?;
    let (answer, result) = sync_channel(1);
    Ok((Call { frame, turn_by, answer }, result))
}

/// The life of one plugin, on a thread of its own.
pub(crate) struct Supervisor {
    charge: Charge,
    mail: Receiver<Mail>,
    to_self: SyncSender<Mail>,
    board: Board,
    restarts: Restarts,
    kept: BTreeMap<String, String>,
    waiting: VecDeque<Call>,
    generation: u64,
    phase: Phase,
}

enum Phase {
    Starting {
        process: Process,
        by: Instant,
    },
    Idle {
        process: Process,
    },
    Busy {
        process: Process,
        by: Instant,
        answer: SyncSender<Result<Say, CallError>>,
    },
    /// Starts again at this moment.
    Resting {
        until: Instant,
    },
    /// A person must act.
    GivenUp {
        look_at: Instant,
    },
    /// Only while one phase becomes another.
    Between,
}

impl Supervisor {
    pub(crate) fn new(
        charge: Charge,
        mail: Receiver<Mail>,
        to_self: SyncSender<Mail>,
        board: Board,
    ) -> Self {
        let restarts = Restarts::new(charge.manifest.restarts, charge.manifest.restart_window);
        Self {
            charge,
            mail,
            to_self,
            board,
            restarts,
            kept: BTreeMap::new(),
            waiting: VecDeque::new(),
            generation: 0,
            phase: Phase::Resting { until: Instant::now() },
        }
    }

    /// Lives until it is told to stop. `first` hears when the first start has come to an end.
    pub(crate) fn run(mut self, first: &SyncSender<()>) {
        let mut is_first = true;
        loop {
            self.tick(Instant::now());
            if is_first && !matches!(self.phase, Phase::Starting { .. }) {
                is_first = false;
                // Whoever waited may have given up.
                let _told = first.try_send(());
            }
            let mail = match self.wake_at() {
                Some(at) => self.mail.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => self.mail.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match mail {
                Ok(Mail::Call(call)) => self.queue(call),
                Ok(Mail::Said { generation, say }) if generation == self.generation => {
                    self.hear(say);
                }
                Ok(Mail::Closed { generation, why }) if generation == self.generation => {
                    self.fail(why.unwrap_or_default());
                }
                Ok(Mail::Said { .. } | Mail::Closed { .. }) => {}
                Ok(Mail::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        self.stop();
    }

    fn wake_at(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Starting { by, .. } | Phase::Busy { by, .. } => Some(*by),
            Phase::Resting { until } => Some(*until),
            Phase::Idle { .. } | Phase::GivenUp { .. } | Phase::Between => None,
        };
        phase.into_iter().chain(self.waiting.iter().map(|call| call.turn_by)).min()
    }

    /// Does what is due.
    fn tick(&mut self, now: Instant) {
        let call_ms = self.charge.manifest.call_max.as_millis();
        match &self.phase {
            Phase::Starting { by, .. } if now >= *by => {
                self.fail(format!("it was not ready within {} s", START_MAX.as_secs()));
            }
            Phase::Busy { by, .. } if now >= *by => {
                self.fail(format!("a call took longer than call_ms = {call_ms}"));
            }
            Phase::Resting { until } if now >= *until => self.start(),
            _ => {}
        }
        while let Some(at) = self.waiting.iter().position(|call| now >= call.turn_by) {
            if let Some(call) = self.waiting.remove(at) {
                let _gone = call.answer.try_send(Err(CallError::Late));
            }
        }
        self.serve_next(now);
    }

    fn serve_next(&mut self, now: Instant) {
        if self.waiting.is_empty() || !matches!(self.phase, Phase::Idle { .. }) {
            return;
        }
        let Phase::Idle { mut process } = std::mem::replace(&mut self.phase, Phase::Between) else {
            return;
        };
        let Some(call) = self.waiting.pop_front() else {
            self.phase = Phase::Idle { process };
            return;
        };
        let call_max = self.charge.manifest.call_max;
        let written = process.write(&call.frame, call_max);
        self.phase = Phase::Busy { process, by: now + call_max, answer: call.answer };
        if let Err(error) = written {
            self.fail(format!("it takes no calls: {error}"));
        }
    }

    fn queue(&mut self, call: Call) {
        if let Phase::GivenUp { look_at } = &mut self.phase {
            let now = Instant::now();
            let is_due = now >= *look_at;
            if is_due {
                *look_at = now + LOOK_AGAIN;
                self.look_again();
            }
        }
        let refusal = match &self.phase {
            Phase::Resting { .. } | Phase::GivenUp { .. } | Phase::Between => {
                Some(CallError::Down(self.show(|shown| shown.down.clone().unwrap_or_default())))
            }
            _ if self.waiting.len() >= WAITING_MAX => Some(CallError::Busy),
            _ => None,
        };
        match refusal {
            Some(error) => {
                let _gone = call.answer.try_send(Err(error));
            }
            None => self.waiting.push_back(call),
        }
    }

    /// A person may have enabled it meanwhile.
    fn look_again(&mut self) {
        let remembered = self.charge.state.read(&self.charge.manifest.id);
        if remembered.is_ok_and(|remembered| remembered == Remembered::default()) {
            self.restarts.forgive();
            self.start();
        }
    }

    fn start(&mut self) {
        if let Err((why, is_final)) = self.try_start() {
            if is_final {
                self.give_up(&why);
            } else {
                self.fail(why);
            }
        }
    }

    /// The error says whether another try is of no use.
    fn try_start(&mut self) -> Result<(), (String, bool)> {
        let Charge { manifest, folder, settings_json, state, host, journal, .. } = &self.charge;
        let remembered = state.read(&manifest.id).map_err(|error| (error.to_string(), true))?;
        if remembered.disabled {
            return Err(("it is disabled; zonda plugin enable".into(), true));
        }
        if let Some(Quarantine { reason, .. }) = remembered.quarantine {
            return Err((format!("it is in quarantine: {reason}; zonda plugin enable"), true));
        }
        manifest.verify().map_err(|error| (error.to_string(), false))?;
        let start = Ask::Start(Start {
            protocol: PROTOCOL,
            id: manifest.id.clone(),
            file: manifest.file.clone(),
            api: manifest.api().to_owned(),
            settings_json: settings_json.clone(),
            memory_bytes: manifest.memory_bytes,
            kept: self.kept.clone(),
        });
        let failed = |error: std::io::Error| (format!("it cannot be started: {error}"), false);
        let frame = wire::frame(&start).map_err(failed)?;
        self.generation += 1;
        let mail = self.to_self.clone();
        let readers = Readers { generation: self.generation, mail, journal: journal.clone() };
        let mut process = Process::start(host, &manifest.id, folder, readers).map_err(failed)?;
        let written = process.write(&frame, START_MAX);
        self.phase = Phase::Starting { process, by: Instant::now() + START_MAX };
        written.map_err(failed)
    }

    fn hear(&mut self, say: Say) {
        if let Say::Keep { key, value } = &say {
            if !offers::keep(&mut self.kept, key, value) {
                self.fail("it keeps more than it may".into());
            }
            return;
        }
        match (std::mem::replace(&mut self.phase, Phase::Between), say) {
            (Phase::Starting { process, .. }, Say::Ready(ready)) => {
                self.phase = Phase::Idle { process };
                self.is_ready(ready);
            }
            (phase @ Phase::Starting { .. }, Say::Refused(why)) => {
                self.phase = phase;
                self.fail(limiter::line(why.as_bytes()));
            }
            (phase @ Phase::Busy { .. }, Say::Broke(why)) => {
                self.phase = phase;
                self.fail(limiter::line(why.as_bytes()));
            }
            (
                Phase::Busy { process, answer, .. },
                say @ (Say::Result(_) | Say::Verdict(_) | Say::Observed),
            ) => {
                self.phase = Phase::Idle { process };
                let _gone = answer.try_send(Ok(say));
            }
            (phase, _) => {
                self.phase = phase;
                self.fail("it said what nobody asked for".into());
            }
        }
    }

    fn is_ready(&mut self, ready: Ready) {
        if ready.protocol != PROTOCOL {
            self.fail("the host program is another version than the daemon".into());
            return;
        }
        if let Err(why) = crate::tool::specs(&ready) {
            self.fail(why);
            return;
        }
        let before = self.show(|shown| shown.ready.clone());
        if before.is_some_and(|before| before != ready) {
            // What the model was told of the functions would no longer be true.
            self.fail("it describes its functions in another way than before".into());
            return;
        }
        self.charge.journal.own(Level::Info, "ready");
        self.show(|shown| {
            *shown = Shown { ready: Some(ready), down: None, is_given_up: false };
        });
    }

    /// Ends the process and decides what follows.
    fn fail(&mut self, why: String) {
        // What this process still says is of no interest.
        self.generation += 1;
        let mut answer = None;
        let ended = match std::mem::replace(&mut self.phase, Phase::Between) {
            Phase::Starting { process, .. } | Phase::Idle { process } => Some(process.kill()),
            Phase::Busy { process, answer: asked, .. } => {
                answer = Some(asked);
                Some(process.kill())
            }
            Phase::Resting { .. } | Phase::GivenUp { .. } | Phase::Between => None,
        };
        let why = match (why.is_empty(), ended) {
            (true, Some(ended)) => format!("its process ended: {ended}"),
            (true, None) => "its process ended".into(),
            (false, _) => why,
        };
        let why: String = why.chars().take(REASON_BYTES_MAX).collect();
        if let Some(answer) = answer {
            let _gone = answer.try_send(Err(CallError::Broke(why.clone())));
        }
        let now = Instant::now();
        match self.restarts.failed(now) {
            Some(wait) => {
                let line = format!("{why}; it starts again in {} s", wait.as_secs());
                self.charge.journal.own(Level::Warn, &line);
                self.tell_of_failure(Some(wait));
                self.phase = Phase::Resting { until: now + wait };
                self.is_down(format!("it failed and starts again soon: {why}"), false);
            }
            None => self.quarantine(why),
        }
    }

    fn quarantine(&mut self, why: String) {
        let remembered =
            Remembered { disabled: false, quarantine: Some(Quarantine::now(why.clone())) };
        if let Err(error) = self.charge.state.write(&self.charge.manifest.id, &remembered) {
            let line = format!("the quarantine will not survive a restart of the daemon: {error}");
            self.charge.journal.own(Level::Error, &line);
        }
        self.tell_of_failure(None);
        self.give_up(&format!("it is in quarantine: {why}; zonda plugin enable"));
    }

    /// Says that it failed; why, the log tells, for a plugin's own words stay on this box. `wait`:
    /// when it starts again, or that it is in quarantine.
    fn tell_of_failure(&self, wait: Option<Duration>) {
        let Some(news) = &self.charge.news else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let body = json!({
            "kind": CRASHED,
            "plugin": self.charge.manifest.id,
            "version": self.charge.manifest.version,
            "quarantined": wait.is_none(),
            "restart_in_s": wait.map(|wait| wait.as_secs()),
            "time_s": now.map_or(0, |since| since.as_secs()),
        });
        news.tell(News::Event { kind: CRASHED.into(), body: body.to_string() });
    }

    fn give_up(&mut self, why: &str) {
        self.charge.journal.own(Level::Error, why);
        self.phase = Phase::GivenUp { look_at: Instant::now() + LOOK_AGAIN };
        self.is_down(why.to_owned(), true);
    }

    /// Shows why it is down; whoever waits has no reason to any more.
    fn is_down(&mut self, why: String, is_given_up: bool) {
        for call in self.waiting.drain(..) {
            let _gone = call.answer.try_send(Err(CallError::Down(why.clone())));
        }
        self.show(|shown| {
            shown.down = Some(why);
            shown.is_given_up = is_given_up;
        });
    }

    fn show<T>(&self, change: impl FnOnce(&mut Shown) -> T) -> T {
        change(&mut self.board.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks the plugin to end, and ends it.
    fn stop(mut self) {
        let process = match std::mem::replace(&mut self.phase, Phase::Between) {
            Phase::Idle { mut process } => {
                let frame = wire::frame(&Ask::Stop).unwrap_or_default();
                if process.write(&frame, STOP_MAX).is_ok() {
                    self.await_end(&mut process);
                }
                process
            }
            Phase::Starting { process, .. } | Phase::Busy { process, .. } => process,
            Phase::Resting { .. } | Phase::GivenUp { .. } | Phase::Between => return,
        };
        process.kill();
    }

    fn await_end(&self, process: &mut Process) {
        let by = Instant::now() + STOP_MAX;
        while !process.has_ended() {
            let left = by.saturating_duration_since(Instant::now());
            match self.mail.recv_timeout(left) {
                Ok(Mail::Closed { generation, .. }) if generation == self.generation => return,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}
