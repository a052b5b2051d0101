//! Max, mean and adaptive pools over channels-last images (B, H, W, C), with PyTorch's conventions.

use crate::base::simd::simd_fn;
use crate::conv::places;
use crate::error::{Error, Result, expect_len};
use rayon::prelude::*;

/// The sizes of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// The number of images.
    pub batch: usize,
    /// The height of an image in pixels.
    pub height: usize,
    /// The width of an image in pixels.
    pub width: usize,
    /// The number of channels of an image.
    pub channels: usize,
    /// Height and width of a window.
    pub kernel: (usize, usize),
    /// Steps of the window down and across.
    pub stride: (usize, usize),
    /// Rows of border above and below the image, and columns left and right of it: at most half the window.
    pub padding: (usize, usize),
    /// Whether a last window that reaches over the edge is kept.
    pub ceil: bool,
}

impl Pool {
    /// Height and width of the result.
    ///
    /// # Errors
    /// When the window is larger than the padded image, the border is more than half of it, or a size is 0.
    pub fn output(&self) -> Result<(usize, usize)> {
        let fail = |message: String| Err(Error::Value { op: "pool2d", message });
        let p = self;
        if [p.kernel.0, p.kernel.1, p.stride.0, p.stride.1, p.height, p.width, p.channels].contains(&0) {
            return fail(format!("a size of 0: {p:?}"));
        }
        if p.padding.0 > p.kernel.0 / 2 || p.padding.1 > p.kernel.1 / 2 {
            return fail(format!("a border of {:?} is more than half of a window of {:?}", p.padding, p.kernel));
        }
        let side = |size: usize, kernel: usize, stride: usize, padding: usize| {
            let n = places(size, kernel, stride, padding, 1)?;
            // With `ceil` there is one more window if it starts inside the image or its left border.
            let more = p.ceil && (size + 2 * padding - kernel) % stride != 0 && n * stride < size + padding;
            Some(n + usize::from(more))
        };
        let h = side(p.height, p.kernel.0, p.stride.0, p.padding.0);
        match (h, side(p.width, p.kernel.1, p.stride.1, p.padding.1)) {
            (Some(h), Some(w)) => Ok((h, w)),
            _ => fail(format!(
                "a window of {}x{} on an image of {}x{} padded by {:?}",
                p.kernel.0, p.kernel.1, p.height, p.width, p.padding
            )),
        }
    }

    fn image(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// The rows (or columns) of window `o` inside the image.
    fn span(o: usize, kernel: usize, stride: usize, padding: usize, size: usize) -> (usize, usize) {
        let start = (o * stride).saturating_sub(padding);
        (start.min(size), (o * stride + kernel).saturating_sub(padding).min(size))
    }

    fn window(&self, oy: usize, ox: usize) -> ((usize, usize), (usize, usize)) {
        (
            Self::span(oy, self.kernel.0, self.stride.0, self.padding.0, self.height),
            Self::span(ox, self.kernel.1, self.stride.1, self.padding.1, self.width),
        )
    }

    /// What an average divides by: the window's part inside the padded image.
    fn divisor(&self, oy: usize, ox: usize) -> f32 {
        let side = |o: usize, k: usize, s: usize, p: usize, size: usize| (o * s + k).min(size + 2 * p) - o * s;
        let h = side(oy, self.kernel.0, self.stride.0, self.padding.0, self.height);
        (h * side(ox, self.kernel.1, self.stride.1, self.padding.1, self.width)) as f32
    }

    fn check(&self, op: &'static str, x: usize, y: usize) -> Result<(usize, usize)> {
        let (oh, ow) = self.output()?;
        expect_len(op, "x", x, self.batch * self.image())?;
        expect_len(op, "y", y, self.batch * oh * ow * self.channels)?;
        Ok((oh, ow))
    }
}

simd_fn! {
    fn take_max(x: &[f32], place: u32, y: &mut [f32], from: &mut [u32]) {
        for ((x, y), from) in x.iter().zip(y).zip(from) {
            // Of equal values the first wins, and NaN wins over every number, as in PyTorch.
            let wins = *x > *y || x.is_nan();
            *y = if wins { *x } else { *y };
            *from = if wins { place } else { *from };
        }
    }
}

/// Computes the largest value of each window; `from` receives its place (row x width + column) in the image.
///
/// # Errors
/// When the lengths or sizes do not fit.
pub fn max_forward(p: &Pool, x: &[f32], y: &mut [f32], from: &mut [u32]) -> Result<()> {
    let (oh, ow) = p.check("max_pool2d", x.len(), y.len())?;
    expect_len("max_pool2d", "places", from.len(), y.len())?;
    let c = p.channels;
    let rows = y.par_chunks_mut(ow * c).zip(from.par_chunks_mut(ow * c));
    rows.enumerate().with_min_len(4).for_each(|(row, (y, from))| {
        let (image, oy) = (&x[row / oh * p.image()..][..p.image()], row % oh);
        for (ox, (y, from)) in y.chunks_exact_mut(c).zip(from.chunks_exact_mut(c)).enumerate() {
            let ((y0, y1), (x0, x1)) = p.window(oy, ox);
            y.fill(f32::NEG_INFINITY);
            from.fill((y0 * p.width + x0) as u32);
            for iy in y0..y1 {
                for ix in x0..x1 {
                    let at = iy * p.width + ix;
                    take_max(&image[at * c..][..c], at as u32, y, from);
                }
            }
        }
    });
    Ok(())
}

/// Gives each window's gradient to the value that was taken; `dx` is overwritten.
///
/// # Errors
/// When the lengths or sizes do not fit.
pub fn max_backward(p: &Pool, dy: &[f32], from: &[u32], dx: &mut [f32]) -> Result<()> {
    let (oh, ow) = p.check("max_pool2d backward", dx.len(), dy.len())?;
    expect_len("max_pool2d backward", "places", from.len(), dy.len())?;
    let (c, per) = (p.channels, oh * ow * p.channels);
    let images = dx.par_chunks_mut(p.image()).zip(dy.par_chunks(per)).zip(from.par_chunks(per));
    images.for_each(|((dx, dy), from)| {
        dx.fill(0.0);
        for (dy, from) in dy.chunks_exact(c).zip(from.chunks_exact(c)) {
            for (k, (d, at)) in dy.iter().zip(from).enumerate() {
                dx[*at as usize * c + k] += d;
            }
        }
    });
    Ok(())
}

simd_fn! {
    pub(crate) fn add_scaled(x: &[f32], share: f32, y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = x.mul_add(share, *y);
        }
    }
}

/// Computes the mean of each window; the border counts as zeros, as with PyTorch's `count_include_pad`.
///
/// # Errors
/// When the lengths or sizes do not fit.
pub fn avg_forward(p: &Pool, x: &[f32], y: &mut [f32]) -> Result<()> {
    let (oh, ow) = p.check("avg_pool2d", x.len(), y.len())?;
    let c = p.channels;
    y.par_chunks_mut(ow * c).enumerate().with_min_len(4).for_each(|(row, y)| {
        let (image, oy) = (&x[row / oh * p.image()..][..p.image()], row % oh);
        for (ox, y) in y.chunks_exact_mut(c).enumerate() {
            let ((y0, y1), (x0, x1)) = p.window(oy, ox);
            let share = 1.0 / p.divisor(oy, ox);
            y.fill(0.0);
            for iy in y0..y1 {
                image[(iy * p.width + x0) * c..(iy * p.width + x1) * c]
                    .chunks_exact(c)
                    .for_each(|x| add_scaled(x, share, y));
            }
        }
    });
    Ok(())
}

/// Computes the gradient of [`avg_forward`]; `dx` is overwritten.
///
/// # Errors
/// When the lengths or sizes do not fit.
pub fn avg_backward(p: &Pool, dy: &[f32], dx: &mut [f32]) -> Result<()> {
    let (oh, ow) = p.check("avg_pool2d backward", dx.len(), dy.len())?;
    let (c, per) = (p.channels, oh * ow * p.channels);
    dx.par_chunks_mut(p.image()).zip(dy.par_chunks(per)).for_each(|(dx, dy)| {
        dx.fill(0.0);
        for (i, dy) in dy.chunks_exact(c).enumerate() {
            let ((y0, y1), (x0, x1)) = p.window(i / ow, i % ow);
            let share = 1.0 / p.divisor(i / ow, i % ow);
            for iy in y0..y1 {
                dx[(iy * p.width + x0) * c..(iy * p.width + x1) * c]
                    .chunks_exact_mut(c)
                    .for_each(|dx| add_scaled(dy, share, dx));
            }
        }
    });
    Ok(())
}

/// The windows of an adaptive pool: `[floor(o n / out), ceil((o + 1) n / out))`.
fn adaptive(o: usize, n: usize, out: usize) -> (usize, usize) {
    (o * n / out, ((o + 1) * n).div_ceil(out))
}

/// Computes means over windows that cover the image in `out` rows and columns; (1, 1) is the global mean. Of `p` only the image's sizes
/// are read.
///
/// # Errors
/// When the lengths do not fit or `out` has a 0.
pub fn adaptive_avg_forward(p: &Pool, out: (usize, usize), x: &[f32], y: &mut [f32]) -> Result<()> {
    check_adaptive(p, out, x.len(), y.len())?;
    let c = p.channels;
    y.par_chunks_mut(c).enumerate().with_min_len(4).for_each(|(i, y)| {
        let image = &x[i / (out.0 * out.1) * p.image()..][..p.image()];
        let (y0, y1) = adaptive(i / out.1 % out.0, p.height, out.0);
        let (x0, x1) = adaptive(i % out.1, p.width, out.1);
        let share = 1.0 / ((y1 - y0) * (x1 - x0)) as f32;
        y.fill(0.0);
        for iy in y0..y1 {
            image[(iy * p.width + x0) * c..(iy * p.width + x1) * c].chunks_exact(c).for_each(|x| add_scaled(x, 1.0, y));
        }
        y.iter_mut().for_each(|v| *v *= share);
    });
    Ok(())
}

/// Computes the gradient of [`adaptive_avg_forward`]; `dx` is overwritten.
///
/// # Errors
/// When the lengths do not fit or `out` has a 0.
pub fn adaptive_avg_backward(p: &Pool, out: (usize, usize), dy: &[f32], dx: &mut [f32]) -> Result<()> {
    check_adaptive(p, out, dx.len(), dy.len())?;
    let c = p.channels;
    dx.par_chunks_mut(p.image()).zip(dy.par_chunks(out.0 * out.1 * c)).for_each(|(dx, dy)| {
        dx.fill(0.0);
        for (i, dy) in dy.chunks_exact(c).enumerate() {
            let (y0, y1) = adaptive(i / out.1, p.height, out.0);
            let (x0, x1) = adaptive(i % out.1, p.width, out.1);
            let share = 1.0 / ((y1 - y0) * (x1 - x0)) as f32;
            for iy in y0..y1 {
                dx[(iy * p.width + x0) * c..(iy * p.width + x1) * c]
                    .chunks_exact_mut(c)
                    .for_each(|dx| add_scaled(dy, share, dx));
            }
        }
    });
    Ok(())
}

fn check_adaptive(p: &Pool, out: (usize, usize), x: usize, y: usize) -> Result<()> {
    if out.0 == 0 || out.1 == 0 || p.image() == 0 {
        let message = format!("{}x{} windows on an image of {}x{}", out.0, out.1, p.height, p.width);
        return Err(Error::Value { op: "adaptive_avg_pool2d", message });
    }
    expect_len("adaptive_avg_pool2d", "x", x, p.batch * p.image())?;
    expect_len("adaptive_avg_pool2d", "y", y, p.batch * out.0 * out.1 * p.channels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu::with_level;
    use crate::check::{close, dot64, f64s, finite_difference, levels, random};

    const PLAIN: Pool = Pool {
        batch: 2,
        height: 7,
        width: 5,
        channels: 3,
        kernel: (3, 3),
        stride: (2, 2),
        padding: (1, 1),
        ceil: false,
    };

    fn cases() -> [Pool; 5] {
        [
            PLAIN,
            Pool { kernel: (2, 2), padding: (0, 0), ..PLAIN },
            Pool { kernel: (2, 2), padding: (0, 0), ceil: true, ..PLAIN },
            Pool { kernel: (3, 2), stride: (1, 3), padding: (0, 1), ceil: true, ..PLAIN },
            Pool { kernel: (5, 5), stride: (5, 5), padding: (2, 2), ceil: true, ..PLAIN },
        ]
    }

    /// Values of each window, and the number an average divides by.
    fn windows(p: &Pool, x: &[f64], f: impl Fn(&[f64], f64) -> f64) -> Vec<f64> {
        let (oh, ow) = p.output().unwrap();
        let mut y = vec![];
        for i in 0..p.batch * oh * ow {
            let (b, oy, ox) = (i / (oh * ow), i / ow % oh, i % ow);
            for c in 0..p.channels {
                let (mut values, mut count) = (vec![], 0.0);
                for k in 0..p.kernel.0 * p.kernel.1 {
                    let iy = (oy * p.stride.0 + k / p.kernel.1) as isize - p.padding.0 as isize;
                    let ix = (ox * p.stride.1 + k % p.kernel.1) as isize - p.padding.1 as isize;
                    if iy >= (p.height + p.padding.0) as isize || ix >= (p.width + p.padding.1) as isize {
                        continue;
                    }
                    count += 1.0;
                    if iy >= 0 && ix >= 0 && (iy as usize) < p.height && (ix as usize) < p.width {
                        values.push(x[((b * p.height + iy as usize) * p.width + ix as usize) * p.channels + c]);
                    }
                }
                y.push(f(&values, count));
            }
        }
        y
    }

    #[test]
    fn pools_agree_with_f64_and_finite_differences() {
        for p in cases() {
            let (oh, ow) = p.output().unwrap();
            let x = random("x", p.batch * p.height * p.width * p.channels);
            let dy = random("dy", p.batch * oh * ow * p.channels);
            let max = |v: &[f64], _: f64| v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mean = |v: &[f64], n: f64| v.iter().sum::<f64>() / n;
            for lv in levels() {
                with_level(lv, || {
                    let (mut y, mut from, mut dx) = (vec![0.0; dy.len()], vec![0; dy.len()], vec![f32::NAN; x.len()]);
                    max_forward(&p, &x, &mut y, &mut from).unwrap();
                    close("max", &y, &windows(&p, &f64s(&x), max), 0.0);
                    max_backward(&p, &dy, &from, &mut dx).unwrap();
                    close("max dx", &dx, &finite_difference(&x, |x| dot64(&windows(&p, x, max), &dy)), 1e-5);
                    avg_forward(&p, &x, &mut y).unwrap();
                    close("avg", &y, &windows(&p, &f64s(&x), mean), 1e-6);
                    avg_backward(&p, &dy, &mut dx).unwrap();
                    close("avg dx", &dx, &finite_difference(&x, |x| dot64(&windows(&p, x, mean), &dy)), 1e-5);
                });
            }
        }
    }

    #[test]
    fn adaptive_means_agree_with_f64_and_finite_differences() {
        let x = random("x", 2 * 7 * 5 * 3);
        for out in [(1, 1), (3, 2), (7, 5), (9, 4)] {
            let reference = |x: &[f64]| {
                let mut y = vec![];
                for i in 0..2 * out.0 * out.1 {
                    let ((y0, y1), (x0, x1)) = (adaptive(i / out.1 % out.0, 7, out.0), adaptive(i % out.1, 5, out.1));
                    for c in 0..3 {
                        let at = |iy: usize, ix: usize| x[((i / (out.0 * out.1) * 7 + iy) * 5 + ix) * 3 + c];
                        let sum: f64 =
                            (y0..y1).flat_map(|iy| (x0..x1).map(move |ix| (iy, ix))).map(|(a, b)| at(a, b)).sum();
                        y.push(sum / ((y1 - y0) * (x1 - x0)) as f64);
                    }
                }
                y
            };
            let dy = random("dy", 2 * out.0 * out.1 * 3);
            let (mut y, mut dx) = (vec![0.0; dy.len()], vec![f32::NAN; x.len()]);
            adaptive_avg_forward(&PLAIN, out, &x, &mut y).unwrap();
            close("y", &y, &reference(&f64s(&x)), 1e-6);
            adaptive_avg_backward(&PLAIN, out, &dy, &mut dx).unwrap();
            close("dx", &dx, &finite_difference(&x, |x| dot64(&reference(x), &dy)), 1e-5);
        }
    }

    #[test]
    fn ties_go_to_the_first_and_nan_stays() {
        let p = Pool { batch: 1, height: 2, width: 2, channels: 1, kernel: (2, 2), padding: (0, 0), ..PLAIN };
        let (mut y, mut from) = ([0.0], [9]);
        max_forward(&p, &[1.0, 1.0, 1.0, 1.0], &mut y, &mut from).unwrap();
        assert_eq!((y, from), ([1.0], [0]));
        max_forward(&p, &[1.0, f32::NAN, 3.0, 1.0], &mut y, &mut from).unwrap();
        assert!(y[0].is_nan());
    }

    #[test]
    fn what_cannot_be_is_named() {
        let text = |p: Pool| p.output().unwrap_err().to_string();
        assert!(text(Pool { kernel: (12, 3), ..PLAIN }).contains("12x3"));
        assert!(text(Pool { padding: (2, 1), ..PLAIN }).contains("more than half"));
        assert!(text(Pool { stride: (0, 1), ..PLAIN }).contains("a size of 0"));
        assert!(adaptive_avg_forward(&PLAIN, (0, 1), &[], &mut []).is_err());
    }
}
