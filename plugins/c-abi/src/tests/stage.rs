//! Scripted rooms behind real handles, and short words for the calls.

use std::ffi::{c_char, c_void};
use std::path::Path;
use std::ptr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::{Request, Service, TokenId, Toolbox};
use serde_json::{Value, json};

use crate::border::{Log, UserData};
use crate::engine::Engine;
use crate::rooms::{Builder, Figures, Rooms, Settings};
use crate::script::Script;
use crate::status::Refusal;
use crate::*;

/// Builds scripted rooms; remembers the last ones.
#[derive(Clone, Default)]
pub(super) struct Stage(pub(super) Arc<Mutex<Option<Arc<Script>>>>);

impl Builder for Stage {
    fn check(&self, _settings: &Settings) -> Result<Vec<String>, Refusal> {
        Ok(vec!["a warning".into()])
    }

    fn build(
        &self,
        _settings: &Settings,
        _model: Option<&Path>,
        toolbox: Arc<dyn Toolbox>,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Arc<dyn Rooms>, Refusal> {
        if !progress(0.5) {
            return Err(Refusal::new(INTERNAL, "aborted"));
        }
        let script = Arc::new(Script::with(toolbox));
        *lock(&self.0) = Some(Arc::clone(&script));
        Ok(Arc::new(Scripted(script)))
    }

    fn verify(&self, _settings: &Settings, model: Option<&Path>) -> Result<Value, Refusal> {
        Ok(json!({"valid": true, "path": model}))
    }
}

struct Scripted(Arc<Script>);

impl Rooms for Scripted {
    fn service(&self) -> Arc<dyn Service> {
        Arc::clone(&self.0) as Arc<dyn Service>
    }

    fn tokenize(&self, text: &str) -> Result<Vec<TokenId>, Refusal> {
        assert_ne!(text, "defect", "scripted");
        Ok(text.bytes().map(|byte| TokenId(byte.into())).collect())
    }

    fn detokenize(&self, tokens: &[TokenId]) -> Result<String, Refusal> {
        tokens
            .iter()
            .map(|token| char::from_u32(token.0).ok_or_else(|| Refusal::argument("no such token")))
            .collect()
    }

    fn prompt_tokens(&self, _request: &Request) -> Result<usize, Refusal> {
        Ok(7)
    }

    fn figures(&self) -> Figures {
        Figures { requests_ok: self.0.ended.load(Ordering::Acquire), ..Figures::default() }
    }

    fn facts(&self) -> Value {
        json!({"container": "script"})
    }

    fn shutdown(&self, _drain: Duration) {
        self.0.stop();
    }
}

/// Texts that the host got from a callback of its own.
#[derive(Default)]
pub(super) struct Heard(pub(super) Mutex<Vec<String>>);

impl Heard {
    pub(super) fn user_data(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }
}

/// Collects log messages.
pub(super) unsafe extern "C" fn hear_log(_: i32, _: Str, message: Str, user_data: *mut c_void) {
    // SAFETY: the tests hand a Heard that outlives its engine.
    let heard = unsafe { &*user_data.cast::<Heard>() };
    lock(&heard.0).push(text_of(message));
}

/// An engine, a model and the log of both. Frees them at its end.
pub(super) struct Set {
    pub(super) engine: *mut EngineHandle,
    pub(super) model: *mut ModelHandle,
    pub(super) log: Box<Heard>,
    pub(super) stage: Stage,
}

impl Set {
    pub(super) fn new() -> Self {
        let (log, stage) = (Box::<Heard>::default(), Stage::default());
        let sink = Log { level: 5, function: Some(hear_log), user_data: UserData(log.user_data()) };
        let engine = Engine::create(Box::new(stage.clone()), Settings::default(), sink).unwrap();
        let mut set =
            Self { engine: Box::into_raw(Box::new(engine)), model: ptr::null_mut(), log, stage };
        let (status, model) = set.load(ptr::null());
        assert_eq!(status, OK);
        set.model = model;
        set
    }

    /// Loads one more model.
    pub(super) fn load(&self, params: *const ModelParams) -> (Status, *mut ModelHandle) {
        let path = c"Cargo.toml".as_ptr();
        let mut model = ptr::null_mut();
        // SAFETY: live handle, NUL-terminated path, live slots.
        let status =
            unsafe { zonda_model_load(self.engine, path, params, &raw mut model, ptr::null_mut()) };
        (status, model)
    }

    /// Starts a request and leaves it to the test.
    pub(super) fn start(
        &self,
        told: &str,
        params: *const RequestParams,
    ) -> (Status, *mut RequestHandle) {
        let body = body(told);
        let mut request = ptr::null_mut();
        // SAFETY: live handle, live bytes, live slots.
        let status = unsafe {
            let json = body.as_ptr().cast::<c_char>();
            let out = &raw mut request;
            zonda_chat_start(self.model, json, body.len(), params, out, ptr::null_mut())
        };
        (status, request)
    }

    /// Waits for a whole answer, or tells the status and the sentence of the error.
    pub(super) fn chat(&self, told: &str) -> Result<Value, (Status, String)> {
        chat(self.model, told)
    }

    pub(super) fn stats(&self) -> Stats {
        let mut stats: Stats = layout::zeroed();
        // SAFETY: live handle, sized struct.
        let status = unsafe { zonda_engine_stats(self.engine, &raw mut stats) };
        assert_eq!(status, OK);
        stats
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        // SAFETY: both are live or NULL and given up here.
        unsafe {
            zonda_model_free(self.model);
            zonda_engine_free(self.engine);
        }
    }
}

pub(super) fn chat(model: *mut ModelHandle, told: &str) -> Result<Value, (Status, String)> {
    let body = body(told);
    let (mut answer, mut error) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: live handle, live bytes, live slots; results are freed once.
    unsafe {
        let json = body.as_ptr().cast::<c_char>();
        let (out, why) = (&raw mut answer, &raw mut error);
        let status = zonda_chat(model, json, body.len(), ptr::null(), out, why);
        let said = text_of(zonda_buffer_data(answer));
        let sentence = text_of(zonda_error_message(error));
        assert_eq!(zonda_error_code(error), status);
        zonda_buffer_free(answer);
        zonda_error_free(error);
        if status == OK {
            Ok(serde_json::from_str(&said).unwrap())
        } else {
            Err((status, sentence))
        }
    }
}

pub(super) fn body(told: &str) -> String {
    json!({"messages": [{"role": "user", "content": told}]}).to_string()
}

pub(super) fn text_of(text: Str) -> String {
    assert!(!text.ptr.is_null());
    // SAFETY: the library gives live bytes with their count.
    let bytes = unsafe { std::slice::from_raw_parts(text.ptr.cast::<u8>(), text.len) };
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Parameters that send events to `function`.
pub(super) fn calling(function: layout::EventCall, user_data: *mut c_void) -> RequestParams {
    RequestParams { event_fn: Some(function), event_user_data: user_data, ..layout::zeroed() }
}

/// Pulls one event: its kind and its text, or the status that came instead.
pub(super) fn pull(request: *mut RequestHandle, timeout_ms: i32) -> Result<Option<Pulled>, Status> {
    let mut event = ptr::null();
    // SAFETY: live handle, live slot.
    let status =
        unsafe { zonda_request_next(request, timeout_ms, &raw mut event, ptr::null_mut()) };
    if status != OK {
        return Err(status);
    }
    // SAFETY: valid until the next call for this request.
    Ok(unsafe { event.as_ref() }.map(Pulled::of))
}

/// A copy of an event.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pulled {
    pub(super) kind: i32,
    pub(super) seq: u64,
    pub(super) status: Status,
    pub(super) tokens: u32,
    pub(super) text: String,
    pub(super) json: String,
    pub(super) finish_reason: String,
}

impl Pulled {
    pub(super) fn of(event: &EventView) -> Self {
        assert_eq!(event.struct_size as usize, size_of::<EventView>());
        Self {
            kind: event.kind,
            seq: event.seq,
            status: event.status,
            tokens: event.token_count,
            text: text_of(event.text),
            json: text_of(event.json),
            finish_reason: text_of(event.finish_reason),
        }
    }
}
