//! Augmentations: each a function of (image, key).

use crate::dataset::Image;
use crate::decode::Limits;
use crate::error::{Error, Result};
use crate::resize::{Filter, resize};
use candlelight_kernels::Key;
use serde::{Deserialize, Serialize};

/// One step from image to image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Transform {
    /// torchvision's: up to ten draws of an area and an aspect ratio, then the largest centred crop within the ratios;
    /// resized to (height, width).
    RandomResizedCrop {
        /// Output height and width.
        size: (usize, usize),
        /// Range of the crop's area over the image's.
        scale: (f64, f64),
        /// Range of width over height.
        ratio: (f64, f64),
        /// Interpolation.
        filter: Filter,
    },
    /// The shorter side to this length.
    Resize {
        /// Length of the shorter side.
        size: usize,
        /// Interpolation.
        filter: Filter,
    },
    /// A crop of (height, width) around the centre; images that are smaller are an error.
    CenterCrop {
        /// Output height and width.
        size: (usize, usize),
    },
    /// Mirrors left and right with this probability.
    HorizontalFlip {
        /// In [0, 1].
        p: f64,
    },
}

fn crop(image: &Image, x: usize, y: usize, w: usize, h: usize) -> Image {
    let c = image.channels;
    let mut data = Vec::with_capacity(w * h * c);
    for row in y..y + h {
        let at = (row * image.width + x) * c;
        data.extend_from_slice(&image.data[at..at + w * c]);
    }
    Image { width: w, height: h, channels: c, data }
}

/// The crop of [`Transform::RandomResizedCrop`]: (x, y, width, height).
fn random_crop(image: &Image, scale: (f64, f64), ratio: (f64, f64), key: Key) -> (usize, usize, usize, usize) {
    let (w, h) = (image.width, image.height);
    let mut rng = key.rng();
    let area = (w * h) as f64;
    for _ in 0..10 {
        let target = area * (scale.0 + rng.uniform_f64() * (scale.1 - scale.0));
        let (lo, hi) = (ratio.0.ln(), ratio.1.ln());
        let aspect = (lo + rng.uniform_f64() * (hi - lo)).exp();
        let cw = (target * aspect).sqrt().round() as usize;
        let ch = (target / aspect).sqrt().round() as usize;
        if cw > 0 && ch > 0 && cw <= w && ch <= h {
            let y = rng.below((h - ch + 1) as u64) as usize;
            let x = rng.below((w - cw + 1) as u64) as usize;
            return (x, y, cw, ch);
        }
    }
    let aspect = w as f64 / h as f64;
    let (cw, ch) = if aspect < ratio.0 {
        (w, (w as f64 / ratio.0).round() as usize)
    } else if aspect > ratio.1 {
        ((h as f64 * ratio.1).round() as usize, h)
    } else {
        (w, h)
    };
    let (cw, ch) = (cw.clamp(1, w), ch.clamp(1, h));
    ((w - cw) / 2, (h - ch) / 2, cw, ch)
}

impl Transform {
    /// Applies the step; `key` is its own.
    ///
    /// # Errors
    /// When the image is smaller than a centre crop.
    pub fn apply(&self, image: Image, key: Key) -> Result<Image> {
        match *self {
            Transform::RandomResizedCrop { size: (h, w), scale, ratio, filter } => {
                let (x, y, cw, ch) = random_crop(&image, scale, ratio, key);
                Ok(resize(&crop(&image, x, y, cw, ch), w, h, filter))
            }
            Transform::Resize { size, filter } => {
                let (w, h) = (image.width, image.height);
                // The longer side truncates, as torchvision's does.
                let (nw, nh) = if w <= h { (size, size * h / w) } else { (size * w / h, size) };
                if nw.saturating_mul(nh) as u64 > Limits::default().pixels {
                    return Err(Error::Decode(format!("the image, {w}x{h}, would become {nw}x{nh}")));
                }
                Ok(resize(&image, nw, nh, filter))
            }
            Transform::CenterCrop { size: (h, w) } => {
                if image.width < w || image.height < h {
                    let (iw, ih) = (image.width, image.height);
                    return Err(Error::Decode(format!("the image, {iw}x{ih}, is smaller than the crop, {w}x{h}")));
                }
                let middle = |a: usize, b: usize| ((a - b) as f64 / 2.0).round_ties_even() as usize;
                Ok(crop(&image, middle(image.width, w), middle(image.height, h), w, h))
            }
            Transform::HorizontalFlip { p } => {
                if key.rng().uniform_f64() >= p {
                    return Ok(image);
                }
                let mut out = image;
                for row in out.data.chunks_exact_mut(out.width * out.channels) {
                    let reversed: Vec<u8> = row.chunks_exact(out.channels).rev().flatten().copied().collect();
                    row.copy_from_slice(&reversed);
                }
                Ok(out)
            }
        }
    }
}

/// Per-channel mean and standard deviation of pixels in [0, 1].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalize {
    /// One a channel.
    pub mean: Vec<f32>,
    /// One a channel.
    pub std: Vec<f32>,
}

impl Normalize {
    /// ImageNet's.
    pub fn imagenet() -> Self {
        Normalize { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] }
    }
}

/// What happens to a sample on its way into a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// Steps, in order.
    pub transforms: Vec<Transform>,
    /// Applied last, with the change to channels-first f32.
    pub normalize: Normalize,
}

impl Pipeline {
    /// MAE's pretraining: RandomResizedCrop(scale 0.2-1, bicubic), horizontal flip.
    pub fn mae_pretrain(size: (usize, usize), normalize: Normalize) -> Self {
        let (scale, ratio) = ((0.2, 1.0), (3.0 / 4.0, 4.0 / 3.0));
        let transforms = vec![
            Transform::RandomResizedCrop { size, scale, ratio, filter: Filter::Bicubic },
            Transform::HorizontalFlip { p: 0.5 },
        ];
        Pipeline { transforms, normalize }
    }

    /// MAE's evaluation: the short side to `size / 0.875` (`size` itself above 224), then a centre crop.
    pub fn evaluation(size: (usize, usize), normalize: Normalize) -> Self {
        let short = size.0.max(size.1);
        let short = if short <= 224 { (short as f64 / 0.875) as usize } else { short };
        let transforms =
            vec![Transform::Resize { size: short, filter: Filter::Bicubic }, Transform::CenterCrop { size }];
        Pipeline { transforms, normalize }
    }

    /// Channels of the output.
    pub fn channels(&self) -> usize {
        self.normalize.mean.len()
    }

    /// Runs the steps, then writes the normalised pixels, channels first, to `out`.
    ///
    /// # Errors
    /// When a step fails or the result does not fill `out`.
    pub fn apply(&self, mut image: Image, key: &Key, out: &mut [f32]) -> Result<()> {
        for (i, t) in self.transforms.iter().enumerate() {
            image = t.apply(image, key.index(i as u64))?;
        }
        let channels = self.channels();
        let n = image.width * image.height;
        if out.len() != n * channels {
            return Err(Error::Config(format!(
                "the transforms gave {}x{} pixels, the batch wants {} values a channel",
                image.width,
                image.height,
                out.len() / channels.max(1)
            )));
        }
        for (c, plane) in out.chunks_exact_mut(n).enumerate() {
            // torchvision's order: to [0, 1], minus the mean, over the deviation.
            let table: Vec<f32> =
                (0..256).map(|v| (v as f32 / 255.0 - self.normalize.mean[c]) / self.normalize.std[c]).collect();
            match (image.channels, channels) {
                // Luma as Pillow's convert("L") computes it.
                (3, 1) => plane.iter_mut().zip(image.data.chunks_exact(3)).for_each(|(o, p)| {
                    let l = (u32::from(p[0]) * 19595 + u32::from(p[1]) * 38470 + u32::from(p[2]) * 7471 + 0x8000) >> 16;
                    *o = table[l as usize];
                }),
                (from, _) => plane
                    .iter_mut()
                    .zip(image.data.chunks_exact(from))
                    .for_each(|(o, p)| *o = table[usize::from(p[c.min(from - 1)])]),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(w: usize, h: usize) -> Image {
        Image::new(w, h, 3, (0..w * h * 3).map(|i| (i % 256) as u8).collect()).unwrap()
    }

    #[test]
    fn crops_stay_inside_and_follow_the_ranges() {
        for (w, h) in [(100, 80), (500, 3), (1, 1), (3, 400)] {
            for i in 0..500 {
                let (x, y, cw, ch) = random_crop(&image(w, h), (0.2, 1.0), (0.75, 4.0 / 3.0), Key::new(i));
                assert!(cw >= 1 && ch >= 1 && x + cw <= w && y + ch <= h);
                if (w, h) == (100, 80) {
                    let (area, ratio) = ((cw * ch) as f64 / 8000.0, cw as f64 / ch as f64);
                    assert!((0.19..=1.0).contains(&area) && (0.72..1.38).contains(&ratio), "{area} {ratio}");
                }
            }
        }
    }

    #[test]
    fn the_centre_crop_needs_a_large_enough_image() {
        let t = Transform::CenterCrop { size: (4, 4) };
        assert!(t.apply(image(3, 9), Key::new(0)).unwrap_err().to_string().contains("smaller than the crop"));
        assert_eq!(t.apply(image(4, 4), Key::new(0)).unwrap(), image(4, 4));
    }

    #[test]
    fn flipping_twice_is_the_identity_and_pixels_are_normalised() {
        let flip = Transform::HorizontalFlip { p: 1.0 };
        let once = flip.apply(image(5, 2), Key::new(0)).unwrap();
        assert_eq!(once.data[..3], image(5, 2).data[12..15]);
        assert_eq!(flip.apply(once, Key::new(0)).unwrap(), image(5, 2));
        let p = Pipeline { transforms: vec![], normalize: Normalize { mean: vec![0.5; 3], std: vec![0.25; 3] } };
        let mut out = vec![0.0; 6];
        p.apply(Image::new(2, 1, 3, vec![0, 255, 51, 255, 0, 51]).unwrap(), &Key::new(0), &mut out).unwrap();
        for (o, w) in out.iter().zip([-2.0, 2.0, 2.0, -2.0, -1.2, -1.2]) {
            assert!((o - w).abs() < 1e-6);
        }
        assert!(p.apply(image(3, 1), &Key::new(0), &mut out).is_err());
    }
}
