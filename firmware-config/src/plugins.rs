//! Plugins of others: where they are, and which of them run.

use std::path::PathBuf;

use serde_json::{Map, Value as Json};

use crate::layer::Value;
use crate::reader::Reader;
use crate::{Origin, read};

/// Most plugins.
const PLUGINS_MAX: usize = 64;

/// Plugins of others.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginsSection {
    /// Holds a folder with a `plugin.toml` for each plugin.
    pub folder: Option<PathBuf>,
    /// What is remembered of them: which are switched off or quarantined, and what they logged.
    pub state_folder: Option<PathBuf>,
    /// The ids of those that run; filters in this order, behind the built-in ones.
    pub enabled: Vec<String>,
    /// The program that hosts them, where this one is not `zonda`.
    pub host_program: Option<PathBuf>,
    /// Settings of some of them.
    pub settings: Vec<PluginSettings>,
}

/// One plugin's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginSettings {
    /// Which plugin.
    pub id: String,
    /// For the plugin to check.
    pub settings: Map<String, Json>,
    /// Where they are.
    pub origin: Origin,
}

/// `[plugins]` of the configuration.
pub(crate) fn plugins(reader: &mut Reader) -> PluginsSection {
    let is_id = |text: &str| (1..=64).contains(&text.len());
    let section = PluginsSection {
        folder: reader.path("plugins.folder"),
        state_folder: reader.path("plugins.state_folder"),
        enabled: reader.texts("plugins.enabled", "the id of a plugin", PLUGINS_MAX, is_id),
        host_program: reader.path("plugins.host_program"),
        settings: settings(reader),
    };
    let origin = reader.origin_of("plugins.enabled");
    let mut refuse = |message: String| reader.problem(origin.clone(), message);
    if !section.enabled.is_empty() {
        for (key, path) in [("folder", &section.folder), ("state_folder", &section.state_folder)] {
            if path.is_none() {
                refuse(format!("plugins.enabled names plugins, plugins.{key} is not set"));
            }
        }
    }
    for (at, id) in section.enabled.iter().enumerate() {
        if section.enabled[..at].contains(id) {
            refuse(format!("plugins.enabled names {id:?} twice"));
        }
    }
    for (at, settings) in section.settings.iter().enumerate() {
        let id = &settings.id;
        if section.settings[..at].iter().any(|other| other.id == *id) {
            let message = format!("plugins.settings: {id:?} is there twice");
            reader.problem(settings.origin.clone(), message);
        }
    }
    section
}

fn settings(reader: &mut Reader) -> Vec<PluginSettings> {
    let tables = reader.tables("plugins.settings", PLUGINS_MAX);
    let mut all = Vec::with_capacity(tables.len());
    for (mut layer, origin) in tables {
        let id = layer.0.iter().position(|(key, _)| key == "id").map(|at| layer.0.remove(at));
        match id.map(|(_, item)| item.value) {
            Some(Value::Text(id)) => {
                let settings = layer.0.into_iter().map(|(key, item)| (key, read::json(item)));
                all.push(PluginSettings { id, settings: settings.collect(), origin });
            }
            _ => reader.problem(origin, "plugins.settings: id is missing; it names the plugin"),
        }
    }
    all
}
