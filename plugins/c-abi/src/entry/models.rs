//! Models and their tokens.

use std::ffi::c_char;
use std::path::Path;
use std::ptr;
use std::sync::Arc;

use protocol::TokenId;

use crate::border::{
    BufferHandle, ErrorHandle, Log, UserData, enter, give_text, in_callback, inside_callback,
    items, live, place, text,
};
use crate::engine::EngineHandle;
use crate::layout::{self, ModelParams, Str};
use crate::model::ModelHandle;
use crate::rooms::Laid;
use crate::status::{self, Refusal, Status};

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_model_params_init(
    params: *mut ModelParams,
    struct_size: usize,
) -> Status {
    // SAFETY: no error slot; the caller's struct is as large as it says.
    unsafe {
        enter(ptr::null_mut(), None, || {
            layout::write_defaults(params, struct_size, layout::zeroed())
        })
    }
}

/// Loads a model: a GGUF file, or a folder with safetensors and a tokenizer. A NULL path loads the
/// configured model, or the small one that the library carries.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_model_load(
    engine: *mut EngineHandle,
    path: *const c_char,
    params: *const ModelParams,
    out: *mut *mut ModelHandle,
    error: *mut *mut ErrorHandle,
) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(engine, "engine") };
    let life = handle.as_ref().ok().map(|handle| handle.0.life.as_ref());
    let work = || {
        let out = place(out, "out")?;
        // SAFETY: not NULL; the caller's to write.
        unsafe { out.write(ptr::null_mut()) };
        let engine = &handle.clone()?.0;
        // SAFETY: NULL or NUL-terminated.
        let path = unsafe { text(path, "path") }?;
        // SAFETY: NULL, or a struct that tells its size.
        let params = unsafe { layout::read(params) }?.unwrap_or_else(layout::zeroed);
        let overrides = overrides_of(&params)?;
        let user_data = UserData(params.progress_user_data);
        let mut progress = |share: f32| {
            params.progress_fn.is_none_or(|function| {
                inside_callback(&engine.life, || {
                    // SAFETY: the host gave this function for this load; the text is static.
                    unsafe { function(share.into(), Str::of("load"), user_data.0) == 0 }
                })
            })
        };
        let model = engine.load(path.map(Path::new), overrides, &mut progress)?;
        // SAFETY: as above.
        unsafe { out.write(Box::into_raw(Box::new(model))) };
        Ok(())
    };
    // SAFETY: the caller vouches for its error slot.
    unsafe { enter(error, life, work) }
}

fn overrides_of(params: &ModelParams) -> Result<Vec<Laid>, Refusal> {
    let idle = [
        (params.kv_dtype != 0, "kv_dtype"),
        (params.memory_budget_bytes != 0, "memory_budget_bytes"),
        (params.flags != 0, "flags"),
    ];
    if let Some((_, field)) = idle.iter().find(|(set, _)| *set) {
        return Err(Refusal::unsupported(format!("zonda_model_params.{field} must be 0")));
    }
    let mut overrides = Vec::new();
    if params.context_length != 0 {
        overrides.push(Laid {
            key: "engine.context_tokens_max",
            value: params.context_length.to_string(),
            field: "zonda_model_params.context_length",
        });
    }
    if params.max_sequences != 0 {
        overrides.push(Laid {
            key: "engine.sequences_max",
            value: params.max_sequences.to_string(),
            field: "zonda_model_params.max_sequences",
        });
    }
    Ok(overrides)
}

/// Gives a model up; its running requests keep it loaded until they end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_model_free(model: *mut ModelHandle) {
    // SAFETY: NULL or a live handle.
    let Ok(handle) = (unsafe { live(model, "model") }) else {
        return;
    };
    let engine = Arc::clone(&handle.0.engine);
    if !engine.life.is_home() {
        return;
    }
    if in_callback() {
        engine.log.write(&engine.life, Log::ERROR, "zonda_model_free in a callback does nothing");
        return;
    }
    let work = || {
        // SAFETY: made by Box::into_raw in zonda_model_load; the caller gives it up.
        drop(unsafe { Box::from_raw(model) });
        Ok(())
    };
    // SAFETY: no error slot.
    unsafe { enter(ptr::null_mut(), None, work) };
}

/// The model's card and what its files say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_model_info_json(
    model: *const ModelHandle,
    out: *mut *mut BufferHandle,
    error: *mut *mut ErrorHandle,
) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(model, "model") };
    let life = handle.as_ref().ok().map(|handle| handle.0.engine.life.as_ref());
    let work = || {
        let out = place(out, "out")?;
        // SAFETY: not NULL; the caller's to write.
        unsafe { out.write(ptr::null_mut()) };
        let card = handle.clone()?.0.card()?;
        // SAFETY: as above.
        unsafe { give_text(out, card.to_string()) };
        Ok(())
    };
    // SAFETY: the caller vouches for its error slot.
    unsafe { enter(error, life, work) }
}

/// The loaded models of an engine, as /v1/models lists them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_model_list_json(
    engine: *mut EngineHandle,
    out: *mut *mut BufferHandle,
    error: *mut *mut ErrorHandle,
) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(engine, "engine") };
    let life = handle.as_ref().ok().map(|handle| handle.0.life.as_ref());
    let work = || {
        let out = place(out, "out")?;
        // SAFETY: not NULL; the caller's to write.
        unsafe { out.write(ptr::null_mut()) };
        let list = handle.clone()?.0.list();
        // SAFETY: as above.
        unsafe { give_text(out, list.to_string()) };
        Ok(())
    };
    // SAFETY: the caller vouches for its error slot.
    unsafe { enter(error, life, work) }
}

/// Checks the files of a model without loading it, and reads all of them: "valid", "checks" with
/// what is wrong, "facts" (what `zonda model inspect --json` prints) and "files" with bytes and
/// SHA-256. A model that is not whole is a report, not an error. The path is as for
/// zonda_model_load.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_model_verify(
    engine: *mut EngineHandle,
    path: *const c_char,
    report_json: *mut *mut BufferHandle,
    error: *mut *mut ErrorHandle,
) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(engine, "engine") };
    let life = handle.as_ref().ok().map(|handle| handle.0.life.as_ref());
    let work = || {
        let out = place(report_json, "report_json")?;
        // SAFETY: not NULL; the caller's to write.
        unsafe { out.write(ptr::null_mut()) };
        let engine = &handle.clone()?.0;
        // SAFETY: NULL or NUL-terminated.
        let path = unsafe { text(path, "path") }?;
        let report = engine.verify(path.map(Path::new))?;
        // SAFETY: as above.
        unsafe { give_text(out, report.to_string()) };
        Ok(())
    };
    // SAFETY: the caller vouches for its error slot.
    unsafe { enter(error, life, work) }
}

/// Text to tokens, nothing added. *n_out is always the whole count. out == NULL only counts; a cap
/// below the count is ZONDA_E_BUFFER_TOO_SMALL and writes nothing else. flags must be 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_tokenize(
    model: *const ModelHandle,
    text: *const c_char,
    len: usize,
    flags: u32,
    out: *mut u32,
    cap: usize,
    n_out: *mut usize,
    error: *mut *mut ErrorHandle,
) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(model, "model") };
    let life = handle.as_ref().ok().map(|handle| handle.0.engine.life.as_ref());
    let work = || {
        let n_out = place(n_out, "n_out")?;
        if flags != 0 {
            return Err(Refusal::unsupported("flags must be 0"));
        }
        // SAFETY: NULL or `len` bytes.
        let bytes = unsafe { items(text.cast::<u8>(), len, "text") }?;
        let text = std::str::from_utf8(bytes).map_err(|error| {
            Refusal::argument(format!("text is not UTF-8 behind byte {}", error.valid_up_to()))
        })?;
        let tokens = handle.clone()?.0.tokenize(text)?;
        let numbers: Vec<u32> = tokens.into_iter().map(|token| token.0).collect();
        // SAFETY: n_out is not NULL; out is NULL or has room for `cap`.
        unsafe { give_items(&numbers, out, cap, n_out) }
    };
    // SAFETY: the caller vouches for its error slot.
    unsafe { enter(error, life, work) }
}

/// Tokens to text, sized as in zonda_tokenize; *n_out counts bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_detokenize(
    model: *const ModelHandle,
    tokens: *const u32,
    n: usize,
    out: *mut c_char,
    cap: usize,
    n_out: *mut usize,
    error: *mut *mut ErrorHandle,
) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(model, "model") };
    let life = handle.as_ref().ok().map(|handle| handle.0.engine.life.as_ref());
    let work = || {
        let n_out = place(n_out, "n_out")?;
        // SAFETY: NULL or `n` numbers.
        let numbers = unsafe { items(tokens, n, "tok") }?;
        let tokens: Vec<TokenId> = numbers.iter().copied().map(TokenId).collect();
        let text = handle.clone()?.0.detokenize(&tokens)?;
        // SAFETY: n_out is not NULL; out is NULL or has room for `cap`.
        unsafe { give_items(text.as_bytes(), out.cast::<u8>(), cap, n_out) }
    };
    // SAFETY: the caller vouches for its error slot.
    unsafe { enter(error, life, work) }
}

/// Tokens of the prompt that this chat request would run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zonda_count_tokens_json(
    model: *const ModelHandle,
    chat_json: *const c_char,
    len: usize,
    n_out: *mut usize,
    error: *mut *mut ErrorHandle,
) -> Status {
    // SAFETY: NULL or a live handle.
    let handle = unsafe { live(model, "model") };
    let life = handle.as_ref().ok().map(|handle| handle.0.engine.life.as_ref());
    let work = || {
        let n_out = place(n_out, "n_out")?;
        // SAFETY: NULL or `len` bytes.
        let body = unsafe { items(chat_json.cast::<u8>(), len, "chat_json") }?;
        let count = handle.clone()?.0.count_tokens(body)?;
        // SAFETY: not NULL; the caller's to write.
        unsafe { n_out.write(count) };
        Ok(())
    };
    // SAFETY: the caller vouches for its error slot.
    unsafe { enter(error, life, work) }
}

/// The two-call rule: the count always, the items where there is room for all.
///
/// # Safety
/// `n_out` may be written; `out` is NULL or has room for `cap` items.
unsafe fn give_items<T: Copy>(
    given: &[T],
    out: *mut T,
    cap: usize,
    n_out: *mut usize,
) -> Result<(), Refusal> {
    // SAFETY: as the caller says.
    unsafe { n_out.write(given.len()) };
    if out.is_null() {
        return Ok(());
    }
    if cap < given.len() {
        return Err(Refusal::new(
            status::BUFFER_TOO_SMALL,
            format!("out has room for {cap}, needs {}", given.len()),
        ));
    }
    // SAFETY: room for `cap` items, which are not fewer than given.
    unsafe { ptr::copy_nonoverlapping(given.as_ptr(), out, given.len()) };
    Ok(())
}
