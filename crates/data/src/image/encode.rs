//! Encoding: from pixels to the bytes of a file.

use crate::error::{Error, Result};
use crate::image::{Image, refused};
use libjpeg_turbo_rs::{Encoder, PixelFormat};

/// Encodes an image as a JPEG of `quality` 1 to 100.
///
/// # Errors
/// When the encoder fails, or the image is not one of bytes with 1 or 3 channels.
pub fn encode_jpeg(image: &Image, quality: u8) -> Result<Vec<u8>> {
    if !image.is_plain() {
        return Err(refused("JPEG encoding", image));
    }
    let format = if image.channels == 1 { PixelFormat::Grayscale } else { PixelFormat::Rgb };
    let encoder = Encoder::new(&image.data, image.width, image.height, format).quality(quality.clamp(1, 100));
    encoder.encode().map_err(|e| Error::Decode(format!("JPEG: {e}")))
}

/// Encodes an image as a PNG.
///
/// # Errors
/// When the encoder fails, or the image is not one of bytes with 1 or 3 channels.
pub fn encode_png(image: &Image) -> Result<Vec<u8>> {
    if !image.is_plain() {
        return Err(refused("PNG encoding", image));
    }
    let color = if image.channels == 1 { image::ExtendedColorType::L8 } else { image::ExtendedColorType::Rgb8 };
    let (mut out, side) = (std::io::Cursor::new(Vec::new()), |n: usize| u32::try_from(n).unwrap_or(u32::MAX));
    let (w, h) = (side(image.width), side(image.height));
    image::write_buffer_with_format(&mut out, &image.data, w, h, color, image::ImageFormat::Png)
        .map_err(|e| Error::Decode(format!("PNG: {e}")))?;
    Ok(out.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Decode, decode};

    #[test]
    fn what_is_written_is_read() {
        for channels in [1, 3] {
            let image = Image::new(9, 5, channels, (0..45 * channels).map(|i| (i * 5 % 256) as u8).collect()).unwrap();
            let back = decode(&encode_png(&image).unwrap(), &Decode::default()).unwrap();
            assert_eq!(back, image.clone().to_rgb());
            let back = decode(&encode_jpeg(&image, 95).unwrap(), &Decode::default()).unwrap();
            assert_eq!((back.width, back.height), (9, 5));
        }
    }
}
