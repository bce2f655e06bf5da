//! Rewrites a model so that its matrices lie in panels, ready to be mapped.
//!
//! The metadata goes over byte for byte, so nothing is lost that is not read here. Tensors stand in
//! the order of computation, as they are read first. The types of panels are no types of the
//! format, so that other readers refuse the file.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::header::{self, ALIGNMENT, ALIGNMENT_MAX, Header, MAGIC, PANELS, PANELS_TYPE};
use super::header::{Kind, PANELS_VERSION, Value, is_gguf};
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
    sink.header(&file, &header, &lines)?;
    let total = lines.last().map_or(0, |line| line.offset + line.bytes).max(1);
    let begin = sink.at;
    for line in &lines {
        // To flush is left when all is written.
        let mut done = |at: u64| progress((0.99 * (at - begin) as f64 / total as f64) as f32);
        sink.tensor(&file, line, pack, &mut done)?;
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

/// The new file while it is written, under a name of its own; it is removed unless published.
struct Sink {
    writer: BufWriter<File>,
    unfinished: Unfinished,
    at: u64,
}

impl Sink {
    fn create(output: &Path) -> Result<Self, WeightsError> {
        let refused = |source| failed(output, source);
        let Some(name) = output.file_name() else {
            return Err(refused(io::Error::new(io::ErrorKind::InvalidInput, "it names no file")));
        };
        let mut own = std::ffi::OsString::from(".");
        own.push(name);
        own.push(format!(".{}.part", std::process::id()));
        let temporary = output.with_file_name(own);
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .map_err(|source| failed(&temporary, source))?;
        let unfinished = Unfinished { temporary, output: output.to_owned() };
        Ok(Self { writer: BufWriter::new(file), unfinished, at: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), WeightsError> {
        self.writer.write_all(bytes).map_err(|source| failed(&self.unfinished.output, source))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), WeightsError> {
        self.write(&(text.len() as u64).to_le_bytes())?;
        self.write(text.as_bytes())
    }

    fn key(&mut self, key: &str, kind: Kind) -> Result<(), WeightsError> {
        self.text(key)?;
        self.write(&(kind as u32).to_le_bytes())
    }

    fn pad(&mut self) -> Result<(), WeightsError> {
        let gap = self.at.next_multiple_of(ALIGNMENT_BYTES) - self.at;
        self.write(&[0; ALIGNMENT_BYTES as usize][..gap as usize])
    }

    fn header(
        &mut self,
        file: &Mapped,
        header: &Header<'_>,
        lines: &[Line<'_>],
    ) -> Result<(), WeightsError> {
        let own = [ALIGNMENT, PANELS, SOURCE];
        let kept = || header.pairs.iter().filter(|(key, _)| !own.contains(key));
        self.write(MAGIC)?;
        self.write(&3_u32.to_le_bytes())?;
        self.write(&(lines.len() as u64).to_le_bytes())?;
        self.write(&((kept().count() + own.len()) as u64).to_le_bytes())?;
        for (_, range) in kept() {
            self.write(&file.bytes[range.clone()])?;
        }
        self.key(ALIGNMENT, Kind::U32)?;
        self.write(&(ALIGNMENT_BYTES as u32).to_le_bytes())?;
        self.key(PANELS, Kind::U32)?;
        self.write(&PANELS_VERSION.to_le_bytes())?;
        self.key(SOURCE, Kind::Text)?;
        self.text(&file.path.file_name().unwrap_or_default().to_string_lossy())?;
        for line in lines {
            self.text(line.name)?;
            self.write(&(line.place.shape.len() as u32).to_le_bytes())?;
            // The format states columns first.
            for dimension in line.place.shape.iter().rev() {
                self.write(&(*dimension as u64).to_le_bytes())?;
            }
            let own = line.place.encoding.gguf();
            let number = match line.layout {
                TensorLayout::Rows => own,
                TensorLayout::Panels => PANELS_TYPE + own,
            };
            self.write(&number.to_le_bytes())?;
            self.write(&line.offset.to_le_bytes())?;
        }
        self.pad()
    }

    fn tensor(
        &mut self,
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
                    self.write(panels)?;
                    done(self.at);
                }
            }
            _ => {
                for bytes in bytes.chunks(GROUP_BYTES) {
                    self.write(bytes)?;
                    done(self.at);
                }
            }
        }
        self.pad()
    }

    /// Puts everything on the disk.
    fn flush(self) -> Result<Unfinished, WeightsError> {
        let Self { writer, unfinished, .. } = self;
        let flushed = writer.into_inner().map_err(io::IntoInnerError::into_error);
        flushed
            .and_then(|file| file.sync_all())
            .map_err(|source| failed(&unfinished.output, source))?;
        Ok(unfinished)
    }
}

fn failed(path: &Path, source: io::Error) -> WeightsError {
    WeightsError::Io { path: path.to_owned(), doing: "write", source }
}

/// A file that nobody sees yet.
struct Unfinished {
    temporary: PathBuf,
    output: PathBuf,
}

impl Unfinished {
    /// Gives it the name that was asked for, for good.
    fn publish(self) -> Result<(), WeightsError> {
        let refused = |source| failed(&self.output, source);
        fs::rename(&self.temporary, &self.output).map_err(refused)?;
        #[cfg(unix)]
        {
            let folder = self.output.parent().filter(|folder| *folder != Path::new(""));
            let folder = File::open(folder.unwrap_or_else(|| Path::new("."))).map_err(refused)?;
            folder.sync_all().map_err(refused)?;
        }
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After publishing it is not there; else nothing is left to tell the error to.
        let _gone = fs::remove_file(&self.temporary);
    }
}
