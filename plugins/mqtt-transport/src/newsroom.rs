//! What this box says without being asked, and what others publish for its detectors.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::{Lookout, News, NewsFeed};

use crate::address::Parcel;
use crate::link::Message;
use crate::topics::{Topics, is_level};

/// Statements that are kept to be said again at each connection.
const STATES_MAX: usize = 256;

/// The streams that pass by the requests.
#[derive(Default)]
pub(crate) struct Newsroom {
    lookout: Option<Arc<dyn Lookout>>,
    feed: Option<NewsFeed>,
    /// The topics of sensors.
    sources: Vec<String>,
    /// The last statement on each topic.
    states: BTreeMap<String, String>,
}

impl Newsroom {
    pub(crate) fn new(
        sources: Vec<String>,
        lookout: Option<Arc<dyn Lookout>>,
        feed: Option<NewsFeed>,
    ) -> Self {
        // Without somebody who listens, nothing is worth a subscription.
        let sources = if lookout.is_some() { sources } else { Vec::new() };
        Self { lookout, feed, sources, states: BTreeMap::new() }
    }

    /// What to subscribe to besides requests.
    pub(crate) fn sources(&self) -> &[String] {
        &self.sources
    }

    /// Takes a message of a sensor; whether it is one.
    pub(crate) fn hear(&self, message: &Message) -> bool {
        if !self.sources.contains(&message.topic) {
            return false;
        }
        // What a broker kept says nothing of now.
        if let Some(lookout) = self.lookout.as_ref().filter(|_| !message.retained) {
            lookout.hear(&message.topic, &message.payload);
        }
        true
    }

    /// The next news; never comes back where there are none. Dropping the future loses nothing.
    pub(crate) async fn next(&self) -> News {
        match &self.feed {
            Some(feed) => feed.next().await,
            None => std::future::pending().await,
        }
    }

    /// What is to be published of `news` now, with a connection or without.
    pub(crate) fn take(&mut self, news: News, topics: &Topics, is_online: bool) -> Option<Parcel> {
        match news {
            News::Event { kind, body } if is_level(&kind) => {
                let mut parcel = Parcel::retained(topics.event(&kind), body, true);
                parcel.retain = false;
                Some(parcel)
            }
            News::State { kind, name, body } if is_level(&kind) && is_level(&name) => {
                let topic = topics.statement(&kind, &name);
                if self.states.len() < STATES_MAX || self.states.contains_key(&topic) {
                    self.states.insert(topic.clone(), body.clone());
                }
                is_online.then(|| Parcel::retained(topic, body, true))
            }
            News::Event { .. } | News::State { .. } => {
                tracing::warn!("news without a name that can be a topic are not told");
                None
            }
        }
    }

    /// Everything that stands, for a new connection.
    pub(crate) fn statements(&self) -> Vec<Parcel> {
        let parcel =
            |(topic, body): (&String, &String)| Parcel::retained(topic.clone(), body.clone(), true);
        self.states.iter().map(parcel).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(name: &str, body: &str) -> News {
        News::State { kind: "alarm".into(), name: name.into(), body: body.into() }
    }

    #[test]
    fn the_last_word_on_each_thing_is_kept_for_later_connections() {
        let topics = Topics::new("zonda/v1", "plant1", "jet-03", None, &[]).expect("valid");
        let mut room = Newsroom::default();
        assert_eq!(room.take(state("pump", "1"), &topics, false), None);
        let told = room.take(state("pump", "2"), &topics, true).expect("told");
        assert_eq!((told.topic.as_str(), told.retain), ("zonda/v1/plant1/jet-03/alarm/pump", true));
        assert_eq!(room.statements(), [told]);
        assert_eq!(room.take(state("a/b", "3"), &topics, true), None);
        let event = News::Event { kind: "alarm".into(), body: "{}".into() };
        let event = room.take(event, &topics, true).expect("told");
        assert_eq!(
            (event.topic.as_str(), event.retain),
            ("zonda/v1/plant1/jet-03/event/alarm", false)
        );
        for number in 0..2 * STATES_MAX {
            room.take(state(&number.to_string(), ""), &topics, false);
        }
        assert_eq!(room.statements().len(), STATES_MAX);
    }
}
