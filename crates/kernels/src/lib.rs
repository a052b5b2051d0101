#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod adamw;
pub mod attention;
pub mod batch_norm;
pub mod blur;
pub mod conv;
mod conv_blocks;
mod conv_depthwise;
mod conv_direct;
mod conv_gather;
mod conv_tile;
pub mod cpu;
pub mod drop_block;
pub mod dropout;
pub mod elementwise;
mod error;
pub mod gelu;
pub mod gemm;
mod gemm_bf16;
pub mod group_norm;
pub mod layer_norm;
pub mod linear;
pub mod loss;
pub mod mae_loss;
pub mod mem;
mod pack_bf16;
mod par;
pub mod patch;
pub mod pool;
pub mod resize;
pub mod rng;
pub mod sgd;
mod simd;
pub mod tokens;

#[cfg(test)]
mod check;

pub use error::{Error, Result};
pub use gemm::Precision;
pub use rng::Key;
