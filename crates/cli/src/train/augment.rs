//! What is done to the images of a training.

use super::defaults::{Defaults, fill};
use crate::{Result, parsed};
use candlelight_data::{
    EraseMode, Filter, Interpolation, Mix, MixMode, Normalize, PadMode, Pipeline, PolicyHints, RandomErasing, Splits,
    Transform,
};
use candlelight_store::preparation::Interpolation as Resize;
use clap::Args;
use serde::Serialize;

/// The flags on augmentation, with timm's names.
#[derive(Args, Debug, Clone, Default, Serialize)]
#[command(rename_all = "snake_case")]
pub struct AugmentFlags {
    /// Only resize and crop the centre
    #[arg(long, help_heading = "Augmentation")]
    pub no_aug: bool,
    /// Exactly these transforms, in this order, by torchvision's names, such as 'Resize(256)' 'RandomCrop(224)' 'RandomRotation(15)', instead of crop, flips, jitter and --aa; erasing and mixing come behind them
    #[arg(long, num_args = 1.., value_parser = call, action = clap::ArgAction::Set, conflicts_with_all = ["no_aug", "crop_padding", "scale", "ratio", "hflip", "vflip", "color_jitter", "aa", "aug_splits", "train_interpolation"], value_name = "CALL", help_heading = "Augmentation")]
    pub transforms: Option<Vec<String>>,
    /// Crop at a random place behind a black border of so many pixels, as for CIFAR, instead of a random size and place
    #[arg(long, value_name = "PIXELS", help_heading = "Augmentation")]
    pub crop_padding: Option<usize>,
    /// Smallest and largest area of the random crop, as shares of the image's [default: 0.08 1; demo: 0.7 1]
    #[arg(long, num_args = 2, action = clap::ArgAction::Set, value_names = ["MIN", "MAX"], help_heading = "Augmentation")]
    pub scale: Option<Vec<f64>>,
    /// Smallest and largest aspect ratio of the random crop [default: 0.75 1.3333333333333333]
    #[arg(long, num_args = 2, action = clap::ArgAction::Set, value_names = ["MIN", "MAX"], help_heading = "Augmentation")]
    pub ratio: Option<Vec<f64>>,
    /// Share of images that are mirrored [default: 0.5]
    #[arg(long, value_name = "P", help_heading = "Augmentation")]
    pub hflip: Option<f64>,
    /// Share of images that are turned upside down [default: 0]
    #[arg(long, value_name = "P", help_heading = "Augmentation")]
    pub vflip: Option<f64>,
    /// Strength of the jitter of brightness, contrast and saturation, and of hue where a fourth number is given; off with --aa [default: 0.4; demo: 0]
    #[arg(long, num_args = 1..=4, action = clap::ArgAction::Set, value_name = "X", help_heading = "Augmentation")]
    pub color_jitter: Option<Vec<f64>>,
    /// Policy: original, v0, rand-m9-mstd0.5-inc1, augmix-m5-w4-d2, 3a; '' for none [default: none]
    #[arg(long, value_name = "POLICY", help_heading = "Augmentation")]
    pub aa: Option<String>,
    /// Views of each image, the first of them without --aa and jitter; 0 or at least 2 [default: 0]
    #[arg(long, value_name = "N", help_heading = "Augmentation")]
    pub aug_splits: Option<usize>,
    /// Share of images with erased boxes [default: 0]
    #[arg(long, value_name = "P", help_heading = "Augmentation")]
    pub reprob: Option<f64>,
    /// What erased boxes are filled with: const, rand or pixel [default: const; timm-1.0: pixel]
    #[arg(long, value_parser = parsed::<EraseMode>, value_name = "MODE", help_heading = "Augmentation")]
    pub remode: Option<EraseMode>,
    /// Largest number of boxes per image [default: 1]
    #[arg(long, value_name = "N", help_heading = "Augmentation")]
    pub recount: Option<usize>,
    /// Leave the first view of --aug_splits whole
    #[arg(long, help_heading = "Augmentation")]
    pub resplit: bool,
    /// Mixup's Beta parameter; 0 turns it off [default: 0]
    #[arg(long, value_name = "ALPHA", help_heading = "Augmentation")]
    pub mixup: Option<f64>,
    /// CutMix's Beta parameter; 0 turns it off [default: 0]
    #[arg(long, value_name = "ALPHA", help_heading = "Augmentation")]
    pub cutmix: Option<f64>,
    /// Smallest and largest side of CutMix's box, as shares of the image's side; turns CutMix on
    #[arg(long, num_args = 2, action = clap::ArgAction::Set, value_names = ["MIN", "MAX"], help_heading = "Augmentation")]
    pub cutmix_minmax: Option<Vec<f64>>,
    /// Probability that images are mixed at all [default: 1]
    #[arg(long, value_name = "P", help_heading = "Augmentation")]
    pub mixup_prob: Option<f64>,
    /// Probability of CutMix instead of mixup where both are on [default: 0.5]
    #[arg(long, value_name = "P", help_heading = "Augmentation")]
    pub mixup_switch_prob: Option<f64>,
    /// What is mixed with the same random numbers: batch, pair, elem, or half [default: batch]
    #[arg(long, value_parser = parsed::<MixMode>, value_name = "MODE", help_heading = "Augmentation")]
    pub mixup_mode: Option<MixMode>,
    /// The epoch from which on nothing is mixed; 0 for never [default: 0]
    #[arg(long, value_name = "EPOCH", help_heading = "Augmentation")]
    pub mixup_off_epoch: Option<usize>,
    /// Filter of the random crop: random (bilinear or bicubic), a name, or '' for that of evaluations [default: random]
    #[arg(long, value_name = "FILTER", help_heading = "Augmentation")]
    pub train_interpolation: Option<String>,
}

/// A pair of numbers of a flag.
fn pair(values: &Option<Vec<f64>>, default: (f64, f64)) -> (f64, f64) {
    values.as_deref().map_or(default, |v| (v[0], v[1]))
}

/// The text of a transform, checked.
fn call(text: &str) -> std::result::Result<String, String> {
    text.parse::<Transform>().map(|_| text.into()).map_err(|e| e.to_string())
}

impl AugmentFlags {
    pub(super) fn fill(&mut self, d: &Defaults) {
        if self.crop_padding.is_none() && self.transforms.is_none() {
            fill(&mut self.scale, vec![d.scale.0, d.scale.1]);
            fill(&mut self.ratio, vec![3.0 / 4.0, 4.0 / 3.0]);
        }
        // Whoever lists transforms has no others.
        if self.transforms.is_none() {
            fill(&mut self.hflip, 0.5);
            fill(&mut self.vflip, 0.0);
            fill(&mut self.color_jitter, vec![d.color_jitter]);
            fill(&mut self.aug_splits, 0);
            fill(&mut self.train_interpolation, d.train_interpolation.into());
        }
        fill(&mut self.reprob, 0.0);
        if self.remode.is_none() {
            self.remode = parsed(d.remode).ok();
        }
        fill(&mut self.recount, 1);
        fill(&mut self.mixup, 0.0);
        fill(&mut self.cutmix, 0.0);
        fill(&mut self.mixup_prob, 1.0);
        fill(&mut self.mixup_switch_prob, 0.5);
        fill(&mut self.mixup_mode, MixMode::Batch);
        fill(&mut self.mixup_off_epoch, 0);
    }

    /// The views of each image.
    pub fn splits(&self) -> usize {
        self.aug_splits.unwrap_or_default().max(1)
    }

    /// Whether images are mixed.
    pub fn mixes(&self) -> bool {
        self.mixup.unwrap_or_default() > 0.0 || self.cutmix.unwrap_or_default() > 0.0 || self.cutmix_minmax.is_some()
    }

    /// Refuses what cannot be combined, and warns of what has no effect; the flags are as the user gave them.
    pub(super) fn check(&self, jsd: bool, split_bn: bool, d: &Defaults) -> Result<()> {
        let splits = self.aug_splits.unwrap_or_default();
        if splits == 1 {
            return Err("--aug_splits 1: expected 0, or at least 2 views of each image".into());
        }
        for (flag, set) in [("jsd", jsd), ("split_bn", split_bn), ("resplit", self.resplit)] {
            if set && splits < 2 {
                return Err(format!("--{flag} needs views to tell apart: give --aug_splits 2 or more").into());
            }
        }
        if splits > 1 && self.mixes() {
            return Err(
                "--aug_splits and --mixup or --cutmix exclude each other: mixed images have no clean view".into()
            );
        }
        if splits > 1 && self.no_aug {
            return Err("--aug_splits and --no_aug exclude each other: all views would be the same".into());
        }
        if self.crop_padding.is_some() && (self.no_aug || self.scale.is_some() || self.ratio.is_some()) {
            return Err("--crop_padding takes the place of --scale, --ratio and --no_aug: leave those out".into());
        }
        if self.no_aug {
            let differs = |v: &Option<Vec<f64>>, d: &[f64]| v.as_deref().is_some_and(|v| v != d);
            let ignored = [
                ("aa", self.policy().is_some()),
                ("scale", differs(&self.scale, &[d.scale.0, d.scale.1])),
                ("ratio", differs(&self.ratio, &[3.0 / 4.0, 4.0 / 3.0])),
                ("hflip", self.hflip.is_some_and(|p| p != 0.5)),
                ("vflip", self.vflip.is_some_and(|p| p != 0.0)),
                ("color_jitter", differs(&self.color_jitter, &[d.color_jitter])),
                ("train_interpolation", self.train_interpolation.as_deref().is_some_and(|f| f != "random")),
            ];
            let ignored: Vec<&str> = ignored.iter().filter_map(|(name, set)| set.then_some(*name)).collect();
            if !ignored.is_empty() {
                tracing::warn!("without effect with --no_aug: --{}", ignored.join(", --"));
            }
        }
        let reprob = self.reprob.unwrap_or_default();
        if reprob > 0.0 && self.no_aug {
            return Err("--reprob and --no_aug exclude each other: leave out one of them".into());
        }
        // An args.yaml has all defaults, which are no mistake.
        let remode: Option<EraseMode> = parsed(d.remode).ok();
        let of_erasing =
            self.remode.is_some_and(|m| Some(m) != remode) || self.recount.is_some_and(|n| n != 1) || self.resplit;
        if reprob <= 0.0 && of_erasing {
            tracing::warn!("--remode, --recount and --resplit have no effect without --reprob");
        }
        let of_mixing = self.mixup_prob.is_some_and(|p| p != 1.0)
            || self.mixup_switch_prob.is_some_and(|p| p != 0.5)
            || self.mixup_mode.is_some_and(|m| m != MixMode::Batch)
            || self.mixup_off_epoch.is_some_and(|e| e > 0);
        if !self.mixes() && of_mixing {
            tracing::warn!("the flags --mixup_... have no effect without --mixup or --cutmix");
        }
        let jitter = self.color_jitter.as_deref().unwrap_or_default();
        if jitter.len() == 2 {
            return Err(format!(
                "--color_jitter {jitter:?}: expected one number, or three or four: brightness, contrast, saturation, hue"
            )
            .into());
        }
        if !jitter.is_empty() && jitter != [d.color_jitter] && self.policy().is_some_and(|p| !p.starts_with("3a")) {
            tracing::warn!("--color_jitter has no effect with --aa, as in timm");
        }
        Ok(())
    }

    fn policy(&self) -> Option<&str> {
        self.aa.as_deref().filter(|p| !p.is_empty() && *p != "none")
    }

    /// The filter of crops, by the filter of evaluations.
    fn filter(&self, usual: Option<Resize>) -> Result<Interpolation> {
        let name = self.train_interpolation.as_deref().unwrap_or("random");
        let plain = |f: Resize| match f {
            Resize::Nearest => Filter::Nearest,
            Resize::Box => Filter::Box,
            Resize::Bilinear | Resize::OpencvBilinear => Filter::Bilinear,
            Resize::Hamming => Filter::Hamming,
            Resize::Bicubic => Filter::Bicubic,
            Resize::Lanczos => Filter::Lanczos,
        };
        match name {
            _ if self.no_aug => Ok(plain(usual.unwrap_or(Resize::Bicubic)).into()),
            "" => Ok(plain(usual.unwrap_or(Resize::Bicubic)).into()),
            _ => parsed(name).map_err(|_| {
                format!(
                    "--train_interpolation {name}: expected random, nearest, box, bilinear, hamming, bicubic or lanczos"
                )
                .into()
            }),
        }
    }

    /// How images of this size are prepared for training; `evaluation` is how they are for an evaluation.
    ///
    /// # Errors
    /// When a setting is out of range.
    pub fn pipeline(&self, size: (usize, usize), normalize: &Normalize, evaluation: &Pipeline) -> Result<Pipeline> {
        let filter = self.filter(evaluation.preparation().interpolation.map(|s| s.value))?;
        if self.no_aug {
            let filter = if let Interpolation::Fixed(f) = filter { f } else { Filter::Bilinear };
            let resize = if size.0 == size.1 {
                Transform::Resize { size: size.0, filter }
            } else {
                Transform::ResizeTo { size, filter }
            };
            return Ok(Pipeline::new(vec![resize, Transform::CenterCrop { size }], normalize.clone()));
        }
        if let Some(calls) = &self.transforms {
            let steps = calls.iter().map(|c| c.parse()).collect::<candlelight_data::Result<Vec<Transform>>>()?;
            return self.erased(Pipeline::new(steps, normalize.clone()));
        }
        let (scale, ratio) = (pair(&self.scale, (0.08, 1.0)), pair(&self.ratio, (3.0 / 4.0, 4.0 / 3.0)));
        let mut steps = match self.crop_padding {
            Some(padding) => {
                let filter = if let Interpolation::Fixed(f) = filter { f } else { Filter::Bilinear };
                let crop = Transform::RandomCrop { size, padding, mode: PadMode::Constant, fill: [0; 3] };
                vec![Transform::ResizeTo { size, filter }, crop]
            }
            None => vec![Transform::RandomResizedCrop { size, scale, ratio, filter }],
        };
        if let Some(p) = self.hflip.filter(|p| *p > 0.0) {
            steps.push(Transform::HorizontalFlip { p });
        }
        if let Some(p) = self.vflip.filter(|p| *p > 0.0) {
            steps.push(Transform::VerticalFlip { p });
        }
        let shared = steps.len();
        if let Some(policy) = self.policy() {
            let fixed = if let Interpolation::Fixed(f) = filter { Some(f) } else { None };
            let hints = PolicyHints { fill: normalize.fill(), filter: fixed };
            steps.push(Transform::Policy { policy: policy.parse().map_err(|e| format!("--aa {policy}: {e}"))?, hints });
        }
        let jitters = self.policy().is_none_or(|p| p.starts_with("3a"));
        if let Some(j) = self.color_jitter.as_deref().filter(|j| jitters && j.iter().any(|x| *x > 0.0)) {
            let at = |i: usize| if j.len() == 1 { j[0] } else { j.get(i).copied().unwrap_or(0.0) };
            let hue = if j.len() == 4 { j[3] } else { 0.0 };
            steps.push(Transform::ColorJitter { brightness: at(0), contrast: at(1), saturation: at(2), hue, p: 1.0 });
        }
        let mut pipeline = Pipeline::new(steps, normalize.clone());
        let count = self.splits();
        pipeline.splits = (count > 1).then_some(Splits { count, shared, erase_clean: !self.resplit });
        self.erased(pipeline)
    }

    /// The pipeline with random erasing at its end.
    fn erased(&self, mut pipeline: Pipeline) -> Result<Pipeline> {
        let reprob = self.reprob.unwrap_or_default();
        let (mode, count) = (self.remode.unwrap_or(EraseMode::Const), self.recount.unwrap_or(1));
        pipeline.erase = (reprob != 0.0).then(|| RandomErasing { mode, count, ..RandomErasing::new(reprob) });
        pipeline.check()?;
        Ok(pipeline)
    }

    /// How batches of so many classes are mixed.
    pub fn mix(&self, classes: usize, smoothing: f32) -> Option<Mix> {
        self.mixes().then(|| Mix {
            mixup: self.mixup.unwrap_or_default(),
            cutmix: self.cutmix.unwrap_or_default(),
            cutmix_minmax: self.cutmix_minmax.as_deref().map(|m| (m[0], m[1])),
            prob: self.mixup_prob.unwrap_or(1.0),
            switch_prob: self.mixup_switch_prob.unwrap_or(0.5),
            mode: self.mixup_mode.unwrap_or_default(),
            smoothing,
            classes,
            off_epoch: self.mixup_off_epoch.filter(|e| *e > 0),
        })
    }
}
