//! Errors of a training run.

use std::path::PathBuf;

/// The errors that end a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that is out of range or does not fit the others.
    #[error("{0}")]
    Config(String),
    /// A file or folder that cannot be read, written or used.
    #[error("{}: {message}", .path.display())]
    File {
        /// The path of the file or folder.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The loss was not finite too often.
    #[error("the loss was not finite {count} times in a row, last at epoch {epoch} step {step}; saved {}", .saved.display())]
    NonFinite {
        /// How many updates in a row.
        count: usize,
        /// The epoch of the last one, counted from 0.
        epoch: usize,
        /// The step of the last one in its epoch.
        step: usize,
        /// The checkpoint that was written.
        saved: PathBuf,
    },
    /// The memory of the device is full.
    #[error(
        "{message}, in a step of batches of {batch}; a smaller batch_size needs less, and in training makes the same updates with a larger accum_iter"
    )]
    Memory {
        /// What was being computed, and how much is in use.
        message: String,
        /// The number of images of a batch.
        batch: usize,
    },
    /// An evaluation met outputs that are not numbers.
    #[error("a logit is NaN: the weights or the input are not numbers")]
    NanLogits,
    /// A signal asked to stop in the middle of an evaluation.
    #[error("interrupted by a signal")]
    Interrupted,
    /// An error of the models.
    #[error(transparent)]
    Model(#[from] candlelight_models::Error),
    /// An error of the data.
    #[error(transparent)]
    Data(#[from] candlelight_data::Error),
    /// An error of the optimizer.
    #[error(transparent)]
    Optim(#[from] candlelight_optim::Error),
    /// An error of the schedule.
    #[error(transparent)]
    Sched(#[from] candlelight_sched::Error),
    /// Numbers that a metric does not take.
    #[error(transparent)]
    Metrics(#[from] candlelight_metrics::Error),
    /// An error of the tape.
    #[error(transparent)]
    Autograd(#[from] candlelight_autograd::Error),
    /// An error of candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<candlelight_store::Error> for Error {
    fn from(e: candlelight_store::Error) -> Self {
        match e {
            candlelight_store::Error::File { path, message } => Error::File { path, message },
            other => Error::Config(other.to_string()),
        }
    }
}

impl Error {
    /// Says how large the batch was where the memory of the device is full.
    pub(crate) fn of_batch(self, batch: usize) -> Self {
        use candlelight_autograd::Error as Tape;
        match &self {
            Error::Autograd(e @ Tape::Memory { .. })
            | Error::Model(candlelight_models::Error::Autograd(e @ Tape::Memory { .. })) => {
                Error::Memory { message: e.to_string(), batch }
            }
            _ => self,
        }
    }
}

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) fn file(path: impl Into<PathBuf>, message: impl std::fmt::Display) -> Error {
    Error::File { path: path.into(), message: message.to_string() }
}
