//! Reading files whole, up to a limit.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::UNIX_EPOCH;

use crate::OnnxError;

/// Largest network, in bytes.
pub const NETWORK_BYTES_MAX: u64 = 1 << 30;
/// Largest `tokenizer.json`, in bytes.
pub const TOKENIZER_BYTES_MAX: u64 = 64 << 20;

pub(crate) fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, OnnxError> {
    let unreadable = |source| OnnxError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let bytes = file.metadata().map_err(unreadable)?.len();
    let too_large = |bytes| OnnxError::TooLarge { path: path.to_owned(), bytes, bytes_max };
    if bytes > bytes_max {
        return Err(too_large(bytes));
    }
    let mut content = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
    // What is no plain file states no size.
    file.take(bytes_max + 1).read_to_end(&mut content).map_err(unreadable)?;
    match content.len() as u64 {
        bytes if bytes > bytes_max => Err(too_large(bytes)),
        _ => Ok(content),
    }
}

/// Seconds since 1970 at which the file was last changed; 0 where that is not known.
pub(crate) fn modified_unix(path: &Path) -> u64 {
    let modified = std::fs::metadata(path).and_then(|facts| facts.modified()).ok();
    modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |age| age.as_secs())
}
