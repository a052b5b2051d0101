//! PNG, WebP and BMP.

use crate::error::Result;
use crate::image::decode::kind::Kind;
use crate::image::decode::samples::{Model, Samples, Values, check_size};
use crate::image::decode::{Decode, fail};
use image::{DynamicImage, ImageFormat};
use std::io::Cursor;

pub(super) fn decode(kind: Kind, bytes: &[u8], options: &Decode) -> Result<Samples> {
    let format = match kind {
        Kind::Png => ImageFormat::Png,
        Kind::WebP => ImageFormat::WebP,
        _ => ImageFormat::Bmp,
    };
    let reader = || image::ImageReader::with_format(Cursor::new(bytes), format);
    let (w, h) = reader().into_dimensions().map_err(|e| fail(kind, e))?;
    check_size(kind, w.into(), h.into(), options)?;
    if kind == Kind::Png && !bytes.windows(8).any(|w| w == b"IEND\xaeB`\x82") {
        return Err(fail(kind, "the file is truncated, it has no end chunk: copy or download it again"));
    }
    let length = |at: usize| bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    if kind == Kind::WebP && length(4).saturating_add(8) > bytes.len() {
        return Err(fail(kind, "the file is truncated: it is shorter than its header says; copy or download it again"));
    }
    let mut reader = reader();
    let mut allowed = image::Limits::default();
    allowed.max_alloc = Some(options.limits.pixels.saturating_mul(16));
    reader.limits(allowed);
    let image = reader.decode().map_err(|e| fail(kind, e))?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    let (channels, model, values) = match image {
        DynamicImage::ImageLuma8(i) => (1, Model::Gray, Values::U8(i.into_raw())),
        DynamicImage::ImageLumaA8(i) => (2, Model::Gray, Values::U8(i.into_raw())),
        DynamicImage::ImageRgb8(i) => {
            let mut data = i.into_raw();
            if let Some(bits) = short_bits(kind, bytes) {
                as_pillow_widens(&mut data, bits);
            }
            (3, Model::Rgb, Values::U8(data))
        }
        DynamicImage::ImageRgba8(i) => (4, Model::Rgb, Values::U8(i.into_raw())),
        DynamicImage::ImageLuma16(i) => (1, Model::Gray, Values::U16(i.into_raw())),
        DynamicImage::ImageLumaA16(i) => (2, Model::Gray, Values::U16(i.into_raw())),
        DynamicImage::ImageRgb16(i) => (3, Model::Rgb, Values::U16(i.into_raw())),
        DynamicImage::ImageRgba16(i) => (4, Model::Rgb, Values::U16(i.into_raw())),
        other => return Err(fail(kind, format!("samples of the kind {:?}, which is not read", other.color()))),
    };
    Ok(Samples { width, height, channels, model, values })
}

/// Bits of red, green and blue in a bitmap of 16 bits per pixel.
fn short_bits(kind: Kind, bytes: &[u8]) -> Option<[u32; 3]> {
    let number = |at: usize, n: usize| -> Option<u32> {
        Some(bytes.get(at..at + n)?.iter().rev().fold(0, |a, b| a << 8 | u32::from(*b)))
    };
    if kind != Kind::Bmp || number(14, 4)? < 40 || number(28, 2)? != 16 {
        return None;
    }
    match (number(30, 4)?, [number(54, 4)?, number(58, 4)?, number(62, 4)?]) {
        (0, _) => Some([5; 3]),
        (3 | 6, masks) => Some(masks.map(u32::count_ones)),
        _ => None,
    }
}

/// Widens values of few bits as Pillow does, v * 255 / most without a remainder; the decoder rounds instead.
fn as_pillow_widens(data: &mut [u8], bits: [u32; 3]) {
    for p in data.chunks_exact_mut(3) {
        for (v, bits) in p.iter_mut().zip(bits) {
            if (1..8).contains(&bits) {
                let most = (1 << bits) - 1;
                *v = ((u32::from(*v) >> (8 - bits)) * 255 / most) as u8;
            }
        }
    }
}
