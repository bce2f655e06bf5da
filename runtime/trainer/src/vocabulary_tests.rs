use text::Tokenizer;

use super::*;

fn made() -> Vocabulary {
    learn(&Teacher::new().unwrap(), 900, 1).unwrap()
}

#[test]
fn every_lesson_comes_back_and_names_are_cut_alike_everywhere() {
    let teacher = Teacher::new().unwrap();
    let vocabulary = made();
    assert_eq!(vocabulary.tokens.len(), 900);
    let tokenizer = Tokenizer::from_vocabulary(&vocabulary).unwrap();
    let mut dice = Dice::new(9);
    for lesson in (0..40).flat_map(|_| teacher.group(4, &Wish::TAUGHT, &mut dice)) {
        for text in texts(&lesson).unwrap() {
            let tokens = tokenizer.encode(&text).unwrap();
            assert_eq!(tokenizer.decode(&tokens), text);
        }
    }
    let cut = |text: &str| {
        let mut tokens = tokenizer.encode(text).unwrap();
        tokens.remove(0);
        tokens
    };
    for name in ["Zwieback", "pompe", "Küche", "Velora"] {
        let (alone, quoted) = (cut(name), cut(&format!("\"{name}\"")));
        let inside = quoted.windows(alone.len()).any(|window| window == alone);
        assert!(inside, "{name} is cut otherwise between quotes");
    }
    // What no piece has is spelled in bytes.
    assert_eq!(tokenizer.decode(&tokenizer.encode("水 ☃").unwrap()), "水 ☃");
}

#[test]
fn the_same_seed_gives_the_same_vocabulary() {
    assert_eq!(made().tokens, made().tokens);
}

#[test]
fn both_forms_of_the_vocabulary_cut_alike() {
    let teacher = Teacher::new().unwrap();
    let vocabulary = made();
    let pieces = Tokenizer::from_vocabulary(&vocabulary).unwrap();
    let library = Tokenizer::from_bytes(tokenizer_json(&vocabulary).as_bytes()).unwrap();
    let mut dice = Dice::new(10);
    for lesson in (0..60).flat_map(|_| teacher.group(4, &Wish::TAUGHT, &mut dice)) {
        let all = prompt_texts(TemplateVersion::V3, &lesson.messages, &lesson.tools).unwrap();
        for text in texts(&lesson).unwrap().into_iter().chain(all) {
            assert_eq!(pieces.encode(&text).unwrap(), library.encode(&text).unwrap(), "{text}");
        }
    }
}

#[test]
fn frames_are_one_stretch_and_words_are_cut_from_marks() {
    let mut words = HashMap::new();
    count("[{\"name\": \"dim\", \"arguments\": {\"lamp\": \"hall 12\"}}]", &mut words);
    let mut found: Vec<(&str, u64)> =
        words.iter().map(|(word, count)| (word.as_str(), *count)).collect();
    found.sort_unstable();
    let mut expected = [
        ("\"}}]", 1),
        ("\",▁\"arguments\":▁{\"", 1),
        ("\":▁\"", 1),
        ("1", 1),
        ("2", 1),
        ("[{\"", 1),
        ("dim", 1),
        ("hall", 1),
        ("lamp", 1),
        (NAME, 1),
        ("▁", 2),
    ];
    expected.sort_unstable();
    assert_eq!(found, expected);
}
