//! What the transport must be told, and which of it makes sense.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use protocol::TransportError;
use rustls::ClientConfig;

use crate::NAME;
use crate::tls::TlsFiles;
use crate::topics::{Topics, is_level, is_name};

/// Keep alive below this makes the client library panic.
const KEEP_ALIVE_MIN: Duration = Duration::from_secs(5);
/// MQTT writes keep alive as 16 bits of seconds.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(65_535);
const PORT: u16 = 1883;
const TLS_PORT: u16 = 8883;

/// Which protocol version to speak with the broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MqttVersion {
    /// 5, and 3.1.1 where the broker refuses it.
    #[default]
    Auto,
    /// 5 alone.
    V5,
    /// 3.1.1 alone.
    V311,
}

/// Where the broker is, who we are there, and what we take.
#[derive(Clone)]
pub struct MqttConfig {
    /// `mqtt://host:port`, or `mqtts://` for TLS; the port defaults to 1883 and 8883.
    pub url: String,
    /// The site's level in topics.
    pub site: String,
    /// This node's level in topics: its serial number or host name.
    pub node: String,
    /// What every topic begins with.
    pub root: String,
    /// The client id at the broker; one broker knows each id once.
    pub client_id: String,
    /// User name for the broker.
    pub username: Option<String>,
    /// Password for the broker; needs a user name.
    pub password: Option<String>,
    /// Certificates for `mqtts://`.
    pub tls: TlsFiles,
    /// Protocol version.
    pub version: MqttVersion,
    /// Takes requests on `…/chat/request`, which say nothing about their sender that can be
    /// trusted. For sites with one tenant.
    pub plain_requests: bool,
    /// The shared work queue that this node takes requests from, besides its own.
    pub pool: Option<String>,
    /// Topic filters that replies may go to, besides the clients' own reply topics.
    pub reply_filters: Vec<String>,
    /// Topics of sensors, which a [`Lookout`](protocol::Lookout) listens to.
    pub sources: Vec<String>,
    /// Describes this node to Home Assistant, and answers what is asked there.
    pub home_assistant: bool,
    /// Allows a connection without TLS to a broker that is not on loopback.
    pub insecure: bool,
    /// Takes requests that may have waited at the broker while this node was away, although they
    /// name no expiry.
    pub accept_stale: bool,
    /// Bytes of a request's payload, at most.
    pub request_bytes_max: usize,
    /// Bytes of a reply's payload, at most; longer answers are cut and say so.
    pub send_bytes_max: usize,
    /// Requests in flight over this transport, waiting ones included.
    pub queue_requests_max: usize,
    /// Of these, requests of one client that its topics name.
    pub client_requests_max: usize,
    /// No request runs longer than this, whatever it asks for.
    pub deadline_max: Duration,
    /// Ping the broker after this much silence.
    pub keep_alive: Duration,
    /// First wait before connecting again; later ones grow up to `backoff_max`, at random.
    pub backoff_min: Duration,
    /// Longest wait before connecting again.
    pub backoff_max: Duration,
    /// Without a broker for this long, running answers are cancelled.
    pub detach_grace: Duration,
    /// At shutdown, running answers may take this long.
    pub drain: Duration,
    /// The file that keeps accepted requests and undelivered finals over a restart; one for each
    /// process. `None` keeps them in memory alone.
    pub journal: Option<PathBuf>,
}

impl MqttConfig {
    /// Every default, for this broker and this place in the topics.
    pub fn new(url: impl Into<String>, site: impl Into<String>, node: impl Into<String>) -> Self {
        let node = node.into();
        Self {
            url: url.into(),
            site: site.into(),
            client_id: format!("zonda-{node}"),
            node,
            root: "zonda/v1".into(),
            username: None,
            password: None,
            tls: TlsFiles::default(),
            version: MqttVersion::Auto,
            plain_requests: true,
            pool: None,
            reply_filters: Vec::new(),
            sources: Vec::new(),
            home_assistant: false,
            insecure: false,
            accept_stale: false,
            request_bytes_max: 256 << 10,
            send_bytes_max: 128 << 10,
            queue_requests_max: 32,
            client_requests_max: 2,
            deadline_max: Duration::from_secs(600),
            keep_alive: Duration::from_secs(30),
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(60),
            detach_grace: Duration::from_secs(30),
            drain: Duration::from_secs(10),
            journal: None,
        }
    }

    /// Host, port and topics, when everything makes sense.
    pub(crate) fn check(&self) -> Result<Checked, TransportError> {
        let (host, port, tls) = self.broker()?;
        self.check_names()?;
        self.check_sources()?;
        self.check_limits()?;
        let pool = self.pool.as_deref();
        let mut topics = Topics::new(&self.root, &self.site, &self.node, pool, &self.reply_filters)
            .map_err(|message| TransportError::Configuration { transport: NAME, message })?;
        topics.home = self.home_assistant;
        Ok(Checked { host, port, tls, topics })
    }

    fn broker(&self) -> Result<(String, u16, Option<Arc<ClientConfig>>), TransportError> {
        let plain = |url: &'static str| self.url.strip_prefix(url).map(|rest| (rest, PORT));
        let secret = |url: &'static str| self.url.strip_prefix(url).map(|rest| (rest, TLS_PORT));
        let found = plain("mqtt://").or_else(|| plain("tcp://"));
        let found = found.or_else(|| secret("mqtts://")).or_else(|| secret("ssl://"));
        let Some((rest, port)) = found else {
            return refuse(format!(
                "`{}` is not a broker: write mqtt://host:port, or mqtts://host:port for TLS",
                self.url,
            ));
        };
        let encrypted = port == TLS_PORT;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return refuse(
                "the broker's address holds credentials: put them into username and password",
            );
        }
        let (host, port) = split_port(rest, port).ok_or_else(|| {
            reason(format!("`{}` is not a broker: write mqtt://host:port", self.url))
        })?;
        if encrypted {
            let tls = self.tls.load().map_err(|trouble| reason(trouble.to_string()))?;
            return Ok((host, port, Some(tls)));
        }
        if !self.tls.is_empty() {
            return refuse("certificates are named, but mqtt:// does not use them: write mqtts://");
        }
        if !self.insecure && !is_loopback(&host) {
            return refuse(format!(
                "`{host}` is not on this box and mqtt:// sends prompts and passwords unencrypted: \
                 use mqtts://, or set insecure = true if the network between is trusted",
            ));
        }
        Ok((host, port, None))
    }

    fn check_names(&self) -> Result<(), TransportError> {
        if self.client_id.is_empty() || self.client_id.len() > 128 {
            return refuse("client_id must have 1 to 128 bytes");
        }
        if self.password.is_some() && self.username.is_none() {
            return refuse("a password needs a username");
        }
        for (name, level) in [("site", &self.site), ("node", &self.node)] {
            if !is_level(level) {
                return refuse(format!(
                    "{name} `{level}` cannot be a topic level: use 1 to 64 of A-Z a-z 0-9 _ . -",
                ));
            }
        }
        if let Some(pool) = self.pool.as_deref().filter(|pool| !is_level(pool)) {
            return refuse(format!(
                "pool `{pool}` cannot be a topic level: use 1 to 64 of A-Z a-z 0-9 _ . -",
            ));
        }
        if ["client", "pool"].contains(&self.node.as_str()) {
            return refuse(format!(
                "node `{}` is a level of other topics: name it otherwise",
                self.node
            ));
        }
        Ok(())
    }

    /// What comes from a topic of a node, or of Home Assistant's discovery, could be what a node
    /// made of it before.
    fn check_sources(&self) -> Result<(), TransportError> {
        let is_ours = |topic: &&String| {
            let below = |prefix: &str| {
                topic
                    .strip_prefix(prefix)
                    .is_some_and(|tail| tail.is_empty() || tail.starts_with('/'))
            };
            below(&self.root) || below("homeassistant")
        };
        if let Some(topic) = self.sources.iter().find(|topic| !is_name(topic)) {
            return refuse(format!(
                "`{topic}` is no topic of a sensor: 1 to 512 bytes without + and #, no $ in front"
            ));
        }
        match self.sources.iter().find(is_ours) {
            Some(topic) => refuse(format!(
                "the sensor's topic `{topic}` is one that zonda writes to: what is published below \
                 `{}` and `homeassistant` is not listened to",
                self.root
            )),
            None => Ok(()),
        }
    }

    fn check_limits(&self) -> Result<(), TransportError> {
        if !(KEEP_ALIVE_MIN..=KEEP_ALIVE_MAX).contains(&self.keep_alive) {
            return refuse("keep_alive must be 5 to 65535 seconds");
        }
        if !(1..=8 << 20).contains(&self.request_bytes_max) {
            return refuse("request_bytes_max must be 1 byte to 8 MiB");
        }
        if !(1024..=8 << 20).contains(&self.send_bytes_max) {
            return refuse("send_bytes_max must be 1 KiB to 8 MiB");
        }
        if !(1..=4096).contains(&self.queue_requests_max) {
            return refuse("queue_requests_max must be 1 to 4096");
        }
        if !(1..=4096).contains(&self.client_requests_max) {
            return refuse("client_requests_max must be 1 to 4096");
        }
        if self.deadline_max.is_zero() || self.deadline_max > Duration::from_secs(86_400) {
            return refuse("deadline_max must be more than nothing and at most a day");
        }
        if self.backoff_min.is_zero() || self.backoff_max < self.backoff_min {
            return refuse("backoff_min must be more than nothing and at most backoff_max");
        }
        Ok(())
    }
}

/// Leaves the password out.
impl fmt::Debug for MqttConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MqttConfig")
            .field("url", &self.url)
            .field("site", &self.site)
            .field("node", &self.node)
            .field("root", &self.root)
            .field("client_id", &self.client_id)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// What a configuration comes down to.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Set for a connection over TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) topics: Topics,
}

fn reason(message: impl Into<String>) -> TransportError {
    TransportError::Configuration { transport: NAME, message: message.into() }
}

fn refuse<T>(message: impl Into<String>) -> Result<T, TransportError> {
    Err(reason(message))
}

fn split_port(address: &str, default: u16) -> Option<(String, u16)> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, tail) = rest.split_once(']')?;
            (host, if tail.is_empty() { None } else { Some(tail.strip_prefix(':')?) })
        }
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let port = port.map_or(Some(default), |port| port.parse().ok().filter(|port| *port != 0))?;
    let plausible = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:%".contains(&b));
    plausible.then(|| (host.to_owned(), port))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> MqttConfig {
        MqttConfig::new(url, "plant1", "jet-03")
    }

    fn complaint(config: &MqttConfig) -> String {
        config.check().expect_err("must be refused").to_string()
    }

    #[test]
    fn addresses_are_read_with_and_without_a_port() {
        for (url, host, port) in [
            ("mqtt://127.0.0.1:1999", "127.0.0.1", 1999),
            ("mqtt://localhost", "localhost", 1883),
            ("tcp://localhost:1/", "localhost", 1),
            ("mqtt://[::1]:1884", "::1", 1884),
            ("mqtt://[::1]", "::1", 1883),
        ] {
            let checked = config(url).check().expect(url);
            assert_eq!((checked.host.as_str(), checked.port), (host, port), "{url}");
        }
    }

    #[test]
    fn bad_addresses_say_what_to_write() {
        for url in
            ["", "127.0.0.1", "http://x", "mqtt://", "mqtt://a:b", "mqtt://a:0", "mqtt://a b"]
        {
            assert!(complaint(&config(url)).contains("mqtt://host:port"), "{url}");
        }
        assert!(complaint(&config("mqtts://localhost")).contains("needs mqtt.ca_file"));
        let mut unused = config("mqtt://localhost");
        unused.tls.ca_file = Some("/ca.pem".into());
        assert!(complaint(&unused).contains("write mqtts://"));
        assert!(complaint(&config("mqtt://u:p@localhost")).contains("username"));
    }

    #[test]
    fn unencrypted_lines_leave_the_box_only_when_told_to() {
        let mut config = config("mqtt://gateway.local");
        assert!(complaint(&config).contains("insecure"));
        config.insecure = true;
        assert!(config.check().is_ok());
    }

    #[test]
    fn what_would_break_the_client_library_is_refused() {
        let valid = config("mqtt://localhost");
        let mut short = valid.clone();
        short.keep_alive = Duration::from_secs(4);
        assert!(complaint(&short).contains("keep_alive"));
        let mut nameless = valid.clone();
        nameless.client_id.clear();
        assert!(complaint(&nameless).contains("client_id"));
        let mut strange = valid;
        strange.node = "a/b".into();
        assert!(complaint(&strange).contains("node"));
        strange.node = "pool".into();
        assert!(complaint(&strange).contains("level of other topics"));
        strange.node = "jet-03".into();
        strange.pool = Some("a/#".into());
        assert!(complaint(&strange).contains("pool"));
    }

    #[test]
    fn nobody_listens_to_what_nodes_write() {
        let mut config = config("mqtt://localhost");
        config.sources = vec!["plant/pump/vibration".into(), "zonda/v10/x".into()];
        assert!(config.check().is_ok());
        for own in ["zonda/v1/plant1/jet-03/event/alarm", "zonda/v1", "homeassistant/status"] {
            config.sources[1] = own.into();
            assert!(complaint(&config).contains("zonda writes to"), "{own}");
        }
        for wrong in ["", "plant/+/x", "plant/#", "$SYS/load", "a\nb"] {
            config.sources[1] = wrong.into();
            assert!(complaint(&config).contains("no topic of a sensor"), "{wrong:?}");
        }
    }

    #[test]
    fn the_password_is_not_printed() {
        let mut config = config("mqtt://localhost");
        config.password = Some("hunter2".into());
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
