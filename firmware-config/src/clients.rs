//! Who may ask, and how much: clients by their names, each with its keys and its limits.

use crate::layer::{Layer, Value};
use crate::profile::Strictness;
use crate::read::{LEVEL_RULE, STRICTNESS, is_level, sha256};
use crate::reader::Reader;
use crate::{Origin, Problem};

/// Most clients.
const CLIENTS_MAX: usize = 1024;
/// Most keys of one client: an old one and a new one, and some more.
const KEYS_MAX: usize = 8;
/// Most models that a client is confined to.
const MODELS_MAX: usize = 64;
/// What the names of clients begin with that showed a nameless token or a certificate.
const TAKEN_PREFIXES: &[&str] = &["token-", "cert-"];

/// One client, or every client that has no entry of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// Its name, over every entrance; [`Self::OTHERS`] stands for each one that is not listed.
    pub name: String,
    /// SHA-256 of each key that it may show over HTTP.
    pub key_sha256: Vec<[u8; 32]>,
    /// How its bodies' unknown fields are taken, where not as `http.strictness` says.
    pub strictness: Option<Strictness>,
    /// What it may spend.
    pub limits: ClientLimits,
}

/// What a client may spend; `None` does not limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientLimits {
    /// Requests let in; a minute's worth at once after a rest.
    pub requests_per_minute: Option<u32>,
    /// Tokens of prompts and answers; a minute's worth at once after a rest.
    pub tokens_per_minute: Option<u32>,
    /// Tokens of prompts and answers within 24 hours.
    pub tokens_per_day: Option<u32>,
    /// Requests that wait or run at the same time.
    pub requests_max: Option<u32>,
    /// Tokens of one answer.
    pub max_tokens: Option<u32>,
    /// Models and classifiers that it may name; empty for all.
    pub models: Vec<String>,
}

impl ClientConfig {
    /// The name of the entry for clients that have none.
    pub const OTHERS: &'static str = "*";

    /// Whether a client may be named so: a topic level, which MQTT clients are named by.
    pub fn is_name(name: &str) -> bool {
        is_level(name) && !TAKEN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    }
}

/// Every `[[clients]]` of the configuration.
pub(crate) fn read(reader: &mut Reader) -> Vec<ClientConfig> {
    let tables = reader.tables("clients", CLIENTS_MAX);
    let mut clients: Vec<ClientConfig> = Vec::with_capacity(tables.len());
    for (layer, origin) in tables {
        let Some(client) = client(reader, layer, origin.clone()) else {
            continue;
        };
        if clients.iter().any(|other| other.name == client.name) {
            reader.problem(origin.clone(), format!("clients: {:?} is there twice", client.name));
        }
        let shown = |key| clients.iter().find(|other| other.key_sha256.contains(key));
        if let Some(other) = client.key_sha256.iter().find_map(shown) {
            let message = format!("clients: {:?} has a key of {:?}", client.name, other.name);
            reader.problem(origin, message);
        }
        clients.push(client);
    }
    clients
}

fn client(reader: &mut Reader, mut layer: Layer, origin: Origin) -> Option<ClientConfig> {
    for (key, item) in &mut layer.0 {
        // One key needs no list.
        if key == "key_sha256" && matches!(item.value, Value::Text(_)) {
            item.value = Value::List(vec![item.clone()]);
        }
    }
    let mut inner = Reader::default();
    inner.overlay(layer);
    let rule = format!("{LEVEL_RULE}, or \"{}\"", ClientConfig::OTHERS);
    let is_known = |name: &str| name == ClientConfig::OTHERS || is_level(name);
    let name = inner.text("name", &rule, is_known);
    if name.is_none() && inner.problems.is_empty() {
        inner.problem(origin.clone(), format!("name is missing: {rule}"));
    }
    let rule = "the SHA-256 of a key in 64 hexadecimal digits";
    let digests = inner.texts("key_sha256", rule, KEYS_MAX, |text| sha256(text).is_some());
    let words: Vec<&str> = STRICTNESS.iter().map(|(word, _)| *word).collect();
    let rule = format!("one of {}", words.join(", "));
    let strictness = inner.text("strictness", &rule, |text| words.contains(&text));
    let strictness = strictness.and_then(|text| STRICTNESS.iter().find(|(word, _)| *word == text));
    let client = ClientConfig {
        name: String::new(),
        key_sha256: digests.iter().filter_map(|text| sha256(text)).collect(),
        strictness: strictness.map(|(_, strictness)| *strictness),
        limits: limits(&mut inner),
    };
    if let Some(problem) = name.as_deref().and_then(|name| wrong_together(name, &client)) {
        inner.problem(origin, problem);
    }
    let (_, problems, _) = inner.finish();
    let prefixed =
        |problem: Problem| Problem { message: format!("clients: {}", problem.message), ..problem };
    reader.problems.extend(problems.into_iter().map(prefixed));
    Some(ClientConfig { name: name?, ..client })
}

fn limits(reader: &mut Reader) -> ClientLimits {
    // 0 is in none of the ranges: it stands for a key that is not there.
    let mut limit = |key: &str, most: u32| {
        let limit = reader.count(key, 0, 1..=most);
        (limit > 0).then_some(limit)
    };
    let limits = ClientLimits {
        requests_per_minute: limit("requests_per_minute", 1_000_000),
        tokens_per_minute: limit("tokens_per_minute", 1_000_000_000),
        tokens_per_day: limit("tokens_per_day", u32::MAX),
        requests_max: limit("requests_max", 65_536),
        max_tokens: limit("max_tokens", 16_777_216),
        models: Vec::new(),
    };
    let is_model = |name: &str| (1..=128).contains(&name.chars().count());
    let models = reader.texts("models", "a name of 1 to 128 characters", MODELS_MAX, is_model);
    if models.is_empty() && reader.origin_of("models") != Origin::Default {
        // Who wrote this may have meant none, or all.
        let origin = reader.origin_of("models");
        reader.problem(origin, "models is empty; leave it out to allow all");
    }
    ClientLimits { models, ..limits }
}

fn wrong_together(name: &str, client: &ClientConfig) -> Option<String> {
    if name == ClientConfig::OTHERS && !client.key_sha256.is_empty() {
        return Some("\"*\" is every client without an entry and has no key of its own".into());
    }
    if name == ClientConfig::OTHERS && client.strictness.is_some() {
        return Some("\"*\" has no strictness of its own; http.strictness is for everybody".into());
    }
    let taken = TAKEN_PREFIXES.iter().find(|prefix| name.starts_with(**prefix))?;
    Some(format!("names that begin with {taken} are given to clients without a name"))
}
