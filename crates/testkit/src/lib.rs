//! What the tests of candlelight share: slices and tolerances. A development dependency of the other crates, never published.

#![warn(missing_docs)]

/// Asserts `|got - want| <= tol * max(max |want|, 1e-3)` for every entry; names the first that is not.
///
/// # Panics
/// When the lengths differ or an entry is off.
#[track_caller]
pub fn close<W: Copy + Into<f64>>(what: &str, got: &[f32], want: &[W], tol: f64) {
    within(what, got, want, tol, 1e-3);
}

/// [`close`] with a scale of at least `floor`: 0 where small values count as much as large ones.
///
/// # Panics
/// When the lengths differ or an entry is off.
#[track_caller]
pub fn within<W: Copy + Into<f64>>(what: &str, got: &[f32], want: &[W], tol: f64, floor: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let scale = want.iter().fold(floor, |m, w| m.max((*w).into().abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let w: f64 = (*w).into();
        let off = (f64::from(*g) - w).abs();
        // Not `off > ..`: a NaN is off too.
        assert!(off <= tol * scale, "{what}[{i}]: {g}, want {w} (off by {off:e}, scale {scale:e})");
    }
}

/// The same numbers in f64.
pub fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// The gradient of a scalar function by central differences.
pub fn finite_difference(x: &[f32], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let x = f64s(x);
    let entry = |i: usize| {
        let h = 1e-5 * x[i].abs().max(1.0);
        let (mut lo, mut hi) = (x.clone(), x.clone());
        lo[i] -= h;
        hi[i] += h;
        (f(&hi) - f(&lo)) / (2.0 * h)
    };
    (0..x.len()).map(entry).collect()
}

/// The sum of products in f64: a projection that turns a vector into a number.
pub fn dot64(x: &[f64], g: &[f32]) -> f64 {
    x.iter().zip(g).map(|(x, g)| x * f64::from(*g)).sum()
}

/// The error function, by its series below 3 and a continued fraction above.
pub fn erf64(x: f64) -> f64 {
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

/// The values of a tensor in order, whatever its shape and type.
///
/// # Panics
/// When candle cannot read it.
#[cfg(feature = "tensors")]
pub fn values(t: &candle_core::Tensor) -> Vec<f32> {
    let read = || t.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1();
    read().unwrap_or_else(|e: candle_core::Error| panic!("a tensor of shape {:?}: {e}", t.dims()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_off_is_named() {
        within("equal", &[1.0, 0.0], &[1.0f32, 0.0], 0.0, 0.0);
        close("near", &[1.0], &[1.0001f64], 1e-3);
        for bad in [[1.1f32, 2.0], [f32::NAN, 2.0]] {
            let failed = std::panic::catch_unwind(|| close("x", &bad, &[1.0f32, 2.0], 1e-3)).unwrap_err();
            assert!(failed.downcast_ref::<String>().is_some_and(|m| m.starts_with("x[0]: ")));
        }
        assert_eq!(finite_difference(&[3.0], |x| x[0] * x[0])[0].round(), 6.0);
        assert!((erf64(1.0) - 0.842_700_792_949_714_9).abs() < 1e-14 && (erf64(-4.0) + 1.0).abs() < 2e-8);
        assert_eq!(dot64(&f64s(&[1.0, 2.0]), &[3.0, 4.0]), 11.0);
    }
}
