//! How far a map can be trusted.

use super::{Map, probabilities};
use crate::error::{Error, Result};
use crate::model::Classifier;
use candle_core::{DType, Tensor};
use serde::Serialize;

/// Deletion and insertion, V. Petsiuk et al., RISE, arXiv 1806.07421.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Faithful {
    /// The area under the probabilities while the pixels of the highest values turn gray; lower is better.
    pub deletion: f32,
    /// The area under the probabilities while these pixels appear in a blurred image; higher is better.
    pub insertion: f32,
    /// The probabilities of deletion.
    pub deleted: Vec<f32>,
    /// The probabilities of insertion.
    pub inserted: Vec<f32>,
}

/// Judges a map of an image (C, H, W) by the class's probability, in so many steps. The map must be of the image's size.
///
/// # Errors
/// When the sizes differ or there are no steps.
pub fn faithful(
    model: &dyn Classifier,
    image: &Tensor,
    map: &Map,
    class: usize,
    steps: usize,
    batch: usize,
) -> Result<Faithful> {
    let (c, h, w) = image.dims3()?;
    if (map.height, map.width) != (h, w) || steps == 0 {
        return Err(Error::Config(format!(
            "a map of {}x{} for an image of {h}x{w}, in {steps} steps: expected one of its size, and at least a step",
            map.height, map.width
        )));
    }
    let pixels: Vec<f32> = image.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let blurred: Vec<f32> = pixels.chunks(h * w).flat_map(|plane| blur(plane, h, w)).collect();
    let mut order: Vec<usize> = (0..h * w).collect();
    order.sort_by(|a, b| map.values[*b].total_cmp(&map.values[*a]).then(a.cmp(b)));
    let curve = |start: &[f32], end: &dyn Fn(usize) -> f32| {
        let mut all = vec![];
        for step in 0..=steps {
            let mut x = start.to_vec();
            for at in &order[..h * w * step / steps] {
                (0..c).map(|k| k * h * w + at).for_each(|i| x[i] = end(i));
            }
            all.extend(x);
        }
        probabilities(model, &Tensor::from_vec(all, (steps + 1, c, h, w), image.device())?, class, batch.max(1))
    };
    let (deleted, inserted) = (curve(&pixels, &|_| 0.0)?, curve(&blurred, &|i| pixels[i])?);
    Ok(Faithful { deletion: area(&deleted), insertion: area(&inserted), deleted, inserted })
}

/// The area under values of equal distance, on an axis from 0 to 1.
fn area(values: &[f32]) -> f32 {
    let ends = (values[0] + values[values.len() - 1]) / 2.0;
    (values.iter().sum::<f32>() - ends) / (values.len() - 1) as f32
}

/// A plane under a Gaussian of deviation 5 in a window of 11 pixels, whose border is repeated outwards.
fn blur(plane: &[f32], h: usize, w: usize) -> Vec<f32> {
    let weights: Vec<f64> = (-5i32..=5).map(|d| (-f64::from(d * d) / 50.0).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let near = |i: usize, d: usize, len: usize| (i + d).saturating_sub(5).min(len - 1);
    let pass = |from: &[f64], along: &dyn Fn(usize, usize, usize) -> usize| -> Vec<f64> {
        let value = |i: usize| (0..11).map(|d| weights[d] * from[along(i / w, i % w, d)]).sum::<f64>() / sum;
        (0..h * w).map(value).collect()
    };
    let wide: Vec<f64> = plane.iter().map(|v| f64::from(*v)).collect();
    let rows = pass(&wide, &|y, x, d| y * w + near(x, d, w));
    pass(&rows, &|y, x, d| near(y, d, h) * w + x).into_iter().map(|v| v as f32).collect()
}
