//! A plugin's library in this process, and the calls into it.
//!
//! What is foreign is believed as far as the interface says: a plugin that lies about a pointer
//! harms this process, which exists for it alone. The library is never unloaded, because a plugin
//! may have started threads.

use std::ffi::{CStr, CString, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::abi::{self, Str};
use crate::limits::{
    LIBRARY_PLUGINS_MAX, REASON_BYTES_MAX, RESULT_BYTES_MAX, SPEC_BYTES_MAX, TOOLS_MAX,
};
use crate::offers;
use crate::wire::{Observation, Ready, Start, Texts, Verdict};

/// An active plugin.
pub(crate) struct Loaded {
    entry: &'static abi::Entry,
    plugin: &'static abi::Plugin,
    tool: Option<&'static abi::Tool>,
    filter: Option<&'static abi::Filter>,
    observer: Option<&'static abi::Observer>,
}

impl Loaded {
    /// Loads, initialises and activates the plugin.
    ///
    /// Errors: why it cannot be one, for the operator.
    pub(crate) fn load(start: &Start) -> Result<Self, String> {
        let entry = open(&start.file)?;
        let plugin = create(entry, start)?;
        let get_extension = plugin.get_extension.ok_or("the plugin has no get_extension")?;
        let extension = |id: &CStr| -> *const c_void {
            // SAFETY: a function of the plugin, with the plugin itself and a constant.
            unsafe { get_extension(plugin, id.as_ptr()) }
        };
        let wanted = CString::new(start.api.as_str()).map_err(|_| "the api has a zero byte")?;
        if extension(&wanted).is_null() {
            return Err(format!(
                "the plugin does not offer {}, which its manifest names",
                start.api
            ));
        }
        let api = start.api.as_bytes();
        let only = |id: &CStr| if api == id.to_bytes() { extension(id) } else { std::ptr::null() };
        // SAFETY: by the interface the plugin gives what belongs to the id, valid until destroy,
        // which is the last call of this process.
        let (tool, filter, observer) = unsafe {
            (
                only(abi::TOOL).cast::<abi::Tool>().as_ref(),
                only(abi::FILTER).cast::<abi::Filter>().as_ref(),
                only(abi::OBSERVER).cast::<abi::Observer>().as_ref(),
            )
        };
        let activate = plugin.activate.ok_or("the plugin has no activate")?;
        // SAFETY: a function of the plugin; the settings outlive the call.
        if !unsafe { activate(plugin, Str::of(&start.settings_json)) } {
            return Err(refusal("activate"));
        }
        Ok(Self { entry, plugin, tool, filter, observer })
    }

    /// What it can do.
    pub(crate) fn ready(&self) -> Result<Ready, String> {
        let tools = self.tool.map_or(Ok(Vec::new()), |tool| self.specs(tool))?;
        Ok(Ready {
            protocol: crate::wire::PROTOCOL,
            tools,
            judges_requests: self.filter.is_some_and(|filter| filter.on_request.is_some()),
            judges_answers: self.filter.is_some_and(|filter| filter.on_final.is_some()),
        })
    }

    fn specs(&self, tool: &abi::Tool) -> Result<Vec<String>, String> {
        let (Some(count), Some(spec), Some(_)) = (tool.count, tool.spec, tool.call) else {
            return Err("zonda.tool/1 lacks count, spec or call".into());
        };
        // SAFETY: a function of the plugin, with the plugin itself.
        let count = unsafe { count(self.plugin) };
        if !(1..=TOOLS_MAX as u32).contains(&count) {
            return Err(format!(
                "the plugin has {count} functions; there must be 1 to {TOOLS_MAX}"
            ));
        }
        let describe = |index| {
            let mut sink = Sink::new(SPEC_BYTES_MAX);
            let out = sink.out();
            // SAFETY: as above; the writer outlives the call.
            let is_told = unsafe { spec(self.plugin, index, &raw const out) };
            if is_told { sink.text() } else { Err(refusal("spec")) }
        };
        (0..count).map(describe).collect()
    }

    /// Runs a function. The outer error is a defect of the plugin.
    pub(crate) fn call(
        &self,
        index: u32,
        arguments: &str,
    ) -> Result<Result<String, String>, String> {
        let call = self.tool.and_then(|tool| tool.call).ok_or("this plugin has no functions")?;
        let mut sink = Sink::new(RESULT_BYTES_MAX);
        let out = sink.out();
        // SAFETY: a function of the plugin; text and writer outlive the call.
        let is_good = unsafe { call(self.plugin, index, Str::of(arguments), &raw const out) };
        let text = sink.text()?;
        Ok(if is_good { Ok(text) } else { Err(text) })
    }

    /// Asks for a verdict. The error is a defect of the plugin.
    pub(crate) fn judge(&self, is_final: bool, texts: &Texts) -> Result<Verdict, String> {
        let filter = self.filter.ok_or("this plugin is no filter")?;
        let judge = if is_final { filter.on_final } else { filter.on_request };
        let Some(judge) = judge else { return Ok(Verdict::Pass) };
        let list: Vec<abi::Text> = texts
            .texts
            .iter()
            .map(|(role, text)| abi::Text { role: Str::of(role), text: Str::of(text) })
            .collect();
        let given = abi::Texts {
            request_id: Str::of(&texts.request_id),
            client: Str::of(&texts.client),
            model: Str::of(&texts.model),
            texts: list.as_ptr(),
            texts_len: list.len(),
        };
        let mut changes = Changes { texts: list.len(), ..Changes::default() };
        let data = (&raw mut changes).cast();
        let change = abi::Change { data, replace, reject };
        // SAFETY: a function of the plugin; everything that is passed outlives the call.
        let verdict = unsafe { judge(self.plugin, &raw const given, &raw const change) };
        if changes.is_wrong {
            return Err("a replacement has no place, is too long or is not UTF-8".into());
        }
        match verdict {
            abi::VERDICT_PASS => Ok(Verdict::Pass),
            abi::VERDICT_REPLACE => Ok(Verdict::Replace(changes.replaced)),
            abi::VERDICT_REJECT => {
                let (status, message) =
                    changes.rejected.unwrap_or_else(|| (403, "refused by a filter".into()));
                Ok(Verdict::Reject { status, message })
            }
            other => Err(format!("{other} is no verdict")),
        }
    }

    /// Hands observations over.
    pub(crate) fn observe(&self, observations: &[Observation], dropped: u64) -> Result<(), String> {
        let observe = self.observer.and_then(|observer| observer.observe);
        let observe = observe.ok_or("this plugin is no observer")?;
        let list: Vec<abi::Observation> = observations
            .iter()
            .map(|seen| abi::Observation {
                model: Str::of(&seen.model),
                outcome: Str::of(&seen.outcome),
                prompt_tokens: seen.tokens[0],
                cached_tokens: seen.tokens[1],
                completion_tokens: seen.tokens[2],
                accepted_ms: seen.accepted_ms.unwrap_or(u32::MAX),
                first_text_ms: seen.first_text_ms.unwrap_or(u32::MAX),
                total_ms: seen.total_ms,
            })
            .collect();
        // SAFETY: a function of the plugin; the list outlives the call.
        unsafe { observe(self.plugin, list.as_ptr(), list.len(), dropped) };
        Ok(())
    }

    /// Ends the plugin's life in order.
    pub(crate) fn end(self) {
        // SAFETY: functions of the plugin in the order of the interface; nothing of it is used
        // behind them.
        unsafe {
            if let Some(deactivate) = self.plugin.deactivate {
                deactivate(self.plugin);
            }
            if let Some(destroy) = self.plugin.destroy {
                destroy(self.plugin);
            }
            if let Some(deinit) = self.entry.deinit {
                deinit();
            }
        }
    }
}

fn open(file: &Path) -> Result<&'static abi::Entry, String> {
    // SAFETY: this runs the library's constructors, which is what this process is for.
    let library = unsafe { Library::open(Some(file), RTLD_NOW | RTLD_LOCAL) };
    let library = library.map_err(|error| format!("the library cannot be loaded: {error}"))?;
    // SAFETY: by the interface the symbol is a table; its address alone is taken here.
    let symbol = unsafe { library.get::<*const abi::Entry>(abi::ENTRY.to_bytes_with_nul()) };
    let address = symbol.map(|symbol| *symbol);
    std::mem::forget(library);
    let address = address.map_err(|_| "the library has no symbol zonda_plugin_entry".to_owned())?;
    // SAFETY: a table of a library that stays; its version is looked at before anything else.
    let entry = unsafe { address.as_ref() }.ok_or("zonda_plugin_entry is null")?;
    let (own, its) = (abi::VERSION.major, entry.version.major);
    if own != its {
        return Err(format!(
            "the plugin was built for version {its} of the interface, this host has {own}: build it \
             with this host's zonda_plugin.h"
        ));
    }
    Ok(entry)
}

fn create(entry: &abi::Entry, start: &Start) -> Result<&'static abi::Plugin, String> {
    let path = CString::new(start.file.as_os_str().as_bytes()).map_err(|_| "a zero in the path")?;
    let id = CString::new(start.id.as_str()).map_err(|_| "a zero in the id")?;
    let init = entry.init.ok_or("the entry has no init")?;
    // SAFETY: a function of the library, with a text that outlives the call.
    if !unsafe { init(path.as_ptr()) } {
        return Err(refusal("entry.init"));
    }
    let get_factory = entry.get_factory.ok_or("the entry has no get_factory")?;
    // SAFETY: as above; by the interface the factory lives as long as the library.
    let factory = unsafe { get_factory(abi::FACTORY.as_ptr()).cast::<abi::Factory>().as_ref() };
    let factory = factory.ok_or("the library has no zonda.plugin-factory/1")?;
    check_descriptor(factory, &id)?;
    let create = factory.create.ok_or("the factory has no create")?;
    // SAFETY: as above; the host is never freed, and a plugin lives until destroy.
    let plugin = unsafe { create(factory, offers::host(), id.as_ptr()).as_ref() };
    let plugin = plugin.ok_or_else(|| refusal("create"))?;
    let init = plugin.init.ok_or("the plugin has no init")?;
    // SAFETY: a function of the plugin, with the plugin itself.
    if !unsafe { init(plugin) } {
        return Err(refusal("init"));
    }
    Ok(plugin)
}

fn check_descriptor(factory: &abi::Factory, id: &CStr) -> Result<(), String> {
    let count = factory.count.ok_or("the factory has no count")?;
    let descriptor = factory.descriptor.ok_or("the factory has no descriptor")?;
    // SAFETY: a function of the library, with its own factory.
    let count = unsafe { count(factory) }.min(LIBRARY_PLUGINS_MAX);
    let is_wanted = |index: u32| {
        // SAFETY: as above; descriptors live as long as the library.
        let found = unsafe { descriptor(factory, index).as_ref() };
        let found = found.map(|found| found.id).filter(|id| !id.is_null());
        // SAFETY: not null, and by the interface it ends with a zero.
        found.is_some_and(|found| unsafe { CStr::from_ptr(found) } == id)
    };
    if (0..count).any(is_wanted) {
        return Ok(());
    }
    Err(format!("the library has no plugin {}, which its manifest names", id.to_string_lossy()))
}

fn refusal(function: &str) -> String {
    match offers::last_error() {
        Some(why) => format!("{function} refused: {why}"),
        None => format!("{function} refused; the plugin logged no reason"),
    }
}

/// Where a plugin writes a text.
struct Sink {
    bytes: Vec<u8>,
    bytes_max: usize,
    is_over: bool,
}

impl Sink {
    fn new(bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), bytes_max, is_over: false }
    }

    /// A writer into this; valid until this is moved or read.
    fn out(&mut self) -> abi::Out {
        abi::Out { data: (&raw mut *self).cast(), write }
    }

    fn text(self) -> Result<String, String> {
        if self.is_over {
            return Err(format!("a text is over {} bytes", self.bytes_max));
        }
        String::from_utf8(self.bytes).map_err(|_| "a text is not UTF-8".into())
    }
}

unsafe extern "C" fn write(out: *const abi::Out, ptr: *const c_char, len: usize) -> bool {
    // SAFETY: by the interface `out` is the one that was passed, so its data is a sink in use by
    // this call alone.
    let sink = unsafe { out.as_ref().and_then(|out| out.data.cast::<Sink>().as_mut()) };
    let Some(sink) = sink else { return false };
    let is_text = len == 0 || !ptr.is_null();
    if !is_text || sink.is_over || len > sink.bytes_max - sink.bytes.len() {
        sink.is_over = true;
        return false;
    }
    if len > 0 {
        // SAFETY: not null, and by the interface `len` bytes are readable.
        sink.bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(ptr.cast(), len) });
    }
    true
}

#[derive(Default)]
struct Changes {
    texts: usize,
    bytes: usize,
    replaced: Vec<(usize, String)>,
    rejected: Option<(u16, String)>,
    is_wrong: bool,
}

unsafe extern "C" fn replace(change: *const abi::Change, index: usize, text: Str) -> bool {
    // SAFETY: by the interface `change` is the one that was passed, so its data is in use by this
    // call alone.
    let changes = unsafe { change.as_ref().and_then(|c| c.data.cast::<Changes>().as_mut()) };
    // SAFETY: by the interface the text is readable for the whole call.
    let (Some(changes), text) = (changes, unsafe { text.text() }) else {
        return false;
    };
    let fits = |text: &&str| text.len() <= RESULT_BYTES_MAX.saturating_sub(changes.bytes);
    match text.filter(fits) {
        Some(text) if index < changes.texts => {
            changes.replaced.retain(|(at, _)| *at != index);
            changes.bytes += text.len();
            changes.replaced.push((index, text.to_owned()));
            true
        }
        _ => {
            changes.is_wrong = true;
            false
        }
    }
}

unsafe extern "C" fn reject(change: *const abi::Change, status: u16, message: Str) -> bool {
    // SAFETY: as in `replace`.
    let changes = unsafe { change.as_ref().and_then(|c| c.data.cast::<Changes>().as_mut()) };
    // SAFETY: by the interface the text is readable for the whole call.
    let (Some(changes), Some(message)) = (changes, unsafe { message.text() }) else {
        return false;
    };
    let message = crate::limiter::line(&message.as_bytes()[..message.len().min(REASON_BYTES_MAX)]);
    changes.rejected = Some((status, message));
    true
}
