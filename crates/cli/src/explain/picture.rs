//! Maps over images, and sheets of them.

use crate::{Result, draw};
use candle_core::{DType, Tensor};
use candlelight_data::{Image, Normalize};
use candlelight_models::explain::Map;

/// The colour of a value from 0 to 1 on the scale from blue over green to red that MATLAB calls jet.
pub fn jet(value: f32) -> [u8; 3] {
    let part = |centre: f32| ((1.5 - (4.0 * value - centre).abs()).clamp(0.0, 1.0) * 255.0).round() as u8;
    [part(3.0), part(2.0), part(1.0)]
}

/// The map in colours over the image, each half, brightened as pytorch-grad-cam does: through the greatest value.
pub fn overlay(image: &Image, map: &Map) -> Image {
    let mut mixed: Vec<f32> = Vec::with_capacity(image.data.len());
    for (pixel, value) in image.data.chunks(3).zip(&map.values) {
        mixed.extend(pixel.iter().zip(jet(*value)).map(|(p, c)| 0.5 * f32::from(*p) + 0.5 * f32::from(c)));
    }
    let most = mixed.iter().copied().fold(1.0, f32::max);
    let mut out = image.clone();
    out.data = mixed.iter().map(|v| (v / most * 255.0).round() as u8).collect();
    out
}

/// An image (C, H, W) as the model sees it, in RGB: without the normalisation. Of other channels than one or three the first is shown.
pub(crate) fn seen(image: &Tensor, normalize: &Normalize) -> Result<Image> {
    let (c, h, w) = image.dims3()?;
    let values: Vec<f32> = image.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let at = |channel: usize, i: usize| {
        let (mean, std) = (normalize.mean[channel], normalize.std[channel]);
        ((values[channel * h * w + i] * std + mean) * 255.0).round().clamp(0.0, 255.0) as u8
    };
    let mut out = Image::filled(w, h, 3, [0; 3]);
    for (i, pixel) in out.data.chunks_mut(3).enumerate() {
        pixel.iter_mut().enumerate().for_each(|(k, p)| *p = at(if c == 3 { k } else { 0 }, i));
    }
    Ok(out)
}

/// A sheet: a row for each image, with its label above it and a column for each method. Small images are enlarged.
pub fn sheet(methods: &[&str], rows: &[(String, Vec<Image>)]) -> Image {
    let (gap, text) = (8, 12);
    let (h, w) = rows.first().and_then(|(_, r)| r.first()).map_or((1, 1), |i| (i.height, i.width));
    let times = 112usize.div_ceil(h.max(w)).max(1);
    let (h, w) = (h * times, w * times);
    let columns = methods.len() + 1;
    let (width, row) = ((w + gap) * columns + gap, h + gap + text);
    let mut out = Image::filled(width.max(8 * 24), row * rows.len() + gap + text, 3, [255; 3]);
    for (i, name) in std::iter::once("image").chain(methods.iter().copied()).enumerate() {
        let fits: String = name.chars().take((w + gap) / 8).collect();
        draw::write(&mut out, gap + (w + gap) * i, gap / 2, &fits, 1, [0; 3]);
    }
    for (j, (label, images)) in rows.iter().enumerate() {
        let y = gap + text + row * j;
        let fits: String = label.chars().take(width / 8 - 1).collect();
        draw::write(&mut out, gap, y, &fits, 1, [90; 3]);
        for (i, image) in images.iter().enumerate() {
            draw::paste(&mut out, &enlarged(image, times), gap + (w + gap) * i, y + text);
        }
    }
    out
}

/// Every pixel as a square of `times` pixels.
fn enlarged(image: &Image, times: usize) -> Image {
    let mut out = Image::filled(image.width * times, image.height * times, 3, [0; 3]);
    for y in 0..out.height {
        for x in 0..out.width {
            let (from, to) = (((y / times) * image.width + x / times) * 3, (y * out.width + x) * 3);
            out.data[to..to + 3].copy_from_slice(&image.data[from..from + 3]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_go_from_blue_over_green_to_red() {
        assert_eq!((jet(0.0), jet(0.5), jet(1.0)), ([0, 0, 128], [128, 255, 128], [128, 0, 0]));
        let image = Image::filled(2, 1, 3, [100; 3]);
        let map = Map { height: 1, width: 2, values: vec![0.0, 1.0] };
        let out = overlay(&image, &map);
        assert_eq!(out.data, [112, 112, 255, 255, 112, 112]);
        let rows = vec![("a: cat 0.90".to_string(), vec![image, out])];
        let s = sheet(&["gradcam"], &rows);
        assert!(s.width > 224 && s.height > 56 && s.data.contains(&0));
    }
}
