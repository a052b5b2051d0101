#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod backend;
pub mod bridge;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
mod error;
mod flow;
mod grads;
mod node;
pub mod ops;
mod params;
mod pass;
pub mod spec;
mod tape;
mod tensor;
mod trace;

pub use candlelight_dist::{Comm, Solo};
pub use candlelight_kernels::{Key, Precision};
pub use error::{Error, Result};
pub use flow::{Grad, Source};
pub use grads::{Gradient, Gradients};
pub use node::{Back, Done, Inputs};
pub use params::{Entry, ParamStore, STATISTICS, glob};
pub use pass::Backward;
pub use tape::{Tape, Taps, Value};
pub use tensor::{CpuSlice, tensor_from};
pub use trace::{Trace, Traced};
