#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod batch_norm;
pub mod bridge;
mod composed;
mod composed_vision;
mod error;
mod grads;
mod layout;
mod losses;
pub mod ops;
mod params;
mod pooling;
mod stochastic;
mod tape;
mod tensor;
mod vision;

pub use candlelight_kernels::{Key, Precision};
pub use error::{Error, Result};
pub use grads::Gradients;
pub use params::{ParamStore, STATISTICS, glob};
pub use tape::{AllReduce, Backward, Grad, Source, Tape, Value};
pub use tensor::{CpuSlice, tensor_from};
