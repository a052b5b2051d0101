//! Two-dimensional position embeddings: MAE's fixed sine-cosine tables, and resizing learnt ones to another grid.

use crate::Result;
use candle_core::Tensor;
use candlelight_autograd::tensor_from;

/// MAE's fixed table (1, 1 + rows * cols, dim): a row of zeros for the class token, then one row per patch, in image order. The first half
/// of the width encodes the column, the second half the row; each half is `[sin | cos]` of `position * 10000^(-k / (dim/4))`, in f64.
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

/// How position embeddings are resized to another grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// As facebookresearch/mae: bicubic with a = -0.75, without antialiasing.
    #[default]
    Mae,
    /// As timm: bicubic with a = -0.5 and antialiasing.
    Timm,
}

/// Resizes position embeddings (1, prefix + L, D) from the grid `from` to the grid `to`, each (rows, columns). The first `prefix` rows,
/// such as that of the class token, stay as they are.
///
/// # Errors
/// When the table does not fit the grid `from`.
pub fn resample(
    table: &Tensor,
    from: (usize, usize),
    to: (usize, usize),
    prefix: usize,
    how: Interpolation,
) -> Result<Tensor> {
    let (_, n, dim) = table.dims3()?;
    if n != prefix + from.0 * from.1 || to.0 == 0 || to.1 == 0 {
        let ((h, w), (th, tw)) = (from, to);
        return Err(crate::Error::Config(format!(
            "pos_embed has {n} rows, expected {prefix} + {h} x {w} to bring to {th} x {tw}"
        )));
    }
    if from == to {
        return Ok(table.clone());
    }
    let values: Vec<f32> = table.flatten_all()?.to_vec1()?;
    let (head, grid) = values.split_at(prefix * dim);
    let (rows, cols) = (taps(from.0, to.0, how), taps(from.1, to.1, how));
    let mut across = vec![0.0f64; from.0 * to.1 * dim]; // (rows, new columns, D)
    for y in 0..from.0 {
        for (x, taps) in cols.iter().enumerate() {
            let out = &mut across[(y * to.1 + x) * dim..][..dim];
            for &(i, w) in taps {
                let source = &grid[(y * from.1 + i) * dim..][..dim];
                out.iter_mut().zip(source).for_each(|(o, v)| *o += w * f64::from(*v));
            }
        }
    }
    let mut out = head.to_vec();
    for taps in &rows {
        for x in 0..to.1 {
            let mut sum = vec![0.0f64; dim];
            for &(i, w) in taps {
                let source = &across[(i * to.1 + x) * dim..][..dim];
                sum.iter_mut().zip(source).for_each(|(o, v)| *o += w * v);
            }
            out.extend(sum.into_iter().map(|v| v as f32));
        }
    }
    Ok(tensor_from(out, (1, prefix + to.0 * to.1, dim))?)
}

/// For each output position: (input position, weight).
fn taps(input: usize, output: usize, how: Interpolation) -> Vec<Vec<(usize, f64)>> {
    let cubic = |x: f64, a: f64| {
        let x = x.abs();
        if x < 1.0 {
            ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
        } else if x < 2.0 {
            (((x - 5.0) * x + 8.0) * x - 4.0) * a
        } else {
            0.0
        }
    };
    let scale = input as f64 / output as f64;
    let one = |o: usize| match how {
        Interpolation::Mae => {
            let at = (o as f64 + 0.5) * scale - 0.5;
            let first = at.floor();
            let tap = |k: i64| {
                let i = (first as i64 + k).clamp(0, input as i64 - 1) as usize;
                (i, cubic(at - first - k as f64, -0.75))
            };
            (-1..3).map(tap).collect()
        }
        Interpolation::Timm => {
            let (center, stretch) = ((o as f64 + 0.5) * scale, scale.max(1.0));
            let first = ((center - 2.0 * stretch + 0.5) as i64).max(0) as usize;
            let last = ((center + 2.0 * stretch + 0.5) as usize).min(input);
            let weights: Vec<f64> = (first..last).map(|i| cubic((i as f64 - center + 0.5) / stretch, -0.5)).collect();
            let sum: f64 = weights.iter().sum();
            (first..last).zip(weights).map(|(i, w)| (i, w / sum)).collect()
        }
    };
    (0..output).map(one).collect()
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
