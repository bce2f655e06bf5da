//! What every entry does: refuses what must be refused, lets no panic out, tells the caller why.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::layout::Str;
use crate::status::{self, Refusal, Status};

/// Longest JSON or text of one call, as the other entrances limit theirs.
pub(crate) const INPUT_BYTES_MAX: usize = 16 << 20;

/// What an engine, its models and its requests share: whether they may still be used.
#[derive(Debug)]
pub(crate) struct Life {
    process: u32,
    poisoned: AtomicBool,
    closed: AtomicBool,
}

impl Life {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            process: std::process::id(),
            poisoned: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        })
    }

    /// Whether this is the process that made the engine, and not a fork of it: threads and
    /// devices do not survive one.
    pub(crate) fn is_home(&self) -> bool {
        self.process == std::process::id()
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// Whether this is the process that made the engine.
    pub(crate) fn check_home(&self) -> Result<(), Refusal> {
        if self.is_home() {
            return Ok(());
        }
        Err(Refusal::state(
            "the engine belongs to the process before fork(); only exec is possible here",
        ))
    }

    /// Whether the handle can be asked anything.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        self.check_home()?;
        if self.is_poisoned() {
            return Err(poisoned());
        }
        Ok(())
    }

    /// Whether the handle takes new work.
    pub(crate) fn check_open(&self) -> Result<(), Refusal> {
        if self.is_closed() {
            return Err(Refusal::state("the engine is shut down; create another one"));
        }
        Ok(())
    }
}

fn poisoned() -> Refusal {
    Refusal::new(
        status::INTERNAL,
        "a defect of libzonda was caught and the engine is out of use; free it and create another",
    )
}

thread_local! {
    // The engines whose callbacks run on this thread, outermost first.
    static CALLBACKS: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Runs a callback of the host, remembering on this thread that it does.
pub(crate) fn inside_callback<R>(life: &Life, callback: impl FnOnce() -> R) -> R {
    struct Mark;
    impl Drop for Mark {
        fn drop(&mut self) {
            CALLBACKS.with_borrow_mut(Vec::pop);
        }
    }
    CALLBACKS.with_borrow_mut(|running| running.push(std::ptr::from_ref(life).addr()));
    let _mark = Mark;
    callback()
}

/// Whether this thread runs any callback of the host.
pub(crate) fn in_callback() -> bool {
    CALLBACKS.with_borrow(|running| !running.is_empty())
}

/// Whether this thread runs a callback of this engine.
pub(crate) fn in_callback_of(life: &Life) -> bool {
    CALLBACKS.with_borrow(|running| running.contains(&std::ptr::from_ref(life).addr()))
}

/// Refuses a call that would wait for the callback it is made from.
pub(crate) fn refuse_in_callback(call: &str) -> Result<(), Refusal> {
    if in_callback() {
        return Err(Refusal::state(format!(
            "{call} waits, so it must not be called in a callback"
        )));
    }
    Ok(())
}

/// Why a call failed.
#[derive(Debug)]
pub struct ErrorHandle {
    pub(crate) status: Status,
    pub(crate) message: String,
    pub(crate) json: String,
}

impl From<Refusal> for ErrorHandle {
    fn from(refusal: Refusal) -> Self {
        let json = chat_json::fault_body(&refusal.fault).to_string();
        Self { status: refusal.status, message: refusal.fault.message, json }
    }
}

/// Bytes owned by the library.
#[derive(Debug)]
pub struct BufferHandle(pub(crate) String);

/// Runs the work of one entry and turns its end into a status.
///
/// A panic ends here: it poisons the engine and becomes `ZONDA_E_INTERNAL`.
///
/// # Safety
/// `error` is NULL or may be written.
pub(crate) unsafe fn enter(
    error: *mut *mut ErrorHandle,
    life: Option<&Life>,
    work: impl FnOnce() -> Result<(), Refusal>,
) -> Status {
    if !error.is_null() {
        // SAFETY: the caller of the entry vouches for its error slot.
        unsafe { error.write(std::ptr::null_mut()) };
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        life.map_or(Ok(()), Life::check)?;
        work()
    }));
    let refusal = match outcome {
        Ok(Ok(())) => return status::OK,
        Ok(Err(refusal)) => refusal,
        Err(_panic) => {
            if let Some(life) = life {
                life.poison();
            }
            poisoned()
        }
    };
    let status = refusal.status;
    if !error.is_null() {
        // The JSON form is made by foreign code to this module: it must not unwind either.
        let made = catch_unwind(AssertUnwindSafe(|| Box::new(ErrorHandle::from(refusal))));
        if let Ok(made) = made {
            // SAFETY: as above.
            unsafe { error.write(Box::into_raw(made)) };
        }
    }
    status
}

/// A handle given by the caller.
///
/// # Safety
/// `handle` is NULL or came from this library and is not freed.
pub(crate) unsafe fn live<'a, T>(handle: *const T, name: &str) -> Result<&'a T, Refusal> {
    // SAFETY: as the caller says.
    unsafe { handle.as_ref() }.ok_or_else(|| Refusal::argument(format!("{name} is NULL")))
}

/// NUL-terminated UTF-8 given by the caller; `None` for NULL.
///
/// # Safety
/// `text` is NULL or NUL-terminated.
pub(crate) unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<Option<&'a str>, Refusal> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller says.
    let text = unsafe { CStr::from_ptr(text) };
    let text = text.to_str().map_err(|_| Refusal::argument(format!("{name} is not UTF-8")))?;
    Ok(Some(text))
}

/// Items given by the caller as pointer and count.
///
/// # Safety
/// `first` is NULL or points at `count` readable items.
pub(crate) unsafe fn items<'a, T>(
    first: *const T,
    count: usize,
    name: &str,
) -> Result<&'a [T], Refusal> {
    if count == 0 {
        return Ok(&[]);
    }
    if first.is_null() {
        return Err(Refusal::argument(format!("{name} is NULL, but its length is {count}")));
    }
    let fits = count.checked_mul(size_of::<T>()).is_some_and(|bytes| bytes <= INPUT_BYTES_MAX);
    if !fits {
        return Err(Refusal::argument(format!(
            "{name} has {count} items of {} bytes; at most {INPUT_BYTES_MAX} bytes are taken",
            size_of::<T>(),
        )));
    }
    // SAFETY: not NULL, and `count` items are readable as the caller says.
    Ok(unsafe { std::slice::from_raw_parts(first, count) })
}

/// A place for a result, which must not be NULL.
pub(crate) fn place<T>(out: *mut T, name: &str) -> Result<*mut T, Refusal> {
    if out.is_null() {
        return Err(Refusal::argument(format!("{name} is NULL")));
    }
    Ok(out)
}

/// Hands text over to the caller as a buffer of its own.
///
/// # Safety
/// `out` may be written.
pub(crate) unsafe fn give_text(out: *mut *mut BufferHandle, text: String) {
    // SAFETY: as the caller says.
    unsafe { out.write(Box::into_raw(Box::new(BufferHandle(text)))) };
}

/// What the host wants back in its callbacks. The library never looks behind it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UserData(pub(crate) *mut c_void);

// SAFETY: the pointer is only handed back; the header says on which threads callbacks run, so the
// host answers for what it points at.
unsafe impl Send for UserData {}
// SAFETY: as above.
unsafe impl Sync for UserData {}

/// Where messages of the border go: what went wrong where no call could return it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Log {
    pub(crate) level: i32,
    pub(crate) function: crate::layout::LogFn,
    pub(crate) user_data: UserData,
}

impl Log {
    pub(crate) const ERROR: i32 = 1;
    pub(crate) const WARNING: i32 = 2;
    pub(crate) const DETAIL: i32 = 3;

    /// Writes one message. Never holds a prompt or an answer.
    pub(crate) fn write(&self, life: &Life, level: i32, message: &str) {
        if level > self.level {
            return;
        }
        let Some(function) = self.function else {
            // Nobody can be told that stderr is closed, and it must not become a panic.
            let _written = writeln!(std::io::stderr(), "libzonda: {message}");
            return;
        };
        inside_callback(life, || {
            // SAFETY: the host gave this function for this use; both texts outlive the call.
            unsafe { function(level, Str::of("zonda"), Str::of(message), self.user_data.0) }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_becomes_a_status_and_poisons() {
        let life = Life::new();
        let mut error = std::ptr::null_mut();
        // SAFETY: `error` is a live slot.
        let status = unsafe { enter(&raw mut error, Some(&life), || panic!("defect")) };
        assert_eq!(status, status::INTERNAL);
        // SAFETY: `enter` made it; nobody else holds it.
        let error = unsafe { Box::from_raw(error) };
        assert_eq!(error.status, status::INTERNAL);
        // SAFETY: no error slot.
        let later = unsafe { enter(std::ptr::null_mut(), Some(&life), || Ok(())) };
        assert_eq!(later, status::INTERNAL);
    }

    #[test]
    fn callbacks_are_marked_on_their_thread_only() {
        let (one, other) = (Life::new(), Life::new());
        inside_callback(&one, || {
            inside_callback(&other, || assert!(in_callback_of(&one) && in_callback_of(&other)));
            assert!(!in_callback_of(&other));
            assert!(!std::thread::spawn(in_callback).join().unwrap());
            assert_eq!(refuse_in_callback("x").unwrap_err().status, status::INVALID_STATE);
        });
        assert!(!in_callback());
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        let byte = 0u8;
        for (first, count) in [(std::ptr::null(), 1), (&raw const byte, usize::MAX)] {
            // SAFETY: both are refused before anything is read.
            let refused = unsafe { items(first, count, "x") };
            assert_eq!(refused.unwrap_err().status, status::INVALID_ARGUMENT);
        }
        // SAFETY: nothing is read.
        let nothing = unsafe { items::<u8>(std::ptr::null(), 0, "x") };
        assert_eq!(nothing, Ok(&[][..]));
    }
}
