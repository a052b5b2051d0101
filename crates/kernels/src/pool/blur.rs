//! Blur pool, R. Zhang, arXiv 1904.11486: a binomial filter over reflected borders, then every `stride`-th pixel, channel by channel.

use crate::error::{Error, Result, expect_len};
use crate::pool::window::add_scaled;
use rayon::prelude::*;

/// The sizes of a blur pool over channels-last images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blur {
    /// The number of images.
    pub batch: usize,
    /// The height of an image in pixels.
    pub height: usize,
    /// The width of an image in pixels.
    pub width: usize,
    /// The number of channels of an image.
    pub channels: usize,
    /// Side of the filter.
    pub size: usize,
    /// Steps of the window down and across.
    pub stride: usize,
}

impl Blur {
    fn border(&self) -> usize {
        (self.stride - 1 + self.size - 1) / 2
    }

    /// Height and width of the result.
    ///
    /// # Errors
    /// When a size is 0, or the border reaches over the image it reflects.
    pub fn output(&self) -> Result<(usize, usize)> {
        let fail = |message| Err(Error::Value { op: "blur_pool2d", message });
        if [self.batch, self.height, self.width, self.channels, self.size, self.stride].contains(&0) {
            return fail(format!("a size of 0: {self:?}"));
        }
        let border = self.border();
        let places = |n: usize| (border < n).then(|| (n + 2 * border).checked_sub(self.size)).flatten();
        match (places(self.height), places(self.width)) {
            (Some(h), Some(w)) => Ok((h / self.stride + 1, w / self.stride + 1)),
            _ => fail(format!("a filter of {} on an image of {}x{}", self.size, self.height, self.width)),
        }
    }

    /// The binomial filter, whose sum is 1.
    pub fn filter(&self) -> Vec<f32> {
        let mut row = vec![1.0f64];
        for _ in 1..self.size {
            let shifted = std::iter::once(0.0).chain(row.iter().copied());
            row = shifted.zip(row.iter().copied().chain([0.0])).map(|(a, b)| (a + b) / 2.0).collect();
        }
        row.into_iter().map(|v| v as f32).collect()
    }

    /// The pixel that place `i` of a line of `n`, with its border, reflects.
    pub fn reflected(&self, i: usize, n: usize) -> usize {
        let i = i as isize - self.border() as isize;
        let n = n as isize;
        (if i < 0 {
            -i
        } else if i >= n {
            2 * (n - 1) - i
        } else {
            i
        }) as usize
    }

    fn check(&self, x: usize, y: usize) -> Result<(usize, usize)> {
        let (h, w) = self.output()?;
        expect_len("blur_pool2d", "x", x, self.batch * self.height * self.width * self.channels)?;
        expect_len("blur_pool2d", "y", y, self.batch * h * w * self.channels)?;
        Ok((h, w))
    }

    /// Calls `f(pixel of the result, pixel of the image, factor)` for an image.
    fn visit(&self, (oh, ow): (usize, usize), mut f: impl FnMut(usize, usize, f32)) {
        let filter = self.filter();
        for oy in 0..oh {
            for ox in 0..ow {
                for (ky, fy) in filter.iter().enumerate() {
                    let y = self.reflected(oy * self.stride + ky, self.height);
                    for (kx, fx) in filter.iter().enumerate() {
                        let x = self.reflected(ox * self.stride + kx, self.width);
                        f(oy * ow + ox, y * self.width + x, fy * fx);
                    }
                }
            }
        }
    }
}

/// Computes the blur pool: x (B, H, W, C) -> y (B, H', W', C).
///
/// # Errors
/// When the lengths or sizes do not fit.
pub fn forward(b: &Blur, x: &[f32], y: &mut [f32]) -> Result<()> {
    let out = b.check(x.len(), y.len())?;
    let c = b.channels;
    y.par_chunks_mut(out.0 * out.1 * c).zip(x.par_chunks(b.height * b.width * c)).for_each(|(y, x)| {
        y.fill(0.0);
        b.visit(out, |to, from, factor| add_scaled(&x[from * c..][..c], factor, &mut y[to * c..][..c]));
    });
    Ok(())
}

/// Computes the gradient of [`forward`]; `dx` is overwritten.
///
/// # Errors
/// When the lengths or sizes do not fit.
pub fn backward(b: &Blur, dy: &[f32], dx: &mut [f32]) -> Result<()> {
    let out = b.check(dx.len(), dy.len())?;
    let c = b.channels;
    dx.par_chunks_mut(b.height * b.width * c).zip(dy.par_chunks(out.0 * out.1 * c)).for_each(|(dx, dy)| {
        dx.fill(0.0);
        b.visit(out, |from, to, factor| add_scaled(&dy[from * c..][..c], factor, &mut dx[to * c..][..c]));
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu::with_level;
    use crate::check::{close, dot64, f64s, finite_difference, levels, random};

    #[test]
    fn gradients_are_finite_differences_and_levels_agree() {
        for (size, stride) in [(3, 2), (5, 2), (4, 3), (3, 1)] {
            let b = Blur { batch: 2, height: 6, width: 7, channels: 3, size, stride };
            let (oh, ow) = b.output().unwrap();
            let x = random("x", 2 * 6 * 7 * 3);
            let dy = random("dy", 2 * oh * ow * 3);
            let exact = |x: &[f64]| {
                let mut y = vec![0.0f64; dy.len()];
                for i in 0..2 {
                    b.visit((oh, ow), |to, from, f| {
                        for c in 0..3 {
                            y[(i * oh * ow + to) * 3 + c] += x[(i * 42 + from) * 3 + c] * f64::from(f);
                        }
                    });
                }
                y
            };
            let want = finite_difference(&x, |x| dot64(&exact(x), &dy));
            let runs: Vec<_> = levels()
                .map(|l| {
                    with_level(l, || {
                        let (mut y, mut dx) = (vec![f32::NAN; dy.len()], vec![f32::NAN; x.len()]);
                        forward(&b, &x, &mut y).unwrap();
                        backward(&b, &dy, &mut dx).unwrap();
                        (y, dx)
                    })
                })
                .collect();
            close("y", &runs[0].0, &exact(&f64s(&x)), 1e-6);
            close("dx", &runs[0].1, &want, 1e-6);
            assert!(runs.iter().all(|r| *r == runs[0]), "levels differ");
            assert!((b.filter().iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn what_cannot_be_reflected_is_refused() {
        let b = Blur { batch: 1, height: 4, width: 4, channels: 1, size: 3, stride: 2 };
        assert_eq!(b.output().unwrap(), (2, 2));
        assert!(Blur { height: 1, ..b }.output().unwrap_err().to_string().contains("1x4"));
        assert!(Blur { stride: 0, ..b }.output().is_err());
        assert!(forward(&b, &[0.0; 15], &mut [0.0; 4]).is_err());
    }
}
