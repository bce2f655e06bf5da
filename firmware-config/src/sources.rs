//! Where settings come from, and which goes over which.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::device::{detect, profiles};
use crate::layer::{Item, Layer, Value};
use crate::reader::Reader;
use crate::{Hardware, Origin, Problem, Profile, ProfileError, ProfileFile};

/// A larger configuration file is not one.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// More files than this in `conf.d` are a mistake.
const FILES_MAX: usize = 256;
const ENVIRONMENT_PREFIX: &str = "ZONDA__";
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
/// Where the service manager lets a service keep what it writes; several are separated by colons.
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";
const XDG_STATE_HOME: &str = "XDG_STATE_HOME";
const HOME: &str = "HOME";
const VARIABLES: [&str; 4] = [CREDENTIALS_DIRECTORY, STATE_DIRECTORY, XDG_STATE_HOME, HOME];

/// Everything that a configuration is made of.
#[derive(Debug, Clone)]
pub struct Sources<'a> {
    /// A file in place of the two of the system; must exist.
    pub config: Option<&'a Path>,
    /// The device profile by name or by file, over the key `profile`.
    pub profile: Option<&'a str>,
    /// The environment; only `ZONDA__…`, `CREDENTIALS_DIRECTORY`, and what says where state belongs
    /// (`STATE_DIRECTORY`, `XDG_STATE_HOME`, `HOME`) are looked at.
    pub environment: Vec<(String, String)>,
    /// Settings from flags, later ones over earlier ones.
    pub overrides: Vec<Override>,
    /// Where the system's own files are found: `/`.
    pub root: PathBuf,
    /// The machine.
    pub hardware: Hardware,
}

/// A setting from the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Such as `http.address`.
    pub key: String,
    /// As it was typed; lists as `a,b` or `["a", "b"]`.
    pub value: String,
    /// The flag as the user knows it, such as `--http`.
    pub flag: String,
}

/// A configuration that makes sense, and where each part of it comes from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub profile: Profile,
    /// Every key with its value and its origin, in reading order: what `config dump` prints.
    pub settings: Vec<Setting>,
    /// What works but should be changed.
    pub warnings: Vec<Problem>,
}

/// One key of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Such as `http.address`.
    pub key: String,
    /// As a file would have it, secrets as stars; `None` where it has no value.
    pub value: Option<String>,
    /// Where it was set.
    pub origin: Origin,
}

impl<'a> Sources<'a> {
    /// This machine, its files and its environment.
    pub fn system() -> Self {
        let names = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            let name = name.into_string().ok()?;
            let ours = name.starts_with(ENVIRONMENT_PREFIX) || VARIABLES.contains(&name.as_str());
            ours.then(|| (name, value.to_string_lossy().into_owned()))
        };
        Self {
            config: None,
            profile: None,
            environment: std::env::vars_os().filter_map(names).collect(),
            overrides: Vec::new(),
            root: PathBuf::from("/"),
            hardware: Hardware::probe(),
        }
    }

    /// The folder for what is written while the program runs.
    fn state_folder(&self) -> Option<PathBuf> {
        let absolute = |name| self.variable(name).filter(|text| text.starts_with('/'));
        let given = absolute(STATE_DIRECTORY).and_then(|text| text.split(':').next());
        let own = || absolute(XDG_STATE_HOME).map(|text| Path::new(text).join("zonda"));
        let home = || absolute(HOME).map(|text| Path::new(text).join(".local/state/zonda"));
        given.map(PathBuf::from).or_else(own).or_else(home)
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let found = self.environment.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl Profile {
    /// Reads every source, checks every value, and says where each comes from.
    ///
    /// Errors: all that is wrong, each with its file and line, variable or flag.
    pub fn load(sources: &Sources<'_>) -> Result<Loaded, ProfileError> {
        let mut problems = Vec::new();
        let mut layers = file_layers(sources, &mut problems);
        layers.push(environment_layer(sources));
        layers.push(flag_layer(sources));
        let chosen = chosen_profile(sources, &layers);
        let file = match profile_file(chosen, sources) {
            Ok(file) => file,
            Err(error) => {
                problems.extend(error.problems);
                // The rest is still read, so that one run shows everything.
                detect(&sources.hardware).clone()
            }
        };

        let mut reader = Reader::default();
        reader.overlay(file.settings(sources.hardware.memory_bytes));
        for layer in layers {
            reader.overlay(refuse_secrets(layer, &mut problems));
        }
        let credentials = sources.variable(CREDENTIALS_DIRECTORY).map(PathBuf::from);
        let state = sources.state_folder();
        let profile = crate::read::profile(
            &mut reader,
            &file,
            &sources.hardware,
            credentials.as_deref(),
            state.as_deref(),
        );
        let (settings, found, warnings) = reader.finish();
        problems.extend(found);
        problems.sort_by(|a, b| a.origin.cmp(&b.origin));
        match problems.is_empty() {
            true => Ok(Loaded { profile, settings, warnings }),
            false => Err(ProfileError { problems }),
        }
    }
}

/// The system's files or the one given, each followed by what lies in `conf.d` beside the last.
fn file_layers(sources: &Sources<'_>, problems: &mut Vec<Problem>) -> Vec<Layer> {
    let mut files = Vec::new();
    let local = match sources.config {
        Some(path) => path.to_owned(),
        None => {
            let local = sources.root.join("etc/zonda/zonda.toml");
            let system = [sources.root.join("usr/lib/zonda/zonda.toml"), local.clone()];
            files.extend(system.into_iter().filter(|path| path.exists()));
            local
        }
    };
    if sources.config.is_some() {
        files.push(local.clone());
    }
    match directory_files(&local.with_file_name("conf.d")) {
        Ok(found) => files.extend(found),
        Err(problem) => problems.push(problem),
    }
    let mut layers = Vec::with_capacity(files.len());
    for path in files {
        let place = |line| Origin::File { path: path.clone(), line };
        match read_text(&path).and_then(|text| Layer::parse(&text, &place)) {
            Ok(layer) => layers.push(layer),
            Err(problem) => problems.push(problem),
        }
    }
    layers
}

/// The `*.toml` files of a folder by name; none where there is no folder.
fn directory_files(directory: &Path) -> Result<Vec<PathBuf>, Problem> {
    let origin = Origin::File { path: directory.to_owned(), line: 0 };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(Problem { origin, message: format!("cannot be listed: {error}") });
        }
    };
    let is_toml = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "toml");
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(is_toml)
        .take(FILES_MAX + 1)
        .collect();
    if files.len() > FILES_MAX {
        let message = format!("holds more than {FILES_MAX} files; join some of them");
        return Err(Problem { origin, message });
    }
    files.sort();
    Ok(files)
}

fn read_text(path: &Path) -> Result<String, Problem> {
    let problem = |message: String| Problem {
        origin: Origin::File { path: path.to_owned(), line: 0 },
        message,
    };
    let mut text = String::new();
    let bytes = fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| problem(format!("cannot be read: {error}")))?;
    match bytes as u64 > FILE_BYTES_MAX {
        true => Err(problem(format!("is larger than {FILE_BYTES_MAX} bytes"))),
        false => Ok(text),
    }
}

/// `ZONDA__HTTP__BODY_BYTES_MAX=1MiB` is `http.body_bytes_max`.
fn environment_layer(sources: &Sources<'_>) -> Layer {
    let item = |(name, value): &(String, String)| {
        let key = name.strip_prefix(ENVIRONMENT_PREFIX)?.to_lowercase().replace("__", ".");
        let origin = Origin::Environment(name.clone());
        Some((key, Item { value: Value::Raw(value.clone()), origin }))
    };
    Layer(sources.environment.iter().filter_map(item).collect())
}

fn flag_layer(sources: &Sources<'_>) -> Layer {
    let item = |setting: &Override| {
        let origin = Origin::Flag(setting.flag.clone());
        (setting.key.clone(), Item { value: Value::Raw(setting.value.clone()), origin })
    };
    let mut layer = Layer(sources.overrides.iter().map(item).collect());
    if let Some(profile) = sources.profile {
        let origin = Origin::Flag("--profile".into());
        layer.0.push(("profile".into(), Item { value: Value::Raw(profile.into()), origin }));
    }
    layer
}

/// What the topmost layer says under `profile`, and where.
fn chosen_profile(sources: &Sources<'_>, layers: &[Layer]) -> (String, Origin) {
    let named = layers.iter().rev().flat_map(|layer| layer.0.iter().rev());
    let item = named.filter(|(key, _)| key == "profile").map(|(_, item)| item).next();
    match item.map(|item| (&item.value, &item.origin)) {
        Some((Value::Text(text) | Value::Raw(text), origin)) => (text.clone(), origin.clone()),
        // A wrong type is reported when the key is read; until then the machine decides.
        _ => (detect(&sources.hardware).id.clone(), Origin::Default),
    }
}

/// The profile of that name, in that file, or of this machine for `auto`.
fn profile_file(
    (name, origin): (String, Origin),
    sources: &Sources<'_>,
) -> Result<ProfileFile, ProfileError> {
    let only = |problem| ProfileError { problems: vec![problem] };
    if name == "auto" {
        return Ok(detect(&sources.hardware).clone());
    }
    if name.contains('/') || name.ends_with(".toml") {
        let path = PathBuf::from(&name);
        let text = read_text(&path).map_err(only)?;
        return ProfileFile::parse(&text, &|line| Origin::File { path: path.clone(), line });
    }
    profiles().iter().find(|profile| profile.id == name).cloned().ok_or_else(|| {
        let mut known: Vec<String> = profiles().iter().map(|profile| profile.id.clone()).collect();
        known.push("auto".into());
        only(Problem { origin, message: crate::nearest::unknown_profile(&name, &known) })
    })
}

/// Takes out what looks like a secret, and says where it belongs. Environment variables may pass:
/// the reader of a secret warns about them.
fn refuse_secrets(mut layer: Layer, problems: &mut Vec<Problem>) -> Layer {
    const WORDS: &[&str] =
        &["password", "passwd", "passphrase", "secret", "token", "api_key", "private_key"];
    layer.0.retain(|(key, item)| {
        let last = key.rsplit('.').next().unwrap_or(key).to_lowercase();
        let is_word = |word: &&str| last == **word || last.ends_with(&format!("_{word}"));
        if matches!(item.origin, Origin::Environment(_)) || !WORDS.iter().any(is_word) {
            return true;
        }
        let key = crate::layer::shortened(key);
        problems.push(Problem {
            origin: item.origin.clone(),
            message: format!(
                "{key} looks like a secret, and secrets do not stand in configuration or flags; \
                 pass it as credential {key} or name a file of mode 0600 in {key}_file"
            ),
        });
        false
    });
    layer
}
