//! What a classifier looks at: maps of the places in an image that its answer rests on, and numbers that say how far a map can be trusted.
//!
//! Every method works on frozen models, on models with adapters, and on any model that names its inner values with
//! [`Value::tap`](candlelight_autograd::Value::tap).
//!
//! ```
//! # use candlelight_autograd::{Key, ParamStore};
//! # use candlelight_models::explain::{Explain, Method};
//! # use candlelight_models::ModelConfig;
//! # let params = ParamStore::new();
//! # let model = ModelConfig::named("resnet20")?.build(params.builder(Key::new(0)))?;
//! # let images = candle_core::Tensor::ones((1, 3, 32, 32), candle_core::DType::F32, &candle_core::Device::Cpu)?;
//! let maps = Explain::new(Method::LayerCam).run(&*model, &images, None)?;
//! assert_eq!((maps[0].map.height, maps[0].map.width), (32, 32));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attention;
mod cam;
mod faithful;
mod input;
mod map;

pub use attention::{Fuse, attention_maps, rollout};
pub use faithful::{Faithful, faithful};
pub use input::integrated_gradients;
pub use map::Map;

use crate::error::{Error, Result};
use crate::model::Classifier;
use candle_core::{D, DType, Tensor};
use candlelight_autograd::{ParamStore, Tape, Taps, Value};
use serde::{Deserialize, Serialize};

/// A method that draws a map for one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// Grad-CAM, R. R. Selvaraju et al., arXiv 1610.02391: channels weighted by the mean of their gradient.
    #[serde(rename = "gradcam")]
    GradCam,
    /// Grad-CAM++, A. Chattopadhyay et al., arXiv 1710.11063.
    #[serde(rename = "gradcam++")]
    GradCamPp,
    /// XGrad-CAM, R. Fu et al., arXiv 2008.02312.
    #[serde(rename = "xgradcam")]
    XGradCam,
    /// HiResCAM, R. L. Draelos and L. Carin, arXiv 2011.08891: each value times its gradient.
    #[serde(rename = "hirescam")]
    HiResCam,
    /// LayerCAM, P.-T. Jiang et al., 2021: each value times its gradient where that is positive.
    #[serde(rename = "layercam")]
    LayerCam,
    /// Eigen-CAM, M. B. Muhammad and M. Yeasin, arXiv 2008.00299: the first principal component, of no class.
    #[serde(rename = "eigencam")]
    EigenCam,
    /// The first principal component of values times gradients.
    #[serde(rename = "eigengradcam")]
    EigenGradCam,
    /// Score-CAM, H. Wang et al., arXiv 1910.01279: channels weighted by the score of the image that they let through. No gradients; a pass
    /// per channel.
    #[serde(rename = "scorecam")]
    ScoreCam,
    /// M. D. Zeiler and R. Fergus, arXiv 1311.2901: the fall of the probability when a gray square hides a place.
    #[serde(rename = "occlusion")]
    Occlusion,
    /// Integrated gradients, M. Sundararajan et al., arXiv 1703.01365, from a gray image: the size of the sum over the channels.
    #[serde(rename = "integrated_gradients")]
    IntegratedGradients,
    /// The attention of the last block, the mean of its heads, of no class.
    #[serde(rename = "attention")]
    Attention,
    /// Attention rollout, S. Abnar and W. Zuidema, arXiv 2005.00928, of no class.
    #[serde(rename = "rollout")]
    Rollout,
    /// Attention rollout with attention weighted by its gradient.
    #[serde(rename = "grad_rollout")]
    GradRollout,
}

/// Every method, by its name.
pub const METHODS: [(&str, Method); 13] = [
    ("gradcam", Method::GradCam),
    ("gradcam++", Method::GradCamPp),
    ("xgradcam", Method::XGradCam),
    ("hirescam", Method::HiResCam),
    ("layercam", Method::LayerCam),
    ("eigencam", Method::EigenCam),
    ("eigengradcam", Method::EigenGradCam),
    ("scorecam", Method::ScoreCam),
    ("occlusion", Method::Occlusion),
    ("integrated_gradients", Method::IntegratedGradients),
    ("attention", Method::Attention),
    ("rollout", Method::Rollout),
    ("grad_rollout", Method::GradRollout),
];

impl std::str::FromStr for Method {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let found = METHODS.iter().find(|(n, _)| *n == s).map(|(_, m)| *m);
        let names = || METHODS.map(|(n, _)| n).join(", ");
        found.ok_or_else(|| Error::Config(format!("no method `{s}`: expected one of {}", names())))
    }
}

impl Method {
    /// Its name.
    pub fn name(self) -> &'static str {
        METHODS.iter().find(|(_, m)| *m == self).map_or("", |(n, _)| n)
    }

    /// Whether the map is drawn from the attention of a transformer.
    pub fn reads_attention(self) -> bool {
        matches!(self, Method::Attention | Method::Rollout | Method::GradRollout)
    }

    /// Whether the map is drawn from inner values at a place of the network.
    pub fn reads_layers(self) -> bool {
        !self.reads_attention() && !matches!(self, Method::Occlusion | Method::IntegratedGradients)
    }
}

/// What the answer for one image rests on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The class that was asked for, or the likeliest one.
    pub class: usize,
    /// Its logit.
    pub score: f32,
    /// Its probability, by softmax.
    pub probability: f32,
    /// The map, from 0 to 1, of the size of the image.
    pub map: Map,
}

/// A method and its settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Explain {
    /// The method.
    pub method: Method,
    /// The places of the network whose values are read, by the names that [`Taps::seen`] lists; their maps are averaged. Without any it is
    /// the place that the model proposes ([`Model::focus`](crate::Model::focus)).
    pub layers: Vec<String>,
    /// Of occlusion, the side of the square in pixels.
    pub square: usize,
    /// Of occlusion, the pixels from one square to the next.
    pub stride: usize,
    /// Of integrated gradients, the number of images on the way from gray.
    pub steps: usize,
    /// Of attention rollout, the share of the smallest values that is discarded, in [0, 1). Those of the class token stay.
    pub discard: f64,
    /// How the heads of an attention become one.
    pub fuse: Fuse,
    /// The number of images of a pass.
    pub batch: usize,
}

impl Explain {
    /// A method with its usual settings: squares of 16 pixels every 8 pixels, 32 steps, nothing discarded, the mean of the heads.
    pub fn new(method: Method) -> Self {
        let (square, stride, steps, discard, fuse, batch) = (16, 8, 32, 0.0, Fuse::Mean, 32);
        Explain { method, layers: vec![], square, stride, steps, discard, fuse, batch }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// When one is out of range.
    pub fn check(&self) -> Result<()> {
        for (name, n) in
            [("square", self.square), ("stride", self.stride), ("steps", self.steps), ("batch", self.batch)]
        {
            if n == 0 {
                return Err(Error::Config(format!("{name} is 0, expected at least 1")));
            }
        }
        if !(0.0..1.0).contains(&self.discard) {
            return Err(Error::Config(format!("discard {}: expected a share in [0, 1)", self.discard)));
        }
        Ok(())
    }

    /// The maps of images (B, C, H, W), for these classes, one for each image, or for the likeliest ones.
    ///
    /// # Errors
    /// When there is no such place or class, a place has no extent in space, the class does not depend on it, or the model has no attention
    /// to read.
    pub fn run(&self, model: &dyn Classifier, images: &Tensor, classes: Option<&[usize]>) -> Result<Vec<Explanation>> {
        self.check()?;
        let (b, _, h, w) = images.dims4()?;
        let logits = forward(model, images)?;
        let classes = chosen(&logits, classes, b)?;
        let maps = match self.method {
            Method::Occlusion => input::occlusion(self, model, images, &classes)?,
            Method::IntegratedGradients => {
                let all = integrated_gradients(model, images, &classes, self.steps, self.batch)?;
                let size = all.sum(1)?.abs()?; // (B, H, W)
                (0..b).map(|i| Map::of(&size.get(i)?)).collect::<Result<_>>()?
            }
            m if m.reads_attention() => attention::maps(self, model, images, &classes)?,
            _ => cam::maps(self, model, images, &classes)?,
        };
        let p = softmax(&logits)?;
        maps.into_iter()
            .zip(&classes)
            .enumerate()
            .map(|(i, (map, class))| {
                let (score, probability) = (logits[i][*class], p[i][*class]);
                Ok(Explanation { class: *class, score, probability, map: map.normalised().resized(h, w, false) })
            })
            .collect()
    }
}

/// The logits of images, on the host.
fn forward(model: &dyn Classifier, images: &Tensor) -> Result<Vec<Vec<f32>>> {
    let logits = model.forward(&Tape::off().constant(images), None)?;
    Ok(logits.tensor().to_dtype(DType::F32)?.to_vec2()?)
}

/// The probabilities of a class in each of the images, in batches.
fn probabilities(model: &dyn Classifier, images: &Tensor, class: usize, batch: usize) -> Result<Vec<f32>> {
    let (n, mut out) = (images.dims()[0], vec![]);
    for from in (0..n).step_by(batch) {
        let logits = forward(model, &images.narrow(0, from, batch.min(n - from))?)?;
        out.extend(softmax(&logits)?.iter().map(|p| p[class]));
    }
    Ok(out)
}

fn softmax(logits: &[Vec<f32>]) -> Result<Vec<Vec<f32>>> {
    logits
        .iter()
        .map(|row| {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exp: Vec<f64> = row.iter().map(|l| f64::from(l - max).exp()).collect();
            let sum: f64 = exp.iter().sum();
            match sum.is_finite() {
                true => Ok(exp.iter().map(|e| (e / sum) as f32).collect()),
                false => Err(Error::Mismatch("a logit is NaN: the weights or the images are not numbers".into())),
            }
        })
        .collect()
}

/// The classes that are asked for, or the likeliest ones; the first of equal ones.
fn chosen(logits: &[Vec<f32>], classes: Option<&[usize]>, images: usize) -> Result<Vec<usize>> {
    let n = logits.first().map_or(0, Vec::len);
    let Some(classes) = classes else {
        let likeliest = |row: &Vec<f32>| (0..n).fold(0, |best, i| if row[i] > row[best] { i } else { best });
        return Ok(logits.iter().map(likeliest).collect());
    };
    if classes.len() != images {
        return Err(Error::Config(format!("{} classes for {images} images: expected one for each", classes.len())));
    }
    match classes.iter().find(|c| **c >= n) {
        Some(c) => Err(Error::Config(format!("class {c}: the model has {n} classes, counted from 0"))),
        None => Ok(classes.to_vec()),
    }
}

/// Inner values of a pass, and the gradients of the classes' logits at them, by place.
type Seen = Vec<(Tensor, Tensor)>;

/// Runs a model and differentiates the logits of the classes at some places. What lies before the first place is not recorded.
fn differentiated(model: &dyn Classifier, images: &Tensor, layers: &[String], classes: &[usize]) -> Result<Seen> {
    let taps = Taps::of(layers);
    let tape = Tape::new(&ParamStore::new()).with_taps(&taps);
    let logits = model.forward(&tape.constant(images), None)?;
    let values = found(&taps, layers)?;
    let score = asked(&logits, classes)?;
    let refs: Vec<&Value> = values.iter().collect();
    let grads = tape.gradients(&score, &refs).map_err(|e| match e {
        candlelight_autograd::Error::Shape { .. } => nothing(layers),
        other => other.into(),
    })?;
    Ok(values.iter().map(|v| v.tensor().clone()).zip(grads).collect())
}

/// The sum of the classes' logits, one for each sample.
fn asked(logits: &Value, classes: &[usize]) -> Result<Value> {
    let (b, n) = logits.dims2()?;
    let mut one = vec![0f32; b * n];
    classes.iter().enumerate().for_each(|(i, c)| one[i * n + c] = 1.0);
    let one = Tensor::from_vec(one, (b, n), logits.device())?.to_dtype(logits.tensor().dtype())?;
    Ok(logits.mul(&logits.tape().constant(&one))?.sum_all()?)
}

/// The error of a map that would be empty.
fn nothing(layers: &[String]) -> Error {
    Error::Config(format!(
        "the score does not depend on the values at {}, behind which only other tokens count: choose an earlier place, such as the last \
         block's norm1",
        layers.join(", ")
    ))
}

/// The values of some places, after a pass.
fn found(taps: &Taps, layers: &[String]) -> Result<Vec<Value>> {
    let unknown = |name: &String| {
        let seen = taps.seen();
        match seen.is_empty() {
            true => Error::Config(format!("no place `{name}`: the model names none of its inner values")),
            false => {
                let near = candlelight_store::nearest(seen.iter().map(String::as_str), name);
                let near = if near.is_empty() { seen.iter().map(String::as_str).collect() } else { near };
                Error::Config(format!("no place `{name}`: the model has {}", near.join(", ")))
            }
        }
    };
    layers.iter().map(|name| taps.get(name).ok_or_else(|| unknown(name))).collect()
}

/// Inner values as maps (B, H, W, C): those of a network of convolutions as they are, tokens in rows as the image has them, without a class
/// token.
fn spatial(t: &Tensor, (height, width): (usize, usize), name: &str) -> Result<Tensor> {
    let t = t.to_dtype(DType::F32)?;
    let flat = |dims: &[usize]| {
        Err(Error::Config(format!(
            "the values at {name} are {dims:?} and have no extent in space: choose an earlier place"
        )))
    };
    match *t.dims() {
        [_, h, w, _] if h * w > 1 => Ok(t),
        [b, n, d] if n > 2 => {
            for prefix in [0, 1] {
                let m = n - prefix;
                let grid = (1..=m).filter(|h| m % h == 0).map(|h| (h, m / h));
                if let Some((h, w)) = grid.into_iter().find(|(h, w)| h * width == w * height) {
                    return Ok(t.narrow(1, prefix, m)?.contiguous()?.reshape((b, h, w, d))?);
                }
            }
            Err(Error::Config(format!("{n} tokens at {name} are no grid of an image of {height}x{width} pixels")))
        }
        ref dims => flat(dims),
    }
}

/// The sum over the last dimension of a product.
fn summed(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok(a.broadcast_mul(b)?.sum(D::Minus1)?)
}
