//! A service that asks the model of an input which label fits: wording, calibration, judgement.
//!
//! A request to classify becomes a conversation: the instruction and the labels, which are the same
//! for all inputs and read once, then the input. The room behind gives the labels' probabilities.
//!
//! Calibration takes away what the model says without looking at the input: the log-probabilities
//! of the labels for inputs without content are subtracted before the rest is normalised. For a
//! configured classifier they are computed once and kept.
//! Source: Zhao et al. 2021, arXiv:2102.09690.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use firmware_config::{ClassifierConfig, TargetConfig};
use protocol::{
    ClassifierCard, Classify, Description, Encoded, Event, Fault, FaultCode, Format, Input,
    Message, ModelCard, Reply, Request, Sampling, Scores, Service, Task, TokenId, ToolChoice,
};

use crate::error::AssembleError;
use crate::relay::{Gone, Outlet, Relays};

/// Inputs that say nothing; their mean is what the model says without content.
const CONTENT_FREE: [&str; 2] = ["N/A", "[MASK]"];
/// What the model is told where nobody says what to decide.
const INSTRUCTION: &str = "Decide which label fits the following input.";

/// The logarithm of each label's share for inputs without content.
type Baseline = Arc<[f64]>;

/// A question of a configured classifier, by the places of both in the configuration.
type Place = (usize, usize);

/// Classifiers around a service.
pub(crate) struct Classifying {
    inner: Arc<dyn Service>,
    classifiers: Vec<ClassifierConfig>,
    /// One entry for each configured question at most.
    baselines: Arc<Mutex<HashMap<Place, Baseline>>>,
    relays: Relays,
}

/// What becomes of the scores that the room behind gives.
struct Judgement {
    baselines: Arc<Mutex<HashMap<Place, Baseline>>>,
    place: Option<Place>,
    known: Option<Baseline>,
    /// Answers for inputs without content, where these are not known yet.
    content_free: Vec<Reply>,
    temperature: f64,
    abstain_below: f64,
}

impl Classifying {
    /// Puts classifiers before `inner`; at most `requests_max` classifications at a time.
    ///
    /// Errors: a classifier that is named like a model.
    pub(crate) fn new(
        inner: Arc<dyn Service>,
        classifiers: Vec<ClassifierConfig>,
        requests_max: u32,
    ) -> Result<Self, AssembleError> {
        let names = |card: &ModelCard, name: &str| {
            name == "default" || card.id == name || card.aliases.iter().any(|alias| alias == name)
        };
        let models = inner.describe().models;
        let taken = |classifier: &&ClassifierConfig| {
            models.iter().any(|card| names(card, &classifier.name))
        };
        if let Some(ClassifierConfig { name, origin, .. }) = classifiers.iter().find(taken) {
            let message = format!("{origin}: a model is named {name:?}; rename the classifier");
            return Err(AssembleError::Configuration { message });
        }
        let relays = Relays::new("classifiers", requests_max);
        Ok(Self { inner, classifiers, baselines: Arc::default(), relays })
    }

    /// The question that a request means, in full, and its place where it is configured.
    fn question(&self, model: &str, asked: Classify) -> Result<(Classify, Option<Place>), Fault> {
        if !asked.labels.is_empty() || asked.target.is_empty() {
            return Ok((asked, None));
        }
        let found = self.classifiers.iter().position(|classifier| classifier.name == model);
        let place = found.and_then(|at| {
            let targets = &self.classifiers[at].targets;
            targets.iter().position(|target| target.name == asked.target).map(|of| (at, of))
        });
        let place = place.ok_or_else(|| {
            let message = "no such classifier; /v1/models lists them";
            Fault::new(FaultCode::UnknownModel, message).at("model")
        })?;
        Ok((configured(&self.classifiers[place.0].targets[place.1]), Some(place)))
    }

    fn classify(&self, mut request: Request, asked: Classify) -> Result<Reply, Fault> {
        let (classify, place) = self.question(&request.model, asked)?;
        if place.is_some() {
            request.model = String::new();
        }
        let seat = self.relays.seat()?;
        let id = request.id.clone();
        let known = place.and_then(|place| lock(&self.baselines).get(&place).cloned());
        let mut content_free = Vec::new();
        if classify.calibrate && known.is_none() {
            for text in CONTENT_FREE {
                let request = Request { input: Input::Text(text.into()), ..request.clone() };
                content_free.push(self.inner.submit(worded(request, &classify)?)?);
            }
        }
        let judgement = Judgement {
            baselines: Arc::clone(&self.baselines),
            place,
            known: known.filter(|_| classify.calibrate),
            content_free,
            temperature: classify.temperature,
            abstain_below: classify.abstain_below,
        };
        let answer = self.inner.submit(worded(request, &classify)?)?;
        seat.run(id, move |outlet| {
            // The reader is gone: there is nobody left to tell.
            let _gone = judgement.hand_on(answer, &outlet);
        })
    }
}

impl Service for Classifying {
    fn submit(&self, mut request: Request) -> Result<Reply, Fault> {
        match std::mem::take(&mut request.task) {
            Task::Generate => self.inner.submit(request),
            Task::Classify(asked) => self.classify(request, asked),
        }
    }

    fn describe(&self) -> Description {
        let card = |classifier: &ClassifierConfig| ClassifierCard {
            name: classifier.name.clone(),
            targets: classifier.targets.iter().map(|target| target.name.clone()).collect(),
        };
        let classifiers = self.classifiers.iter().map(card).collect();
        Description { classifiers, ..self.inner.describe() }
    }

    fn encode(&self, request: Request) -> Result<Encoded, Fault> {
        self.inner.encode(request)
    }

    fn decode(&self, model: &str, tokens: &[TokenId]) -> Result<String, Fault> {
        self.inner.decode(model, tokens)
    }
}

impl Judgement {
    fn hand_on(mut self, mut answer: Reply, outlet: &Outlet) -> Result<(), Gone> {
        let baseline = match self.baseline(outlet)? {
            Ok(baseline) => baseline,
            Err(fault) => return outlet.send(Event::Failed(fault), &answer),
        };
        while let Some(mut event) = outlet.next(&mut answer)? {
            if let Event::Scores(scores) = &mut event {
                self.judge(scores, baseline.as_deref());
            }
            let last = event.is_last();
            outlet.send(event, &answer)?;
            if last {
                break;
            }
        }
        Ok(())
    }

    /// What the labels get without content; `None` where nobody asks for it.
    fn baseline(&mut self, outlet: &Outlet) -> Result<Result<Option<Baseline>, Fault>, Gone> {
        let mut all = Vec::with_capacity(self.content_free.len());
        for mut reply in std::mem::take(&mut self.content_free) {
            while let Some(event) = outlet.next(&mut reply)? {
                match event {
                    Event::Scores(scores) => all.push(scores),
                    Event::Failed(fault) => return Ok(Err(fault)),
                    _ => {}
                }
            }
        }
        if all.is_empty() {
            return Ok(Ok(self.known.take()));
        }
        // A cancel ends an answer without scores; the answer itself then has none either.
        if all.len() < CONTENT_FREE.len() {
            return Ok(Ok(None));
        }
        let baseline = mean_log(&all);
        if let Some(place) = self.place {
            lock(&self.baselines).insert(place, Arc::clone(&baseline));
        }
        Ok(Ok(Some(baseline)))
    }

    fn judge(&self, scores: &mut Scores, baseline: Option<&[f64]>) {
        let logs: Vec<f64> = scores
            .labels
            .iter()
            .enumerate()
            .map(|(at, label)| {
                let without = baseline.and_then(|baseline| baseline.get(at)).unwrap_or(&0.0);
                (label.log_probability - without) / self.temperature
            })
            .collect();
        scores.share(&logs);
        scores.abstained = scores.best().is_none_or(|best| best.score < self.abstain_below);
    }
}

fn configured(target: &TargetConfig) -> Classify {
    Classify {
        labels: target.labels.clone(),
        target: target.name.clone(),
        instruction: target.instruction.clone(),
        calibrate: target.calibrate,
        temperature: target.temperature,
        abstain_below: target.abstain_below,
    }
}

/// The logarithm of each label's mean share.
fn mean_log(all: &[Scores]) -> Baseline {
    let labels = all.first().map_or(0, |scores| scores.labels.len());
    let mean = |at: usize| {
        all.iter().map(|scores| scores.labels[at].score).sum::<f64>() / all.len() as f64
    };
    // A share of 0 is a rounded one; it must not weigh for ever.
    (0..labels).map(|at| mean(at).max(f64::MIN_POSITIVE).ln()).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The request as the model reads it. Tokens stay as they are.
///
/// Errors: a text with a hole.
fn worded(mut request: Request, classify: &Classify) -> Result<Request, Fault> {
    let input = match &request.input {
        Input::Text(text) => Some(text.clone()),
        Input::Chat(messages) => Some(told(messages)),
        Input::Tokens(_) => None,
        Input::Fill { .. } => {
            return Err(Fault::bad_request("a text with a hole cannot be classified").at("input"));
        }
    };
    if let Some(text) = input {
        let system = format!(
            "{}\nAnswer with one of these labels and nothing else:\n{}",
            classify.instruction.as_deref().unwrap_or(INSTRUCTION),
            classify.labels.join("\n")
        );
        let system = Message::System { content: vec![system] };
        request.input = Input::Chat(vec![system, Message::User { content: vec![text] }]);
    }
    Ok(Request {
        task: Task::Classify(classify.clone()),
        sampling: Sampling::default(),
        format: Format::Free,
        tools: Vec::new(),
        tool_choice: ToolChoice::Auto,
        prediction: None,
        ..request
    })
}

/// A conversation as a text about which can be asked: a lone user's words as they are, else each
/// message behind its role.
pub(crate) fn told(messages: &[Message]) -> String {
    if let [Message::User { content }] = messages {
        return content.concat();
    }
    let line = |message: &Message| match message {
        Message::System { content } => format!("system: {}", content.concat()),
        Message::User { content } => format!("user: {}", content.concat()),
        Message::Assistant { content, tool_calls, .. } => {
            let calls = tool_calls.iter().map(|call| format!("{}({})", call.name, call.arguments));
            let said = content.iter().map(|content| content.concat());
            format!("assistant: {}", said.chain(calls).collect::<Vec<_>>().join(" "))
        }
        Message::Tool { content, .. } => format!("tool: {}", content.concat()),
    };
    messages.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
#[path = "classifying_tests.rs"]
mod tests;
