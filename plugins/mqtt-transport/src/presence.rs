//! What this node says of itself: its birth, how busy it is, and what happened to it.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use protocol::{Description, Load, ModelCard};
use serde_json::{Value, json};

use crate::config::MqttConfig;
use crate::link::Dialect;
use crate::vitals::{Heat, Vitals};

/// The state is told this often, and when it changes.
const STATE_EVERY: Duration = Duration::from_secs(15);
/// The box is looked at this often.
const VITALS_EVERY: Duration = Duration::from_secs(5);
/// Tokens a second are a mean over so many looks, one a second.
const PACE_LOOKS: usize = 10;

/// Who we are, for as long as this transport serves.
#[derive(Debug)]
pub(crate) struct Presence {
    boot_id: String,
    started: Instant,
    sessions: u64,
    /// The models that the last birth told.
    models: Vec<String>,
    stated: Option<((u32, u32, bool), Instant)>,
    vitals: Vitals,
    looked: Option<Instant>,
    heat: Heat,
    /// Tokens written, by when.
    pace: VecDeque<(Instant, u64)>,
}

/// Something that others may want to know of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Happening {
    pub(crate) kind: &'static str,
    pub(crate) payload: String,
}

impl Presence {
    pub(crate) fn new() -> Self {
        Self {
            boot_id: uuid::Uuid::now_v7().to_string(),
            started: Instant::now(),
            sessions: 0,
            models: Vec::new(),
            stated: None,
            vitals: Vitals::default(),
            looked: None,
            heat: Heat::default(),
            pace: VecDeque::new(),
        }
    }

    /// A connection came up: what it is told begins anew.
    pub(crate) fn connected(&mut self) {
        self.sessions += 1;
        self.stated = None;
    }

    /// What stays on the broker while this connection lives.
    ///
    /// `boot_id` and `session_seq` order births: an `offline` that is older than the birth one
    /// knows means nothing.
    pub(crate) fn birth(
        &mut self,
        config: &MqttConfig,
        dialect: Dialect,
        description: &Description,
    ) -> String {
        self.models = names(description);
        let mqtt = match dialect {
            Dialect::V5 => "5.0",
            Dialect::V311 => "3.1.1",
        };
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        json!({
            "node": config.node,
            "site": config.site,
            "pool": config.pool,
            "boot_id": self.boot_id,
            "session_seq": self.sessions,
            "time_s": unix_seconds(),
            "protocol": { "zonda": 1, "mqtt": mqtt },
            "software": { "name": "zonda", "version": env!("CARGO_PKG_VERSION") },
            "hardware": {
                "arch": std::env::consts::ARCH,
                "os": std::env::consts::OS,
                "cpu_cores": cores,
            },
            "durable": config.journal.is_some(),
            "models": description.models.iter().map(model).collect::<Vec<_>>(),
            "classifiers": description
                .classifiers
                .iter()
                .map(|card| json!({ "id": card.name, "targets": card.targets }))
                .collect::<Vec<_>>(),
            "embedders": description
                .embedders
                .iter()
                .map(|card| json!({ "id": card.name, "dimensions": card.dimensions }))
                .collect::<Vec<_>>(),
            "limits": {
                "request_bytes_max": config.request_bytes_max,
                "send_bytes_max": config.send_bytes_max,
                "queue_requests_max": config.queue_requests_max,
                "client_requests_max": config.client_requests_max,
                "deadline_s_max": config.deadline_max.as_secs(),
            },
        })
        .to_string()
    }

    /// Looks at the box and the service, once a second; says what has happened.
    pub(crate) fn look(&mut self, description: &Description, now: Instant) -> Vec<Happening> {
        let mut happened = Vec::new();
        if self.pace.len() > PACE_LOOKS {
            self.pace.pop_front();
        }
        self.pace.push_back((now, description.load.answer_tokens));
        if self.looked.is_none_or(|looked| now.duration_since(looked) >= VITALS_EVERY) {
            self.looked = Some(now);
            self.vitals = Vitals::read(Path::new("/"));
            if self.heat.feel(self.vitals.temperature_c) {
                let told = json!({
                    "kind": "thermal",
                    "hot": self.heat.is_hot(),
                    "temperature_c": self.vitals.temperature_c,
                    "time_s": unix_seconds(),
                });
                happened.push(Happening { kind: "thermal", payload: told.to_string() });
            }
        }
        let models = names(description);
        if self.sessions > 0 && models != self.models {
            let told = json!({
                "kind": "model_changed",
                "before": self.models,
                "models": models,
                "time_s": unix_seconds(),
            });
            happened.push(Happening { kind: "model_changed", payload: told.to_string() });
        }
        happened
    }

    /// How busy the node is; `None` where it was told lately and nothing has changed.
    pub(crate) fn state(&mut self, load: Load, now: Instant) -> Option<String> {
        let told = (load.active, load.queued, self.heat.is_hot());
        let unchanged = self
            .stated
            .is_some_and(|(last, since)| last == told && now.duration_since(since) < STATE_EVERY);
        if unchanged {
            return None;
        }
        self.stated = Some((told, now));
        let mut state = json!({
            "active": load.active,
            "active_max": load.active_max,
            "slots_free": load.active_max.saturating_sub(load.active),
            "queued": load.queued,
            "queue_requests_max": load.queue_requests_max,
            "queue_s": load.wait_ms as f64 / 1000.0,
            "tokens_per_s": self.tokens_per_s(),
            "problem": self.heat.is_hot() || self.models.is_empty(),
            "boot_id": self.boot_id,
            "uptime_s": self.started.elapsed().as_secs(),
            "time_s": unix_seconds(),
        });
        self.vitals.add_to(&mut state);
        Some(state.to_string())
    }

    /// Tokens a second over the last looks, to a tenth.
    fn tokens_per_s(&self) -> f64 {
        let (Some((from, before)), Some((to, after))) = (self.pace.front(), self.pace.back())
        else {
            return 0.0;
        };
        let seconds = to.duration_since(*from).as_secs_f64();
        if seconds <= 0.0 {
            return 0.0;
        }
        (after.saturating_sub(*before) as f64 / seconds * 10.0).round() / 10.0
    }
}

/// Seconds since 1970; 0 on a box whose clock stands before it.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn names(description: &Description) -> Vec<String> {
    description.models.iter().map(|card| card.id.clone()).collect()
}

fn model(card: &ModelCard) -> Value {
    json!({
        "id": card.id,
        "aliases": card.aliases,
        "context_tokens_max": card.context_tokens_max,
        "fill": card.fill,
        "tools": card.tools,
        "encoding": card.encoding,
        "created": card.created,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(model: &str, answer_tokens: u64) -> Description {
        Description {
            models: vec![ModelCard { id: model.into(), ..ModelCard::default() }],
            load: Load { active: 1, active_max: 4, answer_tokens, ..Load::default() },
            ..Description::default()
        }
    }

    fn stated(presence: &mut Presence, description: &Description, now: Instant) -> Option<Value> {
        let state = presence.state(description.load, now)?;
        Some(serde_json::from_str(&state).expect("JSON"))
    }

    #[test]
    fn the_state_is_told_on_change_and_every_15_seconds() {
        let (mut presence, now) = (Presence::new(), Instant::now());
        let one = description("a", 0);
        let first = stated(&mut presence, &one, now).expect("told");
        assert_eq!((&first["active"], &first["slots_free"]), (&1.into(), &3.into()));
        assert_eq!(stated(&mut presence, &one, now + Duration::from_secs(14)), None);
        let mut busier = one.clone();
        busier.load.queued = 2;
        assert!(stated(&mut presence, &busier, now + Duration::from_secs(14)).is_some());
        assert!(stated(&mut presence, &busier, now + Duration::from_secs(28)).is_none());
        assert!(stated(&mut presence, &busier, now + Duration::from_secs(29)).is_some());
        presence.connected();
        assert!(stated(&mut presence, &busier, now + Duration::from_secs(29)).is_some());
    }

    #[test]
    fn the_pace_is_a_mean_over_the_last_seconds() {
        let (mut presence, now) = (Presence::new(), Instant::now());
        for second in 0..30 {
            let tokens = if second < 20 { second * 7 } else { 133 + (second - 19) * 25 };
            presence.look(&description("a", tokens), now + Duration::from_secs(second));
        }
        let told = stated(&mut presence, &description("a", 0), now).expect("told");
        assert_eq!(told["tokens_per_s"], 25.0);
    }

    #[test]
    fn another_model_is_an_event() {
        let (mut presence, now) = (Presence::new(), Instant::now());
        let config = MqttConfig::new("mqtt://localhost", "plant1", "jet-03");
        presence.connected();
        presence.birth(&config, Dialect::V5, &description("a", 0));
        let models = |happened: Vec<Happening>| {
            happened.into_iter().filter(|one| one.kind == "model_changed").count()
        };
        assert_eq!(models(presence.look(&description("a", 0), now)), 0);
        assert_eq!(models(presence.look(&description("b", 0), now)), 1);
        presence.birth(&config, Dialect::V5, &description("b", 0));
        assert_eq!(models(presence.look(&description("b", 0), now)), 0);
    }
}
