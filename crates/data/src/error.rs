//! The errors of this crate.

use std::path::PathBuf;

/// What can go wrong with data.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder that cannot be used.
    #[error("{}: {message}", .path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// Bytes or pixels that cannot become the image that is wanted.
    #[error("{0}")]
    Decode(String),
    /// Labels that are missing or doubtful where they are needed.
    #[error("{0}")]
    Labels(String),
    /// A setting that is out of range or does not fit the data.
    #[error("{0}")]
    Config(String),
    /// An error of a kernel.
    #[error(transparent)]
    Kernel(#[from] candlelight_kernels::Error),
    /// Too many samples could not be read.
    #[error(
        "{bad} of {total} samples cannot be read, more than the {allowed} allowed by max_bad; the first one: {first}"
    )]
    TooManyBad {
        /// Unreadable samples so far.
        bad: usize,
        /// Samples of the data set.
        total: usize,
        /// Samples that may be unreadable.
        allowed: usize,
        /// Name and error of the first unreadable sample.
        first: String,
    },
}

/// The data crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) fn file(path: impl Into<PathBuf>, message: impl std::fmt::Display) -> Error {
    Error::File { path: path.into(), message: message.to_string() }
}
