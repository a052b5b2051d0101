//! DropBlock, G. Ghiasi et al., arXiv 1810.12890, over channels-last images, all channels of a pixel alike.

use crate::base::simd::simd_fn;
use crate::error::{Error, Result, expect_len};
use crate::rng::Key;
use rayon::prelude::*;

/// The sizes and the rate of a DropBlock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DropBlock {
    /// The number of images.
    pub batch: usize,
    /// The height of an image in pixels.
    pub height: usize,
    /// The width of an image in pixels.
    pub width: usize,
    /// Side of a dropped square, at most that of the image.
    pub size: usize,
    /// Share of the pixels to drop; as in timm, centres are drawn on the border too, so it is somewhat more for small images.
    pub rate: f32,
}

impl DropBlock {
    fn square(&self) -> (usize, usize) {
        (self.size.min(self.height), self.size.min(self.width))
    }

    /// The probability that a pixel is the centre of a dropped square: `rate H W / (k k) / ((H - k + 1) (W - k + 1))`.
    fn gamma(&self) -> f64 {
        let ((kh, kw), pixels) = (self.square(), (self.height * self.width) as f64);
        let places = ((self.height - kh + 1) * (self.width - kw + 1)) as f64;
        f64::from(self.rate) * pixels / (kh * kw) as f64 / places
    }
}

/// The factor of each pixel, (B, H, W): 0 inside a dropped square, else 1 divided by the share of pixels that is kept.
///
/// # Errors
/// When the square or an image is empty.
pub fn mask(b: &DropBlock, key: Key) -> Result<Vec<f32>> {
    let (gamma, n) = (b.gamma() as f32, b.batch * b.height * b.width);
    let centres: Vec<bool> = key.uniform(n).into_iter().map(|u| u < gamma).collect();
    spread(b, &centres)
}

/// Gives the mask of given centres (B, H, W).
///
/// # Errors
/// When the square or an image is empty, or the lengths differ.
pub fn spread(b: &DropBlock, centres: &[bool]) -> Result<Vec<f32>> {
    if b.size == 0 || b.height == 0 || b.width == 0 {
        return Err(Error::Value { op: "drop_block", message: format!("a size of 0: {b:?}") });
    }
    expect_len("drop_block", "centres", centres.len(), b.batch * b.height * b.width)?;
    let ((kh, kw), (h, w)) = (b.square(), (b.height, b.width));
    let mut mask = vec![1.0f32; centres.len()];
    for (image, centres) in mask.chunks_exact_mut(h * w).zip(centres.chunks_exact(h * w)) {
        for at in (0..h * w).filter(|i| centres[*i]) {
            let (y, x) = (at / w, at % w);
            // A pixel is cleared if a centre lies in the window around it; a window of even size reaches one pixel further behind it.
            let (top, left) = (y.saturating_sub(kh / 2), x.saturating_sub(kw / 2));
            for y in top..(y + (kh - 1) / 2 + 1).min(h) {
                image[y * w + left..y * w + (x + (kw - 1) / 2 + 1).min(w)].fill(0.0);
            }
        }
    }
    let kept: f64 = mask.iter().map(|m| f64::from(*m)).sum();
    let scale = (mask.len() as f64 / (kept + 1e-7)) as f32;
    mask.iter_mut().for_each(|m| *m *= scale);
    Ok(mask)
}

simd_fn! {
    fn rows(mask: &[f32], x: &[f32], y: &mut [f32]) {
        let c = x.len() / mask.len();
        for ((m, x), y) in mask.iter().zip(x.chunks_exact(c)).zip(y.chunks_exact_mut(c)) {
            for (y, x) in y.iter_mut().zip(x) {
                *y = x * m;
            }
        }
    }
}

/// Computes `y = x mask` for x (B, H, W, C) and a mask (B, H, W); the same call on a gradient is the backward pass.
///
/// # Errors
/// When the lengths do not fit.
pub fn apply(mask: &[f32], channels: usize, x: &[f32], y: &mut [f32]) -> Result<()> {
    expect_len("drop_block", "x", x.len(), mask.len() * channels)?;
    expect_len("drop_block", "y", y.len(), x.len())?;
    if x.is_empty() {
        return Ok(());
    }
    mask.par_chunks(64)
        .zip(x.par_chunks(64 * channels))
        .zip(y.par_chunks_mut(64 * channels))
        .for_each(|((m, x), y)| rows(m, x, y));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_are_cleared_and_the_mean_is_kept() {
        for (size, height, width) in [(3, 9, 7), (5, 12, 12), (4, 8, 9), (7, 4, 5), (1, 3, 3)] {
            let b = DropBlock { batch: 2, height, width, size, rate: 0.1 };
            let (kh, kw) = b.square();
            let centres: Vec<bool> = Key::new(3).uniform(2 * height * width).iter().map(|u| *u < 0.05).collect();
            let mask = spread(&b, &centres).unwrap();
            for i in 0..mask.len() {
                let (image, y, x) = (i / (height * width), i / width % height, i % width);
                // The windows of timm's max pool.
                let near = |c: usize, k: usize| (c as isize - ((k - 1) / 2) as isize, c as isize + (k / 2) as isize);
                let ((y0, y1), (x0, x1)) = (near(y, kh), near(x, kw));
                let hit = (0..height * width).any(|j| {
                    let (cy, cx) = ((j / width) as isize, (j % width) as isize);
                    centres[image * height * width + j] && (y0..=y1).contains(&cy) && (x0..=x1).contains(&cx)
                });
                assert_eq!(mask[i] == 0.0, hit, "{size} at {y}, {x}");
            }
            let mean = mask.iter().sum::<f32>() / mask.len() as f32;
            assert!((mean - 1.0).abs() < 1e-5, "{mean}");
        }
    }

    #[test]
    fn the_expected_share_is_dropped_and_a_mask_multiplies_all_channels() {
        let b = DropBlock { batch: 64, height: 14, width: 14, size: 5, rate: 0.1 };
        let m = mask(&b, Key::new(1)).unwrap();
        let dropped = m.iter().filter(|m| **m == 0.0).count() as f64 / m.len() as f64;
        // A pixel is dropped unless none of the centres around it is drawn; at the border there are fewer.
        let around = |i: usize| (i + 3).min(14) - i.saturating_sub(2);
        let kept = |p: usize| (1.0 - b.gamma()).powi((around(p / 14) * around(p % 14)) as i32);
        let want = 1.0 - (0..196).map(kept).sum::<f64>() / 196.0;
        assert!((dropped - want).abs() < 0.015, "{dropped} {want}");
        let x: Vec<f32> = (0..m.len() * 3).map(|i| i as f32).collect();
        let mut y = vec![f32::NAN; x.len()];
        apply(&m, 3, &x, &mut y).unwrap();
        assert!(y.iter().enumerate().all(|(i, y)| *y == x[i] * m[i / 3]));
        assert!(apply(&m, 2, &x, &mut y).is_err());
        assert!(mask(&DropBlock { size: 0, ..b }, Key::new(1)).is_err());
    }
}
