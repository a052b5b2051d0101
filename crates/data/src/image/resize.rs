//! Resizing, as Pillow and as OpenCV do it.

use crate::error::{Error, Result};
use crate::image::Image;
use crate::image::ops::Op;
use crate::image::planes::refused;
use candlelight_kernels::image::resize as kernel;
use serde::{Deserialize, Serialize};

/// An interpolation filter with Pillow's antialiasing: stretched by the scale when shrinking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// The pixel under the centre, without antialiasing.
    Nearest,
    /// The mean of the pixels covered.
    Box,
    /// Triangle, support 1.
    Bilinear,
    /// Hamming-windowed sinc, support 1.
    Hamming,
    /// Cubic with a = -0.5, support 2.
    #[default]
    Bicubic,
    /// Lanczos-windowed sinc, support 3.
    Lanczos,
}

impl Filter {
    pub(crate) fn kernel(self) -> Option<kernel::Filter> {
        Some(match self {
            Filter::Nearest => return None,
            Filter::Box => kernel::Filter::Box,
            Filter::Bilinear => kernel::Filter::Bilinear,
            Filter::Hamming => kernel::Filter::Hamming,
            Filter::Bicubic => kernel::Filter::Bicubic,
            Filter::Lanczos => kernel::Filter::Lanczos,
        })
    }
}

/// The whole image at another size: Pillow's `resize(size)`.
///
/// # Errors
/// When a side is 0.
pub fn resize(image: &Image, width: usize, height: usize, filter: Filter) -> Result<Image> {
    if image.values().is_some() {
        return Op::Resize { width, height, filter }.apply(image.clone());
    }
    if (width, height) == (image.width, image.height) {
        return Ok(image.clone());
    }
    let (w, h) = (image.width as f64, image.height as f64);
    resize_box(image, [0.0, 0.0, w, h], width, height, filter)
}

/// A part (left, top, right, bottom), in fractions of pixels, at another size: Pillow's `resize(size, box=...)`. Taps reach
/// outside the part; `crop` then [`resize`] clamps them at its edges instead, which is what RandomResizedCrop does.
///
/// # Errors
/// When the part is not inside the image or a side is 0.
pub fn resize_box(image: &Image, window: [f64; 4], width: usize, height: usize, filter: Filter) -> Result<Image> {
    if image.values().is_some() {
        return Op::ResizeBox { window, width, height, filter }.apply(image.clone());
    }
    let c = image.channels;
    let Some(filter) = filter.kernel() else { return nearest(image, window, width, height) };
    let mut planes = vec![0; width * height * c];
    kernel::resize(&image.view()?, width, height, filter, Some(window), false, &mut planes)?;
    Ok(Image::from_planes(width, height, c, &planes))
}

/// Where `n` output positions fall: `first`, then `step` further each.
pub(crate) fn walked(first: f64, step: f64, n: usize, side: usize) -> Vec<Option<usize>> {
    let mut at = first;
    let one = |_| {
        let inside = at >= 0.0 && at < side as f64;
        let place = inside.then_some(at as usize);
        at += step;
        place
    };
    (0..n).map(one).collect()
}

fn nearest(image: &Image, window: [f64; 4], width: usize, height: usize) -> Result<Image> {
    let (xs, ys) = nearest_places(image.width, image.height, window, width, height)?;
    let c = image.channels;
    let mut data = Vec::with_capacity(width * height * c);
    for y in ys {
        for &x in &xs {
            data.extend_from_slice(&image.data[(y * image.width + x) * c..][..c]);
        }
    }
    Image::new(width, height, c, data)
}

/// The columns and rows that a resize without antialiasing takes.
pub(crate) fn nearest_places(
    w: usize,
    h: usize,
    [left, top, right, bottom]: [f64; 4],
    width: usize,
    height: usize,
) -> Result<(Vec<usize>, Vec<usize>)> {
    let inside = |a: f64, b: f64, side: usize| a >= 0.0 && a < b && b <= side as f64;
    if !inside(left, right, w) || !inside(top, bottom, h) {
        return Err(Error::Config(format!(
            "the window ({left}, {top}, {right}, {bottom}) does not lie inside the image of {w}x{h}"
        )));
    }
    let at = |from: f64, to: f64, n: usize, side: usize| -> Vec<usize> {
        let (from, to) = (from as f32, to as f32);
        let step = f64::from(to - from) / n as f64;
        // The last positions of a long walk may round to just past the end.
        walked(f64::from(from) + step * 0.5, step, n, side).into_iter().map(|p| p.unwrap_or(side - 1)).collect()
    };
    Ok((at(left, right, width, w), at(top, bottom, height, h)))
}

/// OpenCV's `INTER_LINEAR` for bytes: two taps per direction with 11-bit weights and no antialiasing, so that shrinking by
/// more than two skips pixels. It is meant for data prepared with OpenCV; use [`resize`] for everything else.
///
/// # Errors
/// When a side is 0, or the image holds real numbers.
pub fn resize_opencv(image: &Image, width: usize, height: usize) -> Result<Image> {
    if image.values().is_some() {
        return Err(refused("resize_opencv", image));
    }
    // (left tap, its neighbour, weights out of 2048). Past an edge the weights of columns collapse; those of rows do not, and
    // round apart.
    let taps = |input: usize, output: usize, collapse: bool| -> Vec<(usize, usize, i32, i32)> {
        let scale = 1.0 / (output as f64 / input as f64);
        let one = |o: usize| {
            let at = ((o as f64 + 0.5) * scale - 0.5) as f32;
            let (first, last) = (at.floor() as i64, input as i64 - 1);
            let fraction = if collapse && (first < 0 || first >= last) { 0.0 } else { at - at.floor() };
            let weight = |f: f32| (f * 2048.0).round_ties_even() as i32;
            let place = |i: i64| i.clamp(0, last) as usize;
            let next = if fraction == 0.0 && collapse { first } else { first + 1 };
            (place(first), place(next), weight(1.0 - fraction), weight(fraction))
        };
        (0..output).map(one).collect()
    };
    let (xs, ys, c) = (taps(image.width, width, true), taps(image.height, height, false), image.channels);
    let row = |y: usize| -> Vec<i32> {
        let row = &image.data[y * image.width * c..][..image.width * c];
        let value = |x: usize, k: usize| i32::from(row[x * c + k]);
        xs.iter()
            .flat_map(|&(x0, x1, w0, w1)| (0..c).map(move |k| (x0, x1, w0, w1, k)))
            .map(|(x0, x1, w0, w1, k)| value(x0, k) * w0 + value(x1, k) * w1)
            .collect()
    };
    let mut data = Vec::with_capacity(width * height * c);
    for &(y0, y1, w0, w1) in &ys {
        let (a, b) = (row(y0), row(y1));
        data.extend(a.iter().zip(&b).map(|(a, b)| {
            let sum = ((w0 * (a >> 4)) >> 16) + ((w1 * (b >> 4)) >> 16);
            ((sum + 2) >> 2).clamp(0, 255) as u8
        }));
    }
    Image::new(width, height, c, data)
}
