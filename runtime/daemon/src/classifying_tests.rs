use std::time::Duration;

use firmware_config::Origin;
use protocol::{FinishReason, Usage, reply_pair};

use super::*;

/// A model that likes a label the more, the more often the input has its first letter, and likes
/// `b` whatever it reads.
#[derive(Default)]
struct Letters {
    requests: Mutex<Vec<Request>>,
}

impl Service for Letters {
    fn submit(&self, request: Request) -> Result<Reply, Fault> {
        lock(&self.requests).push(request.clone());
        let (sink, reply) = reply_pair(request.id.clone(), 8);
        let (Task::Classify(Classify { labels, .. }), Input::Chat(messages)) =
            (&request.task, &request.input)
        else {
            panic!("not a classification of a conversation: {request:?}");
        };
        let Some(Message::User { content }) = messages.last() else { panic!("no user") };
        let text = content.concat();
        let log = |label: &String| {
            let liked = if label == "b" { 3.0 } else { 0.0 };
            text.matches(&label[..1]).count() as f64 + liked - 9.0
        };
        let scores = Scores::of_logs(labels.iter().map(|label| (label.clone(), log(label))));
        sink.send(Event::Scores(scores));
        let usage = Usage::default();
        sink.send(Event::Finished { reason: FinishReason::Stop, usage });
        Ok(reply)
    }

    fn describe(&self) -> Description {
        let card = ModelCard { id: "letters".into(), ..ModelCard::default() };
        Description { models: vec![card], ..Description::default() }
    }
}

fn target(name: &str, calibrate: bool, abstain_below: f64) -> TargetConfig {
    TargetConfig {
        name: name.into(),
        labels: vec!["a".into(), "b".into()],
        instruction: Some("Which letter?".into()),
        abstain_below,
        temperature: 1.0,
        calibrate,
    }
}

fn classifying(name: &str) -> Result<(Arc<Letters>, Classifying), AssembleError> {
    let letters = Arc::new(Letters::default());
    let targets = vec![target("plain", false, 0.0), target("fair", true, 0.9)];
    let config = ClassifierConfig { name: name.into(), targets, origin: Origin::Default };
    let inner = Arc::clone(&letters) as Arc<dyn Service>;
    Ok((letters, Classifying::new(inner, vec![config], 4)?))
}

fn scores(
    service: &Classifying,
    model: &str,
    asked: Classify,
    text: &str,
) -> Result<Scores, Fault> {
    let request = Request {
        model: model.into(),
        task: Task::Classify(asked),
        ..Request::new("r", Input::Text(text.into()))
    };
    let mut reply = service.submit(request)?;
    let mut found = None;
    while let Ok(Some(event)) = reply.recv_timeout(Duration::from_secs(10)) {
        match event {
            Event::Scores(scores) => found = Some(scores),
            Event::Failed(fault) => return Err(fault),
            _ => {}
        }
    }
    Ok(found.expect("scores come before the end"))
}

fn of_target(target: &str) -> Classify {
    Classify { target: target.into(), ..Classify::new(Vec::new()) }
}

/// The first label's score for so many more points than the second's.
fn share(points: f64) -> f64 {
    1.0 / (1.0 + (-points).exp())
}

#[test]
fn calibration_takes_away_what_the_model_says_without_content() {
    let (letters, service) = classifying("letter").unwrap();
    let plain = scores(&service, "letter", of_target("plain"), "aab").unwrap();
    assert!((plain.labels[0].score - share(1.0 - 3.0)).abs() < 1e-12, "{plain:?}");
    let fair = scores(&service, "letter", of_target("fair"), "aaaa").unwrap();
    assert!((fair.labels[0].score - share(4.0)).abs() < 1e-12, "{fair:?}");
    assert!(!fair.abstained);
    let unsure = scores(&service, "letter", of_target("fair"), "ab").unwrap();
    assert!((unsure.labels[0].score - 0.5).abs() < 1e-12 && unsure.abstained, "{unsure:?}");
    // Two without content, once.
    assert_eq!(lock(&letters.requests).len(), 1 + 3 + 1);
}

#[test]
fn a_request_brings_its_own_question_to_a_plain_model() {
    let (letters, service) = classifying("letter").unwrap();
    let labels: Vec<String> = vec!["a".into(), "c".into()];
    let asked = Classify { temperature: 2.0, ..Classify::new(labels) };
    let found = scores(&service, "letters", asked, "ccc a").unwrap();
    assert!((found.labels[1].score - share(2.0 / 2.0)).abs() < 1e-12, "{found:?}");
    let requests = lock(&letters.requests);
    assert_eq!(requests[0].model, "letters");
    let Input::Chat(messages) = &requests[0].input else { panic!("it is a conversation") };
    let expected =
        format!("{INSTRUCTION}\nAnswer with one of these labels and nothing else:\na\nc");
    assert_eq!(messages[0], Message::System { content: vec![expected] });
}

#[test]
fn names_that_are_unknown_or_taken_are_refused() {
    let (_letters, service) = classifying("letter").unwrap();
    for (model, target) in [("other", "plain"), ("letter", "none"), ("letters", "plain")] {
        let fault = scores(&service, model, of_target(target), "a").unwrap_err();
        assert_eq!(fault.code, FaultCode::UnknownModel);
    }
    assert!(classifying("letters").is_err());
    assert!(classifying("default").is_err());
    assert_eq!(service.describe().classifiers[0].targets, ["plain", "fair"]);
}

#[test]
fn a_conversation_is_told_with_its_roles() {
    let user = |text: &str| Message::User { content: vec![text.into()] };
    assert_eq!(told(&[user("on")]), "on");
    let content = Some(vec!["yes".into()]);
    let answer = Message::Assistant { content, tool_calls: Vec::new(), prefix: false };
    assert_eq!(told(&[user("on?"), answer]), "user: on?\nassistant: yes");
}
