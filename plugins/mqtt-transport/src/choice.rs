//! Which protocol version to speak, when both may be spoken.

use std::time::{Duration, Instant};

use crate::config::MqttVersion;
use crate::link::{Break, Dialect};

/// A broker that hung up on MQTT 5 is asked for 3.1.1 at most this often.
const OLDER_EVERY: Duration = Duration::from_secs(600);

/// Which protocol version comes next.
pub(crate) struct Choice {
    version: MqttVersion,
    /// 3.1.1 works here, as far as we know, until then.
    older_until: Option<Instant>,
    older_tried: Option<Instant>,
    next_is_older: bool,
}

impl Choice {
    pub(crate) fn new(version: MqttVersion) -> Self {
        Self { version, older_until: None, older_tried: None, next_is_older: false }
    }

    /// The version of the next connection.
    pub(crate) fn next(&mut self, now: Instant) -> Dialect {
        match self.version {
            MqttVersion::V5 => Dialect::V5,
            MqttVersion::V311 => Dialect::V311,
            MqttVersion::Auto => {
                let known = self.older_until.is_some_and(|until| now < until);
                if std::mem::take(&mut self.next_is_older) || known {
                    Dialect::V311
                } else {
                    Dialect::V5
                }
            }
        }
    }

    /// A connection in `dialect` came up.
    pub(crate) fn came_up(&mut self, dialect: Dialect, now: Instant) {
        self.older_until = (dialect == Dialect::V311).then(|| now + OLDER_EVERY);
    }

    /// A connection ended; says whether to connect again at once, in the other version.
    pub(crate) fn went_down(&mut self, dialect: Dialect, why: &Break, now: Instant) -> bool {
        let Break::Version(_) = why else { return false };
        match dialect {
            Dialect::V311 => {
                self.older_until = None;
                false
            }
            Dialect::V5 => {
                let due =
                    self.older_tried.is_none_or(|tried| now.duration_since(tried) >= OLDER_EVERY);
                self.next_is_older = self.version == MqttVersion::Auto && due;
                if self.next_is_older {
                    self.older_tried = Some(now);
                }
                self.next_is_older
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_broker_is_spoken_to_in_its_version_and_asked_again_later() {
        let start = Instant::now();
        let refused = Break::Version("no".into());
        let mut choice = Choice::new(MqttVersion::Auto);
        assert_eq!(choice.next(start), Dialect::V5);
        assert!(choice.went_down(Dialect::V5, &refused, start));
        assert_eq!(choice.next(start), Dialect::V311);
        choice.came_up(Dialect::V311, start);
        assert_eq!(choice.next(start + OLDER_EVERY / 2), Dialect::V311);
        assert_eq!(choice.next(start + OLDER_EVERY * 2), Dialect::V5);
    }

    #[test]
    fn a_broker_that_hangs_up_on_both_versions_is_not_hammered() {
        let start = Instant::now();
        let hung_up = Break::Version("closed".into());
        let mut choice = Choice::new(MqttVersion::Auto);
        assert!(choice.went_down(Dialect::V5, &hung_up, start));
        assert_eq!(choice.next(start), Dialect::V311);
        assert!(!choice.went_down(Dialect::V311, &hung_up, start));
        assert_eq!(choice.next(start), Dialect::V5);
        assert!(!choice.went_down(Dialect::V5, &hung_up, start + Duration::from_secs(5)));
        assert_eq!(choice.next(start), Dialect::V5);
    }

    #[test]
    fn a_fixed_version_never_changes() {
        let refused = Break::Version("no".into());
        let mut choice = Choice::new(MqttVersion::V5);
        assert!(!choice.went_down(Dialect::V5, &refused, Instant::now()));
        assert_eq!(choice.next(Instant::now()), Dialect::V5);
    }
}
