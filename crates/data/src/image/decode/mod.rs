//! Decoding: from the bytes of a file to pixels. The content tells the format. A truncated file is an error, never a
//! half-gray image, unless that is asked for.

mod exif;
mod gif;
mod jpeg;
mod kind;
mod npy;
mod other;
mod pnm;
mod samples;
mod tiff;
mod tiff_chunk;

pub use exif::orientation;
pub use kind::{Kind, kind};

use crate::error::{Error, Result};
use crate::image::Image;
use crate::image::ops::Op;
use samples::Samples;
use serde::{Deserialize, Serialize};

/// The largest image that is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most pixels, which programs call `max_pixels`. Decoders may use 16 bytes of memory for each of them.
    pub pixels: u64,
    /// Most bytes of the encoded file.
    pub bytes: u64,
}

impl Default for Limits {
    /// 178,956,970 pixels, from which on Pillow refuses a picture too, and 1 GiB.
    fn default() -> Self {
        Limits { pixels: 178_956_970, bytes: 1 << 30 }
    }
}

/// How images are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Decode {
    /// The largest image that is decoded.
    pub limits: Limits,
    /// Whether JPEGs whose end is missing are accepted; the missing part is gray.
    pub truncated: bool,
    /// Whether the picture is turned as its EXIF orientation says. torchvision and timm do not turn it. TIFFs are always
    /// turned, as Pillow turns them on loading.
    pub orientation: bool,
    /// The number of channels of the result. Without it there are 3: gray is repeated, alpha is dropped, as by Pillow's
    /// `convert("RGB")`, and a picture of other channels is an error. 1 takes the luma of colours. Any other number must be
    /// that of the file, such as 4 for RGB with alpha or 13 for a TIFF or an array of 13 bands.
    pub channels: Option<usize>,
    /// Bits of each value. 8 gives bytes; 16-bit values keep their high byte. 16 gives real numbers from 0 to 1, integers
    /// over the largest one of their type, so that nothing of a 16-bit file is lost. 32 does the same, and accepts files of
    /// real, signed or 32-bit numbers, which it takes as they are.
    pub bit_depth: u8,
}

impl Default for Decode {
    /// 8-bit RGB, not turned, within the default limits; truncated files are errors.
    fn default() -> Self {
        Decode { limits: Limits::default(), truncated: false, orientation: false, channels: None, bit_depth: 8 }
    }
}

impl Decode {
    /// Checks the settings.
    ///
    /// # Errors
    /// Names the setting that is out of range.
    pub fn check(&self) -> Result<()> {
        if !matches!(self.bit_depth, 8 | 16 | 32) {
            return Err(Error::Config(format!("bit_depth {}: expected 8, 16 or 32", self.bit_depth)));
        }
        if self.channels.is_some_and(|c| !(1..=4096).contains(&c)) {
            return Err(Error::Config(format!("channels {}: expected from 1 to 4096", self.channels.unwrap_or(0))));
        }
        if self.limits.pixels == 0 || self.limits.bytes == 0 {
            return Err(Error::Config("max_pixels and max_bytes: expected at least 1".into()));
        }
        Ok(())
    }
}

fn fail(kind: Kind, e: impl std::fmt::Display) -> Error {
    Error::Decode(format!("{kind}: {e}"))
}

/// Decodes a picture to the channels and the bit depth of `options`, by default to 8-bit RGB: JPEG (baseline, progressive,
/// gray, RGB, CMYK; the first one of an MPO), PNG, WebP, GIF and animations of these (the first frame), BMP, TIFF and BigTIFF
/// (the first page; uncompressed, LZW, deflate, PackBits or JPEG), PNM (P1 to P7) and arrays of NumPy. [`kind`] tells which.
///
/// Pixels are those of Pillow's `Image.open(file).convert("RGB")`, with these exceptions, in which Pillow's are of no use.
/// 16-bit gray keeps its high byte; Pillow clips it instead, which leaves little but white. A progressive JPEG of which
/// scans were left out is shown without Pillow's smoothing of blocks. Pillow does not read P7, NPY, or TIFFs of more than
/// four channels. Bytes behind the end of a picture do not matter.
///
/// # Errors
/// When the bytes are no such picture (the message says what they are, and what to do), are damaged or truncated, exceed the
/// limits, or do not have the channels or the depth that are asked for.
pub fn decode(bytes: &[u8], options: &Decode) -> Result<Image> {
    decode_with_facts(bytes, options).map(|(image, _)| image)
}

/// How a picture is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The kind of file; none for pictures that were no file.
    pub(crate) kind: Option<Kind>,
    /// The number of channels.
    pub(crate) channels: usize,
    /// Bits of each value: 8, 16 or 32.
    pub(crate) bit_depth: u8,
}

/// The image, and how it is stored.
pub(crate) fn decode_with_facts(bytes: &[u8], options: &Decode) -> Result<(Image, Facts)> {
    options.check()?;
    let limits = &options.limits;
    if bytes.len() as u64 > limits.bytes {
        return Err(Error::Decode(format!(
            "the file has {} bytes, which exceed the limit of {} (max_bytes)",
            bytes.len(),
            limits.bytes
        )));
    }
    let kind = kind(bytes)?;
    // Decoders are other people's code; what makes one of them panic is a damaged file.
    let decoded = std::panic::catch_unwind(|| {
        let samples = read(kind, bytes, options)?;
        let facts = Facts { kind: Some(kind), channels: samples.channels, bit_depth: samples.bit_depth() };
        Ok((samples.image(kind, options)?, facts))
    });
    let (image, facts) = decoded.unwrap_or_else(|_| Err(fail(kind, "the file is damaged: the decoder panicked")))?;
    if !options.orientation || kind == Kind::Tiff {
        return Ok((image, facts));
    }
    Ok((turned(image, orientation(bytes).unwrap_or(1))?, facts))
}

fn read(kind: Kind, bytes: &[u8], options: &Decode) -> Result<Samples> {
    match kind {
        Kind::Jpeg => jpeg::decode(bytes, options),
        Kind::Gif => gif::decode(bytes, options),
        Kind::Tiff => tiff::decode(bytes, options),
        Kind::Pnm => pnm::decode(bytes, options),
        Kind::Npy => npy::decode(bytes, options),
        Kind::Png | Kind::WebP | Kind::Bmp => other::decode(kind, bytes, options),
    }
}

/// The picture as its EXIF orientation, 1 to 8, says that it is seen.
fn turned(image: Image, orientation: u8) -> Result<Image> {
    let (h, v) = (Op::FlipHorizontal, Op::FlipVertical);
    match orientation {
        2 => h.apply(image),
        3 => v.apply(h.apply(image)?),
        4 => v.apply(image),
        5 => Ok(image.transposed()),
        6 => h.apply(image.transposed()),
        7 => h.apply(v.apply(image.transposed())?),
        8 => v.apply(image.transposed()),
        _ => Ok(image),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ::image::ImageFormat;
    use libjpeg_turbo_rs::PixelFormat;
    use std::io::Cursor;

    fn encoded(w: u32, h: u32, format: ImageFormat) -> Vec<u8> {
        let image = ::image::RgbImage::from_fn(w, h, |x, y| ::image::Rgb([x as u8, y as u8, (x * y) as u8]));
        let mut out = Cursor::new(Vec::new());
        image.write_to(&mut out, format).unwrap();
        out.into_inner()
    }

    pub(crate) fn sample_png(w: u32, h: u32) -> Vec<u8> {
        encoded(w, h, ImageFormat::Png)
    }

    fn sample_gif(w: u16, h: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        let palette: Vec<u8> = (0..48).map(|i| i * 5).collect();
        let mut encoder = ::gif::Encoder::new(&mut bytes, w, h, &palette).unwrap();
        let places = (0..usize::from(w) * usize::from(h)).map(|i| (i * i % 16) as u8).collect();
        encoder
            .write_frame(&::gif::Frame {
                width: w,
                height: h,
                buffer: std::borrow::Cow::Owned(places),
                ..Default::default()
            })
            .unwrap();
        drop(encoder);
        bytes
    }

    pub(crate) fn sample_jpeg(w: usize, h: usize) -> Vec<u8> {
        let pixels: Vec<u8> = (0..w * h * 3).map(|i| (i * 7 % 256) as u8).collect();
        libjpeg_turbo_rs::Encoder::new(&pixels, w, h, PixelFormat::Rgb).quality(90).encode().unwrap()
    }

    fn every_format() -> Vec<Vec<u8>> {
        let mut all = vec![sample_jpeg(20, 10)];
        all.extend([ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP].map(|f| encoded(20, 10, f)));
        all.push(sample_gif(20, 10));
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
            assert!(e.contains("20x10 = 200 pixels exceed the limit of 100 (max_pixels)"), "{e}");
        }
        assert!(decode(b"%PDF-1.4 and so on", &small).unwrap_err().to_string().contains("a PDF document: convert it"));
        let tiny = Decode { limits: Limits { bytes: 100, ..Limits::default() }, ..Decode::default() };
        assert!(decode(&[1; 200], &tiny).unwrap_err().to_string().contains("200 bytes"));
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
            let out = turned(two.clone(), exif).unwrap();
            assert_eq!(((out.width, out.height), out.data.as_slice()), (dims, &data[..]), "orientation {exif}");
        }
    }
}
