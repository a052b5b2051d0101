//! Residual networks: K. He et al., arXiv 1512.03385, with the stride in the 3 x 3 convolution (torchvision's v1.5); S. Xie et al.,
//! "ResNeXt", arXiv 1611.05431; S. Zagoruyko and N. Komodakis, "Wide ResNet", arXiv 1605.07146. State-dict names are
//! torchvision's and timm's; those of the CIFAR networks are akamaster's.
//!
//! Shapes: B images, H x W pixels, channels last inside.

use crate::batch_norm::{BatchNorm, BatchNormConfig};
use crate::classifier::Classifier;
use crate::error::{Error, Result};
use candle_core::{Module, Tensor};
use candle_nn::init::{FanInOut, NonLinearity, NormalOrUniform};
use candle_nn::{Init, VarBuilder};
use candlelight_autograd::ops::{Conv2dConfig, GlobalPool, Pool2dConfig, Then};
use candlelight_autograd::{Key, Tape, Value, ops};
use serde::{Deserialize, Serialize};

/// The kind of block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    /// Two 3 x 3 convolutions.
    Basic,
    /// 1 x 1, 3 x 3, 1 x 1, four times as wide at the end.
    Bottleneck,
}

impl Block {
    fn expansion(self) -> usize {
        if self == Block::Basic { 1 } else { 4 }
    }
}

/// What comes before the stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stem {
    /// 7 x 7 with stride 2, then a max pool: images of 224.
    Large,
    /// 3 x 3 with stride 1 and no pool: images of 32.
    Small,
}

/// How a block's input gets to its result where the shapes differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shortcut {
    /// A 1 x 1 convolution and a normalisation, `downsample`.
    Projection,
    /// Every second pixel, new channels of zeros on both sides: option A, without parameters.
    Zeros,
}

/// A residual network's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// Height and width of the images it is meant for; others will do.
    pub image: (usize, usize),
    /// Image channels.
    pub channels: usize,
    /// The kind of block.
    pub block: Block,
    /// Blocks of each stage.
    pub depths: Vec<usize>,
    /// Width of each stage, before a bottleneck's expansion.
    pub widths: Vec<usize>,
    /// Groups of a bottleneck's 3 x 3 convolution.
    pub groups: usize,
    /// Width of a group's 3 x 3 convolution in the first stage; 64 is the plain network's.
    pub base_width: usize,
    /// What comes before the stages.
    pub stem: Stem,
    /// How shapes are matched.
    pub shortcut: Shortcut,
    /// Classes of the head; 0 leaves it out.
    pub classes: usize,
    /// What the head reads.
    pub pool: GlobalPool,
    /// Stochastic depth of the last block; the blocks before it grow to it linearly from 0.
    pub drop_path: f32,
    /// Dropout before the head.
    pub dropout: f32,
    /// Start every block as the identity: the last normalisation's scale is 0 (timm's default, torchvision's option).
    pub zero_init_last: bool,
    /// DropBlock's rate: squares of 5 pixels in the last stage but one, at a quarter of the rate, and of 3 in the last, as timm.
    pub drop_block: f32,
    /// Blur before every subsampling but the shortcuts' (R. Zhang, arXiv 1904.11486).
    pub blur: bool,
    /// Constants of every batch normalisation.
    pub norm: BatchNormConfig,
}

type Variant = (&'static str, fn() -> ResNetConfig);

fn large(block: Block, depths: [usize; 4], groups: usize, base_width: usize) -> ResNetConfig {
    ResNetConfig {
        image: (224, 224),
        channels: 3,
        block,
        depths: depths.to_vec(),
        widths: vec![64, 128, 256, 512],
        groups,
        base_width,
        stem: Stem::Large,
        shortcut: Shortcut::Projection,
        classes: 1000,
        pool: GlobalPool::Avg,
        drop_path: 0.0,
        dropout: 0.0,
        zero_init_last: true,
        drop_block: 0.0,
        blur: false,
        norm: BatchNormConfig::default(),
    }
}

fn cifar(blocks: usize) -> ResNetConfig {
    ResNetConfig {
        image: (32, 32),
        depths: vec![blocks; 3],
        widths: vec![16, 32, 64],
        stem: Stem::Small,
        shortcut: Shortcut::Zeros,
        classes: 10,
        zero_init_last: false,
        ..large(Block::Basic, [0; 4], 1, 64)
    }
}

const D50: [usize; 4] = [3, 4, 6, 3];
const D101: [usize; 4] = [3, 4, 23, 3];

/// Named configurations.
pub const VARIANTS: &[Variant] = &[
    ("resnet18", || large(Block::Basic, [2, 2, 2, 2], 1, 64)),
    ("resnet34", || large(Block::Basic, D50, 1, 64)),
    ("resnet50", || large(Block::Bottleneck, D50, 1, 64)),
    ("resnet101", || large(Block::Bottleneck, D101, 1, 64)),
    ("resnet152", || large(Block::Bottleneck, [3, 8, 36, 3], 1, 64)),
    ("resnext50_32x4d", || large(Block::Bottleneck, D50, 32, 4)),
    ("resnext101_32x8d", || large(Block::Bottleneck, D101, 32, 8)),
    ("resnext101_64x4d", || large(Block::Bottleneck, D101, 64, 4)),
    ("wide_resnet50_2", || large(Block::Bottleneck, D50, 1, 128)),
    ("wide_resnet101_2", || large(Block::Bottleneck, D101, 1, 128)),
    ("resnetblur18", || ResNetConfig { blur: true, ..large(Block::Basic, [2, 2, 2, 2], 1, 64) }),
    ("resnetblur50", || ResNetConfig { blur: true, ..large(Block::Bottleneck, D50, 1, 64) }),
    ("resnet20", || cifar(3)),
    ("resnet32", || cifar(5)),
    ("resnet44", || cifar(7)),
    ("resnet56", || cifar(9)),
    ("resnet110", || cifar(18)),
];

impl ResNetConfig {
    /// Checks that the parts fit.
    ///
    /// # Errors
    /// Names what does not.
    pub fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Config(message));
        if self.depths.len() != self.widths.len() || self.depths.is_empty() {
            return fail(format!("{} depths and {} widths of stages", self.depths.len(), self.widths.len()));
        }
        if self.channels == 0 || self.widths.contains(&0) || self.depths.contains(&0) {
            return fail("a stage or an image without channels or blocks".into());
        }
        if self.block == Block::Basic && (self.groups != 1 || self.base_width != 64) {
            return fail("groups and widths of their own need bottleneck blocks".into());
        }
        if let Some(w) = self.widths.iter().find(|w| self.groups == 0 || self.middle(**w) % self.groups != 0) {
            return fail(format!("{} groups do not divide a width of {w}", self.groups));
        }
        let rates = [("drop_path", self.drop_path), ("dropout", self.dropout), ("drop_block", self.drop_block)];
        for (name, rate) in rates {
            if !(0.0..1.0).contains(&rate) {
                return fail(format!("{name} {rate} is outside [0, 1)"));
            }
        }
        self.norm.check()
    }

    /// Width of a block's middle.
    fn middle(&self, width: usize) -> usize {
        if self.block == Block::Basic { width } else { width * self.base_width / 64 * self.groups }
    }

    /// Channels of the last stage.
    pub fn features(&self) -> usize {
        self.widths.last().map_or(0, |w| w * self.block.expansion())
    }

    /// What the head is called.
    fn head(&self) -> &'static str {
        if self.shortcut == Shortcut::Zeros { "linear" } else { "fc" }
    }
}

fn conv(outputs: usize, inputs: usize, kernel: usize, vb: VarBuilder) -> Result<Tensor> {
    let init =
        Init::Kaiming { dist: NormalOrUniform::Normal, fan: FanInOut::FanOut, non_linearity: NonLinearity::ReLU };
    Ok(vb.get_with_hints((outputs, inputs, kernel, kernel), "weight", init)?)
}

/// A convolution and its normalisation.
#[derive(Debug, Clone)]
struct ConvNorm {
    weight: Tensor,
    how: Conv2dConfig,
    norm: BatchNorm,
}

impl ConvNorm {
    fn forward(&self, x: &Value, train: bool, then: Then) -> Result<Value> {
        self.norm.forward_then(&ops::conv2d(x, &self.weight, None, self.how)?, train, then)
    }
}

#[derive(Debug, Clone)]
struct Residual {
    convs: Vec<ConvNorm>,
    downsample: Option<ConvNorm>,
    /// Of the parameter-free shortcut: stride and channels of the result.
    zeros: Option<(usize, usize)>,
    drop_path: f32,
    /// DropBlock's rate, square and share, behind the convolution that may subsample.
    drop_block: Option<(f32, usize, f32)>,
    /// Steps of a blur pool that subsamples in the convolution's place.
    blur: Option<usize>,
}

impl Residual {
    /// What follows the convolution that may subsample: normalisation, DropBlock, rectifier, blur.
    fn middle(&self, conv: &ConvNorm, x: &Value, key: Option<&Key>) -> Result<Value> {
        let h = match (self.drop_block, key) {
            (Some((rate, size, share)), Some(key)) => {
                let h = conv.forward(x, true, Then::Plain)?;
                ops::relu(&ops::drop_block2d(&h, key.child("drop_block"), rate, size, share)?)?
            }
            _ => conv.forward(x, key.is_some(), Then::Relu)?,
        };
        match self.blur {
            Some(stride) => Ok(ops::blur_pool2d(&h, 3, stride)?),
            None => Ok(h),
        }
    }
}

impl Residual {
    /// x: (B, H, W, C)
    fn forward(&self, x: &Value, key: Option<&Key>) -> Result<Value> {
        let train = key.is_some();
        let shortcut = match (&self.downsample, self.zeros) {
            (Some(d), _) => d.forward(x, train, Then::Plain)?,
            (None, Some((stride, channels))) => zeros(x, stride, channels)?,
            (None, None) => x.clone(),
        };
        let (last, first) = self.convs.split_last().ok_or_else(|| Error::Config("an empty block".into()))?;
        let mut h = x.clone();
        for (i, c) in first.iter().enumerate() {
            // The convolution before the last has the stride.
            h = if i + 1 == first.len() { self.middle(c, &h, key)? } else { c.forward(&h, train, Then::Relu)? };
        }
        match key {
            Some(key) if self.drop_path > 0.0 => {
                let h = ops::drop_path(&last.forward(&h, train, Then::Plain)?, key.child("drop_path"), self.drop_path)?;
                Ok(ops::relu(&h.add(&shortcut)?)?)
            }
            _ => last.forward(&h, train, Then::AddRelu(&shortcut)),
        }
    }
}

/// Option A: every `stride`-th pixel, as many channels as the block's result, the new ones zeros on both sides.
fn zeros(x: &Value, stride: usize, channels: usize) -> Result<Value> {
    let x = if stride > 1 { ops::avg_pool2d(x, Pool2dConfig::new(1, stride, 0))? } else { x.clone() };
    let have = x.dims().last().copied().unwrap_or(0);
    Ok(ops::pad_channels(&x, (channels - have) / 2, channels - have - (channels - have) / 2)?)
}

/// A residual network.
#[derive(Debug, Clone)]
pub struct ResNet {
    config: ResNetConfig,
    stem: ConvNorm,
    stages: Vec<Vec<Residual>>,
    head: Option<(Tensor, Tensor)>,
}

impl ResNet {
    /// Builds the model with whatever the `VarBuilder` gives: fresh parameters or a file's.
    ///
    /// # Errors
    /// When the configuration does not fit or the builder lacks a tensor.
    pub fn new(config: &ResNetConfig, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let c = config;
        let norm =
            |n: usize, zero: bool, vb: VarBuilder| BatchNorm::new(n, Some(if zero { 0.0 } else { 1.0 }), c.norm, vb);
        let (kernel, how) =
            if c.stem == Stem::Large { (7, Conv2dConfig::new(2, 3)) } else { (3, Conv2dConfig::new(1, 1)) };
        let stem = ConvNorm {
            weight: conv(c.widths[0], c.channels, kernel, vb.pp("conv1"))?,
            how,
            norm: norm(c.widths[0], false, vb.pp("bn1"))?,
        };
        let (mut inputs, mut stages) = (c.widths[0], vec![]);
        let (total, mut index) = (c.depths.iter().sum::<usize>(), 0);
        for (stage, (&depth, &width)) in c.depths.iter().zip(&c.widths).enumerate() {
            let mut blocks = vec![];
            for i in 0..depth {
                let vb = vb.pp(format!("layer{}.{i}", stage + 1));
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                let blurred = c.blur && stride > 1;
                let step = if blurred { 1 } else { stride };
                let (middle, outputs) = (c.middle(width), width * c.block.expansion());
                // (kernel, inputs, outputs, how)
                let shapes = match c.block {
                    Block::Basic => {
                        vec![(3, inputs, width, Conv2dConfig::new(step, 1)), (3, width, width, Conv2dConfig::new(1, 1))]
                    }
                    Block::Bottleneck => vec![
                        (1, inputs, middle, Conv2dConfig::new(1, 0)),
                        (3, middle, middle, Conv2dConfig { groups: c.groups, ..Conv2dConfig::new(step, 1) }),
                        (1, middle, outputs, Conv2dConfig::new(1, 0)),
                    ],
                };
                let last = shapes.len() - 1;
                let conv_norm = |(j, (k, i, o, how)): (usize, (usize, usize, usize, Conv2dConfig))| {
                    Ok(ConvNorm {
                        weight: conv(o, i / how.groups, k, vb.pp(format!("conv{}", j + 1)))?,
                        how,
                        norm: norm(o, j == last && c.zero_init_last, vb.pp(format!("bn{}", j + 1)))?,
                    })
                };
                let differs = stride > 1 || inputs != outputs;
                let projected = differs && c.shortcut == Shortcut::Projection;
                blocks.push(Residual {
                    convs: shapes.into_iter().enumerate().map(conv_norm).collect::<Result<_>>()?,
                    downsample: projected
                        .then(|| {
                            Ok::<_, Error>(ConvNorm {
                                weight: conv(outputs, inputs, 1, vb.pp("downsample.0"))?,
                                how: Conv2dConfig::new(stride, 0),
                                norm: norm(outputs, false, vb.pp("downsample.1"))?,
                            })
                        })
                        .transpose()?,
                    zeros: (differs && !projected).then_some((stride, outputs)),
                    drop_block: match c.depths.len() - stage {
                        _ if c.drop_block == 0.0 => None,
                        1 => Some((c.drop_block, 3, 1.0)),
                        2 => Some((c.drop_block, 5, 0.25)),
                        _ => None,
                    },
                    blur: blurred.then_some(stride),
                    drop_path: if total > 1 { c.drop_path * index as f32 / (total - 1) as f32 } else { c.drop_path },
                });
                inputs = outputs;
                index += 1;
            }
            stages.push(blocks);
        }
        let head = (c.classes > 0).then(|| Self::new_head(c, c.classes, &vb)).transpose()?;
        Ok(ResNet { config: c.clone(), stem, stages, head })
    }

    fn new_head(c: &ResNetConfig, classes: usize, vb: &VarBuilder) -> Result<(Tensor, Tensor)> {
        let inputs = c.pool.width(c.features());
        let bound = 1.0 / (inputs as f64).sqrt();
        let (vb, init) = (vb.pp(c.head()), Init::Uniform { lo: -bound, up: bound });
        Ok((vb.get_with_hints((classes, inputs), "weight", init)?, vb.get_with_hints(classes, "bias", init)?))
    }

    /// The configuration.
    pub fn config(&self) -> &ResNetConfig {
        &self.config
    }

    /// images (B, C, H, W) -> after the stem's rectifier, before its pool (B, H, W, C).
    fn stem(&self, images: &Value, train: bool) -> Result<Value> {
        let (_, c, _, _) = images.tensor().dims4()?;
        if c != self.config.channels {
            return Err(Error::Config(format!("images of {c} channels, the model wants {}", self.config.channels)));
        }
        self.stem.forward(&ops::channels_last(images)?, train, Then::Relu)
    }

    fn stem_pool(&self, x: &Value) -> Result<Value> {
        match self.config.stem {
            Stem::Large if self.config.blur => {
                Ok(ops::blur_pool2d(&ops::max_pool2d(x, Pool2dConfig::new(3, 1, 1))?, 3, 2)?)
            }
            Stem::Large => Ok(ops::max_pool2d(x, Pool2dConfig::new(3, 2, 1))?),
            Stem::Small => Ok(x.clone()),
        }
    }

    fn stage(&self, i: usize, mut x: Value, key: Option<&Key>) -> Result<Value> {
        for (j, block) in self.stages[i].iter().enumerate() {
            x = block.forward(&x, key.map(|k| k.child("stage").index(i as u64).index(j as u64)).as_ref())?;
        }
        Ok(x)
    }

    /// images (B, C, H, W) -> the last stage's result (B, H / 32, W / 32, features), channels last.
    ///
    /// # Errors
    /// When the images do not fit.
    pub fn forward_features(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        let mut x = self.stem_pool(&self.stem(images, key.is_some())?)?;
        for i in 0..self.stages.len() {
            x = self.stage(i, x, key)?;
        }
        Ok(x)
    }

    /// The last stage's result (B, H, W, features) -> logits (B, classes), or pooled features without a head.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward_head(&self, x: &Value, key: Option<&Key>) -> Result<Value> {
        self.classify(&ops::global_pool2d(x, self.config.pool)?, key)
    }

    /// images (B, C, H, W) -> logits (B, classes). `key` draws dropout and drop-path and makes the batch normalise itself;
    /// `None` evaluates.
    ///
    /// # Errors
    /// When the images do not fit.
    pub fn forward(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        self.forward_head(&self.forward_features(images, key)?, key)
    }

    /// The levels of the pyramid that are asked for, each (B, C, H, W): 0 after the stem's rectifier, i after stage i. Later
    /// stages than asked for are not run.
    ///
    /// # Errors
    /// When there is no such level.
    pub fn features(&self, images: &Value, out_indices: &[usize]) -> Result<Vec<Value>> {
        let levels = self.levels(images, out_indices)?;
        Ok(levels.iter().map(ops::channels_first).collect::<Result<_, _>>()?)
    }

    /// The same levels after the model's global pool, each (B, C), or (B, 2 C) where it joins means and maxima.
    ///
    /// # Errors
    /// When there is no such level.
    pub fn pooled_features(&self, images: &Value, out_indices: &[usize]) -> Result<Vec<Value>> {
        let levels = self.levels(images, out_indices)?;
        Ok(levels.iter().map(|x| ops::global_pool2d(x, self.config.pool)).collect::<Result<_, _>>()?)
    }

    /// Levels of the pyramid, each (B, H, W, C).
    fn levels(&self, images: &Value, out_indices: &[usize]) -> Result<Vec<Value>> {
        if let Some(i) = out_indices.iter().find(|i| **i > self.stages.len()) {
            return Err(Error::Config(format!("no level {i}: expected 0 to {}", self.stages.len())));
        }
        let last = out_indices.iter().copied().max().unwrap_or(0);
        let mut levels = vec![self.stem(images, false)?];
        let mut x = self.stem_pool(&levels[0])?;
        for i in 0..last {
            x = self.stage(i, x, None)?;
            levels.push(x.clone());
        }
        Ok(out_indices.iter().map(|i| levels[*i].clone()).collect())
    }

    /// A new head with so many classes (0 for none) and this pool, from the builder.
    ///
    /// # Errors
    /// When the builder has a head of another shape: forget it first.
    pub fn reset_classifier(&mut self, classes: usize, pool: GlobalPool, vb: VarBuilder) -> Result<()> {
        let config = ResNetConfig { classes, pool, ..self.config.clone() };
        self.head = (classes > 0).then(|| Self::new_head(&config, classes, &vb)).transpose()?;
        self.config = config;
        Ok(())
    }

    /// timm's test-time pooling for images larger than those trained on: means over windows of the size training saw, the head on
    /// each of them, half of their mean and half of their largest logits.
    ///
    /// # Errors
    /// When the images are smaller than those trained on, or there is no head.
    pub fn forward_test_pool(&self, images: &Value) -> Result<Value> {
        let Some((w, b)) = &self.head else { return Err(Error::Config("the model has no head".into())) };
        let down = if self.config.stem == Stem::Large { 32 } else { 4 };
        let window = (self.config.image.0.div_ceil(down), self.config.image.1.div_ceil(down));
        let x = self.forward_features(images, None)?;
        let pool = Pool2dConfig { kernel: window, stride: (1, 1), padding: (0, 0), ceil: false };
        let logits = ops::linear(&ops::avg_pool2d(&x, pool)?, w, Some(b))?; // (B, h, w, classes)
        Ok(ops::global_pool2d(&logits, GlobalPool::AvgMax)?)
    }
}

impl Classifier for ResNet {
    fn forward(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        ResNet::forward(self, images, key)
    }

    fn features(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        Ok(ops::global_pool2d(&self.forward_features(images, key)?, self.config.pool)?)
    }

    fn classify(&self, features: &Value, key: Option<&Key>) -> Result<Value> {
        let x = match key {
            Some(key) => ops::dropout(features, key.child("head_drop"), self.config.dropout)?,
            None => features.clone(),
        };
        match &self.head {
            Some((w, b)) => Ok(ops::linear(&x, w, Some(b))?),
            None => Ok(x),
        }
    }
}

/// Inference: images (B, C, H, W) -> logits (B, classes).
impl Module for ResNet {
    fn forward(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        let tape = Tape::off();
        Ok(ResNet::forward(self, &tape.constant(images), None)?.tensor().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;
    use candlelight_autograd::{Gradients, ParamStore, tensor_from};

    /// (parameters, entries of the state dict, layer4)
    const PUBLISHED: &[(&str, usize, usize, usize)] = &[
        ("resnet18", 11_689_512, 122, 8_393_728),
        ("resnet34", 21_797_672, 218, 13_114_368),
        ("resnet50", 25_557_032, 320, 14_964_736),
        ("resnet101", 44_549_160, 626, 14_964_736),
        ("resnet152", 60_192_808, 932, 14_964_736),
        ("resnext50_32x4d", 25_028_904, 320, 14_544_896),
        ("resnext101_32x8d", 88_791_336, 626, 28_745_728),
        ("resnext101_64x4d", 83_455_272, 626, 26_976_256),
        ("wide_resnet50_2", 68_883_240, 320, 41_971_712),
        ("wide_resnet101_2", 126_886_696, 626, 41_971_712),
        ("resnetblur18", 11_689_512, 122, 8_393_728),
        ("resnetblur50", 25_557_032, 320, 14_964_736),
    ];

    #[test]
    fn parameters_and_state_dicts_are_the_published_ones() {
        for &(name, parameters, entries, layer4) in PUBLISHED {
            let params = ParamStore::new();
            ResNet::new(&registry::resnet(name).unwrap(), params.builder(Key::new(0))).unwrap();
            let state = params.state_dict();
            let of = |p: &str| -> usize {
                params.entries().iter().filter(|e| e.name.starts_with(p)).map(|e| e.var.elem_count()).sum()
            };
            assert_eq!((of(""), state.len(), of("layer4")), (parameters, entries, layer4), "{name}");
        }
        for (name, parameters) in [("resnet20", 269_722), ("resnet56", 853_018), ("resnet110", 1_727_962)] {
            let params = ParamStore::new();
            ResNet::new(&registry::resnet(name).unwrap(), params.builder(Key::new(0))).unwrap();
            assert_eq!(params.count().1, parameters, "{name}");
        }
    }

    fn small(block: Block) -> ResNetConfig {
        ResNetConfig {
            depths: vec![1, 1, 1, 2],
            widths: vec![8, 8, 16, 16],
            base_width: if block == Block::Basic { 64 } else { 32 },
            groups: if block == Block::Basic { 1 } else { 2 },
            classes: 5,
            drop_path: 0.2,
            dropout: 0.1,
            zero_init_last: false,
            ..large(block, [1; 4], 1, 64)
        }
    }

    #[test]
    fn every_parameter_trains_and_frozen_ones_keep_their_statistics() {
        for (block, pool) in [(Block::Basic, GlobalPool::CatAvgMax), (Block::Bottleneck, GlobalPool::Avg)] {
            let config = ResNetConfig { pool, ..small(block) };
            let params = ParamStore::new();
            let model = ResNet::new(&config, params.builder(Key::new(0))).unwrap();
            let images = tensor_from(Key::new(1).normal(2 * 3 * 64 * 48), (2, 3, 64, 48)).unwrap();
            let step = || {
                let tape = Tape::new(&params);
                let logits = model.forward(&tape.constant(&images), Some(&Key::new(2))).unwrap();
                assert_eq!(logits.dims(), [2, 5]);
                let mut grads = Gradients::new(&params);
                tape.backward(&ops::cross_entropy(&logits, &[1, 4], 0.0).unwrap(), &mut grads).unwrap();
                assert!(grads.missing().is_empty(), "{:?}", grads.missing());
            };
            let statistic = |name: &str| params.var(name).unwrap().to_vec1::<f32>().unwrap();
            step();
            let (first, last) = (statistic("layer1.0.bn1.running_mean"), statistic("layer4.1.bn1.running_mean"));
            assert!(first.iter().all(|v| *v != 0.0));
            assert_eq!(params.var("bn1.num_batches_tracked").unwrap().to_scalar::<f32>().unwrap(), 1.0);
            "layer4_fc".parse::<crate::freeze::Trained>().unwrap().apply(&params).unwrap();
            step();
            assert_eq!(statistic("layer1.0.bn1.running_mean"), first, "a frozen norm is in evaluation");
            assert!(statistic("layer4.1.bn1.running_mean") != last);
        }
    }

    #[test]
    fn pyramid_heads_and_large_images() {
        let params = ParamStore::new();
        let vb = params.builder(Key::new(0));
        let config = ResNetConfig { image: (64, 64), ..small(Block::Bottleneck) };
        let mut model = ResNet::new(&config, vb.clone()).unwrap();
        let tape = Tape::off();
        let images =
            |side: usize| tape.constant(&tensor_from(Key::new(1).normal(3 * side * side), (1, 3, side, side)).unwrap());
        let levels = model.features(&images(64), &[0, 4, 2]).unwrap();
        let shapes: Vec<&[usize]> = levels.iter().map(Value::dims).collect();
        assert_eq!(shapes, [&[1, 8, 32, 32][..], &[1, 64, 2, 2], &[1, 32, 8, 8]]);
        assert!(model.features(&images(64), &[5]).unwrap_err().to_string().contains("0 to 4"));
        let values = |v: &Value| v.tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let vectors = model.pooled_features(&images(64), &[4, 2]).unwrap();
        let mean: Vec<f32> = values(&levels[1]).chunks(4).map(|c| c.iter().sum::<f32>() / 4.0).collect();
        assert_eq!((vectors[0].dims(), vectors[1].dims()), (&[1, 64][..], &[1, 32][..]));
        assert!(values(&vectors[0]).iter().zip(mean).all(|(a, b)| (a - b).abs() < 1e-6));
        let (plain, pooled) =
            (model.forward(&images(64), None).unwrap(), model.forward_test_pool(&images(64)).unwrap());
        let off = values(&plain).iter().zip(values(&pooled)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-5, "one window: the plain head");
        assert_eq!(model.forward_test_pool(&images(128)).unwrap().dims(), [1, 5]);
        assert!(model.forward_test_pool(&images(32)).is_err());
        let gray = tape.constant(&tensor_from(vec![0.0; 64 * 64], (1, 1, 64, 64)).unwrap());
        assert!(model.forward(&gray, None).unwrap_err().to_string().contains("1 channels"));
        let e = model.reset_classifier(7, GlobalPool::Avg, vb.clone()).unwrap_err().to_string();
        assert!(e.contains("fc.weight"), "{e}");
        params.forget("fc.*");
        model.reset_classifier(7, GlobalPool::Avg, vb.clone()).unwrap();
        assert_eq!(model.forward(&images(64), None).unwrap().dims(), [1, 7]);
        model.reset_classifier(0, GlobalPool::Avg, vb).unwrap();
        assert_eq!(model.forward(&images(64), None).unwrap().dims(), [1, 64]);
    }

    #[test]
    fn configurations_that_do_not_fit_are_refused() {
        let text = |c: ResNetConfig| c.check().unwrap_err().to_string();
        let base = small(Block::Bottleneck);
        assert!(text(ResNetConfig { groups: 0, ..base.clone() }).contains("0 groups"));
        assert!(text(ResNetConfig { depths: vec![1], ..base.clone() }).contains("1 depths and 4 widths"));
        assert!(text(ResNetConfig { groups: 2, ..small(Block::Basic) }).contains("bottleneck"));
        assert!(text(ResNetConfig { drop_path: 1.0, ..base.clone() }).contains("drop_path 1"));
        assert!(text(ResNetConfig { norm: BatchNormConfig { eps: 0.0, ..base.norm }, ..base }).contains("bn_eps 0"));
        let e = registry::resnet("resnext50_32x4").unwrap_err().to_string();
        assert!(e.contains("did you mean resnext50_32x4d"), "{e}");
    }
}
