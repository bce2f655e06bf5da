//! Faults and models as JSON.

use protocol::{ClassifierCard, Description, EmbedderCard, Fault, FaultCode, ModelCard};
use serde_json::{Value, json};

use crate::fields::EXTRA_FORBIDDEN;

/// What Mistral's service calls an unknown field.
const EXTRA_FORBIDDEN_KIND: &str = "extra_forbidden";

/// A fault in the one shape that the clients of both dialects parse.
///
/// Mistral's flat fields, OpenAI's nested `error`, and, on 422, the `detail` list that Mistral's
/// Python client reads.
pub fn fault_body(fault: &Fault) -> Value {
    let status = fault.code.status();
    let kind = kind_of(fault.code);
    let code = fault.code.name();
    let mut body = json!({
        "object": "error",
        "message": fault.message,
        "type": kind,
        "param": fault.param,
        "code": code,
        "raw_status_code": status,
        "error": {
            "message": fault.message,
            "type": kind,
            "param": fault.param,
            "code": code,
        },
    });
    if fault.code == FaultCode::InvalidField {
        let path = fault.param.as_deref().unwrap_or_default();
        let message = fault.message.strip_prefix(path).and_then(|rest| rest.strip_prefix(": "));
        let message = message.unwrap_or(&fault.message);
        let kind = if message == EXTRA_FORBIDDEN { EXTRA_FORBIDDEN_KIND } else { "value_error" };
        body["detail"] = json!([{ "type": kind, "loc": location(path), "msg": message }]);
    }
    body
}

/// The list of models.
pub fn models_body(d: &Description) -> Value {
    let models = d.models.iter().map(|card| model_body(card, &card.id));
    let classifiers = d.classifiers.iter().map(|card| classifier_body(d, card));
    let embedders = d.embedders.iter().map(embedder_body);
    let models: Vec<_> = models.chain(classifiers).chain(embedders).collect();
    json!({ "object": "list", "data": models })
}

/// A classifier as a model: it runs on the default one, and does nothing but classify.
pub fn classifier_body(d: &Description, card: &ClassifierCard) -> Value {
    let runs_on = d.models.first().cloned().unwrap_or_default();
    let mut body = model_body(&ModelCard { aliases: Vec::new(), ..runs_on }, &card.name);
    body["name"] = json!(card.name);
    let capabilities = &mut body["capabilities"];
    for other in ["completion_chat", "completion_fim", "function_calling"] {
        capabilities[other] = json!(false);
    }
    capabilities["classification"] = json!(true);
    body
}

/// An embedder as a model, which does nothing but make vectors.
pub fn embedder_body(card: &EmbedderCard) -> Value {
    let (created, context_tokens_max) = (card.created, card.context_tokens_max);
    let id = card.name.clone();
    let stated = ModelCard { id, created, context_tokens_max, ..ModelCard::default() };
    let mut body = model_body(&stated, &card.name);
    body["capabilities"]["completion_chat"] = json!(false);
    body["description"] = json!(format!("embeddings of {} numbers", card.dimensions));
    body["default_model_temperature"] = Value::Null;
    body
}

/// One model under the name `id`, which may be one of its aliases.
pub fn model_body(card: &ModelCard, id: &str) -> Value {
    json!({
        "id": id,
        "object": "model",
        "created": card.created,
        "owned_by": "mistralai",
        "root": card.id,
        "capabilities": {
            "completion_chat": true,
            "completion_fim": card.fill,
            "function_calling": card.tools,
            "fine_tuning": false,
            "vision": false,
            "classification": false,
            "moderation": false,
            "ocr": false,
            "audio": false,
        },
        "name": card.id,
        "description": null,
        "max_context_length": card.context_tokens_max,
        "aliases": card.aliases,
        "deprecation": null,
        "deprecation_replacement_model": null,
        "default_model_temperature": short(card.default_temperature),
        "type": "base",
    })
}

/// `0.7` and not `0.699999988079071`, which is how f64 spells the f32 nearest to it.
pub(crate) fn short(number: f32) -> Value {
    number.to_string().parse().map_or(Value::Null, Value::Number)
}

/// `messages[0].content` as `["body", "messages", 0, "content"]`.
fn location(path: &str) -> Vec<Value> {
    let steps = path.split(['.', '[']).filter(|step| !step.is_empty());
    let steps = steps.map(|step| match step.strip_suffix(']').map(str::parse::<u64>) {
        Some(Ok(index)) => Value::from(index),
        _ => Value::from(step),
    });
    std::iter::once(Value::from("body")).chain(steps).collect()
}

/// OpenAI's and Mistral's word for a class of errors; `code` is the one to program against.
fn kind_of(code: FaultCode) -> &'static str {
    match code {
        FaultCode::BadRequest
        | FaultCode::InvalidField
        | FaultCode::ContextLength
        | FaultCode::Unsupported
        | FaultCode::UnknownModel
        | FaultCode::NotFound
        | FaultCode::Conflict
        | FaultCode::TooLarge => "invalid_request_error",
        FaultCode::Unauthorized => "authentication_error",
        FaultCode::Forbidden => "permission_error",
        FaultCode::Deadline => "timeout_error",
        FaultCode::Busy | FaultCode::Unavailable | FaultCode::StorageFull => "overloaded_error",
        FaultCode::RateLimited => "rate_limited",
        FaultCode::Cancelled => "cancelled_error",
        FaultCode::Internal => "server_error",
    }
}
