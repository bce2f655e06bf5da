//! An observer in Rust: logs how long requests took, a line for each hundred, and at its end.
//!
//! `plugin_abi::abi` is the header in Rust; nothing else of the crate is needed.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use plugin_abi::abi::{
    self, Descriptor, Entry, Factory, Host, HostLog, Observation, Observer, Plugin, Str,
};

/// Requests of one line.
const LINE_REQUESTS: u64 = 100;
const INFO: i32 = 1;

static HOST: AtomicPtr<Host> = AtomicPtr::new(null_mut());
static REQUESTS: AtomicU64 = AtomicU64::new(0);
static TOTAL_MS: AtomicU64 = AtomicU64::new(0);

/// Pointers to what never changes.
struct Table<T>(T);
// SAFETY: tables are read alone, by whomever.
unsafe impl<T> Sync for Table<T> {}

/// What the host reads first.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "the name is the interface's")]
pub static zonda_plugin_entry: Entry = Entry {
    version: abi::VERSION,
    init: Some(entry_init),
    deinit: Some(entry_deinit),
    get_factory: Some(get_factory),
};

static FACTORY: Factory =
    Factory { count: Some(count), descriptor: Some(descriptor), create: Some(create) };

static DESCRIPTOR: Table<Descriptor> = Table(Descriptor {
    version: abi::VERSION,
    id: c"com.example.latency".as_ptr(),
    name: c"Latency".as_ptr(),
    vendor: c"Example".as_ptr(),
    version_text: c"1.0.0".as_ptr(),
    description: c"Logs how long requests took.".as_ptr(),
});

static PLUGIN: Table<Plugin> = Table(Plugin {
    descriptor: &raw const DESCRIPTOR.0,
    data: null_mut(),
    init: Some(init),
    destroy: Some(destroy),
    activate: Some(activate),
    deactivate: Some(deactivate),
    get_extension: Some(get_extension),
});

static OBSERVER: Observer = Observer { observe: Some(observe) };

unsafe extern "C" fn entry_init(_path: *const c_char) -> bool {
    true
}

unsafe extern "C" fn entry_deinit() {}

unsafe extern "C" fn get_factory(id: *const c_char) -> *const c_void {
    // SAFETY: the host passes a text that ends with a zero.
    let is_known = unsafe { CStr::from_ptr(id) } == abi::FACTORY;
    if is_known { (&raw const FACTORY).cast() } else { null() }
}

unsafe extern "C" fn count(_factory: *const Factory) -> u32 {
    1
}

unsafe extern "C" fn descriptor(_factory: *const Factory, index: u32) -> *const Descriptor {
    if index == 0 { &raw const DESCRIPTOR.0 } else { null() }
}

unsafe extern "C" fn create(
    _factory: *const Factory,
    host: *const Host,
    _id: *const c_char,
) -> *const Plugin {
    HOST.store(host.cast_mut(), Ordering::Relaxed);
    &raw const PLUGIN.0
}

unsafe extern "C" fn init(_plugin: *const Plugin) -> bool {
    true
}

unsafe extern "C" fn activate(_plugin: *const Plugin, _settings: Str) -> bool {
    true
}

unsafe extern "C" fn deactivate(_plugin: *const Plugin) {
    tell();
}

unsafe extern "C" fn destroy(_plugin: *const Plugin) {}

unsafe extern "C" fn get_extension(_plugin: *const Plugin, id: *const c_char) -> *const c_void {
    // SAFETY: the host passes a text that ends with a zero.
    let is_known = unsafe { CStr::from_ptr(id) } == abi::OBSERVER;
    if is_known { (&raw const OBSERVER).cast() } else { null() }
}

unsafe extern "C" fn observe(
    _plugin: *const Plugin,
    observations: *const Observation,
    count: usize,
    _dropped: u64,
) {
    if observations.is_null() {
        return;
    }
    // SAFETY: not null, and the host passes so many, which live through the call.
    let seen = unsafe { std::slice::from_raw_parts(observations, count) };
    for one in seen {
        TOTAL_MS.fetch_add(u64::from(one.total_ms), Ordering::Relaxed);
        let before = REQUESTS.fetch_add(1, Ordering::Relaxed);
        if (before + 1).is_multiple_of(LINE_REQUESTS) {
            tell();
        }
    }
}

fn tell() {
    let (requests, total) = (REQUESTS.load(Ordering::Relaxed), TOTAL_MS.load(Ordering::Relaxed));
    let mean = total.checked_div(requests).unwrap_or_default();
    log(&format!("{requests} requests, {mean} ms each on average"));
}

fn log(line: &str) {
    let host = HOST.load(Ordering::Relaxed).cast_const();
    let Ok(line) = CString::new(line) else { return };
    // SAFETY: the host is null, or lives until destroy.
    let Some(given) = (unsafe { host.as_ref() }) else { return };
    // SAFETY: the host's function, with itself; what it gives is what the id says, or null.
    unsafe {
        let log = (given.get_extension)(host, abi::LOG.as_ptr()).cast::<HostLog>();
        if let Some(log) = log.as_ref() {
            (log.log)(host, INFO, line.as_ptr());
        }
    }
}
