//! Bodies of `/v1/classifications` and `/v1/chat/classifications`, and their answers.

use protocol::{
    Classify, Description, Event, Fault, FaultCode, Input, Limits, Request, RequestId, Scores,
    Task, Usage,
};
use serde_json::{Map, Value, json};

use crate::ext::{Ext, read_ext};
use crate::fields::{Fields, Notes, Strictness, invalid, wrong_type};
use crate::json::parse_json;
use crate::messages::{MESSAGES_MAX, read_messages};
use crate::settings::{deadline, read_model};

/// Most inputs of one request.
pub const INPUTS_MAX: usize = 64;

/// What the answer calls the question of a request that brings its own labels.
const OWN_TARGET: &str = "label";

/// Fields that bring a question along, where the model is no classifier.
const OWN_FIELDS: &[&str] = &["labels", "instruction", "calibrate", "temperature", "abstain_below"];

/// What the inputs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputKind {
    /// Texts.
    Text,
    /// Conversations.
    Chat,
}

/// One body: a question, or several, about each of its inputs.
#[derive(Debug, Clone)]
pub struct Classification {
    /// What to ask: all questions of the first input, then those of the next.
    pub requests: Vec<Request>,
    /// Paths of fields that were sent and have no effect.
    pub ignored: Vec<String>,
    id: String,
    model: String,
    targets: Vec<String>,
    decided: Vec<Scores>,
    usage: Usage,
}

/// Reads a body. `description` says which classifiers there are.
///
/// Errors: as [`parse_chat`](crate::parse_chat); `UnknownModel` for a name that nothing has.
pub fn parse_classification(
    body: &[u8],
    id: RequestId,
    kind: InputKind,
    strictness: Strictness,
    description: &Description,
) -> Result<Classification, Fault> {
    let value = parse_json(body)?;
    let body = Fields::of(&value, "")?;
    let mut notes = Notes::new(strictness);
    body.only(&[&["model", "input", "metadata", "ext"], OWN_FIELDS].concat(), &mut notes)?;
    let model = read_model(&body, &notes)?;
    let (targets, tasks) = questions(&body, &model, description)?;
    let ext = body.object("ext")?.as_ref().map_or_else(|| Ok(Ext::default()), read_ext)?;
    let limits = Limits { deadline: deadline(&ext), priority: ext.priority, ..Limits::default() };
    let inputs = read_inputs(&body, kind, &mut notes)?;
    let mut requests = Vec::with_capacity(inputs.len() * tasks.len());
    for (index, input) in inputs.into_iter().enumerate() {
        for (target, task) in tasks.iter().enumerate() {
            let number = index * tasks.len() + target;
            requests.push(Request {
                model: model.clone(),
                task: Task::Classify(task.clone()),
                limits: limits.clone(),
                ..Request::new(format!("{id}-{number}"), input.clone())
            });
        }
    }
    let ignored = notes.ignored;
    let (id, decided, usage) = (id.0, Vec::with_capacity(requests.len()), Usage::default());
    Ok(Classification { requests, ignored, id, model, targets, decided, usage })
}

impl Classification {
    /// Takes in the next event of the next request that is not decided; whether that one is over.
    ///
    /// Errors: the fault that ended it.
    pub fn push(&mut self, event: Event) -> Result<bool, Fault> {
        match event {
            Event::Accepted { model, .. } if self.model.is_empty() => self.model = model,
            Event::Scores(scores) => self.decided.push(scores),
            Event::Finished { usage, .. } => {
                let sum = &mut self.usage;
                sum.prompt_tokens = sum.prompt_tokens.saturating_add(usage.prompt_tokens);
                sum.cached_tokens = sum.cached_tokens.saturating_add(usage.cached_tokens);
                sum.completion_tokens =
                    sum.completion_tokens.saturating_add(usage.completion_tokens);
                return Ok(true);
            }
            Event::Failed(fault) => return Err(fault),
            Event::Accepted { .. } | Event::Reused(_) | Event::Text { .. } | Event::ToolCall(_) => {
            }
        }
        Ok(false)
    }

    /// The whole answer.
    ///
    /// Errors: `Internal` where some request ended without scores.
    pub fn body(&self) -> Result<Value, Fault> {
        if self.decided.len() != self.requests.len() {
            let message = "a classification ended without scores; send the request again";
            return Err(Fault::new(FaultCode::Internal, message));
        }
        let results = self.decided.chunks(self.targets.len().max(1)).map(|decided| {
            let named = self.targets.iter().zip(decided);
            Value::Object(named.map(|(name, scores)| (name.clone(), told(scores))).collect())
        });
        let Usage { prompt_tokens, completion_tokens, cached_tokens, .. } = self.usage;
        Ok(json!({
            "id": self.id,
            "model": self.model,
            "results": results.collect::<Vec<_>>(),
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": u64::from(prompt_tokens) + u64::from(completion_tokens),
                "prompt_tokens_details": {"cached_tokens": cached_tokens},
            },
        }))
    }
}

fn told(scores: &Scores) -> Value {
    let shares = scores.labels.iter().map(|label| (label.label.clone(), json!(label.score)));
    let best = scores.best().filter(|_| !scores.abstained).map(|best| &best.label);
    json!({
        "scores": shares.collect::<Map<_, _>>(),
        "label": best,
        "abstained": scores.abstained,
    })
}

/// What is asked of each input: by a classifier's name, or by the body's own labels.
fn questions(
    body: &Fields<'_>,
    model: &str,
    description: &Description,
) -> Result<(Vec<String>, Vec<Classify>), Fault> {
    let own = OWN_FIELDS.iter().find(|name| body.value(name).is_some());
    let classifier = description.classifiers.iter().find(|card| card.name == model);
    match (classifier, own) {
        (Some(_), Some(name)) => {
            Err(invalid("this model is a classifier and has it by its configuration", *name))
        }
        (Some(card), None) => {
            let asked =
                |target: &String| Classify { target: target.clone(), ..Classify::new(Vec::new()) };
            Ok((card.targets.clone(), card.targets.iter().map(asked).collect()))
        }
        (None, _) => {
            let is_model = |card: &protocol::ModelCard| {
                card.id == model || card.aliases.iter().any(|alias| alias == model)
            };
            if !model.is_empty() && !description.models.iter().any(is_model) {
                let message = "no such model or classifier; /v1/models lists them";
                return Err(Fault::new(FaultCode::UnknownModel, message).at("model"));
            }
            Ok((vec![OWN_TARGET.to_owned()], vec![own_question(body)?]))
        }
    }
}

fn own_question(body: &Fields<'_>) -> Result<Classify, Fault> {
    let Some(labels) = body.list("labels", Classify::LABELS_MAX)? else {
        let message = "field required: this model is no configured classifier";
        return Err(invalid(message, "labels"));
    };
    let label = |(index, label): (usize, &Value)| match label {
        Value::String(text) => Ok(text.clone()),
        other => Err(wrong_type(other, "a string", format!("labels[{index}]"))),
    };
    let labels = labels.iter().enumerate().map(label).collect::<Result<_, _>>()?;
    Ok(Classify {
        instruction: body.string("instruction")?.map(str::to_owned),
        calibrate: body.flag("calibrate")?.unwrap_or(false),
        temperature: body.number("temperature", 0.01..=100.0)?.unwrap_or(1.0).into(),
        abstain_below: body.number("abstain_below", 0.0..=1.0)?.unwrap_or(0.0).into(),
        ..Classify::new(labels)
    })
}

fn read_inputs(body: &Fields<'_>, kind: InputKind, notes: &mut Notes) -> Result<Vec<Input>, Fault> {
    let items = match body.value("input") {
        None => return Err(body.missing("input")),
        Some(Value::Array(_)) => body.list("input", INPUTS_MAX)?.unwrap_or_default(),
        Some(one) => return Ok(vec![read_input(one, "input".to_owned(), kind, notes)?]),
    };
    if items.is_empty() {
        return Err(invalid("must not be empty", "input"));
    }
    let numbered = items.iter().enumerate();
    numbered.map(|(at, item)| read_input(item, format!("input[{at}]"), kind, notes)).collect()
}

fn read_input(
    value: &Value,
    path: String,
    kind: InputKind,
    notes: &mut Notes,
) -> Result<Input, Fault> {
    match (kind, value) {
        (InputKind::Text, Value::String(text)) => Ok(Input::Text(text.clone())),
        (InputKind::Text, other) => Err(wrong_type(other, "a string", path)),
        (InputKind::Chat, value) => {
            let chat = Fields::of(value, path.clone())?;
            chat.only(&["messages"], notes)?;
            let messages = chat.list("messages", MESSAGES_MAX)?.unwrap_or_default();
            if messages.is_empty() {
                return Err(chat.missing("messages"));
            }
            Ok(Input::Chat(read_messages(messages, notes)?))
        }
    }
}
