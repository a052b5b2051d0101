#![doc = include_str!("../README.md")]
#![warn(missing_docs)]
#![forbid(unsafe_code)]

pub mod atomic;
pub mod checkpoints;
pub mod classes;
mod error;
#[doc(hidden)]
pub mod faults;
#[cfg(feature = "hub")]
pub mod hub;
mod json;
mod locate;
mod nearest;
mod platform;
pub mod preparation;
pub mod run_folder;
pub mod saver;
pub mod shards;
pub mod tensors;

pub use checkpoints::CheckpointFolder;
pub use error::{Error, Result};
pub use locate::{Located, locate};
pub use nearest::nearest;
pub use preparation::{Found, Origin, Preparation};
pub use run_folder::RunFolder;
pub use saver::Saver;
