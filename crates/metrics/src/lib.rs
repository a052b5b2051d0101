#![doc = include_str!("../README.md")]
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod confusion;
mod precision;

pub use confusion::{Average, Confusion, OfClass};
pub use precision::AveragePrecision;

/// Numbers that do not fit; the text names them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
