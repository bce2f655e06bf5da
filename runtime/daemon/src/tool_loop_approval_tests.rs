//! Calls that the client agrees to.

use super::*;

/// A box with one tool that needs approval, until it is taken out.
fn with_foreign(rounds: Rounds) -> (Arc<Scripted>, Arc<Guests>, ToolLoop) {
    let (scripted, _) = service(rounds);
    let foreign = Arc::new(Guests(Mutex::new(vec![Arc::from(Echo::boxed("open__door"))])));
    let inner = Arc::clone(&scripted) as Arc<dyn Service>;
    let boxes: Vec<Arc<dyn Toolbox>> = vec![Arc::clone(&foreign) as Arc<dyn Toolbox>];
    (scripted, foreign, ToolLoop::new(inner, vec![Echo::boxed("echo")], boxes, LIMITS))
}

/// A conversation that ends with these calls and these results of them.
fn ends_with(calls: Vec<ToolCall>, results: &[&str], approved: &[&str]) -> Request {
    let mut messages = vec![Message::User { content: vec!["ask".into()] }];
    messages.push(Message::Assistant { content: None, tool_calls: calls, prefix: false });
    messages.extend(results.iter().map(|id| Message::Tool {
        content: vec!["theirs".into()],
        call_id: Some((*id).to_owned()),
        name: None,
    }));
    let mut request = Request::new("r", Input::Chat(messages));
    request.approved_calls = approved.iter().map(|id| (*id).to_owned()).collect();
    request
}

fn call_as(id: &str, name: &str) -> ToolCall {
    ToolCall { id: id.into(), ..call(name, "{\"a\":1}") }
}

#[test]
fn tools_of_a_box_come_and_go_between_requests() {
    let (scripted, foreign, service) = with_foreign(vec![says("one"), says("two")]);
    drop(service.submit(chat()).unwrap());
    foreign.0.lock().unwrap().clear();
    drop(service.submit(chat()).unwrap());
    let requests = scripted.requests.lock().unwrap();
    let names = |at: usize| -> Vec<String> {
        requests[at].tools.iter().map(|tool| tool.name.clone()).collect()
    };
    assert_eq!(names(0), ["open__door", "echo"]);
    assert_eq!(names(1), ["echo"]);
}

#[test]
fn a_call_that_needs_approval_goes_to_the_client_with_those_beside_it() {
    let round = vec![
        accepted(),
        Event::ToolCall(call("echo", "{}")),
        Event::ToolCall(call("open__door", "{}")),
        finished(FinishReason::ToolCalls, 5, 2),
    ];
    let (scripted, _, service) = with_foreign(vec![Ok(round.clone())]);
    let mut reply = service.submit(chat()).unwrap();
    let events: Vec<Event> = std::iter::from_fn(|| reply.recv()).collect();
    assert_eq!(events, round);
    assert_eq!(scripted.requests.lock().unwrap().len(), 1);
}

#[test]
fn an_approved_call_is_run_and_the_answer_goes_on() {
    let calls = vec![call_as("aaaaaaaaa", "open__door"), call_as("bbbbbbbbb", "echo")];
    for choice in [ToolChoice::Auto, ToolChoice::None] {
        let (scripted, _, service) = with_foreign(vec![says("it is open")]);
        let request = Request {
            tool_choice: choice.clone(),
            ..ends_with(calls.clone(), &[], &["aaaaaaaaa"])
        };
        let mut reply = service.submit(request).unwrap();
        let events: Vec<Event> = std::iter::from_fn(|| reply.recv()).collect();
        assert_eq!(Ok(events), says("it is open"));
        let requests = scripted.requests.lock().unwrap();
        assert_eq!(results(&requests[0]), ["{\"a\":1}", "{\"a\":1}"]);
        assert_eq!((requests.len(), &requests[0].tool_choice), (1, &choice));
    }
}

#[test]
fn what_was_not_approved_is_told_to_the_model() {
    let calls = vec![call_as("aaaaaaaaa", "open__door"), call_as("bbbbbbbbb", "open__door")];
    let (scripted, _, service) = with_foreign(vec![says("one is open")]);
    let mut reply = service.submit(ends_with(calls, &[], &["bbbbbbbbb"])).unwrap();
    while reply.recv().is_some() {}
    let requests = scripted.requests.lock().unwrap();
    let refused = "{\"error\":\"the user did not approve this call\"}";
    assert_eq!(results(&requests[0]), [refused, "{\"a\":1}"]);
}

#[test]
fn an_approval_is_for_one_call_and_not_for_the_next() {
    let calls = vec![call_as("aaaaaaaaa", "open__door")];
    let again = Ok(vec![
        accepted(),
        Event::ToolCall(call_as("aaaaaaaaa", "open__door")),
        finished(FinishReason::ToolCalls, 5, 2),
    ]);
    let (scripted, _, service) = with_foreign(vec![again.clone()]);
    let mut reply = service.submit(ends_with(calls, &[], &["aaaaaaaaa"])).unwrap();
    let events: Vec<Event> = std::iter::from_fn(|| reply.recv()).collect();
    assert_eq!(Ok(events), again);
    assert_eq!(scripted.requests.lock().unwrap().len(), 1);
}

#[test]
fn approvals_that_fit_no_open_call_are_refused() {
    let door = || vec![call_as("aaaaaaaaa", "open__door")];
    let both = vec![call_as("aaaaaaaaa", "open__door"), call_as("bbbbbbbbb", "theirs")];
    let mut plain = chat();
    plain.approved_calls = vec!["aaaaaaaaa".into()];
    let clients =
        Request { tools: vec![spec("open__door")], ..ends_with(door(), &[], &["aaaaaaaaa"]) };
    for request in [
        ends_with(door(), &[], &["ccccccccc"]),
        ends_with(door(), &["aaaaaaaaa"], &["aaaaaaaaa"]),
        ends_with(both.clone(), &[], &["aaaaaaaaa"]),
        ends_with(vec![call_as("aaaaaaaaa", "gone__tool")], &[], &["aaaaaaaaa"]),
        clients,
        plain,
    ] {
        let (_, _, service) = with_foreign(Vec::new());
        let fault = service.submit(request).unwrap_err();
        assert_eq!(fault.code, FaultCode::BadRequest);
        assert_eq!(fault.param.as_deref(), Some("ext.approved_calls"));
    }
    // With the result of the client's own function beside it, it is run.
    let (scripted, _, service) = with_foreign(vec![says("open")]);
    let mut reply = service.submit(ends_with(both, &["bbbbbbbbb"], &["aaaaaaaaa"])).unwrap();
    while reply.recv().is_some() {}
    assert_eq!(results(&scripted.requests.lock().unwrap()[0]), ["theirs", "{\"a\":1}"]);
}

#[test]
fn an_approved_call_whose_answer_is_refused_fails() {
    let refused = Err(Fault::new(FaultCode::ContextLength, "too long"));
    let (_, _, service) = with_foreign(vec![refused]);
    let calls = vec![call_as("aaaaaaaaa", "open__door")];
    let mut reply = service.submit(ends_with(calls, &[], &["aaaaaaaaa"])).unwrap();
    let last = reply.recv();
    assert!(matches!(last, Some(Event::Failed(fault)) if fault.code == FaultCode::ContextLength));
}
