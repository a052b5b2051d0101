//! Two-dimensional sine-cosine position embeddings, as MAE uses them.

use crate::Result;
use candle_core::Tensor;
use candlelight_autograd::tensor_from;

/// (1, 1 + rows * cols, dim): a zero row for the class token, then the patches row by row. The first half of the width
/// encodes the column, the second the row; each half is `[sin | cos]` of `position * 10000^(-k / (dim/4))`, in f64.
///
/// # Errors
/// When `dim` is not a multiple of 4.
pub fn sincos_2d(dim: usize, rows: usize, cols: usize) -> Result<Tensor> {
    if dim == 0 || dim % 4 != 0 {
        return Err(crate::Error::Config(format!(
            "sin-cos positions need a width that is a multiple of 4, found {dim}"
        )));
    }
    let quarter = dim / 4;
    let mut out = vec![0.0f32; (1 + rows * cols) * dim];
    for (t, row) in out.chunks_exact_mut(dim).skip(1).enumerate() {
        for (half, position) in [(0, t % cols), (1, t / cols)] {
            for k in 0..quarter {
                let angle = position as f64 * 10_000f64.powf(-(k as f64) / quarter as f64);
                row[half * 2 * quarter + k] = angle.sin() as f32;
                row[half * 2 * quarter + quarter + k] = angle.cos() as f32;
            }
        }
    }
    Ok(tensor_from(out, (1, 1 + rows * cols, dim))?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn tables_are_those_of_the_reference() {
        for (dim, side, sum) in [(768, 14, 69_594.493_85), (512, 14, 46_340.333_12), (1280, 16, 149_578.405_77)] {
            let t = super::sincos_2d(dim, side, side).unwrap();
            let v: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
            let got: f64 = v.iter().map(|&x| f64::from(x)).sum();
            assert!((got - sum).abs() < 1e-2, "{dim}: {got}");
            if dim == 768 {
                let row = &v[2 * dim..3 * dim]; // patch (x = 1, y = 0)
                for (i, want) in [
                    (0, 0.841_470_96),
                    (1, 0.815_250_64),
                    (2, 0.788_593_05),
                    (192, 0.540_302_3),
                    (384, 0.0),
                    (576, 1.0),
                ] {
                    assert!((row[i] - want).abs() < 1e-6, "{i}: {}", row[i]);
                }
            }
        }
        assert!(super::sincos_2d(6, 2, 2).is_err());
    }
}
