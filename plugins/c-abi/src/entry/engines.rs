//! Engines and their configuration.

use std::ffi::c_char;
use std::path::PathBuf;
use std::ptr;
use std::time::Duration;

use serde_json::json;

use crate::border::{
    BufferHandle, ErrorHandle, Log, UserData, enter, give_text, in_callback, live, place,
    refuse_in_callback, text,
};
use crate::engine::{Engine, EngineHandle};
use crate::house::Builds;
use crate::layout::{self, EngineParams, Stats};
use crate::rooms::{Builder, Laid, Settings};
use crate::status::{self, Refusal, Status};

fn defaults() -> EngineParams {
    EngineParams { abi_version: crate::ABI_VERSION, log_level: Log::WARNING, ..layout::zeroed() }
}

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_engine_params_init(
    params: *mut EngineParams,
    struct_size: usize,
) -> Status {
    // SAFETY: no error slot; the caller's struct is as large as it says.
    unsafe {
        enter(ptr::null_mut(), None, || layout::write_defaults(params, struct_size, defaults()))
    }
}

/// Makes an engine; loads no model yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_engine_create(
    params: *const EngineParams,
    out: *mut *mut EngineHandle,
    error: *mut *mut ErrorHandle,
) -> Status {
    let work = || {
        let out = place(out, "out")?;
        // SAFETY: not NULL; the caller's to write.
        unsafe { out.write(ptr::null_mut()) };
        // SAFETY: NULL, or a struct that tells its size and holds live texts.
        let (settings, log) = unsafe { read_params(params) }?;
        let engine = Engine::create(Box::new(Builds), settings, log)?;
        // SAFETY: as above.
        unsafe { out.write(Box::into_raw(Box::new(engine))) };
        Ok(())
    };
    // SAFETY: the caller vouches for its error slot.
    unsafe { enter(error, None, work) }
}

/// Cancels what runs, joins the threads. Models, requests and sessions of the engine still want
/// their own _free; until then a model takes no work and a request tells how it ended. Threads of
/// the program that call zonda_tool_respond have to be done before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_engine_free(engine: *mut EngineHandle) {
    // SAFETY: NULL or a live handle.
    let Ok(handle) = (unsafe { live(engine, "engine") }) else {
        return;
    };
    let life = std::sync::Arc::clone(&handle.0.life);
    if !life.is_home() {
        return;
    }
    if in_callback() {
        handle.0.log.write(&life, Log::ERROR, "zonda_engine_free in a callback does nothing");
        return;
    }
    let work = || {
        // SAFETY: made by Box::into_raw in zonda_engine_create; the caller gives it up.
        let engine = unsafe { Box::from_raw(engine) };
        engine.0.end();
        Ok(())
    };
    // A poisoned engine is freed all the same, so its life is not asked.
    // SAFETY: no error slot.
    unsafe { enter(ptr::null_mut(), None, work) };
}

/// Takes no more requests, lets the running ones end for at most drain_ms, then cancels them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_engine_shutdown(
    engine: *mut EngineHandle,
    drain_ms: u32,
    error: *mut *mut ErrorHandle,
) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(engine, "engine") };
    let life = handle.as_ref().ok().map(|handle| handle.0.life.as_ref());
    let work = || {
        let engine = &handle.clone()?.0;
        refuse_in_callback("zonda_engine_shutdown")?;
        engine.shutdown(Duration::from_millis(drain_ms.into()));
        Ok(())
    };
    // SAFETY: the caller vouches for its error slot.
    unsafe { enter(error, life, work) }
}

/// What the engine has done and does. A poisoned engine tells it too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_engine_stats(
    engine: *const EngineHandle,
    inout: *mut Stats,
) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(engine, "engine") };
    let work = || {
        let engine = &handle.clone()?.0;
        // A poisoned engine may still be asked how it is.
        engine.life.check_home()?;
        let stats = engine.stats();
        // SAFETY: the caller set struct_size.
        unsafe { layout::fill(inout, stats) }
    };
    // SAFETY: no error slot.
    unsafe { enter(ptr::null_mut(), None, work) }
}

/// The same as OpenMetrics text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_engine_metrics_text(
    engine: *const EngineHandle,
    out: *mut *mut BufferHandle,
    error: *mut *mut ErrorHandle,
) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(engine, "engine") };
    let work = || {
        let out = place(out, "out")?;
        // SAFETY: not NULL; the caller's to write.
        unsafe { out.write(ptr::null_mut()) };
        let engine = &handle.clone()?.0;
        // A poisoned engine may still be asked how it is.
        engine.life.check_home()?;
        let text = crate::metrics::text(&engine.stats());
        // SAFETY: as above.
        unsafe { give_text(out, text) };
        Ok(())
    };
    // SAFETY: the caller vouches for its error slot.
    unsafe { enter(error, None, work) }
}

/// {"valid": true, "warnings": [...]} or {"valid": false, "problem": "..."}. A NULL path checks
/// what the system has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_config_check(
    path: *const c_char,
    report_json: *mut *mut BufferHandle,
    error: *mut *mut ErrorHandle,
) -> Status {
    let work = || {
        let out = place(report_json, "report_json")?;
        // SAFETY: not NULL; the caller's to write.
        unsafe { out.write(ptr::null_mut()) };
        // SAFETY: NULL or NUL-terminated.
        let path = unsafe { text(path, "path") }?;
        let settings = Settings { config: path.map(PathBuf::from), ..Settings::default() };
        let report = match Builds.check(&settings) {
            Ok(warnings) => json!({"valid": true, "warnings": warnings}),
            Err(refusal) => json!({"valid": false, "problem": refusal.fault.message}),
        };
        // SAFETY: as above.
        unsafe { give_text(out, report.to_string()) };
        Ok(())
    };
    // SAFETY: the caller vouches for its error slot.
    unsafe { enter(error, None, work) }
}

/// # Safety
/// As for [`layout::read`]; every text is NULL or NUL-terminated.
unsafe fn read_params(params: *const EngineParams) -> Result<(Settings, Log), Refusal> {
    // SAFETY: as the caller says.
    let params = unsafe { layout::read(params) }?.unwrap_or_else(defaults);
    if params.abi_version != crate::ABI_VERSION {
        return Err(Refusal::new(
            status::ABI_MISMATCH,
            format!(
                "the caller was built for ABI {}, this is libzonda {} with ABI {}; \
                 call zonda_engine_params_init and link against libzonda.so.{}",
                params.abi_version,
                crate::VERSION,
                crate::ABI_VERSION,
                params.abi_version,
            ),
        ));
    }
    if params.flags != 0 {
        return Err(Refusal::unsupported("zonda_engine_params.flags must be 0"));
    }
    if !params.config_toml.is_null() {
        return Err(Refusal::unsupported("zonda_engine_params.config_toml must be NULL"));
    }
    // SAFETY: each is NULL or NUL-terminated.
    let (config, device, profile) = unsafe {
        (
            text(params.config_path, "config_path")?,
            text(params.device, "device")?,
            text(params.profile, "profile")?,
        )
    };
    let mut overrides = Vec::new();
    let mut lay = |key, value, field| overrides.push(Laid { key, value, field });
    if let Some(device) = device {
        let value = backend_of(device).to_owned();
        lay("device.backend", value, "zonda_engine_params.device");
    }
    if params.worker_threads != 0 {
        let value = params.worker_threads.to_string();
        lay("device.threads", value, "zonda_engine_params.worker_threads");
    }
    if params.max_queue != 0 {
        let value = params.max_queue.to_string();
        lay("engine.queue_requests_max", value, "zonda_engine_params.max_queue");
    }
    let settings = Settings {
        config: config.map(PathBuf::from),
        profile: profile.map(str::to_owned),
        overrides,
    };
    let log = Log {
        level: params.log_level,
        function: params.log_fn,
        user_data: UserData(params.log_user_data),
    };
    Ok((settings, log))
}

/// The configuration's word for a device of the header: the first device of a kind is the kind.
fn backend_of(device: &str) -> &str {
    match device {
        "cpu" | "cpu:0" => "flex",
        _ => device.strip_suffix(":0").unwrap_or(device),
    }
}
