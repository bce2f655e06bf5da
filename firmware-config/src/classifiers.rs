//! What this box tells apart: classifiers, each with questions, each with its labels.

use crate::layer::Layer;
use crate::reader::Reader;
use crate::{Origin, Problem};

/// Most classifiers.
const CLASSIFIERS_MAX: usize = 64;
/// Most questions of one classifier.
const TARGETS_MAX: usize = 16;
/// Most labels of one question.
const LABELS_MAX: usize = 256;
/// Longest label, in bytes.
const LABEL_BYTES_MAX: usize = 256;
/// Longest instruction, in bytes.
const INSTRUCTION_BYTES_MAX: usize = 64 << 10;

/// One classifier, by the name that requests ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassifierConfig {
    /// Its name.
    pub name: String,
    /// What it decides of each input.
    pub targets: Vec<TargetConfig>,
    /// Where it is configured, for the error if its name is taken.
    pub origin: Origin,
}

/// One question and the labels that may answer it.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetConfig {
    /// Its name in answers.
    pub name: String,
    /// What may be said.
    pub labels: Vec<String>,
    /// What the model is told to decide; without it, a general wording.
    pub instruction: Option<String>,
    /// A best score below it is no decision; 0 decides always.
    pub abstain_below: f64,
    /// Divides the log-probabilities of the labels; 1 does nothing.
    pub temperature: f64,
    /// Takes away what the model says of an input without content.
    pub calibrate: bool,
}

/// Every `[[classifiers]]` of the configuration.
pub(crate) fn read(reader: &mut Reader) -> Vec<ClassifierConfig> {
    let tables = reader.tables("classifiers", CLASSIFIERS_MAX);
    let mut classifiers: Vec<ClassifierConfig> = Vec::with_capacity(tables.len());
    for (layer, origin) in tables {
        let Some(classifier) = classifier(reader, layer, origin.clone()) else {
            continue;
        };
        if classifiers.iter().any(|other| other.name == classifier.name) {
            reader.problem(origin, format!("classifiers: {:?} is there twice", classifier.name));
        }
        classifiers.push(classifier);
    }
    classifiers
}

fn classifier(reader: &mut Reader, layer: Layer, origin: Origin) -> Option<ClassifierConfig> {
    let mut inner = Reader::default();
    inner.overlay(layer);
    let name = name(&mut inner, &origin);
    let mut targets: Vec<TargetConfig> = Vec::new();
    for (layer, origin) in inner.tables("targets", TARGETS_MAX) {
        let Some(target) = target(&mut inner, layer, origin.clone()) else {
            continue;
        };
        if targets.iter().any(|other| other.name == target.name) {
            inner.problem(origin, format!("targets: {:?} is there twice", target.name));
        }
        targets.push(target);
    }
    if targets.is_empty() && inner.problems.is_empty() {
        inner.problem(origin.clone(), "targets is missing; each has a name and labels");
    }
    pass_on(reader, inner, "classifiers");
    Some(ClassifierConfig { name: name?, targets, origin })
}

fn target(reader: &mut Reader, layer: Layer, origin: Origin) -> Option<TargetConfig> {
    let mut inner = Reader::default();
    inner.overlay(layer);
    let name = name(&mut inner, &origin);
    let is_label = |text: &str| !text.trim().is_empty() && text.len() <= LABEL_BYTES_MAX;
    let labels = inner.texts("labels", "a text of 1 to 256 bytes", LABELS_MAX, is_label);
    if labels.is_empty() && inner.problems.is_empty() {
        inner.problem(origin, "labels is missing; such as labels = [\"on\", \"off\"]");
    }
    let is_instruction = |text: &str| (1..=INSTRUCTION_BYTES_MAX).contains(&text.len());
    let target = TargetConfig {
        name: String::new(),
        labels,
        instruction: inner.text("instruction", "a text of 1 to 65536 bytes", is_instruction),
        abstain_below: inner.number_or("abstain_below", 0.0, 0.0..=1.0),
        temperature: inner.number_or("temperature", 1.0, 0.01..=100.0),
        calibrate: inner.flag("calibrate", false),
    };
    pass_on(reader, inner, "targets");
    Some(TargetConfig { name: name?, ..target })
}

fn name(reader: &mut Reader, origin: &Origin) -> Option<String> {
    let rule = "a name of 1 to 128 characters";
    let is_name = |text: &str| {
        (1..=128).contains(&text.chars().count()) && !text.chars().any(char::is_control)
    };
    let name = reader.text("name", rule, is_name);
    if name.is_none() && reader.problems.is_empty() {
        reader.problem(origin.clone(), format!("name is missing: {rule}"));
    }
    name
}

/// Hands the problems of a table on, each with the list that it stands in.
fn pass_on(reader: &mut Reader, inner: Reader, list: &str) {
    let (_, problems, _) = inner.finish();
    let prefixed =
        |problem: Problem| Problem { message: format!("{list}: {}", problem.message), ..problem };
    reader.problems.extend(problems.into_iter().map(prefixed));
}
