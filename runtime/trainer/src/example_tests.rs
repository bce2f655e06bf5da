use serde_json::{Map, json};

use super::*;
use crate::lessons::{Call, Sort, Teacher, Wish};
use crate::{learn, vocabulary};

fn codec() -> Codec {
    learn::codec(&vocabulary::learn(&Teacher::new().unwrap(), 700, 3).unwrap()).unwrap()
}

fn tool(name: &str, description: &str) -> ToolSpec {
    let parameters = json!({"type": "object", "properties": {"name": {"type": "string"}},
                            "required": ["name"]});
    ToolSpec { name: name.into(), description: description.into(), parameters, strict: false }
}

/// The texts of an answer's tokens that are of this source.
fn said(example: &Example, source: Source, codec: &Codec) -> String {
    let answer = example.tokens[example.answer..].iter().zip(&example.sources);
    let of_source = answer.filter(|(_, of)| **of == source);
    of_source.map(|(token, _)| codec.tokenizer().decode(&[*token])).collect()
}

#[test]
fn what_the_rules_write_is_no_choice() {
    let codec = codec();
    let arguments: Map<_, _> = [("name".to_owned(), json!("well"))].into_iter().collect();
    let lesson = Lesson {
        topics: Topics { tools: vec![3, 4], calls: vec![3], wanted: Some(3) },
        sort: Sort::One,
        asked: "Open the well.".into(),
        language: "en".into(),
        messages: vec![Message::User { content: vec!["Open the well.".into()] }],
        tools: vec![tool("open_valve", "Opens a valve."), tool("open_gate", "Opens a gate.")],
        answer: Answer::Calls(vec![Call { name: "open_valve".into(), arguments }]),
    };
    let example = Example::new(&lesson, &codec).unwrap();
    assert_eq!(example.sources.len(), example.tokens.len() - example.answer);
    assert!(!example.allowed.is_empty());
    let tokens = example.tokens.iter().map(|token| codec.tokenizer().decode(&[*token]));
    let tokens: Vec<String> = tokens.collect();
    for (at, few) in &example.allowed {
        assert!(few.contains(&example.tokens[example.answer + at].0) && few.len() <= FEW);
        assert_eq!(example.sources[*at], Source::Answer);
    }
    let chosen = said(&example, Source::Answer, &codec);
    let forced = said(&example, Source::Forced, &codec);
    assert!(forced.contains("open") && forced.contains("arguments"), "{forced:?}");
    assert!(!chosen.contains("open") && !chosen.contains("arguments"), "{chosen:?}");
    assert!(chosen.contains("well") && !forced.contains("well"), "{chosen:?}, {forced:?}");

    let told = example.topics.iter().map(|(at, topic)| (tokens[*at].as_str(), *topic));
    let told: Vec<(&str, u8)> = told.collect();
    assert_eq!(told[..3], [("parameters", 3), ("parameters", 4), ("", 3)], "{told:?}");
    assert_eq!(example.topics[2].0, example.answer - 1);
    assert_eq!(told[3].1, 3);
    assert!(told[3].0.contains("name"), "{told:?}");

    let lookups = Example::lookups(&lesson, 2, &codec).unwrap();
    let chosen: Vec<String> =
        lookups.iter().map(|example| said(example, Source::Lookup, &codec)).collect();
    assert!(chosen[0].contains('v') && chosen[1].contains('g'), "{chosen:?}");
    assert!(lookups.iter().all(|example| !example.reads));
}

#[test]
fn every_lesson_keeps_to_the_rules_of_serving() {
    let (teacher, codec) = (Teacher::new().unwrap(), codec());
    let mut dice = Dice::new(17);
    for lesson in (0..60).flat_map(|_| teacher.group(4, &Wish::TAUGHT, &mut dice)) {
        let example = Example::new(&lesson, &codec).unwrap();
        assert!(example.sources.contains(&Source::Answer), "{lesson:?}");
    }
}

#[test]
fn the_rows_of_a_batch_say_what_comes_next() {
    let (teacher, codec) = (Teacher::new().unwrap(), codec());
    let lessons = teacher.group(4, &Wish::TAUGHT, &mut Dice::new(5));
    let mut examples: Vec<Example> =
        lessons.iter().map(|lesson| Example::new(lesson, &codec).unwrap()).collect();
    examples.extend(Example::lookups(&lessons[0], 2, &codec).unwrap());
    let mut packed = Packed::default();
    packed.add(&examples);
    assert_eq!(packed.count().iter().sum::<usize>(), packed.targets.len());
    assert!(packed.allowed.iter().all(|(row, few)| few.contains(&packed.targets[*row])));
    for (example, rows) in examples.iter().zip(&packed.rows) {
        let wanted: Vec<u32> =
            example.tokens[example.answer..].iter().map(|token| token.0).collect();
        assert_eq!(packed.targets[rows.clone()], wanted);
        assert_eq!(packed.sources[rows.clone()], example.sources);
    }
}
