#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod batch;
pub mod checkpoint;
pub mod classify;
mod error;
pub mod features;
pub mod memory;
pub mod metrics;
pub mod picture;
mod plan;
mod position;
pub mod pretrain;
mod progress;
pub mod signals;
pub mod task;
pub mod tensorboard;
pub mod train;
pub mod trained;

pub use error::{Error, Result};
