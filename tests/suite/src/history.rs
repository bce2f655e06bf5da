//! What clients saw, and whether it keeps the promise: each accepted request ends once.

use std::collections::BTreeMap;

/// One thing that a client did or saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The request, by its client and the client's name for it.
    pub request: (String, String),
    /// What.
    pub what: What,
}

/// What a client did or saw of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It was sent, for the first time or again.
    Sent,
    /// The broker confirmed it.
    Confirmed,
    /// The node said that it is accepted.
    Accepted,
    /// The node has no room now: it may be sent again.
    Refused(u16),
    /// It ended: status and payload.
    Final(u16, String),
}

/// What counts as a promise of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// The broker's confirmation: it lived all the time and keeps what it confirmed.
    Confirmed,
    /// The node's own word alone: the broker may have died with what it confirmed.
    Accepted,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// It was promised and never ended.
    Lost((String, String)),
    /// It ended in different ways.
    Twice((String, String), Vec<String>),
    /// It ended, and nobody had asked.
    Foreign((String, String)),
    /// Nobody answered within the test's patience, although the client asked again and again.
    Silent((String, String)),
}

/// How many requests there were, and what is wrong.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Requests that were sent.
    pub requests: usize,
    /// Those with a promise.
    pub promised: usize,
    /// Finals that came, copies included.
    pub finals: usize,
    /// Requests by the status of their final.
    pub statuses: BTreeMap<u16, usize>,
    /// Every broken promise.
    pub problems: Vec<Problem>,
}

/// Judges a history: every promised request has exactly one distinct final, and no request has two.
pub fn judge(history: &[Entry], promise: Promise) -> Verdict {
    let mut requests: BTreeMap<&(String, String), Vec<&What>> = BTreeMap::new();
    for entry in history {
        requests.entry(&entry.request).or_default().push(&entry.what);
    }
    let mut verdict = Verdict::default();
    for (request, seen) in requests {
        let sent = seen.contains(&&What::Sent);
        verdict.requests += usize::from(sent);
        let accepted = seen.contains(&&What::Accepted);
        // Who was refused last has no promise but the one that came before.
        let refused = seen.iter().any(|what| matches!(what, What::Refused(_)));
        let confirmed = seen.contains(&&What::Confirmed) && !refused;
        let promised = accepted || (confirmed && promise == Promise::Confirmed);
        verdict.promised += usize::from(promised);
        let mut finals = Vec::new();
        for what in seen {
            if let What::Final(status, payload) = what {
                verdict.finals += 1;
                if !finals.contains(payload) {
                    if finals.is_empty() {
                        *verdict.statuses.entry(*status).or_default() += 1;
                    }
                    finals.push(payload.clone());
                }
            }
        }
        match finals.len() {
            0 if promised => verdict.problems.push(Problem::Lost(request.clone())),
            0 => {}
            _ if !sent => verdict.problems.push(Problem::Foreign(request.clone())),
            1 => {}
            _ => verdict.problems.push(Problem::Twice(request.clone(), finals)),
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, what: What) -> Entry {
        Entry { request: ("plc7".into(), id.into()), what }
    }

    fn last(payload: &str) -> What {
        What::Final(200, payload.into())
    }

    fn problems(history: &[Entry], promise: Promise) -> Vec<Problem> {
        judge(history, promise).problems
    }

    fn request(id: &str) -> (String, String) {
        ("plc7".into(), id.into())
    }

    #[test]
    fn copies_of_one_final_keep_the_promise() {
        let history = [
            entry("1", What::Sent),
            entry("1", What::Confirmed),
            entry("1", What::Accepted),
            entry("1", What::Sent),
            entry("1", What::Accepted),
            entry("1", last("a")),
            entry("1", last("a")),
            entry("2", What::Sent),
        ];
        let verdict = judge(&history, Promise::Confirmed);
        assert_eq!((verdict.requests, verdict.promised, verdict.finals), (2, 1, 2));
        assert_eq!(verdict.statuses, BTreeMap::from([(200, 1)]));
        assert_eq!(verdict.problems, []);
    }

    #[test]
    fn a_planted_loss_is_found() {
        let accepted = [entry("1", What::Sent), entry("1", What::Accepted)];
        for promise in [Promise::Accepted, Promise::Confirmed] {
            assert_eq!(problems(&accepted, promise), [Problem::Lost(request("1"))]);
        }
        let confirmed = [entry("1", What::Sent), entry("1", What::Confirmed)];
        assert_eq!(problems(&confirmed, Promise::Confirmed), [Problem::Lost(request("1"))]);
        assert_eq!(problems(&confirmed, Promise::Accepted), []);
    }

    #[test]
    fn a_planted_double_is_found() {
        let history = [
            entry("1", What::Sent),
            entry("1", What::Accepted),
            entry("1", last("a")),
            entry("1", last("b")),
        ];
        let twice = Problem::Twice(request("1"), vec!["a".into(), "b".into()]);
        assert_eq!(problems(&history, Promise::Accepted), [twice]);
    }

    #[test]
    fn a_refusal_takes_a_confirmation_back_and_not_an_acceptance() {
        let refused =
            [entry("1", What::Sent), entry("1", What::Confirmed), entry("1", What::Refused(429))];
        assert_eq!(problems(&refused, Promise::Confirmed), []);
        let broken =
            [entry("1", What::Sent), entry("1", What::Accepted), entry("1", What::Refused(503))];
        assert_eq!(problems(&broken, Promise::Confirmed), [Problem::Lost(request("1"))]);
    }

    #[test]
    fn a_final_that_nobody_asked_for_is_found() {
        let history = [entry("1", last("a"))];
        assert_eq!(problems(&history, Promise::Accepted), [Problem::Foreign(request("1"))]);
    }
}
