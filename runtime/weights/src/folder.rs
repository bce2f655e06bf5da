//! Models whose weights are safetensors: which files of a folder belong together.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::archive::{Container, Opened};
use crate::json::{self, Document, Once};
use crate::mapped::Mapped;
use crate::table::Table;
use crate::{Hyper, WeightsError, config, gguf, safetensors};

/// Files that the weights of one model may be cut into.
const SHARDS_MAX: usize = 1024;
/// Entries of a folder that are looked at.
const ENTRIES_MAX: usize = 65_536;
/// The least vocabulary of the byte-pair tokenizer; the SentencePiece ones have at most 32,768.
const TEKKEN_VOCABULARY_MIN: u32 = 65_536;

/// What a folder of one layout holds.
struct Layout {
    container: Container,
    /// The hyper-parameters, and who reads them.
    configuration: &'static str,
    read: fn(&Document) -> Result<Hyper, WeightsError>,
    /// All weights in one file.
    whole: &'static str,
    /// Which shard has which tensor.
    index: &'static str,
}

/// In the order of preference where a folder has both.
const LAYOUTS: [Layout; 2] = [
    Layout {
        container: Container::HuggingFace,
        configuration: "config.json",
        read: config::hugging_face,
        whole: "model.safetensors",
        index: "model.safetensors.index.json",
    },
    Layout {
        container: Container::Mistral,
        configuration: "params.json",
        read: config::mistral,
        whole: "consolidated.safetensors",
        index: "consolidated.safetensors.index.json",
    },
];

/// Opens a folder: Hugging Face, else Mistral, else its only GGUF file.
pub(crate) fn open(folder: &Path) -> Result<Opened, WeightsError> {
    for layout in &LAYOUTS {
        let configuration = folder.join(layout.configuration);
        if !configuration.is_file() {
            continue;
        }
        let whole = folder.join(layout.whole);
        if whole.is_file() {
            return assemble(folder, layout, vec![Mapped::open(&whole)?], None);
        }
        let index = folder.join(layout.index);
        if index.is_file() {
            let index = Index::open(index)?;
            let files: Result<Vec<_>, _> =
                index.shards.iter().map(|shard| Mapped::open(&folder.join(shard))).collect();
            return assemble(folder, layout, files?, Some(&index));
        }
    }
    gguf::open(only_gguf(folder)?)
}

/// Opens one `.safetensors` file with its configuration beside it.
pub(crate) fn open_file(file: Mapped) -> Result<Opened, WeightsError> {
    let folder = file.path.parent().map(Path::to_owned).unwrap_or_default();
    let name = file.path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let mistral_first = name.starts_with("consolidated");
    if name.contains("-of-") {
        return Err(WeightsError::Unsupported {
            path: file.path.clone(),
            what: "one shard of several".into(),
            advice: "Open the folder that holds all of them with their index.".into(),
        });
    }
    let mut layouts: Vec<&Layout> = LAYOUTS.iter().collect();
    if mistral_first {
        layouts.reverse();
    }
    let found = layouts.into_iter().find(|layout| folder.join(layout.configuration).is_file());
    let Some(layout) = found else {
        // A damaged file is told as such, whatever lies beside it.
        safetensors::read(&file, 0, &mut Table::default())?;
        let found = "neither config.json nor params.json lies beside it".into();
        return Err(WeightsError::Unrecognised { path: file.path.clone(), found });
    };
    assemble(&folder, layout, vec![file], None)
}

fn assemble(
    folder: &Path,
    layout: &Layout,
    files: Vec<Mapped>,
    index: Option<&Index>,
) -> Result<Opened, WeightsError> {
    let document = Document::open(folder.join(layout.configuration))?;
    let hyper = (layout.read)(&document)?;
    let mut table = Table::default();
    for (position, file) in files.iter().enumerate() {
        safetensors::read(file, position, &mut table)?;
    }
    if let Some(index) = index {
        index.check(&table)?;
    }
    let tokenizer = tokenizer_in(folder, &hyper);
    let path = match files.as_slice() {
        [only] => only.path.clone(),
        _ => folder.to_owned(),
    };
    let opened = Opened::check(path, layout.container, hyper, files, table, None)?;
    Ok(opened.with_tokenizer(tokenizer))
}

/// `…safetensors.index.json`: which shard has which tensor.
struct Index {
    path: PathBuf,
    shards: Vec<String>,
    /// Tensor and position of its shard.
    places: Vec<(String, usize)>,
}

impl Index {
    fn open(path: PathBuf) -> Result<Self, WeightsError> {
        #[derive(Deserialize)]
        struct Stated {
            weight_map: Once<String>,
        }
        let Stated { weight_map: Once(map) } = json::read(&path)?;
        let names: BTreeSet<&String> = map.values().collect();
        let malformed = |at: &str, problem: String| WeightsError::Malformed {
            path: path.clone(),
            at: at.into(),
            problem,
        };
        if names.is_empty() || names.len() > SHARDS_MAX {
            let problem = format!("{} shards, 1 to {SHARDS_MAX} are read", names.len());
            return Err(malformed("weight_map", problem));
        }
        for name in &names {
            // A shard lies in the folder itself: no path may lead out of it.
            let plain = Path::new(name).file_name().is_some_and(|file| file == name.as_str())
                && !name.contains('\\')
                && safetensors::is_safetensors(Path::new(name));
            if !plain {
                let shown: String = name.chars().take(60).collect();
                return Err(malformed("weight_map", format!("{shown:?} names no shard here")));
            }
        }
        let shards: Vec<String> = names.into_iter().cloned().collect();
        let place = |(tensor, shard): (String, String)| {
            shards.binary_search(&shard).ok().map(|position| (tensor, position))
        };
        let places = map.into_iter().filter_map(place).collect();
        Ok(Self { path, shards, places })
    }

    /// Every tensor must lie in the shard that the index names.
    fn check(&self, table: &Table) -> Result<(), WeightsError> {
        for (tensor, shard) in &self.places {
            if table.place(tensor).is_none_or(|place| place.file != *shard) {
                return Err(WeightsError::Malformed {
                    path: self.path.clone(),
                    at: format!("tensor `{}`", tensor.chars().take(60).collect::<String>()),
                    problem: format!("it is not in {}", self.shards[*shard]),
                });
            }
        }
        Ok(())
    }
}

fn only_gguf(folder: &Path) -> Result<Mapped, WeightsError> {
    let failed = |source| WeightsError::Io { path: folder.to_owned(), doing: "list", source };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)?.take(ENTRIES_MAX) {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "gguf") {
            found.push(path);
        }
    }
    match found.as_slice() {
        [only] => Mapped::open(only),
        _ => Err(WeightsError::Unrecognised {
            path: folder.to_owned(),
            found: match found.len() {
                0 => "no weights with their configuration are in the folder".into(),
                several => format!("{several} .gguf files are in the folder; name one of them"),
            },
        }),
    }
}

/// The tokenizer that fits the vocabulary: its size tells, names of models do not. Files that
/// carry a version are the exact ones; `tokenizer.json` is a conversion.
fn tokenizer_in(folder: &Path, hyper: &Hyper) -> Option<PathBuf> {
    const SENTENCE_PIECE: [&str; 7] = [
        "tokenizer.model.v7",
        "tokenizer.model.v3",
        "tokenizer.model.v2",
        "tokenizer.model.v1",
        "tokenizer.model",
        "tokenizer.json",
        "tekken.json",
    ];
    const TEKKEN: [&str; 3] = ["tekken.json", "tokenizer.json", "tokenizer.model"];
    let names: &[&str] =
        if hyper.vocabulary >= TEKKEN_VOCABULARY_MIN { &TEKKEN } else { &SENTENCE_PIECE };
    names.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}
