//! MAE's reconstruction loss (K. He et al., arXiv 2111.06377) and its gradient in one pass over the removed patches.
//!
//! Mean squared error inside each patch, then the mean over the removed patches of the whole batch. With `norm_pix` a
//! target patch is `(t - mean) / sqrt(var + 1e-6)` with the unbiased variance.

use crate::base::simd::{dot, simd_fn, sum};
use crate::error::{Error, Result, expect_len};
use crate::tokens::patch::Grid;
use rayon::prelude::*;

simd_fn! {
    fn normalise(t: &mut [f32]) {
        let n = t.len() as f32;
        let mean = sum(t) / n;
        for v in t.iter_mut() {
            *v -= mean;
        }
        let var = dot(t, t) / (n - 1.0);
        let r = 1.0 / (var + 1e-6).sqrt();
        for v in t.iter_mut() {
            *v *= r;
        }
    }
}

simd_fn! {
    /// dpred becomes `factor (pred - target)`; returns the sum of squared differences.
    fn difference(pred: &[f32], target: &[f32], factor: f32, dpred: &mut [f32]) -> f32 {
        for ((d, p), t) in dpred.iter_mut().zip(pred).zip(target) {
            *d = p - t;
        }
        let loss = dot(dpred, dpred);
        for d in dpred.iter_mut() {
            *d *= factor;
        }
        loss
    }
}

/// Computes the loss; `dpred` receives its gradient. images (B, C, H, W), pred (B, L, p p C), mask (B, L) with 1 = removed.
///
/// # Errors
/// When the lengths do not fit or no patch is removed.
pub fn forward(g: &Grid, images: &[f32], pred: &[f32], mask: &[f32], norm_pix: bool, dpred: &mut [f32]) -> Result<f32> {
    g.check()?;
    let (l, len) = (g.patches(), g.patch_len());
    let batch = images.len() / g.image_len();
    expect_len("mae_loss", "images", images.len(), batch * g.image_len())?;
    expect_len("mae_loss", "pred", pred.len(), batch * l * len)?;
    expect_len("mae_loss", "mask", mask.len(), batch * l)?;
    expect_len("mae_loss", "dpred", dpred.len(), pred.len())?;
    if norm_pix && len < 2 {
        return Err(Error::Value { op: "mae_loss", message: "norm_pix needs at least two values per patch".into() });
    }
    let removed: f64 = mask.iter().map(|&m| f64::from(m)).sum();
    if removed <= 0.0 {
        return Err(Error::Value { op: "mae_loss", message: "the mask removes no patch".into() });
    }
    let losses: Vec<f64> = dpred
        .par_chunks_mut(l * len)
        .zip(pred.par_chunks(l * len))
        .zip(images.par_chunks(g.image_len()).zip(mask.par_chunks(l)))
        .map(|((dpred, pred), (image, mask))| {
            let mut target = vec![0.0; len];
            let mut total = 0.0;
            for (t, &m) in mask.iter().enumerate() {
                let d = &mut dpred[t * len..(t + 1) * len];
                if m == 0.0 {
                    d.fill(0.0);
                    continue;
                }
                g.read_patch(image, t, &mut target);
                if norm_pix {
                    normalise(&mut target);
                }
                let factor = (2.0 * f64::from(m) / (len as f64 * removed)) as f32;
                total += f64::from(m) * f64::from(difference(&pred[t * len..(t + 1) * len], &target, factor, d));
            }
            total
        })
        .collect();
    Ok((losses.into_iter().sum::<f64>() / (len as f64 * removed)) as f32)
}

/// Mean and standard deviation (unbiased, as `norm_pix` uses them) of every patch, to show predictions as pixels.
/// images (B, C, H, W) -> (B, L) pairs.
///
/// # Errors
/// When the lengths do not fit.
pub fn patch_statistics(g: &Grid, images: &[f32]) -> Result<Vec<(f32, f32)>> {
    g.check()?;
    expect_len("patch_statistics", "images modulo an image", images.len() % g.image_len(), 0)?;
    let mut patch = vec![0.0; g.patch_len()];
    let mut out = Vec::with_capacity(images.len() / g.patch_len());
    for image in images.chunks_exact(g.image_len()) {
        for t in 0..g.patches() {
            g.read_patch(image, t, &mut patch);
            let n = patch.len() as f64;
            let mean = patch.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let var = patch.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
            out.push((mean as f32, (var + 1e-6).sqrt() as f32));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu::with_level;
    use crate::check::{close, f64s, finite_difference, levels, random};

    fn reference(g: &Grid, images: &[f32], pred: &[f64], mask: &[f32], norm_pix: bool) -> f64 {
        let (l, len) = (g.patches(), g.patch_len());
        let mut patches = vec![0.0; images.len()];
        crate::tokens::patch::patchify(g, images, &mut patches).unwrap();
        let patches = f64s(&patches);
        let (mut loss, mut removed) = (0.0, 0.0);
        for (i, m) in mask.iter().enumerate().take(images.len() / g.image_len() * l) {
            let t = &patches[i * len..(i + 1) * len];
            let mean = t.iter().sum::<f64>() / len as f64;
            let var = t.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (len as f64 - 1.0);
            let norm = |v: f64| if norm_pix { (v - mean) / (var + 1e-6).sqrt() } else { v };
            let mse = t.iter().zip(&pred[i * len..]).map(|(t, p)| (p - norm(*t)).powi(2)).sum::<f64>() / len as f64;
            loss += mse * f64::from(*m);
            removed += f64::from(*m);
        }
        loss / removed
    }

    #[test]
    fn loss_and_gradient_agree_with_f64() {
        let g = Grid { channels: 3, height: 4, width: 6, patch: 2 };
        let (images, pred) = (random("images", 2 * g.image_len()), random("pred", 2 * g.image_len()));
        let mask = [1., 0., 1., 1., 0., 1., 0., 0., 1., 1., 1., 1.];
        for norm_pix in [false, true] {
            let runs: Vec<_> = levels()
                .map(|lv| {
                    with_level(lv, || {
                        let mut d = vec![f32::NAN; pred.len()];
                        let loss = forward(&g, &images, &pred, &mask, norm_pix, &mut d).unwrap();
                        (loss, d)
                    })
                })
                .collect();
            close("loss", &[runs[0].0], &[reference(&g, &images, &f64s(&pred), &mask, norm_pix)], 1e-6);
            let fd = finite_difference(&pred, |p| reference(&g, &images, p, &mask, norm_pix));
            close("dpred", &runs[0].1, &fd, 1e-5);
            assert!(runs.iter().all(|r| r == &runs[0]), "levels differ");
        }
    }

    #[test]
    fn a_mask_that_removes_nothing_is_an_error() {
        let g = Grid { channels: 1, height: 2, width: 2, patch: 2 };
        assert!(forward(&g, &[0.0; 4], &[0.0; 4], &[0.0], false, &mut [0.0; 4]).is_err());
    }
}
