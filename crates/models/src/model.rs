//! Any classifier by name or by its stored configuration.

use crate::adapt::{self, Loaded};
use crate::batch_norm::BatchNormConfig;
use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::posemb::Interpolation;
use crate::registry;
use crate::resnet::{ResNet, ResNetConfig};
use crate::vit::{Vit, VitConfig};
use candle_core::Tensor;
use candle_nn::VarBuilder;
use candlelight_autograd::{Key, ParamStore, Value};
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

    /// Changes the constants of every batch normalisation: all to TensorFlow's with `tf`, then those that are given.
    ///
    /// # Errors
    /// When a constant is out of range, or something is to be changed in a vision transformer, which has none to change.
    pub fn batch_norm(&mut self, tf: bool, momentum: Option<f64>, eps: Option<f64>) -> Result<()> {
        if !tf && momentum.is_none() && eps.is_none() {
            return Ok(());
        }
        let ModelConfig::ResNet(ResNetConfig { norm, .. }) = self else {
            return Err(Error::Config(
                "a vision transformer has no batch normalisation whose constants could change".into(),
            ));
        };
        if tf {
            *norm = BatchNormConfig { splits: norm.splits, ..BatchNormConfig::TENSORFLOW };
        }
        norm.momentum = momentum.unwrap_or(norm.momentum);
        norm.eps = eps.unwrap_or(norm.eps);
        norm.check()
    }

    /// Loads pretrained weights of any family's names into parameters built for this configuration, to train further: a head of
    /// other classes is left out, other input channels are adapted, positions are brought to the grid. `from` is the grid the
    /// file's positions are on; a square one without it.
    ///
    /// # Errors
    /// When the file holds another architecture, size or only a part. Nothing is changed then.
    pub fn load_pretrained(
        &self,
        params: &ParamStore,
        tensors: &[(String, Tensor)],
        from: Option<(usize, usize)>,
        how: Interpolation,
    ) -> Result<Loaded> {
        match self {
            ModelConfig::Vit(c) => adapt::backbone(params, tensors, c, from, how),
            ModelConfig::ResNet(c) => adapt::residual_backbone(params, tensors, c),
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
    fn batch_normalisation_takes_other_constants() {
        let mut c = ModelConfig::named("resnet18").unwrap();
        let norm = |c: &ModelConfig| match c {
            ModelConfig::ResNet(c) => (c.norm.eps, c.norm.momentum),
            ModelConfig::Vit(_) => (0.0, 0.0),
        };
        c.batch_norm(false, None, None).unwrap();
        assert_eq!(norm(&c), (1e-5, 0.1));
        c.batch_norm(true, None, None).unwrap();
        assert_eq!(norm(&c), (1e-3, 0.01));
        c.batch_norm(true, Some(0.2), Some(1e-4)).unwrap();
        assert_eq!(norm(&c), (1e-4, 0.2));
        assert!(c.batch_norm(false, Some(2.0), None).unwrap_err().to_string().contains("bn_momentum 2"));
        let mut vit = ModelConfig::named("vit_tiny_patch16").unwrap();
        vit.batch_norm(false, None, None).unwrap();
        assert!(vit.batch_norm(true, None, None).unwrap_err().to_string().contains("no batch normalisation"));
    }

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
