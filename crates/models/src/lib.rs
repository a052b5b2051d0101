#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod adapt;
mod error;
pub mod mae;
mod model;
pub mod posemb;
pub mod registry;
pub mod resnet;
#[cfg(feature = "transformers")]
pub mod transformers;
pub mod vit;
pub mod weights;

pub use candlelight_nn::{Anatomy, BatchNorm, BatchNormConfig, freeze};
pub use error::{Error, Result};
pub use mae::{Mae, MaeConfig, Mask};
pub use model::{
    Architecture, Classifier, FeatureExtractor, Fitted, Frozen, Loaded, Model, ModelSettings, Pooling, Published,
    Variant,
};
pub use registry::ModelConfig;
pub use resnet::{ResNet, ResNetConfig};
pub use vit::{Vit, VitConfig};
