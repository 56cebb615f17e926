use std::fmt;
use std::path::PathBuf;

/// Why a subnet could not be assembled.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The index does not add up.
    Damaged {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// What came of the chunks is not what was compiled.
    Altered {
        /// The file, in the subnet's folder.
        path: String,
        /// The digest that the index says.
        sha256: String,
        /// The digest of what came.
        found: String,
    },
    /// The store has no such subnet.
    NoSubnet {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The folder to make is there.
    Exists {
        /// Where.
        path: PathBuf,
    },
}

/// What may fail.
pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { path, error } => write!(f, "{}: {error}", path.display()),
            Error::Damaged { path, what } => write!(f, "{}: {what}", path.display()),
            Error::Altered { path, sha256, found } => write!(
                f,
                "{path} came out with the SHA-256 {found}, not {sha256}: a chunk, or the installed subnet, was altered"
            ),
            Error::NoSubnet { name, known } => {
                write!(f, "the store has no subnet `{name}`; it has {}", known.join(", "))
            }
            Error::Exists { path } => write!(f, "{} is there already", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}
