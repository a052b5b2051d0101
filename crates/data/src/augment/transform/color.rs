//! Changes of the pixels' values: colour, blur, noise and erased squares.

use crate::error::Result;
use crate::image::{Draw, Image, Op};
use candlelight_kernels::Key;

pub(super) fn jitter(
    image: Image,
    brightness: f64,
    contrast: f64,
    saturation: f64,
    hue: f64,
    d: &mut Draw,
) -> Result<Image> {
    let factor = |d: &mut Draw, x: f64| d.between((1.0 - x).max(0.0), 1.0 + x);
    let mut ops = vec![];
    if brightness > 0.0 {
        ops.push(Op::Brightness { factor: factor(d, brightness) });
    }
    if contrast > 0.0 {
        ops.push(Op::Contrast { factor: factor(d, contrast) });
    }
    if saturation > 0.0 {
        ops.push(Op::Color { factor: factor(d, saturation) });
    }
    if hue > 0.0 {
        ops.push(Op::Hue { shift: d.between(-hue, hue) });
    }
    for i in (1..ops.len()).rev() {
        ops.swap(i, d.below(i + 1));
    }
    ops.into_iter().try_fold(image, |image, op| op.apply(image))
}

pub(super) fn blur(image: Image, sigma: (f64, f64), d: &mut Draw) -> Result<Image> {
    Op::GaussianBlur { radius: d.between(sigma.0, sigma.1) }.apply(image)
}

pub(super) fn noise(mut image: Image, std: f64, key: Key) -> Image {
    let noise = key.normal_serial(image.data.len());
    for (v, n) in image.data.iter_mut().zip(noise) {
        *v = (f32::from(*v) + n * (std * 255.0) as f32).round().clamp(0.0, 255.0) as u8;
    }
    image
}

pub(super) fn cutout(mut image: Image, count: usize, length: usize, fill: [u8; 3], d: &mut Draw) -> Image {
    let (w, h) = (image.width, image.height);
    let hole = Image::filled(1, 1, image.channels, fill).data;
    for _ in 0..count {
        let (cy, cx) = (d.below(h), d.below(w));
        let span = |c: usize, n: usize| c.saturating_sub(length / 2)..(c + length.div_ceil(2)).min(n);
        for y in span(cy, h) {
            for x in span(cx, w) {
                image.data[(y * w + x) * hole.len()..][..hole.len()].copy_from_slice(&hole);
            }
        }
    }
    image
}
