//! What others need to know of a model, whatever the architecture; and the configurations of classifiers of any architecture.

use crate::adapt::Loaded;
use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::posemb::Interpolation;
use crate::registry;
use crate::resnet::ResNetConfig;
use crate::vit::VitConfig;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use candlelight_autograd::{Key, ParamStore, Value};
use candlelight_nn::{Anatomy, BatchNormConfig};
use serde::{Deserialize, Serialize};

/// What the optimizer, freezing, features, pruning and memory estimates need of a model: asked here, never guessed by name. Every
/// method has a default that says "not known", so that a model of one's own begins with `impl Model for Net {}`.
pub trait Model {
    /// Which parameters are the head, the stem, the layers.
    fn anatomy(&self) -> Anatomy {
        Anatomy::default()
    }

    /// Names of the inner values that [`Model::tapped`] gives.
    fn taps(&self) -> Vec<String> {
        vec![]
    }

    /// Inner values of an evaluating forward pass, in the order of `places`. What is not needed for them is not run.
    ///
    /// # Errors
    /// When there is no such place; the error names those there are.
    fn tapped(&self, images: &Value, places: &[&str]) -> Result<Vec<Value>> {
        let _ = images;
        Err(Error::Config(format!("this model has no inner values to give, {places:?} were asked for")))
    }

    /// timm's test-time pooling of images larger than those trained on: logits (B, classes).
    ///
    /// # Errors
    /// When the model has none, or the images are smaller.
    fn forward_test_pool(&self, images: &Value) -> Result<Value> {
        let _ = images;
        Err(Error::Config(
            "test-time pooling is for residual networks; a transformer's positions are brought to the size".into(),
        ))
    }

    /// Bytes that a training step of `batch` samples holds at its peak, with `all` parameters of which `trained` train; `None` where
    /// that is not known.
    fn memory(&self, batch: usize, all: usize, trained: usize) -> Option<u64> {
        let _ = (batch, all, trained);
        None
    }

    /// A new head of so many classes (0 for none), drawn from `key`. Gradients and optimizers made before do not fit any more.
    ///
    /// # Errors
    /// When the model has no head to exchange.
    fn reset_classifier(&mut self, classes: usize, params: &ParamStore, key: Key) -> Result<()> {
        let _ = (classes, params, key);
        Err(Error::Config("this model has no head that could be exchanged".into()))
    }

    /// Images of another height and width from now on. Gradients and optimizers made before may not fit any more.
    ///
    /// # Errors
    /// When the model cannot take them.
    fn set_input_size(&mut self, image: (usize, usize), params: &ParamStore) -> Result<()> {
        let _ = params;
        Err(Error::Config(format!(
            "this model does not take images of another size: {}x{} was asked for",
            image.0, image.1
        )))
    }
}

/// Values that a transformer's backward pass needs of `tokens` tokens: per token and block two norms' inputs and outputs, qkv,
/// attention, two residuals, the MLP's two widths twice.
pub(crate) fn token_memory(tokens: f64, dim: usize, depth: usize, mlp_ratio: usize) -> f64 {
    tokens * (dim * depth * (10 + 2 * mlp_ratio)) as f64
}

/// The configuration of a classifier's architecture.
pub trait Architecture {
    /// Height and width of the images it is meant for.
    fn image(&self) -> (usize, usize);

    /// Images of another height and width.
    fn set_image(&mut self, image: (usize, usize));

    /// Image channels.
    fn channels(&self) -> usize;

    /// Classes of the head.
    fn classes(&self) -> usize;

    /// Constants of the batch normalisations, if there are any that may be changed.
    fn batch_norm(&mut self) -> Option<&mut BatchNormConfig> {
        None
    }

    /// Builds the model.
    ///
    /// # Errors
    /// When the configuration does not fit or the builder lacks a tensor.
    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Classifier>>;

    /// Fits a trained classifier's weights, of any family's names, to this architecture, to evaluate it: classes and image channels
    /// become the file's. `from` is the grid that the file's positions are on; a square one without it.
    ///
    /// # Errors
    /// When the file holds another architecture, another depth, or no head.
    fn fit(
        &mut self,
        tensors: &[(String, Tensor)],
        from: Option<(usize, usize)>,
        how: Interpolation,
    ) -> Result<(Vec<(String, Tensor)>, Vec<String>)>;

    /// Loads pretrained weights of any family's names into parameters built for this configuration, to train further: a head of
    /// other classes is left out, other input channels are adapted, positions are brought to the grid.
    ///
    /// # Errors
    /// When the file holds another architecture, size or only a part. Nothing is changed then.
    fn load_pretrained(
        &self,
        params: &ParamStore,
        tensors: &[(String, Tensor)],
        from: Option<(usize, usize)>,
        how: Interpolation,
    ) -> Result<Loaded>;
}

/// The enum of all classifiers' configurations, one line per architecture: its configuration, its model, its variants by name.
macro_rules! architectures {
    ($($(#[$doc:meta])* $name:ident($config:ty) => $variants:expr,)*) => {
        /// The configuration of a classifier of any architecture.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(untagged)]
        pub enum ModelConfig {
            $($(#[$doc])* $name($config),)*
        }

        impl ModelConfig {
            /// The architecture.
            pub fn architecture(&self) -> &dyn Architecture {
                match self {
                    $(ModelConfig::$name(c) => c,)*
                }
            }

            /// The architecture, to change it.
            pub fn architecture_mut(&mut self) -> &mut dyn Architecture {
                match self {
                    $(ModelConfig::$name(c) => c,)*
                }
            }

            /// Every named classifier.
            pub(crate) fn variants() -> Vec<registry::Entry> {
                let mut all = vec![];
                $(all.extend($variants.iter().map(|v| registry::Entry {
                    name: v.name,
                    config: ModelConfig::$name(v.config.clone()),
                    published: v.published,
                }));)*
                all
            }
        }

        $(impl From<$config> for ModelConfig {
            fn from(c: $config) -> Self {
                ModelConfig::$name(c)
            }
        })*
    };
}

architectures! {
    /// A vision transformer.
    Vit(VitConfig) => crate::vit::VARIANTS,
    /// A residual network.
    ResNet(ResNetConfig) => crate::resnet::variants(),
}

impl ModelConfig {
    /// The configuration of a named classifier.
    ///
    /// # Errors
    /// When there is none of this name; the error names the nearest.
    pub fn named(name: &str) -> Result<Self> {
        Ok(registry::entry(name)?.config)
    }

    /// Height and width of the images it is meant for.
    pub fn image(&self) -> (usize, usize) {
        self.architecture().image()
    }

    /// Image channels.
    pub fn channels(&self) -> usize {
        self.architecture().channels()
    }

    /// Classes of the head.
    pub fn classes(&self) -> usize {
        self.architecture().classes()
    }

    /// Changes the constants of every batch normalisation: all to TensorFlow's with `tf`, then those that are given.
    ///
    /// # Errors
    /// When a constant is out of range, or something is to be changed in a model that has none to change.
    pub fn set_batch_norm(&mut self, tf: bool, momentum: Option<f64>, eps: Option<f64>) -> Result<()> {
        if !tf && momentum.is_none() && eps.is_none() {
            return Ok(());
        }
        let Some(norm) = self.architecture_mut().batch_norm() else {
            return Err(Error::Config("this model has no batch normalisation whose constants could change".into()));
        };
        if tf {
            *norm = BatchNormConfig { splits: norm.splits, ..BatchNormConfig::TENSORFLOW };
        }
        norm.momentum = momentum.unwrap_or(norm.momentum);
        norm.eps = eps.unwrap_or(norm.eps);
        Ok(norm.check()?)
    }

    /// [`Architecture::load_pretrained`] of the architecture.
    ///
    /// # Errors
    /// As it.
    pub fn load_pretrained(
        &self,
        params: &ParamStore,
        tensors: &[(String, Tensor)],
        from: Option<(usize, usize)>,
        how: Interpolation,
    ) -> Result<Loaded> {
        self.architecture().load_pretrained(params, tensors, from, how)
    }

    /// Builds the model.
    ///
    /// # Errors
    /// When the configuration does not fit or the builder lacks a tensor.
    pub fn build(&self, vb: VarBuilder) -> Result<Box<dyn Classifier>> {
        self.architecture().build(vb)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_normalisation_takes_other_constants() {
        let mut c = ModelConfig::named("resnet18").unwrap();
        let norm = |c: &mut ModelConfig| c.architecture_mut().batch_norm().map(|n| (n.eps, n.momentum));
        c.set_batch_norm(false, None, None).unwrap();
        assert_eq!(norm(&mut c), Some((1e-5, 0.1)));
        c.set_batch_norm(true, None, None).unwrap();
        assert_eq!(norm(&mut c), Some((1e-3, 0.01)));
        c.set_batch_norm(true, Some(0.2), Some(1e-4)).unwrap();
        assert_eq!(norm(&mut c), Some((1e-4, 0.2)));
        assert!(c.set_batch_norm(false, Some(2.0), None).unwrap_err().to_string().contains("bn_momentum 2"));
        let mut vit = ModelConfig::named("vit_tiny_patch16").unwrap();
        vit.set_batch_norm(false, None, None).unwrap();
        assert!(vit.set_batch_norm(true, None, None).unwrap_err().to_string().contains("no batch normalisation"));
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

    #[test]
    fn a_model_that_says_nothing_of_itself_is_asked_in_vain() {
        struct Mute;
        impl Model for Mute {}
        let params = ParamStore::new();
        assert_eq!((Mute.anatomy(), Mute.taps().len(), Mute.memory(1, 1, 1)), (Anatomy::default(), 0, None));
        assert!(Mute.reset_classifier(3, &params, Key::new(0)).is_err());
        assert!(Mute.set_input_size((1, 1), &params).unwrap_err().to_string().contains("1x1"));
    }
}
