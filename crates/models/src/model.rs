//! The traits of models: what every model says about itself, what a classifier computes, and what a configuration can build.

use crate::adapt::Fitting;
use crate::error::{Error, Result};
use crate::weights::{self, Report};
use candle_core::Tensor;
use candle_nn::VarBuilder;
use candlelight_autograd::ops::GlobalPool;
use candlelight_autograd::{Key, ParamStore, Value};
use candlelight_nn::{Anatomy, BatchNormConfig};
use candlelight_store::preparation::{Origin, Preparation, Setting};

/// What a model says about itself, for optimizers, freezing, features, pruning and memory estimates, which ask the model instead of
/// guessing from names. Every method has a default that says "not known", so a model of your own can begin with `impl Model for Net {}`.
pub trait Model {
    /// Which parameters belong to the head, the stem and the layers.
    fn anatomy(&self) -> Anatomy {
        Anatomy::default()
    }

    /// The names of the inner values that [`Model::tapped`] gives, such as `blocks.3`.
    fn taps(&self) -> Vec<String> {
        vec![]
    }

    /// Inner values of a forward pass in evaluation, in the order of `places`. Layers that they do not need are not run.
    ///
    /// # Errors
    /// When there is no such place; the error names the places that exist.
    fn tapped(&self, images: &Value, places: &[&str]) -> Result<Vec<Value>> {
        let _ = images;
        Err(Error::Config(format!("this model gives no inner values, but {places:?} were asked for")))
    }

    /// The value of a forward pass that class activation maps are drawn from by default, under the name that the model gives it
    /// ([`Value::tap`]); `None` where none is better than others.
    fn focus(&self) -> Option<String> {
        None
    }

    /// The attention of a transformer; `None` of any other model.
    fn attends(&self) -> Option<Attends> {
        None
    }

    /// timm's test-time pooling, for images larger than those of training: images (B, C, H, W) -> logits (B, classes).
    ///
    /// # Errors
    /// When the model has none, or the images are smaller.
    fn forward_test_pool(&self, images: &Value) -> Result<Value> {
        let _ = images;
        Err(Error::Config(
            "test-time pooling is for residual networks; a transformer's positions are brought to the size".into(),
        ))
    }

    /// An estimate of the bytes that a training step of `batch` samples holds at its peak, with `all` parameters of which `trained` train;
    /// `None` where it is not known.
    fn memory(&self, batch: usize, all: usize, trained: usize) -> Option<u64> {
        let _ = (batch, all, trained);
        None
    }

    /// Exchanges the head for a new one of so many classes (0 for none), drawn from `key`. Gradients and optimizers made before do not fit
    /// any more.
    ///
    /// # Errors
    /// When the model has no head to exchange.
    fn reset_classifier(&mut self, classes: usize, params: &ParamStore, key: Key) -> Result<()> {
        let _ = (classes, params, key);
        Err(Error::Config("this model has no head that could be exchanged".into()))
    }

    /// Sets another (height, width) of the images. Gradients and optimizers made before may not fit any more.
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

/// The attention of a transformer, for those who look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attends {
    /// The name of each attention, such as `blocks.0.attn`: its `qkv` and, after mixing, its `mixed` values are named with
    /// [`Value::tap`](candlelight_autograd::Value::tap).
    pub layers: Vec<String>,
    /// The number of heads of each.
    pub heads: Vec<usize>,
    /// The number of tokens in front of those of the places of an image.
    pub prefix: usize,
    /// Whether the head reads the first token; otherwise it reads the mean of the places.
    pub token: bool,
}

impl Attends {
    /// The names of one of the values of every attention.
    pub(crate) fn names(&self, value: &str) -> Vec<String> {
        self.layers.iter().map(|l| format!("{l}.{value}")).collect()
    }
}

/// The number of values that the backward pass of a transformer needs for `tokens` tokens. Per token and block these are inputs and
/// outputs of two normalisations, qkv, attention, two residuals, and both widths of the MLP twice.
pub(crate) fn token_memory(tokens: f64, dim: usize, depth: usize, mlp_ratio: usize) -> f64 {
    tokens * (dim * depth * (10 + 2 * mlp_ratio)) as f64
}

/// The configuration of a classifier of some architecture, which can build the model and load weights into it.
pub trait Architecture {
    /// Height and width of the images that the model is meant for.
    fn image(&self) -> (usize, usize);

    /// Sets another height and width of the images.
    fn set_image(&mut self, image: (usize, usize));

    /// The number of image channels.
    fn channels(&self) -> usize;

    /// The number of classes of the head.
    fn classes(&self) -> usize;

    /// The constants of the batch normalisations, to change them; `None` where there are none.
    fn batch_norm(&mut self) -> Option<&mut BatchNormConfig> {
        None
    }

    /// What a program that trains the model changes; `None` where nothing can be changed.
    fn settings(&mut self) -> Option<ModelSettings<'_>> {
        None
    }

    /// Takes over the widths of a pruned network, from the dimensions of its tensors by name; `paddings` says where it puts zeros beside
    /// channels, see [`Structure::paddings`](crate::prune::Structure::paddings).
    ///
    /// # Errors
    /// When the architecture has no widths of single layers, or the tensors are not those of this one.
    fn narrow(&mut self, dims: &dyn Fn(&str) -> Option<Vec<usize>>, paddings: &[Vec<Option<usize>>]) -> Result<()> {
        let _ = (dims, paddings);
        Err(Error::Config("this architecture has no widths of single layers: it cannot be pruned".into()))
    }

    /// Whether single layers have widths of their own, as in a pruned network.
    fn is_narrowed(&self) -> bool {
        false
    }

    /// The layers whose numbers of outputs each entry of a string of compress rates sets, in the order of the entries; `None` where each entry
    /// is for one group of [`Structure::groups`](crate::prune::Structure::groups).
    fn rated(&self) -> Option<Vec<Vec<String>>> {
        None
    }

    /// Builds the model.
    ///
    /// # Errors
    /// When the configuration does not fit or the builder lacks a tensor.
    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Classifier>>;

    /// Fits the weights of a trained classifier, under the names of any library, to this architecture, to evaluate it. The configuration
    /// takes over the file's classes and image channels. The default is for a file under our own names and takes it as it is.
    ///
    /// # Errors
    /// When the file holds another architecture, another depth, only a part, no head, or tensors that the model has no place for.
    fn fit(&mut self, tensors: &[(String, Tensor)], how: &Fitting) -> Result<Fitted> {
        let _ = how;
        Ok(Fitted { tensors: weights::weights_only(tensors), notes: vec![] })
    }

    /// Loads pretrained weights, under the names of any library, into parameters built for this configuration, to train them further. A head
    /// with other classes is left out, other image channels are adapted, and positions are resized to the grid. The default is for a file
    /// under our own names that fits.
    ///
    /// # Errors
    /// When the file holds another architecture, size or only a part, or tensors that the model has no place for. Nothing is changed then.
    fn load_pretrained(&self, params: &ParamStore, tensors: &[(String, Tensor)], how: &Fitting) -> Result<Loaded> {
        let _ = how;
        Ok(Loaded { notes: vec![], report: weights::load(params, &weights::weights_only(tensors), false)? })
    }
}

/// What a program that trains a model changes in its configuration.
#[derive(Debug)]
pub struct ModelSettings<'a> {
    /// The number of image channels.
    pub channels: &'a mut usize,
    /// The number of classes.
    pub classes: &'a mut usize,
    /// The rate of dropout.
    pub dropout: &'a mut f32,
    /// The rate of dropout on attention probabilities; `None` for an architecture without attention.
    pub attn_dropout: Option<&'a mut f32>,
    /// The rate of stochastic depth; `None` for an architecture without it.
    pub drop_path: Option<&'a mut f32>,
    /// The rate of DropBlock; `None` for an architecture without it.
    pub drop_block: Option<&'a mut f32>,
    /// What the head reads.
    pub pool: Pooling<'a>,
}

/// What the head of a model reads.
#[derive(Debug)]
pub enum Pooling<'a> {
    /// The channels of a map, pooled over its places.
    Map(&'a mut GlobalPool),
    /// A token, or the mean of all.
    Tokens(&'a mut crate::vit::Pool),
}

impl ModelSettings<'_> {
    /// Sets what the head reads, by timm's names.
    ///
    /// # Errors
    /// When the architecture has no such pooling; the error lists those that it has.
    pub fn set_pool(&mut self, name: &str) -> Result<()> {
        let unknown = |names: &str| Err(Error::Config(format!("pool `{name}`: this model has {names}")));
        match &mut self.pool {
            Pooling::Map(pool) => {
                **pool = match name {
                    "avg" | "fast" | "fastavg" => GlobalPool::Avg,
                    "max" => GlobalPool::Max,
                    "avgmax" => GlobalPool::AvgMax,
                    "catavgmax" | "avgmaxc" => GlobalPool::CatAvgMax,
                    _ => return unknown("avg (also fast), max, avgmax and catavgmax (also avgmaxc)"),
                }
            }
            Pooling::Tokens(pool) => {
                **pool = match name {
                    "avg" => crate::vit::Pool::Avg,
                    "token" => crate::vit::Pool::Token,
                    _ => return unknown("token and avg"),
                }
            }
        }
        Ok(())
    }
}

/// A network that others build upon: it gives a map of an image beside its features.
pub trait Trunk: Classifier {
    /// The number of pixels between two places of the map.
    fn stride(&self) -> usize;

    /// The channels of the map, and the length of the features.
    fn widths(&self) -> (usize, usize);

    /// images (B, C, H, W) -> the map (B, h, w, channels), and the features (B, D) of [`Classifier::features`].
    ///
    /// # Errors
    /// When the images do not fit.
    fn mapped(&self, images: &Value, key: Option<&Key>) -> Result<(Value, Value)>;
}

/// What a model gives in a step of training. Most give logits alone.
#[derive(Debug, Clone)]
pub struct Answers {
    /// The logits (B, classes) by which images are classified.
    pub logits: Value,
    /// Further logits (n B, classes): row i B + b is the i-th answer for image b. The loss of each is added to that of `logits`.
    pub further: Vec<Value>,
    /// Scores (B, n) that should rank the answers in the last of `further` by their cross-entropies; see
    /// [`ranking`](candlelight_nn::loss::ranking).
    pub scores: Option<Value>,
}

/// A model that classifies images.
///
/// Its parameters are whatever it took from the `VarBuilder` of a `ParamStore`; forward runs on the tape of `images`.
pub trait Classifier: Model + Send {
    /// images (B, C, H, W) -> logits (B, classes). With `key` the model trains, and the key draws its random numbers; `None` evaluates.
    ///
    /// # Errors
    /// When the images do not fit.
    fn forward(&self, images: &Value, key: Option<&Key>) -> Result<Value>;

    /// What a step of training compares with the labels; for most models their logits alone.
    ///
    /// # Errors
    /// When the images do not fit.
    fn answers(&self, images: &Value, key: &Key) -> Result<Answers> {
        Ok(Answers { logits: self.forward(images, Some(key))?, further: vec![], scores: None })
    }

    /// The model as one that others build upon; `None` where it gives no map.
    fn trunk(&self) -> Option<&dyn Trunk> {
        None
    }

    /// images (B, C, H, W) -> the features (B, D) that [`Classifier::classify`] reads.
    ///
    /// # Errors
    /// When the images do not fit, or the model cannot be split into features and head.
    fn features(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        let _ = (images, key);
        Err(Error::Config("this model cannot be split into features and head".into()))
    }

    /// features (B, D) -> logits (B, classes).
    ///
    /// # Errors
    /// When the shape does not fit, or the model cannot be split into features and head.
    fn classify(&self, features: &Value, key: Option<&Key>) -> Result<Value> {
        let _ = (features, key);
        Err(Error::Config("this model cannot be split into features and head".into()))
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

    fn focus(&self) -> Option<String> {
        (**self).focus()
    }

    fn attends(&self) -> Option<Attends> {
        (**self).attends()
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

    fn answers(&self, images: &Value, key: &Key) -> Result<Answers> {
        (**self).answers(images, key)
    }

    fn trunk(&self) -> Option<&dyn Trunk> {
        (**self).trunk()
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
    /// The length of a vector.
    fn width(&self) -> usize;

    /// images (B, C, H, W) -> (B, width).
    ///
    /// # Errors
    /// When the images do not fit.
    fn extract(&self, images: &Tensor) -> Result<Tensor>;
}

/// Any function as a frozen feature extractor, such as a model of another crate or an earlier stage of your own model.
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

/// How images were prepared for published weights, and where these weights are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Published {
    /// The mean of the pixels per channel, RGB, from 0 to 1.
    pub mean: [f32; 3],
    /// The standard deviation of the pixels per channel, RGB.
    pub std: [f32; 3],
    /// The share of the resized image's side that the centre crop keeps, in (0, 1].
    pub crop_pct: f32,
    /// The filter of the resize, by torchvision's name.
    pub interpolation: &'static str,
    /// The weights on the HuggingFace hub, head included, as `OWNER/NAME`.
    pub weights: Option<&'static str>,
}

impl Published {
    /// torchvision's preparation of ImageNet: a bilinear resize to 256 pixels, of which the centre 224 are kept.
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

    /// As a preparation of images of this height, width and number of channels. What timm says of the published weights goes first; the rest,
    /// and all of it where there are none, is an assumption. For images that are not RGB, mean and deviation are ImageNet's over the channels.
    pub fn preparation(&self, image: (usize, usize), channels: usize) -> Preparation {
        let known = self.weights.and_then(Preparation::known).unwrap_or_default();
        let mut assumed = Preparation::assumed(image, channels);
        if channels == 3 {
            assumed.mean = Some(Setting::new(self.mean.to_vec(), Origin::Assumed));
            assumed.std = Some(Setting::new(self.std.to_vec(), Origin::Assumed));
        }
        assumed.crop_pct = Some(Setting::new(f64::from(self.crop_pct), Origin::Assumed));
        if let Ok(filter) = self.interpolation.parse() {
            assumed.interpolation = Some(Setting::new(filter, Origin::Assumed));
        }
        known.or(assumed)
    }

    /// The same with weights on the hub.
    pub const fn at(self, weights: &'static str) -> Self {
        Published { weights: Some(weights), ..self }
    }
}

/// A named configuration of an architecture.
#[derive(Debug, Clone)]
pub struct Variant<C> {
    /// The name.
    pub name: &'static str,
    /// The configuration.
    pub config: C,
    /// How images are prepared for it, and where its weights are published.
    pub published: Published,
}

/// Weights of another library, brought to an architecture.
#[derive(Debug)]
pub struct Fitted {
    /// The tensors under our names.
    pub tensors: Vec<(String, Tensor)>,
    /// One line per change, for the log.
    pub notes: Vec<String>,
}

/// What loading pretrained weights changed.
#[derive(Debug)]
pub struct Loaded {
    /// One line per change, for the log.
    pub notes: Vec<String>,
    /// Which names were loaded; missing ones keep their initial values.
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
