#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod adapt;
pub mod cost;
pub mod describe;
mod error;
pub mod explain;
pub mod mae;
mod model;
pub mod ntsnet;
pub mod peft;
pub mod posemb;
pub mod prune;
pub mod registry;
pub mod resnet;
pub mod summary;
#[cfg(feature = "transformers")]
pub mod transformers;
pub mod vit;
pub mod weights;
pub mod yolov5;

pub use candlelight_nn::{Anatomy, BatchNorm, BatchNormConfig, freeze};
pub use error::{Error, Result};
pub use mae::{Mae, MaeConfig, Mask};
pub use model::{
    Answers, Architecture, Attends, Classifier, FeatureExtractor, Fitted, Frozen, Loaded, Model, ModelSettings,
    Pooling, Published, Trunk, Variant,
};
pub use ntsnet::{NtsNet, NtsNetConfig};
pub use registry::ModelConfig;
pub use resnet::{ResNet, ResNetConfig};
pub use vit::{Vit, VitConfig};
pub use yolov5::{Yolo, YoloConfig};
