//! YOLOv5's classifiers: the layers of its detector's backbone, then a pooled linear layer. Names are those of Ultralytics' state dicts.
//! The architecture is that of version 6.2 and later (G. Jocher, YOLOv5, zenodo 7002879); cross stage partial blocks are C.-Y. Wang et al.,
//! "CSPNet", arXiv 1911.11929, SiLU is S. Elfwing et al., arXiv 1702.03118.
//!
//! Shapes: B images of H x W pixels; inside the network channels are last.

use crate::error::{Error, Result};
use crate::model::{Classifier, Model, Published, Trunk, Variant};
use candle_nn::VarBuilder;
use candlelight_autograd::ops::{Conv2dConfig, GlobalPool, Pool2dConfig};
use candlelight_autograd::{Key, ParamStore, Value, ops};
use candlelight_nn::{Anatomy, BatchNorm, BatchNormConfig, Conv2d, Dropout, Linear, init};
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;

/// Width of the layer between backbone and linear layer.
const HIDDEN: usize = 1280;

/// The configuration of a classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct YoloConfig {
    /// Height and width of the images that the network is meant for; other sizes work too.
    pub image: (usize, usize),
    /// The number of image channels.
    pub channels: usize,
    /// Outputs of the five convolutions that halve the image.
    pub widths: [usize; 5],
    /// Bottlenecks of the four blocks behind the last four of these convolutions.
    pub bottlenecks: [usize; 4],
    /// Whether pyramid pooling (SPPF) follows the last block, and with it the detector's first convolution of the head, as in a classifier that was
    /// cut out of a detector behind it.
    #[serde(default)]
    pub sppf: bool,
    /// The number of classes of the head; 0 leaves the linear layer out.
    pub classes: usize,
    /// The rate of dropout before the linear layer, in [0, 1).
    pub dropout: f32,
    /// The constants of every batch normalisation.
    pub norm: BatchNormConfig,
    /// The pool whose result the head reads.
    pub pool: GlobalPool,
    /// The widths of single convolutions in a pruned network; `None` where they follow from `widths`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruned: Option<YoloWidths>,
}

/// The numbers of outputs of the convolutions that pruning can narrow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct YoloWidths {
    /// Outputs of the convolutions that halve the image.
    pub convs: [usize; 5],
    /// The blocks.
    pub blocks: [C3Widths; 4],
    /// Outputs of the pooling pyramid's two convolutions, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sppf: Option<(usize, usize)>,
    /// Outputs of the head's convolution.
    pub hidden: usize,
}

/// The widths of a cross stage partial block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct C3Widths {
    /// Outputs of `cv1` and of every bottleneck, which are added to each other.
    pub stream: usize,
    /// Outputs of `cv2`, the way past the bottlenecks.
    pub past: usize,
    /// Outputs of `cv3`, which joins both.
    pub out: usize,
    /// Outputs of the first convolution of each bottleneck.
    pub inner: Vec<usize>,
}

/// A width of the largest common family, scaled and brought up to a multiple of 8.
fn scaled(width: usize, share: f64) -> usize {
    (width as f64 * share / 8.0).ceil() as usize * 8
}

/// A number of bottlenecks, scaled and rounded to the nearest number, to the even one where two are equally near.
fn repeated(n: usize, share: f64) -> usize {
    ((n as f64 * share).round_ties_even() as usize).max(1)
}

/// The configurations `yolov5n-cls` to `yolov5x-cls`, for ImageNet.
pub fn variants() -> &'static [Variant<YoloConfig>] {
    static ALL: OnceLock<Vec<Variant<YoloConfig>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let of = |name, depth: f64, width: f64| Variant {
            name,
            config: YoloConfig {
                image: (224, 224),
                channels: 3,
                widths: [64, 128, 256, 512, 1024].map(|w| scaled(w, width)),
                bottlenecks: [3, 6, 9, 3].map(|n| repeated(n, depth)),
                sppf: false,
                classes: 1000,
                dropout: 0.0,
                norm: BatchNormConfig { eps: 1e-3, momentum: 0.03, ..Default::default() },
                pool: GlobalPool::Avg,
                pruned: None,
            },
            // The centre square, resized.
            published: Published { crop_pct: 1.0, ..Published::IMAGENET },
        };
        vec![
            of("yolov5n-cls", 0.33, 0.25),
            of("yolov5s-cls", 0.33, 0.50),
            of("yolov5m-cls", 0.67, 0.75),
            of("yolov5l-cls", 1.0, 1.0),
            of("yolov5x-cls", 1.33, 1.25),
        ]
    })
}

impl YoloConfig {
    /// Checks that the sizes fit one another.
    ///
    /// # Errors
    /// When they do not; the error names what is wrong.
    pub fn check(&self) -> Result<()> {
        if self.channels == 0 || self.widths.contains(&0) || self.bottlenecks.contains(&0) {
            return Err(Error::Config("an image, a convolution or a block without channels or bottlenecks".into()));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::Config(format!("dropout {} is outside [0, 1)", self.dropout)));
        }
        if let Some(p) = &self.pruned {
            let block = |(c, n): (&C3Widths, &usize)| {
                c.inner.len() == *n && c.inner.iter().chain([&c.stream, &c.past, &c.out]).all(|w| *w > 0)
            };
            let sppf = p.sppf.is_some() == self.sppf && p.sppf.is_none_or(|(a, b)| a > 0 && b > 0);
            if !p.blocks.iter().zip(&self.bottlenecks).all(block) || !sppf || p.hidden == 0 || p.convs.contains(&0) {
                return Err(Error::Config(format!(
                    "pruned widths that do not fit: expected blocks of {:?} bottlenecks, and no width of 0",
                    self.bottlenecks
                )));
            }
        }
        Ok(self.norm.check()?)
    }

    /// The width of every convolution.
    fn all_widths(&self) -> YoloWidths {
        let c = self.widths;
        let block = |i: usize| {
            let half = c[i + 1] / 2;
            C3Widths { stream: half, past: half, out: c[i + 1], inner: vec![half; self.bottlenecks[i]] }
        };
        self.pruned.clone().unwrap_or_else(|| YoloWidths {
            convs: c,
            blocks: [0, 1, 2, 3].map(block),
            sppf: self.sppf.then_some((c[4] / 2, c[4])),
            hidden: HIDDEN,
        })
    }

    /// The number of the head among the layers.
    pub(crate) fn head(&self) -> usize {
        if self.sppf { 10 } else { 9 }
    }

    /// The widths of a pruned network with these dimensions of its tensors.
    pub(crate) fn narrow(&mut self, dims: &dyn Fn(&str) -> Option<Vec<usize>>) -> Result<()> {
        let outputs = |name: String| {
            let name = format!("model.{name}.conv.weight");
            let found = dims(&name).and_then(|d| d.first().copied());
            found.ok_or_else(|| Error::Mismatch(format!("a pruned YOLOv5 classifier needs {name}")))
        };
        let block = |i: usize| {
            let layer = 2 + 2 * i;
            let of = |conv: &str| outputs(format!("{layer}.{conv}"));
            let inner = (0..self.bottlenecks[i]).map(|j| of(&format!("m.{j}.cv1"))).collect::<Result<_>>()?;
            Ok::<_, Error>(C3Widths { stream: of("cv1")?, past: of("cv2")?, out: of("cv3")?, inner })
        };
        let conv = |i: usize| outputs([0, 1, 3, 5, 7][i].to_string());
        let sppf = || Ok::<_, Error>((outputs("9.cv1".into())?, outputs("9.cv2".into())?));
        let pruned = YoloWidths {
            convs: [conv(0)?, conv(1)?, conv(2)?, conv(3)?, conv(4)?],
            blocks: [block(0)?, block(1)?, block(2)?, block(3)?],
            sppf: if self.sppf { Some(sppf()?) } else { None },
            hidden: outputs(format!("{}.conv", self.head()))?,
        };
        self.pruned = Some(pruned);
        self.check()
    }
}

/// A convolution without a bias, its normalisation, and SiLU.
#[derive(Debug, Clone)]
struct Conv {
    conv: Conv2d,
    norm: BatchNorm,
}

impl Conv {
    fn new(
        (inputs, outputs, kernel): (usize, usize, usize),
        config: Conv2dConfig,
        norm: BatchNormConfig,
        vb: VarBuilder,
    ) -> Result<Self> {
        // PyTorch's initial values.
        let init = init::fan_in(inputs * kernel * kernel);
        Ok(Conv {
            conv: Conv2d::without_bias(inputs, outputs, kernel, config, init, vb.pp("conv"))?,
            norm: BatchNorm::with(outputs, Some(1.0), norm, vb.pp("bn"))?,
        })
    }

    fn forward(&self, x: &Value, train: bool) -> Result<Value> {
        Ok(self.norm.forward(&self.conv.forward(x)?, train)?.silu()?)
    }
}

/// A convolution of one pixel.
fn pointwise(inputs: usize, outputs: usize, norm: BatchNormConfig, vb: VarBuilder) -> Result<Conv> {
    Conv::new((inputs, outputs, 1), Conv2dConfig::new(1, 0), norm, vb)
}

/// A cross stage partial block: a way through bottlenecks and one past them, joined.
#[derive(Debug, Clone)]
struct C3 {
    cv1: Conv,
    cv2: Conv,
    cv3: Conv,
    bottlenecks: Vec<(Conv, Conv)>,
}

impl C3 {
    fn new(inputs: usize, w: &C3Widths, norm: BatchNormConfig, vb: VarBuilder) -> Result<Self> {
        let bottleneck = |(j, inner): (usize, &usize)| {
            let vb = vb.pp("m").pp(j);
            let second = Conv::new((*inner, w.stream, 3), Conv2dConfig::new(1, 1), norm, vb.pp("cv2"))?;
            Ok::<_, Error>((pointwise(w.stream, *inner, norm, vb.pp("cv1"))?, second))
        };
        Ok(C3 {
            cv1: pointwise(inputs, w.stream, norm, vb.pp("cv1"))?,
            cv2: pointwise(inputs, w.past, norm, vb.pp("cv2"))?,
            cv3: pointwise(w.stream + w.past, w.out, norm, vb.pp("cv3"))?,
            bottlenecks: w.inner.iter().enumerate().map(bottleneck).collect::<Result<_>>()?,
        })
    }

    fn forward(&self, x: &Value, train: bool) -> Result<Value> {
        let mut h = self.cv1.forward(x, train)?; // (B, H, W, stream)
        for (first, second) in &self.bottlenecks {
            h = h.add(&second.forward(&first.forward(&h, train)?, train)?)?;
        }
        let past = self.cv2.forward(x, train)?; // (B, H, W, past)
        self.cv3.forward(&ops::cat(&[h, past], 3)?, train) // (B, H, W, out)
    }
}

/// Pyramid pooling: windows of 5, 9 and 13 pixels, as one pool applied again and again.
#[derive(Debug, Clone)]
struct Sppf {
    cv1: Conv,
    cv2: Conv,
}

impl Sppf {
    fn new(inputs: usize, (inner, out): (usize, usize), norm: BatchNormConfig, vb: VarBuilder) -> Result<Self> {
        let (cv1, cv2) = (vb.pp("cv1"), vb.pp("cv2"));
        Ok(Sppf { cv1: pointwise(inputs, inner, norm, cv1)?, cv2: pointwise(4 * inner, out, norm, cv2)? })
    }

    fn forward(&self, x: &Value, train: bool) -> Result<Value> {
        let mut all = vec![self.cv1.forward(x, train)?];
        for i in 0..3 {
            all.push(ops::max_pool2d(&all[i], Pool2dConfig::new(5, 1, 2))?);
        }
        self.cv2.forward(&ops::cat(&all, 3)?, train)
    }
}

/// A YOLOv5 classifier.
#[derive(Debug, Clone)]
pub struct Yolo {
    config: YoloConfig,
    stem: Conv,
    /// A convolution that halves the image, and a block.
    stages: Vec<(Conv, C3)>,
    sppf: Option<Sppf>,
    hidden: Conv,
    linear: Option<Linear>,
}

impl Yolo {
    /// Builds the model from a `VarBuilder`, which gives new parameters or those of a file.
    ///
    /// # Errors
    /// When the configuration does not fit or the builder lacks a tensor.
    pub fn new(config: &YoloConfig, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let (w, norm) = (config.all_widths(), config.norm);
        let layer = |i: usize| vb.pp("model").pp(i);
        let stem = Conv::new((config.channels, w.convs[0], 6), Conv2dConfig::new(2, 2), norm, layer(0))?;
        let (mut inputs, mut stages) = (w.convs[0], vec![]);
        for (i, block) in w.blocks.iter().enumerate() {
            let half = Conv::new((inputs, w.convs[i + 1], 3), Conv2dConfig::new(2, 1), norm, layer(1 + 2 * i))?;
            stages.push((half, C3::new(w.convs[i + 1], block, norm, layer(2 + 2 * i))?));
            inputs = block.out;
        }
        let sppf = w.sppf.map(|widths| Sppf::new(inputs, widths, norm, layer(9))).transpose()?;
        inputs = w.sppf.map_or(inputs, |(_, out)| out);
        let hidden = pointwise(inputs, w.hidden, norm, layer(config.head()).pp("conv"))?;
        let linear = (config.classes > 0).then(|| Self::new_head(config, &vb)).transpose()?;
        Ok(Yolo { config: config.clone(), stem, stages, sppf, hidden, linear })
    }

    fn new_head(c: &YoloConfig, vb: &VarBuilder) -> Result<Linear> {
        let inputs = c.pool.width(c.all_widths().hidden);
        Ok(Linear::new(inputs, c.classes, vb.pp("model").pp(c.head()).pp("linear"))?)
    }

    /// The configuration.
    pub fn config(&self) -> &YoloConfig {
        &self.config
    }

    /// images (B, C, H, W) -> the results of the first `layers` layers of 9, or 10 with a pooling pyramid, each (B, H', W', C).
    fn layers(&self, images: &Value, layers: usize, train: bool) -> Result<Vec<Value>> {
        let (_, c, _, _) = images.tensor().dims4()?;
        if c != self.config.channels {
            return Err(Error::Config(format!("images of {c} channels, expected {}", self.config.channels)));
        }
        let stem = self.stem.forward(&ops::channels_last(images)?, train)?; // (B, H / 2, W / 2, C)
        let mut all = vec![stem.tap(|| "model.0".into())];
        for i in 1..layers {
            let (x, stage) = (&all[i - 1], self.stages.get((i - 1) / 2));
            let h = match (stage, &self.sppf) {
                (Some((half, _)), _) if i % 2 == 1 => half.forward(x, train)?, // (B, H / 2, W / 2, C)
                (Some((_, block)), _) => block.forward(x, train)?,
                (None, Some(sppf)) => sppf.forward(x, train)?,
                (None, None) => break,
            };
            all.push(h.tap(|| format!("model.{i}")));
        }
        Ok(all)
    }

    /// images (B, C, H, W) -> the features behind the head's convolution (B, H / 32, W / 32, 1280), channels last.
    ///
    /// # Errors
    /// When the images do not fit.
    pub fn forward_features(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        let all = self.layers(images, self.config.head(), key.is_some())?;
        self.hidden.forward(&all[all.len() - 1], key.is_some())
    }

    /// images (B, C, H, W) -> logits (B, classes). With `key` the network trains: the key draws dropout, and batches are normalised by their own
    /// statistics. `None` evaluates.
    ///
    /// # Errors
    /// When the images do not fit.
    pub fn forward(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        self.classify(&self.features(images, key)?, key)
    }
}

impl Classifier for Yolo {
    fn forward(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        Yolo::forward(self, images, key)
    }

    fn trunk(&self) -> Option<&dyn Trunk> {
        Some(self)
    }

    fn features(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        Ok(ops::global_pool2d(&self.forward_features(images, key)?, self.config.pool)?)
    }

    fn classify(&self, features: &Value, key: Option<&Key>) -> Result<Value> {
        let x = Dropout(self.config.dropout).forward(features, key.map(|k| k.child("drop")))?;
        match &self.linear {
            Some(linear) => Ok(linear.forward(&x)?),
            None => Ok(x),
        }
    }
}

impl Trunk for Yolo {
    fn stride(&self) -> usize {
        32
    }

    fn widths(&self) -> (usize, usize) {
        let hidden = self.config.all_widths().hidden;
        (hidden, self.config.pool.width(hidden))
    }

    fn mapped(&self, images: &Value, key: Option<&Key>) -> Result<(Value, Value)> {
        let map = self.forward_features(images, key)?;
        let pooled = ops::global_pool2d(&map, self.config.pool)?;
        Ok((map, pooled))
    }
}

impl Model for Yolo {
    fn anatomy(&self) -> Anatomy {
        let head = self.config.head();
        let layer = |i: usize| vec![format!("model.{i}.*")];
        Anatomy {
            stem: "model.0.conv.weight".into(),
            last_stage: format!("model.{}.*", head - 1),
            layers: (0..head).map(layer).chain([vec![format!("model.{head}.*")]]).collect(),
            head: if self.linear.is_some() { format!("model.{head}.linear.") } else { String::new() },
            ..Anatomy::default()
        }
    }

    fn taps(&self) -> Vec<String> {
        (0..self.config.head()).map(|i| format!("model.{i}")).collect()
    }

    /// Results of layers, each (B, C, H, W).
    fn tapped(&self, images: &Value, places: &[&str]) -> Result<Vec<Value>> {
        let names = self.taps();
        let mut wanted = vec![];
        for place in places {
            let at = names.iter().position(|n| n == place);
            let unknown = || Error::Config(format!("no place `{place}`: expected one of {}", names.join(", ")));
            wanted.push(at.ok_or_else(unknown)?);
        }
        let all = self.layers(images, wanted.iter().max().map_or(1, |i| i + 1), false)?;
        Ok(wanted.iter().map(|i| ops::channels_first(&all[*i])).collect::<Result<_, _>>()?)
    }

    fn focus(&self) -> Option<String> {
        Some(format!("model.{}", self.config.head() - 1))
    }

    fn memory(&self, batch: usize, all: usize, trained: usize) -> Option<u64> {
        let w = self.config.all_widths();
        let half = |(h, w): (usize, usize)| (h.div_ceil(2), w.div_ceil(2));
        let mut size = half(self.config.image);
        // Each convolution keeps its result, the normalised one and the activation.
        let mut values = 3 * size.0 * size.1 * w.convs[0];
        for (conv, block) in w.convs[1..].iter().zip(&w.blocks) {
            size = half(size);
            let inner: usize = block.inner.iter().map(|i| i + block.stream).sum();
            values += 3 * size.0 * size.1 * (conv + 2 * block.stream + 2 * block.past + block.out + inner);
        }
        values += 3 * size.0 * size.1 * w.hidden;
        Some((values * batch * 4 + all * 4 + trained * 12) as u64)
    }

    fn reset_classifier(&mut self, classes: usize, params: &ParamStore, key: Key) -> Result<()> {
        params.forget(&format!("model.{}.linear.*", self.config.head()));
        let config = YoloConfig { classes, ..self.config.clone() };
        self.linear = (classes > 0).then(|| Self::new_head(&config, &params.builder(key))).transpose()?;
        self.config = config;
        Ok(())
    }

    /// Any size will do: the head reads a global pool.
    fn set_input_size(&mut self, image: (usize, usize), _: &ParamStore) -> Result<()> {
        self.config.image = image;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candlelight_autograd::{Gradients, Tape, tensor_from};

    fn small() -> YoloConfig {
        YoloConfig { widths: [8, 8, 16, 16, 24], classes: 5, dropout: 0.2, sppf: true, ..variants()[0].config.clone() }
    }

    #[test]
    fn every_parameter_trains_and_the_model_knows_its_parts() {
        let params = ParamStore::new();
        let mut model = Yolo::new(&small(), params.builder(Key::new(0))).unwrap();
        let images = tensor_from(Key::new(1).normal(2 * 3 * 64 * 64), (2, 3, 64, 64)).unwrap();
        let tape = Tape::new(&params);
        let logits = model.forward(&tape.constant(&images), Some(&Key::new(2))).unwrap();
        assert_eq!(logits.dims(), [2, 5]);
        let mut grads = Gradients::new(&params);
        tape.backward(&ops::cross_entropy(&logits, &[1, 4], 0.0).unwrap(), &mut grads).unwrap();
        assert!(grads.missing().is_empty(), "{:?}", grads.missing());
        let parts = model.anatomy();
        assert!(params.names().iter().all(|n| parts.layer_of(n).is_some()));
        assert!(parts.in_head("model.10.linear.bias") && !parts.in_head("model.10.conv.conv.weight"));
        let tape = Tape::off();
        let taps = model.tapped(&tape.constant(&images), &["model.9", "model.1"]).unwrap();
        assert_eq!((taps[0].dims(), taps[1].dims()), (&[2, 24, 2, 2][..], &[2, 8, 16, 16][..]));
        assert!(model.tapped(&tape.constant(&images), &["model.10"]).unwrap_err().to_string().contains("model.9"));
        assert!(model.memory(8, 1000, 1000).unwrap() > 1 << 20);
        model.reset_classifier(7, &params, Key::new(3)).unwrap();
        assert_eq!(model.forward(&tape.constant(&images), None).unwrap().dims(), [2, 7]);
        let gray = tape.constant(&tensor_from(vec![0.0; 64 * 64], (1, 1, 64, 64)).unwrap());
        assert!(model.forward(&gray, None).unwrap_err().to_string().contains("1 channels"));
    }

    #[test]
    fn configurations_that_do_not_fit_are_refused() {
        let text = |c: YoloConfig| c.check().unwrap_err().to_string();
        assert!(text(YoloConfig { dropout: 1.0, ..small() }).contains("dropout 1"));
        assert!(text(YoloConfig { channels: 0, ..small() }).contains("without channels"));
        let mut pruned = small().all_widths();
        pruned.blocks[1].inner.pop();
        assert!(text(YoloConfig { pruned: Some(pruned), ..small() }).contains("pruned widths"));
    }
}
