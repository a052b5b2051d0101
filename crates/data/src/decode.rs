//! Bytes to RGB, told apart by content. A truncated file is an error, never a half-gray image.

use crate::dataset::Image;
use crate::error::{Error, Result};
use libjpeg_turbo_rs::common::types::DecodeLimits;
use libjpeg_turbo_rs::{Decoder, PixelFormat};

/// What an image may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most pixels.
    pub pixels: u64,
    /// Most bytes of the encoded file.
    pub bytes: u64,
}

impl Default for Limits {
    /// 64 megapixels, 256 MiB.
    fn default() -> Self {
        Limits { pixels: 64_000_000, bytes: 256 << 20 }
    }
}

/// Decodes a JPEG or PNG to RGB.
///
/// # Errors
/// When the bytes are neither, are damaged or truncated, or the image exceeds the limits.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Image> {
    if bytes.is_empty() {
        return Err(Error::Decode("an empty file".into()));
    }
    if bytes.len() as u64 > limits.bytes {
        return Err(Error::Decode(format!("{} bytes exceed the limit of {}", bytes.len(), limits.bytes)));
    }
    if bytes.starts_with(&[0xff, 0xd8]) {
        jpeg(bytes, limits)
    } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        png(bytes, limits)
    } else {
        Err(Error::Decode("neither JPEG nor PNG".into()))
    }
}

fn jpeg(bytes: &[u8], limits: &Limits) -> Result<Image> {
    let fail = |e: &dyn std::fmt::Display| Error::Decode(format!("JPEG: {e}"));
    let strict =
        DecodeLimits { max_pixels: limits.pixels, max_memory: Some(limits.pixels * 16), ..DecodeLimits::default() };
    let decoder = Decoder::new_with_limits(bytes, strict).map_err(|e| fail(&e))?;
    let image = decoder.with_output_format(PixelFormat::Rgb).decode_image().map_err(|e| fail(&e))?;
    // The decoder fills up a scan whose last bytes are missing; the end marker shows whether they were there.
    let last = |marker: u8| bytes.windows(2).rposition(|w| w == [0xff, marker]);
    if last(0xd9) < last(0xda) {
        return Err(Error::Decode("JPEG: truncated, no end marker".into()));
    }
    Image::new(image.width, image.height, 3, image.data)
}

fn png(bytes: &[u8], limits: &Limits) -> Result<Image> {
    let fail = |e: image::ImageError| Error::Decode(format!("PNG: {e}"));
    let mut reader = image::ImageReader::with_format(std::io::Cursor::new(bytes), image::ImageFormat::Png);
    let mut allowed = image::Limits::default();
    allowed.max_alloc = Some(limits.pixels.saturating_mul(8));
    reader.limits(allowed);
    let (w, h) = image::ImageReader::with_format(std::io::Cursor::new(bytes), image::ImageFormat::Png)
        .into_dimensions()
        .map_err(fail)?;
    if u64::from(w) * u64::from(h) > limits.pixels {
        return Err(Error::Decode(format!("PNG: {w}x{h} pixels exceed the limit of {}", limits.pixels)));
    }
    if !bytes.windows(8).any(|w| w == b"IEND\xaeB`\x82") {
        return Err(Error::Decode("PNG: truncated, no end chunk".into()));
    }
    let rgb = reader.decode().map_err(fail)?.to_rgb8();
    Image::new(rgb.width() as usize, rgb.height() as usize, 3, rgb.into_raw())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample_png(w: u32, h: u32) -> Vec<u8> {
        let image = image::RgbImage::from_fn(w, h, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]));
        let mut out = std::io::Cursor::new(Vec::new());
        image.write_to(&mut out, image::ImageFormat::Png).unwrap();
        out.into_inner()
    }

    pub(crate) fn sample_jpeg(w: usize, h: usize) -> Vec<u8> {
        let pixels: Vec<u8> = (0..w * h * 3).map(|i| (i * 7 % 256) as u8).collect();
        libjpeg_turbo_rs::Encoder::new(&pixels, w, h, PixelFormat::Rgb).quality(90).encode().unwrap()
    }

    #[test]
    fn whole_files_decode_and_every_truncation_is_an_error() {
        for bytes in [sample_png(20, 10), sample_jpeg(20, 10)] {
            let image = decode(&bytes, &Limits::default()).unwrap();
            assert_eq!((image.width, image.height, image.channels), (20, 10, 3));
            for cut in 0..bytes.len() - 2 {
                assert!(decode(&bytes[..cut], &Limits::default()).is_err(), "cut at {cut} of {}", bytes.len());
            }
        }
    }

    #[test]
    fn limits_hold_and_other_bytes_are_refused() {
        let small = Limits { pixels: 100, ..Limits::default() };
        for bytes in [sample_png(20, 10), sample_jpeg(20, 10)] {
            let e = decode(&bytes, &small).unwrap_err().to_string();
            assert!(e.contains("exceed") || e.contains("limit") || e.contains("max"), "{e}");
        }
        assert!(decode(b"GIF89a", &small).unwrap_err().to_string().contains("neither"));
        assert!(decode(&[0; 200], &Limits { bytes: 100, ..small }).unwrap_err().to_string().contains("200 bytes"));
    }
}
