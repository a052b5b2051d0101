//! Softmax cross-entropy with its gradient: class indices (with label smoothing) or soft targets, with the mean over the batch.

use crate::base::simd::{exp, simd_fn, sum};
use crate::error::{Error, Result, expect_len};
use rayon::prelude::*;

simd_fn! {
    /// Writes exp(x - max) to `d`; returns (max, sum).
    fn softmax_parts(x: &[f32], d: &mut [f32]) -> (f32, f32) {
        let mut m = f32::NEG_INFINITY;
        for &v in x {
            m = if v > m { v } else { m };
        }
        for (d, v) in d.iter_mut().zip(x) {
            *d = exp(v - m);
        }
        (m, sum(d))
    }
}

/// Mean cross-entropy of logits (B, K) with one class index per sample; `dlogits` receives its gradient. With smoothing s
/// the target is `(1 - s) onehot + s / K`.
///
/// # Errors
/// When the lengths do not fit, a label is past the last class or the smoothing is outside [0, 1].
pub fn cross_entropy(logits: &[f32], labels: &[u32], smoothing: f32, dlogits: &mut [f32]) -> Result<f32> {
    let classes = logits.len() / labels.len().max(1);
    expect_len("cross_entropy", "logits", logits.len(), labels.len() * classes)?;
    crate::tokens::patch::check_ids("cross_entropy label", labels, classes)?;
    if !(0.0..=1.0).contains(&smoothing) {
        return Err(Error::Value { op: "cross_entropy", message: format!("smoothing {smoothing} is outside [0, 1]") });
    }
    let off = smoothing / classes as f32;
    rows(logits, labels.len(), dlogits, |row, k| off + if labels[row] as usize == k { 1.0 - smoothing } else { 0.0 })
}

/// Mean cross-entropy of logits (B, K) with soft targets (B, K): `-sum(t log softmax(x))`; `dlogits` receives its gradient.
///
/// # Errors
/// When the lengths do not fit.
pub fn soft_cross_entropy(logits: &[f32], targets: &[f32], batch: usize, dlogits: &mut [f32]) -> Result<f32> {
    expect_len("soft_cross_entropy", "targets", targets.len(), logits.len())?;
    let classes = logits.len() / batch.max(1);
    rows(logits, batch, dlogits, |row, k| targets[row * classes + k])
}

fn rows(logits: &[f32], batch: usize, d: &mut [f32], target: impl Fn(usize, usize) -> f32 + Sync) -> Result<f32> {
    let classes = logits.len() / batch.max(1);
    expect_len("cross_entropy", "logits", logits.len(), batch * classes)?;
    expect_len("cross_entropy", "dlogits", d.len(), logits.len())?;
    if batch == 0 || classes == 0 {
        return Err(Error::Value { op: "cross_entropy", message: "an empty batch".into() });
    }
    let losses: Vec<f64> = d
        .par_chunks_mut(classes)
        .zip(logits.par_chunks(classes))
        .enumerate()
        .with_min_len(8)
        .map(|(row, (d, x))| {
            let (max, sum) = softmax_parts(x, d);
            let log_sum = f64::from(max) + f64::from(sum).ln();
            let (mut loss, mut mass) = (0.0, 0.0);
            for (k, v) in x.iter().enumerate() {
                let t = f64::from(target(row, k));
                // A class with target 0 does not contribute to the loss, even if it is masked by a logit of -inf.
                if t != 0.0 {
                    loss += t * (log_sum - f64::from(*v));
                }
                mass += t;
            }
            let p = (mass / f64::from(sum)) as f32;
            for (k, d) in d.iter_mut().enumerate() {
                *d = (*d * p - target(row, k)) / batch as f32;
            }
            loss
        })
        .collect();
    Ok((losses.into_iter().sum::<f64>() / batch as f64) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu::with_level;
    use crate::check::{close, f64s, finite_difference, levels, random};

    fn reference(x: &[f64], t: &[f64], b: usize) -> f64 {
        let k = x.len() / b;
        x.chunks(k)
            .zip(t.chunks(k))
            .map(|(x, t)| {
                let lse = x.iter().map(|v| v.exp()).sum::<f64>().ln();
                x.iter().zip(t).map(|(x, t)| t * (lse - x)).sum::<f64>()
            })
            .sum::<f64>()
            / b as f64
    }

    #[test]
    fn losses_and_gradients_agree_with_f64() {
        let (b, k) = (5, 19);
        let x = random("x", b * k);
        let labels: Vec<u32> = (0..b as u32).map(|i| i * 3 % k as u32).collect();
        let hard: Vec<f64> =
            (0..b * k).map(|i| 0.1 / k as f64 + if labels[i / k] as usize == i % k { 0.9 } else { 0.0 }).collect();
        let soft: Vec<f32> = random("t", b * k).iter().map(|v| v.abs()).collect();
        for lv in levels() {
            with_level(lv, || {
                let mut d = vec![0.0; x.len()];
                let loss = cross_entropy(&x, &labels, 0.1, &mut d).unwrap();
                close("loss", &[loss], &[reference(&f64s(&x), &hard, b)], 1e-6);
                close("d", &d, &finite_difference(&x, |x| reference(x, &hard, b)), 1e-5);
                let loss = soft_cross_entropy(&x, &soft, b, &mut d).unwrap();
                close("soft loss", &[loss], &[reference(&f64s(&x), &f64s(&soft), b)], 1e-6);
                close("soft d", &d, &finite_difference(&x, |x| reference(x, &f64s(&soft), b)), 1e-5);
            });
        }
    }

    #[test]
    fn a_masked_class_takes_no_part() {
        let mut d = vec![0.0; 3];
        let loss = cross_entropy(&[1.0, f32::NEG_INFINITY, 1.0], &[2], 0.0, &mut d).unwrap();
        assert!((loss - 2f32.ln()).abs() < 1e-6 && d == [0.5, 0.0, -0.5], "{loss} {d:?}");
        let loss = soft_cross_entropy(&[1.0, f32::NEG_INFINITY, 1.0], &[0.5, 0.0, 0.5], 1, &mut d).unwrap();
        assert!((loss - 2f32.ln()).abs() < 1e-6 && d == [0.0; 3], "{loss} {d:?}");
        // A masked class that is the target: an infinite loss, as PyTorch says.
        assert_eq!(cross_entropy(&[1.0, f32::NEG_INFINITY], &[1], 0.0, &mut d[..2]).unwrap(), f32::INFINITY);
    }

    #[test]
    fn large_logits_stay_finite_and_bad_labels_are_named() {
        let mut d = vec![0.0; 3];
        let loss = cross_entropy(&[1e4, -1e4, 0.0], &[1], 0.0, &mut d).unwrap();
        assert!((loss - 2e4).abs() < 1.0 && d.iter().all(|v| v.is_finite()));
        let e = cross_entropy(&[0.0; 3], &[3], 0.0, &mut d).unwrap_err().to_string();
        assert!(e.contains("index 3"), "{e}");
    }
}
