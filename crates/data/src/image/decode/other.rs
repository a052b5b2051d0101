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
    let mut reader = reader();
    let mut allowed = image::Limits::default();
    allowed.max_alloc = Some(options.limits.pixels.saturating_mul(16));
    reader.limits(allowed);
    let image = reader.decode().map_err(|e| fail(kind, e))?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    let (channels, model, values) = match image {
        DynamicImage::ImageLuma8(i) => (1, Model::Gray, Values::U8(i.into_raw())),
        DynamicImage::ImageLumaA8(i) => (2, Model::Gray, Values::U8(i.into_raw())),
        DynamicImage::ImageRgb8(i) => (3, Model::Rgb, Values::U8(i.into_raw())),
        DynamicImage::ImageRgba8(i) => (4, Model::Rgb, Values::U8(i.into_raw())),
        DynamicImage::ImageLuma16(i) => (1, Model::Gray, Values::U16(i.into_raw())),
        DynamicImage::ImageLumaA16(i) => (2, Model::Gray, Values::U16(i.into_raw())),
        DynamicImage::ImageRgb16(i) => (3, Model::Rgb, Values::U16(i.into_raw())),
        DynamicImage::ImageRgba16(i) => (4, Model::Rgb, Values::U16(i.into_raw())),
        other => return Err(fail(kind, format!("samples of the kind {:?}, which is not read", other.color()))),
    };
    Ok(Samples { width, height, channels, model, values })
}
