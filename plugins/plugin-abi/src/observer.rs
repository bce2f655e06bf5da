//! A plugin as an observer: what became of requests waits in a bounded queue, and a thread hands it
//! over. Requests never wait for it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use protocol::{Observation, Observer};

use crate::limits::{OBSERVATIONS_CALL_MAX, OBSERVATIONS_MAX};
use crate::plugin::Plugin;
use crate::wire::{self, Ask};

/// How long observations wait for a plugin that is down before the next try.
const AGAIN: Duration = Duration::from_secs(1);

pub(crate) struct PluginObserver {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    change: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<wire::Observation>,
    dropped: u64,
    is_closed: bool,
}

impl Queue {
    /// The oldest goes when there is no room.
    fn push(&mut self, observation: wire::Observation) {
        if self.waiting.len() >= OBSERVATIONS_MAX {
            self.waiting.pop_front();
            self.dropped += 1;
        }
        self.waiting.push_back(observation);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PluginObserver {
    pub(crate) fn start(plugin: Plugin) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let pumped = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("plugin-observer".into())
            .spawn(move || pump(&plugin, &pumped))?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Observer for PluginObserver {
    fn observe(&self, seen: &Observation) {
        let whole =
            |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX - 1);
        let usage = &seen.usage;
        self.shared.lock().push(wire::Observation {
            model: seen.model.chars().take(128).collect(),
            outcome: seen.outcome.to_owned(),
            tokens: [usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens],
            accepted_ms: seen.accepted.map(whole),
            first_text_ms: seen.first_text.map(whole),
            total_ms: whole(seen.total),
        });
        self.shared.change.notify_one();
    }
}

impl Drop for PluginObserver {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.change.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn pump(plugin: &Plugin, shared: &Shared) {
    loop {
        let (observations, dropped) = {
            let idle = |queue: &mut Queue| queue.waiting.is_empty() && !queue.is_closed;
            let queue = shared.change.wait_while(shared.lock(), idle);
            let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
            if queue.is_closed {
                return;
            }
            let some = queue.waiting.len().min(OBSERVATIONS_CALL_MAX);
            (queue.waiting.drain(..some).collect(), std::mem::take(&mut queue.dropped))
        };
        let ask = Ask::Observe { observations, dropped };
        if plugin.call(&ask, None).is_err() {
            let Ask::Observe { observations, dropped } = ask else { return };
            let mut queue = shared.lock();
            queue.dropped += dropped + observations.len() as u64;
            let open = |queue: &mut Queue| !queue.is_closed;
            drop(shared.change.wait_timeout_while(queue, AGAIN, open));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_drops_the_oldest_and_counts() {
        let mut queue = Queue::default();
        for number in 0..OBSERVATIONS_MAX as u32 + 5 {
            queue.push(wire::Observation {
                model: String::new(),
                outcome: "stop".into(),
                tokens: [0; 3],
                accepted_ms: None,
                first_text_ms: None,
                total_ms: number,
            });
        }
        assert_eq!((queue.waiting.len(), queue.dropped), (OBSERVATIONS_MAX, 5));
        assert_eq!(queue.waiting[0].total_ms, 5);
    }
}
