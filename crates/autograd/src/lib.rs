#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod bridge;
mod composed;
mod error;
mod grads;
pub mod ops;
mod params;
mod tape;
mod tensor;
mod vision;

pub use candlelight_kernels::{Key, Precision};
pub use error::{Error, Result};
pub use grads::Gradients;
pub use params::{ParamStore, STATISTICS, glob};
pub use tape::{Backward, Grad, Source, Tape, Value};
pub use tensor::{CpuSlice, tensor_from};
