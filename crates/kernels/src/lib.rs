#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod act;
pub mod attention;
pub mod base;
pub mod conv;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod drop;
mod error;
pub mod image;
pub mod loss;
pub mod matmul;
pub mod norm;
pub mod optim;
pub mod pool;
pub mod rank;
pub mod rng;
pub mod tokens;

#[cfg(test)]
mod check;

pub use base::par::in_pool;
pub use base::{cpu, elementwise, mem};
pub use error::{Error, Result};
pub use matmul::Precision;
pub use rng::Key;
