//! `trainer card`: what the model is, how it was made, and what it scored, from the files of the run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::*;

use crate::checkpoint::{Folder, Part, State};
use crate::judge::{self, Score, Scores};
use crate::lessons::Teacher;
use crate::training::{Begun, Recipe};

/// The plot of the loss, beside the card.
const PLOT: &str = "loss.svg";
const CARD: &str = "README.md";

/// Writes `README.md` and `loss.svg` into the folder of the run.
pub(crate) fn write(folder: &Folder, file: &Path, beside: &[PathBuf]) -> Result<()> {
    let state = folder.state()?;
    let scores = scores(folder)?;
    let others = beside.iter().map(|path| {
        let folder = Folder(path.clone());
        Ok((folder.state()?, self::scores(&folder)?))
    });
    let others = others.collect::<Result<Vec<_>>>()?;
    folder.write(PLOT, plot(&state)?.as_bytes())?;
    folder.write(CARD, card(file, &state, &scores, &others)?.as_bytes())
}

fn scores(folder: &Folder) -> Result<Scores> {
    serde_json::from_slice(&folder.read(judge::SCORES)?).context(judge::SCORES)
}

fn card(file: &Path, state: &State, scores: &Scores, others: &[(State, Scores)]) -> Result<String> {
    let archive = weights::open(file)?;
    let hyper = archive.hyper();
    let numbers: u64 =
        archive.tensors().iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum();
    let bytes = std::fs::metadata(file)?.len();
    let mut text = String::new();
    let recipe = &state.recipe;
    let tokens: usize = state.steps.iter().map(|step| step.tokens).sum();
    let minutes = state.steps.iter().map(|step| step.seconds).sum::<f64>() / 60.0;
    write!(
        text,
        "# The model that zonda carries\n\n\
         A network of the Mistral architecture with {:.2} million parameters, trained by this project on sentences of its \
         own making. It turns what people say to a box into calls of the tools that the box offers: in English, French, \
         German, Italian and Spanish.\n\n\
         | | |\n|---|---|\n\
         | shape | {} blocks, width {}, {} query and {} key heads of {}, feed-forward {}, {} tokens |\n\
         | file | Q8_0, {:.2} MB |\n\
         | context | {} tokens at most; lessons have a few hundred |\n\
         | prompts | template version 3 |\n\
         | licence | {} |\n\n",
        numbers as f64 / 1e6,
        hyper.layers,
        hyper.hidden,
        hyper.heads,
        hyper.kv_heads,
        hyper.head_dim,
        hyper.feed_forward,
        hyper.vocabulary,
        bytes as f64 / 1e6,
        hyper.context_tokens_max,
        hyper.license.as_deref().unwrap_or("that of this project"),
    )?;
    write!(
        text,
        "## Recipe\n\n\
         `trainer learn`, seed {}: {} steps of {} boxes with {} lessons each, {:.1} million tokens, {:.0} minutes on {} \
         threads of a CPU{}. Muon for matrices, AdamW for the rest, highest rate {} after {} steps, falling with the root of the steps, and \
         to nothing over the last {:.0} per cent. The lessons are made by `runtime/trainer/data` and `src/lessons`; no text of others is in them. \
         Boxes begin with one kind of tool and grow over the first {} steps{}. Answers are learned where the rules of \
         serving leave a choice, among what these allow; names by their descriptions, prompts, runs of random tokens that come twice, and what tools and wishes are about are learned \
         beside them; heads begin as copiers (ADR 0028).\n\n![loss]({PLOT})\n\n",
        recipe.seed,
        state.steps.len(),
        recipe.groups,
        recipe.lessons,
        tokens as f64 / 1e6,
        minutes,
        recipe.threads,
        recipe.precision.told(),
        recipe.rate,
        recipe.warmup,
        100.0 * recipe.cooldown,
        recipe.growth,
        match recipe.hardening {
            0 => String::new(),
            steps => format!(", what nobody can know comes over the first {steps}"),
        },
    )?;
    text += &begun(recipe);
    if state.parts.len() > 1 {
        text += &parts(state);
    }
    text += &tables(scores, others)?;
    text += LIMITS;
    Ok(text)
}

/// What a run began with, where that was not chance.
fn begun(recipe: &Recipe) -> String {
    let Some(Begun { steps, file }) = &recipe.begun else { return String::new() };
    format!(
        "It began with the weights of a model that had learned for {steps} steps, whose file had the mark {file} and whose \
         card this place had before.\n\n"
    )
}

/// How a run went that changed its plans.
fn parts(state: &State) -> String {
    let ends = state.parts.iter().skip(1).map(|part| part.first).chain([state.steps.len()]);
    let parts = state.parts.iter().zip(ends).map(|(part, end)| {
        let lessons = part.lessons.as_deref().unwrap_or("of a mark that was not kept");
        let Part { first, planned, boxes, .. } = part;
        let boxes = boxes.map(|boxes| format!(", of {boxes} boxes")).unwrap_or_default();
        format!(
            "steps {first} to {end} of {planned} that were planned{boxes}, by lessons {lessons}"
        )
    });
    format!(
        "It was not trained in one go: {}. Whether a sentence of a test was taught is looked up among the lessons that these \
         sources make.\n\n",
        parts.collect::<Vec<_>>().join("; ")
    )
}

fn tables(scores: &Scores, others: &[(State, Scores)]) -> Result<String> {
    let languages = Teacher::new()?.languages;
    let names: Vec<&str> = languages.iter().map(|language| language.name.as_str()).collect();
    let mut text = format!(
        "## Scores on what training never saw\n\n\
         In per cent of the answers of each set: function and all arguments exactly as wanted, for calls; a question and no call, \
         where something is missing; the wanted words otherwise. `zonda` keeps calls within the schemas of the tools; *free* is the \
         same without any rule. Of tests that were drawn, those whose sentence occurs in training are not asked; the boxes and \
         wishes that were put down by hand (`runtime/trainer/data/field.toml`) are all asked: their sentences may be taught, \
         their tools were written apart from lessons, and which went wrong has guided lessons. Seed of the tests: {}.\n\n\
         | set | cases | {} | all | free |",
        scores.seed,
        names.join(" | "),
    );
    for (state, _) in others {
        write!(text, " seed {} |", state.recipe.seed)?;
    }
    text += "\n|---|---|";
    text += &"---|".repeat(names.len() + 2 + others.len());
    text.push('\n');
    for set in &scores.sets {
        let cases: usize = set.kept.values().map(|(_, asked)| asked).sum();
        write!(text, "| {} | {cases} |", set.set)?;
        for code in languages.iter().map(|language| language.code.as_str()) {
            write!(text, " {:.0} |", of_language(&set.kept, code))?;
        }
        write!(text, " **{:.1}** | {:.1} |", judge::share(&set.kept), judge::share(&set.free))?;
        for (_, other) in others {
            let other = other.sets.iter().find(|other| other.set == set.set);
            match other {
                Some(other) => write!(text, " {:.1} |", judge::share(&other.kept))?,
                None => text += " |",
            }
        }
        text.push('\n');
    }
    text += &others.iter().map(|(state, other)| spread(state, scores, other)).collect::<String>();
    let (valid, calls) = scores
        .sets
        .iter()
        .map(|Score { valid, .. }| valid)
        .fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    write!(
        text,
        "\nOf {calls} calls, {valid} kept to the schema of their function. One after the other, {:.0} commands a minute on the machine \
         of these tests.\n\n",
        scores.commands_a_minute
    )?;
    Ok(text)
}

/// How far another seed's scores are from these.
fn spread(state: &State, scores: &Scores, other: &Scores) -> String {
    let both = scores.sets.iter().filter_map(|set| {
        let other = other.sets.iter().find(|other| other.set == set.set)?;
        Some((set.set.as_str(), judge::share(&other.kept) - judge::share(&set.kept)))
    });
    let apart: Vec<(&str, f64)> = both.collect();
    let mean =
        apart.iter().map(|(_, points)| points.abs()).sum::<f64>() / apart.len().max(1) as f64;
    let farthest = apart.iter().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
    farthest.map_or_else(String::new, |(set, points)| {
        format!(
            "\nScores of the same recipe with seed {} ({} steps) are {mean:.1} points from these on the average of the sets, \
             and farthest for \"{set}\": {points:+.1}.\n",
            state.recipe.seed,
            state.steps.len(),
        )
    })
}

fn of_language(by_language: &BTreeMap<String, (usize, usize)>, code: &str) -> f64 {
    let (right, asked) = by_language.get(code).copied().unwrap_or_default();
    100.0 * right as f64 / asked.max(1) as f64
}

const LIMITS: &str = "\
## Limits

* It is wrong as often as the table says. What must not go wrong wants a person who confirms, or a larger model.
* It knows devices, rooms, numbers, times and messages, and nothing else: it cannot chat, translate, calculate or remember.
* Values of arguments are the words of the user as they stand in the sentence, without their article; numbers in digits, times as
  on a clock of 24 hours.
* A word that no lesson has is not understood: held-out sentences are new, hardly one of their words is.
* A tool of a kind that it was not taught is called by the likeness of its words, or not at all.
* A tool that is for one thing, and of a kind that it was not taught, is called for other things as well: it refuses as few of these
  wishes as the table says.
* Languages other than the five give nonsense.
";

fn plot(state: &State) -> Result<String> {
    let mut svg = String::new();
    {
        let wrong = |error: DrawingAreaErrorKind<_>| anyhow!("the plot: {error:?}");
        let area = SVGBackend::with_string(&mut svg, (900, 360)).into_drawing_area();
        area.fill(&WHITE).map_err(wrong)?;
        let highest = state.steps.iter().map(|step| step.loss).fold(0.01, f64::max);
        let lowest = state.steps.iter().map(|step| step.loss).fold(highest, f64::min).max(1e-4);
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d(0..state.steps.len(), (lowest..highest).log_scale())
            .map_err(wrong)?;
        chart
            .configure_mesh()
            .x_desc("step")
            .y_desc("loss, nats of a token")
            .draw()
            .map_err(wrong)?;
        let points = state.steps.iter().map(|step| (step.step, step.loss));
        chart.draw_series(LineSeries::new(points, &BLUE.mix(0.35))).map_err(wrong)?;
        let means = state.steps.windows(25).map(|steps| {
            let mean = steps.iter().map(|step| step.loss).sum::<f64>() / steps.len() as f64;
            (steps[12].step, mean)
        });
        chart.draw_series(LineSeries::new(means, BLUE.stroke_width(2))).map_err(wrong)?;
        area.present().map_err(wrong)?;
    }
    Ok(svg)
}
