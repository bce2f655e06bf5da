//! A filter that refuses what a classifier beside the model recognises.
//!
//! It reads what users and tools say, to the end of each text, before the model does.

use std::sync::Arc;

use protocol::{Event, Fault, FaultCode, Filter, Request};
use serde_json::{Map, Value};

use crate::judging::said;
use crate::networks::Networks;

/// What configuration calls it.
pub(crate) const KIND: &str = "classifier";
/// Most texts of a request that are looked at; a longer conversation is refused.
const TEXTS_MAX: usize = 256;

/// What the filter is told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GuardSettings {
    classifier: String,
    labels: Vec<String>,
    threshold: f64,
    /// Lets a request pass that the classifier could not judge.
    fails_open: bool,
}

/// The filter.
pub(crate) struct Guard {
    networks: Arc<Networks>,
    settings: GuardSettings,
}

impl GuardSettings {
    /// Reads the settings of the profile.
    ///
    /// Errors: what is missing, unknown, or of a wrong type or range.
    pub(crate) fn read(settings: &Map<String, Value>) -> Result<Self, String> {
        let known = ["classifier", "labels", "threshold", "fail"];
        if let Some(unknown) = settings.keys().find(|key| !known.contains(&key.as_str())) {
            let unknown: String = unknown.chars().take(64).flat_map(char::escape_debug).collect();
            return Err(format!("unknown setting {unknown}; there are {}", known.join(", ")));
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let classifier = settings.get("classifier").and_then(text);
        let labels = settings.get("labels").and_then(Value::as_array);
        let labels: Option<Vec<String>> = labels.and_then(|list| list.iter().map(text).collect());
        let threshold = settings.get("threshold").map_or(Some(0.5), Value::as_f64);
        let fail = settings.get("fail").map_or(Some("closed"), Value::as_str);
        Ok(Self {
            classifier: classifier.ok_or("set classifier to the name of an [[onnx]] network")?,
            labels: labels
                .filter(|labels| !labels.is_empty())
                .ok_or("set labels to the labels that are refused")?,
            threshold: threshold
                .filter(|threshold| (0.0..=1.0).contains(threshold))
                .ok_or("threshold is a number from 0 to 1")?,
            fails_open: match fail {
                Some("closed") => false,
                Some("open") => true,
                _ => return Err("fail is \"closed\" or \"open\"".to_owned()),
            },
        })
    }
}

impl Guard {
    /// Errors: a classifier that is not there, and labels that it does not have.
    pub(crate) fn new(
        networks: Option<&Arc<Networks>>,
        settings: GuardSettings,
    ) -> Result<Self, String> {
        let name = &settings.classifier;
        let found = networks.and_then(|networks| Some((networks, networks.classifier(name)?)));
        let Some((networks, classifier)) = found else {
            return Err(format!("no [[onnx]] network with the role classifier is named {name:?}"));
        };
        if let Some(label) =
            settings.labels.iter().find(|label| !classifier.labels().contains(label))
        {
            return Err(format!("{label:?} is no label of {name:?}"));
        }
        Ok(Self { networks: Arc::clone(networks), settings })
    }

    /// Whether any text reaches the threshold.
    fn recognises(&self, request: &Request) -> Result<bool, Fault> {
        let texts = said(&request.input);
        if texts.len() > TEXTS_MAX {
            let message = format!("at most {TEXTS_MAX} messages can be looked at");
            return Err(Fault::new(FaultCode::ContextLength, message));
        }
        let name = &self.settings.classifier;
        let unknown = || Fault::new(FaultCode::Internal, "the classifier is gone");
        let classifier = self.networks.classifier(name).ok_or_else(unknown)?;
        let deadline = request.limits.deadline;
        let judged = self.networks.judge(classifier, deadline, texts)?;
        let is_refused = |(label, score): (&String, &f64)| {
            *score >= self.settings.threshold && self.settings.labels.contains(label)
        };
        Ok(judged
            .iter()
            .any(|judged| classifier.labels().iter().zip(&judged.greatest).any(is_refused)))
    }
}

impl Filter for Guard {
    fn name(&self) -> &str {
        KIND
    }

    fn on_request(&self, request: &mut Request) -> Result<(), Fault> {
        match self.recognises(request) {
            Ok(false) => Ok(()),
            Ok(true) => {
                let message = format!("the classifier {} refuses it", self.settings.classifier);
                Err(Fault::new(FaultCode::Forbidden, message))
            }
            Err(fault) if self.settings.fails_open => {
                tracing::warn!(code = %fault.code, "a text passes that could not be classified");
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }

    fn on_event(&self, _event: &mut Event) -> Result<(), Fault> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(settings: Value, expected: Result<f64, &str>) {
        let Value::Object(settings) = settings else { panic!("settings are an object") };
        let found = GuardSettings::read(&settings).map(|settings| settings.threshold);
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    #[test]
    fn settings_are_checked() {
        check(json!({"classifier": "g", "labels": ["x"]}), Ok(0.5));
        check(
            json!({"classifier": "g", "labels": ["x"], "threshold": 0.9, "fail": "open"}),
            Ok(0.9),
        );
        check(json!({"labels": ["x"]}), Err("set classifier to the name of an [[onnx]] network"));
        check(json!({"classifier": "g"}), Err("set labels to the labels that are refused"));
        check(
            json!({"classifier": "g", "labels": ["x"], "threshold": 2}),
            Err("threshold is a number from 0 to 1"),
        );
        check(
            json!({"classifier": "g", "labels": ["x"], "fail": "soft"}),
            Err("fail is \"closed\" or \"open\""),
        );
        check(
            json!({"classifier": "g", "label": "x"}),
            Err("unknown setting label; there are classifier, labels, threshold, fail"),
        );
    }
}
