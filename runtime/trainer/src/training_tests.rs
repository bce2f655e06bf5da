use std::collections::HashMap;

use model::{BackendChoice, open_device};
use weights::{Hyper, TensorName, Vocabulary};

use crate::checkpoint::{self, Folder, Part, State};
use crate::dice::Dice;
use crate::example::{Example, Packed};
use crate::initial::Marks;
use crate::lessons::{Teacher, Wish};
use crate::parameters::{Parameters, names};
use crate::ship::ship;
use crate::training::{self, Begun, Crew, Precision, Progress, Recipe, Run};
use crate::{learn, vocabulary};

/// A network that learns in seconds.
fn small(vocabulary: &Vocabulary) -> Hyper {
    let hyper = learn::shape(64, 1, vocabulary);
    Hyper { feed_forward: 96, ..hyper }
}

fn recipe() -> Recipe {
    Recipe {
        seed: 5,
        steps: 6,
        groups: 2,
        lessons: 2,
        rate: 5e-3,
        warmup: 2,
        cooldown: 0.4,
        growth: 3,
        hardening: 0,
        threads: 2,
        precision: Precision::F32,
        begun: None,
    }
}

fn with_run<T>(then: impl FnOnce(&Run<'_>, &Vocabulary) -> T) -> T {
    with_run_of(600, then)
}

/// A run whose vocabulary has so many tokens.
fn with_run_of<T>(tokens: usize, then: impl FnOnce(&Run<'_>, &Vocabulary) -> T) -> T {
    let teacher = Teacher::new().unwrap();
    let vocabulary = vocabulary::learn(&teacher, tokens, 3).unwrap();
    let codec = learn::codec(&vocabulary).unwrap();
    let plain_device = open_device(BackendChoice::Flex).unwrap();
    let mut device = plain_device.clone();
    device.device = device.device.autodiff();
    let recipe = recipe();
    let hyper = small(&vocabulary);
    let crew = Crew::new(recipe.threads).unwrap();
    let run = Run { recipe, hyper, teacher: &teacher, codec: &codec, device, plain_device, crew };
    then(&run, &vocabulary)
}

fn numbers(run: &Run<'_>, parameters: &Parameters) -> HashMap<TensorName, Vec<f32>> {
    parameters.values(&run.hyper).unwrap().into_iter().collect()
}

#[test]
fn a_run_tells_by_which_plans_it_went() {
    let mut recipe = recipe();
    let mut state = State::new(recipe.clone());
    let parts = |state: &State| -> Vec<_> {
        let told = |part: &Part| (part.first, part.planned, part.lessons.clone());
        state.parts.iter().map(told).collect()
    };
    let planned = recipe.steps;
    for _ in 0..2 {
        state.go_on(&recipe, "one".into());
        assert_eq!(parts(&state), [(0, planned, Some("one".into()))]);
    }
    state.steps.push(Progress::default());
    recipe.steps += 1;
    state.go_on(&recipe, "one".into());
    state.go_on(&recipe, "two".into());
    // No step was made by the plan between.
    let whole = [(0, planned, Some("one".into())), (1, planned + 1, Some("two".into()))];
    assert_eq!(parts(&state), whole);
    // What was saved before parts were kept.
    state.parts.clear();
    state.go_on(&recipe, "two".into());
    assert_eq!(parts(&state), [(0, planned + 1, None), (1, planned + 1, Some("two".into()))]);
}

#[test]
fn a_run_that_was_saved_goes_on_as_if_it_had_not_stopped() {
    with_run(|run, vocabulary| {
        let device = &run.device.device;
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder(temporary.path().to_owned());
        folder.begin(&run.hyper, vocabulary).unwrap();
        let mut parameters = Parameters::random(&run.hyper, 1, None, device);
        let mut optimizer = run.optimizer(&parameters);
        let mut state = State::new(run.recipe.clone());
        let mut losses = Vec::new();
        for step in 0..run.recipe.steps {
            if step == 3 {
                folder.save(&run.hyper, &parameters, &optimizer, &state).unwrap();
            }
            let progress;
            (parameters, progress) =
                run.step(step, &run.packed(step).unwrap(), parameters, &mut optimizer).unwrap();
            losses.push(progress.loss);
            state.steps.push(progress);
        }
        let resumed = folder.resume(&run.hyper, |parameters| run.optimizer(parameters), device);
        let (mut again, mut optimizer, state) = resumed.unwrap().unwrap();
        assert_eq!(state.steps.len(), 3);
        for step in 3..run.recipe.steps {
            let progress;
            (again, progress) =
                run.step(step, &run.packed(step).unwrap(), again, &mut optimizer).unwrap();
            // Threads add their parts in any order.
            assert!((progress.loss - losses[step]).abs() < 1e-4, "{losses:?} {progress:?}");
        }
        let (whole, again) = (numbers(run, &parameters), numbers(run, &again));
        for (name, values) in whole {
            let off = values.iter().zip(&again[&name]).map(|(a, b)| (a - b).abs());
            assert!(off.fold(0.0, f32::max) < 1e-3, "{name:?}");
        }
        assert_eq!(folder.vocabulary().unwrap(), *vocabulary);
        let before = folder.read("params.json").unwrap();
        let wider = learn::shape(128, 1, vocabulary);
        let refused = folder.begin(&wider, vocabulary).unwrap_err().to_string();
        assert!(refused.contains("another shape"), "{refused}");
        assert_eq!(folder.read("params.json").unwrap(), before);
    });
}

#[test]
fn a_run_begins_with_the_weights_of_a_file_and_goes_on_behind_its_steps() {
    with_run(|run, vocabulary| {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder(temporary.path().to_owned());
        let parameters = Parameters::random(&run.hyper, 1, None, &run.device.device);
        let optimizer = run.optimizer(&parameters);
        folder.begin(&run.hyper, vocabulary).unwrap();
        folder.save(&run.hyper, &parameters, &optimizer, &State::new(run.recipe.clone())).unwrap();
        let file = temporary.path().join("small.gguf");
        ship(&folder, &file).unwrap();
        let archive = weights::open(&file).unwrap();
        assert_eq!(archive.vocabulary().unwrap().tokens, vocabulary.tokens);
        let again = checkpoint::values(&*archive, &run.hyper).unwrap();
        for (name, values) in numbers(run, &parameters) {
            let highest = values.iter().map(|value| value.abs()).fold(0.0, f32::max);
            let off = values.iter().zip(&again[&name]).map(|(a, b)| (a - b).abs());
            // Half of a step of 8 bits, and what its scale is rounded by.
            assert!(off.fold(0.0, f32::max) <= highest / 200.0, "{name:?}");
        }
        let wider = learn::shape(128, 1, vocabulary);
        let refused = checkpoint::values(&*archive, &wider).unwrap_err().to_string();
        assert!(refused.contains("this run has"), "{refused}");

        let begun = Some(Begun { steps: 3, file: "a mark".into() });
        let behind = Recipe { begun, ..run.recipe.clone() };
        let asked = |recipe: &Recipe, step| -> Vec<String> {
            let lessons = training::boxes(run.teacher, recipe, step).into_iter().flatten();
            lessons.map(|lesson| lesson.asked).collect()
        };
        assert_eq!(asked(&behind, 1), asked(&run.recipe, 4));
        assert_ne!(asked(&behind, 1), asked(&run.recipe, 1));
        assert_eq!(behind.whole(), Recipe { steps: 9, ..run.recipe.clone() });
    });
}

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    with_run(|run, _| {
        let device = &run.device.device;
        let parameters = Parameters::random(&run.hyper, 2, None, device);
        let slopes = run.slopes(0, &parameters).unwrap();
        let values = numbers(run, &parameters);
        let (matrices, gains) = names(&run.hyper);
        for name in matrices.into_iter().chain(gains) {
            let slope = &slopes.1[&name];
            // Where the loss is steepest, rounding weighs least.
            let at = (0..slope.len()).max_by(|a, b| slope[*a].abs().total_cmp(&slope[*b].abs()));
            let at = at.unwrap();
            let step = 2e-3;
            let loss = |by: f32| {
                let mut moved = values.clone();
                moved.get_mut(&name).unwrap()[at] += by;
                let moved = Parameters::from_values(&run.hyper, &mut moved, device).unwrap();
                run.slopes(0, &moved).unwrap().0
            };
            let measured = (loss(step) - loss(-step)) / f64::from(2.0 * step);
            let stated = f64::from(slope[at]);
            let off = (measured - stated).abs();
            assert!(off <= 0.05 * stated.abs() + 2e-3, "{name:?}: {stated}, measured {measured}");
        }
    });
}

#[test]
fn what_is_repeated_is_learned() {
    with_run(|run, _| {
        let mut parameters = Parameters::random(&run.hyper, 1, run.marks(), &run.device.device);
        let mut optimizer = run.optimizer(&parameters);
        let mut losses = Vec::new();
        for _ in 0..12 {
            let progress;
            // The third step's lessons, over and over, at the full rate.
            (parameters, progress) =
                run.step(2, &run.packed(2).unwrap(), parameters, &mut optimizer).unwrap();
            losses.push(progress.loss);
        }
        assert!(losses[11] < 0.6 * losses[0], "{losses:?}");
    });
}

#[test]
fn a_network_copies_before_it_has_learned() {
    with_run(|run, vocabulary| {
        let run = Run { hyper: learn::shape(192, 2, vocabulary), ..run.clone() };
        let parameters = Parameters::random(&run.hyper, 1, run.marks(), &run.device.device);
        let mut optimizer = run.optimizer(&parameters);
        let (_, progress) =
            run.step(0, &run.packed(0).unwrap(), parameters, &mut optimizer).unwrap();
        let chance = f64::from(run.hyper.vocabulary).ln();
        assert!(progress.drills < 0.4 * chance, "{progress:?}, by chance {chance}");
        assert!(progress.prompts > 0.8 * chance, "{progress:?}");
    });
}

#[test]
fn a_network_finds_names_by_descriptions_before_it_has_learned() {
    // Words have to be tokens, as they are in what is trained.
    with_run_of(2048, |run, vocabulary| {
        let run = Run { hyper: learn::shape(192, 6, vocabulary), ..run.clone() };
        let found = |marks: Option<Marks>, seed| {
            let parameters = Parameters::random(&run.hyper, seed, marks, &run.device.device);
            let mut dice = Dice::new(3);
            let groups = (0..80).filter_map(|_| {
                // Names that lie mislead them: as boxes have them.
                let wish = Wish { unheard_of: 0.0, ..Wish::TAUGHT };
                let lesson = run.teacher.group(1, &wish, &mut dice).pop()?;
                if lesson.tools.is_empty() {
                    return None;
                }
                let mut packed = Packed::default();
                packed.add(&Example::lookups(&lesson, lesson.tools.len(), run.codec).unwrap());
                Some(run.chosen(&parameters, &packed).unwrap())
            });
            groups.flatten().filter(|right| *right).count()
        };
        // Which codes are alike is chance: some seeds begin better with copiers, some without.
        let of_seeds = |marks: Option<Marks>| (1..9).map(|seed| found(marks, seed)).sum::<usize>();
        let (with, without) = (of_seeds(run.marks()), of_seeds(None));
        assert!(with as f64 > 1.03 * without as f64, "{with} with copiers, {without} without");
    });
}
