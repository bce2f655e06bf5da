//! Every key of the configuration, with its default and its range: the list that binds.

use std::path::{Path, PathBuf};

use serde_json::{Map, Number, Value as Json};

use crate::layer::{Item, Layer, Value};
use crate::profile::{
    AliasConfig, DeviceConfig, EngineConfig, FilterConfig, HttpSection, KvDtype, LogSection,
    LostDevice, MemoryConfig, ModelConfig, MqttSection, MqttVersion, PrefixSharing, Profile,
    Strictness, TlsFiles, ToolsSection,
};
use crate::reader::Reader;
use crate::{Hardware, OnnxConfig, OnnxRole, Origin, Problem, ProfileFile};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

const BACKENDS: &[&str] = &["flex", "ndarray", "vulkan", "wgpu", "metal", "cuda"];
const ENCODINGS: &[&str] = &["v1", "v2", "v3", "v3-tekken", "v7"];
const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];
pub(crate) const STRICTNESS: &[(&str, Strictness)] =
    &[("lenient", Strictness::Lenient), ("mistral-strict", Strictness::MistralStrict)];
const VERSIONS: &[(&str, MqttVersion)] =
    &[("auto", MqttVersion::Auto), ("5", MqttVersion::V5), ("3.1.1", MqttVersion::V311)];
const APPROVALS_FILE: &str = "/var/lib/zonda/approved-tools.json";
pub(crate) const LEVEL_RULE: &str = "a topic level of 1 to 64 letters, digits, _ . or -";

pub(crate) fn profile(
    reader: &mut Reader,
    file: &ProfileFile,
    hardware: &Hardware,
    credentials: Option<&Path>,
    state: Option<&Path>,
) -> Profile {
    let _chosen = reader.text_or("profile", "auto", "a name or a file", |text| !text.is_empty());
    let clients = crate::clients::read(reader);
    let profile = Profile {
        id: file.id.clone(),
        device: device(reader),
        memory: memory(reader),
        engine: engine(reader, !clients.is_empty()),
        model: model(reader),
        http: http(reader),
        mqtt: mqtt(reader, hardware, credentials, state),
        tools: tools(reader),
        plugins: crate::plugins::plugins(reader),
        mcp_servers: crate::mcp_servers::read(reader),
        filters: filters(reader),
        classifiers: crate::classifiers::read(reader),
        onnx: crate::onnx::read(reader),
        router: crate::router::read(reader),
        clients,
        log: LogSection {
            level: reader.text_or("log.level", "info", &one_of(LEVELS), |l| LEVELS.contains(&l)),
        },
        hardware: file.hardware.clone(),
        usual_model: file.usual_model.clone(),
        expect: file.expect,
    };
    check(reader, &profile);
    check_http(reader, &profile);
    profile
}

fn device(reader: &mut Reader) -> DeviceConfig {
    let rule = format!("one of auto, {}", BACKENDS.join(", "));
    let known = |name: &str| BACKENDS.contains(&name);
    let order = reader.texts("device.backend_order", &one_of(BACKENDS), 8, known);
    DeviceConfig {
        backend: reader.text_or("device.backend", "auto", &rule, |b| b == "auto" || known(b)),
        backend_order: if order.is_empty() { vec!["flex".into()] } else { order },
        gpu_layers: reader.count("device.gpu_layers", 1024, 0..=1024),
        gpu_memory_bytes: reader.bytes("device.gpu_memory_bytes", 0, 0..=64 * TIB),
        on_lost: reader
            .choice("device.on_lost", &[("stop", LostDevice::Stop), ("cpu", LostDevice::Cpu)]),
        threads: reader.count("device.threads", 0, 0..=1024),
        onnx_threads: reader.count("device.onnx_threads", 1, 1..=16),
    }
}

fn memory(reader: &mut Reader) -> MemoryConfig {
    MemoryConfig {
        model_budget_bytes: reader.bytes("memory.model_budget_bytes", 4 * GIB, MIB..=64 * TIB),
        kv_pool_bytes: reader.bytes("memory.kv_pool_bytes", 512 * MIB, MIB..=64 * TIB),
        kv_dtype: reader.choice(
            "memory.kv_dtype",
            &[("f16", KvDtype::F16), ("int8", KvDtype::Int8), ("f32", KvDtype::F32)],
        ),
        reserve_bytes: reader.bytes("memory.reserve_bytes", GIB, 0..=64 * TIB),
    }
}

fn engine(reader: &mut Reader, tells_clients_apart: bool) -> EngineConfig {
    let batch_tokens_max = reader.count("engine.batch_tokens_max", 512, 1..=65_536);
    // Who makes steps small need not say so three times.
    let within_step = |tokens: u32| tokens.min(batch_tokens_max);
    EngineConfig {
        batch_tokens_max,
        sequences_max: reader.count("engine.sequences_max", within_step(8), 1..=256),
        queue_requests_max: reader.count("engine.queue_requests_max", 32, 1..=65_536),
        page_tokens: reader.count("engine.page_tokens", 16, 1..=256),
        prompt_chunk_tokens: reader.count(
            "engine.prompt_chunk_tokens",
            within_step(256),
            1..=65_536,
        ),
        slowdown_max: reader.number_or("engine.slowdown_max", 2.5, 0.0..=1_000.0),
        draft_tokens_max: reader.count("engine.draft_tokens_max", within_step(8), 0..=32),
        prefix_sharing: {
            let mut words = [
                ("all", PrefixSharing::All),
                ("client", PrefixSharing::Client),
                ("off", PrefixSharing::Off),
            ];
            // The first is the default: who lists clients does not have one learn from the speed of
            // an answer what another has asked.
            words[..2].rotate_left(usize::from(tells_clients_apart));
            reader.choice("engine.prefix_sharing", &words)
        },
        prefix_folder: reader.path("engine.prefix_folder"),
        prefix_folder_bytes: reader.bytes("engine.prefix_folder_bytes", GIB, MIB..=64 * TIB),
        context_tokens_max: reader.count("engine.context_tokens_max", 0, 0..=16_777_216),
        reply_events_max: reader.count("engine.reply_events_max", 256, 1..=65_536),
    }
}

fn model(reader: &mut Reader) -> ModelConfig {
    let temperature = reader.number("model.default_temperature", 0.0..=2.0);
    ModelConfig {
        path: reader.path("model.path"),
        draft_path: reader.path("model.draft_path"),
        name: reader.text("model.name", "a name of 1 to 128 characters", is_model_name),
        encoding: reader.text("model.encoding", &one_of(ENCODINGS), is_encoding),
        default_temperature: temperature.map(|temperature| temperature as f32),
        aliases: reader
            .tables("model.aliases", 64)
            .into_iter()
            .filter_map(|(layer, origin)| alias(reader, layer, origin))
            .collect(),
    }
}

fn alias(reader: &mut Reader, layer: Layer, origin: Origin) -> Option<AliasConfig> {
    let mut inner = Reader::default();
    inner.overlay(layer);
    let name = inner.text("name", "a name of 1 to 128 characters", is_model_name);
    let encoding = inner.text("encoding", &one_of(ENCODINGS), is_encoding);
    if name.is_none() && inner.problems.is_empty() {
        inner.problem(origin, "name is missing; an alias is { name = \"…\", encoding = \"v3\" }");
    }
    let (_, problems, _) = inner.finish();
    let prefixed = |problem: Problem| Problem {
        message: format!("model.aliases: {}", problem.message),
        ..problem
    };
    reader.problems.extend(problems.into_iter().map(prefixed));
    Some(AliasConfig { name: name?, encoding })
}

fn http(reader: &mut Reader) -> HttpSection {
    let rule = "the SHA-256 of a token in 64 hexadecimal digits";
    let digests = reader.texts("http.token_sha256", rule, 256, |text| sha256(text).is_some());
    HttpSection {
        enabled: reader.flag("http.enabled", true),
        address: reader.address("http.address", "127.0.0.1:8080"),
        unix_socket: reader.path("http.unix_socket"),
        tcp: reader.flag("http.tcp", true),
        tls: tls(reader),
        insecure: reader.flag("http.insecure", false),
        token_sha256: digests.iter().filter_map(|text| sha256(text)).collect(),
        strictness: reader.choice("http.strictness", STRICTNESS),
        body_bytes_max: reader.bytes_u32("http.body_bytes_max", 4 << 20, 1024..=256 << 20),
        connections_max: reader.count("http.connections_max", 256, 1..=65_536),
        drain: reader.milliseconds("http.drain_ms", 30_000, 0..=600_000),
        batch_folder: reader.path("http.batch_folder"),
        batch_bytes_max: reader.bytes("http.batch_bytes_max", GIB, MIB..=64 * TIB),
    }
}

fn tls(reader: &mut Reader) -> Option<TlsFiles> {
    let cert_file = reader.path("http.tls_cert_file");
    let key_file = reader.path("http.tls_key_file");
    let client_ca_file = reader.path("http.tls_client_ca_file");
    match (cert_file, key_file) {
        (Some(cert_file), Some(key_file)) => Some(TlsFiles { cert_file, key_file, client_ca_file }),
        (cert_file, key_file) => {
            let (there, missing) = match (&cert_file, &key_file) {
                (Some(_), _) => ("http.tls_cert_file", "http.tls_key_file"),
                (_, Some(_)) => ("http.tls_key_file", "http.tls_cert_file"),
                _ => ("http.tls_client_ca_file", "http.tls_cert_file and http.tls_key_file"),
            };
            let origin = reader.origin_of(there);
            if origin != Origin::Default {
                reader.problem(origin, format!("{there} is of no use without {missing}"));
            }
            None
        }
    }
}

fn mqtt(
    reader: &mut Reader,
    hardware: &Hardware,
    credentials: Option<&Path>,
    state: Option<&Path>,
) -> MqttSection {
    let rule = "mqtt://host:port or mqtts://host:port, without user and password";
    let url = reader.text("mqtt.url", rule, is_broker_url);
    // A broker that only this box reaches knows no foreign clients to tell apart.
    let alone = url.as_deref().is_none_or(is_loopback_url);
    let node = reader.text_or("mqtt.node", &node_name(hardware), LEVEL_RULE, is_level);
    let is_filter = |text: &str| !text.is_empty() && text.len() <= 512 && !text.contains('\0');
    let queue_requests_max = reader.count("mqtt.queue_requests_max", 32, 1..=4096);
    // The embedded broker serves one box, whose programs share as they like.
    let client_max = if url.is_none() { queue_requests_max } else { 2 };
    MqttSection {
        enabled: reader.flag("mqtt.enabled", true),
        broker_address: reader.address("mqtt.broker_address", "127.0.0.1:1883"),
        root: reader.text_or("mqtt.root", "zonda/v1", "topic levels between slashes", |root| {
            root.len() <= 256 && root.split('/').all(is_level)
        }),
        site: reader.text_or("mqtt.site", "default", LEVEL_RULE, is_level),
        client_id: reader.text_or(
            "mqtt.client_id",
            &format!("zonda-{node}"),
            "a text of 1 to 128 characters",
            |text| (1..=128).contains(&text.len()),
        ),
        pool: reader.text("mqtt.pool", LEVEL_RULE, is_level),
        version: reader.choice("mqtt.version", VERSIONS),
        username: reader.text("mqtt.username", "a name", |text| (1..=256).contains(&text.len())),
        password: reader.secret("mqtt.password", credentials),
        ca_file: reader.path("mqtt.ca_file"),
        cert_file: reader.path("mqtt.cert_file"),
        key_file: reader.path("mqtt.key_file"),
        home_assistant: reader.flag("mqtt.home_assistant", false),
        insecure: reader.flag("mqtt.insecure", false),
        plain_requests: reader.flag("mqtt.plain_requests", alone),
        reply_filters: reader.texts("mqtt.reply_filters", "a topic filter", 64, is_filter),
        request_bytes_max: reader.bytes_u32("mqtt.request_bytes_max", 256 << 10, 1024..=8 << 20),
        send_bytes_max: reader.bytes_u32("mqtt.send_bytes_max", 128 << 10, 1024..=8 << 20),
        queue_requests_max,
        client_requests_max: reader.count("mqtt.client_requests_max", client_max, 1..=4096),
        drain: reader.milliseconds("mqtt.drain_ms", 30_000, 0..=600_000),
        detach_grace: reader.milliseconds("mqtt.detach_grace_ms", 30_000, 0..=3_600_000),
        journal: journal(reader, url.is_some(), &node, state),
        url,
        node,
    }
}

/// Where accepted requests survive a restart. The embedded broker forgets with the program, so only
/// beside a real one there is a journal unasked.
fn journal(
    reader: &mut Reader,
    is_outside: bool,
    node: &str,
    state: Option<&Path>,
) -> Option<PathBuf> {
    let usual =
        state.filter(|_| is_outside).map(|folder| folder.join(format!("mqtt-{node}.sqlite")));
    let usual = usual.as_deref().and_then(Path::to_str).unwrap_or("off");
    let rule = "off, or the absolute path of a file";
    let accepts = |text: &str| text == "off" || (text.starts_with('/') && !text.contains('\0'));
    let text = reader.text_or("mqtt.journal", usual, rule, accepts);
    (text != "off").then(|| PathBuf::from(text))
}

fn tools(reader: &mut Reader) -> ToolsSection {
    let is_name = |text: &str| (1..=64).contains(&text.len());
    ToolsSection {
        enabled: reader.texts("tools.enabled", "the name of a tool", 64, is_name),
        rounds_max: reader.count("tools.rounds_max", 8, 1..=64),
        duration_max: reader.milliseconds("tools.duration_ms_max", 60_000, 100..=3_600_000),
        result_bytes_max: reader.bytes_u32("tools.result_bytes_max", 64 << 10, 256..=1 << 20),
        requests_max: reader.count("tools.requests_max", 64, 1..=4096),
        approvals_file: reader
            .text_or("tools.approvals_file", APPROVALS_FILE, "an absolute path", |text| {
                Path::new(text).is_absolute() && !text.contains('\0')
            })
            .into(),
    }
}

fn filters(reader: &mut Reader) -> Vec<FilterConfig> {
    let tables = reader.tables("filters", 64);
    let mut filters = Vec::with_capacity(tables.len());
    for (mut layer, origin) in tables {
        let kind = layer.0.iter().position(|(key, _)| key == "kind").map(|at| layer.0.remove(at));
        match kind.map(|(_, item)| item.value) {
            Some(Value::Text(kind)) => {
                let settings = layer.0.into_iter().map(|(key, item)| (key, json(item))).collect();
                filters.push(FilterConfig { kind, settings, origin });
            }
            _ => reader.problem(origin, "filters: kind is missing; such as kind = \"length\""),
        }
    }
    filters
}

pub(crate) fn json(item: Item) -> Json {
    match item.value {
        Value::Text(text) | Value::Raw(text) | Value::Other(text) => Json::String(text),
        Value::Integer(number) => Json::Number(number.into()),
        Value::Float(number) => Number::from_f64(number).map_or(Json::Null, Json::Number),
        Value::Flag(flag) => Json::Bool(flag),
        Value::List(items) => Json::Array(items.into_iter().map(json).collect()),
        Value::Table(entries) => Json::Object(
            entries.into_iter().map(|(key, item)| (key, json(item))).collect::<Map<_, _>>(),
        ),
    }
}

/// What no single key can tell.
fn check(reader: &mut Reader, profile: &Profile) {
    let Profile { memory, engine, mqtt, .. } = profile;
    let mut refuse = |key: &str, wrong: bool, message: &str| {
        if wrong {
            let origin = reader.origin_of(key);
            reader.problem(origin, message);
        }
    };
    refuse(
        "memory.kv_pool_bytes",
        memory.kv_pool_bytes >= memory.model_budget_bytes,
        "memory.kv_pool_bytes leaves no room for weights in memory.model_budget_bytes",
    );
    refuse(
        "engine.page_tokens",
        !engine.page_tokens.is_power_of_two(),
        "engine.page_tokens is no power of two; 16 suits most devices",
    );
    refuse(
        "engine.sequences_max",
        engine.sequences_max > engine.batch_tokens_max,
        "engine.sequences_max is more than engine.batch_tokens_max; each answer needs one token \
         of every step",
    );
    refuse(
        "engine.prompt_chunk_tokens",
        engine.prompt_chunk_tokens > engine.batch_tokens_max,
        "engine.prompt_chunk_tokens is more than engine.batch_tokens_max",
    );
    let is_detector = |config: &OnnxConfig| matches!(config.role, OnnxRole::Detector(_));
    refuse(
        "mqtt.enabled",
        !mqtt.enabled && profile.onnx.iter().any(is_detector),
        "mqtt.enabled is false, and a detector of [[onnx]] listens to MQTT",
    );
    refuse(
        "mqtt.broker_address",
        !mqtt.broker_address.ip().is_loopback(),
        "mqtt.broker_address is not loopback; a broker for others runs apart: name it in mqtt.url",
    );
}

/// What no single key of the HTTP entrance can tell.
fn check_http(reader: &mut Reader, profile: &Profile) {
    let Profile { http, clients, .. } = profile;
    let has_keys = !http.token_sha256.is_empty()
        || clients.iter().any(|client| !client.key_sha256.is_empty())
        || http.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
    let is_reachable = http.enabled && http.tcp && !http.address.ip().is_loopback();
    let mut refuse = |key: &str, wrong: bool, message: &str| {
        if wrong {
            let origin = reader.origin_of(key);
            reader.problem(origin, message);
        }
    };
    refuse(
        "http.address",
        is_reachable && !has_keys,
        "http.address can be reached from outside; give a client a key (zonda key new NAME), or use \
         127.0.0.1",
    );
    refuse(
        "http.address",
        is_reachable && has_keys && http.tls.is_none() && !http.insecure,
        "http.address can be reached from outside, where keys and prompts need encryption; name \
         http.tls_cert_file and http.tls_key_file, or set http.insecure = true where the network is \
         trusted",
    );
    refuse(
        "http.tcp",
        http.enabled && !http.tcp && http.unix_socket.is_none(),
        "http.tcp = false leaves no entrance without http.unix_socket; http.enabled = false closes it",
    );
}

fn one_of(words: &[&str]) -> String {
    format!("one of {}", words.join(", "))
}

fn is_encoding(text: &str) -> bool {
    ENCODINGS.contains(&text)
}

fn is_model_name(text: &str) -> bool {
    (1..=128).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

pub(crate) fn is_level(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(is_allowed)
}

fn is_broker_url(url: &str) -> bool {
    let rest = url.strip_prefix("mqtt://").or_else(|| url.strip_prefix("mqtts://"));
    let host_of = |rest: &str| rest.split('/').next().unwrap_or_default().len();
    url.len() <= 512
        && rest.is_some_and(|rest| host_of(rest) > 0 && !rest.contains(['@', ' ', '\0']))
}

fn is_loopback_url(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The host's name as a topic level.
fn node_name(hardware: &Hardware) -> String {
    let host = hardware.host_name.split('.').next().unwrap_or_default();
    let level: String = host
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '-' })
        .take(64)
        .collect();
    if level.is_empty() { "zonda".into() } else { level }
}

pub(crate) fn sha256(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let digits = hex.as_bytes();
    if digits.len() != 2 * digest.len() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}
