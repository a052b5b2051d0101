//! Maps over the places of an image.

use crate::error::Result;
use candle_core::{DType, Tensor};
use serde::Serialize;

/// A value for each place of an image, row by row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Map {
    /// The number of rows.
    pub height: usize,
    /// The number of columns.
    pub width: usize,
    /// The values.
    pub values: Vec<f32>,
}

impl Map {
    /// The map of a tensor (H, W).
    ///
    /// # Errors
    /// When it has another rank.
    pub fn of(t: &Tensor) -> Result<Self> {
        let (height, width) = t.dims2()?;
        Ok(Map { height, width, values: t.to_dtype(DType::F32)?.flatten_all()?.to_vec1()? })
    }

    /// From 0 to 1: less the smallest value, through 1e-7 more than the greatest one, as in pytorch-grad-cam.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        let min = self.values.iter().copied().fold(f32::INFINITY, f32::min);
        self.values.iter_mut().for_each(|v| *v -= min);
        let max = self.values.iter().copied().fold(0f32, f32::max);
        self.values.iter_mut().for_each(|v| *v /= 1e-7 + max);
        self
    }

    /// Without what is below 0.
    #[must_use]
    pub(super) fn positive(mut self) -> Self {
        self.values.iter_mut().for_each(|v| *v = v.max(0.0));
        self
    }

    /// The map in another size, by bilinear interpolation: between the centres of places as OpenCV does, or with `corners` between the
    /// centres of the corners.
    #[must_use]
    pub fn resized(&self, height: usize, width: usize, corners: bool) -> Self {
        let (rows, columns) = (along(self.height, height, corners), along(self.width, width, corners));
        let at = |y: usize, x: usize| f64::from(self.values[y * self.width + x]);
        let value = |(y0, y1, fy): (usize, usize, f64), (x0, x1, fx): (usize, usize, f64)| {
            let (top, bottom) = (at(y0, x0) * (1.0 - fx) + at(y0, x1) * fx, at(y1, x0) * (1.0 - fx) + at(y1, x1) * fx);
            (top * (1.0 - fy) + bottom * fy) as f32
        };
        let values = rows.iter().flat_map(|y| columns.iter().map(|x| value(*y, *x))).collect();
        Map { height, width, values }
    }
}

/// For each place of an axis the two places that it lies between on the old one, and the share of the second.
fn along(from: usize, to: usize, corners: bool) -> Vec<(usize, usize, f64)> {
    let place = |i: usize| {
        let x = match corners {
            true if to > 1 => i as f64 * (from - 1) as f64 / (to - 1) as f64,
            true => 0.0,
            false => (i as f64 + 0.5) * from as f64 / to as f64 - 0.5,
        };
        let x = x.clamp(0.0, (from - 1) as f64);
        let low = x.floor() as usize;
        (low, (low + 1).min(from - 1), x - low as f64)
    };
    (0..to).map(place).collect()
}
