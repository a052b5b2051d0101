//! Dropout and stochastic depth (drop-path, G. Huang et al., arXiv 1603.09382). Masks are drawn again in the backward pass
//! from the same key; they are never kept.

use crate::base::par::SERIAL;
use crate::base::simd::simd_fn;
use crate::error::{Error, Result, expect_len};
use crate::rng::{philox, unit};
use rayon::prelude::*;

/// Checks a drop rate.
///
/// # Errors
/// When it is outside [0, 1).
pub fn check_rate(rate: f32) -> Result<()> {
    if (0.0..1.0).contains(&rate) {
        Ok(())
    } else {
        Err(Error::Value { op: "dropout", message: format!("rate {rate} is outside [0, 1)") })
    }
}

/// The factors of elements `4 block .. 4 block + 4`: 0 or `1 / (1 - rate)`.
#[inline(always)]
pub(crate) fn keep4(words: [u32; 2], block: u64, rate: f32) -> [f32; 4] {
    let scale = 1.0 / (1.0 - rate);
    philox([block as u32, (block >> 32) as u32, 0, 0], words).map(|w| if unit(w) < rate { 0.0 } else { scale })
}

simd_fn! {
    fn mask_chunk(words: [u32; 2], first: u64, rate: f32, x: &[f32], out: &mut [f32]) {
        for (i, (o, x)) in out.chunks_mut(4).zip(x.chunks(4)).enumerate() {
            let keep = keep4(words, first + i as u64, rate);
            for ((o, x), k) in o.iter_mut().zip(x).zip(keep) {
                *o = x * k;
            }
        }
    }
}

/// Computes `out = x * mask / (1 - rate)`; the same call on a gradient is the backward pass.
///
/// # Errors
/// When the lengths differ or the rate is outside [0, 1).
pub fn dropout(words: [u32; 2], rate: f32, x: &[f32], out: &mut [f32]) -> Result<()> {
    check_rate(rate)?;
    expect_len("dropout", "x", x.len(), out.len())?;
    out.par_chunks_mut(SERIAL).zip(x.par_chunks(SERIAL)).enumerate().for_each(|(i, (o, x))| {
        mask_chunk(words, (i * SERIAL / 4) as u64, rate, x, o);
    });
    Ok(())
}

/// Drops whole samples (the leading dimension) and keeps the mean: `out[b] = x[b] * mask[b] / (1 - rate)`.
///
/// # Errors
/// When the lengths differ or the rate is outside [0, 1).
pub fn drop_path(words: [u32; 2], rate: f32, samples: usize, x: &[f32], out: &mut [f32]) -> Result<()> {
    check_rate(rate)?;
    expect_len("drop_path", "x", x.len(), out.len())?;
    let n = x.len() / samples.max(1);
    expect_len("drop_path", "x", x.len(), n * samples)?;
    out.par_chunks_mut(n.max(1)).zip(x.par_chunks(n.max(1))).enumerate().for_each(|(b, (o, x))| {
        let keep = keep4(words, b as u64 / 4, rate)[b % 4];
        o.iter_mut().zip(x).for_each(|(o, x)| *o = x * keep);
    });
    Ok(())
}

/// The numbers of the samples that [`drop_path`] keeps, in ascending order.
pub fn kept(words: [u32; 2], rate: f32, samples: usize) -> Vec<u32> {
    (0..samples as u32).filter(|&b| keep4(words, u64::from(b) / 4, rate)[b as usize % 4] > 0.0).collect()
}

simd_fn! {
    fn add_scaled(x: &[f32], y: &[f32], scale: f32, out: &mut [f32]) {
        for ((o, x), y) in out.iter_mut().zip(x).zip(y) {
            *o = x + y * scale;
        }
    }
}

/// Computes `out[b] = x[b] + scale y[k]` where `kept[k] = b`, and `x[b]` elsewhere: a residual branch that was computed for the kept
/// samples alone.
///
/// # Errors
/// When the lengths do not fit or the samples do not ascend below `samples`.
pub fn add_kept(x: &[f32], y: &[f32], kept: &[u32], samples: usize, scale: f32, out: &mut [f32]) -> Result<()> {
    let n = x.len() / samples.max(1);
    expect_len("add_kept", "x", x.len(), n * samples)?;
    expect_len("add_kept", "out", out.len(), x.len())?;
    expect_len("add_kept", "y", y.len(), n * kept.len())?;
    crate::tokens::patch::check_ids("add_kept", kept, samples)?;
    if !kept.is_sorted_by(|a, b| a < b) {
        return Err(Error::Value {
            op: "add_kept",
            message: format!("samples {kept:?}, expected ascending numbers below {samples}"),
        });
    }
    out.par_chunks_mut(n.max(1)).zip(x.par_chunks(n.max(1))).enumerate().for_each(|(b, (out, x))| {
        match kept.binary_search(&(b as u32)) {
            Ok(k) => add_scaled(x, &y[k * n..(k + 1) * n], scale, out),
            Err(_) => out.copy_from_slice(x),
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_for_the_kept_samples_alone_is_the_branch_with_dropped_ones_cleared() {
        let (samples, n, words) = (7, 5, [3, 4]);
        let x = crate::check::random("x", samples * n);
        let branch = crate::check::random("b", samples * n);
        let mut dropped = vec![0.0; x.len()];
        drop_path(words, 0.4, samples, &branch, &mut dropped).unwrap();
        let kept = kept(words, 0.4, samples);
        assert!(!kept.is_empty() && kept.len() < samples);
        let some: Vec<f32> = kept.iter().flat_map(|&b| &branch[b as usize * n..][..n]).copied().collect();
        let mut out = vec![0.0; x.len()];
        add_kept(&x, &some, &kept, samples, 1.0 / (1.0 - 0.4), &mut out).unwrap();
        for ((o, x), d) in out.iter().zip(&x).zip(&dropped) {
            assert_eq!(*o, x + d);
        }
        assert!(add_kept(&x, &some, &[9], samples, 1.0, &mut out).is_err());
    }

    #[test]
    fn the_mean_is_kept_and_the_mask_is_the_same_again() {
        let n = 100_003;
        let (x, words) = (vec![1.0; n], crate::Key::new(3).into_words());
        let (mut a, mut b) = (vec![0.0; n], vec![0.0; n]);
        dropout(words, 0.25, &x, &mut a).unwrap();
        dropout(words, 0.25, &x, &mut b).unwrap();
        assert_eq!(a, b);
        let mean = a.iter().sum::<f32>() / n as f32;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        assert!(a.iter().all(|&v| v == 0.0 || (v - 4.0 / 3.0).abs() < 1e-6));
        drop_path(words, 0.5, 1001, &x[..1001 * 7], &mut a[..1001 * 7]).unwrap();
        assert!(a[..1001 * 7].chunks(7).all(|s| s.iter().all(|v| v == &s[0])));
        let kept = a[..1001 * 7].chunks(7).filter(|s| s[0] == 2.0).count();
        assert!((400..600).contains(&kept), "{kept}");
    }

    #[test]
    fn rates_outside_the_range_are_refused() {
        for rate in [-0.1, 1.0, f32::NAN] {
            assert!(dropout([0; 2], rate, &[], &mut []).is_err());
        }
    }
}
