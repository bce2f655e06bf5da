//! Detectors: numbers in, alarms out.
//!
//! One thread takes the numbers of every sensor, asks the networks when a window is due, and says
//! how things stand. It waits for the networks; nobody waits for it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use firmware_config::Profile;
use onnx::{Alarm, AlarmRule, Detector, Standing, Window};
use protocol::{News, NewsSink};
use serde_json::{Value, json};

use crate::assemble::House;
use crate::error::AssembleError;
use crate::networks::Networks;
use crate::reporting::{Question, Reporting};
use crate::sensing::{Dropped, Ear, Sample, Sensing, detectors};
use crate::unix_now;

/// What alarms are called in topics.
const KIND: &str = "alarm";

/// The detectors at work. Dropping it ends them.
pub(crate) struct Detecting {
    ear: Arc<Ear>,
    thread: Option<JoinHandle<()>>,
}

/// One detector: its network, and every topic that it listens to.
struct Watched {
    name: String,
    network: Arc<Detector>,
    rule: AlarmRule,
    prompt: Option<(String, u32)>,
    dropped: Arc<Dropped>,
    sources: Vec<Source>,
    /// Windows that the network failed on.
    failed: u64,
}

/// One topic of a detector.
struct Source {
    topic: String,
    window: Window,
    alarm: Alarm,
}

impl Detecting {
    /// Starts the detectors of the profile; `None` where it has none.
    ///
    /// Errors: the system starts no thread.
    pub(crate) fn start(
        sensing: &Sensing,
        house: &House,
        profile: &Profile,
    ) -> Result<Option<Self>, AssembleError> {
        let (Some(ear), Some(networks)) = (sensing.ear(), house.networks()) else {
            return Ok(None);
        };
        let has_prompt = detectors(profile).any(|(_, config)| config.prompt.is_some());
        let reporting = match has_prompt {
            true => Some(Reporting::start(house.service(), sensing.news().clone())?),
            false => None,
        };
        let mut watch = Watch {
            places: Vec::new(),
            watched: watched(profile, networks, ear),
            networks: Arc::clone(networks),
            news: sensing.news().clone(),
            reporting,
        };
        for (at, one) in watch.watched.iter().enumerate() {
            watch.places.extend((0..one.sources.len()).map(|source| (at, source)));
        }
        let samples = ear.samples();
        let builder = std::thread::Builder::new().name("zonda-detect".into());
        let thread = builder.spawn(move || watch.run(&samples))?;
        Ok(Some(Self { ear: Arc::clone(ear), thread: Some(thread) }))
    }
}

impl Drop for Detecting {
    fn drop(&mut self) {
        self.ear.end();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the detectors panicked");
        }
    }
}

fn watched(profile: &Profile, networks: &Networks, ear: &Ear) -> Vec<Watched> {
    let mut stream = 0;
    let one = |((name, config), (_, network)): (_, &(String, Arc<Detector>))| {
        let (name, config): (&str, &firmware_config::DetectorConfig) = (name, config);
        let length = network.window();
        let stride = config.stride.map_or_else(|| (length / 4).max(1), |stride| stride as usize);
        let source = |topic: &String| Source {
            topic: topic.clone(),
            window: Window::new(length, stride),
            alarm: Alarm::default(),
        };
        let dropped = ear.dropped(stream);
        stream += config.topics.len();
        Watched {
            name: name.to_owned(),
            network: Arc::clone(network),
            rule: AlarmRule {
                threshold: config.threshold,
                clear_below: config.clear_below,
                raise_after: config.raise_after,
                clear_after: config.clear_after,
                hold: config.hold,
            },
            prompt: config.prompt.clone().map(|prompt| (prompt, config.prompt_tokens_max)),
            dropped,
            sources: config.topics.iter().map(source).collect(),
            failed: 0,
        }
    };
    // Both are in the order of the profile.
    detectors(profile).zip(&networks.detectors).map(one).collect()
}

/// What the thread of the detectors holds.
struct Watch {
    /// The detector and the source of each stream.
    places: Vec<(usize, usize)>,
    watched: Vec<Watched>,
    networks: Arc<Networks>,
    news: NewsSink,
    reporting: Option<Reporting>,
}

impl Watch {
    fn run(mut self, samples: &flume::Receiver<Sample>) {
        for one in &self.watched {
            self.news.tell(one.statement());
        }
        while let Ok(Sample::Number { stream, number }) = samples.recv() {
            let (at, source) = self.places[stream];
            if let Some(window) = self.watched[at].sources[source].window.push(number) {
                self.look(at, source, window);
            }
        }
    }

    /// Has a window judged, and tells what has changed.
    fn look(&mut self, at: usize, source: usize, window: Vec<f32>) {
        let one = &mut self.watched[at];
        let score = match self.networks.detect(&one.network, window.clone()) {
            Ok(score) => score,
            Err(fault) => {
                one.failed += 1;
                // The first, the second, the fourth: a network that always fails fills no log.
                if one.failed.is_power_of_two() {
                    let (name, failed) = (&one.name, one.failed);
                    tracing::warn!(detector = name, failed, code = %fault.code, "a window is not judged");
                }
                return;
            }
        };
        let heard = &mut one.sources[source];
        let before = heard.alarm.standing();
        let Some(standing) = heard.alarm.judge(score, &one.rule, Instant::now()) else { return };
        self.news.tell(one.statement());
        if before == Standing::Waiting && standing == Standing::Normal {
            return;
        }
        let topic = &one.sources[source].topic;
        tracing::info!(detector = one.name, topic, standing = word(standing), score, "a detector");
        self.news.tell(News::Event { kind: KIND.into(), body: one.event(source, score) });
        if let (Standing::Alarm, Some((prompt, tokens_max)), Some(reporting)) =
            (standing, &one.prompt, &self.reporting)
        {
            reporting.ask(Question {
                detector: one.name.clone(),
                topic: topic.clone(),
                score,
                threshold: one.rule.threshold,
                window,
                prompt: prompt.clone(),
                tokens_max: *tokens_max,
            });
        }
    }
}

impl Watched {
    /// How it stands: an alarm of any source is one.
    fn statement(&self) -> News {
        let of = |standing: Standing| {
            let those = self.sources.iter().filter(|one| one.alarm.standing() == standing);
            those.map(|one| one.topic.as_str()).collect::<Vec<_>>()
        };
        let (alarms, waiting) = (of(Standing::Alarm), of(Standing::Waiting));
        let standing = match (alarms.len(), waiting.len()) {
            (0, all) if all == self.sources.len() => Standing::Waiting,
            (0, _) => Standing::Normal,
            _ => Standing::Alarm,
        };
        let body = json!({
            "detector": self.name,
            "state": word(standing),
            "alarms": alarms,
            "waiting": waiting,
            "dropped": self.losses(),
            "time_s": unix_now(),
        });
        News::State { kind: KIND.into(), name: self.name.clone(), body: body.to_string() }
    }

    fn event(&self, source: usize, score: f64) -> String {
        let source = &self.sources[source];
        let body = json!({
            "kind": KIND,
            "detector": self.name,
            "topic": source.topic,
            "state": word(source.alarm.standing()),
            "score": score,
            "threshold": self.rule.threshold,
            "dropped": self.losses(),
            "time_s": unix_now(),
        });
        body.to_string()
    }

    fn losses(&self) -> Value {
        let mut told = self.dropped.told();
        told["windows_failed"] = json!(self.failed);
        told
    }
}

fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Waiting => "waiting",
        Standing::Normal => "normal",
        Standing::Alarm => "alarm",
    }
}
