//! Residual networks: K. He et al., arXiv 1512.03385, with the stride in the 3 x 3 convolution (torchvision's v1.5); S. Xie et al.,
//! "ResNeXt", arXiv 1611.05431; S. Zagoruyko and N. Komodakis, "Wide ResNet", arXiv 1605.07146. State-dict names are
//! torchvision's and timm's; those of the CIFAR networks are akamaster's.
//!
//! Shapes: B images of H x W pixels; inside the network channels are last.

use crate::error::{Error, Result};
use crate::model::{Classifier, Model, Published, Trunk, Variant};
use candle_core::{Module, Tensor};
use candle_nn::VarBuilder;
use candlelight_autograd::ops::{Conv2dConfig, GlobalPool, Pool2dConfig, Then};
use candlelight_autograd::{Key, ParamStore, Tape, Value, ops};
use candlelight_nn::{Anatomy, BatchNorm, BatchNormConfig, Conv2d, Dropout, Linear, init};
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;

/// The kind of residual block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    /// Two 3 x 3 convolutions.
    Basic,
    /// Three convolutions, 1 x 1, 3 x 3 and 1 x 1; the last has four times as many outputs.
    Bottleneck,
}

impl Block {
    fn expansion(self) -> usize {
        if self == Block::Basic { 1 } else { 4 }
    }
}

/// The layers before the stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stem {
    /// A 7 x 7 convolution with stride 2, then a max pool, for images of 224 pixels.
    Large,
    /// A 3 x 3 convolution with stride 1 and no pool, for images of 32 pixels.
    Small,
}

/// How the input of a block is brought to the shape of its result, where the shapes differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shortcut {
    /// A 1 x 1 convolution and a normalisation, named `downsample`.
    Projection,
    /// Every second pixel, with new channels of zeros on both sides: option A of the paper, which has no parameters.
    Zeros,
}

/// The configuration of a residual network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// Height and width of the images that the network is meant for; other sizes work too.
    pub image: (usize, usize),
    /// The number of image channels.
    pub channels: usize,
    /// The kind of residual block.
    pub block: Block,
    /// The number of blocks of each stage.
    pub depths: Vec<usize>,
    /// The number of channels of each stage, before the fourfold expansion of a bottleneck.
    pub widths: Vec<usize>,
    /// The number of groups of a bottleneck's 3 x 3 convolution.
    pub groups: usize,
    /// The number of channels of a group in the first stage's 3 x 3 convolutions; 64 in a plain ResNet.
    pub base_width: usize,
    /// The layers before the stages.
    pub stem: Stem,
    /// How a shortcut is brought to the shape of the block's result.
    pub shortcut: Shortcut,
    /// The number of classes of the head; 0 leaves the head out.
    pub classes: usize,
    /// The pool whose result the head reads.
    pub pool: GlobalPool,
    /// The rate of stochastic depth in the last block, in [0, 1); from the first block on, the rates rise to it linearly from 0.
    pub drop_path: f32,
    /// The rate of dropout before the head, in [0, 1).
    pub dropout: f32,
    /// Whether every block starts as the identity, because the scale of its last normalisation starts at 0 (timm's default, an option of
    /// torchvision).
    pub zero_init_last: bool,
    /// The rate of DropBlock, in [0, 1). As in timm, squares of 5 x 5 pixels are dropped in the last stage but one, at a quarter of the
    /// rate, and squares of 3 x 3 pixels in the last stage.
    pub drop_block: f32,
    /// Whether images are blurred before every subsampling except those of the shortcuts (R. Zhang, arXiv 1904.11486).
    pub blur: bool,
    /// The constants of every batch normalisation.
    pub norm: BatchNormConfig,
    /// The widths of single convolutions in a pruned network; `None` where they follow from `widths`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruned: Option<PrunedWidths>,
}

/// The numbers of outputs of the convolutions that pruning can narrow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrunedWidths {
    /// Outputs of the first convolution.
    pub stem: usize,
    /// Outputs of each stage: of the last convolution of each of its blocks, and of its shortcut.
    pub stages: Vec<usize>,
    /// Outputs of the other convolutions, by stage and block: one number for a basic block, two for a bottleneck.
    pub inner: Vec<Vec<Vec<usize>>>,
    /// Of the first block of each stage, where shortcuts have no parameters: for each channel of the block's result the channel of the block's
    /// input, or `None` where there are zeros. Without these lists channels are added or left out on both sides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shortcuts: Vec<Vec<Option<usize>>>,
}

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
        pruned: None,
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

/// The named configurations.
pub fn variants() -> &'static [Variant<ResNetConfig>] {
    static ALL: OnceLock<Vec<Variant<ResNetConfig>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let large = |name, block, depths, groups, base_width, published| Variant {
            name,
            config: large(block, depths, groups, base_width),
            published,
        };
        let blurred = |v: Variant<ResNetConfig>| Variant { config: ResNetConfig { blur: true, ..v.config }, ..v };
        let cifar = |name, blocks| Variant { name, config: cifar(blocks), published: Published::CIFAR };
        use Block::{Basic, Bottleneck};
        let tv = |weights| Published::IMAGENET.at(weights);
        vec![
            large("resnet18", Basic, [2, 2, 2, 2], 1, 64, tv("timm/resnet18.tv_in1k")),
            large("resnet34", Basic, D50, 1, 64, tv("timm/resnet34.tv_in1k")),
            large("resnet50", Bottleneck, D50, 1, 64, tv("timm/resnet50.tv_in1k")),
            large("resnet101", Bottleneck, D101, 1, 64, tv("timm/resnet101.tv_in1k")),
            large("resnet152", Bottleneck, [3, 8, 36, 3], 1, 64, tv("timm/resnet152.tv_in1k")),
            large("resnext50_32x4d", Bottleneck, D50, 32, 4, tv("timm/resnext50_32x4d.tv_in1k")),
            large("resnext101_32x8d", Bottleneck, D101, 32, 8, tv("timm/resnext101_32x8d.tv_in1k")),
            large("resnext101_64x4d", Bottleneck, D101, 64, 4, tv("timm/resnext101_64x4d.tv_in1k")),
            large("wide_resnet50_2", Bottleneck, D50, 1, 128, tv("timm/wide_resnet50_2.tv_in1k")),
            large("wide_resnet101_2", Bottleneck, D101, 1, 128, tv("timm/wide_resnet101_2.tv_in1k")),
            blurred(large("resnetblur18", Basic, [2, 2, 2, 2], 1, 64, Published::IMAGENET_BICUBIC)),
            blurred(large(
                "resnetblur50",
                Bottleneck,
                D50,
                1,
                64,
                Published::IMAGENET_BICUBIC.at("timm/resnetblur50.bt_in1k"),
            )),
            cifar("resnet20", 3),
            cifar("resnet32", 5),
            cifar("resnet44", 7),
            cifar("resnet56", 9),
            cifar("resnet110", 18),
        ]
    })
}

impl ResNetConfig {
    /// Checks that the sizes fit one another.
    ///
    /// # Errors
    /// When they do not; the error names what is wrong.
    pub fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Config(message));
        if self.depths.len() != self.widths.len() || self.depths.is_empty() {
            return fail(format!(
                "{} depths and {} widths of stages, expected equally many",
                self.depths.len(),
                self.widths.len()
            ));
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
        if let Some(p) = &self.pruned {
            let inner = if self.block == Block::Basic { 1 } else { 2 };
            let fits = p.stages.len() == self.depths.len()
                && p.inner.len() == self.depths.len()
                && p.inner.iter().zip(&self.depths).all(|(blocks, n)| blocks.len() == *n)
                && p.inner.iter().flatten().all(|widths| widths.len() == inner && !widths.contains(&0));
            let shortcuts = p.shortcuts.is_empty() || p.shortcuts.len() == self.depths.len();
            if !fits || !shortcuts || p.stem == 0 || p.stages.contains(&0) {
                return fail(format!(
                    "pruned widths that do not fit: expected {} stages of {:?} blocks with {inner} inner widths each, none of them 0",
                    self.depths.len(),
                    self.depths
                ));
            }
        }
        Ok(self.norm.check()?)
    }

    /// Outputs of the stem.
    fn stem_width(&self) -> usize {
        self.pruned.as_ref().map_or(self.widths[0], |p| p.stem)
    }

    /// Outputs of a stage.
    fn stage_width(&self, stage: usize) -> usize {
        self.pruned.as_ref().map_or(self.widths[stage] * self.block.expansion(), |p| p.stages[stage])
    }

    /// Outputs of the convolutions of a block, the last one's included.
    fn block_widths(&self, stage: usize, block: usize) -> Vec<usize> {
        let mut widths = match (&self.pruned, self.block) {
            (Some(p), _) => p.inner[stage][block].clone(),
            (None, Block::Basic) => vec![self.widths[stage]],
            (None, Block::Bottleneck) => vec![self.middle(self.widths[stage]); 2],
        };
        widths.push(self.stage_width(stage));
        widths
    }

    /// The width of the middle of a block.
    fn middle(&self, width: usize) -> usize {
        if self.block == Block::Basic { width } else { width * self.base_width / 64 * self.groups }
    }

    /// Which channel of the input each channel of a stage's first shortcut without parameters is.
    fn zeros(&self, stage: usize, inputs: usize, outputs: usize) -> Result<Vec<Option<usize>>> {
        if let Some(from) = self.pruned.as_ref().and_then(|p| p.shortcuts.get(stage)) {
            if from.len() != outputs || from.iter().flatten().any(|i| *i >= inputs) {
                return Err(Error::Config(format!(
                    "layer{}.0: a shortcut of {} channels, expected {outputs}, each of {inputs} or none",
                    stage + 1,
                    from.len()
                )));
            }
            return Ok(from.clone());
        }
        // Half the difference before, also where it is negative: HRankPlus cuts off channels so.
        let before = (outputs as i64 - inputs as i64).div_euclid(2);
        Ok((0..outputs as i64).map(|i| usize::try_from(i - before).ok().filter(|i| *i < inputs)).collect())
    }

    /// The widths of a pruned network with these dimensions of its tensors.
    pub(crate) fn narrow(
        &mut self,
        dims: &dyn Fn(&str) -> Option<Vec<usize>>,
        paddings: &[Vec<Option<usize>>],
    ) -> Result<()> {
        let outputs = |name: String| {
            let name = format!("{name}.weight");
            let found = dims(&name).and_then(|d| d.first().copied());
            found.ok_or_else(|| Error::Mismatch(format!("a pruned residual network needs {name}")))
        };
        let last = if self.block == Block::Basic { 2 } else { 3 };
        let mut pruned = PrunedWidths {
            stem: outputs("conv1".into())?,
            stages: vec![],
            inner: vec![],
            shortcuts: paddings.to_vec(),
        };
        for (stage, depth) in self.depths.iter().enumerate() {
            let layer = |block: usize, conv: usize| format!("layer{}.{block}.conv{conv}", stage + 1);
            pruned.stages.push(outputs(layer(0, last))?);
            let inner = |block| (1..last).map(|conv| outputs(layer(block, conv))).collect::<Result<Vec<_>>>();
            pruned.inner.push((0..*depth).map(inner).collect::<Result<_>>()?);
        }
        self.pruned = Some(pruned);
        self.check()
    }

    /// The convolutions whose numbers of outputs each entry of HRank's compress rates sets: the stem, the stages but the last, and in every
    /// block the convolutions before the last.
    pub(crate) fn rated(&self) -> Vec<Vec<String>> {
        let last = if self.block == Block::Basic { 2 } else { 3 };
        let stages = (1..self.depths.len()).map(|stage| vec![format!("layer{stage}.0.conv{last}")]);
        let blocks = self.depths.iter().enumerate().flat_map(|(stage, n)| (0..*n).map(move |block| (stage + 1, block)));
        let inner = blocks.map(|(s, b)| (1..last).map(|conv| format!("layer{s}.{b}.conv{conv}")).collect());
        std::iter::once(vec!["conv1".to_string()]).chain(stages).chain(inner).collect()
    }

    /// Channels of the last stage.
    pub fn features(&self) -> usize {
        self.depths.len().checked_sub(1).map_or(0, |last| self.stage_width(last))
    }

    /// The name of the head.
    pub(crate) fn head(&self) -> &'static str {
        if self.shortcut == Shortcut::Zeros { "linear" } else { "fc" }
    }
}

/// A convolution and its normalisation.
#[derive(Debug, Clone)]
struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm,
}

impl ConvNorm {
    fn new(
        c: &ResNetConfig,
        (inputs, outputs, kernel): (usize, usize, usize),
        config: Conv2dConfig,
        zero: bool,
        (conv, norm): (VarBuilder, VarBuilder),
    ) -> Result<Self> {
        Ok(ConvNorm {
            conv: Conv2d::without_bias(inputs, outputs, kernel, config, init::kaiming_normal_fan_out(), conv)?,
            norm: BatchNorm::with(outputs, Some(if zero { 0.0 } else { 1.0 }), c.norm, norm)?,
        })
    }

    fn forward(&self, x: &Value, train: bool, then: Then) -> Result<Value> {
        Ok(self.norm.forward_then(&self.conv.forward(x)?, train, then)?)
    }
}

#[derive(Debug, Clone)]
struct Residual {
    convs: Vec<ConvNorm>,
    downsample: Option<ConvNorm>,
    /// For the shortcut without parameters, its stride and for each channel of the result that of the input; `None` where there are zeros.
    zeros: Option<(usize, Vec<Option<usize>>)>,
    drop_path: f32,
    /// DropBlock's rate, square and share, behind the convolution that may subsample.
    drop_block: Option<(f32, usize, f32)>,
    /// Steps of a blur pool that subsamples in the convolution's place.
    blur: Option<usize>,
}

impl Residual {
    /// Block `block` of a stage, the `index`-th of the network.
    fn new(
        c: &ResNetConfig,
        (stage, block, index): (usize, usize, usize),
        inputs: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        let stride = if stage > 0 && block == 0 { 2 } else { 1 };
        let blurred = c.blur && stride > 1;
        let step = if blurred { 1 } else { stride };
        let widths = c.block_widths(stage, block);
        // Kernel, steps and groups of each convolution.
        let kinds = match c.block {
            Block::Basic => vec![(3, Conv2dConfig::new(step, 1)), (3, Conv2dConfig::new(1, 1))],
            Block::Bottleneck => vec![
                (1, Conv2dConfig::new(1, 0)),
                (3, Conv2dConfig { groups: c.groups, ..Conv2dConfig::new(step, 1) }),
                (1, Conv2dConfig::new(1, 0)),
            ],
        };
        let (last, mut from, mut convs) = (kinds.len() - 1, inputs, vec![]);
        for (i, ((kernel, config), &outputs)) in kinds.into_iter().zip(&widths).enumerate() {
            let names = (vb.pp(format!("conv{}", i + 1)), vb.pp(format!("bn{}", i + 1)));
            convs.push(ConvNorm::new(c, (from, outputs, kernel), config, i == last && c.zero_init_last, names)?);
            from = outputs;
        }
        let outputs = c.stage_width(stage);
        let differs = stride > 1 || inputs != outputs;
        let projected = differs && c.shortcut == Shortcut::Projection;
        // In the first block of every stage pruning may choose which channels go on.
        let chosen = c.shortcut == Shortcut::Zeros && block == 0;
        let projection = || {
            let names = (vb.pp("downsample.0"), vb.pp("downsample.1"));
            ConvNorm::new(c, (inputs, outputs, 1), Conv2dConfig::new(stride, 0), false, names)
        };
        let total = c.depths.iter().sum::<usize>();
        Ok(Residual {
            convs,
            downsample: projected.then(projection).transpose()?,
            zeros: if chosen { Some((stride, c.zeros(stage, inputs, outputs)?)) } else { None },
            drop_block: match c.depths.len() - stage {
                _ if c.drop_block == 0.0 => None,
                1 => Some((c.drop_block, 3, 1.0)),
                2 => Some((c.drop_block, 5, 0.25)),
                _ => None,
            },
            blur: blurred.then_some(stride),
            drop_path: if total > 1 { c.drop_path * index as f32 / (total - 1) as f32 } else { c.drop_path },
        })
    }

    /// Applies what follows the convolution that may subsample: normalisation, DropBlock, ReLU, blur.
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
        let shortcut = match (&self.downsample, &self.zeros) {
            (Some(d), _) => d.forward(x, train, Then::Plain)?,
            (None, Some((stride, from))) => zeros(x, *stride, from)?,
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

/// Option A of the paper: every `stride`-th pixel, with channels of zeros among those of the input.
fn zeros(x: &Value, stride: usize, from: &[Option<usize>]) -> Result<Value> {
    let x = if stride > 1 { ops::avg_pool2d(x, Pool2dConfig::new(1, stride, 0))? } else { x.clone() };
    let before = from.iter().take_while(|i| i.is_none()).count();
    let have = x.dims().last().copied().unwrap_or(0);
    let plain = (0..from.len()).all(|i| from[i] == i.checked_sub(before).filter(|i| *i < have));
    // In one piece the channels keep their memory's order, for which there is a kernel.
    match from.len().checked_sub(before + have) {
        Some(behind) if plain => Ok(ops::pad_channels(&x, before, behind)?),
        _ => Ok(x.place(-1, from)?),
    }
}

/// A residual network.
#[derive(Debug, Clone)]
pub struct ResNet {
    config: ResNetConfig,
    stem: ConvNorm,
    stages: Vec<Vec<Residual>>,
    head: Option<Linear>,
}

impl ResNet {
    /// Builds the model from a `VarBuilder`, which gives new parameters or those of a file.
    ///
    /// # Errors
    /// When the configuration does not fit or the builder lacks a tensor.
    pub fn new(config: &ResNetConfig, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let c = config;
        let (kernel, config) =
            if c.stem == Stem::Large { (7, Conv2dConfig::new(2, 3)) } else { (3, Conv2dConfig::new(1, 1)) };
        let sizes = (c.channels, c.stem_width(), kernel);
        let stem = ConvNorm::new(c, sizes, config, false, (vb.pp("conv1"), vb.pp("bn1")))?;
        let (mut inputs, mut stages) = (c.stem_width(), vec![]);
        let mut index = 0;
        for (stage, &depth) in c.depths.iter().enumerate() {
            let mut blocks = vec![];
            for block in 0..depth {
                let vb = vb.pp(format!("layer{}.{block}", stage + 1));
                blocks.push(Residual::new(c, (stage, block, index), inputs, vb)?);
                inputs = c.stage_width(stage);
                index += 1;
            }
            stages.push(blocks);
        }
        let head = (c.classes > 0).then(|| Self::new_head(c, c.classes, &vb)).transpose()?;
        Ok(ResNet { config: c.clone(), stem, stages, head })
    }

    fn new_head(c: &ResNetConfig, classes: usize, vb: &VarBuilder) -> Result<Linear> {
        Ok(Linear::new(c.pool.width(c.features()), classes, vb.pp(c.head()))?)
    }

    /// The configuration.
    pub fn config(&self) -> &ResNetConfig {
        &self.config
    }

    /// images (B, C, H, W) -> the values (B, H', W', C) behind the ReLU of the stem and before its pool.
    fn stem(&self, images: &Value, train: bool) -> Result<Value> {
        let (_, c, _, _) = images.tensor().dims4()?;
        if c != self.config.channels {
            return Err(Error::Config(format!("images of {c} channels, expected {}", self.config.channels)));
        }
        Ok(self.stem.forward(&ops::channels_last(images)?, train, Then::Relu)?.tap(|| "stem".into()))
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
            x = x.tap(|| format!("layer{}.{j}", i + 1));
        }
        Ok(x.tap(|| format!("layer{}", i + 1)))
    }

    /// images (B, C, H, W) -> the result of the last stage (B, H / 32, W / 32, features), channels last.
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

    /// images (B, C, H, W) -> logits (B, classes). With `key` the network trains: the key draws dropout and drop path, and batches are
    /// normalised by their own statistics. `None` evaluates.
    ///
    /// # Errors
    /// When the images do not fit.
    pub fn forward(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        self.forward_head(&self.forward_features(images, key)?, key)
    }

    /// Levels of the pyramid of features, each (B, C, H, W): level 0 is behind the ReLU of the stem, level i behind stage i. Stages behind
    /// the last of these levels are not run.
    ///
    /// # Errors
    /// When there is no such level.
    pub fn features(&self, images: &Value, out_indices: &[usize]) -> Result<Vec<Value>> {
        let levels = self.levels(images, out_indices)?;
        Ok(levels.iter().map(ops::channels_first).collect::<Result<_, _>>()?)
    }

    /// The same levels after the model's global pool, each (B, C), or (B, 2 C) where the pool joins means and maxima.
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

    /// Exchanges the head for a new one with so many classes (0 for none) and this pool, from the builder.
    ///
    /// # Errors
    /// When the builder has a head of another shape; let the store forget it first.
    pub fn reset_classifier(&mut self, classes: usize, pool: GlobalPool, vb: VarBuilder) -> Result<()> {
        let config = ResNetConfig { classes, pool, ..self.config.clone() };
        self.head = (classes > 0).then(|| Self::new_head(&config, classes, &vb)).transpose()?;
        self.config = config;
        Ok(())
    }

    /// timm's test-time pooling, for images larger than those of training. The features are averaged over windows of the size that training
    /// saw, and the head is applied to each window; the result is the mean of the windows' mean logits and largest logits.
    ///
    /// # Errors
    /// When the images are smaller than those trained on, or there is no head.
    pub fn forward_test_pool(&self, images: &Value) -> Result<Value> {
        let Some(head) = &self.head else { return Err(Error::Config("the model has no head".into())) };
        let down = self.stride();
        let window = (self.config.image.0.div_ceil(down), self.config.image.1.div_ceil(down));
        let x = self.forward_features(images, None)?;
        let pool = Pool2dConfig { kernel: window, stride: (1, 1), padding: (0, 0), ceil: false };
        let logits = head.forward(&ops::avg_pool2d(&x, pool)?)?; // (B, h, w, classes)
        Ok(ops::global_pool2d(&logits, GlobalPool::AvgMax)?)
    }
}

impl Classifier for ResNet {
    fn forward(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        ResNet::forward(self, images, key)
    }

    fn trunk(&self) -> Option<&dyn Trunk> {
        Some(self)
    }

    fn features(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        Ok(self.mapped(images, key)?.1)
    }

    fn classify(&self, features: &Value, key: Option<&Key>) -> Result<Value> {
        let x = Dropout(self.config.dropout).forward(features, key.map(|k| k.child("head_drop")))?;
        match &self.head {
            Some(head) => Ok(head.forward(&x)?),
            None => Ok(x),
        }
    }
}

impl Trunk for ResNet {
    fn stride(&self) -> usize {
        let halved = self.stages.len() - 1 + if self.config.stem == Stem::Large { 2 } else { 0 };
        1 << halved
    }

    fn widths(&self) -> (usize, usize) {
        let map = self.config.features();
        (map, self.config.pool.width(map))
    }

    fn mapped(&self, images: &Value, key: Option<&Key>) -> Result<(Value, Value)> {
        let map = self.forward_features(images, key)?;
        let pooled = ops::global_pool2d(&map, self.config.pool)?;
        Ok((map, pooled))
    }
}

impl Model for ResNet {
    fn anatomy(&self) -> Anatomy {
        let c = &self.config;
        let head = format!("{}.", c.head());
        let blocks = c.depths.iter().enumerate();
        let blocks = blocks.flat_map(|(stage, n)| (0..*n).map(move |i| vec![format!("layer{}.{i}.*", stage + 1)]));
        let first = vec!["conv1.*".to_string(), "bn1.*".into()];
        Anatomy {
            stem: "conv1.weight".into(),
            last_stage: format!("layer{}.*", c.depths.len()),
            layers: std::iter::once(first).chain(blocks).chain([vec![format!("{head}*")]]).collect(),
            head: if self.head.is_some() { head } else { String::new() },
            ..Anatomy::default()
        }
    }

    fn taps(&self) -> Vec<String> {
        std::iter::once("stem".to_string()).chain((1..=self.stages.len()).map(|i| format!("layer{i}"))).collect()
    }

    /// Levels of the pyramid, each (B, C, H, W).
    fn tapped(&self, images: &Value, places: &[&str]) -> Result<Vec<Value>> {
        let names = self.taps();
        let level = |place: &&str| {
            names
                .iter()
                .position(|n| n == place)
                .ok_or_else(|| Error::Config(format!("no place `{place}`: expected one of {}", names.join(", "))))
        };
        self.features(images, &places.iter().map(level).collect::<Result<Vec<_>>>()?)
    }

    fn focus(&self) -> Option<String> {
        Some(format!("layer{}", self.stages.len()))
    }

    fn memory(&self, batch: usize, all: usize, trained: usize) -> Option<u64> {
        let c = &self.config;
        let (mut h, mut w) = c.image;
        let half = |n: usize| n.div_ceil(2);
        if c.stem == Stem::Large {
            (h, w) = (half(h), half(w));
        }
        // Each convolution keeps its result and that of its normalisation; the stem's pool halves the sides once more.
        let mut values = 2 * h * w * c.stem_width();
        if c.stem == Stem::Large {
            (h, w) = (half(h), half(w));
            values += h * w * c.stem_width();
        }
        for (stage, depth) in c.depths.iter().enumerate() {
            for block in 0..*depth {
                if stage > 0 && block == 0 {
                    (h, w) = (half(h), half(w));
                }
                values += 2 * h * w * c.block_widths(stage, block).iter().sum::<usize>();
            }
        }
        Some((values * batch * 4 + all * 4 + trained * 12) as u64)
    }

    fn forward_test_pool(&self, images: &Value) -> Result<Value> {
        ResNet::forward_test_pool(self, images)
    }

    fn reset_classifier(&mut self, classes: usize, params: &ParamStore, key: Key) -> Result<()> {
        params.forget(&format!("{}.*", self.config.head()));
        ResNet::reset_classifier(self, classes, self.config.pool, params.builder(key))
    }

    /// Any size will do: the head reads a global pool.
    fn set_input_size(&mut self, image: (usize, usize), _: &ParamStore) -> Result<()> {
        self.config.image = image;
        Ok(())
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
mod tests;
