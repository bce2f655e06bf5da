//! Values that must not be seen.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A text that prints as stars, so that it cannot reach a log or a dump by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(********)")
    }
}

/// Reads a secret out of a file; a final line end is not part of it.
///
/// Errors say what is wrong with the file, never what is in it.
pub(crate) fn read_file(path: &Path, private: bool) -> Result<Secret, String> {
    const SECRET_BYTES_MAX: u64 = 64 << 10;
    let shown = path.display();
    let cannot = |error: std::io::Error| format!("cannot read {shown}: {error}");
    let mut file = File::open(path).map_err(cannot)?;
    if private {
        check_mode(&file).map_err(|problem| format!("{shown} {problem}"))?;
    }
    let mut text = String::new();
    let bytes = Read::by_ref(&mut file)
        .take(SECRET_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(cannot)?;
    if bytes as u64 > SECRET_BYTES_MAX {
        return Err(format!("{shown} is larger than {SECRET_BYTES_MAX} bytes"));
    }
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    match secret {
        "" => Err(format!("{shown} is empty")),
        _ => Ok(Secret::new(secret)),
    }
}

#[cfg(unix)]
fn check_mode(file: &File) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = file.metadata().map_err(|error| format!("has no mode: {error}"))?;
    let mode = metadata.permissions().mode() & 0o7777;
    match mode & 0o177 {
        0 => Ok(()),
        _ => Err(format!("has mode {mode:04o}; only its owner may read it: chmod 600")),
    }
}

#[cfg(not(unix))]
fn check_mode(_file: &File) -> Result<(), String> {
    Ok(())
}
