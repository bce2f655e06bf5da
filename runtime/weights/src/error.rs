//! What can be wrong with a model's files.

use std::path::PathBuf;

/// Why a model cannot be read. Each text says what was found, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: "open", "map", "read", "write".
        doing: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Nothing in the file or folder is a model that can be read.
    #[error(
        "{} is no model: {found}. Give a .gguf file, a .safetensors file with config.json beside \
         it, or a folder with config.json or params.json and its .safetensors files",
        path.display()
    )]
    Unrecognised {
        /// The file or folder.
        path: PathBuf,
        /// What is there instead.
        found: String,
    },
    /// The file breaks a rule of its format: it is cut, damaged or forged.
    #[error("{}: {at}: {problem}. The file is damaged: fetch it again", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in the file, in its own words: a key, a tensor, a byte position.
        at: String,
        /// Which rule is broken, with the numbers.
        problem: String,
    },
    /// A number is larger than this reader accepts.
    #[error("{}: {what} is {found}, the limit is {limit}. Use a file within the limit", path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// Which number, with its unit.
        what: String,
        /// What the file says.
        found: u64,
        /// What is accepted.
        limit: u64,
    },
    /// The file may be sound, but what it holds is not read here.
    #[error("{}: {what} is not supported. {advice}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
        /// What to do instead.
        advice: String,
    },
    /// The file does not state a hyper-parameter that it must state.
    #[error("{}: `{key}` is missing. Convert the model again with a current converter", path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key in the file's spelling.
        key: String,
    },
    /// A key has a value that cannot be right.
    #[error("{}: `{key}` is {found}, expected {expected}. Correct or convert the model again", path.display())]
    WrongValue {
        /// The file.
        path: PathBuf,
        /// The key in the file's spelling.
        key: String,
        /// What it says.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A tensor of the architecture is not in the files.
    #[error("{}: tensor `{tensor}` is missing. The model is incomplete: fetch it again", path.display())]
    MissingTensor {
        /// The file or folder.
        path: PathBuf,
        /// The tensor in the container's spelling.
        tensor: String,
    },
    /// A tensor has another shape than the hyper-parameters ask for.
    #[error(
        "{}: tensor `{tensor}` has shape {found:?}, the hyper-parameters ask for {expected:?}. \
         Weights and configuration do not belong together: fetch both again",
        path.display()
    )]
    WrongShape {
        /// The file or folder.
        path: PathBuf,
        /// The tensor in the container's spelling.
        tensor: String,
        /// Rows first.
        found: Vec<usize>,
        /// Rows first.
        expected: Vec<usize>,
    },
    /// Values are asked of a tensor that lies as only the kernels for the CPU read it.
    #[error(
        "a tensor in {encoding} lies in panels, as the CPU reads it. \
         Use the model that this one was prepared from"
    )]
    InPanels {
        /// Name of the encoding.
        encoding: &'static str,
    },
    /// What is to be written is there already.
    #[error("{} is there already. Name another file, or force it to be replaced", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A row cannot be cut into whole blocks.
    #[error(
        "{encoding} packs {block_values} values to a block; {values} values are not whole blocks"
    )]
    RowLength {
        /// Name of the encoding.
        encoding: &'static str,
        /// Values in one block.
        block_values: usize,
        /// Values asked for.
        values: usize,
    },
    /// The bytes given to an unpack and the room for its values do not belong together.
    #[error(
        "{encoding} has blocks of {block_bytes} bytes and {block_values} values; \
         {bytes} bytes do not fill {values} values"
    )]
    UnpackLength {
        /// Name of the encoding.
        encoding: &'static str,
        /// Bytes of one block.
        block_bytes: usize,
        /// Values in one block.
        block_values: usize,
        /// Bytes given.
        bytes: usize,
        /// Values asked for.
        values: usize,
    },
}
