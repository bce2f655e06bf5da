//! Small networks in ONNX beside the model.

use std::path::PathBuf;

use crate::detectors::{self, DetectorConfig};
use crate::layer::Layer;
use crate::reader::Reader;
use crate::{Origin, Problem};

/// Most networks.
const NETWORKS_MAX: usize = 16;
/// Most labels of a classifier.
const LABELS_MAX: usize = 256;
/// Longest label, in bytes.
const LABEL_BYTES_MAX: usize = 256;
/// Most categories of a classifier.
const CATEGORIES_MAX: usize = 64;

/// What a small network is for.
#[derive(Debug, Clone, PartialEq)]
pub enum OnnxRole {
    /// Vectors of texts.
    Embedding {
        /// How the vectors of tokens become one.
        pooling: OnnxPooling,
        /// Whether vectors get unit length.
        normalize: bool,
    },
    /// Scores of labels for texts.
    Classifier {
        /// What it tells apart, in the order of its outputs.
        labels: Vec<String>,
        /// How its numbers become scores.
        scores: OnnxScores,
        /// A best score below it is no decision; 0 decides always.
        abstain_below: f64,
        /// What moderations are told of.
        categories: Vec<OnnxCategory>,
    },
    /// Alarms over numbers that machines publish.
    Detector(DetectorConfig),
}

/// How the vectors of tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnnxPooling {
    /// Their mean.
    Mean,
    /// The first token's.
    Cls,
}

/// How a classifier's numbers become scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnnxScores {
    /// One label fits.
    Softmax,
    /// Any number of labels fits.
    Sigmoid,
}

/// A category of moderations, and the labels that stand for it.
#[derive(Debug, Clone, PartialEq)]
pub struct OnnxCategory {
    /// Its name in answers.
    pub name: String,
    /// Labels of the classifier.
    pub labels: Vec<String>,
    /// A score that reaches it is flagged.
    pub threshold: f64,
}

/// One network, by the name that requests ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct OnnxConfig {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: OnnxRole,
    /// Its file.
    pub path: PathBuf,
    /// Its `tokenizer.json`; of no meaning for a detector.
    pub tokenizer: PathBuf,
    /// Tokens of a text that it reads at once; of no meaning for a detector.
    pub tokens_max: u32,
    /// Where it is configured, for errors of its files.
    pub origin: Origin,
}

/// Every `[[onnx]]` of the configuration.
pub(crate) fn read(reader: &mut Reader) -> Vec<OnnxConfig> {
    let tables = reader.tables("onnx", NETWORKS_MAX);
    let mut networks: Vec<OnnxConfig> = Vec::with_capacity(tables.len());
    for (layer, origin) in tables {
        let Some(network) = network(reader, layer, origin.clone()) else {
            continue;
        };
        if networks.iter().any(|other| other.name == network.name) {
            reader.problem(origin, format!("onnx: {:?} is there twice", network.name));
        }
        networks.push(network);
    }
    networks
}

fn network(reader: &mut Reader, layer: Layer, origin: Origin) -> Option<OnnxConfig> {
    let mut inner = Reader::default();
    inner.overlay(layer);
    let name = name(&mut inner);
    let role = role(&mut inner, &origin);
    let path = inner.path("path");
    // A detector reads no texts, so these keys are unknown there.
    let (tokenizer, tokens_max) = match role {
        Some(OnnxRole::Detector(_)) => (None, 0),
        _ => (inner.path("tokenizer"), inner.count("tokens_max", 256, 8..=8192)),
    };
    if let (Some(OnnxRole::Detector(_)), Some(name)) = (&role, &name)
        && !detectors::is_level(name)
    {
        let rule = "the name of a detector is a level of topics: 1 to 64 of A-Z a-z 0-9 _ . -";
        inner.problem(origin.clone(), rule);
    }
    for (key, missing) in [("name", name.is_none()), ("path", path.is_none())] {
        if missing && inner.problems.is_empty() {
            inner.problem(origin.clone(), format!("{key} is missing"));
        }
    }
    pass_on(reader, inner, "onnx", role.is_some());
    // Exporters put both into one folder.
    let beside = path.as_ref().map(|path| path.with_file_name("tokenizer.json"));
    let tokenizer = tokenizer.or(beside)?;
    Some(OnnxConfig { name: name?, role: role?, path: path?, tokenizer, tokens_max, origin })
}

/// Keys that are another role's stay unread, and become problems like any unknown key.
fn role(reader: &mut Reader, origin: &Origin) -> Option<OnnxRole> {
    let rule = "embedding, classifier or detector";
    let roles = ["embedding", "classifier", "detector"];
    let role = reader.text("role", rule, |role| roles.contains(&role));
    match role.as_deref() {
        Some("embedding") => Some(OnnxRole::Embedding {
            pooling: reader
                .choice("pooling", &[("mean", OnnxPooling::Mean), ("cls", OnnxPooling::Cls)]),
            normalize: reader.flag("normalize", true),
        }),
        Some("detector") => detectors::read(reader, origin).map(OnnxRole::Detector),
        Some(_) => Some(classifier(reader, origin)),
        None if reader.problems.is_empty() => {
            reader.problem(origin.clone(), format!("role is missing: {rule}"));
            None
        }
        None => None,
    }
}

fn classifier(reader: &mut Reader, origin: &Origin) -> OnnxRole {
    let labels = labels(reader);
    if labels.is_empty() && reader.problems.is_empty() {
        let message = "labels is missing: one for each output of the network, in their order";
        reader.problem(origin.clone(), message);
    }
    let mut categories: Vec<OnnxCategory> = Vec::new();
    for (layer, origin) in reader.tables("categories", CATEGORIES_MAX) {
        let Some(category) = category(reader, layer, &origin) else {
            continue;
        };
        if let Some(label) = category.labels.iter().find(|label| !labels.contains(label)) {
            let message = format!("categories: {label:?} is no label of this network");
            reader.problem(origin.clone(), message);
        }
        if categories.iter().any(|other| other.name == category.name) {
            reader.problem(origin, format!("categories: {:?} is there twice", category.name));
        }
        categories.push(category);
    }
    let scores = &[("softmax", OnnxScores::Softmax), ("sigmoid", OnnxScores::Sigmoid)];
    OnnxRole::Classifier {
        labels,
        scores: reader.choice("scores", scores),
        abstain_below: reader.number_or("abstain_below", 0.0, 0.0..=1.0),
        categories,
    }
}

fn category(reader: &mut Reader, layer: Layer, origin: &Origin) -> Option<OnnxCategory> {
    let mut inner = Reader::default();
    inner.overlay(layer);
    let (name, labels) = (name(&mut inner), labels(&mut inner));
    if (name.is_none() || labels.is_empty()) && inner.problems.is_empty() {
        inner.problem(origin.clone(), "a category has a name and labels");
    }
    let threshold = inner.number_or("threshold", 0.5, 0.0..=1.0);
    pass_on(reader, inner, "categories", true);
    Some(OnnxCategory { name: name?, labels, threshold })
}

fn name(reader: &mut Reader) -> Option<String> {
    reader.text("name", "a name of 1 to 128 characters", |text| {
        (1..=128).contains(&text.chars().count()) && !text.chars().any(char::is_control)
    })
}

fn labels(reader: &mut Reader) -> Vec<String> {
    let is_label = |text: &str| (1..=LABEL_BYTES_MAX).contains(&text.len());
    reader.texts("labels", "a text of 1 to 256 bytes", LABELS_MAX, is_label)
}

/// Hands the problems of a table on, each with the list that it stands in. Where the role is not
/// known, it is not known either which keys are.
fn pass_on(reader: &mut Reader, inner: Reader, list: &str, is_whole: bool) {
    let problems = if is_whole { inner.finish().1 } else { inner.problems };
    let prefixed =
        |problem: Problem| Problem { message: format!("{list}: {}", problem.message), ..problem };
    reader.problems.extend(problems.into_iter().map(prefixed));
}
