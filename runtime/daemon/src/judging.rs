//! A service that tells texts apart by small networks beside the model.

use std::sync::Arc;

use firmware_config::{OnnxConfig, OnnxRole};
use onnx::Judged;
use protocol::{
    ClassifierCard, Classify, Description, EmbedRequest, Embeddings, Encoded, Event, Fault,
    FaultCode, FinishReason, Input, LabelScore, Message, ModerateRequest, Moderations, Reply,
    Request, Scores, Service, Task, TokenId, Usage, reply_pair,
};

use crate::classifying::told;
use crate::error::AssembleError;
use crate::networks::{Classifier, Networks, refuse_taken_names};

/// What answers call the question that a network decides.
const TARGET: &str = "label";
/// Events of an answer: accepted, scores, finished.
const EVENTS_MAX: usize = 3;

/// Classifiers beside a service.
pub(crate) struct Judging {
    inner: Arc<dyn Service>,
    networks: Arc<Networks>,
}

impl Judging {
    /// Puts the classifiers of `networks` beside `inner`.
    ///
    /// Errors: one that is named like a model or another classifier; `configs` says where.
    pub(crate) fn new(
        inner: Arc<dyn Service>,
        networks: Arc<Networks>,
        configs: &[OnnxConfig],
    ) -> Result<Self, AssembleError> {
        let ours =
            configs.iter().filter(|config| matches!(config.role, OnnxRole::Classifier { .. }));
        refuse_taken_names(ours, &inner.describe())?;
        Ok(Self { inner, networks })
    }

    /// Scores one input while the caller waits.
    fn classify(&self, classifier: &Classifier, request: &Request) -> Result<Reply, Fault> {
        let deadline = request.limits.deadline;
        let text = text_of(&request.input)?;
        let judged = self.networks.judge(classifier, deadline, vec![text])?;
        let judged = judged.into_iter().next().expect("one text has one verdict");
        let usage = Usage { prompt_tokens: judged.tokens, ..Usage::default() };
        let (sink, reply) = reply_pair(request.id.clone(), EVENTS_MAX);
        let (id, model) = (request.id.clone(), classifier.name.clone());
        let accepted =
            Event::Accepted { id, model, prompt_tokens: judged.tokens, cached_tokens: 0 };
        let finished = Event::Finished { reason: FinishReason::Stop, usage };
        for event in [accepted, Event::Scores(scores(classifier, &judged)), finished] {
            // The queue holds them all, and its reader is in our hand.
            let _sent = sink.send(event);
        }
        Ok(reply)
    }

    fn moderator(&self, model: &str) -> Result<&Classifier, Fault> {
        let mut moderators =
            self.networks.classifiers.iter().filter(|known| !known.categories.is_empty());
        let found = match model {
            "" => moderators.next(),
            name => moderators.find(|known| known.name == name),
        };
        found.ok_or_else(|| {
            let message = "no such classifier, or it has no categories";
            Fault::new(FaultCode::UnknownModel, message).at("model")
        })
    }
}

impl Service for Judging {
    fn submit(&self, request: Request) -> Result<Reply, Fault> {
        match &request.task {
            Task::Classify(Classify { labels, target, .. })
                if labels.is_empty() && target == TARGET =>
            {
                match self.networks.classifier(&request.model) {
                    Some(classifier) => self.classify(classifier, &request),
                    None => self.inner.submit(request),
                }
            }
            _ => self.inner.submit(request),
        }
    }

    fn describe(&self) -> Description {
        let mut description = self.inner.describe();
        let card = |classifier: &Classifier| ClassifierCard {
            name: classifier.name.clone(),
            targets: vec![TARGET.to_owned()],
        };
        description.classifiers.extend(self.networks.classifiers.iter().map(card));
        description
    }

    fn encode(&self, request: Request) -> Result<Encoded, Fault> {
        self.inner.encode(request)
    }

    fn decode(&self, model: &str, tokens: &[TokenId]) -> Result<String, Fault> {
        self.inner.decode(model, tokens)
    }

    fn embed(&self, request: EmbedRequest) -> Result<Embeddings, Fault> {
        self.inner.embed(request)
    }

    fn moderate(&self, request: ModerateRequest) -> Result<Moderations, Fault> {
        let classifier = self.moderator(&request.model)?;
        let texts = request.inputs.iter().map(text_of).collect::<Result<_, _>>()?;
        let judged = self.networks.judge(classifier, request.deadline, texts)?;
        Ok(Moderations {
            model: classifier.name.clone(),
            results: judged.iter().map(|judged| classifier.categories(judged)).collect(),
            prompt_tokens: judged.iter().map(|judged| judged.tokens).sum(),
        })
    }
}

fn scores(classifier: &Classifier, judged: &Judged) -> Scores {
    let scored = classifier.labels().iter().zip(&judged.mean);
    let labels = scored.map(|(label, score)| LabelScore {
        label: label.clone(),
        log_probability: score.max(f64::MIN_POSITIVE).ln(),
        score: *score,
    });
    let mut scores = Scores { labels: labels.collect(), abstained: false };
    scores.abstained = scores.best().is_none_or(|best| best.score < classifier.abstain_below);
    scores
}

/// The input as one text: a conversation as its messages behind their roles.
pub(crate) fn text_of(input: &Input) -> Result<String, Fault> {
    match input {
        Input::Text(text) => Ok(text.clone()),
        Input::Chat(messages) => Ok(told(messages)),
        Input::Tokens(_) | Input::Fill { .. } => {
            Err(Fault::bad_request("only texts and conversations can be judged").at("input"))
        }
    }
}

/// What somebody said, message by message: what the model itself wrote, and what the operator
/// tells it, is not looked at.
pub(crate) fn said(input: &Input) -> Vec<String> {
    match input {
        Input::Text(text) => vec![text.clone()],
        Input::Fill { prefix, suffix } => std::iter::once(prefix).chain(suffix).cloned().collect(),
        Input::Tokens(_) => Vec::new(),
        Input::Chat(messages) => {
            let content = |message: &Message| match message {
                Message::User { content } | Message::Tool { content, .. } => Some(content.concat()),
                Message::System { .. } | Message::Assistant { .. } => None,
            };
            messages.iter().filter_map(content).collect()
        }
    }
}
