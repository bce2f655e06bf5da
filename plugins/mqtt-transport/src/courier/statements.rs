//! What this node says of itself, and what else it listens to.

use std::time::{Duration, Instant};

use protocol::News;

use super::Courier;
use crate::address::Parcel;
use crate::home;
use crate::link::Dialect;

/// A retained state that nobody renews vanishes after this.
const STATE_EXPIRY: Duration = Duration::from_secs(120);
/// What happened is of interest this long.
const EVENT_EXPIRY: Duration = Duration::from_secs(600);

impl Courier {
    pub(super) fn listen_to_sensors(&mut self) {
        let sources = self.newsroom.sources().to_vec();
        if let Some(line) = self.link.as_mut().filter(|_| !sources.is_empty()) {
            line.closed |= !line.link.subscribe_loosely(sources);
            line.handed += usize::from(!line.closed);
        }
    }

    /// Publishes what this box says without being asked.
    pub(super) fn tell(&mut self, news: News, now: Instant) {
        let is_online = self.link.as_ref().is_some_and(|line| line.subscribed);
        if let Some(mut parcel) = self.newsroom.take(news, &self.desk.topics, is_online) {
            parcel.expiry = (!parcel.retain).then_some(EVENT_EXPIRY);
            self.post(parcel, now);
        }
    }

    pub(super) fn give_birth(&mut self, dialect: Dialect, now: Instant) {
        let description = self.service.describe();
        let birth = self.presence.birth(&self.config, dialect, &description);
        self.post(Parcel::retained(self.desk.topics.birth(), birth, true), now);
    }

    pub(super) fn describe_to_home(&mut self, now: Instant) {
        if self.config.home_assistant {
            let (topic, payload) = home::discovery(&self.config, &self.desk.topics);
            self.post(Parcel::retained(topic, payload, true), now);
        }
    }

    /// Tells how busy we are, on change and every 15 seconds, and what has happened.
    pub(super) fn look(&mut self, now: Instant) {
        let Some(line) = self.link.as_ref().filter(|line| line.subscribed) else { return };
        let dialect = line.dialect;
        let description = self.service.describe();
        for happening in self.presence.look(&description, now) {
            let topic = self.desk.topics.event(happening.kind);
            let mut parcel = Parcel::retained(topic, happening.payload, true);
            parcel.retain = false;
            parcel.expiry = Some(EVENT_EXPIRY);
            self.post(parcel, now);
            if happening.kind == "model_changed" {
                self.give_birth(dialect, now);
            }
        }
        if self.announcement.is_due(now) {
            self.describe_to_home(now);
        }
        if let Some(state) = self.presence.state(description.load, now) {
            let mut parcel = Parcel::retained(self.desk.topics.state(), state, false);
            parcel.expiry = Some(STATE_EXPIRY);
            self.post(parcel, now);
        }
    }
}
