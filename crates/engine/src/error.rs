//! Errors of a training run.

use std::path::PathBuf;

/// What can end a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that makes no sense.
    #[error("{0}")]
    Config(String),
    /// A file or folder.
    #[error("{}: {message}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The loss was not finite too often.
    #[error("the loss was not finite {count} times in a row, last at epoch {epoch} step {step}; saved {}", .saved.display())]
    NonFinite {
        /// How often in a row.
        count: usize,
        /// Epoch of the last one.
        epoch: usize,
        /// Step of the last one.
        step: usize,
        /// The checkpoint.
        saved: PathBuf,
    },
    /// From the models.
    #[error(transparent)]
    Model(#[from] candlelight_models::Error),
    /// From the data.
    #[error(transparent)]
    Data(#[from] candlelight_data::Error),
    /// From the optimizer.
    #[error(transparent)]
    Optim(#[from] candlelight_optim::Error),
    /// From the schedule.
    #[error(transparent)]
    Sched(#[from] candlelight_sched::Error),
    /// From the tape.
    #[error(transparent)]
    Autograd(#[from] candlelight_autograd::Error),
    /// From candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The engine's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) fn file(path: impl Into<PathBuf>, message: impl std::fmt::Display) -> Error {
    Error::File { path: path.into(), message: message.to_string() }
}
