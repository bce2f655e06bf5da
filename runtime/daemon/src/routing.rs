//! A service that decides before the model: a small network recognises what a request wants, and an
//! answer, a refusal or the model follows.

use std::sync::Arc;

use firmware_config::{RouteAction, RouteConfig, RouterConfig};
use onnx::Embedder;
use protocol::{
    Allowance, Description, EmbedRequest, Embeddings, Encoded, Event, Fault, FaultCode,
    FinishReason, Format, Input, Message, ModelCard, ModerateRequest, Moderations, Reply, Request,
    Service, Task, TokenId, ToolChoice, Usage, reply_pair,
};

use crate::error::AssembleError;
use crate::networks::Networks;

/// Events of an answer: accepted, text, finished.
const EVENTS_MAX: usize = 3;
/// A longer text is none of the short wishes that routes are for, and goes to the model unread.
const TEXT_BYTES_MAX: usize = 4096;

/// Routes before a service.
pub(crate) struct Routing {
    inner: Arc<dyn Service>,
    routes: Vec<RouteConfig>,
    threshold: f64,
    recognise: Box<Recognise>,
}

/// The best label of a text and its score; `None` where the text is too long for one.
type Recognise = dyn Fn(&Request, &str) -> Result<Option<(String, f64)>, Fault> + Send + Sync;

impl Routing {
    /// Puts the router of `config` before `inner`.
    ///
    /// Errors: a network that is not there, labels that it does not have, vectors without examples.
    /// Threads: blocks until the examples are read.
    pub(crate) fn new(
        inner: Arc<dyn Service>,
        networks: Option<&Arc<Networks>>,
        config: &RouterConfig,
    ) -> Result<Self, AssembleError> {
        let recognise = recogniser(networks, config).map_err(|message| {
            let message = format!("{}: router: {message}", config.origin);
            AssembleError::Configuration { message }
        })?;
        let (routes, threshold) = (config.routes.clone(), config.threshold);
        Ok(Self { inner, routes, threshold, recognise })
    }

    /// What follows from what the request wants; the model where nothing is sure.
    fn action(&self, request: &Request) -> &RouteAction {
        let Some(text) = wish(request) else { return &RouteAction::Model };
        let (label, score) = match (self.recognise)(request, text) {
            Ok(Some(found)) => found,
            Ok(None) => return &RouteAction::Model,
            Err(fault) => {
                tracing::warn!(code = %fault.code, "the router could not look at a request");
                return &RouteAction::Model;
            }
        };
        let route = self.routes.iter().find(|route| route.label == label);
        match route.filter(|_| score >= self.threshold) {
            Some(route) => {
                tracing::debug!(label, score, "routed");
                &route.action
            }
            None => &RouteAction::Model,
        }
    }

    /// The answer in the place of the model's, or `None` where only the model can do as asked.
    fn answer(&self, request: &Request, answer: &str) -> Option<Result<Reply, Fault>> {
        let description = self.inner.describe();
        let names = |card: &&ModelCard| {
            let name = request.model.as_str();
            ["", "default", card.id.as_str()].contains(&name)
                || card.aliases.iter().any(|alias| alias == name)
        };
        // What no model is named like is refused where models are known.
        let model = description.models.iter().find(names)?.id.clone();
        let tokens = match self.tokens(request, answer) {
            Ok(tokens) => tokens,
            Err(fault) => return Some(Err(fault)),
        };
        let (prompt_tokens, completion_tokens) = tokens;
        if !suits(request, answer, completion_tokens) {
            return None;
        }
        let usage = Usage {
            prompt_tokens,
            completion_tokens,
            // None of them cost a step of the model.
            forced_tokens: completion_tokens,
            ..Usage::default()
        };
        let (sink, reply) = reply_pair(request.id.clone(), EVENTS_MAX);
        let id = request.id.clone();
        let accepted = Event::Accepted { id, model, prompt_tokens, cached_tokens: 0 };
        let finished = Event::Finished { reason: FinishReason::Stop, usage };
        for event in [accepted, Event::text(answer, completion_tokens), finished] {
            // The queue holds them all, and its reader is in our hand.
            let _sent = sink.send(event);
        }
        Some(Ok(reply))
    }

    /// Tokens of the prompt as the model would read it, and of the answer.
    fn tokens(&self, request: &Request, answer: &str) -> Result<(u32, u32), Fault> {
        let count = |request: Request| -> Result<u32, Fault> {
            let encoded = self.inner.encode(request)?;
            Ok(u32::try_from(encoded.tokens.len()).unwrap_or(u32::MAX))
        };
        let prompt = count(request.clone())?;
        let text = |text: &str| Request {
            model: request.model.clone(),
            tool_choice: ToolChoice::None,
            ..Request::new("answer", Input::Text(text.to_owned()))
        };
        // What stands in front of any text is no part of an answer.
        let front = count(text(""))?;
        Ok((prompt, count(text(answer))?.saturating_sub(front)))
    }
}

impl Service for Routing {
    fn submit(&self, request: Request) -> Result<Reply, Fault> {
        match self.action(&request) {
            RouteAction::Model => self.inner.submit(request),
            RouteAction::Refuse(why) => Err(Fault::new(FaultCode::Forbidden, why.clone())),
            RouteAction::Answer(answer) => match self.answer(&request, answer) {
                Some(reply) => reply,
                None => self.inner.submit(request),
            },
        }
    }

    fn describe(&self) -> Description {
        self.inner.describe()
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
        self.inner.moderate(request)
    }

    fn admits(&self, client: Option<&str>, requests: u32, at_once: u32) -> Result<(), Fault> {
        self.inner.admits(client, requests, at_once)
    }

    fn allowance(&self, client: Option<&str>) -> Option<Allowance> {
        self.inner.allowance(client)
    }
}

/// What the user wants last, where a route may decide over it.
fn wish(request: &Request) -> Option<&str> {
    if request.task != Task::Generate || !request.approved_calls.is_empty() {
        return None;
    }
    let Input::Chat(messages) = &request.input else { return None };
    match messages.last()? {
        // Several chunks are no short wish.
        Message::User { content } => match &content[..] {
            [text] if text.len() <= TEXT_BYTES_MAX => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a fixed answer is what the request asks for: of its shape, and not longer or shorter.
fn suits(request: &Request, answer: &str, tokens: u32) -> bool {
    let limits = &request.limits;
    request.format == Format::Free
        && request.tools.is_empty()
        && request.sampling.logprobs.is_none()
        && !request.explains_reuse
        && limits.min_tokens <= tokens
        && limits.max_tokens.is_none_or(|most| tokens <= most)
        && !limits.stop.iter().any(|stop| answer.contains(stop.as_str()))
}

fn recogniser(
    networks: Option<&Arc<Networks>>,
    config: &RouterConfig,
) -> Result<Box<Recognise>, String> {
    let name = &config.network;
    let unknown = || format!("no [[onnx]] classifier or embedding is named {name:?}");
    let networks = Arc::clone(networks.ok_or_else(unknown)?);
    if let Some(classifier) = networks.classifier(name) {
        let known = |route: &&RouteConfig| !classifier.labels().contains(&route.label);
        if let Some(route) = config.routes.iter().find(known) {
            return Err(format!("{:?} is no label of {name:?}", route.label));
        }
        if config.routes.iter().any(|route| !route.examples.is_empty()) {
            return Err(format!("{name:?} is a classifier, which needs no examples"));
        }
        let name = name.clone();
        return Ok(Box::new(move |request, text| by_labels(&networks, &name, request, text)));
    }
    let embedder = networks.embedders.iter().find(|(known, _)| known == name);
    let embedder = Arc::clone(&embedder.ok_or_else(unknown)?.1);
    let examples = examples(&networks, &embedder, config)?;
    Ok(Box::new(move |request, text| by_examples(&networks, &embedder, &examples, request, text)))
}

fn by_labels(
    networks: &Networks,
    name: &str,
    request: &Request,
    text: &str,
) -> Result<Option<(String, f64)>, Fault> {
    let gone = || Fault::new(FaultCode::Internal, "the classifier is gone");
    let classifier = networks.classifier(name).ok_or_else(gone)?;
    let judged = networks.judge(classifier, request.limits.deadline, vec![text.to_owned()])?;
    let scored = judged.first().map(|judged| classifier.labels().iter().zip(&judged.mean));
    let best = scored.and_then(|scored| scored.max_by(|a, b| a.1.total_cmp(b.1)));
    Ok(best.map(|(label, score)| (label.clone(), *score)))
}

/// The vector of each example, in unit length, with its label.
type Examples = Vec<(String, Vec<f32>)>;

fn examples(
    networks: &Networks,
    embedder: &Arc<Embedder>,
    config: &RouterConfig,
) -> Result<Examples, String> {
    let mut examples = Vec::new();
    for route in &config.routes {
        if route.examples.is_empty() {
            let (label, name) = (&route.label, &config.network);
            return Err(format!("{label:?} needs examples, because {name:?} makes vectors"));
        }
        let worker = Arc::clone(embedder);
        let vectors = networks
            .each(None, route.examples.clone(), move |text: String| worker.embed(&text))
            .map_err(|fault| format!("an example of {:?}: {fault}", route.label))?;
        examples.extend(vectors.into_iter().map(|one| (route.label.clone(), unit(one.vector))));
    }
    Ok(examples)
}

fn by_examples(
    networks: &Networks,
    embedder: &Arc<Embedder>,
    examples: &Examples,
    request: &Request,
    text: &str,
) -> Result<Option<(String, f64)>, Fault> {
    let worker = Arc::clone(embedder);
    let texts = vec![text.to_owned()];
    let found =
        networks.each(request.limits.deadline, texts, move |text: String| worker.embed(&text))?;
    // Whose end was not read may want something else there.
    let Some(one) = found.into_iter().next().filter(|one| !one.is_truncated) else {
        return Ok(None);
    };
    let vector = unit(one.vector);
    let near = |(label, example): &(String, Vec<f32>)| {
        let product = |(a, b): (&f32, &f32)| f64::from(*a) * f64::from(*b);
        (label.clone(), vector.iter().zip(example).map(product).sum::<f64>())
    };
    Ok(examples.iter().map(near).max_by(|a, b| a.1.total_cmp(&b.1)))
}

fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|number| *number = (f64::from(*number) / length) as f32);
    }
    vector
}

#[cfg(test)]
mod tests {
    use protocol::Load;

    use super::*;

    /// A model that says so, and has one token for each character and one in front.
    struct Model;

    impl Service for Model {
        fn submit(&self, request: Request) -> Result<Reply, Fault> {
            let (sink, reply) = reply_pair(request.id, 2);
            sink.send(Event::text("the model", 2));
            let usage = Usage::default();
            sink.send(Event::Finished { reason: FinishReason::Stop, usage });
            Ok(reply)
        }

        fn describe(&self) -> Description {
            let card = ModelCard { id: "tiny".into(), ..ModelCard::default() };
            Description { models: vec![card], load: Load::default(), ..Description::default() }
        }

        fn encode(&self, request: Request) -> Result<Encoded, Fault> {
            let characters = match &request.input {
                Input::Text(text) => text.len(),
                Input::Chat(_) => 10,
                _ => 0,
            };
            Ok(Encoded { tokens: vec![TokenId(1); 1 + characters], ..Encoded::default() })
        }
    }

    fn routing() -> Routing {
        let route =
            |label: &str, action| RouteConfig { label: label.into(), examples: Vec::new(), action };
        Routing {
            inner: Arc::new(Model),
            routes: vec![
                route("greeting", RouteAction::Answer("Hello!".into())),
                route("attack", RouteAction::Refuse("Not here.".into())),
                route("other", RouteAction::Model),
            ],
            threshold: 0.8,
            recognise: Box::new(|_, text| match text.split_once(' ') {
                Some((label, score)) => Ok(score.parse().ok().map(|score| (label.into(), score))),
                None => Err(Fault::new(FaultCode::Busy, "full")),
            }),
        }
    }

    fn user(text: &str) -> Request {
        let content = vec![text.to_owned()];
        Request::new("r", Input::Chat(vec![Message::User { content }]))
    }

    fn events(request: Request) -> Vec<Event> {
        let mut reply = routing().submit(request).unwrap();
        std::iter::from_fn(|| reply.recv()).collect()
    }

    fn by_model(request: Request) -> bool {
        events(request).first() == Some(&Event::text("the model", 2))
    }

    #[test]
    fn a_sure_label_answers_as_the_model_would() {
        let usage =
            Usage { prompt_tokens: 11, completion_tokens: 6, forced_tokens: 6, ..Usage::default() };
        let model = "tiny".to_owned();
        let id = protocol::RequestId("r".into());
        let expected = [
            Event::Accepted { id, model, prompt_tokens: 11, cached_tokens: 0 },
            Event::text("Hello!", 6),
            Event::Finished { reason: FinishReason::Stop, usage },
        ];
        assert_eq!(events(user("greeting 0.8")), expected);
        let refused = routing().submit(user("attack 0.9")).err().unwrap();
        assert_eq!((refused.code, refused.message.as_str()), (FaultCode::Forbidden, "Not here."));
    }

    #[test]
    fn what_is_not_sure_is_the_models() {
        for text in ["greeting 0.79", "attack 0.1", "other 1", "unknown 1", "nothing x", "failed"] {
            assert!(by_model(user(text)), "{text}");
        }
    }

    #[test]
    fn only_a_short_wish_of_the_user_is_looked_at() {
        assert!(by_model(user(&format!("greeting 1{}", "0".repeat(TEXT_BYTES_MAX)))));
        assert!(by_model(Request::new("r", Input::Text("greeting 1".into()))));
        let mut request = user("greeting 1");
        let Input::Chat(messages) = &mut request.input else { panic!("a conversation") };
        let said = Some(vec!["so".to_owned()]);
        messages.push(Message::Assistant { content: said, tool_calls: Vec::new(), prefix: true });
        assert!(by_model(request));
    }

    #[test]
    fn what_a_fixed_answer_cannot_do_is_the_models() {
        let changed = |change: fn(&mut Request)| {
            let mut request = user("greeting 1");
            change(&mut request);
            by_model(request)
        };
        assert!(!changed(|request| request.limits.max_tokens = Some(6)));
        assert!(changed(|request| request.limits.max_tokens = Some(5)));
        assert!(changed(|request| request.limits.min_tokens = 7));
        assert!(changed(|request| request.limits.stop = vec!["lo".into()]));
        assert!(changed(|request| request.format = Format::JsonObject));
        assert!(changed(|request| request.sampling.logprobs = Some(0)));
        assert!(changed(|request| request.model = "another".into()));
        assert!(!changed(|request| request.model = "tiny".into()));
    }
}
