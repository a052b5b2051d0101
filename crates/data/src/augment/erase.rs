//! Random erasing (Z. Zhong et al., arXiv 1708.04896), in normalised pixels, with timm's options.

use crate::error::{Error, Result};
use crate::image::Draw;
use candlelight_kernels::Key;
use serde::{Deserialize, Serialize};

/// What erased boxes are filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EraseMode {
    /// Zero, which is the mean colour.
    Const,
    /// One draw from N(0, 1) per channel.
    Rand,
    /// One draw from N(0, 1) per value.
    #[default]
    Pixel,
}

/// Erases boxes of an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomErasing {
    /// Probability that an image is erased.
    pub p: f64,
    /// What the boxes are filled with.
    #[serde(default)]
    pub mode: EraseMode,
    /// Most boxes per image; their number is drawn from 1 to this.
    #[serde(default = "one")]
    pub count: usize,
    /// The range of the erased share of the image, all boxes together.
    #[serde(default = "area")]
    pub area: (f64, f64),
    /// Smallest aspect ratio; the largest is its inverse.
    #[serde(default = "aspect")]
    pub min_aspect: f64,
}

fn one() -> usize {
    1
}

fn area() -> (f64, f64) {
    (0.02, 1.0 / 3.0)
}

fn aspect() -> f64 {
    0.3
}

impl RandomErasing {
    /// One box of random pixels for a share `p` of the images: timm's defaults.
    pub fn new(p: f64) -> Self {
        RandomErasing { p, mode: EraseMode::Pixel, count: one(), area: area(), min_aspect: aspect() }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// Names the setting that is out of range.
    pub fn check(&self) -> Result<()> {
        let fail = |what: &str| Err(Error::Config(format!("random erasing: {what}")));
        if !(0.0..=1.0).contains(&self.p) {
            return fail(&format!("p {} is not a probability from 0 to 1", self.p));
        }
        if self.count == 0 {
            return fail("count is 0, expected at least 1");
        }
        if !(self.area.0 > 0.0 && self.area.0 <= self.area.1 && self.area.1 <= 1.0) {
            return fail(&format!("area {:?} is not a range in (0, 1]", self.area));
        }
        if !(self.min_aspect > 0.0 && self.min_aspect <= 1.0) {
            return fail(&format!("min_aspect {} is not in (0, 1]", self.min_aspect));
        }
        Ok(())
    }

    /// Erases boxes of `image` (C, height, width).
    pub fn apply(&self, image: &mut [f32], height: usize, width: usize, key: Key) {
        let fills = key.child("fill");
        let d = &mut Draw::new(key);
        if d.uniform() >= self.p {
            return;
        }
        let plane = height * width;
        let count = 1 + d.below(self.count);
        for number in 0..count {
            for _ in 0..10 {
                let target = d.between(self.area.0, self.area.1) * plane as f64 / count as f64;
                let ratio = d.between(self.min_aspect.ln(), (1.0 / self.min_aspect).ln()).exp();
                let h = (target * ratio).sqrt().round_ties_even() as usize;
                let w = (target / ratio).sqrt().round_ties_even() as usize;
                if h >= height || w >= width {
                    continue;
                }
                let (top, left) = (d.below(height - h + 1), d.below(width - w + 1));
                let key = fills.index(number as u64);
                let channels = image.len() / plane.max(1);
                let fill = match self.mode {
                    EraseMode::Const => vec![0.0],
                    EraseMode::Rand => key.normal_serial(channels),
                    EraseMode::Pixel => key.normal_serial(channels * h * w),
                };
                for (c, image) in image.chunks_exact_mut(plane).enumerate() {
                    for y in 0..h {
                        for x in 0..w {
                            image[(top + y) * width + left + x] = match self.mode {
                                EraseMode::Const => 0.0,
                                EraseMode::Rand => fill[c],
                                EraseMode::Pixel => fill[(c * h + y) * w + x],
                            };
                        }
                    }
                }
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_have_the_published_size_and_the_fill_asked_for() {
        let mut erased = 0.0;
        let n = 400;
        for i in 0..n {
            let mut image = vec![7.0; 3 * 64 * 64];
            RandomErasing::new(1.0).apply(&mut image, 64, 64, Key::new(i));
            erased += image.iter().filter(|v| **v != 7.0).count() as f64 / image.len() as f64;
        }
        let mean = erased / n as f64;
        assert!((mean - 0.175).abs() < 0.015, "mean erased area {mean}");
        for (mode, distinct) in [(EraseMode::Const, 2), (EraseMode::Rand, 4)] {
            let mut image = vec![7.0f32; 3 * 32 * 32];
            RandomErasing { mode, ..RandomErasing::new(1.0) }.apply(&mut image, 32, 32, Key::new(1));
            let mut values: Vec<u32> = image.iter().map(|v| v.to_bits()).collect();
            values.sort_unstable();
            values.dedup();
            assert_eq!(values.len(), distinct);
        }
        let mut image = vec![7.0; 3 * 16];
        RandomErasing::new(0.0).apply(&mut image, 4, 4, Key::new(0));
        assert!(image.iter().all(|v| *v == 7.0));
    }

    #[test]
    fn settings_are_checked() {
        RandomErasing::new(0.25).check().unwrap();
        for bad in [
            RandomErasing::new(1.5),
            RandomErasing { count: 0, ..RandomErasing::new(0.5) },
            RandomErasing { area: (0.5, 0.2), ..RandomErasing::new(0.5) },
            RandomErasing { min_aspect: 0.0, ..RandomErasing::new(0.5) },
        ] {
            assert!(bad.check().unwrap_err().to_string().contains("random erasing"));
        }
    }
}
