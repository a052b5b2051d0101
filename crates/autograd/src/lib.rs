#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod backend;
pub mod bridge;
mod error;
mod grads;
mod op;
pub mod ops;
mod params;
mod tape;
mod tensor;

pub use candlelight_dist::{Comm, Solo};
pub use candlelight_kernels::{Key, Precision};
pub use error::{Error, Result};
pub use grads::{Gradient, Gradients};
pub use op::{Attr, Attrs, Back, Call, Done, Inputs, Op};
pub use params::{Entry, ParamStore, STATISTICS, glob};
pub use tape::{Backward, Grad, Source, Tape, Value};
pub use tensor::{CpuSlice, tensor_from};
