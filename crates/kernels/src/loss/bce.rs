//! Binary cross-entropy on logits with its gradient.

use crate::error::{Error, Result, expect_len};
use rayon::prelude::*;

/// Binary cross-entropy of logits (B, K) with targets (B, K) from 0 to 1, `max(x, 0) - x t + ln(1 + exp(-|x|))`: the mean over
/// all entries, or with `sum_classes` the sum over classes and the mean over the batch; `dlogits` receives its gradient.
///
/// # Errors
/// When the lengths do not fit.
pub fn binary_cross_entropy(
    logits: &[f32],
    targets: &[f32],
    batch: usize,
    sum_classes: bool,
    dlogits: &mut [f32],
) -> Result<f32> {
    let classes = logits.len() / batch.max(1);
    expect_len("binary_cross_entropy", "logits", logits.len(), batch * classes)?;
    expect_len("binary_cross_entropy", "targets", targets.len(), logits.len())?;
    expect_len("binary_cross_entropy", "dlogits", dlogits.len(), logits.len())?;
    if logits.is_empty() {
        return Err(Error::Value { op: "binary_cross_entropy", message: "an empty batch".into() });
    }
    let over = if sum_classes { batch } else { logits.len() } as f64;
    let losses: Vec<f64> = dlogits
        .par_chunks_mut(classes)
        .zip(logits.par_chunks(classes))
        .zip(targets.par_chunks(classes))
        .with_min_len(8)
        .map(|((d, x), t)| {
            let mut loss = 0.0;
            for ((d, x), t) in d.iter_mut().zip(x).zip(t) {
                let (x, t) = (f64::from(*x), f64::from(*t));
                let e = (-x.abs()).exp();
                loss += x.max(0.0) - x * t + e.ln_1p();
                let p = if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) };
                *d = ((p - t) / over) as f32;
            }
            loss
        })
        .collect();
    Ok((losses.into_iter().sum::<f64>() / over) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, f64s, finite_difference, random};

    #[test]
    fn binary_losses_and_gradients_agree_with_f64() {
        let (b, k) = (4, 7);
        let x: Vec<f32> = random("x", b * k).iter().map(|v| v * 3.0).collect();
        let t: Vec<f32> = random("t", b * k).iter().map(|v| v.abs().min(1.0)).collect();
        for (sum, over) in [(false, (b * k) as f64), (true, b as f64)] {
            let reference = |x: &[f64]| {
                let one = |(x, t): (&f64, &f32)| {
                    let p = 1.0 / (1.0 + (-x).exp());
                    -(f64::from(*t) * p.ln() + (1.0 - f64::from(*t)) * (1.0 - p).ln())
                };
                x.iter().zip(&t).map(one).sum::<f64>() / over
            };
            let mut d = vec![0.0; x.len()];
            let loss = binary_cross_entropy(&x, &t, b, sum, &mut d).unwrap();
            close("loss", &[loss], &[reference(&f64s(&x))], 1e-6);
            close("d", &d, &finite_difference(&x, reference), 1e-5);
        }
        let mut d = [0.0; 2];
        let far = binary_cross_entropy(&[1e4, -1e4], &[0.0, 1.0], 1, false, &mut d).unwrap();
        assert!((far - 1e4).abs() < 1.0 && d == [0.5, -0.5]);
        assert!(binary_cross_entropy(&[1.0], &[0.0, 1.0], 1, false, &mut d).is_err());
    }
}
