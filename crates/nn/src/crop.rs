//! Regions of images, cut out and resized, with gradients.

use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use candlelight_autograd::{Value, ops};

/// A rectangle of an image. It may reach beyond the image, where there are zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Region {
    /// The number of the image in its batch.
    pub image: usize,
    /// The first row; negative above the image.
    pub top: i64,
    /// The first column; negative to the left of the image.
    pub left: i64,
    /// The row behind the last.
    pub bottom: i64,
    /// The column behind the last.
    pub right: i64,
}

/// Cuts regions out of images (B, C, H, W) and resizes them bilinearly -> (N, C, h, w), as PyTorch's `interpolate` does without antialiasing.
/// With `align_corners` the outermost pixels of both sizes lie upon each other; without it their outermost edges do. Gradients reach the
/// pixels of the images.
///
/// # Errors
/// When the images are no batch, a region is empty or of an image that is not there, there is no region, or a side of the size is 0.
pub fn crop_resize(images: &Value, regions: &[Region], size: (usize, usize), align_corners: bool) -> Result<Value> {
    let (b, c, h, w) = images.dims4()?;
    let refuse = |message: String| Err(Error::Shape { op: "crop_resize", message });
    if regions.is_empty() || size.0 == 0 || size.1 == 0 {
        return refuse(format!(
            "{} regions of {} x {} pixels, expected at least one of each",
            regions.len(),
            size.0,
            size.1
        ));
    }
    let mut all = Vec::with_capacity(regions.len());
    for r in regions {
        if r.image >= b || r.bottom <= r.top || r.right <= r.left {
            return refuse(format!("{r:?} of {b} images, expected one of these and at least one pixel"));
        }
        let (rows, from_row) = weights((r.top, r.bottom), h, size.0, align_corners);
        let (columns, from_column) = weights((r.left, r.right), w, size.1, align_corners);
        let device = images.device();
        if rows.is_empty() || columns.is_empty() {
            let nothing = Tensor::zeros((1, c, size.0, size.1), DType::F32, device)?;
            all.push(images.tape().constant(&nothing));
            continue;
        }
        let constant = |values: Vec<f32>, out: usize| -> Result<Value> {
            let inside = values.len() / out;
            Ok(images.tape().constant(&Tensor::from_vec(values, (out, inside), &Device::Cpu)?.to_device(device)?))
        };
        let (high, wide) = (rows.len() / size.0, columns.len() / size.1);
        let part = images.narrow(0, r.image, 1)?.narrow(2, from_row, high)?.narrow(3, from_column, wide)?;
        let x = constant(rows, size.0)?.matmul(&part)?; // (1, C, h, wide)
        all.push(x.matmul(&constant(columns, size.1)?.transpose(0, 1)?)?); // (1, C, h, w)
    }
    ops::cat(&all, 0)
}

/// The weights (out, inside) of the pixels from `from` to `to` that lie inside of a side of `side` pixels, and the first of these pixels.
fn weights((from, to): (i64, i64), side: usize, out: usize, align_corners: bool) -> (Vec<f32>, usize) {
    let (first, behind) = (from.max(0), to.min(side as i64));
    if behind <= first {
        return (vec![], 0);
    }
    let (n, inside) = ((to - from) as f32, (behind - first) as usize);
    let step = match align_corners {
        true if out > 1 => (n - 1.0) / (out - 1) as f32,
        true => 0.0,
        false => n / out as f32,
    };
    let mut weights = vec![0.0; out * inside];
    for (i, row) in weights.chunks_exact_mut(inside).enumerate() {
        let at = if align_corners { step * i as f32 } else { (step * (i as f32 + 0.5) - 0.5).max(0.0) };
        let low = at.floor().min(n - 1.0);
        let share = at - low;
        for (pixel, weight) in [(low as i64, 1.0 - share), ((low as i64 + 1).min(to - from - 1), share)] {
            if let Some(x) = usize::try_from(from + pixel - first).ok().and_then(|p| row.get_mut(p)) {
                *x += weight;
            }
        }
    }
    (weights, first as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candlelight_autograd::{ParamStore, Tape, tensor_from};

    fn region(top: i64, left: i64, bottom: i64, right: i64) -> Region {
        Region { image: 0, top, left, bottom, right }
    }

    #[test]
    fn a_region_of_its_own_size_is_a_copy_and_zeros_lie_around() {
        let tape = Tape::new(&ParamStore::new());
        let images = tape.constant(&tensor_from((1..=12).map(|i| i as f32).collect(), (1, 1, 3, 4)).unwrap());
        for align in [true, false] {
            let cut = crop_resize(&images, &[region(-1, 1, 2, 4)], (3, 3), align).unwrap();
            assert_eq!(cut.values().unwrap(), [0.0, 0.0, 0.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0]);
            let outside = crop_resize(&images, &[region(-9, 0, -2, 3)], (2, 2), align).unwrap();
            assert_eq!(outside.values().unwrap(), [0.0; 4]);
            let single = crop_resize(&images, &[region(1, 1, 2, 2)], (2, 2), align).unwrap();
            assert_eq!(single.values().unwrap(), [6.0; 4]);
        }
        let wide = crop_resize(&images, &[region(0, 0, 1, 4)], (1, 7), true).unwrap();
        assert_eq!(wide.values().unwrap(), [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]);
        let wide = crop_resize(&images, &[region(0, 0, 1, 2)], (1, 4), false).unwrap();
        assert_eq!(wide.values().unwrap(), [1.0, 1.25, 1.75, 2.0]);
    }

    #[test]
    fn what_is_no_region_is_refused() {
        let images = Tape::off().constant(&tensor_from(vec![0.0; 12], (1, 1, 3, 4)).unwrap());
        let text = |regions: &[Region], size| crop_resize(&images, regions, size, true).unwrap_err().to_string();
        assert!(text(&[], (2, 2)).contains("0 regions"));
        assert!(text(&[region(0, 0, 1, 1)], (0, 2)).contains("0 x 2"));
        assert!(text(&[region(1, 0, 1, 1)], (2, 2)).contains("at least one pixel"));
        assert!(text(&[Region { image: 1, ..region(0, 0, 1, 1) }], (2, 2)).contains("of 1 images"));
    }
}
