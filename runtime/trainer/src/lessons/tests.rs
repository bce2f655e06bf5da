use std::collections::HashSet;

use protocol::ToolSpec;
use serde_json::{Map, Value, json};

use super::intents::{INTENTS, Slot};
use super::lacks::{LACKS, Lack};
use super::language::Noun;
use super::speaker::is_kept;
use super::{Answer, Call, Lesson, Narrow, Share, Shares, Sort, Teacher, Topics, Wish};
use crate::dice::Dice;

const SORTS: [Sort; 8] = [
    Sort::One,
    Sort::Several,
    Sort::Lack,
    Sort::Supplied,
    Sort::Report,
    Sort::NoTool,
    Sort::OffTopic,
    Sort::Talk,
];

fn lessons(shares: Shares, groups: usize, seed: u64) -> Vec<Lesson> {
    let teacher = Teacher::new().unwrap();
    let mut dice = Dice::new(seed);
    let wish = if shares == Shares::TAUGHT { Wish::TAUGHT } else { Wish::ASKED };
    let wish = Wish { shares, ..wish };
    (0..groups).flat_map(|_| teacher.group(6, &wish, &mut dice)).collect()
}

#[test]
fn every_language_has_a_wording_for_everything() {
    for language in &Teacher::new().unwrap().languages {
        let names: HashSet<&str> = language.intents.keys().map(String::as_str).collect();
        assert_eq!(names, INTENTS.iter().map(|intent| intent.name).collect(), "{}", language.code);
        for intent in &INTENTS {
            let wordings = &language.intents[intent.name];
            let taught: HashSet<&String> = wordings.say.iter().chain(&wordings.ask).collect();
            assert!(
                wordings.say.len() >= 6 && wordings.ask.len() >= 4 && !wordings.held.is_empty()
            );
            assert!(!wordings.acts.is_empty() && language.frames.len() >= 8);
            assert!(wordings.acts_to.is_empty() || language.frames_to.len() >= 4);
            assert!(wordings.held.iter().all(|held| !taught.contains(held)), "{}", intent.name);
            assert!(intent.things.is_none_or(|list| language.things.lists[list].len() >= 12));
        }
        for Lack { list, question, .. } in LACKS {
            let listed = list.map(|list| language.lacks[list].len());
            assert!(listed.is_none_or(|count| count >= 5), "{} {list:?}", language.code);
            assert!(language.questions[question][0].ends_with('?'), "{} {question}", language.code);
        }
    }
}

#[test]
fn every_language_can_leave_out_what_its_sentences_name() {
    let mut dice = Dice::new(9);
    for language in &Teacher::new().unwrap().languages {
        for lack in LACKS.iter().filter(|lack| lack.list.is_none()) {
            let intent = INTENTS.iter().find(|intent| intent.name == lack.intent).unwrap();
            let wordings = &language.intents[lack.intent];
            let made = |templates: &[&Vec<String>], dice: &mut Dice| -> HashSet<String> {
                let all = templates.iter().copied().flatten();
                all.filter_map(|text| language.vague.without(lack.slot, text, intent, dice))
                    .collect()
            };
            let taught = made(&[&wordings.say, &wordings.ask, &wordings.acts], &mut dice);
            let held = made(&[&wordings.held], &mut dice);
            let of = format!("{} {} {:?}", language.code, lack.intent, lack.slot);
            assert!(taught.len() >= 5, "{of}: {taught:?}");
            assert!(taught.is_disjoint(&held), "{of}");
            if let (Slot::Thing, Some(list)) = (lack.slot, intent.things) {
                let known = |noun: &Noun| {
                    language.things.lists[list].iter().any(|own| own.bare == noun.bare)
                };
                assert!(!language.vague.things[list].iter().any(known), "{of}");
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_lessons_and_every_sort_of_them() {
    let (once, again) = (lessons(Shares::TAUGHT, 300, 7), lessons(Shares::TAUGHT, 300, 7));
    let show = |lessons: &[Lesson]| format!("{lessons:?}");
    assert_eq!(show(&once), show(&again));
    assert_ne!(show(&once), show(&lessons(Shares::TAUGHT, 300, 8)));
    let seen: HashSet<Sort> = once.iter().map(|lesson| lesson.sort).collect();
    assert_eq!(seen, SORTS.into_iter().collect());
    let languages: HashSet<&str> = once.iter().map(|lesson| lesson.language.as_str()).collect();
    assert_eq!(languages.len(), 5);
}

#[test]
fn a_call_is_about_what_its_function_is_about() {
    let mut seen = HashSet::new();
    for Lesson { tools, answer, topics, sort, .. } in lessons(Shares::TAUGHT, 400, 3) {
        assert_eq!(topics.tools.len(), tools.len());
        let of =
            |name: &String| topics.tools[tools.iter().position(|tool| tool.name == *name).unwrap()];
        match &answer {
            Answer::Calls(calls) => {
                let wanted: Vec<u8> = calls.iter().map(|call| of(&call.name)).collect();
                assert_eq!(topics.calls, wanted);
                assert_eq!(topics.wanted, wanted.first().copied());
            }
            Answer::Text(_) => {
                // What a tool for another thing would do is of a kind that is there, and is not done.
                let has_kind = topics.wanted.is_some();
                assert_eq!(has_kind, sort == Sort::Lack || has_kind && sort == Sort::NoTool);
            }
        }
        seen.extend(topics.tools);
    }
    assert!(seen.len() > 24 && seen.iter().all(|topic| usize::from(*topic) < Topics::COUNT));
}

#[test]
fn a_mixed_noun_is_new_in_all_its_forms() {
    let mut dice = Dice::new(4);
    let (mut made, mut asked) = (0, 0);
    for language in &Teacher::new().unwrap().languages {
        for noun in &language.rooms {
            asked += 1;
            let Some(mixed) = noun.mixed(&language.rooms[0], &mut dice) else { continue };
            for form in ["the", "in", "of"] {
                let text = mixed.form(form).unwrap();
                assert!(text.is_empty() || text.contains(&mixed.bare), "{noun:?} {mixed:?}");
            }
            made += usize::from(mixed.bare != noun.bare);
        }
    }
    assert!(made > asked * 3 / 4, "{made} of {asked}");
}

#[test]
fn a_noun_takes_what_describes_another() {
    let languages = Teacher::new().unwrap().languages;
    let noun = |code: &str, list: &str, bare: &str| {
        let language = languages.iter().find(|language| language.code == code).unwrap();
        let noun = language.things.lists[list].iter().find(|noun| noun.bare == bare).unwrap();
        (noun.clone(), language.describes_before)
    };
    for (code, noun, other, the) in [
        (
            "en",
            noun("en", "switched", "kettle"),
            noun("en", "pumps", "well pump"),
            "the well kettle",
        ),
        (
            "it",
            noun("it", "pumps", "pompa di sentina"),
            noun("it", "pumps", "pompa del vuoto"),
            "la pompa di sentina del vuoto",
        ),
    ] {
        let described = noun.0.described(&other.0, noun.1).unwrap();
        assert_eq!(described.the, the, "{code}");
        assert!(described.is.contains(&described.bare), "{described:?}");
    }
    let (room, one) = (&languages[2].rooms[0], &languages[2].rooms[1]);
    assert!(room.described(one, false).is_none(), "nothing describes {one:?}");
    let renamed = room.renamed("dubo").unwrap();
    assert!(renamed.bare == "Dubo" && renamed.place.ends_with("Dubo"), "{renamed:?}");
}

#[test]
fn what_is_held_is_never_taught() {
    let taught: HashSet<String> =
        lessons(Shares::TAUGHT, 2000, 1).into_iter().map(|lesson| lesson.asked).collect();
    let talk = [Sort::OffTopic, Sort::Talk];
    for held in [
        Shares { wordings: Share::Held, ..Shares::TAUGHT },
        Shares { nouns: Share::Held, ..Shares::TAUGHT },
        Shares { tools: Share::Held, ..Shares::TAUGHT },
    ] {
        let tests = lessons(held, 300, 2);
        assert!(tests.len() > 1000);
        for lesson in &tests {
            // Talk about nothing is a closed list, and only its wordings are held.
            if talk.contains(&lesson.sort) && held.wordings == Share::Taught {
                continue;
            }
            assert!(!taught.contains(&lesson.asked), "{held:?}: {}", lesson.asked);
        }
    }
    assert!(taught.iter().filter(|sentence| is_kept(sentence)).count() < 60, "only talk is left");
}

/// The parameters of many tools, with their schemas.
fn parameters(unheard_of: f64) -> Vec<(String, Value)> {
    let teacher = Teacher::new().unwrap();
    let mut dice = Dice::new(4);
    let wish = Wish { unheard_of, ..Wish::TAUGHT };
    let lessons = (0..600).flat_map(|_| teacher.group(1, &wish, &mut dice));
    let tools = lessons.flat_map(|lesson| lesson.tools);
    tools.flat_map(|tool| tool.parameters["properties"].as_object().unwrap().clone()).collect()
}

#[test]
fn tests_ask_what_boxes_have_and_lessons_grow_harder() {
    let letters = |letter: char| !letter.is_ascii_alphabetic();
    let written = include_str!("../../data/tools.toml").to_lowercase();
    let known: HashSet<&str> = written.split(letters).collect();
    let invented = |unheard_of: f64| -> usize {
        let names = parameters(unheard_of).into_iter().map(|(name, _)| name);
        names.filter(|name| !name.split(letters).all(|word| known.contains(word))).count()
    };
    let [none, some, all] = [Wish::ASKED.unheard_of, 0.4, Wish::TAUGHT.unheard_of].map(invented);
    assert_eq!(none, 0);
    assert!(some > 100 && all > 2 * some, "{some} of {all}");
}

#[test]
fn a_number_that_has_the_name_of_something_else_is_told_and_no_test_has_any() {
    let misnamed = |unheard_of: f64| -> Vec<Value> {
        let is_number = |schema: &Value| schema["type"] == "integer" || schema["type"] == "number";
        let is_none = |name: &str| {
            let words =
                ["room", "area", "zone", "place", "message", "text", "device", "lamp", "pump"];
            words.contains(&name) || ["valve", "door", "mode", "alarm", "person"].contains(&name)
        };
        let all = parameters(unheard_of).into_iter();
        let wrong = all.filter(|(name, schema)| is_none(name) && is_number(schema));
        wrong.map(|(_, schema)| schema).collect()
    };
    assert_eq!(misnamed(Wish::ASKED.unheard_of).len(), 0);
    let taught = misnamed(Wish::TAUGHT.unheard_of);
    assert!(taught.len() > 3, "{}", taught.len());
    assert!(taught.iter().all(|schema| schema["description"].is_string()), "{taught:?}");
}

#[test]
fn what_held_tools_are_called_and_do_is_new() {
    let spelled = |shares: Shares| -> HashSet<String> {
        let tools = lessons(shares, 3000, 3).into_iter().flat_map(|lesson| lesson.tools);
        let spelled = |tool: ToolSpec| {
            let schemas = tool.parameters["properties"].as_object().unwrap().clone();
            let described = schemas.into_iter().filter_map(|(_, schema)| {
                schema["description"].as_str().map(|text| format!("parameter: {text}"))
            });
            described.chain([tool.name.to_lowercase(), tool.description]).collect::<Vec<_>>()
        };
        tools.flat_map(spelled).collect()
    };
    let taught = spelled(Shares::TAUGHT);
    let held = spelled(Shares { tools: Share::Held, ..Shares::TAUGHT });
    assert!(held.is_disjoint(&taught), "{:?}", held.intersection(&taught).collect::<Vec<_>>());
    assert!(taught.len() > 6000 && held.len() > 120, "{} and {}", taught.len(), held.len());
}

#[test]
fn a_description_that_is_put_together_is_a_sentence() {
    let tools = lessons(Shares::TAUGHT, 800, 6).into_iter().flat_map(|lesson| lesson.tools);
    let texts = tools.flat_map(|tool| {
        let schemas = tool.parameters["properties"].as_object().unwrap().clone();
        let described = schemas
            .into_iter()
            .filter_map(|(_, schema)| schema["description"].as_str().map(str::to_owned));
        described.chain([tool.description]).collect::<Vec<_>>()
    });
    for text in texts {
        let is_whole = text.ends_with(['.', '?']) && !text.starts_with(char::is_lowercase);
        assert!(is_whole && !text.contains(['{', '}']) && !text.contains("  "), "{text}");
    }
}

#[test]
fn every_call_keeps_to_the_schema_of_its_function() {
    let every =
        [Shares::TAUGHT, Shares { wordings: Share::Held, nouns: Share::Held, tools: Share::Held }];
    let mut calls_seen = 0;
    for lesson in every.into_iter().flat_map(|shares| lessons(shares, 400, 4)) {
        let Answer::Calls(calls) = &lesson.answer else { continue };
        for call in calls {
            calls_seen += 1;
            assert!(call.keeps_to(&lesson.tools), "{call:?} {:?}", lesson.tools);
            let mut more = call.clone();
            more.arguments.insert("unknown".into(), Value::Null);
            assert!(!more.keeps_to(&lesson.tools));
            let less = Call { arguments: Map::new(), ..call.clone() };
            let tool = lesson.tools.iter().find(|tool| tool.name == call.name).unwrap();
            let needs_nothing = tool.parameters["required"] == json!([]);
            assert_eq!(less.keeps_to(&lesson.tools), needs_nothing, "{tool:?}");
        }
    }
    assert!(calls_seen > 2000, "{calls_seen}");
}

#[test]
fn no_template_leaves_a_brace_or_a_double_space() {
    let texts = lessons(Shares::TAUGHT, 800, 5).into_iter().flat_map(|lesson| {
        let answer = match &lesson.answer {
            Answer::Text(text) => text.clone(),
            Answer::Calls(_) => String::new(),
        };
        [lesson.asked, answer]
    });
    for text in texts {
        assert!(!text.contains(['{', '}']) && !text.contains("  "), "{text}");
    }
}

/// Lessons with tools that ask for less than others, of boxes with one kind of them.
fn of_narrow_tools(sort: Sort, tools: Share) -> Vec<Lesson> {
    let teacher = Teacher::new().unwrap();
    let mut dice = Dice::new(8);
    let (shares, sort) = (Shares { tools, ..Shares::TAUGHT }, Some(sort));
    let wish = Wish { shares, sort, kinds: 1, narrow: Narrow::MOST, ..Wish::ASKED };
    (0..300).flat_map(|_| teacher.group(1, &wish, &mut dice)).collect()
}

#[test]
fn a_tool_for_one_thing_has_no_parameter_for_it_and_its_users_name_it() {
    let teacher = Teacher::new().unwrap();
    for (tools, kept) in [(Share::Taught, false), (Share::Held, true)] {
        let of_light = of_narrow_tools(Sort::One, tools).into_iter().filter(|lesson| {
            let name = lesson.tools[0].name.to_lowercase();
            name.contains("light") || name.contains("ventilation")
        });
        let mut seen = 0;
        for lesson in of_light {
            let Answer::Calls(calls) = &lesson.answer else { panic!("{lesson:?}") };
            let language =
                teacher.languages.iter().find(|own| own.code == lesson.language).unwrap();
            let class = if kept { "ventilation" } else { "light" };
            let nouns = &language.things.classes[class];
            let is_said =
                |noun: &Noun| lesson.asked.to_lowercase().contains(&noun.bare.to_lowercase());
            assert!(nouns.iter().any(is_said), "{}", lesson.asked);
            let is_passed =
                |noun: &Noun| calls[0].arguments.values().any(|value| *value == noun.bare);
            assert!(!nouns.iter().any(is_passed), "{calls:?}");
            seen += 1;
        }
        assert!(seen > 5, "{seen} of {tools:?}");
    }
}

#[test]
fn what_a_tool_for_another_thing_would_do_is_not_done() {
    let held = of_narrow_tools(Sort::OtherThing, Share::Held);
    assert!(held.len() > 20, "{} are asked of tools that are kept for tests", held.len());
    let lessons = of_narrow_tools(Sort::NoTool, Share::Taught);
    let teacher = Teacher::new().unwrap();
    let is_of_a_fan = |lesson: &&Lesson| {
        let language = teacher.languages.iter().find(|own| own.code == lesson.language).unwrap();
        let fan = language.things.classes["fan"][0].bare.to_lowercase();
        let words = lesson.asked.to_lowercase();
        words.split(|mark: char| !mark.is_alphanumeric()).any(|word| word == fan)
    };
    let is_of_light = |lesson: &&Lesson| lesson.tools[0].name.to_lowercase().contains("light");
    let of_both = lessons.iter().filter(is_of_a_fan).filter(is_of_light).count();
    assert!(of_both > 0, "nobody speaks of a fan where the tool is for light");
}

#[test]
fn what_a_tool_can_be_for_is_among_the_things_of_each_language_and_no_taught_one_is_held() {
    let teacher = Teacher::new().unwrap();
    let classes = teacher.classes();
    for language in &teacher.languages {
        let things = &language.things;
        for class in classes.iter().filter(|name| **name != "house") {
            let noun = &things.classes[*class][0];
            assert!(
                ["bare", "the", "of", "is"].iter().all(|form| !noun.form(form).unwrap().is_empty())
            );
        }
        assert_eq!(things.classes.len() + 1, classes.len(), "{}", language.code);
        let held = things.lists.values().flat_map(|list| Share::Held.of(list));
        let held: HashSet<&str> = held.map(|noun| noun.bare.as_str()).collect();
        for class in Share::Taught.of(&classes).iter().filter(|name| **name != "house") {
            for noun in &things.classes[*class] {
                assert!(!held.contains(noun.bare.as_str()), "{}: {}", language.code, noun.bare);
            }
        }
    }
}

#[test]
fn what_was_put_down_by_hand_is_of_every_language_and_sort() {
    let field = Teacher::new().unwrap().field().unwrap();
    let of = |sort: Sort| field.iter().filter(|lesson| lesson.sort == sort).count();
    assert!(field.len() > 100 && of(Sort::Lack) > 3 && of(Sort::NoTool) > 1, "{}", field.len());
    for code in ["en", "fr", "de", "it", "es"] {
        assert!(field.iter().filter(|lesson| lesson.language == code).count() > 15, "{code}");
    }
}

#[test]
fn what_nobody_says_anything_for_is_left_out() {
    let spare = ["transition", "dry_run", "requested_by", "timeout_ms", "retries"];
    let mut seen = 0;
    for lesson in lessons(Shares::TAUGHT, 600, 9) {
        let Answer::Calls(calls) = &lesson.answer else { continue };
        for call in calls {
            let tool = lesson.tools.iter().find(|tool| tool.name == call.name).unwrap();
            let required = tool.parameters["required"].as_array().unwrap();
            let is_spare = |name: &&str| {
                tool.parameters["properties"].get(name).is_some()
                    && !required.contains(&json!(name))
            };
            for name in spare.iter().filter(|name| is_spare(name)) {
                assert!(!call.arguments.contains_key(*name), "{call:?}");
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "{seen}");
}
