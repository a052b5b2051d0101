//! ReLU, the rectifier `max(x, 0)`, in place.

use crate::base::par::SERIAL;
use crate::base::simd::simd_fn;
use crate::error::{Result, expect_len};
use rayon::prelude::*;

simd_fn! {
    fn relu_body(x: &mut [f32]) {
        for x in x {
            // `max` is not used because it turns NaN into 0; here NaN stays NaN.
            *x = if *x < 0.0 { 0.0 } else { *x };
        }
    }
}

/// Computes `max(x, 0)` in place.
pub fn relu(x: &mut [f32]) {
    x.par_chunks_mut(SERIAL).for_each(relu_body);
}

simd_fn! {
    fn relu_backward_body(y: &[f32], d: &mut [f32]) {
        for (d, y) in d.iter_mut().zip(y) {
            // The comparison is not `> 0`, so that the gradient passes where the value is NaN, as in PyTorch.
            *d = if *y <= 0.0 { 0.0 } else { *d };
        }
    }
}

/// Clears the gradient where the result `y` is 0, in place.
///
/// # Errors
/// When the lengths differ.
pub fn relu_backward(y: &[f32], d: &mut [f32]) -> Result<()> {
    expect_len("relu backward", "y", y.len(), d.len())?;
    let chunk = SERIAL;
    d.par_chunks_mut(chunk).zip(y.par_chunks(chunk)).for_each(|(d, y)| relu_backward_body(y, d));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_stays_and_no_gradient_passes_at_zero() {
        let mut x = [-1.0, 0.0, 2.0, f32::NAN];
        relu(&mut x);
        assert!(x[..3] == [0.0, 0.0, 2.0] && x[3].is_nan());
        let mut d = [1.0; 3];
        relu_backward(&[0.0, 0.0, 2.0], &mut d).unwrap();
        assert_eq!(d, [0.0, 0.0, 1.0], "no gradient at 0");
    }
}
