//! Where numbers of sensors come in: read on the transport's thread, and queued for the detectors.
//!
//! It is made before networks are loaded, because the entrances take their topics early.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use firmware_config::{DetectorConfig, OnnxRole, Profile};
use onnx::{Pace, read_number};
use protocol::{Lookout, NewsFeed, NewsSink, news_pair};
use serde_json::{Value, json};

/// Numbers of all sensors that may wait; the oldest gives way.
const SAMPLES_MAX: usize = 1024;
/// News that may wait for their transport.
const NEWS_MAX: usize = 256;
/// Longest payload that is read, in bytes.
const PAYLOAD_BYTES_MAX: usize = 4096;
/// Between two lines in the log about what one detector dropped.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Everything around detectors that is not a network.
pub(crate) struct Sensing {
    ear: Option<Arc<Ear>>,
    news: NewsSink,
    feed: Option<NewsFeed>,
}

/// One number, and which stream it belongs to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Sample {
    /// The next number of a stream.
    Number { stream: usize, number: f32 },
    /// Nothing more comes.
    End,
}

/// What was dropped of a detector's numbers, and why.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    unreadable: AtomicU64,
    too_fast: AtomicU64,
    /// Pushed out of the queue by newer ones: the detector is slow.
    late: AtomicU64,
    complained: Mutex<Option<Instant>>,
}

/// Listens on the transport's thread.
pub(crate) struct Ear {
    /// Which streams a topic feeds.
    topics: HashMap<String, Vec<usize>>,
    streams: Vec<Stream>,
    queue: flume::Sender<Sample>,
    /// The other end as well, to make room.
    waiting: flume::Receiver<Sample>,
}

/// One topic of one detector.
struct Stream {
    detector: String,
    field: Option<String>,
    pace: Mutex<Pace>,
    dropped: Arc<Dropped>,
}

/// The detectors of a profile, in its order.
pub(crate) fn detectors(profile: &Profile) -> impl Iterator<Item = (&str, &DetectorConfig)> {
    profile.onnx.iter().filter_map(|config| match &config.role {
        OnnxRole::Detector(detector) => Some((config.name.as_str(), detector)),
        _ => None,
    })
}

impl Sensing {
    /// Streams are numbered by detector, then by topic, as the profile has them.
    pub(crate) fn new(profile: &Profile) -> Self {
        let (news, feed) = news_pair(NEWS_MAX);
        let mut ear = Ear::new();
        for (name, config) in detectors(profile) {
            ear.add(name, config);
        }
        let ear = (!ear.streams.is_empty()).then(|| Arc::new(ear));
        Self { ear, news, feed: Some(feed) }
    }

    /// Every topic that a detector listens to, once.
    pub(crate) fn topics(&self) -> Vec<String> {
        let topics = self.ear.iter().flat_map(|ear| ear.topics.keys().cloned());
        let mut topics: Vec<String> = topics.collect();
        topics.sort();
        topics
    }

    /// Who listens to them.
    pub(crate) fn lookout(&self) -> Option<Arc<dyn Lookout>> {
        self.ear.clone().map(|ear| ear as Arc<dyn Lookout>)
    }

    /// As [`Self::lookout`], for who takes the numbers out.
    pub(crate) fn ear(&self) -> Option<&Arc<Ear>> {
        self.ear.as_ref()
    }

    /// Where news go.
    pub(crate) fn news(&self) -> &NewsSink {
        &self.news
    }

    /// Where they come out; once.
    pub(crate) fn take_feed(&mut self) -> Option<NewsFeed> {
        self.feed.take()
    }
}

impl Ear {
    fn new() -> Self {
        let (queue, waiting) = flume::bounded(SAMPLES_MAX);
        Self { topics: HashMap::new(), streams: Vec::new(), queue, waiting }
    }

    fn add(&mut self, detector: &str, config: &DetectorConfig) {
        let dropped = Arc::new(Dropped::default());
        for topic in &config.topics {
            self.topics.entry(topic.clone()).or_default().push(self.streams.len());
            self.streams.push(Stream {
                detector: detector.to_owned(),
                field: config.field.clone(),
                pace: Mutex::new(Pace::new(config.rate_max)),
                dropped: Arc::clone(&dropped),
            });
        }
    }

    /// Where the numbers come out.
    pub(crate) fn samples(&self) -> flume::Receiver<Sample> {
        self.waiting.clone()
    }

    /// What the detector of a stream lost.
    pub(crate) fn dropped(&self, stream: usize) -> Arc<Dropped> {
        Arc::clone(&self.streams[stream].dropped)
    }

    /// Ends what takes the numbers out.
    pub(crate) fn end(&self) {
        self.push(Sample::End);
    }

    fn push(&self, mut sample: Sample) {
        // Both ends are here, so it is never disconnected.
        while let Err(flume::TrySendError::Full(back)) = self.queue.try_send(sample) {
            if let Ok(Sample::Number { stream, .. }) = self.waiting.try_recv() {
                self.streams[stream].drop_one(|dropped| &dropped.late);
            }
            sample = back;
        }
    }

    fn take(&self, stream: usize, payload: &[u8], now: Instant) {
        let one = &self.streams[stream];
        let number = match payload.len() <= PAYLOAD_BYTES_MAX {
            true => read_number(payload, one.field.as_deref()),
            false => None,
        };
        let Some(number) = number else { return one.drop_one(|dropped| &dropped.unreadable) };
        if !one.pace.lock().unwrap_or_else(PoisonError::into_inner).admits(now) {
            return one.drop_one(|dropped| &dropped.too_fast);
        }
        self.push(Sample::Number { stream, number });
    }
}

impl Lookout for Ear {
    fn hear(&self, source: &str, payload: &[u8]) {
        for stream in self.topics.get(source).into_iter().flatten() {
            self.take(*stream, payload, Instant::now());
        }
    }
}

impl Stream {
    fn drop_one(&self, why: impl FnOnce(&Dropped) -> &AtomicU64) {
        why(&self.dropped).fetch_add(1, Ordering::Relaxed);
        if self.dropped.may_complain(Instant::now()) {
            let told = self.dropped.told();
            tracing::warn!(detector = self.detector, dropped = %told, "numbers of sensors are dropped");
        }
    }
}

impl Dropped {
    /// Counts since the start, as JSON.
    pub(crate) fn told(&self) -> Value {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "unreadable": read(&self.unreadable),
            "too_fast": read(&self.too_fast),
            "late": read(&self.late),
        })
    }

    fn may_complain(&self, now: Instant) -> bool {
        let mut last = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= COMPLAIN_EVERY);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ear(rate_max: u32) -> Ear {
        let mut ear = Ear::new();
        let config = DetectorConfig {
            topics: vec!["a".into(), "b".into()],
            field: None,
            window: None,
            stride: None,
            threshold: 1.0,
            clear_below: 1.0,
            raise_after: 1,
            clear_after: 1,
            hold: Duration::ZERO,
            rate_max,
            prompt: None,
            prompt_tokens_max: 1,
        };
        ear.add("one", &config);
        ear.add("two", &DetectorConfig { field: Some("/v".into()), ..config });
        ear
    }

    #[test]
    fn a_number_goes_to_every_detector_that_listens() {
        let ear = ear(100);
        ear.hear("b", b"1.5");
        ear.hear("b", br#"{"v":2}"#);
        ear.hear("c", b"3");
        let samples: Vec<Sample> = ear.samples().drain().collect();
        let number = |stream, number| Sample::Number { stream, number };
        assert_eq!(samples, [number(1, 1.5), number(3, 2.0)]);
        assert_eq!(ear.dropped(0).told()["unreadable"], 1);
        assert_eq!(ear.dropped(2).told()["unreadable"], 1);
    }

    #[test]
    fn what_is_too_much_is_dropped_and_counted() {
        let slow = ear(2);
        let long = format!("{}1", " ".repeat(PAYLOAD_BYTES_MAX));
        slow.hear("a", long.as_bytes());
        let now = Instant::now();
        (0..5).for_each(|_| slow.take(0, b"1", now));
        let told = json!({"unreadable": 1, "too_fast": 3, "late": 0});
        assert_eq!((slow.samples().len(), slow.dropped(0).told()), (2, told));

        let fast = ear(10_000);
        (0..SAMPLES_MAX + 7).for_each(|n| fast.take(0, n.to_string().as_bytes(), now));
        fast.end();
        assert_eq!(fast.dropped(0).told()["late"], 8);
        let samples: Vec<Sample> = fast.samples().drain().collect();
        assert_eq!(samples.len(), SAMPLES_MAX);
        assert_eq!(samples.first(), Some(&Sample::Number { stream: 0, number: 8.0 }));
        assert_eq!(samples.last(), Some(&Sample::End));
    }

    #[test]
    fn the_log_hears_of_it_once_a_minute() {
        let (dropped, now) = (Dropped::default(), Instant::now());
        assert!(dropped.may_complain(now) && !dropped.may_complain(now));
        assert!(dropped.may_complain(now + COMPLAIN_EVERY));
    }
}
