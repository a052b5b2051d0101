//! NTS-Net: a network that looks for informative parts of an image, classifies each of them, and judges the image with its best parts (Z. Yang et
//! al., "Learning to Navigate for Fine-grained Classification", arXiv 1809.00287). Any network that gives a map can be its trunk. State-dict
//! names are those of the authors' code and of nicolalandro's weights for CUB-200.
//!
//! The navigator scores regions of the image from the trunk's map; the teacher classifies those with the best scores, and its losses say how
//! the navigator should have ranked them; the scrutinizer classifies the image by its own features and those of the best parts.
//!
//! Shapes: B images, N parts each, D features, A regions.

mod regions;

pub use regions::{anchors, choose};

use crate::error::{Error, Result};
use crate::model::{Answers, Attends, Classifier, Model, Published, Trunk, Variant};
use crate::registry::ModelConfig;
use crate::resnet::{self, ResNetConfig};
use candle_nn::VarBuilder;
use candlelight_autograd::ops::Conv2dConfig;
use candlelight_autograd::{Key, Value, ops};
use candlelight_nn::{Anatomy, Conv2d, Dropout, Linear, Region, crop_resize};
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;

/// Outputs of the navigator's convolutions.
const NAVIGATOR: usize = 128;

/// The name of the trunk in state dicts.
pub(crate) const TRUNK: &str = "pretrained_model";

/// The navigator's levels; each has half the map of the one before.
const LEVELS: usize = 3;

/// The configuration of an NTS-Net.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NtsNetConfig {
    /// The network that gives maps and features, with the size of the images, their channels and the number of classes.
    pub trunk: Box<ModelConfig>,
    /// Height and width that parts are resized to; for transformers the size of the images.
    pub part: (usize, usize),
    /// The number of parts that the teacher classifies.
    pub parts: usize,
    /// The number of the best parts whose features are joined with those of the image.
    pub joined: usize,
    /// The share of their union by which two parts must not overlap, in (0, 1].
    pub iou: f32,
    /// The rate of dropout on features, of the image and of parts, in [0, 1).
    pub dropout: f32,
}

impl NtsNetConfig {
    /// The published settings on another trunk: 6 parts of half the side of the image, of which 4 are joined; an overlap below 0.25; a dropout of
    /// 0.5.
    pub fn on(trunk: impl Into<ModelConfig>) -> Self {
        let trunk = trunk.into();
        let (h, w) = trunk.image();
        let part = if matches!(trunk, ModelConfig::Vit(_)) { (h, w) } else { (h.div_ceil(2), w.div_ceil(2)) };
        NtsNetConfig { trunk: Box::new(trunk), part, parts: 6, joined: 4, iou: 0.25, dropout: 0.5 }
    }

    /// Checks that the sizes fit one another.
    ///
    /// # Errors
    /// When they do not; the error names what is wrong.
    pub fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Config(message));
        let (parts, joined) = (self.parts, self.joined);
        if joined == 0 || joined > parts {
            return fail(format!(
                "{joined} of {parts} parts are joined, expected at least one and not more than there are"
            ));
        }
        if self.part.0 == 0 || self.part.1 == 0 {
            return fail(format!("parts of {} x {} pixels", self.part.0, self.part.1));
        }
        if !(self.iou > 0.0 && self.iou <= 1.0) {
            return fail(format!("iou {} is outside (0, 1]", self.iou));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return fail(format!("dropout {} is outside [0, 1)", self.dropout));
        }
        match &*self.trunk {
            ModelConfig::NtsNet(_) => fail("an NTS-Net is no trunk: expected a network that gives a map".into()),
            ModelConfig::Vit(v) if v.image != self.part => fail(format!(
                "parts of {:?} pixels for a transformer of {:?}: it takes images of one size only",
                self.part, v.image
            )),
            _ => Ok(()),
        }
    }
}

/// The named configurations: on ResNet-50 and ResNet-18 for birds (CUB-200), and on ResNet-20 for small images.
pub fn variants() -> &'static [Variant<NtsNetConfig>] {
    static ALL: OnceLock<Vec<Variant<NtsNetConfig>>> = OnceLock::new();
    ALL.get_or_init(|| {
        // The centre 448 of 600 pixels.
        let birds = Published { crop_pct: 448.0 / 600.0, ..Published::IMAGENET };
        let on = |(name, trunk, side, classes, published)| {
            let base = resnet::variants().iter().find(|v| v.name == trunk)?;
            let trunk = ResNetConfig { image: (side, side), classes, ..base.config.clone() };
            Some(Variant { name, config: NtsNetConfig::on(trunk), published })
        };
        let all = [
            ("ntsnet", "resnet50", 448, 200, birds),
            ("ntsnet_resnet18", "resnet18", 448, 200, birds),
            ("ntsnet_resnet20", "resnet20", 32, 10, Published::CIFAR),
        ];
        all.into_iter().filter_map(on).collect()
    })
}

/// The navigator: convolutions over the trunk's map that score the regions of three levels.
#[derive(Debug, Clone)]
struct Navigator {
    down: Vec<Conv2d>,
    tidy: Vec<Conv2d>,
}

impl Navigator {
    fn new(inputs: usize, vb: &VarBuilder) -> Result<Self> {
        let (mut down, mut tidy) = (vec![], vec![]);
        for level in 0..LEVELS {
            let (inputs, stride) = if level == 0 { (inputs, 1) } else { (NAVIGATOR, 2) };
            let name = |kind: &str| vb.pp(format!("{kind}{}", level + 1));
            down.push(Conv2d::new(inputs, NAVIGATOR, 3, Conv2dConfig::new(stride, 1), name("down"))?);
            let outputs = regions::per_place(level, LEVELS);
            tidy.push(Conv2d::new(NAVIGATOR, outputs, 1, Conv2dConfig::new(1, 0), name("tidy"))?);
        }
        Ok(Navigator { down, tidy })
    }

    /// map (B, h, w, channels) -> the scores (B, A), and the (rows, columns) of each level.
    fn forward(&self, map: &Value) -> Result<(Value, Vec<(usize, usize)>)> {
        let (mut x, mut scores, mut maps) = (map.clone(), vec![], vec![]);
        for (down, tidy) in self.down.iter().zip(&self.tidy) {
            x = down.forward(&x)?.relu()?; // (B, h, w, 128)
            let y = ops::channels_first(&tidy.forward(&x)?)?; // (B, regions per place, h, w)
            maps.push((y.dims()[2], y.dims()[3]));
            scores.push(y.flatten_from(1)?);
        }
        Ok((ops::cat(&scores, 1)?, maps))
    }
}

/// What the network finds in images.
#[derive(Debug, Clone)]
pub struct Found {
    /// Logits (B, classes) of the trunk alone.
    pub raw: Value,
    /// Logits (B, classes) by the features of the image and of its best parts.
    pub joined: Value,
    /// Logits (N B, classes) of the parts: row i B + b is part i of image b.
    pub parts: Value,
    /// The navigator's scores (B, N) of the parts.
    pub scores: Value,
    /// The parts of each image, the best first.
    pub regions: Vec<Vec<Region>>,
}

/// An NTS-Net.
pub struct NtsNet {
    config: NtsNetConfig,
    trunk: Box<dyn Classifier>,
    navigator: Navigator,
    scrutinizer: Linear,
    teacher: Linear,
}

impl std::fmt::Debug for NtsNet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NtsNet({:?})", self.config)
    }
}

impl NtsNet {
    /// Builds the model from a `VarBuilder`, which gives new parameters or those of a file.
    ///
    /// # Errors
    /// When the configuration does not fit, its trunk gives no map, or the builder lacks a tensor.
    pub fn new(config: &NtsNetConfig, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let trunk = config.trunk.build(vb.pp(TRUNK))?;
        let (map, features) = base(&*trunk)?.widths();
        let classes = config.trunk.classes();
        if classes == 0 {
            return Err(Error::Config(
                "an NTS-Net without classes: it ranks parts by how well they are classified".into(),
            ));
        }
        Ok(NtsNet {
            navigator: Navigator::new(map, &vb.pp("proposal_net"))?,
            scrutinizer: Linear::new((config.joined + 1) * features, classes, vb.pp("concat_net"))?,
            teacher: Linear::new(features, classes, vb.pp("partcls_net"))?,
            config: config.clone(),
            trunk,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &NtsNetConfig {
        &self.config
    }

    /// images (B, C, H, W) -> everything that the network finds. `key` draws dropout in training; `None` evaluates.
    ///
    /// # Errors
    /// When the images do not fit.
    pub fn find(&self, images: &Value, key: Option<&Key>) -> Result<Found> {
        let (b, _, height, width) = images.dims4()?;
        let n = self.config.parts;
        let drop = |x: &Value, of: &str| Dropout(self.config.dropout).forward(x, key.map(|k| k.child(of)));
        let trunk = base(&*self.trunk)?;
        let (map, whole) = trunk.mapped(images, key.map(|k| k.child("whole")).as_ref())?;
        let whole = drop(&whole, "drop_whole")?; // (B, D)

        // The navigator does not change the trunk.
        let (scores, maps) = self.navigator.forward(&map.detach())?; // (B, A)
        let anchors = regions::anchors((height, width), trunk.stride(), &maps);
        if anchors.len() < n {
            let message =
                format!("images of {height} x {width} pixels have {} regions, fewer than {n} parts", anchors.len());
            return Err(Error::Config(message));
        }
        let values = scores.values()?;
        let chosen: Vec<Vec<usize>> =
            values.chunks_exact(anchors.len()).map(|s| regions::choose(s, &anchors, self.config.iou, n)).collect();
        let ids: Vec<u32> = chosen.iter().flatten().map(|i| *i as u32).collect();
        let scores = scores.gather(1, &ids, &[b, n])?; // (B, N)
        let region = |image: usize, i: usize| Region { image, ..anchors[chosen[image][i]] };
        let cut: Vec<Region> =
            (0..n).flat_map(|i| (0..b).map(move |image| (image, i))).map(|(m, i)| region(m, i)).collect();

        let crops = crop_resize(images, &cut, self.config.part, true)?; // (N B, C, h, w)
        let of_parts = || trunk.mapped(&crops, key.map(|k| k.child("parts")).as_ref());
        let (_, features) = images.tape().unnamed(of_parts)?;
        let features = drop(&features, "drop_parts")?; // (N B, D)
        let mut joined =
            (0..self.config.joined).map(|i| features.narrow(0, i * b, b)).collect::<Result<Vec<_>, _>>()?;
        joined.push(whole.clone());
        Ok(Found {
            raw: self.trunk.classify(&whole, key)?,
            joined: self.scrutinizer.forward(&ops::cat(&joined, 1)?)?, // (B, classes)
            parts: self.teacher.forward(&features)?,                   // (N B, classes)
            scores,
            regions: (0..b).map(|m| (0..n).map(|i| region(m, i)).collect()).collect(),
        })
    }
}

/// The trunk as what it must be.
fn base(trunk: &dyn Classifier) -> Result<&dyn Trunk> {
    trunk
        .trunk()
        .ok_or_else(|| Error::Config("the trunk gives no map: expected a ResNet, a YOLOv5 classifier or a ViT".into()))
}

impl Classifier for NtsNet {
    fn forward(&self, images: &Value, key: Option<&Key>) -> Result<Value> {
        Ok(self.find(images, key)?.joined)
    }

    fn answers(&self, images: &Value, key: &Key) -> Result<Answers> {
        let found = self.find(images, Some(key))?;
        Ok(Answers { logits: found.joined, further: vec![found.raw, found.parts], scores: Some(found.scores) })
    }
}

impl Model for NtsNet {
    fn anatomy(&self) -> Anatomy {
        let of = |name: &String| format!("{TRUNK}.{name}");
        let all = |names: &[String]| names.iter().map(of).collect::<Vec<_>>();
        let some = |name: &String| if name.is_empty() { String::new() } else { of(name) };
        let t = self.trunk.anatomy();
        let mut layers: Vec<Vec<String>> = t.layers.iter().map(|l| all(l)).collect();
        let own = ["concat_net.", "partcls_net.", "proposal_net."].map(String::from);
        // The trunk's own head, its last layer, belongs to what is new.
        let last = layers.pop().unwrap_or_default();
        layers.push(own.iter().map(|n| format!("{n}*")).chain(last).collect());
        Anatomy {
            head: own[0].clone(),
            beside_head: own[1..].iter().cloned().chain(t.heads().map(|h| format!("{TRUNK}.{h}"))).collect(),
            stem: some(&t.stem),
            attention: all(&t.attention),
            last_stage: some(&t.last_stage),
            layers,
            final_norm: some(&t.final_norm),
            no_decay: all(&t.no_decay),
        }
    }

    fn focus(&self) -> Option<String> {
        self.trunk.focus()
    }

    fn attends(&self) -> Option<Attends> {
        self.trunk.attends()
    }

    fn memory(&self, batch: usize, all: usize, trained: usize) -> Option<u64> {
        let c = &self.config;
        let image = c.trunk.image();
        let weights = self.trunk.memory(0, all, trained)?;
        let whole = self.trunk.memory(batch, all, trained)?.saturating_sub(weights);
        let share = (c.parts * c.part.0 * c.part.1) as f64 / (image.0 * image.1).max(1) as f64;
        Some(weights + (whole as f64 * (1.0 + share)) as u64)
    }
}

#[cfg(test)]
mod tests;
