#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod anatomy;
mod attention;
mod batch_norm;
mod conv;
mod crop;
mod drop;
mod embedding;
pub mod freeze;
pub mod init;
mod linear;
pub mod loss;
mod mlp;
mod norm;
mod patch_embed;
pub mod peft;
pub mod penalty;

pub use anatomy::Anatomy;
pub use attention::Attention;
pub use batch_norm::{BatchNorm, BatchNormConfig};
pub use candlelight_autograd::{Error, Result};
pub use conv::{Conv2d, ConvTranspose2d};
pub use crop::{Region, crop_resize};
pub use drop::{DropPath, Dropout};
pub use embedding::Embedding;
pub use linear::Linear;
pub use mlp::Mlp;
pub use norm::{GroupNorm, LayerNorm};
pub use patch_embed::PatchEmbed;
