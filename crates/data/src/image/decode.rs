//! Decoding: from the bytes of a file to pixels. The content tells the format. A truncated file is an error, never a
//! half-gray image, unless that is asked for.

use crate::error::{Error, Result};
use crate::image::Image;
use crate::image::ops::Op;
use image::metadata::Orientation;
use image::{DynamicImage, ImageFormat};
use libjpeg_turbo_rs::common::types::DecodeLimits;
use libjpeg_turbo_rs::{Decoder, PixelFormat};
use std::io::Cursor;

/// The largest image that is decoded.
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

/// How images are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decode {
    /// The largest image that is decoded.
    pub limits: Limits,
    /// Whether JPEGs whose end is missing are accepted; the missing part is gray.
    pub truncated: bool,
    /// Whether the picture is turned as its EXIF orientation says. torchvision and timm do not turn it.
    pub orientation: bool,
}

fn fail(format: &str, e: impl std::fmt::Display) -> Error {
    Error::Decode(format!("{format}: {e}"))
}

/// Decodes JPEG, PNG, WebP, BMP or GIF (the first frame) to RGB. Alpha is dropped, as Pillow's `convert("RGB")`
/// drops it. 16-bit values keep their high byte; Pillow clips those of gray images instead, which leaves little but white.
///
/// # Errors
/// When the bytes are none of these, are damaged or truncated, or the image exceeds the limits.
pub fn decode(bytes: &[u8], options: &Decode) -> Result<Image> {
    let limits = &options.limits;
    if bytes.is_empty() {
        return Err(Error::Decode("the file is empty".into()));
    }
    if bytes.len() as u64 > limits.bytes {
        return Err(Error::Decode(format!(
            "the file has {} bytes, which exceed the limit of {}",
            bytes.len(),
            limits.bytes
        )));
    }
    // Decoders are other people's code; what makes one of them panic is a damaged file.
    let decoded = std::panic::catch_unwind(|| {
        if bytes.starts_with(&[0xff, 0xd8]) { jpeg(bytes, options) } else { other(bytes, limits) }
    });
    let (image, exif) =
        decoded.unwrap_or_else(|_| Err(Error::Decode("the file is damaged: the decoder panicked".into())))?;
    match exif.and_then(|e| Orientation::from_exif_chunk(&e)) {
        Some(o) if options.orientation => turned(image, o),
        _ => Ok(image),
    }
}

type Decoded = (Image, Option<Vec<u8>>);

fn jpeg(bytes: &[u8], options: &Decode) -> Result<Decoded> {
    let pixels = options.limits.pixels;
    let strict = DecodeLimits { max_pixels: pixels, max_memory: Some(pixels * 16), ..DecodeLimits::default() };
    let decoder = Decoder::new_with_limits(bytes, strict).map_err(|e| fail("JPEG", e))?;
    let four = decoder.header().components.len() == 4;
    let format = if four { PixelFormat::Cmyk } else { PixelFormat::Rgb };
    let decoder = decoder.with_output_format(format).with_lenient(options.truncated);
    let image = decoder.decode_image().map_err(|e| fail("JPEG", e))?;
    // The decoder fills up a scan whose last bytes are missing; the end marker shows whether they were there.
    let last = |marker: u8| bytes.windows(2).rposition(|w| w == [0xff, marker]);
    if !options.truncated && !bytes.ends_with(&[0xff, 0xd9]) && last(0xd9) < last(0xda) {
        return Err(Error::Decode("JPEG: the file is truncated, it has no end marker".into()));
    }
    let data = if four { from_inverted_cmyk(&image.data) } else { image.data };
    Ok((Image::new(image.width, image.height, 3, data)?, image.exif_data))
}

/// Pillow's conversion, which assumes Adobe's convention that ink is stored as 255 minus its amount.
fn from_inverted_cmyk(data: &[u8]) -> Vec<u8> {
    let times = |a: u32, b: u32| {
        let t = a * b + 128;
        ((t >> 8) + t) >> 8
    };
    let rgb = |p: &[u8]| -> [u8; 3] {
        let light = u32::from(p[3]);
        [0, 1, 2].map(|c| light.saturating_sub(times(255 - u32::from(p[c]), light)) as u8)
    };
    data.chunks_exact(4).flat_map(rgb).collect()
}

fn other(bytes: &[u8], limits: &Limits) -> Result<Decoded> {
    let (format, name) = match image::guess_format(bytes) {
        Ok(f @ ImageFormat::Png) => (f, "PNG"),
        Ok(f @ ImageFormat::WebP) => (f, "WebP"),
        Ok(f @ ImageFormat::Bmp) => (f, "BMP"),
        Ok(f @ ImageFormat::Gif) => (f, "GIF"),
        _ => return Err(Error::Decode("not a JPEG, PNG, WebP, BMP or GIF".into())),
    };
    let reader = || image::ImageReader::with_format(Cursor::new(bytes), format);
    let (w, h) = reader().into_dimensions().map_err(|e| fail(name, e))?;
    if u64::from(w) * u64::from(h) > limits.pixels {
        return Err(fail(name, format!("{w}x{h} pixels exceed the limit of {} pixels", limits.pixels)));
    }
    if format == ImageFormat::Png && !bytes.windows(8).any(|w| w == b"IEND\xaeB`\x82") {
        return Err(fail(name, "the file is truncated, it has no end chunk"));
    }
    let mut reader = reader();
    let mut allowed = image::Limits::default();
    allowed.max_alloc = Some(limits.pixels.saturating_mul(16));
    reader.limits(allowed);
    let mut decoder = reader.into_decoder().map_err(|e| fail(name, e))?;
    let exif = image::ImageDecoder::exif_metadata(&mut decoder).ok().flatten();
    let image = DynamicImage::from_decoder(decoder).map_err(|e| fail(name, e))?;
    let high = |data: &[u16], channels: usize| -> Vec<u8> {
        let byte = |v: &u16| (v >> 8) as u8;
        match channels {
            1 | 2 => data.chunks_exact(channels).flat_map(|p| [byte(&p[0]); 3]).collect(),
            _ => data.chunks_exact(channels).flat_map(|p| [byte(&p[0]), byte(&p[1]), byte(&p[2])]).collect(),
        }
    };
    let data = match &image {
        DynamicImage::ImageLuma16(i) => high(i, 1),
        DynamicImage::ImageLumaA16(i) => high(i, 2),
        DynamicImage::ImageRgb16(i) => high(i, 3),
        DynamicImage::ImageRgba16(i) => high(i, 4),
        _ => image.to_rgb8().into_raw(),
    };
    Ok((Image::new(w as usize, h as usize, 3, data)?, exif))
}

fn turned(image: Image, orientation: Orientation) -> Result<Image> {
    let across = |i: &Image| {
        let mut data = Vec::with_capacity(i.data.len());
        for x in 0..i.width {
            for y in 0..i.height {
                data.extend_from_slice(&i.data[(y * i.width + x) * i.channels..][..i.channels]);
            }
        }
        Image { width: i.height, height: i.width, channels: i.channels, data }
    };
    let (h, v) = (Op::FlipHorizontal, Op::FlipVertical);
    match orientation {
        Orientation::NoTransforms => Ok(image),
        Orientation::FlipHorizontal => h.apply(image),
        Orientation::FlipVertical => v.apply(image),
        Orientation::Rotate180 => v.apply(h.apply(image)?),
        Orientation::Rotate90 => h.apply(across(&image)),
        Orientation::Rotate270 => v.apply(across(&image)),
        Orientation::Rotate90FlipH => Ok(across(&image)),
        Orientation::Rotate270FlipH => h.apply(v.apply(across(&image))?),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn encoded(w: u32, h: u32, format: ImageFormat) -> Vec<u8> {
        let image = image::RgbImage::from_fn(w, h, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]));
        let mut out = Cursor::new(Vec::new());
        image.write_to(&mut out, format).unwrap();
        out.into_inner()
    }

    pub(crate) fn sample_png(w: u32, h: u32) -> Vec<u8> {
        encoded(w, h, ImageFormat::Png)
    }

    pub(crate) fn sample_jpeg(w: usize, h: usize) -> Vec<u8> {
        let pixels: Vec<u8> = (0..w * h * 3).map(|i| (i * 7 % 256) as u8).collect();
        libjpeg_turbo_rs::Encoder::new(&pixels, w, h, PixelFormat::Rgb).quality(90).encode().unwrap()
    }

    fn every_format() -> Vec<Vec<u8>> {
        let mut all = vec![sample_jpeg(20, 10)];
        all.extend(
            [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::WebP].map(|f| encoded(20, 10, f)),
        );
        all
    }

    #[test]
    fn whole_files_decode_and_truncations_are_errors() {
        for bytes in every_format() {
            let image = decode(&bytes, &Decode::default()).unwrap();
            assert_eq!((image.width, image.height, image.channels), (20, 10, 3));
            // Image data reaches to the end of these files, but for the markers at the very end.
            for cut in 0..bytes.len() * 3 / 4 {
                assert!(decode(&bytes[..cut], &Decode::default()).is_err(), "cut at {cut} of {}", bytes.len());
            }
        }
        for bytes in [sample_png(20, 10), sample_jpeg(20, 10)] {
            for cut in 0..bytes.len() - 2 {
                assert!(decode(&bytes[..cut], &Decode::default()).is_err(), "cut at {cut} of {}", bytes.len());
            }
        }
    }

    #[test]
    fn a_truncated_jpeg_is_accepted_when_asked_for() {
        let bytes = sample_jpeg(64, 64);
        let lenient = Decode { truncated: true, ..Decode::default() };
        let (whole, part) =
            (decode(&bytes, &lenient).unwrap(), decode(&bytes[..bytes.len() * 2 / 3], &lenient).unwrap());
        assert_eq!((part.width, part.height), (64, 64));
        assert_eq!(whole.data[..64 * 3 * 8], part.data[..64 * 3 * 8], "what is there is right");
    }

    #[test]
    fn limits_hold_and_other_bytes_are_refused() {
        let small = Decode { limits: Limits { pixels: 100, ..Limits::default() }, ..Decode::default() };
        for bytes in every_format() {
            let e = decode(&bytes, &small).unwrap_err().to_string();
            assert!(e.contains("exceed") || e.contains("limit") || e.contains("max"), "{e}");
        }
        assert!(decode(b"%PDF-1.4 and so on", &small).unwrap_err().to_string().contains("not a JPEG"));
        let tiny = Decode { limits: Limits { bytes: 100, ..Limits::default() }, ..Decode::default() };
        assert!(decode(&[0; 200], &tiny).unwrap_err().to_string().contains("200 bytes"));
        // A bomb: a header that promises more than anyone has.
        let mut bmp = every_format()[2].clone();
        bmp[18..26].copy_from_slice(&[0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0x7f]);
        assert!(decode(&bmp, &Decode::default()).is_err());
    }

    #[test]
    fn all_eight_orientations_turn_the_picture() {
        // 2 x 1: left 1, right 2.
        let two = Image::new(2, 1, 1, vec![1, 2]).unwrap();
        for (exif, dims, data) in [
            (1, (2, 1), [1, 2]),
            (2, (2, 1), [2, 1]),
            (3, (2, 1), [2, 1]),
            (4, (2, 1), [1, 2]),
            (5, (1, 2), [1, 2]),
            (6, (1, 2), [1, 2]),
            (7, (1, 2), [2, 1]),
            (8, (1, 2), [2, 1]),
        ] {
            let out = turned(two.clone(), Orientation::from_exif(exif).unwrap()).unwrap();
            assert_eq!(((out.width, out.height), out.data.as_slice()), (dims, &data[..]), "orientation {exif}");
        }
    }
}
