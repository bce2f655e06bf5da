//! What decides before the model: a small network, and what follows from each label.

use crate::layer::Layer;
use crate::reader::Reader;
use crate::{Origin, Problem};

/// Most routes.
const ROUTES_MAX: usize = 64;
/// Most examples of a route.
const EXAMPLES_MAX: usize = 64;
/// Longest label, in bytes.
const LABEL_BYTES_MAX: usize = 256;
/// Longest example, in bytes.
const EXAMPLE_BYTES_MAX: usize = 1024;
/// Longest answer or refusal, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// The network that decides, and what follows.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterConfig {
    /// An `[[onnx]]` network: a classifier, or one that makes vectors.
    pub network: String,
    /// Below this score the model answers.
    pub threshold: f64,
    /// What follows from each label; from others nothing does.
    pub routes: Vec<RouteConfig>,
    /// Where it is configured, for errors that show later.
    pub origin: Origin,
}

/// One label and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteConfig {
    /// The classifier's label; beside vectors any name.
    pub label: String,
    /// What such a request looks like, for vectors.
    pub examples: Vec<String>,
    /// What follows.
    pub action: RouteAction,
}

/// What follows from a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteAction {
    /// This is the answer.
    Answer(String),
    /// The request is refused with this sentence.
    Refuse(String),
    /// The model answers.
    Model,
}

/// The `[router]` of the configuration.
pub(crate) fn read(reader: &mut Reader) -> Option<RouterConfig> {
    let network = reader.text("router.network", "the name of an [[onnx]] network", |text| {
        (1..=128).contains(&text.chars().count())
    });
    let threshold = reader.number_or("router.threshold", 0.8, 0.0..=1.0);
    let origin = reader.origin_of("router.network");
    let mut routes: Vec<RouteConfig> = Vec::new();
    for (layer, origin) in reader.tables("router.routes", ROUTES_MAX) {
        let Some(route) = route(reader, layer, &origin) else {
            continue;
        };
        if routes.iter().any(|other| other.label == route.label) {
            reader.problem(origin, format!("router.routes: {:?} is there twice", route.label));
        }
        routes.push(route);
    }
    match network {
        Some(_) if routes.is_empty() => {
            if reader.problems.is_empty() {
                let wrong = "router.routes is missing: what follows from each label";
                reader.problem(origin, wrong);
            }
            None
        }
        Some(network) => Some(RouterConfig { network, threshold, routes, origin }),
        None if !routes.is_empty() => {
            let origin = reader.origin_of("router.routes");
            reader.problem(origin, "router.network is missing: what decides between the routes");
            None
        }
        None => None,
    }
}

fn route(reader: &mut Reader, layer: Layer, origin: &Origin) -> Option<RouteConfig> {
    let mut inner = Reader::default();
    inner.overlay(layer);
    let of_bytes = |bytes_max: usize| move |text: &str| (1..=bytes_max).contains(&text.len());
    let label = inner.text("label", "a text of 1 to 256 bytes", of_bytes(LABEL_BYTES_MAX));
    let example = "a text of 1 to 1024 bytes";
    let examples = inner.texts("examples", example, EXAMPLES_MAX, of_bytes(EXAMPLE_BYTES_MAX));
    let rule = "a text of 1 to 16384 bytes";
    let answer = inner.text("answer", rule, of_bytes(ANSWER_BYTES_MAX));
    let refuse = inner.text("refuse", rule, of_bytes(ANSWER_BYTES_MAX));
    let action = match (answer, refuse) {
        (Some(_), Some(_)) => {
            inner.problem(origin.clone(), "a route has an answer or refuses, not both");
            RouteAction::Model
        }
        (Some(answer), None) => RouteAction::Answer(answer),
        (None, Some(refusal)) => RouteAction::Refuse(refusal),
        (None, None) => RouteAction::Model,
    };
    if label.is_none() && inner.problems.is_empty() {
        inner.problem(origin.clone(), "label is missing");
    }
    let prefixed = |problem: Problem| Problem {
        message: format!("router.routes: {}", problem.message),
        ..problem
    };
    reader.problems.extend(inner.finish().1.into_iter().map(prefixed));
    Some(RouteConfig { label: label?, examples, action })
}
