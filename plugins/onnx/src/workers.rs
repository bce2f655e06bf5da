//! The threads that small networks compute on.
//!
//! They are few, so that the model keeps its cores, and every caller has one run in their queue at
//! most: who sends many texts waits for each, and whoever comes meanwhile is next.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

type Job = Box<dyn FnOnce() + Send>;

/// A few threads and a queue before them. Dropping it ends them after what they run.
pub struct Workers {
    jobs: Option<flume::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
    taken: Arc<AtomicU32>,
    callers_max: u32,
}

/// A run did not take place or gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkError {
    /// As many ask as may.
    #[error("{callers_max} callers wait already, which is the limit")]
    Busy {
        /// The limit.
        callers_max: u32,
    },
    /// The moment after which nobody wants the result has come.
    #[error("the deadline passed before it ran")]
    Late,
    /// It panicked.
    #[error("it met a defect of this program")]
    Panicked,
    /// The threads are gone.
    #[error("the program is shutting down")]
    Stopped,
}

/// The right to have one run in the queue at a time. Given back when dropped.
pub struct Caller<'a> {
    workers: &'a Workers,
}

impl Workers {
    /// Starts `threads` of them for at most `callers_max` callers; both at least 1.
    ///
    /// Errors: the system starts no thread.
    pub fn start(threads: u32, callers_max: u32) -> std::io::Result<Self> {
        let callers_max = callers_max.max(1);
        let (sender, receiver) = flume::bounded::<Job>(callers_max as usize);
        let mut started = Vec::new();
        for number in 0..threads.max(1) {
            let jobs = receiver.clone();
            let named = thread::Builder::new().name(format!("zonda-onnx-{number}"));
            started.push(named.spawn(move || jobs.into_iter().for_each(|job| job()))?);
        }
        let taken = Arc::new(AtomicU32::new(0));
        Ok(Self { jobs: Some(sender), threads: started, taken, callers_max })
    }

    /// One more caller.
    ///
    /// Errors: [`WorkError::Busy`] where there are as many as may be.
    pub fn caller(&self) -> Result<Caller<'_>, WorkError> {
        let more = |taken: u32| (taken < self.callers_max).then_some(taken + 1);
        match self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more) {
            Ok(_) => Ok(Caller { workers: self }),
            Err(_) => Err(WorkError::Busy { callers_max: self.callers_max }),
        }
    }
}

impl Caller<'_> {
    /// Runs `work` on one of the threads and waits for what it gives.
    ///
    /// Errors: the deadline passed before its turn came, it panicked, or the threads are gone.
    pub fn run<T: Send + 'static>(
        &self,
        deadline: Option<Instant>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkError> {
        let (sender, receiver) = flume::bounded(1);
        let job = move || {
            let done = match deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                true => Err(WorkError::Late),
                false => catch_unwind(AssertUnwindSafe(work)).map_err(|_| WorkError::Panicked),
            };
            // Whoever waited is gone: there is nobody left to tell.
            let _told = sender.send(done);
        };
        let jobs = self.workers.jobs.as_ref().ok_or(WorkError::Stopped)?;
        jobs.send(Box::new(job)).map_err(|_| WorkError::Stopped)?;
        receiver.recv().unwrap_or(Err(WorkError::Stopped))
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        self.workers.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs.take();
        for thread in self.threads.drain(..) {
            // A job's panic is caught where it runs, so a thread ends well.
            let _ended = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn callers_are_bounded_and_a_seat_comes_back() {
        let workers = Workers::start(1, 2).unwrap();
        let (first, _second) = (workers.caller().unwrap(), workers.caller().unwrap());
        assert_eq!(workers.caller().err(), Some(WorkError::Busy { callers_max: 2 }));
        drop(first);
        assert_eq!(workers.caller().unwrap().run(None, || 4), Ok(4));
    }

    #[test]
    fn a_panic_ends_its_run_alone() {
        let workers = Workers::start(1, 1).unwrap();
        let caller = workers.caller().unwrap();
        assert_eq!(caller.run(None, || panic!("asked for")), Err::<(), _>(WorkError::Panicked));
        assert_eq!(caller.run(None, || 4), Ok(4));
    }

    #[test]
    fn what_comes_too_late_does_not_run() {
        let workers = Workers::start(1, 1).unwrap();
        let caller = workers.caller().unwrap();
        let passed = Instant::now() - Duration::from_millis(1);
        let run = caller.run(Some(passed), || panic!("it must not run"));
        assert_eq!(run, Err::<(), _>(WorkError::Late));
    }

    #[test]
    fn who_has_much_lets_others_in_between() {
        let workers = Workers::start(1, 2).unwrap();
        let (started, has_started) = mpsc::channel();
        let (order, ran) = mpsc::channel();
        thread::scope(|scope| {
            let (workers, many) = (&workers, order.clone());
            let (release, released) = mpsc::channel::<()>();
            scope.spawn(move || {
                let caller = workers.caller().unwrap();
                let first = many.clone();
                caller
                    .run(None, move || {
                        started.send(()).unwrap();
                        released.recv().unwrap();
                        first.send("many 1").unwrap();
                    })
                    .unwrap();
                let second = many.clone();
                caller.run(None, move || second.send("many 2").unwrap()).unwrap();
            });
            has_started.recv().unwrap();
            let waits = scope.spawn(move || {
                let caller = workers.caller().unwrap();
                caller.run(None, move || order.send("one").unwrap()).unwrap();
            });
            let queue = workers.jobs.as_ref().unwrap();
            while queue.is_empty() {
                thread::yield_now();
            }
            release.send(()).unwrap();
            waits.join().unwrap();
        });
        assert_eq!(ran.iter().collect::<Vec<_>>(), ["many 1", "one", "many 2"]);
    }
}
