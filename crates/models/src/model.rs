//! Any classifier by name or by its stored configuration.

use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::registry;
use crate::resnet::{ResNet, ResNetConfig};
use crate::vit::{Vit, VitConfig};
use candle_nn::VarBuilder;
use candlelight_autograd::{Key, Value};
use serde::{Deserialize, Serialize};

/// The configuration of a classifier of any architecture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ModelConfig {
    /// A vision transformer.
    Vit(VitConfig),
    /// A residual network.
    ResNet(ResNetConfig),
}

impl ModelConfig {
    /// The configuration of a named classifier.
    ///
    /// # Errors
    /// When there is none of this name; the error names the nearest.
    pub fn named(name: &str) -> Result<Self> {
        registry::vit(name).map(ModelConfig::Vit).or_else(|_| registry::resnet(name).map(ModelConfig::ResNet)).map_err(
            |_| {
                let all = registry::list("*");
                let names = all.into_iter().filter(|n| !n.starts_with("mae_"));
                let suggestions = registry::nearest(names, name).into_iter().map(Into::into).collect();
                Error::Unknown { name: name.into(), suggestions }
            },
        )
    }

    /// Height and width of the images it is meant for.
    pub fn image(&self) -> (usize, usize) {
        match self {
            ModelConfig::Vit(c) => c.image,
            ModelConfig::ResNet(c) => c.image,
        }
    }

    /// Image channels.
    pub fn channels(&self) -> usize {
        match self {
            ModelConfig::Vit(c) => c.channels,
            ModelConfig::ResNet(c) => c.channels,
        }
    }

    /// Classes of the head.
    pub fn classes(&self) -> usize {
        match self {
            ModelConfig::Vit(c) => c.classes,
            ModelConfig::ResNet(c) => c.classes,
        }
    }

    /// Builds the model.
    ///
    /// # Errors
    /// When the configuration does not fit or the builder lacks a tensor.
    pub fn build(&self, vb: VarBuilder) -> Result<Model> {
        Ok(match self {
            ModelConfig::Vit(c) => Model::Vit(Vit::new(c, vb)?),
            ModelConfig::ResNet(c) => Model::ResNet(ResNet::new(c, vb)?),
        })
    }
}

/// A classifier of any architecture.
#[derive(Debug, Clone)]
pub enum Model {
    /// A vision transformer.
    Vit(Vit),
    /// A residual network.
    ResNet(ResNet),
}

impl Model {
    fn inner(&self) -> &dyn Classifier {
        match self {
            Model::Vit(m) => m,
            Model::ResNet(m) => m,
        }
    }
}

impl Classifier for Model {
    fn forward(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        self.inner().forward(images, key)
    }

    fn features(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        self.inner().features(images, key)
    }

    fn classify(&self, features: &Value, key: Option<&Key>) -> Result<Value> {
        self.inner().classify(features, key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_stored_configurations_find_their_architecture() {
        for name in ["vit_tiny_patch16", "resnet20", "vit_b_16"] {
            let c = ModelConfig::named(name).unwrap();
            let back: ModelConfig = serde_json::from_str(&serde_json::to_string(&c).unwrap()).unwrap();
            assert_eq!(back, c);
        }
        for (typo, want) in [("resnet51", "resnet50"), ("vit_b_17", "vit_b_16")] {
            let e = ModelConfig::named(typo).unwrap_err().to_string();
            assert!(e.contains("did you mean") && e.contains(want), "{e}");
        }
    }
}
