//! A GGUF file while it is written.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::header::{ALIGNMENT_MAX, Kind};
use crate::WeightsError;

/// The new file while it is written, under a name of its own; it is removed unless published.
pub(super) struct Sink {
    writer: BufWriter<File>,
    unfinished: Unfinished,
    /// Bytes so far.
    pub(super) at: u64,
}

impl Sink {
    pub(super) fn create(output: &Path) -> Result<Self, WeightsError> {
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

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), WeightsError> {
        self.writer.write_all(bytes).map_err(|source| failed(&self.unfinished.output, source))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn text(&mut self, text: &str) -> Result<(), WeightsError> {
        self.write(&(text.len() as u64).to_le_bytes())?;
        self.write(text.as_bytes())
    }

    pub(super) fn key(&mut self, key: &str, kind: Kind) -> Result<(), WeightsError> {
        self.text(key)?;
        self.write(&(kind as u32).to_le_bytes())
    }

    /// Zeros until the next multiple of `alignment` bytes.
    pub(super) fn pad(&mut self, alignment: u64) -> Result<(), WeightsError> {
        let gap = self.at.next_multiple_of(alignment) - self.at;
        self.write(&[0; ALIGNMENT_MAX as usize][..gap as usize])
    }

    /// A tensor of the table: the format states columns first.
    pub(super) fn entry(
        &mut self,
        name: &str,
        shape: &[usize],
        kind: u32,
        offset: u64,
    ) -> Result<(), WeightsError> {
        self.text(name)?;
        self.write(&(shape.len() as u32).to_le_bytes())?;
        for dimension in shape.iter().rev() {
            self.write(&(*dimension as u64).to_le_bytes())?;
        }
        self.write(&kind.to_le_bytes())?;
        self.write(&offset.to_le_bytes())
    }

    /// Puts everything on the disk.
    pub(super) fn flush(self) -> Result<Unfinished, WeightsError> {
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
pub(super) struct Unfinished {
    pub(super) temporary: PathBuf,
    output: PathBuf,
}

impl Unfinished {
    /// Gives it the name that was asked for, for good.
    pub(super) fn publish(self) -> Result<(), WeightsError> {
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
