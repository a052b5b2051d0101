#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod batch;
pub mod checkpoint;
mod error;
pub mod memory;
pub mod metrics;
pub mod picture;
pub mod pretrain;
mod progress;
pub mod run_dir;
pub mod signals;
pub mod tensorboard;

pub use error::{Error, Result};
