//! Against a real mosquitto, with its own clients.

mod stage;

use std::time::{Duration, Instant};

use mqtt_transport::MqttVersion;
use protocol::{Event, Fault, FaultCode, FinishReason, Likelihood, TokenId, TokenLogprob};
use stage::{CLIENT, Ear, Mosquitto, NODE, Node, Wire, answer_of, ask, config, say};

const HELLO: &str = r#"{"messages":[{"role":"user","content":"hello"}],"stream":true}"#;

macro_rules! mosquitto {
    () => {
        match Mosquitto::start() {
            Some(broker) => broker,
            None => return,
        }
    };
}

fn request(rid: &str) -> String {
    format!("{NODE}/chat/request/plc7/{rid}")
}

fn body(ext: &str) -> String {
    format!(r#"{{"messages":[{{"role":"user","content":"hello"}}],"ext":{{{ext}}}}}"#)
}

/// Request, accepted, deltas, final: `client` is the version of the test's own clients.
fn streams_over(client: &str, node: MqttVersion) {
    let broker = mosquitto!();
    let mut config = config(broker.port);
    config.version = node;
    let node = Node::start(config);
    let ear = Ear::on(broker.port, client, &[&format!("{CLIENT}/plc7/reply/+")]);
    say(broker.port, client, &request("17"), HELLO, &[]);
    let asked = node.asked();
    assert_eq!(asked.request.client.as_deref(), Some("plc7"));
    let accepted = ear.next();
    assert_eq!((accepted.status(), accepted.qos), (202, 1));
    assert_eq!(accepted.ext()["id"], "17");
    asked.accept();
    asked.text("Hel");
    let first = ear.next();
    assert_eq!((first.text().as_str(), first.qos), ("Hel", 0));
    assert_eq!(first.ext()["seq"], 1);
    asked.text("lo");
    let second = ear.next();
    assert_eq!((second.text().as_str(), second.ext()["seq"].as_u64()), ("lo", Some(2)));
    asked.finish();
    let last = ear.next();
    assert_eq!((last.status(), last.qos, last.text().as_str()), (200, 1, "Hello"));
    let ext = last.ext();
    assert_eq!((ext["seq"].as_u64(), ext["fin"].as_bool()), (Some(3), Some(true)));
    assert_eq!(ext["node"], "jet-03");
    assert_eq!(last.json()["usage"]["completion_tokens"], 2);
    assert_eq!(last.json()["choices"][0]["finish_reason"], "stop");
    assert!(!last.retained);
}

#[test]
fn an_answer_is_streamed_from_5_to_5() {
    streams_over("5", MqttVersion::V5);
}

#[test]
fn an_answer_is_streamed_from_5_to_311() {
    streams_over("311", MqttVersion::Auto);
}

#[test]
fn an_answer_is_streamed_from_311_to_311() {
    streams_over("311", MqttVersion::V311);
}

#[test]
fn an_answer_is_streamed_from_311_to_5() {
    streams_over("5", MqttVersion::V311);
}

#[test]
fn the_stock_requester_gets_the_whole_answer() {
    let broker = mosquitto!();
    let node = Node::start(config(broker.port));
    let plain = r#"{"messages":[{"role":"user","content":"hello"}]}"#;
    for (topic, data, id) in
        [(format!("{NODE}/chat/request"), "cd-1", "cd-1"), (request("18"), "cd-2", "18")]
    {
        let reply = format!("{CLIENT}/plc7/reply/rr");
        let named = ["-D", "publish", "correlation-data", data];
        let asking = ask(broker.port, &topic, &reply, plain, &named);
        node.asked().answer(&["It ", "works"]);
        let answer = answer_of(asking);
        assert_eq!(answer["choices"][0]["message"]["content"], "It works");
        assert_eq!(answer["ext"]["id"], id);
        assert_eq!(answer["ext"]["status"], 200);
    }
}

#[test]
fn properties_carry_what_the_payload_says() {
    let broker = mosquitto!();
    let node = Node::start(config(broker.port));
    let reply = format!("{CLIENT}/hmi/reply/x");
    let ear = Ear::on(broker.port, "5", &[&reply]);
    say(
        broker.port,
        "5",
        &format!("{NODE}/chat/request"),
        "just text",
        &[
            "-D",
            "publish",
            "response-topic",
            &reply,
            "-D",
            "publish",
            "correlation-data",
            "c7",
            "-D",
            "publish",
            "content-type",
            "text/plain; charset=utf-8",
            "-D",
            "publish",
            "user-property",
            "stream",
            "true",
            "-D",
            "publish",
            "message-expiry-interval",
            "5",
        ],
    );
    let asked = node.asked();
    let deadline = asked.request.limits.deadline.expect("a deadline");
    assert!(deadline <= Instant::now() + Duration::from_secs(5));
    assert_eq!(asked.request.client, None, "nobody vouches for a plain request");
    asked.answer(&["yes"]);
    let heard = [ear.next(), ear.next(), ear.next()];
    assert!(heard.iter().all(|heard| heard.correlation == "c7"), "{heard:?}");
    for (heard, wanted) in heard.iter().zip(["status:202", "seq:1", "status:200"]) {
        assert!(heard.properties.contains(wanted), "{heard:?}");
    }
    assert!(heard[2].properties.contains("fin:1") && heard[2].properties.contains("node:jet-03"));
}

#[test]
fn a_killed_broker_gets_the_final_when_it_is_back() {
    let mut broker = mosquitto!();
    let wire = Wire::to(broker.port, false);
    let node = Node::start(config(wire.port));
    say(broker.port, "311", &request("1"), HELLO, &[]);
    let asked = node.asked();
    asked.accept();
    asked.text("before ");
    broker.kill();
    node.offline();
    asked.text("during ");
    asked.text("after");
    asked.finish();
    // The killed broker forgot its clients: they subscribe again before the node comes back.
    wire.cut();
    broker.restart();
    let filters = [format!("{CLIENT}/plc7/reply/+"), format!("{NODE}/status")];
    let ear = Ear::on(broker.port, "311", &[&filters[0], &filters[1]]);
    wire.mend();
    node.online();
    let last = ear.next_where(|heard| heard.topic == filters[0].replace('+', "1"));
    let last =
        if last.status() == 202 { ear.next_where(|heard| heard.status() == 200) } else { last };
    assert_eq!(last.text(), "before during after");
    assert_eq!(ear.next_where(|heard| heard.topic == filters[1]).payload, "online");
    say(broker.port, "311", &request("2"), HELLO, &[]);
    node.asked().answer(&["again"]);
    let last = ear.next_where(|heard| heard.topic.ends_with("/2") && heard.status() == 200);
    assert_eq!(last.text(), "again");
}

#[test]
fn nobody_computes_for_a_broker_that_stays_away() {
    let broker = mosquitto!();
    let wire = Wire::to(broker.port, false);
    let mut config = config(wire.port);
    config.detach_grace = Duration::from_millis(100);
    let node = Node::start(config);
    say(broker.port, "311", &request("1"), HELLO, &[]);
    let asked = node.asked();
    assert!(!asked.sink.is_cancelled());
    wire.cut();
    stage::until("the answer is cancelled", || asked.sink.is_cancelled());
    asked.end(FinishReason::Cancelled);
}

#[test]
fn what_ends_while_the_line_is_cut_arrives_once_it_is_mended() {
    let broker = mosquitto!();
    for version in [MqttVersion::V5, MqttVersion::V311] {
        let wire = Wire::to(broker.port, false);
        let mut config = config(wire.port);
        config.version = version;
        let node = Node::start(config);
        let ear = Ear::on(broker.port, "311", &[&format!("{CLIENT}/plc7/reply/+")]);
        let rids: Vec<String> = (0..20).map(|index| format!("{version:?}-{index}")).collect();
        let asked: Vec<_> = rids
            .iter()
            .map(|rid| {
                say(broker.port, "311", &request(rid), HELLO, &[]);
                node.asked()
            })
            .collect();
        wire.cut();
        node.offline();
        for (asked, rid) in asked.iter().zip(&rids) {
            asked.answer(&[rid]);
        }
        wire.mend();
        for rid in &rids {
            let last = ear.next_where(|heard| heard.status() == 200);
            assert_eq!(last.ext()["id"], rid.as_str(), "in order, none missing, none twice");
            assert_eq!(last.text(), *rid);
        }
        assert_eq!(node.gauge.tally().replies_lost, 0);
    }
}

#[test]
fn the_broker_tells_of_a_node_that_died_and_the_node_of_its_leaving() {
    let broker = mosquitto!();
    let wire = Wire::to(broker.port, false);
    let mut node = Node::start(config(wire.port));
    let ear = Ear::on(broker.port, "5", &[&format!("{NODE}/status")]);
    assert_eq!(ear.next().payload, "online");
    wire.cut();
    assert_eq!(ear.next().payload, "offline", "the will");
    wire.mend();
    assert_eq!(ear.next().payload, "online");
    node.raise_stop();
    node.join();
    assert_eq!(ear.next().payload, "offline", "the goodbye");
    assert!(ear.is_silent_for(Duration::from_millis(300)), "the goodbye replaces the will");
    let late = Ear::on(broker.port, "311", &[&format!("{NODE}/status")]);
    let kept = late.next();
    assert_eq!((kept.payload.as_str(), kept.retained), ("offline", true));
}

#[test]
fn a_stopping_node_lets_answers_end_and_takes_no_new_ones() {
    let broker = mosquitto!();
    let mut node = Node::start(config(broker.port));
    let ear = Ear::on(broker.port, "311", &[&format!("{CLIENT}/plc7/reply/+")]);
    say(broker.port, "311", &request("1"), HELLO, &[]);
    let asked = node.asked();
    assert_eq!(ear.next().status(), 202);
    node.raise_stop();
    stage::until("new requests are refused", || {
        say(broker.port, "311", &request("2"), HELLO, &[]);
        let heard = ear.next();
        if heard.status() == 202 {
            node.asked().finish();
        }
        heard.status() == 503
    });
    asked.answer(&["ready"]);
    let last = ear.next_where(|heard| heard.status() == 200 && heard.ext()["id"] == "1");
    assert_eq!(last.text(), "ready");
    node.join();
}

#[test]
fn birth_and_state_are_kept_for_who_comes_later() {
    let broker = mosquitto!();
    let _node = Node::start(config(broker.port));
    let birth = Ear::on(broker.port, "311", &[&format!("{NODE}/birth")]).next();
    assert_eq!(birth.json()["models"][0]["id"], "tiny");
    assert_eq!(birth.json()["session_seq"], 1);
    assert_eq!(birth.json()["limits"]["request_bytes_max"], 256 << 10);
    let state = Ear::on(broker.port, "5", &[&format!("{NODE}/state")]).next();
    assert_eq!(state.json()["queue_requests_max"], 8);
}

#[test]
fn a_foreign_reply_topic_is_refused() {
    let broker = mosquitto!();
    let node = Node::start(config(broker.port));
    let ear = Ear::on(broker.port, "5", &["plc/#", &format!("{CLIENT}/#")]);
    let foreign = ["-D", "publish", "response-topic", "plc/valve/set"];
    say(broker.port, "5", &request("1"), HELLO, &foreign);
    let heard = ear.next();
    assert_eq!((heard.status(), heard.topic), (400, format!("{CLIENT}/plc7/reply/1")));
    let anothers = body(&format!(r#""reply_to":"{CLIENT}/plc8/reply/1""#));
    say(broker.port, "311", &request("2"), &anothers, &[]);
    let heard = ear.next();
    assert_eq!((heard.status(), heard.topic), (400, format!("{CLIENT}/plc7/reply/2")));
    say(broker.port, "5", &format!("{NODE}/chat/request"), HELLO, &foreign);
    say(broker.port, "311", &format!("{NODE}/chat/request"), HELLO, &[]);
    stage::until("both were dropped", || node.gauge.tally().unanswerable == 2);
    assert!(!node.was_asked());
    assert!(ear.is_silent_for(Duration::from_millis(100)));
}

#[test]
fn bad_requests_get_their_status_and_the_node_serves_on() {
    let broker = mosquitto!();
    let node = Node::start(config(broker.port));
    let ear = Ear::on(broker.port, "5", &[&format!("{CLIENT}/plc7/reply/+")]);
    let large = format!(r#"{{"messages":"{}"}}"#, "x".repeat(300 << 10));
    let deep = "[".repeat(5000);
    let cases: &[(&str, &str, &[&str], u64)] = &[
        ("not-json", "{", &[], 400),
        ("empty", "", &[], 400),
        ("no-messages", "{}", &[], 422),
        ("wrong-type", r#"{"messages":3}"#, &[], 422),
        ("strange-ext", &body(r#""color":1"#), &[], 422),
        ("many-answers", &HELLO.replace("true}", r#"true,"n":2}"#), &[], 400),
        ("deep", &deep, &[], 400),
        ("large", &large, &[], 413),
        ("cbor", "x", &["-D", "publish", "content-type", "application/cbor"], 400),
        ("future", HELLO, &["-D", "publish", "user-property", "proto", "9"], 400),
    ];
    for (rid, payload, more, status) in cases {
        say(broker.port, "5", &request(rid), payload, more);
        let heard = ear.next();
        let json = heard.json();
        assert_eq!(heard.status(), *status, "{rid}: {json}");
        assert_eq!(json["ext"]["id"], *rid);
        assert_eq!(json["ext"]["fin"], true);
        assert!(json["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{json}");
        assert!(json["error"]["code"].is_string() && json["error"]["type"].is_string(), "{json}");
    }
    assert_eq!(node.gauge.tally().refused, cases.len() as u64);
    assert!(!node.was_asked());
    say(broker.port, "5", &request("good"), HELLO, &[]);
    node.asked().answer(&["on"]);
    assert_eq!(ear.next_where(|heard| heard.status() == 200).text(), "on");
}

#[test]
fn a_retained_request_is_refused_and_not_run_at_every_connection() {
    let broker = mosquitto!();
    say(broker.port, "311", &request("r"), HELLO, &["-r"]);
    let ear = Ear::on(broker.port, "5", &[&format!("{CLIENT}/plc7/reply/+")]);
    let node = Node::start(config(broker.port));
    let heard = ear.next();
    assert_eq!(heard.status(), 400);
    assert!(heard.json()["error"]["message"].as_str().is_some_and(|m| m.contains("retain")));
    assert!(!node.was_asked());
}

#[test]
fn a_request_that_waited_at_the_broker_runs_only_with_an_expiry() {
    let broker = mosquitto!();
    let wire = Wire::to(broker.port, false);
    let node = Node::start(config(wire.port));
    let ear = Ear::on(broker.port, "5", &[&format!("{CLIENT}/plc7/reply/+")]);
    wire.cut();
    node.offline();
    say(broker.port, "311", &request("old"), HELLO, &[]);
    say(broker.port, "311", &request("timed"), &body(r#""ttl_s":60"#), &[]);
    wire.mend();
    let heard = ear.next();
    assert_eq!((heard.status(), heard.ext()["id"].as_str()), (408, Some("old")));
    let asked = node.asked();
    asked.answer(&["late"]);
    let last = ear.next_where(|heard| heard.status() == 200);
    assert_eq!(last.ext()["id"], "timed");
}

#[test]
fn a_cancel_ends_the_answer_with_what_it_has() {
    let broker = mosquitto!();
    let node = Node::start(config(broker.port));
    let ear = Ear::on(broker.port, "311", &[&format!("{CLIENT}/plc7/reply/+")]);
    say(broker.port, "311", &request("1"), HELLO, &[]);
    let asked = node.asked();
    asked.accept();
    asked.text("half");
    assert_eq!(ear.next_where(|heard| heard.status() == 0).text(), "half");
    say(broker.port, "311", &format!("{NODE}/chat/cancel/plc7/1"), "", &[]);
    stage::until("the engine hears of it", || asked.sink.is_cancelled());
    asked.end(FinishReason::Cancelled);
    let last = ear.next();
    assert_eq!((last.status(), last.text().as_str()), (499, "half"));
    assert_eq!(last.ext()["fin"], true);
}

#[test]
fn a_plain_request_is_cancelled_by_its_correlation() {
    let broker = mosquitto!();
    let node = Node::start(config(broker.port));
    let reply = format!("{CLIENT}/hmi/reply/1");
    let ear = Ear::on(broker.port, "5", &[&reply]);
    let named =
        ["-D", "publish", "response-topic", &reply, "-D", "publish", "correlation-data", "c9"];
    say(broker.port, "5", &format!("{NODE}/chat/request"), HELLO, &named);
    let asked = node.asked();
    say(broker.port, "5", &format!("{NODE}/chat/cancel"), "", &named);
    stage::until("the engine hears of it", || asked.sink.is_cancelled());
    asked.end(FinishReason::Cancelled);
    assert_eq!(ear.next_where(|heard| heard.status() != 202).status(), 499);
}

#[test]
fn a_cancel_may_overtake_its_request() {
    let broker = mosquitto!();
    let node = Node::start(config(broker.port));
    let ear = Ear::on(broker.port, "311", &[&format!("{CLIENT}/plc7/reply/+")]);
    say(broker.port, "311", &format!("{NODE}/chat/cancel/plc7/1"), "", &[]);
    say(broker.port, "311", &request("1"), HELLO, &[]);
    assert_eq!(ear.next().status(), 499);
    assert!(!node.was_asked());
}

#[test]
fn a_request_that_comes_twice_runs_once() {
    let broker = mosquitto!();
    let node = Node::start(config(broker.port));
    let ear = Ear::on(broker.port, "5", &[&format!("{CLIENT}/plc7/reply/+")]);
    say(broker.port, "5", &request("1"), HELLO, &[]);
    assert_eq!(ear.next().status(), 202);
    say(broker.port, "5", &request("1"), HELLO, &[]);
    assert_eq!(ear.next().status(), 202, "it runs");
    say(broker.port, "5", &request("1"), &body(""), &[]);
    assert_eq!(ear.next().status(), 409, "another body under the same id");
    node.asked().answer(&["once"]);
    assert_eq!(ear.next_where(|heard| heard.status() == 200).text(), "once");
    say(broker.port, "311", &request("1"), HELLO, &[]);
    let again = ear.next();
    assert_eq!((again.status(), again.text().as_str()), (200, "once"));
    assert!(!node.was_asked());
    assert_eq!(node.gauge.tally().accepted, 1);
}

#[test]
fn who_comes_to_a_full_house_is_told_when_to_come_back() {
    let broker = mosquitto!();
    let mut config = config(broker.port);
    config.queue_requests_max = 1;
    let node = Node::start(config);
    let ear = Ear::on(broker.port, "5", &[&format!("{CLIENT}/plc7/reply/+")]);
    say(broker.port, "5", &request("1"), HELLO, &[]);
    let asked = node.asked();
    assert_eq!(ear.next().status(), 202);
    say(broker.port, "5", &request("2"), HELLO, &[]);
    let busy = ear.next();
    assert_eq!(busy.status(), 429);
    assert!(busy.ext()["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0));
    assert!(busy.properties.contains("retry_after_ms:"));
    asked.answer(&["done"]);
    assert_eq!(ear.next_where(|heard| heard.status() == 200).text(), "done");
    let fault = Fault::new(FaultCode::Busy, "the engine's queue is full").retry_after_ms(1500);
    *node.service.refuses.lock().expect("not poisoned") = Some(fault);
    say(broker.port, "5", &request("2"), HELLO, &[]);
    let busy = ear.next();
    assert_eq!((busy.status(), busy.ext()["retry_after_ms"].as_u64()), (429, Some(1500)));
    *node.service.refuses.lock().expect("not poisoned") = None;
    say(broker.port, "5", &request("2"), HELLO, &[]);
    node.asked().answer(&["now"]);
    assert_eq!(ear.next_where(|heard| heard.status() == 200).text(), "now");
}

#[test]
fn small_clients_get_text_or_one_short_message() {
    let broker = mosquitto!();
    let node = Node::start(config(broker.port));
    let ear = Ear::on(broker.port, "311", &[&format!("{CLIENT}/plc7/reply/#")]);
    say(broker.port, "311", &request("1"), &body(r#""mode":"final","max_reply_bytes":4"#), &[]);
    node.asked().answer(&["naï", "ve"]);
    let last = ear.next();
    assert_eq!((last.status(), last.text().as_str()), (200, "naï"), "cut at a code point");
    assert_eq!(last.ext()["truncated"], true);
    say(broker.port, "311", &request("2"), &body(r#""mode":"text""#), &[]);
    let asked = node.asked();
    assert_eq!(ear.next().status(), 202);
    asked.answer(&["bare words"]);
    let text = ear.next();
    assert_eq!(
        (text.topic, text.payload),
        (format!("{CLIENT}/plc7/reply/2/t"), "bare words".into())
    );
    let end = ear.next();
    assert_eq!((end.status(), end.topic.clone()), (200, format!("{CLIENT}/plc7/reply/2/end")));
    assert_eq!(end.json()["choices"][0]["finish_reason"], "stop");
    assert!(!end.payload.contains("bare words"));
}

#[test]
fn an_answer_larger_than_a_message_is_cut_and_says_so() {
    let broker = mosquitto!();
    let mut config = config(broker.port);
    config.send_bytes_max = 4096;
    let node = Node::start(config);
    let ear = Ear::on(broker.port, "311", &[&format!("{CLIENT}/plc7/reply/+")]);
    say(broker.port, "311", &request("1"), &body(r#""mode":"final""#), &[]);
    node.asked().answer(&[&"é\"".repeat(5000)]);
    let last = ear.next();
    assert_eq!((last.status(), last.ext()["truncated"].as_bool()), (200, Some(true)));
    assert!((1000..=4096).contains(&last.payload.len()), "{}", last.payload.len());
}

#[test]
fn likelihoods_come_with_deltas_and_the_end_unless_they_make_them_too_long() {
    let broker = mosquitto!();
    for (bytes_max, fits) in [(4096, true), (1024, false)] {
        let mut config = config(broker.port);
        config.send_bytes_max = bytes_max;
        let node = Node::start(config);
        let ear = Ear::on(broker.port, "5", &[&format!("{CLIENT}/plc7/reply/+")]);
        let body = HELLO.replace("true}", r#"true,"logprobs":true,"top_logprobs":20}"#);
        say(broker.port, "5", &request("17"), &body, &[]);
        let asked = node.asked();
        asked.accept();
        let chosen =
            Likelihood { token: TokenId(7), text: "Hi".into(), bytes: None, logprob: -1.5 };
        let told = TokenLogprob { likeliest: vec![chosen.clone(); 20], chosen };
        let logprobs = vec![told.clone()];
        asked.send(Event::Text { text: "Hi".into(), tokens: 1, logprobs });
        asked.finish();
        let delta = ear.next_where(|heard| heard.status() != 202);
        let last = ear.next();
        for (heard, truncated) in [(&delta, false), (&last, !fits)] {
            assert_eq!(heard.text(), "Hi");
            let told = &heard.json()["choices"][0]["logprobs"]["content"][0];
            assert_eq!(told["top_logprobs"].as_array().map(Vec::len), fits.then_some(20));
            assert_eq!(heard.ext()["truncated"].as_bool().unwrap_or(false), truncated);
        }
    }
}

#[test]
fn a_broker_that_hangs_up_on_5_is_spoken_to_in_311() {
    let broker = mosquitto!();
    let wire = Wire::to(broker.port, true);
    let node = Node::start(config(wire.port));
    let birth = Ear::on(broker.port, "5", &[&format!("{NODE}/birth")]).next();
    assert_eq!(birth.json()["protocol"]["mqtt"], "3.1.1");
    drop(node);
}

#[test]
fn a_panic_in_the_service_costs_one_answer() {
    let broker = mosquitto!();
    let node = Node::start(config(broker.port));
    let ear = Ear::on(broker.port, "311", &[&format!("{CLIENT}/plc7/reply/+")]);
    let service = std::sync::Arc::clone(&node.service);
    let poisoning = std::thread::spawn(move || {
        let _held = service.refuses.lock().expect("not poisoned");
        panic!("the next submit panics");
    });
    assert!(poisoning.join().is_err());
    say(broker.port, "311", &request("1"), HELLO, &[]);
    assert_eq!(ear.next().status(), 500);
    node.service.refuses.clear_poison();
    say(broker.port, "311", &request("1"), HELLO, &[]);
    assert_eq!(ear.next().status(), 500, "one request has one end");
    say(broker.port, "311", &request("2"), HELLO, &[]);
    node.asked().answer(&["on"]);
    assert_eq!(ear.next_where(|heard| heard.status() == 200).text(), "on");
}
