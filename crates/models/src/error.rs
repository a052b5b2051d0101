//! Errors of models and their files.

/// The errors of configuring, building, running and loading a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No model of this name.
    #[error("no model `{name}`{}; `registry::list(\"*\")` names all", hint(.suggestions))]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The nearest names that exist.
        suggestions: Vec<String>,
    },
    /// A setting that is out of range or does not fit the others.
    #[error("{0}")]
    Config(String),
    /// A file that cannot be read, or does not hold what it should.
    #[error("{}: {message}", .path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// Tensors that do not fit the model.
    #[error("{0}")]
    Mismatch(String),
    /// An error of the tape.
    #[error(transparent)]
    Autograd(#[from] candlelight_autograd::Error),
    /// An error of candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

fn hint(s: &[String]) -> String {
    if s.is_empty() { String::new() } else { format!(", did you mean {}?", s.join(" or ")) }
}

impl From<candlelight_store::Error> for Error {
    fn from(e: candlelight_store::Error) -> Self {
        match e {
            candlelight_store::Error::File { path, message } => Error::File { path, message },
            other => Error::Config(other.to_string()),
        }
    }
}

impl From<Error> for candle_core::Error {
    fn from(e: Error) -> Self {
        match e {
            Error::Candle(e) => e,
            other => candle_core::Error::wrap(other),
        }
    }
}

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
