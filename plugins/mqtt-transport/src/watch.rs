//! Requests that end when their client vanishes (`ext.cancel_on_offline`).

use std::collections::{HashMap, VecDeque};

use crate::ledger::Key;

/// Status topics that are listened to at the same time.
const TOPICS_MAX: usize = 64;

/// A subscription that the broker has to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Subscribe(String),
    Unsubscribe(String),
}

/// Which requests are bound to which status topics.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    bound: HashMap<String, Vec<Key>>,
    /// Not yet said to the broker; at most one for each topic.
    changes: VecDeque<Change>,
}

impl Watches {
    pub(crate) fn has_room_for(&self, topic: &str) -> bool {
        self.bound.len() < TOPICS_MAX || self.bound.contains_key(topic)
    }

    /// Binds the request with `key` to what `topic` says.
    pub(crate) fn bind(&mut self, topic: &str, key: &Key) {
        if let Some(keys) = self.bound.get_mut(topic) {
            keys.push(key.clone());
            return;
        }
        self.bound.insert(topic.to_owned(), vec![key.clone()]);
        self.change(Change::Subscribe(topic.to_owned()));
    }

    /// The request with `key` needs no watching any more.
    pub(crate) fn ended(&mut self, key: &Key) {
        let mut quiet = Vec::new();
        self.bound.retain(|topic, keys| {
            let before = keys.len();
            keys.retain(|bound| bound != key);
            if keys.is_empty() && before > 0 {
                quiet.push(topic.clone());
            }
            !keys.is_empty()
        });
        for topic in quiet {
            self.change(Change::Unsubscribe(topic));
        }
    }

    pub(crate) fn knows(&self, topic: &str) -> bool {
        self.bound.contains_key(topic)
    }

    /// Nobody here listens to `topic`, and the broker is told so.
    pub(crate) fn forget(&mut self, topic: &str) {
        self.change(Change::Unsubscribe(topic.to_owned()));
    }

    /// The requests that are bound to `topic`.
    pub(crate) fn bound_to(&self, topic: &str) -> Vec<Key> {
        self.bound.get(topic).cloned().unwrap_or_default()
    }

    /// A new connection: everything has to be said again.
    pub(crate) fn connected(&mut self) {
        self.changes = self.bound.keys().cloned().map(Change::Subscribe).collect();
    }

    pub(crate) fn next_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    fn change(&mut self, change: Change) {
        let topic_of = |change: &Change| match change {
            Change::Subscribe(topic) | Change::Unsubscribe(topic) => topic.clone(),
        };
        let topic = topic_of(&change);
        self.changes.retain(|waiting| topic_of(waiting) != topic);
        self.changes.push_back(change);
        // Ends of subscriptions that nobody could be told of are not worth keeping.
        if self.changes.len() > 2 * TOPICS_MAX {
            self.changes.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Key {
        Key { client: "plc7".into(), id: id.into() }
    }

    #[test]
    fn a_topic_is_listened_to_as_long_as_a_request_is_bound_to_it() {
        let mut watches = Watches::default();
        watches.bind("s", &key("1"));
        watches.bind("s", &key("2"));
        assert_eq!(watches.next_change(), Some(Change::Subscribe("s".into())));
        assert_eq!(watches.next_change(), None);
        assert_eq!(watches.bound_to("s"), [key("1"), key("2")]);
        watches.ended(&key("1"));
        assert!(watches.knows("s"));
        watches.ended(&key("2"));
        assert!(!watches.knows("s"));
        assert_eq!(watches.next_change(), Some(Change::Unsubscribe("s".into())));
    }

    #[test]
    fn a_new_connection_hears_of_every_topic_once() {
        let mut watches = Watches::default();
        watches.bind("s", &key("1"));
        watches.bind("t", &key("2"));
        watches.ended(&key("2"));
        watches.connected();
        assert_eq!(watches.next_change(), Some(Change::Subscribe("s".into())));
        assert_eq!(watches.next_change(), None);
    }

    #[test]
    fn topics_and_changes_are_bounded() {
        let mut watches = Watches::default();
        for n in 0..TOPICS_MAX {
            assert!(watches.has_room_for(&n.to_string()));
            watches.bind(&n.to_string(), &key(&n.to_string()));
        }
        assert!(watches.has_room_for("0") && !watches.has_room_for("more"));
        for n in 0..5 * TOPICS_MAX {
            watches.ended(&key(&n.to_string()));
            watches.bind(&format!("again {n}"), &key(&n.to_string()));
        }
        assert!(watches.changes.len() <= 2 * TOPICS_MAX);
    }
}
