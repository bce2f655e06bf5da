//! Home Assistant: one retained message that describes this node as a device, and the topics that
//! its entities use.
//!
//! Device-based discovery, as of Home Assistant 2024.11. A state there has 255 characters at most,
//! so the last answer's text is an attribute.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::config::MqttConfig;
use crate::topics::Topics;

/// Home Assistant says here that it began.
pub(crate) const STATUS: &str = "homeassistant/status";
/// The client that its prompts count for.
pub(crate) const CLIENT: &str = "homeassistant";
/// Many devices answer its begin; each waits up to this long, at random.
pub(crate) const ANNOUNCE_WITHIN: Duration = Duration::from_secs(10);
/// A state that is not renewed this long is unknown, in seconds.
const EXPIRE_AFTER_S: u32 = 120;
/// What a state may have there, in characters.
const STATE_CHARS_MAX: usize = 255;

/// When this node is to be described again.
#[derive(Debug, Default)]
pub(crate) struct Announcement {
    due: Option<Instant>,
}

impl Announcement {
    /// Home Assistant said `word` in its status.
    pub(crate) fn hear(&mut self, word: &[u8], wait: Duration, now: Instant) {
        if word.trim_ascii() == b"online" {
            self.due.get_or_insert(now + wait);
        }
    }

    /// Whether it is time; once.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }
}

/// Topic and payload of the description.
pub(crate) fn discovery(config: &MqttConfig, topics: &Topics) -> (String, String) {
    // Home Assistant's own rule for this level of the topic.
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let level: String = config.node.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    let unique = format!("zonda_{}_{}", config.site, config.node);
    let body = json!({
        "dev": {
            "identifiers": [unique],
            "name": format!("zonda {}", config.node),
            "manufacturer": "zonda",
            "model": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            "sw_version": env!("CARGO_PKG_VERSION"),
        },
        "o": { "name": "zonda", "sw_version": env!("CARGO_PKG_VERSION") },
        "availability": [{
            "topic": topics.status(),
            "payload_available": "online",
            "payload_not_available": "offline",
        }],
        "cmps": components(&unique, topics),
    });
    (format!("homeassistant/device/{level}/config"), body.to_string())
}

fn components(unique: &str, topics: &Topics) -> Value {
    let mut components = sensors(topics);
    components["problem"] = json!({
        "p": "binary_sensor",
        "name": "Problem",
        "device_class": "problem",
        "state_topic": topics.state(),
        "value_template": "{{ 'ON' if value_json.problem else 'OFF' }}",
        "expire_after": EXPIRE_AFTER_S,
        "entity_category": "diagnostic",
    });
    components["cancel_all"] = json!({
        "p": "button",
        "name": "Cancel all",
        "command_topic": topics.home_cancel(),
        "payload_press": "PRESS",
    });
    components["ask"] = json!({ "p": "notify", "name": "Ask", "command_topic": topics.home_ask() });
    let text = "(value_json.choices[0].message.content if value_json.choices is defined \
                else value_json.error.message) or ''";
    components["last_answer"] = json!({
        "p": "sensor",
        "name": "Last answer",
        "state_topic": topics.home_answer(),
        "value_template": format!("{{{{ ({text})[:{STATE_CHARS_MAX}] }}}}"),
        "json_attributes_topic": topics.home_answer(),
        "json_attributes_template": format!(
            "{{{{ {{'text': {text}, 'status': value_json.ext.status, 'id': value_json.ext.id, \
             'model': value_json.model | default('')}} | tojson }}}}",
        ),
    });
    if let Some(all) = components.as_object_mut() {
        for (name, component) in all {
            component["unique_id"] = format!("{unique}_{name}").into();
            // Home Assistant does not hand a device's own down to its components.
            component["qos"] = 1.into();
        }
    }
    components
}

/// Numbers of the state and the birth.
fn sensors(topics: &Topics) -> Value {
    let measured = |name: &str, template: &str, unit: &str, class: Option<&str>| {
        let mut sensor = json!({
            "p": "sensor",
            "name": name,
            "state_topic": topics.state(),
            "value_template": template,
            "unit_of_measurement": unit,
            "state_class": "measurement",
            "expire_after": EXPIRE_AFTER_S,
        });
        if let Some(class) = class {
            sensor["device_class"] = class.into();
        }
        sensor
    };
    json!({
        "tokens_per_s": measured("Tokens per second", "{{ value_json.tokens_per_s }}", "tok/s", None),
        "queue": measured("Queue", "{{ value_json.queued }}", "requests", None),
        "active": measured("Active", "{{ value_json.active }}", "requests", None),
        "temperature": measured(
            "Temperature",
            "{{ value_json.gpu_temperature_c if value_json.gpu_temperature_c is not none \
             else value_json.temperature_c }}",
            "°C",
            Some("temperature"),
        ),
        "memory": measured("Memory", "{{ value_json.memory.used_bytes }}", "B", Some("data_size")),
        "model": {
            "p": "sensor",
            "name": "Model",
            "state_topic": topics.birth(),
            "value_template": "{{ value_json.models[0].id if value_json.models else 'none' }}",
            "entity_category": "diagnostic",
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described() -> (String, Value) {
        let config = MqttConfig::new("mqtt://localhost", "plant1", "jet.03");
        let topics = Topics::new("zonda/v1", "plant1", "jet.03", None, &[]).expect("valid");
        let (topic, payload) = discovery(&config, &topics);
        (topic, serde_json::from_str(&payload).expect("JSON"))
    }

    /// The keys of an object, without those that may stand there.
    fn strange<'a>(object: &'a Value, allowed: &[&str]) -> Vec<&'a String> {
        let object = object.as_object().expect("an object");
        object.keys().filter(|key| !allowed.contains(&key.as_str())).collect()
    }

    /// Home Assistant's schema of the message: what must stand in it and what may.
    #[test]
    fn the_description_keeps_the_rules_of_device_discovery() {
        let (topic, body) = described();
        assert_eq!(topic, "homeassistant/device/jet_03/config");
        let none: Vec<&String> = Vec::new();
        assert_eq!(strange(&body, &["dev", "o", "cmps", "availability"]), none);
        let device = ["identifiers", "name", "manufacturer", "model", "sw_version"];
        assert_eq!(strange(&body["dev"], &device), none);
        assert!(body["dev"]["identifiers"].as_array().is_some_and(|ids| !ids.is_empty()));
        assert_eq!(strange(&body["o"], &["name", "sw_version", "support_url"]), none);
        assert!(body["o"]["name"].is_string());
        assert_eq!(body["availability"][0]["topic"], "zonda/v1/plant1/jet.03/status");
        let all = ["p", "unique_id", "name", "qos"];
        let measured = ["state_topic", "value_template", "expire_after"];
        let shown = ["unit_of_measurement", "state_class", "device_class", "entity_category"];
        let attributes = ["json_attributes_topic", "json_attributes_template"];
        let components = body["cmps"].as_object().expect("components");
        let mut unique = std::collections::BTreeSet::new();
        for (name, component) in components {
            let (required, optional): (&[&str], Vec<&str>) = match component["p"].as_str() {
                Some("sensor") => (&["state_topic"], [&measured[..], &shown, &attributes].concat()),
                Some("binary_sensor") => (&["state_topic"], [&measured[..], &shown[2..]].concat()),
                Some("button") => (&["command_topic"], vec!["command_topic", "payload_press"]),
                Some("notify") => (&["command_topic"], vec!["command_topic"]),
                other => panic!("{name} is of no known platform: {other:?}"),
            };
            assert_eq!(strange(component, &[&all[..], &optional].concat()), none, "{name}");
            assert_eq!(component["qos"], 1, "{name}");
            for key in required.iter().chain(&all[..3]) {
                assert!(component[key].is_string(), "{name} has no {key}");
            }
            assert!(unique.insert(component["unique_id"].as_str()), "{name} is not unique");
        }
        assert_eq!(components.len(), 10);
    }

    #[test]
    fn the_begin_of_home_assistant_is_answered_once_after_a_wait() {
        let (mut announcement, now) = (Announcement::default(), Instant::now());
        announcement.hear(b"offline", Duration::ZERO, now);
        assert!(!announcement.is_due(now));
        announcement.hear(b"online", Duration::from_secs(3), now);
        announcement.hear(b"online", Duration::from_secs(9), now);
        assert!(!announcement.is_due(now + Duration::from_secs(2)));
        assert!(announcement.is_due(now + Duration::from_secs(3)));
        assert!(!announcement.is_due(now + Duration::from_secs(4)));
    }
}
