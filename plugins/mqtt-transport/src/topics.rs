//! The topics: what they are called, what an incoming one means, where replies may go.

use crate::home::STATUS;

/// Longest reply topic that is accepted, in bytes.
const REPLY_BYTES_MAX: usize = 512;

/// The names of this node's topics.
#[derive(Debug, Clone)]
pub(crate) struct Topics {
    /// `{root}/{site}/{node}`
    node: String,
    /// `{root}/{site}`
    site: String,
    /// The name of the shared work queue and `{root}/{site}/pool/{name}`.
    pool: Option<(String, String)>,
    reply_filters: Vec<String>,
    /// Serves the topics of Home Assistant's entities.
    pub(crate) home: bool,
}

/// Who asks, as the topic says it; the broker's access rules vouch for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) client: String,
    pub(crate) rid: String,
}

/// What an incoming message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Request(Option<Caller>),
    /// Texts whose vectors are wanted.
    Embed(Option<Caller>),
    Cancel(Option<Caller>),
    /// A prompt of Home Assistant.
    HomeAsk,
    /// Home Assistant wants everything to end.
    HomeCancel,
}

impl Topics {
    /// Fails with a sentence for the operator.
    pub(crate) fn new(
        root: &str,
        site: &str,
        node: &str,
        pool: Option<&str>,
        reply_filters: &[String],
    ) -> Result<Self, String> {
        if root.is_empty() || !root.split('/').all(is_level) {
            return Err(format!(
                "root `{root}` cannot begin topics: use levels of A-Z a-z 0-9 _ . - with / between",
            ));
        }
        if let Some(filter) = reply_filters.iter().find(|filter| !is_filter(filter)) {
            return Err(format!(
                "reply filter `{filter}` is no topic filter: + stands for one level, # ends it",
            ));
        }
        let site = format!("{root}/{site}");
        Ok(Self {
            node: format!("{site}/{node}"),
            pool: pool.map(|pool| (pool.to_owned(), format!("{site}/pool/{pool}"))),
            site,
            reply_filters: reply_filters.to_vec(),
            home: false,
        })
    }

    /// Retained `online` or `offline`.
    pub(crate) fn status(&self) -> String {
        format!("{}/status", self.node)
    }

    /// What is told of requests that are never run again.
    pub(crate) fn dead_letter(&self) -> String {
        format!("{}/deadletter", self.node)
    }

    /// Retained statement of what this node is.
    pub(crate) fn birth(&self) -> String {
        format!("{}/birth", self.node)
    }

    /// Retained statement of how busy it is.
    pub(crate) fn state(&self) -> String {
        format!("{}/state", self.node)
    }

    /// What happened to this node.
    pub(crate) fn event(&self, kind: &str) -> String {
        format!("{}/event/{kind}", self.node)
    }

    /// How something of this node stands.
    pub(crate) fn statement(&self, kind: &str, name: &str) -> String {
        format!("{}/{kind}/{name}", self.node)
    }

    /// Whether `topic` is one of this site.
    pub(crate) fn is_of_site(&self, topic: &str) -> bool {
        topic.strip_prefix(self.site.as_str()).is_some_and(|tail| tail.starts_with('/'))
    }

    /// Where Home Assistant sends prompts.
    pub(crate) fn home_ask(&self) -> String {
        format!("{}/ha/ask", self.node)
    }

    /// Where it hears the answers.
    pub(crate) fn home_answer(&self) -> String {
        format!("{}/ha/answer", self.node)
    }

    /// Where its button ends everything.
    pub(crate) fn home_cancel(&self) -> String {
        format!("{}/ha/cancel", self.node)
    }

    /// What to subscribe to.
    pub(crate) fn subscriptions(&self, plain: bool) -> Vec<String> {
        let mut filters = Vec::with_capacity(9);
        if self.home {
            filters.extend([self.home_ask(), self.home_cancel(), STATUS.to_owned()]);
        }
        for door in ["chat/request", "chat/cancel", "embed/request"] {
            if plain {
                filters.push(format!("{}/{door}", self.node));
            }
            filters.push(format!("{}/{door}/+/+", self.node));
        }
        filters
    }

    /// What a member of the shared work queue subscribes to; empty without one.
    ///
    /// Members of one queue share a filter letter by letter, so it takes requests without a caller
    /// too; whether they are served is decided later. Cancels go to every member.
    pub(crate) fn pool_subscriptions(&self, plain: bool) -> Vec<String> {
        let Some((name, prefix)) = &self.pool else { return Vec::new() };
        let mut filters = vec![
            format!("$share/{name}/{prefix}/chat/request/#"),
            format!("{prefix}/chat/cancel/+/+"),
        ];
        if plain {
            filters.push(format!("{prefix}/chat/cancel"));
        }
        filters
    }

    /// Whether `topic` belongs to the shared work queue.
    pub(crate) fn is_pooled(&self, topic: &str) -> bool {
        self.pool.as_ref().is_some_and(|(_, prefix)| {
            topic.strip_prefix(prefix.as_str()).is_some_and(|tail| tail.starts_with('/'))
        })
    }

    /// What a message on `topic` is; `None` when it is nothing of ours.
    pub(crate) fn route(&self, topic: &str) -> Option<Route> {
        if self.home && topic == self.home_ask() {
            return Some(Route::HomeAsk);
        }
        if self.home && topic == self.home_cancel() {
            return Some(Route::HomeCancel);
        }
        let pool = self.pool.as_ref().and_then(|(_, prefix)| topic.strip_prefix(prefix.as_str()));
        let tail = pool.or_else(|| topic.strip_prefix(self.node.as_str()))?;
        let mut levels = tail.strip_prefix('/')?.split('/');
        let (room, verb) = (levels.next()?, levels.next()?);
        let caller = match (levels.next(), levels.next(), levels.next()) {
            (None, ..) => None,
            (Some(client), Some(rid), None) if is_level(client) && is_level(rid) => {
                Some(Caller { client: client.into(), rid: rid.into() })
            }
            _ => return None,
        };
        match (room, verb) {
            ("chat", "request") => Some(Route::Request(caller)),
            ("chat", "cancel") => Some(Route::Cancel(caller)),
            ("embed", "request") if pool.is_none() => Some(Route::Embed(caller)),
            _ => None,
        }
    }

    /// Where a caller hears its answers when it names no place.
    pub(crate) fn default_reply(&self, caller: &Caller) -> String {
        format!("{}/client/{}/reply/{}", self.site, caller.client, caller.rid)
    }

    /// The client that a reply topic belongs to, when it is one of the clients' own.
    pub(crate) fn reply_client<'a>(&self, topic: &'a str) -> Option<&'a str> {
        let tail = topic.strip_prefix(self.site.as_str())?.strip_prefix("/client/")?;
        let (client, tail) = tail.split_once('/')?;
        let rest = tail.strip_prefix("reply/")?;
        (is_level(client) && !rest.is_empty()).then_some(client)
    }

    /// Whether `client` may bind a request to what `topic` says: its own topics, replies apart.
    pub(crate) fn is_status_of(&self, client: &str, topic: &str) -> bool {
        let own = topic
            .strip_prefix(self.site.as_str())
            .and_then(|tail| tail.strip_prefix("/client/"))
            .and_then(|tail| tail.strip_prefix(client))
            .and_then(|tail| tail.strip_prefix('/'));
        is_name(topic)
            && own.is_some_and(|rest| !rest.is_empty() && rest.split('/').next() != Some("reply"))
    }

    /// Whether an answer may go to `topic`.
    ///
    /// Without this rule, whoever may send a prompt could make this node write anywhere that its
    /// own rights at the broker reach.
    pub(crate) fn admits_reply(&self, topic: &str, caller: Option<&Caller>) -> bool {
        if !is_name(topic) {
            return false;
        }
        if let Some(client) = self.reply_client(topic) {
            return caller.is_none_or(|caller| caller.client == client);
        }
        let ours = topic
            .strip_prefix(self.site.as_str())
            .is_some_and(|tail| tail.is_empty() || tail.starts_with('/'));
        !ours && self.reply_filters.iter().any(|filter| matches(filter, topic))
    }
}

/// Whether `level` is allowed as one level of our topics.
pub(crate) fn is_level(level: &str) -> bool {
    (1..=64).contains(&level.len())
        && level.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// Whether something may be published to `topic`.
pub(crate) fn is_name(topic: &str) -> bool {
    (1..=REPLY_BYTES_MAX).contains(&topic.len())
        && !topic.starts_with('$')
        && !topic.contains(|c: char| c == '+' || c == '#' || c.is_control())
}

fn is_filter(filter: &str) -> bool {
    let levels: Vec<&str> = filter.split('/').collect();
    !filter.is_empty()
        && !filter.starts_with('$')
        && filter.len() <= REPLY_BYTES_MAX
        && !filter.contains(char::is_control)
        && levels.iter().enumerate().all(|(i, level)| match *level {
            "#" => i + 1 == levels.len(),
            "+" => true,
            level => !level.contains(['+', '#']),
        })
}

fn matches(filter: &str, topic: &str) -> bool {
    let mut topic_levels = topic.split('/');
    for level in filter.split('/') {
        match (level, topic_levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, Some(found)) if level == found => {}
            _ => return false,
        }
    }
    topic_levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(filters: &[&str]) -> Topics {
        let filters: Vec<String> = filters.iter().map(|f| (*f).to_owned()).collect();
        Topics::new("zonda/v1", "plant1", "jet-03", Some("gpu"), &filters).expect("valid")
    }

    fn caller() -> Caller {
        Caller { client: "plc7".into(), rid: "17".into() }
    }

    #[test]
    fn a_topic_says_what_the_message_is_and_who_sent_it() {
        let topics = topics(&[]);
        let route = |tail: &str| topics.route(&format!("zonda/v1/plant1/jet-03/chat/{tail}"));
        assert_eq!(route("request"), Some(Route::Request(None)));
        assert_eq!(route("request/plc7/17"), Some(Route::Request(Some(caller()))));
        assert_eq!(route("cancel"), Some(Route::Cancel(None)));
        assert_eq!(route("cancel/plc7/17"), Some(Route::Cancel(Some(caller()))));
        for foreign in ["request/plc7", "request/plc7/17/x", "request/a b/1", "request//1", "x", ""]
        {
            assert_eq!(route(foreign), None, "{foreign}");
        }
        let embed = |tail: &str| topics.route(&format!("zonda/v1/plant1/jet-03/embed/{tail}"));
        assert_eq!(embed("request"), Some(Route::Embed(None)));
        assert_eq!(embed("request/plc7/17"), Some(Route::Embed(Some(caller()))));
        assert_eq!((embed("cancel/plc7/17"), embed("request/plc7")), (None, None));
        assert_eq!(topics.route("zonda/v1/plant1/pool/gpu/embed/request/plc7/17"), None);
        assert_eq!(topics.route(""), None);
        assert_eq!(topics.route("zonda/v1/plant1/jet-031/chat/request"), None);
    }

    #[test]
    fn a_pool_has_topics_of_its_own() {
        let topics = topics(&[]);
        let pooled = "zonda/v1/plant1/pool/gpu/chat/request/plc7/17";
        assert_eq!(topics.route(pooled), Some(Route::Request(Some(caller()))));
        assert!(topics.is_pooled(pooled));
        assert!(!topics.is_pooled("zonda/v1/plant1/jet-03/chat/request/plc7/17"));
        let cancel = "zonda/v1/plant1/pool/gpu/chat/cancel/plc7/17";
        assert_eq!(topics.route(cancel), Some(Route::Cancel(Some(caller()))));
        assert_eq!(topics.route("zonda/v1/plant1/pool/gpus/chat/request/plc7/17"), None);
        assert_eq!(
            topics.pool_subscriptions(false),
            [
                "$share/gpu/zonda/v1/plant1/pool/gpu/chat/request/#",
                "zonda/v1/plant1/pool/gpu/chat/cancel/+/+",
            ],
        );
    }

    #[test]
    fn a_request_is_bound_to_its_own_clients_status_alone() {
        let topics = topics(&["lab/#"]);
        let client = "zonda/v1/plant1/client";
        assert!(topics.is_status_of("plc7", &format!("{client}/plc7/status")));
        for foreign in ["plc8/status", "plc77/status", "plc7/reply/1", "plc7/", "plc7", "plc7/+"] {
            assert!(!topics.is_status_of("plc7", &format!("{client}/{foreign}")), "{foreign}");
        }
        assert!(!topics.is_status_of("plc7", "lab/status"));
    }

    #[test]
    fn replies_go_to_clients_and_nowhere_else() {
        let topics = topics(&[]);
        assert!(topics.admits_reply("zonda/v1/plant1/client/plc7/reply/1", None));
        assert!(topics.admits_reply("zonda/v1/plant1/client/plc7/reply/a/b", Some(&caller())));
        for foreign in [
            "plc/valve/set",
            "zonda/v1/plant1/jet-03/chat/request",
            "zonda/v1/plant1/jet-03/status",
            "zonda/v1/plant2/client/plc7/reply/1",
            "zonda/v1/plant1/client/plc7/reply/",
            "zonda/v1/plant1/client/plc7/reply",
            "zonda/v1/plant1/client/plc7/x/1",
            "zonda/v1/plant1/client/+/reply/1",
            "zonda/v1/plant1/client/plc7/reply/#",
            "zonda/v1/plant1/client/plc7/reply/\u{0}",
            "$SYS/x",
            "",
        ] {
            assert!(!topics.admits_reply(foreign, None), "{foreign}");
        }
        assert!(!topics.admits_reply(&format!("a/{}", "b".repeat(600)), None));
    }

    #[test]
    fn a_named_caller_is_not_answered_at_anothers_topic() {
        let topics = topics(&["zonda/v1/plant1/client/#", "lab/+/in"]);
        assert!(!topics.admits_reply("zonda/v1/plant1/client/plc8/reply/1", Some(&caller())));
        assert!(topics.admits_reply("lab/7/in", Some(&caller())));
        assert!(topics.admits_reply("lab/7/in", None));
        assert!(!topics.admits_reply("lab/7/in/x", None));
    }

    #[test]
    fn no_filter_opens_the_topics_of_the_site() {
        let topics = topics(&["#"]);
        assert!(topics.admits_reply("anywhere/else", None));
        assert!(!topics.admits_reply("zonda/v1/plant1/jet-03/chat/request", None));
        assert!(!topics.admits_reply("zonda/v1/plant1", None));
        assert!(!topics.admits_reply("$SYS/x", None));
    }

    #[test]
    fn filters_and_roots_are_checked_before_use() {
        let refused = |root: &str, filter: &str| {
            Topics::new(root, "s", "n", None, &[filter.to_owned()]).expect_err("must be refused")
        };
        assert!(refused("zonda/v1", "a/#/b").contains("reply filter"));
        assert!(refused("zonda/v1", "a/b+").contains("reply filter"));
        assert!(refused("/zonda", "a").contains("root"));
        assert!(refused("$x", "a").contains("root"));
    }
}
