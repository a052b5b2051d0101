//! Errors of models and their files.

/// What can go wrong when a model is configured, built, run or loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No model of this name.
    #[error("no model `{name}`{}; `registry::list(\"*\")` names all", hint(.suggestions))]
    Unknown {
        /// What was asked for.
        name: String,
        /// The nearest names.
        suggestions: Vec<String>,
    },
    /// A configuration that makes no sense.
    #[error("{0}")]
    Config(String),
    /// A file that is not what it should be.
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
    /// The hub, or the way to it.
    #[error("{0}")]
    Hub(String),
    /// From the tape.
    #[error(transparent)]
    Autograd(#[from] candlelight_autograd::Error),
    /// From candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

fn hint(s: &[String]) -> String {
    if s.is_empty() { String::new() } else { format!(", did you mean {}?", s.join(" or ")) }
}

impl From<Error> for candle_core::Error {
    fn from(e: Error) -> Self {
        match e {
            Error::Candle(e) => e,
            other => candle_core::Error::wrap(other),
        }
    }
}

/// The models' result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
