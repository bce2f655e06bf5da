//! `zonda model prepare`: a model whose matrices are mapped as the CPU reads them.

use std::io::Write;
use std::path::Path;

use crate::error::AssembleError;

/// Writes `model` to `output` in the layout of the CPU's kernels, and says so.
pub(crate) fn prepare(
    model: &Path,
    output: &Path,
    force: bool,
    stdout: &mut dyn Write,
) -> Result<(), AssembleError> {
    let mut progress = crate::progress::bar("preparing");
    let bytes = model::prepare(model, output, force, &mut progress)?;
    Ok(writeln!(stdout, "{} is written, {bytes} bytes", output.display())?)
}
