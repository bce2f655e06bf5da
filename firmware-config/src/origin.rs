//! Where a value comes from, and what is wrong with it.

use std::fmt;
use std::path::PathBuf;

/// The place that a value was set at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The device's profile, which is part of the program.
    Profile {
        /// Its id.
        id: String,
        /// Line in its file, from 1.
        line: u32,
    },
    /// A share of this device's memory, as a generic profile has it.
    Scaled {
        /// The generic profile.
        id: String,
        /// What was divided.
        memory_bytes: u64,
    },
    /// A configuration file.
    File {
        /// Which.
        path: PathBuf,
        /// Line, from 1; 0 where it is the file as a whole.
        line: u32,
    },
    /// An environment variable.
    Environment(String),
    /// A flag of the command line, such as `--http`.
    Flag(String),
    /// A file with a secret in it.
    Credential(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Profile { id, line } => write!(f, "profile {id}:{line}"),
            Self::Scaled { id, memory_bytes } => {
                write!(f, "profile {id}, scaled to {}", crate::amount::bytes_text(*memory_bytes))
            }
            Self::File { path, line: 0 } => write!(f, "{}", path.display()),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Credential(path) => write!(f, "credential {}", path.display()),
        }
    }
}

/// One thing wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// What, which limit, what to do. Never holds a secret.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

/// The configuration makes no sense; all that is wrong with it, one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.lines())]
pub struct ProfileError {
    /// At least one; those of one file in the order of its lines.
    pub problems: Vec<Problem>,
}

impl ProfileError {
    fn lines(&self) -> String {
        self.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }
}
