//! What the kernels' tests share: inputs, central differences in f64, comparisons.

use crate::base::cpu::{Level, detected};

/// The levels this CPU has.
pub(crate) fn levels() -> impl Iterator<Item = Level> {
    Level::ALL.into_iter().filter(|&l| l <= detected())
}

/// N(0, 1) values named by what they are for.
pub(crate) fn random(name: &str, n: usize) -> Vec<f32> {
    crate::Key::new(42).child(name).normal(n)
}

pub(crate) fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// Gradient of a scalar function by central differences.
pub(crate) fn finite_difference(x: &[f32], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let x = f64s(x);
    (0..x.len())
        .map(|i| {
            let h = 1e-5 * x[i].abs().max(1.0);
            let (mut lo, mut hi) = (x.clone(), x.clone());
            lo[i] -= h;
            hi[i] += h;
            (f(&hi) - f(&lo)) / (2.0 * h)
        })
        .collect()
}

/// `max |got - want| <= tol * max |want|`.
#[track_caller]
pub(crate) fn close(what: &str, got: &[f32], want: &[f64], tol: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let scale = want.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let d = (f64::from(*g) - w).abs();
        assert!(d <= tol * scale, "{what}[{i}]: {g}, want {w} (off by {d:e}, scale {scale:e})");
    }
}

/// Sum of products in f64: a random projection that turns a vector output into a scalar.
pub(crate) fn dot64(x: &[f64], g: &[f32]) -> f64 {
    x.iter().zip(g).map(|(x, g)| x * f64::from(*g)).sum()
}

/// erf by its series (|x| below 3) or continued fraction.
pub(crate) fn erf64(x: f64) -> f64 {
    let z = x.abs();
    let y = if z < 3.0 {
        let (mut term, mut sum) = (z, z);
        for n in 1..80 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let mut f = 0.0;
        for k in (1..60).rev() {
            f = f64::from(k) * 0.5 / (z + f);
        }
        1.0 - (-z * z).exp() / ((z + f) * std::f64::consts::PI.sqrt())
    };
    y.copysign(x)
}
