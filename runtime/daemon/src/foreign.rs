//! Plugins of others: what the configuration makes of them, and `zonda plugin …`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use firmware_config::{PluginsSection, Profile};
use plugin_abi::{
    Found, HostProgram, Kind, Manifest, Plugin, Remembered, StateFolder, Surroundings,
};
use protocol::{Filter, NewsSink, Observer, Tool};
use serde_json::Map;

use crate::cli::{PluginCommand, Setup};
use crate::error::AssembleError;

/// What the hidden verb is called.
const VERB: &str = "plugin-host";

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Notes that this process is the program `zonda`, which can host plugins itself.
pub(crate) fn this_is_the_program() {
    if let Ok(path) = std::env::current_exe() {
        // A second call in one process says the same.
        let _same = PROGRAM.set(path);
    }
}

/// `zonda plugin-host`: becomes the process of one plugin.
pub(crate) fn host() -> Result<(), AssembleError> {
    plugin_abi::host().map_err(|error| AssembleError::Input { message: error.to_string() })
}

/// What the running plugins give.
#[derive(Default)]
pub(crate) struct Foreign {
    tools: Vec<(String, Box<dyn Tool>)>,
    /// In the order of the configuration.
    pub(crate) filters: Vec<Box<dyn Filter>>,
    /// Those who want to know what became of requests.
    pub(crate) observers: Vec<Box<dyn Observer>>,
}

impl Foreign {
    /// Starts what the profile enables, one after the other. A plugin that fails is no error: it
    /// starts again, or is given up, and a filter refuses requests meanwhile if it fails closed.
    ///
    /// Errors: a plugin that is not there or whose manifest is wrong.
    pub(crate) fn start(profile: &Profile, news: Option<&NewsSink>) -> Result<Self, AssembleError> {
        let section = &profile.plugins;
        let mut foreign = Self::default();
        if section.enabled.is_empty() {
            return Ok(foreign);
        }
        let manifests = manifests(section)?;
        let mut surroundings = surroundings(section)?;
        surroundings.news = news.cloned();
        for manifest in manifests {
            let (id, kind) = (manifest.id.clone(), manifest.kind);
            let settings = section.settings.iter().find(|settings| settings.id == id);
            let settings = settings.map_or_else(Map::new, |settings| settings.settings.clone());
            let plugin = Plugin::start(&surroundings, manifest, &settings)?;
            match kind {
                Kind::Tool => {
                    let tools = plugin.tools().into_iter();
                    foreign.tools.extend(tools.map(|tool| (id.clone(), tool)));
                }
                Kind::Filter => foreign.filters.push(plugin.filter()),
                Kind::Observer => foreign.observers.push(plugin.observer()?),
            }
        }
        Ok(foreign)
    }

    /// Adds the plugins' functions whose names are free.
    pub(crate) fn add_tools(&mut self, tools: &mut Vec<Box<dyn Tool>>) {
        for (id, tool) in self.tools.drain(..) {
            let name = &tool.spec().name;
            if tools.iter().any(|other| other.spec().name == *name) {
                tracing::error!(
                    "plugin {id} host: its function {name} is left out: the name is taken"
                );
                continue;
            }
            tools.push(tool);
        }
    }
}

/// Whether what the profile enables is there and is what its manifest says.
pub(crate) fn check(profile: &Profile) -> Result<(), AssembleError> {
    let section = &profile.plugins;
    if section.enabled.is_empty() {
        return Ok(());
    }
    surroundings(section)?;
    for manifest in manifests(section)? {
        manifest.verify().map_err(wrong)?;
    }
    Ok(())
}

fn manifests(section: &PluginsSection) -> Result<Vec<Manifest>, AssembleError> {
    let folder = folder(section)?;
    section.enabled.iter().map(|id| manifest(folder, id)).collect()
}

fn manifest(folder: &Path, id: &str) -> Result<Manifest, AssembleError> {
    if !plugin_abi::is_id(id) {
        let message = format!("{id:?} is no plugin's id: lower-case letters, digits, . - and _");
        return Err(AssembleError::Configuration { message });
    }
    Manifest::read(&folder.join(id)).map_err(wrong)
}

fn wrong(error: plugin_abi::ManifestError) -> AssembleError {
    AssembleError::Configuration { message: format!("plugin: {error}") }
}

fn folder(section: &PluginsSection) -> Result<&Path, AssembleError> {
    section.folder.as_deref().ok_or_else(|| missing("folder"))
}

fn state(section: &PluginsSection) -> Result<StateFolder, AssembleError> {
    let folder = section.state_folder.as_deref().ok_or_else(|| missing("state_folder"))?;
    Ok(StateFolder::new(folder))
}

fn missing(key: &str) -> AssembleError {
    AssembleError::Configuration { message: format!("plugins.{key} is not set") }
}

fn surroundings(section: &PluginsSection) -> Result<Surroundings, AssembleError> {
    let path = section.host_program.as_ref().or_else(|| PROGRAM.get());
    let path = path.ok_or_else(|| AssembleError::Configuration {
        // A foreign program that was started again would not know what is wanted of it.
        message: "plugins are hosted by the program zonda: set plugins.host_program to its path"
            .into(),
    })?;
    let host = HostProgram { path: path.clone(), arguments: vec![VERB.into()] };
    // The process of a plugin starts in its folder, so a relative path would lead astray.
    let folder = std::path::absolute(folder(section)?)?;
    Ok(Surroundings { folder, state: state(section)?, host, news: None })
}

impl PluginCommand {
    /// Where the configuration comes from.
    pub(crate) fn setup(&self) -> &Setup {
        match self {
            Self::List { setup }
            | Self::Verify { setup, .. }
            | Self::Enable { setup, .. }
            | Self::Disable { setup, .. }
            | Self::Logs { setup, .. } => setup,
        }
    }
}

/// `zonda plugin …`. No plugin's code runs here.
pub(crate) fn command(
    profile: &Profile,
    command: &PluginCommand,
    output: &mut dyn Write,
) -> Result<(), AssembleError> {
    let section = &profile.plugins;
    match command {
        PluginCommand::List { .. } => list(section, output),
        PluginCommand::Verify { id, .. } => verify(section, id.as_deref(), output),
        PluginCommand::Enable { id, .. } => {
            manifest(folder(section)?, id)?.verify().map_err(wrong)?;
            state(section)?.write(id, &Remembered::default())?;
            writeln!(output, "{id} may run; a running daemon tries it at its next call")?;
            if !section.enabled.contains(id) {
                writeln!(output, "it is not in plugins.enabled yet: add it there")?;
            }
            Ok(())
        }
        PluginCommand::Disable { id, .. } => {
            manifest(folder(section)?, id)?;
            let mut remembered = state(section)?.read(id)?;
            remembered.disabled = true;
            state(section)?.write(id, &remembered)?;
            writeln!(output, "{id} is disabled from the daemon's next start on")?;
            Ok(())
        }
        PluginCommand::Logs { id, .. } => {
            manifest(folder(section)?, id)?;
            write!(output, "{}", state(section)?.log(id)?)?;
            Ok(())
        }
    }
}

fn list(section: &PluginsSection, output: &mut dyn Write) -> Result<(), AssembleError> {
    let state = state(section)?;
    for Found { id, manifest } in plugin_abi::scan(folder(section)?).map_err(wrong)? {
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(error) => {
                writeln!(output, "{id:<32} wrong        {error}")?;
                continue;
            }
        };
        let condition = condition(section, &state, &manifest);
        let (version, kind) = (&manifest.version, manifest.kind.name());
        writeln!(
            output,
            "{id:<32} {condition:<12} {kind} {version}, native: all rights of its process"
        )?;
        if let Ok(Remembered { quarantine: Some(quarantine), .. }) = state.read(&id) {
            writeln!(output, "{:<32} since {}: {}", "", quarantine.since_unix, quarantine.reason)?;
        }
    }
    Ok(())
}

fn condition(section: &PluginsSection, state: &StateFolder, manifest: &Manifest) -> &'static str {
    let remembered = state.read(&manifest.id);
    match remembered {
        Err(_) => "damaged",
        Ok(remembered) if remembered.disabled => "disabled",
        Ok(remembered) if remembered.quarantine.is_some() => "quarantined",
        Ok(_) if section.enabled.contains(&manifest.id) => "enabled",
        Ok(_) => "found",
    }
}

fn verify(
    section: &PluginsSection,
    id: Option<&str>,
    output: &mut dyn Write,
) -> Result<(), AssembleError> {
    let found = match id {
        Some(id) => vec![(id.to_owned(), manifest(folder(section)?, id))],
        None => plugin_abi::scan(folder(section)?)
            .map_err(wrong)?
            .into_iter()
            .map(|found| (found.id, found.manifest.map_err(wrong)))
            .collect(),
    };
    let mut wrong_ones = 0;
    for (id, manifest) in found {
        match manifest.and_then(|manifest| manifest.verify().map_err(wrong)) {
            Ok(()) => writeln!(output, "{id:<32} good")?,
            Err(error) => {
                wrong_ones += 1;
                writeln!(output, "{id:<32} {error}")?;
            }
        }
    }
    match wrong_ones {
        0 => Ok(()),
        count => Err(AssembleError::Input { message: format!("{count} plugins are not right") }),
    }
}
