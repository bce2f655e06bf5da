//! What a broker must be told so that clients meet this node and not each other: access rules and
//! a drop-in, in mosquitto's words.

use std::fmt::Write as _;

use crate::config::MqttConfig;

/// What the node is called at the broker, where the configuration names no user.
const USER: &str = "zonda";
const PACKET_BYTES_MIN: usize = 1 << 20;
/// Room for topic and properties beside the payload.
const PACKET_MARGIN: usize = 128 << 10;

impl MqttConfig {
    /// Access rules for `/etc/mosquitto/zonda.acl`.
    ///
    /// A client's user name is its level in topics. It asks, cancels and hears under that name
    /// alone, says whether it is there, and reads what nodes state of themselves.
    pub fn broker_acl(&self) -> String {
        let Self { root, site, node, .. } = self;
        let place = format!("{root}/{site}");
        let mut acl = String::new();
        let mut line = |text: &str| {
            let _written = writeln!(acl, "{text}");
        };
        line("# Access rules for zonda: /etc/mosquitto/zonda.acl");
        line("# A user name is a level of topics: 1 to 64 of A-Z a-z 0-9 _ . -");
        line("");
        line("# Every client: its own requests, cancels, answers and status; what nodes state.");
        for tail in ["chat/request", "chat/cancel"] {
            line(&format!("pattern write {place}/+/{tail}/%u/#"));
            line(&format!("pattern write {place}/pool/+/{tail}/%u/#"));
        }
        line(&format!("pattern write {place}/+/embed/request/%u/#"));
        line(&format!("pattern read {place}/client/%u/#"));
        line(&format!("pattern write {place}/client/%u/status"));
        for statement in ["status", "birth", "state", "event/+", "alarm/+"] {
            line(&format!("pattern read {place}/+/{statement}"));
        }
        line("");
        line("# This node.");
        line(&format!("user {}", self.username.as_deref().unwrap_or(USER)));
        line(&format!("topic readwrite {place}/{node}/#"));
        line(&format!("topic read {place}/client/#"));
        line(&format!("topic write {place}/client/+/reply/#"));
        for source in &self.sources {
            line(&format!("topic read {source}"));
        }
        if let Some(pool) = &self.pool {
            line(&format!("topic read {place}/pool/{pool}/#"));
            line(&format!("topic write {place}/pool/{pool}/chat/request/#"));
        }
        if self.home_assistant {
            line("topic write homeassistant/device/+/config");
            line("topic read homeassistant/status");
        }
        for filter in &self.reply_filters {
            line(&format!("topic write {filter}"));
        }
        if self.home_assistant {
            let _written = write!(
                acl,
                "\n# Home Assistant.\nuser homeassistant\ntopic readwrite homeassistant/#\n\
                 topic read {place}/{node}/#\ntopic write {place}/{node}/ha/ask\n\
                 topic write {place}/{node}/ha/cancel\n",
            );
        }
        acl
    }

    /// A drop-in for `/etc/mosquitto/conf.d/zonda.conf`, which leaves the box with TLS alone.
    pub fn broker_drop_in(&self) -> String {
        let packet =
            (self.request_bytes_max.max(self.send_bytes_max) + PACKET_MARGIN).max(PACKET_BYTES_MIN);
        format!(
            "# mosquitto for zonda: /etc/mosquitto/conf.d/zonda.conf\n\
             # Users: mosquitto_passwd -c /etc/mosquitto/zonda.passwd {user}\n\
             # Rules: zonda mqtt acl > /etc/mosquitto/zonda.acl\n\
             per_listener_settings false\n\
             allow_anonymous false\n\
             password_file /etc/mosquitto/zonda.passwd\n\
             acl_file /etc/mosquitto/zonda.acl\n\
             persistence true\n\
             max_queued_messages 1000\n\
             max_packet_size {packet}\n\
             \n\
             # This box.\n\
             listener 1883 127.0.0.1\n\
             \n\
             # Other boxes. With require_certificate, clients show one of this CA.\n\
             listener 8883\n\
             cafile /etc/mosquitto/certs/zonda-ca.pem\n\
             certfile /etc/mosquitto/certs/zonda-broker.pem\n\
             keyfile /etc/mosquitto/certs/zonda-broker.key\n\
             require_certificate false\n",
            user = self.username.as_deref().unwrap_or(USER),
        )
    }
}
