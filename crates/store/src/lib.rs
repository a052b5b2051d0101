#![doc = include_str!("../README.md")]
#![warn(missing_docs)]
#![forbid(unsafe_code)]

pub mod atomic;
pub mod classes;
mod error;
#[cfg(feature = "hub")]
pub mod hub;
mod json;
mod nearest;
pub mod preparation;
pub mod shards;

pub use error::{Error, Result};
pub use nearest::nearest;
pub use preparation::{Found, Origin, Preparation};
