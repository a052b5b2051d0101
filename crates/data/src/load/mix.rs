//! Mixup (H. Zhang et al., arXiv 1710.09412) and CutMix (S. Yun et al., arXiv 1905.04899) with timm's modes.
//!
//! Sample i is mixed with sample B - 1 - i; in an odd batch the middle one with itself.

use crate::error::{Error, Result};
use crate::image::Draw;
use crate::load::batch::{Batch, Collate, Moment, Pixels, UNLABELLED};
use candlelight_kernels::Key;
use serde::{Deserialize, Serialize};

/// Which samples share one draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixMode {
    /// All samples of the batch.
    #[default]
    Batch,
    /// The two samples of a pair.
    Pair,
    /// None: each sample has its own draw.
    Elem,
    /// None, as with `elem`, and only the first half of the batch comes out.
    Half,
}

/// Mixes the samples of a batch and makes soft targets.
///
/// On f32 pixels it works after normalisation and erasing, as MAE does; on bytes before them, rounded, as timm's collate
/// function does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// Beta parameter of mixup; 0 turns it off.
    pub mixup: f64,
    /// Beta parameter of CutMix; 0 turns it off.
    pub cutmix: f64,
    /// Sides of CutMix's box as shares of the image's, instead of an area from `cutmix`.
    #[serde(default)]
    pub cutmix_minmax: Option<(f64, f64)>,
    /// Probability that a draw mixes anything.
    pub prob: f64,
    /// Probability of CutMix where mixup and CutMix are both on.
    pub switch_prob: f64,
    /// Which samples share a draw.
    #[serde(default)]
    pub mode: MixMode,
    /// The share of each target that label smoothing spreads over all classes.
    pub smoothing: f32,
    /// Number of classes of the targets.
    pub classes: usize,
    /// The epoch from which on nothing is mixed; the targets stay soft.
    #[serde(default)]
    pub off_epoch: Option<usize>,
}

/// A box: its first row and the row after its last, then its columns likewise.
type Box2 = (usize, usize, usize, usize);

/// What happens to one sample: the share it keeps, and the box that CutMix replaces.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Draws {
    lam: f64,
    cut: Option<Box2>,
}

impl Mix {
    /// MAE's published finetuning: mixup 0.8, CutMix 1.0, smoothing 0.1.
    pub fn mae_finetune(classes: usize) -> Self {
        Mix {
            mixup: 0.8,
            cutmix: 1.0,
            cutmix_minmax: None,
            prob: 1.0,
            switch_prob: 0.5,
            mode: MixMode::Batch,
            smoothing: 0.1,
            classes,
            off_epoch: None,
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// Names the setting that is out of range.
    pub fn check(&self) -> Result<()> {
        let fail = |what: String| Err(Error::Config(format!("mixup: {what}")));
        for (name, p) in [("prob", self.prob), ("switch_prob", self.switch_prob), ("smoothing", self.smoothing.into())]
        {
            if !(0.0..=1.0).contains(&p) {
                return fail(format!("{name} {p} is not from 0 to 1"));
            }
        }
        for (name, a) in [("mixup", self.mixup), ("cutmix", self.cutmix)] {
            if !(a >= 0.0 && a.is_finite()) {
                return fail(format!(
                    "{name} {a} is not the parameter of a Beta distribution: expected 0 or more, where 0 is off"
                ));
            }
        }
        if let Some((lo, hi)) = self.cutmix_minmax
            && !(lo >= 0.0 && lo <= hi && hi <= 1.0)
        {
            return fail(format!("cutmix_minmax ({lo}, {hi}) is not a range from 0 to 1"));
        }
        if self.classes < 2 {
            return fail(format!("classes is {}, expected at least 2", self.classes));
        }
        Ok(())
    }

    fn cut_on(&self) -> bool {
        self.cutmix > 0.0 || self.cutmix_minmax.is_some()
    }

    fn draw(&self, h: usize, w: usize, d: &mut Draw) -> Result<Draws> {
        if d.uniform() >= self.prob || !(self.mixup > 0.0 || self.cut_on()) {
            return Ok(Draws { lam: 1.0, cut: None });
        }
        let cut = self.cut_on() && (self.mixup <= 0.0 || d.uniform() < self.switch_prob);
        if !cut {
            return Ok(Draws { lam: d.beta(self.mixup, self.mixup)?, cut: None });
        }
        let (rows, cols) = match self.cutmix_minmax {
            Some((lo, hi)) => {
                let span = |n: usize, d: &mut Draw| {
                    let (least, most) = ((n as f64 * lo) as usize, (n as f64 * hi) as usize);
                    let side = least + d.below((most - least).max(1));
                    let from = d.below(n - side + 1);
                    (from, from + side)
                };
                (span(h, d), span(w, d))
            }
            None => {
                let side = (1.0 - d.beta(self.cutmix, self.cutmix)?).sqrt();
                let span = |n: usize, d: &mut Draw| {
                    let (length, center) = ((n as f64 * side) as usize, d.below(n));
                    (center.saturating_sub(length / 2), (center + length.div_ceil(2)).min(n))
                };
                (span(h, d), span(w, d))
            }
        };
        let area = (rows.1 - rows.0) * (cols.1 - cols.0);
        let lam = 1.0 - area as f64 / (h * w) as f64;
        Ok(Draws { lam, cut: Some((rows.0, rows.1, cols.0, cols.1)) })
    }

    /// One set of draws per sample.
    fn draws(&self, n: usize, h: usize, w: usize, off: bool, key: &Key) -> Result<Vec<Draws>> {
        if off {
            return Ok(vec![Draws { lam: 1.0, cut: None }; n]);
        }
        let one = |i: usize| self.draw(h, w, &mut Draw::new(key.index(i as u64)));
        match self.mode {
            MixMode::Batch => Ok(vec![one(0)?; n]),
            MixMode::Elem | MixMode::Half => (0..n).map(one).collect(),
            MixMode::Pair => (0..n).map(|i| one(i.min(n - 1 - i))).collect(),
        }
    }
}

/// `a lam + b (1 - lam)` of pixels.
trait Blend: Copy {
    fn blend(self, other: Self, lam: f32) -> Self;
}

impl Blend for f32 {
    fn blend(self, other: f32, lam: f32) -> f32 {
        self * lam + other * (1.0 - lam)
    }
}

impl Blend for u8 {
    fn blend(self, other: u8, lam: f32) -> u8 {
        (f32::from(self) * lam + f32::from(other) * (1.0 - lam)).round_ties_even() as u8
    }
}

/// Changes one sample (C, h, w) as `draws` say, from its own pixels and its partner's.
fn mix_one<T: Blend>(own: &mut [T], partner: &[T], draws: Draws, h: usize, w: usize) {
    match draws {
        Draws { cut: Some((y0, y1, x0, x1)), .. } => {
            for (own, partner) in own.chunks_exact_mut(h * w).zip(partner.chunks_exact(h * w)) {
                for y in y0..y1 {
                    own[y * w + x0..y * w + x1].copy_from_slice(&partner[y * w + x0..y * w + x1]);
                }
            }
        }
        Draws { lam, .. } if lam < 1.0 => {
            let lam = lam as f32;
            own.iter_mut().zip(partner).for_each(|(o, p)| *o = o.blend(*p, lam));
        }
        _ => {}
    }
}

/// Mixes the samples where they lie, pair by pair, and keeps the first `keep` of them.
fn mix_pixels<T: Blend>(pixels: &mut Vec<T>, draws: &[Draws], keep: usize, h: usize, w: usize) {
    let n = draws.len();
    let len = pixels.len() / n.max(1);
    // The first of a pair as it was, for the second.
    let mut before = Vec::with_capacity(len);
    for first in 0..n.div_ceil(2) {
        let second = n - 1 - first;
        let (head, tail) = pixels.split_at_mut((first + 1) * len);
        let a = &mut head[first * len..];
        before.clear();
        before.extend_from_slice(a);
        if first == second {
            mix_one(a, &before, draws[first], h, w);
            continue;
        }
        let at = (second - first - 1) * len;
        let b = &mut tail[at..at + len];
        mix_one(a, b, draws[first], h, w);
        if second < keep {
            mix_one(b, &before, draws[second], h, w);
        }
    }
    pixels.truncate(keep * len);
}

impl Collate for Mix {
    fn collate(&self, batch: Batch, moment: &Moment) -> Result<Batch> {
        let n = batch.labels.len();
        let (h, w) = batch.size;
        if batch.views > 1 {
            return Err(Error::Config(
                "mixup does not work with several views per sample: leave out one of the two".into(),
            ));
        }
        let unknown = |l: &&u32| **l != UNLABELLED && **l as usize >= self.classes;
        if let Some(label) = batch.labels.iter().find(unknown) {
            return Err(Error::Config(format!(
                "mixup: a sample has label {label}, but the targets have {} classes",
                self.classes
            )));
        }
        self.check()?;
        if batch.targets.is_none() && batch.labels.contains(&UNLABELLED) {
            return Err(Error::Config(
                "mixup needs a class for every sample, but a sample of this batch has none".into(),
            ));
        }
        let off = self.off_epoch.is_some_and(|e| moment.epoch >= e);
        let draws = self.draws(n, h, w, off, &moment.key.child("mix"))?;
        let keep = if self.mode == MixMode::Half { n.div_ceil(2) } else { n };
        let mut images = batch.images;
        match &mut images {
            Pixels::F32(p) => mix_pixels(p, &draws, keep, h, w),
            Pixels::U8(p) => mix_pixels(p, &draws, keep, h, w),
        }
        let off_value = self.smoothing / self.classes as f32;
        let on_value = 1.0 - self.smoothing + off_value;
        // Where a sample has several classes, each is smoothed towards a half, as timm does.
        let rows = batch.targets.as_ref();
        if rows.is_some_and(|t| t.len() != n * self.classes) {
            return Err(Error::Config(format!(
                "mixup: the targets of the batch are not {n} samples by {} classes",
                self.classes
            )));
        }
        let value = |sample: usize, k: usize| match rows {
            Some(t) => t[sample * self.classes + k] * (1.0 - self.smoothing) + 0.5 * self.smoothing,
            None if batch.labels[sample] as usize == k => on_value,
            None => off_value,
        };
        let mut targets = vec![0.0; keep * self.classes];
        for (i, row) in targets.chunks_exact_mut(self.classes).enumerate() {
            let lam = draws[i].lam as f32;
            for (k, t) in row.iter_mut().enumerate() {
                *t = value(i, k) * lam + value(n - 1 - i, k) * (1.0 - lam);
            }
        }
        let (mut labels, mut indices) = (batch.labels, batch.indices);
        labels.truncate(keep);
        indices.truncate(keep);
        Ok(Batch { images, labels, indices, targets: Some(targets), ..batch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(n: usize) -> Batch {
        batch_of(n, 8)
    }

    fn batch_of(n: usize, side: usize) -> Batch {
        let images = (0..n).flat_map(|i| vec![i as f32; side * side]).collect();
        Batch::new(Pixels::F32(images), (side, side), 1, (0..n as u32).collect())
    }

    fn moment(step: u64) -> Moment {
        Moment { epoch: 3, step: 0, key: Key::new(step) }
    }

    fn mix(mixup: f64, cutmix: f64, mode: MixMode) -> Mix {
        Mix { mixup, cutmix, mode, ..Mix::mae_finetune(6) }
    }

    #[test]
    fn targets_say_what_the_pixels_are() {
        for mode in [MixMode::Batch, MixMode::Pair, MixMode::Elem, MixMode::Half] {
            for (mixup, cutmix) in [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)] {
                for n in [5, 6] {
                    for step in 0..20 {
                        let m = Mix { smoothing: 0.0, ..mix(mixup, cutmix, mode) };
                        let out = m.collate(batch(n), &moment(step)).unwrap();
                        let Pixels::F32(images) = &out.images else { panic!("f32 in, f32 out") };
                        let targets = out.targets.unwrap();
                        let keep = if mode == MixMode::Half { n.div_ceil(2) } else { n };
                        assert_eq!((images.len(), targets.len()), (keep * 64, keep * 6));
                        for i in 0..keep {
                            // With flat images, the mean pixel is the mean label.
                            let pixel = images[i * 64..(i + 1) * 64].iter().sum::<f32>() / 64.0;
                            let label: f32 = (0..6).map(|k| k as f32 * targets[i * 6 + k]).sum();
                            assert!((pixel - label).abs() < 1e-4, "{mode:?} {i}: {pixel} {label}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn mixing_in_place_gives_what_copies_of_the_batch_give() {
        let (side, n) = (6, 5);
        let pixels: Vec<f32> = (0..n * side * side).map(|i| (i * 37 % 101) as f32 / 7.0).collect();
        for mode in [MixMode::Batch, MixMode::Pair, MixMode::Elem] {
            for step in 0..20 {
                let m = mix(0.8, 1.0, mode);
                let draws = m.draws(n, side, side, false, &Key::new(step)).unwrap();
                let mut got = pixels.clone();
                mix_pixels(&mut got, &draws, n, side, side);
                for (i, got) in got.chunks_exact(side * side).enumerate() {
                    let sample = |i: usize| &pixels[i * side * side..(i + 1) * side * side];
                    let mut want = sample(i).to_vec();
                    mix_one(&mut want, sample(n - 1 - i), draws[i], side, side);
                    assert_eq!(got, want, "{mode:?} sample {i}");
                }
            }
        }
    }

    #[test]
    fn smoothing_and_lambda_give_the_published_target() {
        let m = Mix { classes: 4, smoothing: 0.1, ..mix(0.8, 0.0, MixMode::Batch) };
        let out = m.collate(batch(2), &moment(1)).unwrap();
        let Pixels::F32(images) = out.images else { panic!() };
        let lam = 1.0 - images[0]; // sample 0 is all zeros, its partner all ones
        let want = [lam * 0.925 + (1.0 - lam) * 0.025, lam * 0.025 + (1.0 - lam) * 0.925, 0.025, 0.025];
        for (t, w) in out.targets.unwrap().iter().zip(want) {
            assert!((t - w).abs() < 1e-6);
        }
    }

    #[test]
    fn shares_follow_the_settings_and_the_off_epoch_works() {
        let share = |m: &Mix| {
            let mut own = 0.0;
            for step in 0..600 {
                own += f64::from(m.collate(batch_of(2, 64), &moment(step)).unwrap().targets.unwrap()[0]);
            }
            own / 600.0
        };
        let plain = Mix { smoothing: 0.0, ..mix(0.0, 1.0, MixMode::Batch) };
        assert!((share(&plain) - 0.68).abs() < 0.03, "CutMix keeps {}", share(&plain));
        let minmax = Mix { cutmix_minmax: Some((0.5, 0.5)), ..plain.clone() };
        assert!((share(&minmax) - 0.75).abs() < 1e-6);
        assert_eq!(share(&Mix { off_epoch: Some(3), ..plain.clone() }), 1.0);
        assert_ne!(share(&Mix { off_epoch: Some(4), ..plain.clone() }), 1.0);
        assert_eq!(share(&Mix { prob: 0.0, ..plain }), 1.0);
    }

    #[test]
    fn several_classes_per_sample_are_mixed_too_and_none_is_an_error() {
        let m = Mix { smoothing: 0.2, ..mix(0.8, 0.0, MixMode::Batch) };
        let mut b = batch(2);
        b.labels = vec![UNLABELLED; 2];
        b.targets = Some(vec![1., 0., 1., 0., 0., 0., 0., 1., 0., 0., 0., 0.]);
        let out = m.collate(b, &moment(1)).unwrap();
        let Pixels::F32(images) = out.images else { panic!() };
        let lam = 1.0 - images[0];
        let want = [0.1 + 0.8 * lam, 0.1 + 0.8 * (1.0 - lam), 0.1 + 0.8 * lam, 0.1];
        out.targets.unwrap().iter().zip(want).for_each(|(t, w)| assert!((t - w).abs() < 1e-6));
        let mut b = batch(2);
        b.labels[1] = UNLABELLED;
        assert!(m.collate(b, &moment(1)).unwrap_err().to_string().contains("a class for every sample"));
    }

    #[test]
    fn bytes_are_rounded_to_even() {
        assert_eq!((10u8.blend(20, 0.75), 0u8.blend(1, 0.5), 1u8.blend(2, 0.5)), (12, 0, 2));
    }

    #[test]
    fn settings_and_labels_are_checked() {
        assert!(Mix { prob: 2.0, ..Mix::mae_finetune(10) }.check().is_err());
        assert!(Mix { mixup: f64::NAN, ..Mix::mae_finetune(10) }.check().is_err());
        assert!(Mix { cutmix_minmax: Some((0.8, 0.2)), ..Mix::mae_finetune(10) }.check().is_err());
        assert!(Mix::mae_finetune(1).check().is_err());
        let e = Mix::mae_finetune(2).collate(batch(4), &moment(0)).unwrap_err().to_string();
        assert!(e.contains("label 2") && e.contains("2 classes"), "{e}");
    }
}
