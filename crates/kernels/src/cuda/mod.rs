//! CUDA: devices, their memory, and the kernels of `cuda/` in this crate's folder. With the feature `cuda`.
//!
//! Kernels are asynchronous: a function returns when its work is in the device's one stream. All work on a device's memory goes through that
//! stream, so that its order is the order of the calls.

pub mod act;
pub mod attention;
pub mod batch_norm;
pub mod conv;
#[cfg(feature = "cudnn")]
pub mod cudnn;
mod device;
pub mod drop;
pub mod elementwise;
mod gpu;
pub mod loss;
pub mod matmul;
mod memory;
pub mod norm;
pub mod optim;
pub mod pool;
pub mod tokens;
mod upload;

pub use device::{LEAST_CAPABILITY, check, devices, memory, peak, prepare, why};
pub use gpu::Gpu;
pub use memory::{Buffer, Kind, Slice};
