//! Held-out tests: the shipped file in the serving engine, on lessons that training never saw.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use engine::{EngineLimits, EngineService, Serving};
use model::{BackendChoice, CacheLimits, KvEncoding, Network, Placement, open_device};
use protocol::{Event, Input, ModelCard, Request, Service};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use text::{Codec, TemplateVersion, prompt_texts};

use crate::checkpoint::Folder;
use crate::dice::Dice;
use crate::lessons::{Answer, Call, Lesson, Narrow, Share, Shares, Sort, Teacher, Wish};
use crate::training::{self, Recipe};

/// The file of the scores, beside the training.
pub(crate) const SCORES: &str = "scores.json";

/// Of how many sentences one may be one that was taught too: a language can say the same in two ways. Such
/// are not asked; more of them, and what is held is not kept from lessons.
const KNOWN_SHARE: usize = 50;

/// What a set of tests is about.
struct Set {
    name: &'static str,
    shares: Shares,
    sort: Sort,
    narrow: Narrow,
}

impl Set {
    const fn of(name: &'static str, shares: Shares, sort: Sort) -> Self {
        Self { name, shares, sort, narrow: Narrow::NONE }
    }

    /// With tools that ask for less than others.
    const fn narrow(self) -> Self {
        Self { narrow: Narrow::MOST, ..self }
    }
}

const TAUGHT: Shares = Shares::TAUGHT;
const NEW_WORDINGS: Shares = Shares { wordings: Share::Held, ..TAUGHT };
const NEW_NOUNS: Shares = Shares { nouns: Share::Held, ..TAUGHT };
const NEW_TOOLS: Shares = Shares { tools: Share::Held, ..TAUGHT };
const NEW: Shares = Shares { wordings: Share::Held, nouns: Share::Held, tools: Share::Held };

const SETS: [Set; 14] = [
    Set::of("new wordings", NEW_WORDINGS, Sort::One),
    Set::of("new nouns", NEW_NOUNS, Sort::One),
    Set::of("new tools", NEW_TOOLS, Sort::One),
    Set::of("everything new", NEW, Sort::One),
    Set::of("several commands, new nouns", NEW_NOUNS, Sort::Several),
    Set::of("several commands, new tools", NEW_TOOLS, Sort::Several),
    Set::of("missing slot, new wordings", NEW_WORDINGS, Sort::Lack),
    Set::of("missing slot, new tools", NEW_TOOLS, Sort::Lack),
    Set::of("slot supplied, new nouns", NEW_NOUNS, Sort::Supplied),
    Set::of("no tool for it, new wordings", NEW_WORDINGS, Sort::NoTool),
    Set::of("nothing for devices, new wordings", NEW_WORDINGS, Sort::OffTopic),
    Set::of("report, new nouns", NEW_NOUNS, Sort::Report),
    Set::of("new tools for one thing", NEW_TOOLS, Sort::One).narrow(),
    Set::of("another thing than new tools are for", NEW_TOOLS, Sort::OtherThing).narrow(),
];

/// The share of right answers in a set, for each language.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Score {
    pub(crate) set: String,
    /// Answers that grammars keep in shape, as the daemon gives them: right and asked, by language.
    pub(crate) kept: BTreeMap<String, (usize, usize)>,
    /// Answers without any rule.
    pub(crate) free: BTreeMap<String, (usize, usize)>,
    /// Of the calls in answers with rules, those that their schemas take, and all.
    pub(crate) valid: (usize, usize),
    /// What was wrong with answers under rules, and how often.
    pub(crate) wrong: BTreeMap<String, usize>,
    /// Lessons that were not asked, because one that says the same was taught.
    pub(crate) known: usize,
}

impl Score {
    /// Answers in one language, with rules and without; prints `wrong` of the wrong ones with rules.
    fn add(
        &mut self,
        language: &str,
        lessons: &[Lesson],
        [kept, free]: &[Vec<Answer>; 2],
        wrong: usize,
    ) -> Result<()> {
        let right = |answers: &[Answer]| {
            let pairs = lessons.iter().zip(answers);
            (pairs.filter(|(lesson, answer)| is_right(lesson, answer)).count(), lessons.len())
        };
        self.kept.insert(language.into(), right(kept));
        self.free.insert(language.into(), right(free));
        let pairs = || lessons.iter().zip(kept);
        let all_wrong = pairs().filter(|(lesson, answer)| !is_right(lesson, answer));
        for (at, (lesson, answer)) in all_wrong.enumerate() {
            *self.wrong.entry(fault(lesson, answer).into()).or_default() += 1;
            if at < wrong {
                show(lesson, answer)?;
            }
        }
        for (lesson, answer) in pairs() {
            let Answer::Calls(calls) = answer else { continue };
            let valid = calls.iter().filter(|call| call.keeps_to(&lesson.tools)).count();
            self.valid = (self.valid.0 + valid, self.valid.1 + calls.len());
        }
        Ok(())
    }
}

/// All scores of one file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Scores {
    pub(crate) seed: u64,
    pub(crate) sets: Vec<Score>,
    /// Requests of a minute, one after the other, of the first set.
    pub(crate) commands_a_minute: f64,
}

/// Asks the model of a file `cases` lessons of each set and language, and keeps the scores; prints `wrong`
/// wrong answers of each.
pub(crate) fn judge(
    folder: &Folder,
    file: &Path,
    cases: usize,
    seed: u64,
    wrong: usize,
) -> Result<()> {
    let teacher = Teacher::new()?;
    let taught = taught(&teacher, &folder.state()?.recipe);
    let scores = scores(file, &teacher, &taught, cases, seed, wrong)?;
    folder.write(SCORES, &serde_json::to_vec_pretty(&scores)?)
}

/// Every sentence that a run has taught to answer.
fn taught(teacher: &Teacher, recipe: &Recipe) -> HashSet<String> {
    let recipe = recipe.whole();
    let steps = 0..recipe.steps;
    let lessons =
        steps.flat_map(|step| training::boxes(teacher, &recipe, step).into_iter().flatten());
    lessons.map(|lesson| lesson.asked).collect()
}

fn scores(
    file: &Path,
    teacher: &Teacher,
    taught: &HashSet<String>,
    cases: usize,
    seed: u64,
    wrong: usize,
) -> Result<Scores> {
    let bench = Bench::open(file)?;
    let mut dice = Dice::new(seed);
    let mut sets = Vec::new();
    let mut commands_a_minute = 0.0;
    for set in &SETS {
        let mut score = Score { set: set.name.into(), ..Score::default() };
        let start = Instant::now();
        for (at, language) in teacher.languages.iter().enumerate() {
            let drawn = draw(teacher, set, at, cases, &mut dice);
            let (known, lessons): (Vec<_>, Vec<_>) =
                drawn.into_iter().partition(|lesson| taught.contains(&lesson.asked));
            score.known += known.len();
            let answers = [bench.ask(&lessons, true)?, bench.ask(&lessons, false)?];
            score.add(&language.code, &lessons, &answers, wrong)?;
        }
        let (_, asked) = sums(&score.kept);
        ensure!(
            score.known * KNOWN_SHARE <= asked,
            "{}: {} of its sentences were taught",
            set.name,
            score.known
        );
        if sets.is_empty() {
            let lessons = draw(teacher, set, 0, cases, &mut dice);
            let start = Instant::now();
            for lesson in &lessons {
                bench.ask(std::slice::from_ref(lesson), true)?;
            }
            commands_a_minute = 60.0 * lessons.len() as f64 / start.elapsed().as_secs_f64();
        }
        println!("{:<36} {:>5.1} s  {}", set.name, start.elapsed().as_secs_f64(), line(&score));
        sets.push(score);
    }
    sets.push(by_hand(&bench, teacher, wrong)?);
    bench.service.shutdown(std::time::Duration::ZERO);
    Ok(Scores { seed, sets, commands_a_minute })
}

/// The set that is not drawn: its boxes are new, its sentences may be taught.
fn by_hand(bench: &Bench, teacher: &Teacher, wrong: usize) -> Result<Score> {
    let mut score = Score { set: "boxes put down by hand".into(), ..Score::default() };
    let field = teacher.field()?;
    for language in &teacher.languages {
        let lessons = field.iter().filter(|lesson| lesson.language == language.code);
        let lessons: Vec<Lesson> = lessons.cloned().collect();
        let answers = [bench.ask(&lessons, true)?, bench.ask(&lessons, false)?];
        score.add(&language.code, &lessons, &answers, wrong)?;
    }
    println!("{:<36} {:>7}  {}", score.set, "", line(&score));
    Ok(score)
}

/// What was asked, and the answers that were wanted and given.
fn show(lesson: &Lesson, given: &Answer) -> Result<()> {
    prompt_texts(TemplateVersion::V3, &lesson.messages, &lesson.tools)?
        .iter()
        .for_each(|text| println!("  {text}"));
    println!("  wanted: {}\n  given:  {}\n", lesson.answer.text(), given.text());
    Ok(())
}

/// With rules and without, in per cent of all languages, how many calls were valid, and what was wrong.
fn line(score: &Score) -> String {
    let (valid, calls) = score.valid;
    let mut line = format!(
        "{:.1} %, free {:.1} %, valid {valid} of {calls}",
        share(&score.kept),
        share(&score.free)
    );
    for (fault, count) in &score.wrong {
        line += &format!(", {fault} {count}");
    }
    if score.known > 0 {
        line += &format!(", not asked since taught {}", score.known);
    }
    line
}

/// In what a wrong answer differs from the wanted one, coarsest first.
fn fault(lesson: &Lesson, answer: &Answer) -> &'static str {
    let (Answer::Calls(wanted), Answer::Calls(got)) = (&lesson.answer, answer) else {
        return match (&lesson.answer, answer) {
            (Answer::Calls(_), _) => "no call",
            (_, Answer::Calls(_)) => "a call",
            _ => "other words",
        };
    };
    let other = |differs: fn(&Call, &Call) -> bool| {
        wanted.iter().zip(got).any(|(wanted, got)| differs(wanted, got))
    };
    if wanted.len() != got.len() {
        "other number of calls"
    } else if other(|wanted, got| wanted.name != got.name) {
        "other function"
    } else if other(|wanted, got| !wanted.arguments.keys().eq(got.arguments.keys())) {
        "other parameters"
    } else {
        "other value"
    }
}

/// In per cent.
pub(crate) fn share(by_language: &BTreeMap<String, (usize, usize)>) -> f64 {
    let (right, asked) = sums(by_language);
    100.0 * right as f64 / asked.max(1) as f64
}

/// Right and asked, of all languages.
fn sums(by_language: &BTreeMap<String, (usize, usize)>) -> (usize, usize) {
    by_language.values().fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
}

fn draw(
    teacher: &Teacher,
    set: &Set,
    language: usize,
    cases: usize,
    dice: &mut Dice,
) -> Vec<Lesson> {
    let Set { shares, sort, narrow, .. } = *set;
    let wish = Wish { shares, sort: Some(sort), narrow, language: Some(language), ..Wish::ASKED };
    let mut lessons = Vec::new();
    // A box whose tools do not allow the sort gives none.
    while lessons.len() < cases {
        let group = teacher.group(2, &wish, dice);
        lessons.extend(group.into_iter().filter(|lesson| lesson.sort == set.sort));
    }
    lessons.truncate(cases);
    lessons
}

fn is_right(lesson: &Lesson, answer: &Answer) -> bool {
    match (&lesson.answer, answer) {
        (Answer::Calls(wanted), Answer::Calls(got)) => {
            wanted.len() == got.len()
                && wanted.iter().zip(got).all(|(wanted, got)| is_same(wanted, got))
        }
        // A question is a question, however it is put.
        (Answer::Text(_), Answer::Text(got)) if lesson.sort == Sort::Lack => got.ends_with('?'),
        (Answer::Text(wanted), Answer::Text(got)) => wanted == got,
        _ => false,
    }
}

/// The same function with the same arguments, in any order; `21` is `21.0`.
fn is_same(wanted: &Call, got: &Call) -> bool {
    let same = |wanted: &Value, got: &Value| match (wanted.as_f64(), got.as_f64()) {
        (Some(wanted), Some(got)) => wanted == got,
        _ => wanted == got,
    };
    wanted.name == got.name
        && wanted.arguments.len() == got.arguments.len()
        && wanted
            .arguments
            .iter()
            .all(|(name, value)| got.arguments.get(name).is_some_and(|other| same(value, other)))
}

/// A file in the engine.
struct Bench {
    service: EngineService,
    codec: Codec,
}

impl Bench {
    fn open(file: &Path) -> Result<Self> {
        let archive = weights::open(file)?;
        let vocabulary = archive.vocabulary().context("the file has no vocabulary")?;
        let codec = crate::learn::codec(vocabulary)?;
        let cache = CacheLimits {
            pages: 1024,
            page_tokens: 16,
            batch_tokens_max: 512,
            encoding: KvEncoding::F16,
        };
        let placement = Placement::whole(open_device(BackendChoice::Flex)?);
        let network = Network::load(archive.as_ref(), &placement, cache, &mut |_| ())?;
        let card = ModelCard {
            id: "judged".into(),
            aliases: Vec::new(),
            context_tokens_max: 0,
            fill: true,
            tools: true,
            default_temperature: 0.0,
            created: 0,
            encoding: codec.version().to_string(),
        };
        let serving = Serving { card, codec: codec.clone(), aliases: Vec::new() };
        let service = EngineService::start(Box::new(network), serving, EngineLimits::default())?;
        Ok(Self { service, codec })
    }

    /// The answers to lessons, a few at a time; `kept`: within the rules that the daemon sets.
    fn ask(&self, lessons: &[Lesson], kept: bool) -> Result<Vec<Answer>> {
        let mut answers = Vec::new();
        for lessons in lessons.chunks(8) {
            let mut replies = Vec::new();
            for lesson in lessons {
                let mut request = Request::new("test", Input::Chat(lesson.messages.clone()));
                request.tools = lesson.tools.clone();
                if !kept {
                    let tokens = self.codec.render(&request)?.tokens;
                    request = Request::new("test", Input::Tokens(tokens));
                }
                request.sampling.temperature = Some(0.0);
                request.limits.max_tokens = Some(256);
                replies.push(
                    self.service.submit(request).map_err(|fault| anyhow::anyhow!("{fault}"))?,
                );
            }
            for mut reply in replies {
                let (mut text, mut calls) = (String::new(), Vec::new());
                while let Some(event) = reply.recv() {
                    match event {
                        Event::Text { text: more, .. } => text += &more,
                        Event::ToolCall(call) => {
                            let arguments =
                                serde_json::from_str(&call.arguments).unwrap_or_default();
                            calls.push(Call { name: call.name, arguments });
                        }
                        Event::Failed(fault) => anyhow::bail!("{fault}"),
                        _ => (),
                    }
                }
                answers.push(if calls.is_empty() { plain(&text) } else { Answer::Calls(calls) });
            }
        }
        Ok(answers)
    }
}

/// An answer that was read without rules: calls are a list in JSON.
fn plain(text: &str) -> Answer {
    #[derive(Deserialize)]
    struct Written {
        name: String,
        arguments: Map<String, Value>,
    }
    let text = text.trim();
    match serde_json::from_str::<Vec<Written>>(text) {
        Ok(calls) if text.starts_with('[') => Answer::Calls(
            calls
                .into_iter()
                .map(|call| Call { name: call.name, arguments: call.arguments })
                .collect(),
        ),
        _ => Answer::Text(text.into()),
    }
}
