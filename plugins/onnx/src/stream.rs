//! Numbers as they come: the window, and when what it looks like is an alarm.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// When a stream of scores is an alarm, and when it is none any more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AlarmRule {
    /// A score that reaches it is odd.
    pub threshold: f64,
    /// A score below it is normal again; at most the threshold. Between the two, all stays.
    pub clear_below: f64,
    /// So many odd scores in a row raise the alarm; at least 1.
    pub raise_after: u32,
    /// So many normal scores in a row end it; at least 1.
    pub clear_after: u32,
    /// An alarm lasts at least this long, so that it does not come and go.
    pub hold: Duration,
}

/// How a stream stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Standing {
    /// Its first window is not full yet.
    #[default]
    Waiting,
    /// As it should be.
    Normal,
    /// Odd.
    Alarm,
}

/// The last numbers of one source, in bounded memory.
#[derive(Debug, Clone)]
pub struct Window {
    numbers: VecDeque<f32>,
    length: usize,
    stride: usize,
    /// Numbers until the next look.
    missing: usize,
}

impl Window {
    /// A window of `length` numbers that is looked at every `stride` numbers; both at least 1.
    pub fn new(length: usize, stride: usize) -> Self {
        let length = length.max(1);
        Self {
            numbers: VecDeque::with_capacity(length),
            length,
            stride: stride.max(1),
            missing: length,
        }
    }

    /// Takes the next number; gives the window where it is time to look at it.
    pub fn push(&mut self, number: f32) -> Option<Vec<f32>> {
        if self.numbers.len() == self.length {
            self.numbers.pop_front();
        }
        self.numbers.push_back(number);
        self.missing -= 1;
        if self.missing > 0 {
            return None;
        }
        self.missing = self.stride;
        Some(self.numbers.iter().copied().collect())
    }
}

/// One source's way between normal and alarm.
#[derive(Debug, Clone, Default)]
pub struct Alarm {
    standing: Standing,
    /// Scores in a row that speak for the other standing.
    against: u32,
    since: Option<Instant>,
}

impl Alarm {
    /// How it stands.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Takes a score that was computed at `now`; says where it stands now, if that has changed.
    pub fn judge(&mut self, score: f64, rule: &AlarmRule, now: Instant) -> Option<Standing> {
        let before = self.standing;
        if before == Standing::Waiting {
            self.standing = Standing::Normal;
        }
        let is_alarm = self.standing == Standing::Alarm;
        let speaks_against =
            if is_alarm { score < rule.clear_below } else { score >= rule.threshold };
        self.against = if speaks_against { self.against.saturating_add(1) } else { 0 };
        let needed = if is_alarm { rule.clear_after } else { rule.raise_after };
        let held = |since: Instant| now.saturating_duration_since(since) < rule.hold;
        if self.against >= needed.max(1) && !(is_alarm && self.since.is_some_and(held)) {
            self.standing = if is_alarm { Standing::Normal } else { Standing::Alarm };
            self.since = Some(now);
            self.against = 0;
        }
        (self.standing != before).then_some(self.standing)
    }
}

/// The numbers that a source may bring in a second.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    per_second_max: u32,
    second: Option<Instant>,
    taken: u32,
}

impl Pace {
    /// At most `per_second_max` of them.
    pub fn new(per_second_max: u32) -> Self {
        Self { per_second_max, second: None, taken: 0 }
    }

    /// Whether one that comes at `now` is not too much.
    pub fn admits(&mut self, now: Instant) -> bool {
        let is_over =
            |begin: Instant| now.saturating_duration_since(begin) >= Duration::from_secs(1);
        if self.second.is_none_or(is_over) {
            (self.second, self.taken) = (Some(now), 0);
        }
        self.taken = self.taken.saturating_add(1);
        self.taken <= self.per_second_max
    }
}

/// The number that a message says: it is one, or JSON that holds one where `pointer` (RFC 6901)
/// leads. `None` for anything else, what is not finite among it.
pub fn read_number(payload: &[u8], pointer: Option<&str>) -> Option<f32> {
    let number = match pointer {
        None => std::str::from_utf8(payload).ok()?.trim().parse::<f64>().ok()?,
        Some(pointer) => {
            let value: serde_json::Value = serde_json::from_slice(payload).ok()?;
            let found = value.pointer(pointer)?;
            match found.as_str() {
                // Some gateways send every number as text.
                Some(text) => text.trim().parse::<f64>().ok()?,
                None => found.as_f64()?,
            }
        }
    };
    let number = number as f32;
    number.is_finite().then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_text_and_from_json() {
        let check = |payload: &str, pointer: Option<&str>, expected: Option<f32>| {
            assert_eq!(read_number(payload.as_bytes(), pointer), expected, "{payload}");
        };
        check(" 1.5\n", None, Some(1.5));
        check("-3e2", None, Some(-300.0));
        for garbage in ["", "NaN", "inf", "-Infinity", "1e99", "on", "1 2", "[1]"] {
            check(garbage, None, None);
        }
        check(r#"{"a":{"b":[1,2.5]}}"#, Some("/a/b/1"), Some(2.5));
        check(r#"{"value":"7.25"}"#, Some("/value"), Some(7.25));
        check("7", Some(""), Some(7.0));
        for garbage in ["", "{", r#"{"value":null}"#, r#"{"value":"NaN"}"#, r#"{"valve":1}"#] {
            check(garbage, Some("/value"), None);
        }
        check("\u{fffd}", None, None);
        assert_eq!(read_number(b"\xff\xfe", None), None);
    }

    #[test]
    fn a_window_is_looked_at_when_it_is_full_and_every_stride() {
        let mut window = Window::new(4, 2);
        let looks: Vec<Option<Vec<f32>>> = (0..8).map(|n| window.push(n as f32)).collect();
        assert_eq!(looks[3], Some(vec![0.0, 1.0, 2.0, 3.0]));
        assert_eq!(looks[5], Some(vec![2.0, 3.0, 4.0, 5.0]));
        assert_eq!(looks[7], Some(vec![4.0, 5.0, 6.0, 7.0]));
        assert_eq!(looks.iter().flatten().count(), 3);
        assert!(window.numbers.len() <= 4);
    }

    #[test]
    fn an_alarm_wants_several_scores_and_lasts() {
        let rule = AlarmRule {
            threshold: 1.0,
            clear_below: 0.5,
            raise_after: 2,
            clear_after: 2,
            hold: Duration::from_secs(10),
        };
        let begin = Instant::now();
        let mut alarm = Alarm::default();
        assert_eq!(alarm.standing(), Standing::Waiting);
        let told = |alarm: &mut Alarm, scores: &[f64], second: u64| {
            let now = begin + Duration::from_secs(second);
            scores.iter().filter_map(|score| alarm.judge(*score, &rule, now)).collect::<Vec<_>>()
        };
        assert_eq!(told(&mut alarm, &[0.1, 2.0, 0.1, 2.0, 0.7], 0), [Standing::Normal]);
        assert_eq!(told(&mut alarm, &[1.0, 1.0], 1), [Standing::Alarm]);
        // Normal again, but held.
        assert_eq!(told(&mut alarm, &[0.1; 20], 10), []);
        // Between the limits nothing speaks for a change.
        assert_eq!(told(&mut alarm, &[0.7, 0.1, 0.7, 0.1], 12), []);
        assert_eq!(told(&mut alarm, &[0.1], 12), [Standing::Normal]);
        // However the scores jump, there are two changes in ten seconds at most.
        let jumps: Vec<f64> = (0..1000).map(|n| if n / 2 % 2 == 0 { 2.0 } else { 0.0 }).collect();
        assert_eq!(told(&mut alarm, &jumps, 13), [Standing::Alarm]);
    }

    #[test]
    fn what_comes_too_fast_is_too_much() {
        let (mut pace, begin) = (Pace::new(3), Instant::now());
        let admitted = |pace: &mut Pace, at: u64| pace.admits(begin + Duration::from_millis(at));
        let first: Vec<bool> = (0..5).map(|n| admitted(&mut pace, n)).collect();
        assert_eq!(first, [true, true, true, false, false]);
        assert!(admitted(&mut pace, 1000));
    }
}
