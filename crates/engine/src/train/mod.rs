//! Training. A [`Trainer`] makes steps and needs nothing but batches; a [`Session`] runs one over epochs in a folder, decides when to save
//! and how to stop, and can be stopped at any step and continued later with the same bits.

mod observe;
mod replay;
mod resume;
mod saves;
mod session;
mod state;
mod steps;
mod trainer;
mod update;

pub use crate::plan::{Checked, NonFinite, Plan};
pub use crate::position::Best;
pub use crate::stopping::{EarlyStopping, Patience, Waiting};
pub use observe::{Events, Observer};
pub use session::Session;
pub use trainer::{Skipped, StepReport, Trainer};

pub(crate) use state::{Saved, read};

use std::path::PathBuf;

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All epochs, or `max_steps` steps, are done.
    Finished {
        /// The mean loss of the last epoch, which may be a partial one.
        loss: f64,
        /// The last checkpoint.
        checkpoint: PathBuf,
    },
    /// The score did not improve for as long as [`Plan::stopping`] allows.
    Stopped {
        /// The mean loss of the last epoch.
        loss: f64,
        /// The best report.
        best: Best,
        /// The number of epochs that were done.
        epochs: usize,
        /// The last checkpoint.
        checkpoint: PathBuf,
    },
    /// The checkpoint that was resumed is that of a finished run: nothing was left to train.
    Complete {
        /// That checkpoint.
        checkpoint: PathBuf,
    },
    /// A signal arrived, and the run was saved.
    Interrupted {
        /// The number of the signal.
        signal: i32,
        /// The checkpoint that was written.
        checkpoint: PathBuf,
    },
}

/// The checkpoint to continue from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// None: this is a new run.
    No,
    /// The newest checkpoint of the run's folder whose checksums are right; a new run if the folder has no checkpoint.
    Auto,
    /// This file.
    From(PathBuf),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::Classify;
    use crate::pretrain::Pretrain;

    #[test]
    fn what_trains_may_move_to_another_thread() {
        fn moves<T: Send>() {}
        moves::<Trainer<Pretrain>>();
        moves::<Trainer<Classify<candlelight_models::ModelConfig>>>();
        moves::<candlelight_data::Batch>();
    }
}
