//! The loop: lessons in, weights out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use anyhow::{Result, anyhow};
use burn::module::ParamGroup;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{
    AdamWConfig, AdjustLrFn, GradientsAccumulator, GradientsParams, ModuleOptimizer, MuonConfig,
};
use burn::tensor::{Tensor, TensorData};
use model::{Learner, OpenDevice, PlainWeights, Wanted, log_likelihoods};
use rayon::{ThreadPool, ThreadPoolBuilder};
use text::Codec;
use weights::Hyper;

use crate::dice::Dice;
use crate::example::{Example, Packed, Source};
use crate::initial::Marks;
use crate::lessons::{self, Lesson, Teacher, Wish};
use crate::parameters::Parameters;
use crate::vocabulary;

/// What each [`Source`] weighs: reading on in prompts and drills teaches to copy, and answers are copied from
/// prompts; lookups teach to find the name of a function by what is said of it; what the rules write in any
/// case is learned a little, for whoever asks without them; topics teach what words of five languages and
/// descriptions have in common.
const SHARES: [f64; SOURCES] = [1.0, 0.3, 0.2, 0.4, 0.1, 0.5];
const SOURCES: usize = Source::ALL.len();
/// How much of what nobody can know lessons have at first.
const UNHEARD_OF_FIRST: f64 = 0.4;
/// Tools of a box that are looked up.
const LOOKUPS: usize = 2;
/// Drills of a box.
const DRILLS: usize = 1;
/// Tokens of a step of one thread, and of a sequence.
pub(crate) const TOKENS_MAX: u32 = 8 << 10;

/// How training goes.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Recipe {
    pub(crate) seed: u64,
    pub(crate) steps: usize,
    /// Boxes of a step, each with its tools.
    pub(crate) groups: usize,
    /// Lessons of a box.
    pub(crate) lessons: usize,
    /// The highest rate; it falls with the root of the steps.
    pub(crate) rate: f64,
    /// Steps until it is reached.
    pub(crate) warmup: usize,
    /// The share of the steps, at their end, over which it falls to nothing.
    pub(crate) cooldown: f64,
    /// Steps over which boxes grow from one kind of tool.
    pub(crate) growth: usize,
    /// Steps over which all that nobody can know comes into lessons.
    #[serde(default)]
    pub(crate) hardening: usize,
    /// Parts of a step that are computed at once.
    pub(crate) threads: usize,
    /// How precise products are.
    #[serde(default)]
    pub(crate) precision: Precision,
    /// What it began with, where that was not chance.
    #[serde(default)]
    pub(crate) begun: Option<Begun>,
}

/// How precise products of training are.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Precision {
    #[default]
    F32,
    /// Rounded to 16 bits, sums of 32: by tiles of AMX or vectors of AVX-512 BF16.
    Bf16,
}

impl Precision {
    /// For the card.
    pub(crate) fn told(self) -> &'static str {
        match self {
            Self::F32 => "",
            Self::Bf16 => ", products of numbers of 16 bits with sums of 32",
        }
    }
}

/// A model that a run began with.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Begun {
    /// Steps that it had learned for: a run counts its own, and goes by all.
    pub(crate) steps: usize,
    /// The mark of its file.
    pub(crate) file: String,
}

impl Recipe {
    /// Steps that the weights have learned for before this one of the run.
    fn age(&self, step: usize) -> usize {
        self.begun.as_ref().map_or(0, |begun| begun.steps) + step
    }

    /// The recipe of all steps that its weights have learned for.
    pub(crate) fn whole(&self) -> Self {
        Self { steps: self.age(self.steps), begun: None, ..self.clone() }
    }

    /// Whether a run that was begun so may go on so: it may become longer, have more boxes, or use other
    /// threads and products. What it was taught can be told from the recipe alone.
    pub(crate) fn may_go_on_as(&self, other: &Self) -> bool {
        let Self { steps, threads, groups, precision, .. } = *other;
        Self { steps, threads, groups, precision, ..self.clone() } == *other
            && groups >= self.groups
    }

    /// Kinds of tools that a box has at most.
    fn kinds(&self, step: usize) -> usize {
        let grown = self.age(step) as f64 / self.growth as f64;
        1 + ((Wish::KINDS_MAX - 1) as f64 * grown.min(1.0)) as usize
    }

    /// How much of what nobody can know lessons have.
    fn unheard_of(&self, step: usize) -> f64 {
        let hardened = match self.hardening {
            0 => 1.0,
            steps => (self.age(step) as f64 / steps as f64).min(1.0),
        };
        UNHEARD_OF_FIRST + (1.0 - UNHEARD_OF_FIRST) * hardened
    }

    fn rate(&self, step: usize) -> f64 {
        let warm = |steps: usize| (steps + 1) as f64 / self.warmup as f64;
        let warm = warm(step).min(warm(self.age(step)).recip().sqrt());
        let cool = (self.steps - step) as f64 / (self.cooldown * self.steps as f64);
        self.rate * warm * cool.min(1.0)
    }
}

/// The choices of a step, for one purpose of several.
fn dice(recipe: &Recipe, step: usize, purpose: u64) -> Dice {
    let step = recipe.age(step) as u64;
    Dice::new(recipe.seed.wrapping_mul(1 << 32).wrapping_add(step) ^ (purpose << 63))
}

fn sum<T: Copy + std::ops::Add<Output = T>>(
    one: [T; SOURCES],
    other: [T; SOURCES],
) -> [T; SOURCES] {
    std::array::from_fn(|at| one[at] + other[at])
}

/// The lessons of a step, by box: the same for a seed, whatever was trained before.
pub(crate) fn boxes(teacher: &Teacher, recipe: &Recipe, step: usize) -> Vec<Vec<Lesson>> {
    let mut dice = dice(recipe, step, 0);
    let (kinds, unheard_of) = (recipe.kinds(step), recipe.unheard_of(step));
    let wish = Wish { kinds, unheard_of, ..Wish::TAUGHT };
    (0..recipe.groups).map(|_| teacher.group(recipe.lessons, &wish, &mut dice)).collect()
}

/// What tells the lessons of a recipe from others: the same for all numbers of steps.
pub(crate) fn mark(teacher: &Teacher, recipe: &Recipe) -> String {
    let grown = recipe.growth.max(recipe.hardening);
    let lessons = boxes(teacher, recipe, grown).into_iter().flatten();
    let told = lessons
        .map(|lesson| format!("{:?} {:?} {}", lesson.tools, lesson.messages, lesson.answer.text()));
    format!("{:016x}", lessons::hash(told.collect::<String>()))
}

/// One run of training.
#[derive(Clone)]
pub(crate) struct Run<'a> {
    pub(crate) recipe: Recipe,
    pub(crate) hyper: Hyper,
    pub(crate) teacher: &'a Teacher,
    pub(crate) codec: &'a Codec,
    /// With and without the means to differentiate.
    pub(crate) device: OpenDevice,
    pub(crate) plain_device: OpenDevice,
    pub(crate) crew: Crew,
}

/// The threads of training, each a pool of its own: a part of a step is too small to be shared, and what an
/// operation hands to a pool that others use too waits for them.
#[derive(Debug, Clone)]
pub(crate) struct Crew(Arc<[ThreadPool]>);

impl Crew {
    pub(crate) fn new(threads: usize) -> Result<Self> {
        let one = || Ok(ThreadPoolBuilder::new().num_threads(1).build()?);
        Ok(Self((0..threads).map(|_| one()).collect::<Result<_>>()?))
    }
}

/// What each row shall say, and among what.
fn wanted(part: &Packed) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> =
        part.targets.iter().map(|token| Wanted { token: *token, among: None }).collect();
    for (row, few) in &part.allowed {
        wanted[*row].among = Some(few.clone());
    }
    wanted
}

/// What a step is measured by, in nats: the mean over the tokens of each source.
type Loss = [f64; SOURCES];

/// What a step came to.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Progress {
    pub(crate) step: usize,
    /// Mean over the tokens of answers that the rules leave a choice about, in nats.
    pub(crate) loss: f64,
    /// The same over those of prompts.
    pub(crate) prompts: f64,
    /// The same over those of drills.
    pub(crate) drills: f64,
    /// The same over those of lookups.
    pub(crate) lookups: f64,
    /// The same over the tokens of answers that the rules leave no choice about.
    pub(crate) forced: f64,
    /// The same over what tools and wishes are about.
    pub(crate) topics: f64,
    pub(crate) tokens: usize,
    pub(crate) seconds: f64,
}

impl Run<'_> {
    /// The optimizer that this recipe trains with: Muon for matrices, AdamW for the rest.
    pub(crate) fn optimizer(&self, parameters: &Parameters) -> ModuleOptimizer {
        let muon = MuonConfig::new()
            .with_momentum(MomentumConfig { momentum: 0.95, dampening: 0.0, nesterov: true })
            .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW)
            .build();
        let matrices = ParamGroup::ids_from_module(parameters.matrices.clone());
        let adam = AdamWConfig::new().with_beta_2(0.98).with_weight_decay(0.0).build();
        ModuleOptimizer::from(adam).with_group(matrices, muon, None)
    }

    /// The parts of a step, one for each box.
    pub(crate) fn packed(&self, step: usize) -> Result<Vec<Packed>> {
        let mut parts = Vec::with_capacity(self.recipe.groups);
        let mut dice = dice(&self.recipe, step, 1);
        for lessons in boxes(self.teacher, &self.recipe, step) {
            let mut part = Packed::default();
            let mut examples = self.examples(&lessons)?;
            if let Some(lesson) = lessons.first() {
                examples.extend(Example::lookups(lesson, LOOKUPS, self.codec)?);
            }
            part.add(&examples);
            for _ in 0..DRILLS {
                part.add_drill(self.drilled(), &mut dice);
            }
            parts.push(part);
        }
        parts.retain(|part| !part.targets.is_empty());
        // The longest first: the threads end together.
        parts.sort_by_key(|part| std::cmp::Reverse(part.batch.tokens.len()));
        Ok(parts)
    }

    /// By what heads find names and descriptions, where the vocabulary has it.
    pub(crate) fn marks(&self) -> Option<Marks> {
        let mark = |piece| vocabulary::token(piece, self.codec.tokenizer()).map(|mark| mark.0);
        Some(Marks { name: mark(vocabulary::NAME)?, parameters: mark(vocabulary::PARAMETERS)? })
    }

    /// Tokens that drills are of: all that texts have.
    fn drilled(&self) -> std::ops::Range<u32> {
        vocabulary::CONTROLS.len() as u32..self.hyper.vocabulary
    }

    fn examples(&self, lessons: &[Lesson]) -> Result<Vec<Example>> {
        lessons.iter().map(|lesson| Example::new(lesson, self.codec)).collect()
    }

    /// One step of the optimizer, over its parts.
    pub(crate) fn step(
        &self,
        step: usize,
        parts: &[Packed],
        parameters: Parameters,
        optimizer: &mut ModuleOptimizer,
    ) -> Result<(Parameters, Progress)> {
        let start = Instant::now();
        let (gradients, loss, tokens) = self.slope(parts, &parameters)?;
        let parameters = optimizer.step(self.recipe.rate(step), parameters, gradients);
        let seconds = start.elapsed().as_secs_f64();
        let [loss, prompts, drills, lookups, forced, topics] = loss;
        let losses =
            Progress { step, loss, prompts, drills, lookups, forced, topics, tokens, seconds };
        Ok((parameters, losses))
    }

    /// Gradients of a step's loss, that loss, and the step's tokens.
    fn slope(
        &self,
        parts: &[Packed],
        parameters: &Parameters,
    ) -> Result<(GradientsParams, Loss, usize)> {
        let rows = parts.iter().map(Packed::count).fold([0; SOURCES], sum);
        // What attention costs besides its own work grows with a part: small ones, one after the other.
        let next = AtomicUsize::new(0);
        let work = || -> Result<(GradientsParams, Loss)> {
            let (mut total, mut loss) = (GradientsAccumulator::new(), Loss::default());
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                let (gradients, share) = self.gradients(part, rows, parameters)?;
                total.accumulate(parameters, gradients);
                loss = sum(loss, share);
            }
            Ok((total.grads(), loss))
        };
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                self.crew.0.iter().map(|one| scope.spawn(|| one.install(work))).collect();
            let join = |thread: ScopedJoinHandle<'_, Result<_>>| {
                thread.join().unwrap_or_else(|_| Err(anyhow!("a thread of training panicked")))
            };
            threads.into_iter().map(join).collect()
        });
        let mut total = GradientsAccumulator::new();
        let mut loss = Loss::default();
        for outcome in outcomes {
            let (gradients, share) = outcome?;
            total.accumulate(parameters, gradients);
            loss = sum(loss, share);
        }
        let tokens = parts.iter().map(|part| part.batch.tokens.len()).sum();
        Ok((total.grads(), loss, tokens))
    }

    /// The loss of a step's lessons, and its slope in every number.
    #[cfg(test)]
    pub(crate) fn slopes(
        &self,
        step: usize,
        parameters: &Parameters,
    ) -> Result<(f64, std::collections::HashMap<weights::TensorName, Vec<f32>>)> {
        let (gradients, loss, _) = self.slope(&self.packed(step)?, parameters)?;
        let loss = loss.iter().zip(SHARES).map(|(loss, share)| loss * share).sum();
        Ok((loss, parameters.slopes(&self.hyper, &gradients)?))
    }

    /// Gradients of a part's share of the means over `rows`, and that share.
    fn gradients(
        &self,
        part: &Packed,
        rows: [usize; SOURCES],
        parameters: &Parameters,
    ) -> Result<(GradientsParams, Loss)> {
        let leaves = parameters.leaves(&self.hyper);
        let learner = Learner::new(&self.hyper, &leaves, &self.device, TOKENS_MAX)?;
        let logits = learner
            .logits(&part.batch, &part.early())
            .map_err(|error| anyhow!("a step: {error}"))?;
        let likely = log_likelihoods(logits, wanted(part));
        let mean = |source: &Source| 1.0 / rows[*source as usize] as f64;
        let mut loss = Loss::default();
        let values = likely.clone().inner().into_data();
        for (value, source) in values.iter::<f64>().zip(&part.sources) {
            loss[*source as usize] -= value * mean(source);
        }
        let share = |source: &Source| (SHARES[*source as usize] * mean(source)) as f32;
        let shares: Vec<f32> = part.sources.iter().map(share).collect();
        let shape = [shares.len(), 1];
        let shares = Tensor::from_data(TensorData::new(shares, shape), &self.device.device);
        let slope = (likely * shares).sum().neg().backward();
        Ok((parameters.gradients(&self.hyper, &leaves, slope), loss))
    }

    /// Of the rows that the rules hold, whether each is said right.
    #[cfg(test)]
    pub(crate) fn chosen(&self, parameters: &Parameters, packed: &Packed) -> Result<Vec<bool>> {
        let said = self.said(&parameters.plain(&self.hyper), packed)?;
        Ok(packed.allowed.iter().map(|(row, _)| said[*row]).collect())
    }

    /// Whether each row says what it shall, where the rules leave it a choice.
    fn said(&self, plain: &PlainWeights, packed: &Packed) -> Result<Vec<bool>> {
        let learner = Learner::new(&self.hyper, plain, &self.plain_device, TOKENS_MAX)?;
        let logits = learner
            .logits(&packed.batch, &packed.early())
            .map_err(|error| anyhow!("a test: {error}"))?;
        let width = self.hyper.vocabulary as usize;
        let logits: Vec<f32> = logits
            .into_data()
            .try_into_vec()
            .map_err(|error| anyhow!("logits of other numbers: {error:?}"))?;
        let is_said = |(logits, wanted): (&[f32], &Wanted)| {
            let logit = |token: &u32| logits[*token as usize];
            let highest = match &wanted.among {
                None => logits.iter().copied().fold(f32::NEG_INFINITY, f32::max),
                Some(few) => few.iter().map(logit).fold(f32::NEG_INFINITY, f32::max),
            };
            logit(&wanted.token) >= highest
        };
        let wanted = wanted(packed);
        let mut said: Vec<bool> = logits.chunks(width).zip(&wanted).map(is_said).collect();
        let rows = packed.sources.iter().enumerate();
        rows.filter(|(_, of)| **of == Source::Forced).for_each(|(row, _)| said[row] = true);
        Ok(said)
    }

    /// For each lesson whether its whole answer is what the network would say under the rules. Lessons of
    /// one group share their tools.
    pub(crate) fn exact(
        &self,
        parameters: &Parameters,
        groups: &[Vec<Lesson>],
    ) -> Result<Vec<bool>> {
        let plain = parameters.plain(&self.hyper);
        let mut all = Vec::new();
        for groups in groups.chunks(4) {
            let mut packed = Packed::default();
            for lessons in groups {
                packed.add(&self.examples(lessons)?);
            }
            let said = self.said(&plain, &packed)?;
            all.extend(
                packed.rows.iter().map(|rows| said[rows.clone()].iter().all(|right| *right)),
            );
        }
        Ok(all)
    }
}
