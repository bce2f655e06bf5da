//! A network that reads numbers as they come and says how odd the last ones are.

use std::path::PathBuf;
use std::sync::Arc;

use tract_onnx::prelude::{
    DatumType, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, TValue, Tensor,
    ToDim, TypedSimplePlan,
};
use tract_onnx::tract_hir::infer::Factoid;

use crate::OnnxError;
use crate::graph::{guarded, open};

/// Fewest numbers of a window.
pub const WINDOW_MIN: u32 = 2;
/// Most numbers of a window.
pub const WINDOW_MAX: u32 = 4096;

/// What a detector is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetectorConfig {
    /// The network.
    pub network: PathBuf,
    /// Numbers that it reads at once; `None` where the file states it.
    pub window: Option<u32>,
}

/// What the network gives for a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// The window as it should be: the score is the mean of the squared differences.
    Reconstruction,
    /// The score itself.
    Score,
}

/// A network that says how odd a window of numbers is.
///
/// It has one input, `[1, window]` or `[1, window, 1]` or `[1, 1, window]`, and either gives as many
/// numbers back (an autoencoder), or one number, the score.
pub struct Detector {
    path: PathBuf,
    runnable: Arc<TypedSimplePlan>,
    datum: DatumType,
    shape: Vec<usize>,
    window: usize,
    output: Output,
}

impl Detector {
    /// Loads the file and runs the network once.
    ///
    /// Errors: a file that is not right, and a network that is no detector or takes no window of
    /// this length.
    pub fn open(config: &DetectorConfig) -> Result<Self, OnnxError> {
        let path = config.network.clone();
        let unfit = |message| OnnxError::Unfit { path: config.network.clone(), message };
        let model = open(&path)?;
        let (shape, datum) = input(&model, config.window).map_err(unfit)?;
        let window = shape.iter().product();
        let runnable = guarded(|| {
            let mut model = model;
            let dims: Vec<_> = shape.iter().map(ToDim::to_dim).collect();
            model.set_input_fact(0, InferenceFact::dt_shape(datum, dims))?;
            let outputs = model.output_outlets()?.to_vec();
            model.select_output_outlets(&outputs[..1.min(outputs.len())])?;
            model.into_optimized()?.into_runnable()
        })
        .map_err(unfit)?;
        let output = Output::Score;
        let mut detector = Self { path, runnable, datum, shape, window, output };
        let given = detector.run(&vec![0.0; window])?.len();
        detector.output = match given {
            1 => Output::Score,
            given if given == window => Output::Reconstruction,
            given => {
                let message = format!(
                    "a detector gives one number, or as many as it reads; this one reads {window} \
                     and gives {given}"
                );
                return Err(OnnxError::Unfit { path: detector.path, message });
            }
        };
        Ok(detector)
    }

    /// Numbers that it reads at once.
    pub fn window(&self) -> usize {
        self.window
    }

    /// How odd `window` is; it has as many numbers as the network reads.
    ///
    /// Errors: the network fails, or its score is no finite number.
    pub fn score(&self, window: &[f32]) -> Result<f64, OnnxError> {
        let given = self.run(window)?;
        let score = match self.output {
            Output::Score => given.first().copied().map_or(f64::NAN, f64::from),
            Output::Reconstruction => {
                let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
                given.iter().zip(window).map(square).sum::<f64>() / window.len() as f64
            }
        };
        match score.is_finite() {
            true => Ok(score),
            false => Err(OnnxError::Run { message: "its score is no finite number".to_owned() }),
        }
    }

    fn run(&self, window: &[f32]) -> Result<Vec<f32>, OnnxError> {
        guarded(|| {
            let tensor = Tensor::from_shape(&self.shape, window)?;
            let input: TValue = tensor.cast_to_dt(self.datum)?.into_owned().into();
            let outputs = self.runnable.run([input].into_iter().collect())?;
            let output = outputs[0].cast_to::<f32>()?;
            Ok(output.try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
        })
        .map_err(|message| OnnxError::Run { message })
    }
}

/// The shape of one window, and the type of its numbers.
fn input(model: &InferenceModel, wanted: Option<u32>) -> Result<(Vec<usize>, DatumType), String> {
    let [outlet] = model.inputs[..] else {
        return Err(format!("a detector has one input; this one has {}", model.inputs.len()));
    };
    let fact = guarded(|| model.outlet_fact(outlet).cloned())?;
    let stated: Vec<Option<usize>> = fact
        .shape
        .dims()
        .map(|dim| {
            dim.concretize()
                .and_then(|dim| dim.to_i64().ok())
                .and_then(|dim| usize::try_from(dim).ok())
        })
        .collect();
    let open = match stated[..] {
        [_, _] => 1,
        [_, _, Some(1)] => 1,
        [_, Some(1), _] => 2,
        _ => {
            return Err(
                "the input of a detector is [batch, window], or has one channel more".to_owned()
            );
        }
    };
    let wanted = wanted.map(|wanted| wanted as usize);
    let window = match (stated[open], wanted) {
        (Some(stated), Some(wanted)) if stated != wanted => {
            return Err(format!("it reads {stated} numbers at once; set window = {stated}"));
        }
        (Some(stated), _) => stated,
        (None, Some(wanted)) => wanted,
        (None, None) => return Err("it reads any number at once; set window".to_owned()),
    };
    if !(WINDOW_MIN as usize..=WINDOW_MAX as usize).contains(&window) {
        return Err(format!(
            "it reads {window} numbers at once; {WINDOW_MIN} to {WINDOW_MAX} are possible"
        ));
    }
    let mut shape = vec![1; stated.len()];
    shape[open] = window;
    let datum = fact.datum_type.concretize().unwrap_or(DatumType::F32);
    Ok((shape, datum))
}
