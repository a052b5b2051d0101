//! Matrix products, and linear layers on top of them.

pub(crate) mod bf16;
pub mod gemm;
pub mod linear;
mod mat;
pub(crate) mod pack_bf16;

pub use mat::{MatMut, MatRef, Precision};
