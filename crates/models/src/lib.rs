#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod adapt;
mod classifier;
mod error;
#[cfg(feature = "hub")]
pub mod hub;
pub mod keymap;
pub mod mae;
mod model;
pub mod pickle;
pub mod posemb;
pub mod registry;
pub mod resnet;
#[cfg(feature = "transformers")]
pub mod transformers;
pub mod vit;
pub mod weights;

pub use candlelight_nn::{Anatomy, BatchNorm, BatchNormConfig, freeze};
pub use classifier::{Classifier, FeatureExtractor, Frozen};
pub use error::{Error, Result};
pub use mae::{Mae, MaeConfig, Mask};
pub use model::{Architecture, Model, ModelConfig};
pub use resnet::{ResNet, ResNetConfig};
pub use vit::{Vit, VitConfig};
