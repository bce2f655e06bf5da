//! `trainer learn`: a run of training from its first step to its last, over as many sittings as it takes.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use model::{BackendChoice, open_device};
use text::{Codec, TemplateVersion, Tokenizer};
use weights::{Archive, Hyper, RopePairing, Vocabulary};

use crate::checkpoint::{self, Folder, State};
use crate::dice::Dice;
use crate::lessons::{self, Lesson, Share, Shares, Sort, Teacher, Wish};
use crate::parameters::Parameters;
use crate::training::{self, Begun, Crew, Precision, Progress, Recipe, Run};
use crate::vocabulary;

/// Arguments of `trainer learn`.
#[derive(Debug, Args)]
pub(crate) struct Learn {
    /// Where the model is kept while it learns
    folder: PathBuf,
    /// A model to begin with, instead of chance: a GGUF file that `ship` made
    #[arg(long, requires = "steps_before")]
    from: Option<PathBuf>,
    /// Steps that it has learned for, as its card says: the rate goes on from there
    #[arg(long, requires = "from")]
    steps_before: Option<usize>,
    /// Another seed gives other weights and other lessons
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Steps of this run in all
    #[arg(long, default_value_t = 4000)]
    steps: usize,
    /// Boxes of a step, each with its tools; as many for each thread keep all of them busy
    #[arg(long, default_value_t = 6)]
    boxes: usize,
    /// Lessons of a box
    #[arg(long, default_value_t = 14)]
    lessons: usize,
    /// The highest learning rate
    #[arg(long, default_value_t = 5e-3)]
    rate: f64,
    /// Width of the network; a multiple of 64
    #[arg(long, default_value_t = 192)]
    hidden: u32,
    /// Blocks of the network
    #[arg(long, default_value_t = 6)]
    layers: u32,
    /// Tokens of the vocabulary, where it is not begun yet
    #[arg(long, default_value_t = 2048)]
    vocabulary: usize,
    /// Parts of a step that are computed at once
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// How precise products are: 16 bits where this processor has them, on flex
    #[arg(long)]
    precision: Option<Precision>,
    /// What computes: flex, or another backend of this build
    #[arg(long, default_value = "flex")]
    backend: String,
    /// Steps between two saves
    #[arg(long, default_value_t = 100)]
    save: usize,
}

impl Learn {
    /// What was asked for, or what the processor is fastest with.
    fn precision(&self) -> Result<Precision> {
        let has_halves = self.backend == "flex" && model::Precision::Bf16.is_had();
        let precision = match self.precision {
            None if has_halves => Precision::Bf16,
            asked => asked.unwrap_or_default(),
        };
        ensure!(
            precision == Precision::F32 || has_halves,
            "products of 16 bits need the backend flex and a processor with AMX or AVX-512 BF16: use --precision f32"
        );
        Ok(precision)
    }

    fn recipe(&self) -> Result<Recipe> {
        Ok(Recipe {
            seed: self.seed,
            steps: self.steps,
            groups: self.boxes,
            lessons: self.lessons,
            rate: self.rate,
            warmup: 60,
            cooldown: 0.4,
            growth: 360,
            hardening: 3000,
            threads: self.threads,
            precision: self.precision()?,
            begun: None,
        })
    }
}

/// A model that a run begins with.
struct First {
    path: PathBuf,
    archive: Arc<dyn Archive>,
    begun: Begun,
}

impl Learn {
    fn first(&self) -> Result<Option<First>> {
        let Some((path, steps)) = self.from.as_ref().zip(self.steps_before) else {
            return Ok(None);
        };
        let path = path.clone();
        let bytes = std::fs::read(&path).with_context(|| format!("{}", path.display()))?;
        let file = format!("{:016x}", lessons::hash(&bytes));
        Ok(Some(First { archive: weights::open(&path)?, path, begun: Begun { steps, file } }))
    }
}

/// Numbers of a head.
const HEAD: u32 = 32;
/// The longest context it is asked in; lessons are shorter.
const CONTEXT_TOKENS_MAX: u32 = 2048;

pub(crate) fn learn(arguments: &Learn) -> Result<()> {
    ensure!(arguments.hidden.is_multiple_of(2 * HEAD), "the width is a multiple of {}", 2 * HEAD);
    let teacher = Teacher::new()?;
    let folder = Folder(arguments.folder.clone());
    let mut recipe = arguments.recipe()?;
    if recipe.precision == Precision::Bf16 {
        model::set_precision(model::Precision::Bf16);
    }
    let first = arguments.first()?;
    recipe.begun = first.as_ref().map(|first| first.begun.clone());
    let vocabulary = if folder.is_begun() {
        let begun = folder.state()?.recipe;
        ensure!(begun.may_go_on_as(&recipe), "the run in this folder was begun so: {begun:?}");
        folder.vocabulary()?
    } else if let Some(first) = &first {
        let vocabulary = first.archive.vocabulary();
        vocabulary.with_context(|| format!("{} has no vocabulary", first.path.display()))?.clone()
    } else {
        vocabulary::learn(&teacher, arguments.vocabulary, arguments.seed)?
    };
    let codec = codec(&vocabulary)?;
    let plain_device = open_device(arguments.backend.parse::<BackendChoice>()?)?;
    let mut device = plain_device.clone();
    device.device = device.device.autodiff();
    let hyper = shape(arguments.hidden, arguments.layers, &vocabulary);
    let crew = Crew::new(arguments.threads)?;
    let run = Run { recipe, hyper, teacher: &teacher, codec: &codec, device, plain_device, crew };
    folder.begin(&run.hyper, &vocabulary)?;
    train(&run, &folder, first.as_ref(), arguments.save)
}

pub(crate) fn codec(vocabulary: &Vocabulary) -> Result<Codec> {
    let tokenizer = Arc::new(Tokenizer::from_vocabulary(vocabulary)?);
    Ok(Codec::new(tokenizer, TemplateVersion::V3)?)
}

/// The network of a width and so many blocks.
pub(crate) fn shape(hidden: u32, layers: u32, vocabulary: &Vocabulary) -> Hyper {
    Hyper {
        name: Some("zonda".into()),
        license: Some("MIT OR Apache-2.0".into()),
        vocabulary: vocabulary.tokens.len() as u32,
        hidden,
        feed_forward: hidden * 8 / 3,
        layers,
        heads: hidden / HEAD,
        kv_heads: hidden / HEAD,
        head_dim: HEAD,
        context_tokens_max: CONTEXT_TOKENS_MAX,
        rope_theta: 1e6,
        rms_epsilon: 1e-5,
        sliding_window: None,
        tied_embeddings: false,
        pairing: RopePairing::Adjacent,
    }
}

fn train(run: &Run<'_>, folder: &Folder, first: Option<&First>, save: usize) -> Result<()> {
    let device = &run.device.device;
    let resumed = folder.resume(&run.hyper, |parameters| run.optimizer(parameters), device)?;
    let (mut parameters, mut optimizer, mut state) = match resumed {
        Some(resumed) => resumed,
        None => {
            let parameters = match first {
                None => Parameters::random(&run.hyper, run.recipe.seed, run.marks(), device),
                Some(first) => {
                    let mut values = checkpoint::values(&*first.archive, &run.hyper)?;
                    Parameters::from_values(&run.hyper, &mut values, device)?
                }
            };
            let optimizer = run.optimizer(&parameters);
            (parameters, optimizer, State::new(run.recipe.clone()))
        }
    };
    state.go_on(&run.recipe, training::mark(run.teacher, &run.recipe));
    let tests = tests(run.teacher);
    let bar = bar(run.recipe.steps, state.steps.len())?;
    let mut parts = run.packed(state.steps.len())?;
    for step in state.steps.len()..run.recipe.steps {
        let progress;
        ((parameters, progress), parts) = std::thread::scope(|scope| {
            // What the next step is about is made beside this one.
            let next = scope.spawn(|| run.packed(step + 1));
            let done = run.step(step, &parts, parameters, &mut optimizer)?;
            let next = next.join().map_err(|_| anyhow!("the thread of the lessons panicked"))?;
            anyhow::Ok((done, next?))
        })?;
        let rate = progress.tokens as f64 / progress.seconds;
        let Progress { loss, prompts, drills, lookups, forced, topics, .. } = progress;
        bar.set_message(format!(
            "loss {loss:.4}, prompts {prompts:.3}, drills {drills:.3}, lookups {lookups:.3}, \
             forced {forced:.3}, topics {topics:.3}, {rate:.0} tokens/s"
        ));
        bar.inc(1);
        if bar.is_hidden() {
            println!("step {} of {}: {}", step + 1, run.recipe.steps, bar.message());
        }
        state.steps.push(progress);
        if (step + 1) % save == 0 || step + 1 == run.recipe.steps {
            folder.save(&run.hyper, &parameters, &optimizer, &state)?;
            for (name, lessons) in &tests {
                let exact = run.exact(&parameters, lessons)?;
                let right = exact.iter().filter(|right| **right).count();
                let of = exact.len();
                bar.suspend(|| println!("step {}: {name}: {right} of {of} as wanted", step + 1));
            }
        }
    }
    bar.finish();
    Ok(())
}

/// Shown where there is a terminal.
fn bar(steps: usize, done: usize) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len} steps, {eta} left, {msg}")?;
    let bar = ProgressBar::new(steps as u64).with_style(style).with_position(done as u64);
    bar.reset_eta();
    Ok(bar)
}

/// A few lessons to watch it by; the real tests are `trainer judge`'s.
fn tests(teacher: &Teacher) -> Vec<(&'static str, Vec<Vec<Lesson>>)> {
    let taught = Shares::TAUGHT;
    let sets = [
        ("new wordings", Shares { wordings: Share::Held, ..taught }),
        ("new nouns", Shares { nouns: Share::Held, ..taught }),
        ("new tools", Shares { tools: Share::Held, ..taught }),
    ];
    let draw = |(name, shares)| {
        let mut dice = Dice::new(99);
        let wish = Wish { shares, sort: Some(Sort::One), ..Wish::ASKED };
        let mut group = || teacher.group(4, &wish, &mut dice);
        (name, (0..24).map(|_| group()).collect())
    };
    sets.map(draw).into_iter().collect()
}
