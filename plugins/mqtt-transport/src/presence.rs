//! What this node says of itself: its birth, and how busy it is.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use protocol::{Description, Load, ModelCard};
use serde_json::{Value, json};

use crate::config::MqttConfig;
use crate::link::Dialect;

/// Who we are, for as long as this transport serves.
#[derive(Debug)]
pub(crate) struct Presence {
    boot_id: String,
    started: Instant,
    sessions: u64,
}

impl Presence {
    pub(crate) fn new() -> Self {
        let boot_id = uuid::Uuid::now_v7().to_string();
        Self { boot_id, started: Instant::now(), sessions: 0 }
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
        self.sessions += 1;
        let mqtt = match dialect {
            Dialect::V5 => "5.0",
            Dialect::V311 => "3.1.1",
        };
        json!({
            "node": config.node,
            "site": config.site,
            "boot_id": self.boot_id,
            "session_seq": self.sessions,
            "time_s": unix_seconds(),
            "protocol": { "zonda": 1, "mqtt": mqtt },
            "software": { "name": "zonda", "version": env!("CARGO_PKG_VERSION") },
            "hardware": { "arch": std::env::consts::ARCH, "os": std::env::consts::OS },
            "durable": config.journal.is_some(),
            "models": description.models.iter().map(model).collect::<Vec<_>>(),
            "limits": {
                "request_bytes_max": config.request_bytes_max,
                "send_bytes_max": config.send_bytes_max,
                "queue_requests_max": config.queue_requests_max,
                "deadline_s_max": config.deadline_max.as_secs(),
            },
        })
        .to_string()
    }

    /// How busy the node is now.
    pub(crate) fn state(&self, load: Load) -> String {
        json!({
            "active": load.active,
            "queued": load.queued,
            "queue_requests_max": load.queue_requests_max,
            "uptime_s": self.started.elapsed().as_secs(),
            "time_s": unix_seconds(),
        })
        .to_string()
    }
}

/// Seconds since 1970; 0 on a box whose clock stands before it.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn model(card: &ModelCard) -> Value {
    json!({
        "id": card.id,
        "aliases": card.aliases,
        "context_tokens_max": card.context_tokens_max,
        "fill": card.fill,
        "tools": card.tools,
        "encoding": card.encoding,
    })
}
