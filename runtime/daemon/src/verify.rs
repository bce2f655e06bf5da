//! Whether a model's files are whole, without loading them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::AssembleError;
use crate::inspect;
use crate::model_files::ModelFiles;

/// Files of one folder that are looked at.
const FILES_MAX: usize = 4096;
/// What belongs to a model in a folder.
const EXTENSIONS: [&str; 4] = ["gguf", "safetensors", "json", "model"];
/// Bytes that are read and hashed at once.
const PIECE_BYTES: usize = 1 << 20;

impl ModelFiles {
    /// Checks the files and tells what was found: `valid`, the `checks` with what is wrong, the
    /// `facts` that `zonda model inspect --json` prints, and the `files` with bytes and SHA-256.
    ///
    /// Reads every byte of the files, which takes as long as the disk needs.
    ///
    /// Errors: a file that cannot be read to its end. A model that is not whole is no error.
    pub fn verify(&self) -> Result<Value, AssembleError> {
        let mut checks = Vec::new();
        let mut facts = Value::Null;
        // Opening proves the header, that the tensors tile their file without gap, overlap or tail,
        // and that they are those, with those shapes, that the hyper-parameters ask for.
        match self.open() {
            Err(error) => checks.push(("weights", Err(error.to_string()))),
            Ok(archive) => {
                checks.push(("weights", Ok(())));
                let tokenizer = self.tokenizer(archive.as_ref());
                let vocabulary = archive.hyper().vocabulary as usize;
                facts = inspect::facts_with_tokenizer(archive.as_ref(), &tokenizer, false);
                checks.push(("tokenizer", check_tokenizer(tokenizer, vocabulary)));
            }
        }
        let valid = checks.iter().all(|(_, found)| found.is_ok());
        let told = checks.into_iter().map(|(name, found)| match found {
            Ok(()) => json!({"check": name, "passed": true}),
            Err(problem) => json!({"check": name, "passed": false, "problem": problem}),
        });
        let checks: Vec<Value> = told.collect();
        Ok(json!({"valid": valid, "checks": checks, "facts": facts, "files": self.digests()?}))
    }

    fn digests(&self) -> Result<Vec<Value>, AssembleError> {
        match self {
            Self::Embedded => {
                let bytes = Self::embedded();
                let sum = hex(&Sha256::digest(bytes));
                Ok(vec![json!({"path": null, "bytes": bytes.len(), "sha256": sum})])
            }
            Self::Path(path) => files_of(path)?.iter().map(|file| digest(file)).collect(),
            Self::Synthetic(..) => Ok(Vec::new()),
        }
    }
}

fn check_tokenizer(
    tokenizer: Result<text::Tokenizer, AssembleError>,
    vocabulary: usize,
) -> Result<(), String> {
    let tokens = tokenizer.map_err(|error| error.to_string())?.vocabulary_size();
    if tokens > vocabulary {
        return Err(format!("the tokenizer has {tokens} tokens, the model {vocabulary}"));
    }
    Ok(())
}

/// The file, or those of the folder that belong to a model, in order of their names.
fn files_of(path: &Path) -> Result<Vec<PathBuf>, AssembleError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)?.take(FILES_MAX) {
        let file = entry?.path();
        let extension = file.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) && file.is_file() {
            files.push(file);
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn digest(path: &Path) -> Result<Value, AssembleError> {
    let unreadable = |error: std::io::Error| {
        std::io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let (mut sum, mut bytes) = (Sha256::new(), 0u64);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = file.read(&mut piece).map_err(unreadable)?;
        if count == 0 {
            break;
        }
        sum.update(&piece[..count]);
        bytes += count as u64;
    }
    let sum = hex(&sum.finalize());
    Ok(json!({"path": path.to_string_lossy(), "bytes": bytes, "sha256": sum}))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(report: &Value) -> Vec<(&str, bool)> {
        let checks = report["checks"].as_array().unwrap();
        let told = checks.iter();
        told.map(|check| (check["check"].as_str().unwrap(), check["passed"] == true)).collect()
    }

    #[test]
    fn what_the_program_carries_is_whole() {
        let report = ModelFiles::Embedded.verify().unwrap();
        assert_eq!(report["valid"], true, "{report}");
        assert_eq!(checks(&report), [("weights", true), ("tokenizer", true)]);
        assert_eq!(report["facts"]["container"], "gguf");
        assert_eq!(report["files"][0]["bytes"].as_u64(), report["facts"]["file_bytes"].as_u64());
    }

    #[test]
    fn a_damaged_file_is_told_with_its_sum() {
        let folder = std::env::temp_dir().join(format!("zonda-verify-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("cut.gguf");
        std::fs::write(&file, &ModelFiles::embedded()[..5000]).unwrap();
        let report = ModelFiles::Path(file.clone()).verify().unwrap();
        assert_eq!((&report["valid"], checks(&report)), (&json!(false), vec![("weights", false)]));
        assert!(report["checks"][0]["problem"].as_str().unwrap().contains("cut.gguf"));
        assert_eq!(report["facts"], Value::Null);
        assert_eq!(report["files"][0]["bytes"].as_u64(), Some(5000));

        std::fs::write(&file, b"abc").unwrap();
        let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let of_folder = ModelFiles::Path(folder.clone()).verify().unwrap();
        assert_eq!(of_folder["files"][0]["sha256"], sum);
        assert_eq!(of_folder["valid"], false);
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(ModelFiles::Path(file).verify().is_err());
    }
}
