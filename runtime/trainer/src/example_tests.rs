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
        topics: Topics {
            tools: vec![3, 4],
            calls: vec![3],
            wanted: Some(3),
            lacks: Some(8),
            values: vec![Meaning { text: "well".into(), is_said: true, topic: 9 }],
            deeds: Vec::new(),
            parameters: Vec::new(),
        },
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
    assert_eq!(told[..2], [("parameters", 3), ("parameters", 4)], "{told:?}");
    assert!(told[2].1 == 9 && "well".starts_with(told[2].0), "{told:?}");
    assert_eq!(example.topics[3], (example.answer - 2, 8));
    assert_eq!(example.topics[4], (example.answer - 1, 3));
    assert_eq!(told[5].1, 3);
    assert!(told[5].0.contains("name"), "{told:?}");
    let (before, topic) = *example.topics.last().unwrap();
    assert_eq!(topic, 9);
    assert_eq!(tokens[before + 1], told[2].0, "{told:?}");

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

#[test]
fn what_values_mean_is_told_in_calls_wishes_and_lists() {
    let codec = codec();
    let teacher = Teacher::new().unwrap();
    let mut dice = Dice::new(8);
    let (mut values, mut said, mut deeds, mut parameters, mut found) = (0, 0, 0, 0, [0; 4]);
    for lesson in (0..60).flat_map(|_| teacher.group(3, &Wish::TAUGHT, &mut dice)) {
        let example = Example::new(&lesson, &codec).unwrap();
        values += lesson.topics.values.len();
        said += lesson.topics.values.iter().filter(|value| value.is_said).count();
        deeds += 2 * lesson.topics.deeds.len();
        parameters += lesson.topics.parameters.iter().map(Vec::len).sum::<usize>();
        let [start, end] = ["[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"].map(|mark| {
            let mark = codec.tokenizer().control(mark);
            example.tokens.iter().position(|token| Some(*token) == mark).unwrap_or(0)
        });
        for (at, topic) in &example.topics {
            let (is_called, topic) = (*at >= example.answer - 1, usize::from(*topic));
            let is_deed = topic + 2 >= Topics::OF_VALUES;
            let part = match (start..end).contains(at) {
                true => 2 + usize::from(is_deed),
                false => usize::from(!is_called),
            };
            found[part] += usize::from(topic < Topics::OF_VALUES);
        }
    }
    assert!(found[0] == values, "{} of {values}", found[0]);
    // Times and decimals are said otherwise than they are called.
    assert!(found[1] as f64 > 0.85 * said as f64, "{} of {said}", found[1]);
    assert!(found[2] == parameters, "{} of {parameters}", found[2]);
    assert!(found[3] == deeds, "{} of {deeds}", found[3]);
}
