#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod batch;
pub mod checkpoint;
pub mod classify;
mod criterion;
mod error;
pub mod features;
mod loss;
pub mod memory;
pub mod metrics;
pub mod picture;
mod plan;
mod position;
pub mod pretrain;
mod progress;
mod scaler;
pub mod signals;
mod stopping;
pub mod task;
pub mod teacher;
pub mod tensorboard;
pub mod train;
pub mod trained;
mod verdict;

pub use error::{Error, Result};
pub use scaler::LossScaler;
pub use verdict::{Metric, Verdict};
