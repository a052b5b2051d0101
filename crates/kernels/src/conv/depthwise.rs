//! Depthwise convolution, one kernel per channel: a weighted sum of neighbouring pixels, at memory speed and always in f32.

use crate::base::par::fold_rows;
use crate::base::simd::simd_fn;
use crate::conv::shape::{Conv, PARTS};
use rayon::prelude::*;

simd_fn! {
    fn add_product(x: &[f32], w: &[f32], y: &mut [f32]) {
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = x.mul_add(*w, *y);
        }
    }
}

/// (C, 1, kh, kw) -> (taps, C).
fn taps_first(w: &[f32], channels: usize) -> Vec<f32> {
    let taps = w.len() / channels.max(1);
    (0..taps * channels).map(|i| w[i % channels * taps + i / channels]).collect()
}

/// The input row or column that tap `k` of output `o` sees, if it is inside the image.
fn seen(o: usize, k: usize, stride: usize, dilation: usize, padding: usize, n: usize) -> Option<usize> {
    (o * stride + k * dilation).checked_sub(padding).filter(|i| *i < n)
}

/// The output whose tap `k` sees input `i`, if there is one.
fn seeing(i: usize, k: usize, stride: usize, dilation: usize, padding: usize, n: usize) -> Option<usize> {
    let at = (i + padding).checked_sub(k * dilation)?;
    (at % stride == 0 && at / stride < n).then_some(at / stride)
}

/// y (B, H', W', C) of x (B, H, W, C).
pub(crate) fn forward(c: &Conv, out: (usize, usize), x: &[f32], w: &[f32], y: &mut [f32]) {
    let (n, w) = (c.inputs, taps_first(w, c.inputs));
    y.par_chunks_mut(out.1 * n).enumerate().for_each(|(row, y)| {
        let (image, oy) = (&x[row / out.0 * c.height * c.width * n..], row % out.0);
        y.fill(0.0);
        for ky in 0..c.kernel.0 {
            let Some(iy) = seen(oy, ky, c.stride.0, c.dilation.0, c.padding.0, c.height) else { continue };
            for kx in 0..c.kernel.1 {
                let w = &w[(ky * c.kernel.1 + kx) * n..][..n];
                for (ox, y) in y.chunks_exact_mut(n).enumerate() {
                    if let Some(ix) = seen(ox, kx, c.stride.1, c.dilation.1, c.padding.1, c.width) {
                        add_product(&image[(iy * c.width + ix) * n..][..n], w, y);
                    }
                }
            }
        }
    });
}

/// dx (B, H, W, C) of dy (B, H', W', C).
pub(crate) fn backward_input(c: &Conv, out: (usize, usize), dy: &[f32], w: &[f32], dx: &mut [f32]) {
    let (n, w) = (c.inputs, taps_first(w, c.inputs));
    dx.par_chunks_mut(c.width * n).enumerate().for_each(|(row, dx)| {
        let (image, iy) = (&dy[row / c.height * out.0 * out.1 * n..], row % c.height);
        dx.fill(0.0);
        for ky in 0..c.kernel.0 {
            let Some(oy) = seeing(iy, ky, c.stride.0, c.dilation.0, c.padding.0, out.0) else { continue };
            for kx in 0..c.kernel.1 {
                let w = &w[(ky * c.kernel.1 + kx) * n..][..n];
                for (ix, dx) in dx.chunks_exact_mut(n).enumerate() {
                    if let Some(ox) = seeing(ix, kx, c.stride.1, c.dilation.1, c.padding.1, out.1) {
                        add_product(&image[(oy * out.1 + ox) * n..][..n], w, dx);
                    }
                }
            }
        }
    });
}

/// dw (C, 1, kh, kw): written, or added to.
pub(crate) fn backward_weight(c: &Conv, out: (usize, usize), x: &[f32], dy: &[f32], dw: &mut [f32], accumulate: bool) {
    let (n, taps) = (c.inputs, c.kernel.0 * c.kernel.1);
    let rows = c.batch * out.0;
    let per = rows.div_ceil(PARTS).max(1);
    let parts = rows.div_ceil(per).max(1);
    let mut partial = vec![0.0; parts * taps * n];
    partial.par_chunks_mut(taps * n).enumerate().for_each(|(part, sums)| {
        for row in part * per..((part + 1) * per).min(rows) {
            let (image, oy) = (&x[row / out.0 * c.height * c.width * n..], row % out.0);
            let dy = &dy[row * out.1 * n..][..out.1 * n];
            for ky in 0..c.kernel.0 {
                let Some(iy) = seen(oy, ky, c.stride.0, c.dilation.0, c.padding.0, c.height) else { continue };
                for kx in 0..c.kernel.1 {
                    let sums = &mut sums[(ky * c.kernel.1 + kx) * n..][..n];
                    for (ox, dy) in dy.chunks_exact(n).enumerate() {
                        if let Some(ix) = seen(ox, kx, c.stride.1, c.dilation.1, c.padding.1, c.width) {
                            add_product(&image[(iy * c.width + ix) * n..][..n], dy, sums);
                        }
                    }
                }
            }
        }
    });
    let mut sums = vec![0.0; taps * n];
    fold_rows(&partial, &mut sums, false);
    for (channel, dw) in dw.chunks_exact_mut(taps).enumerate() {
        for (tap, dw) in dw.iter_mut().enumerate() {
            let sum = sums[tap * n + channel];
            *dw = if accumulate { *dw + sum } else { sum };
        }
    }
}
