//! Threads for short, regular steps.
//!
//! A decoded token is a few hundred forks and joins of some 100 µs each, so that waking a sleeping
//! thread for each would cost as much as the work. Workers look for the next job for some
//! microseconds before they sleep; between requests they cost nothing. The thread that brings a job
//! works too, and takes the rest of it when the others are late: a worker that the system keeps
//! from running delays nobody, because nobody waits for a worker that has not begun.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::Thread;

/// Looks at the gate before a worker sleeps: some 50 µs, longer than the gap between two jobs of a
/// step and shorter than anyone notices.
const SPINS: u32 = 4_000;
/// The gate's bit that says that the job may be entered.
const OPEN: u64 = 1 << 31;
/// The gate's bits that count who is inside.
const INSIDE: u64 = OPEN - 1;

static POOL: OnceLock<Pool> = OnceLock::new();

/// Sets how many threads compute; 0 takes all cores.
///
/// Only the first call of a process counts: a pool that works cannot be resized.
pub fn use_threads(threads: u32) {
    POOL.get_or_init(|| Pool::start(resolved(threads)));
}

/// How many threads compute, the caller's included.
pub fn count() -> usize {
    pool().workers.len() + 1
}

/// Calls `task` once for each number below `tasks`, on all threads of the pool, and waits.
///
/// Threads: one job at a time; a job that comes while another runs is done by its caller alone.
/// Panics: as `task` does.
pub(crate) fn for_each(tasks: usize, task: impl Fn(usize) + Sync) {
    if tasks == 1 {
        return task(0);
    }
    pool().for_each(tasks, &task);
}

fn resolved(threads: u32) -> usize {
    match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count as usize,
    }
}

fn pool() -> &'static Pool {
    POOL.get_or_init(|| Pool::start(resolved(0)))
}

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// What workers and the caller share.
struct Shared {
    /// Number of the job (upper half), whether it may be entered, and how many are inside.
    gate: AtomicU64,
    /// The job: a pointer to the caller's `&Task`, valid while the gate counts someone inside.
    job: AtomicPtr<()>,
    /// The next number that nobody has taken.
    next: AtomicUsize,
    tasks: AtomicUsize,
    /// What a task panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

struct Worker {
    thread: Thread,
    asleep: &'static AtomicBool,
}

struct Pool {
    shared: &'static Shared,
    workers: Vec<Worker>,
    /// Held by the caller whose job is in the pool.
    busy: Mutex<()>,
}

impl Pool {
    /// Workers live as long as the process, so what they share does too.
    fn start(threads: usize) -> Self {
        let shared: &'static Shared = Box::leak(Box::new(Shared {
            gate: AtomicU64::new(0),
            job: AtomicPtr::new(ptr::null_mut()),
            next: AtomicUsize::new(0),
            tasks: AtomicUsize::new(0),
            panic: Mutex::new(None),
        }));
        let workers = (1..threads).filter_map(|index| {
            let asleep: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
            let builder = std::thread::Builder::new().name(format!("compute-{index}"));
            // A system that gives no more threads computes with those there are.
            let handle = builder.spawn(move || work(shared, asleep)).ok()?;
            Some(Worker { thread: handle.thread().clone(), asleep })
        });
        Self { shared, workers: workers.collect(), busy: Mutex::new(()) }
    }

    fn for_each(&self, tasks: usize, task: &Task<'_>) {
        let Ok(_busy) = self.busy.try_lock() else {
            return (0..tasks).for_each(task);
        };
        let shared = self.shared;
        let job: *const &Task<'_> = &raw const task;
        shared.job.store(job.cast_mut().cast(), Ordering::Relaxed);
        shared.tasks.store(tasks, Ordering::Relaxed);
        shared.next.store(0, Ordering::Relaxed);
        let number = (shared.gate.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        // Sequentially consistent with `asleep`: either this sees a worker asleep, or the worker
        // sees the gate open before it sleeps.
        shared.gate.store(number << 32 | OPEN, Ordering::SeqCst);
        for worker in &self.workers {
            if worker.asleep.load(Ordering::SeqCst) {
                worker.thread.unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| shared.take(task)));
        if own.is_err() {
            // Nobody takes what is left of a job that has failed.
            shared.next.store(tasks, Ordering::Relaxed);
        }
        shared.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut looks = 0u32;
        while shared.gate.load(Ordering::Acquire) & INSIDE != 0 {
            pause(&mut looks);
        }
        let theirs = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(_busy);
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }
}

impl Shared {
    fn take(&self, task: &Task<'_>) {
        let tasks = self.tasks.load(Ordering::Relaxed);
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= tasks {
                return;
            }
            task(number);
        }
    }
}

/// Waits a little; a thread that has waited long lets others run.
fn pause(looks: &mut u32) {
    *looks += 1;
    if *looks < SPINS {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

fn work(shared: &'static Shared, asleep: &'static AtomicBool) {
    let mut seen = 0;
    loop {
        let gate = next_job(shared, asleep, seen);
        seen = gate >> 32;
        let entered = gate + 1;
        if shared.gate.compare_exchange(gate, entered, Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            // Another worker entered at the same time, or the job is over: look again.
            seen = seen.wrapping_sub(1);
            continue;
        }
        let job: *const &Task<'static> = shared.job.load(Ordering::Relaxed).cast();
        // SAFETY: the gate was open and counts this worker inside, so the caller of the job is in
        // `for_each` and stays there until the count is back at zero; the pointer is to a local of
        // it, published by the store that opened the gate.
        let task = unsafe { *job };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| shared.take(task))) {
            shared.next.store(usize::MAX / 2, Ordering::Relaxed);
            *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        shared.gate.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Waits for an open gate with another number than `seen`.
fn next_job(shared: &Shared, asleep: &AtomicBool, seen: u64) -> u64 {
    let waiting = |order| {
        let gate = shared.gate.load(order);
        (gate & OPEN != 0 && gate >> 32 != seen).then_some(gate)
    };
    for _ in 0..SPINS {
        if let Some(gate) = waiting(Ordering::Acquire) {
            return gate;
        }
        std::hint::spin_loop();
    }
    loop {
        asleep.store(true, Ordering::SeqCst);
        let gate = waiting(Ordering::SeqCst);
        if gate.is_none() {
            std::thread::park();
        }
        asleep.store(false, Ordering::SeqCst);
        if let Some(gate) = gate {
            return gate;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_done_once_in_every_job() {
        let pool = Pool::start(3);
        for tasks in (0..200).chain([1000]) {
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.for_each(tasks, &|number| {
                counts[number].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{tasks}");
        }
    }

    #[test]
    fn workers_that_sleep_are_woken() {
        let pool = Pool::start(2);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            let callers = Mutex::new(std::collections::HashSet::new());
            let both = std::sync::Barrier::new(2);
            // Two tasks that wait for each other need two threads.
            pool.for_each(2, &|_| {
                both.wait();
                callers.lock().unwrap().insert(std::thread::current().id());
            });
            assert_eq!(callers.into_inner().unwrap().len(), 2);
        }
    }

    #[test]
    fn a_job_inside_a_job_and_beside_a_job_is_done_by_its_caller() {
        let pool = Pool::start(2);
        let sum = AtomicUsize::new(0);
        pool.for_each(4, &|outer| {
            pool.for_each(4, &|inner| {
                sum.fetch_add(outer * 4 + inner, Ordering::Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), (0..16).sum::<usize>());
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::start(2);
        for _ in 0..20 {
            let failed = catch_unwind(AssertUnwindSafe(|| {
                pool.for_each(8, &|number| assert!(number != 5, "task 5"));
            }));
            assert!(failed.is_err());
            let done = AtomicUsize::new(0);
            pool.for_each(8, &|_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.into_inner(), 8);
        }
    }
}
