//! Rewrites a model so that its matrices lie in panels, ready to be mapped.
//!
//! The metadata goes over byte for byte, so nothing is lost that is not read here. Tensors stand in
//! the order of computation, as they are read first. The types of panels are no types of the
//! format, so that other readers refuse the file.

use std::path::Path;

use super::header::{self, ALIGNMENT, ALIGNMENT_MAX, Header, MAGIC, PANELS, PANELS_TYPE};
use super::header::{Kind, PANELS_VERSION, Value, is_gguf};
use super::sink::Sink;
use crate::archive::Container;
use crate::mapped::Mapped;
use crate::safetensors::is_safetensors;
use crate::table::{PANEL_ROWS, Place, panels_bytes};
use crate::{Encoding, TensorLayout, TensorName, WeightsError};

/// The file name of the model that a file was made of.
const SOURCE: &str = "zonda.source";
/// Each tensor begins at a page.
const ALIGNMENT_BYTES: u64 = ALIGNMENT_MAX;
/// Bytes of a tensor that are moved at a time.
const GROUP_BYTES: usize = 4 << 20;

/// Moves rows into panels: encoding, columns, rows as the file has them, room for whole panels.
pub type PackRows = fn(Encoding, usize, &[u8], &mut [u8]);

/// Writes the GGUF file `source` to `output`, with every matrix of a product in panels.
///
/// The file appears under its name when it is whole; bytes of the new file come back. Memory is
/// bounded, whatever the model. `replace` permits to replace a file. `progress` is told the share
/// that is done, from 0 to 1.
///
/// # Errors
/// Those of [`open`](crate::open) for the source; `Unsupported` for a source that is prepared or
/// is no GGUF; `Exists`; `Io` for what the system refuses.
pub fn prepare(
    source: &Path,
    output: &Path,
    replace: bool,
    pack: PackRows,
    progress: &mut dyn FnMut(f32),
) -> Result<u64, WeightsError> {
    refuse_to_overwrite(source, output, replace)?;
    let file = open_source(source)?;
    // The whole of the checks, before a byte is written.
    super::open(file.clone())?;
    let header = header::read(&file)?;
    refuse_prepared(&file, &header)?;
    let lines = plan(&file, &header)?;
    let mut sink = Sink::create(output)?;
    write_header(&mut sink, &file, &header, &lines)?;
    let total = lines.last().map_or(0, |line| line.offset + line.bytes).max(1);
    let begin = sink.at;
    for line in &lines {
        // To flush is left when all is written.
        let mut done = |at: u64| progress((0.99 * (at - begin) as f64 / total as f64) as f32);
        write_tensor(&mut sink, &file, line, pack, &mut done)?;
        file.release(line.place.range.clone());
    }
    let bytes = sink.at;
    let written = sink.flush()?;
    // What cannot be opened is not handed out.
    super::open(Mapped::open(&written.temporary)?)?;
    refuse_to_overwrite(source, output, replace)?;
    written.publish()?;
    progress(1.0);
    Ok(bytes)
}

fn refuse_to_overwrite(source: &Path, output: &Path, replace: bool) -> Result<(), WeightsError> {
    let Ok(there) = output.canonicalize() else {
        return Ok(());
    };
    if !replace || !there.is_file() {
        return Err(WeightsError::Exists { path: output.to_owned() });
    }
    if source.canonicalize().is_ok_and(|source| source == there) {
        return Err(WeightsError::Unsupported {
            path: source.to_owned(),
            what: "to replace a model by its own preparation".into(),
            advice: "Name another output.".into(),
        });
    }
    Ok(())
}

fn open_source(source: &Path) -> Result<Mapped, WeightsError> {
    let unsupported = |advice: &str| WeightsError::Unsupported {
        path: source.to_owned(),
        what: "to prepare a model that is no GGUF file".into(),
        advice: advice.into(),
    };
    let direct = "Safetensors are loaded directly; to prepare them, convert them to GGUF first.";
    if source.is_dir() {
        return Err(unsupported(direct));
    }
    let file = Mapped::open(source)?;
    match (is_gguf(&file.bytes), is_safetensors(source)) {
        (true, _) => Ok(file),
        (false, true) => Err(unsupported(direct)),
        (false, false) => Err(unsupported("Give a file that begins with GGUF.")),
    }
}

fn refuse_prepared(file: &Mapped, header: &Header<'_>) -> Result<(), WeightsError> {
    if !header.values.contains_key(PANELS) {
        return Ok(());
    }
    let source = header.values.get(SOURCE).map_or_else(|| "another file".into(), Value::show);
    Err(WeightsError::Unsupported {
        path: file.path.clone(),
        what: "to prepare a model a second time".into(),
        advice: format!("It was made of {source} and is loaded as it is."),
    })
}

/// A tensor of the new file.
struct Line<'a> {
    name: &'a str,
    place: &'a Place,
    layout: TensorLayout,
    /// From the first tensor's first byte.
    offset: u64,
    bytes: u64,
}

fn plan<'a>(file: &Mapped, header: &'a Header<'_>) -> Result<Vec<Line<'a>>, WeightsError> {
    let mut tensors: Vec<(&str, &Place)> = header.table.iter().collect();
    tensors.sort_by_key(|(name, _)| order(name));
    let mut lines = Vec::with_capacity(tensors.len());
    let mut offset: u64 = 0;
    for (name, place) in tensors {
        let too_large = || file.malformed(format!("tensor `{name}`"), "its panels are too large");
        let (layout, bytes) = if super::is_multiplied(name) {
            let bytes = panels_bytes(place.encoding, &place.shape).ok_or_else(too_large)?;
            (TensorLayout::Panels, bytes as u64)
        } else {
            (TensorLayout::Rows, place.range.len() as u64)
        };
        lines.push(Line { name, place, layout, offset, bytes });
        let end = offset.checked_add(bytes);
        offset = end
            .and_then(|end| end.checked_next_multiple_of(ALIGNMENT_BYTES))
            .ok_or_else(too_large)?;
    }
    Ok(lines)
}

/// The order of computation; what the network does not know comes last.
fn order(name: &str) -> (u8, u16, u8) {
    match TensorName::from_spelling(Container::Gguf, name) {
        Some(TensorName::Embedding) => (0, 0, 0),
        Some(TensorName::Block { layer, part }) => (1, layer, part as u8),
        Some(TensorName::OutputNorm) => (2, 0, 0),
        Some(TensorName::Output) => (3, 0, 0),
        None => (4, 0, 0),
    }
}

fn write_header(
    sink: &mut Sink,
    file: &Mapped,
    header: &Header<'_>,
    lines: &[Line<'_>],
) -> Result<(), WeightsError> {
    let own = [ALIGNMENT, PANELS, SOURCE];
    let kept = || header.pairs.iter().filter(|(key, _)| !own.contains(key));
    sink.write(MAGIC)?;
    sink.write(&3_u32.to_le_bytes())?;
    sink.write(&(lines.len() as u64).to_le_bytes())?;
    sink.write(&((kept().count() + own.len()) as u64).to_le_bytes())?;
    for (_, range) in kept() {
        sink.write(&file.bytes[range.clone()])?;
    }
    sink.key(ALIGNMENT, Kind::U32)?;
    sink.write(&(ALIGNMENT_BYTES as u32).to_le_bytes())?;
    sink.key(PANELS, Kind::U32)?;
    sink.write(&PANELS_VERSION.to_le_bytes())?;
    sink.key(SOURCE, Kind::Text)?;
    sink.text(&file.path.file_name().unwrap_or_default().to_string_lossy())?;
    for line in lines {
        let own = line.place.encoding.gguf();
        let number = match line.layout {
            TensorLayout::Rows => own,
            TensorLayout::Panels => PANELS_TYPE + own,
        };
        sink.entry(line.name, &line.place.shape, number, line.offset)?;
    }
    sink.pad(ALIGNMENT_BYTES)
}

fn write_tensor(
    sink: &mut Sink,
    file: &Mapped,
    line: &Line<'_>,
    pack: PackRows,
    done: &mut dyn FnMut(u64),
) -> Result<(), WeightsError> {
    let Line { place, .. } = line;
    let bytes = &file.bytes[place.range.clone()];
    match (line.layout, &place.shape[..]) {
        (TensorLayout::Panels, &[rows, cols]) => {
            let row_bytes = bytes.len() / rows;
            // At most the tensor's own panels, which were counted.
            let panel = row_bytes * PANEL_ROWS;
            let group = (GROUP_BYTES / panel).max(1) * panel;
            let mut panels = vec![0; group.min(line.bytes as usize)];
            for rows in bytes.chunks(group) {
                let panels = &mut panels[..rows.len().next_multiple_of(panel)];
                pack(place.encoding, cols, rows, panels);
                sink.write(panels)?;
                done(sink.at);
            }
        }
        _ => {
            for bytes in bytes.chunks(GROUP_BYTES) {
                sink.write(bytes)?;
                done(sink.at);
            }
        }
    }
    sink.pad(ALIGNMENT_BYTES)
}
