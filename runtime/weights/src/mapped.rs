//! A file, mapped; and errors that name it.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use memmap2::Mmap;

use crate::WeightsError;

/// Bytes of a header that are read at most, whatever the file says.
pub(crate) const HEADER_BYTES_MAX: u64 = 100 << 20;
/// Bytes of a key or of a tensor's name.
pub(crate) const KEY_BYTES_MAX: u64 = 256;

/// A file's bytes without a copy. Views of them keep the mapping alive.
#[derive(Debug, Clone)]
pub(crate) struct Mapped {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Bytes,
    pub(crate) modified_unix: u64,
    /// `None` for bytes that the program carries.
    map: Option<Arc<Mmap>>,
}

/// What `bytes` hold of the mapping.
struct Shared(Arc<Mmap>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Mapped {
    /// Maps a regular file that is not empty.
    pub(crate) fn open(path: &Path) -> Result<Self, WeightsError> {
        let failed = |doing| {
            move |source: io::Error| WeightsError::Io { path: path.to_owned(), doing, source }
        };
        // Asked before opening: to open a pipe waits for its other end.
        let metadata = fs::metadata(path).map_err(failed("open"))?;
        if !metadata.is_file() || metadata.len() == 0 {
            let found = if metadata.is_file() { "it is empty" } else { "it is not a file" };
            return Err(WeightsError::Unrecognised { path: path.to_owned(), found: found.into() });
        }
        let file = File::open(path).map_err(failed("open"))?;
        // SAFETY: the mapping is read-only and owned by `Bytes`, so no view outlives it. What the
        // type system cannot see is another process that changes the file meanwhile: a model in
        // use is replaced by renaming a new file over it, which leaves this mapping intact; this
        // is what the operator is told. Lengths and offsets are read once, checked, and kept
        // outside the mapping, so even then no view reaches beyond it.
        let map = unsafe { Mmap::map(&file) }.map_err(failed("map"))?;
        let age = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let map = Arc::new(map);
        Ok(Self {
            path: path.to_owned(),
            bytes: Bytes::from_owner(Shared(map.clone())),
            modified_unix: age.map_or(0, |age| age.as_secs()),
            map: Some(map),
        })
    }

    /// Gives the memory of whole pages inside a range back; reading them reads the file again.
    pub(crate) fn release(&self, range: Range<usize>) {
        /// A multiple of every page that systems have.
        const PAGE: usize = 64 << 10;
        let (first, end) = (range.start.next_multiple_of(PAGE), range.end / PAGE * PAGE);
        #[cfg(unix)]
        if let Some(map) = &self.map
            && first < end
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the mapping is of a file and only read, so what comes back when it is read
            // again are the same bytes of the file; no view sees a difference.
            let _refused = unsafe { map.unchecked_advise_range(advice, first, end - first) };
        }
        #[cfg(not(unix))]
        let _ = (first, end);
    }

    /// Bytes that the program carries. `name` stands for the path in errors.
    pub(crate) fn embedded(name: &str, bytes: &'static [u8]) -> Self {
        Self {
            path: PathBuf::from(name),
            bytes: Bytes::from_static(bytes),
            modified_unix: 0,
            map: None,
        }
    }

    /// The error for bytes that break a rule of their format.
    pub(crate) fn malformed(
        &self,
        at: impl Into<String>,
        problem: impl Into<String>,
    ) -> WeightsError {
        let (at, problem) = (at.into(), problem.into());
        WeightsError::Malformed { path: self.path.clone(), at, problem }
    }

    /// An error unless the number is within its limit.
    pub(crate) fn within(
        &self,
        what: impl Into<String>,
        found: u64,
        limit: u64,
    ) -> Result<(), WeightsError> {
        if found <= limit {
            return Ok(());
        }
        Err(WeightsError::Limit { path: self.path.clone(), what: what.into(), found, limit })
    }
}
