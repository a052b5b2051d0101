//! What the engine trains, evaluates and predicts with, whatever the architecture.

use crate::error::Result;
use crate::model::Model;
use crate::vit::Vit;
use candle_core::Tensor;
use candlelight_autograd::{Key, ParamStore, Value};

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
        Err(crate::Error::Config("this model does not come apart into features and head".into()))
    }

    /// features (B, D) -> logits (B, classes).
    ///
    /// # Errors
    /// When the shape does not fit, or the model does not come apart.
    fn classify(&self, features: &Value, key: Option<&Key>) -> Result<Value> {
        let _ = (features, key);
        Err(crate::Error::Config("this model does not come apart into features and head".into()))
    }
}

impl<C: Classifier + ?Sized> Model for Box<C> {
    fn anatomy(&self) -> candlelight_nn::Anatomy {
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

impl FeatureExtractor for Vit {
    fn width(&self) -> usize {
        self.config().dim
    }

    fn extract(&self, images: &Tensor) -> Result<Tensor> {
        let tape = candlelight_autograd::Tape::off();
        Ok(Classifier::features(self, &tape.constant(images), None)?.tensor().clone())
    }
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
            other => Err(crate::Error::Config(format!("features {other:?}, expected (B, {})", self.width))),
        }
    }
}
