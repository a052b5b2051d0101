//! Errors of files and names.

/// The errors of reading and writing files, and of the HuggingFace hub.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read or written, or does not hold what it should.
    #[error("{}: {message}", .path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What was expected, what was found, and what to do.
        message: String,
    },
    /// A setting or a name that is not understood.
    #[error("{0}")]
    Config(String),
    /// A failed request to the HuggingFace hub.
    #[error("{0}")]
    Hub(String),
}

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
