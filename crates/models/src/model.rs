//! What a model is to others: something that classifies, that knows its parts, and that has a configuration by name.

use crate::error::{Error, Result};
use crate::posemb::Interpolation;
use crate::weights::{self, Report};
use candle_core::Tensor;
use candle_nn::VarBuilder;
use candlelight_autograd::{Key, ParamStore, Value};
use candlelight_nn::{Anatomy, BatchNormConfig};

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
    /// become the file's. `from` is the grid that the file's positions are on; a square one without it. By default a file has our names
    /// and is taken as it is.
    ///
    /// # Errors
    /// When the file holds another architecture, another depth, or no head.
    fn fit(
        &mut self,
        tensors: &[(String, Tensor)],
        from: Option<(usize, usize)>,
        how: Interpolation,
    ) -> Result<Fitted> {
        let _ = (from, how);
        Ok(Fitted { tensors: weights::weights_only(tensors), notes: vec![] })
    }

    /// Loads pretrained weights of any family's names into parameters built for this configuration, to train further: a head of
    /// other classes is left out, other input channels are adapted, positions are brought to the grid. By default a file has our names
    /// and fits.
    ///
    /// # Errors
    /// When the file holds another architecture, size or only a part. Nothing is changed then.
    fn load_pretrained(
        &self,
        params: &ParamStore,
        tensors: &[(String, Tensor)],
        from: Option<(usize, usize)>,
        how: Interpolation,
    ) -> Result<Loaded> {
        let _ = (from, how);
        Ok(Loaded { notes: vec![], report: weights::load(params, &weights::weights_only(tensors), false)? })
    }
}

/// A model that classifies images.
///
/// Its parameters are whatever it took from the `VarBuilder` of a `ParamStore`; forward runs on the tape of `images`.
pub trait Classifier: Model + Send {
    /// images (B, C, H, W) -> logits (B, classes). `key` draws what is random in training and says that this is training;
    /// `None` evaluates.
    ///
    /// # Errors
    /// When the images do not fit.
    fn forward(&self, images: &Value, key: Option<&Key>) -> Result<Value>;

    /// images (B, C, H, W) -> features (B, D), what [`Classifier::classify`] reads.
    ///
    /// # Errors
    /// When the images do not fit, or the model does not come apart.
    fn features(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        let _ = (images, key);
        Err(Error::Config("this model does not come apart into features and head".into()))
    }

    /// features (B, D) -> logits (B, classes).
    ///
    /// # Errors
    /// When the shape does not fit, or the model does not come apart.
    fn classify(&self, features: &Value, key: Option<&Key>) -> Result<Value> {
        let _ = (features, key);
        Err(Error::Config("this model does not come apart into features and head".into()))
    }
}

impl<C: Classifier + ?Sized> Model for Box<C> {
    fn anatomy(&self) -> Anatomy {
        (**self).anatomy()
    }

    fn taps(&self) -> Vec<String> {
        (**self).taps()
    }

    fn tapped(&self, images: &Value, places: &[&str]) -> Result<Vec<Value>> {
        (**self).tapped(images, places)
    }

    fn forward_test_pool(&self, images: &Value) -> Result<Value> {
        (**self).forward_test_pool(images)
    }

    fn memory(&self, batch: usize, all: usize, trained: usize) -> Option<u64> {
        (**self).memory(batch, all, trained)
    }

    fn reset_classifier(&mut self, classes: usize, params: &ParamStore, key: Key) -> Result<()> {
        (**self).reset_classifier(classes, params, key)
    }

    fn set_input_size(&mut self, image: (usize, usize), params: &ParamStore) -> Result<()> {
        (**self).set_input_size(image, params)
    }
}

impl<C: Classifier + ?Sized> Classifier for Box<C> {
    fn forward(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        (**self).forward(images, key)
    }

    fn features(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        (**self).features(images, key)
    }

    fn classify(&self, features: &Value, key: Option<&Key>) -> Result<Value> {
        (**self).classify(features, key)
    }
}

/// A frozen model that turns images into vectors.
pub trait FeatureExtractor {
    /// Length of a vector.
    fn width(&self) -> usize;

    /// images (B, C, H, W) -> (B, width).
    ///
    /// # Errors
    /// When the images do not fit.
    fn extract(&self, images: &Tensor) -> Result<Tensor>;
}

/// Any function as a frozen feature extractor: a model of another crate, an earlier stage of one's own.
pub struct Frozen<F> {
    width: usize,
    forward: F,
}

impl<F> std::fmt::Debug for Frozen<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frozen({})", self.width)
    }
}

impl<F: Fn(&Tensor) -> candle_core::Result<Tensor>> Frozen<F> {
    /// `forward` turns images (B, C, H, W) into (B, width).
    pub fn new(width: usize, forward: F) -> Self {
        Frozen { width, forward }
    }
}

impl<F: Fn(&Tensor) -> candle_core::Result<Tensor>> FeatureExtractor for Frozen<F> {
    fn width(&self) -> usize {
        self.width
    }

    fn extract(&self, images: &Tensor) -> Result<Tensor> {
        let y = (self.forward)(images)?.detach();
        match y.dims() {
            [_, width] if *width == self.width => Ok(y),
            other => Err(Error::Config(format!("features {other:?}, expected (B, {})", self.width))),
        }
    }
}

/// How images were prepared for published weights, and where these are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Published {
    /// Mean of the pixels, RGB, from 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of the pixels, RGB.
    pub std: [f32; 3],
    /// The share of the resized image's side that the centre crop keeps.
    pub crop_pct: f32,
    /// The resize's filter, as torchvision calls it.
    pub interpolation: &'static str,
    /// Weights on the hub, head and all, as `OWNER/NAME`.
    pub weights: Option<&'static str>,
}

impl Published {
    /// torchvision's preparation of ImageNet: 224 of 256 pixels, bilinear.
    pub const IMAGENET: Self = Published {
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
        crop_pct: 0.875,
        interpolation: "bilinear",
        weights: None,
    };

    /// The same with a bicubic filter, as MAE's.
    pub const IMAGENET_BICUBIC: Self = Published { interpolation: "bicubic", ..Self::IMAGENET };

    /// akamaster's preparation of CIFAR: ImageNet's statistics, the whole image.
    pub const CIFAR: Self = Published { crop_pct: 1.0, ..Self::IMAGENET };

    /// The same with weights on the hub.
    pub const fn at(self, weights: &'static str) -> Self {
        Published { weights: Some(weights), ..self }
    }
}

/// A named configuration of an architecture.
#[derive(Debug, Clone)]
pub struct Variant<C> {
    /// Its name.
    pub name: &'static str,
    /// Its configuration.
    pub config: C,
    /// How images are prepared, and where weights are published.
    pub published: Published,
}

/// Weights that fit an architecture.
#[derive(Debug)]
pub struct Fitted {
    /// Under our names.
    pub tensors: Vec<(String, Tensor)>,
    /// One line per change, for the log.
    pub notes: Vec<String>,
}

/// What loading a backbone did.
#[derive(Debug)]
pub struct Loaded {
    /// One line per change, for the log.
    pub notes: Vec<String>,
    /// Name by name; what is missing keeps its initial values.
    pub report: Report,
}

#[cfg(test)]
mod tests {
    use super::*;

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
