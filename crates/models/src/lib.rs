#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod adapt;
mod error;
pub mod keymap;
pub mod mae;
pub mod pickle;
pub mod posemb;
pub mod registry;
pub mod vit;
pub mod weights;

pub use error::{Error, Result};
pub use mae::{Mae, MaeConfig, Mask};
pub use vit::{Vit, VitConfig};
