//! How much memory a picture takes while it is decoded, from the first bytes of its file.

use crate::sets::{Picture, Sample};
use std::io::Cursor;

/// About the bytes that reading this sample's pixels takes: the file, the decoder's own buffers and the pixels.
pub(crate) fn bytes(sample: &Sample) -> u64 {
    match &sample.picture {
        Picture::Image(image) => image.data.len() as u64,
        // RGB and the coefficients of a progressive JPEG are less than 8 bytes per pixel. A file that does not tell its
        // size is assumed to be packed to a twentieth.
        Picture::Encoded(file) => {
            let length = file.len() as u64;
            pixels(file).map_or(length.saturating_mul(20), |p| p.saturating_mul(8).saturating_add(length))
        }
    }
}

/// The number of pixels that a file announces.
fn pixels(file: &[u8]) -> Option<u64> {
    let (width, height) = if file.starts_with(&[0xff, 0xd8]) {
        jpeg(file)?
    } else {
        let reader = image::ImageReader::new(Cursor::new(file)).with_guessed_format().ok()?;
        reader.into_dimensions().ok()?
    };
    u64::from(width).checked_mul(height.into())
}

/// Width and height from the frame header of a JPEG. The segments before it are skipped by their lengths.
fn jpeg(file: &[u8]) -> Option<(u32, u32)> {
    let number = |at: usize| Some(u32::from(u16::from_be_bytes([*file.get(at)?, *file.get(at + 1)?])));
    let mut at = 2;
    loop {
        // Any number of filling bytes may stand before a marker.
        if *file.get(at)? != 0xff {
            return None;
        }
        match *file.get(at + 1)? {
            0xff => at += 1,
            // Markers without a segment.
            0x01 | 0xd0..=0xd8 => at += 2,
            // The frame headers; the three others of this range are tables.
            marker @ 0xc0..=0xcf if ![0xc4, 0xc8, 0xcc].contains(&marker) => {
                return Some((number(at + 7)?, number(at + 5)?));
            }
            _ => at += 2 + number(at + 2)? as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Image, encode_jpeg, encode_png};

    #[test]
    fn files_tell_their_size_and_damaged_ones_are_guessed() {
        let image = Image::filled(40, 30, 3, [9, 80, 200]);
        let jpeg = encode_jpeg(&image, 90).unwrap();
        let png = encode_png(&image).unwrap();
        for file in [&jpeg, &png] {
            assert_eq!(pixels(file), Some(1200));
        }
        for end in 0..jpeg.len().min(200) {
            // Any answer but a panic is right for the start of a file.
            let _ = pixels(&jpeg[..end]);
        }
        let bytes = |file: Vec<u8>| bytes(&Sample { picture: Picture::Encoded(file), label: Default::default() });
        assert_eq!(bytes(vec![7; 100]), 2000);
        assert_eq!(bytes(png.clone()), 1200 * 8 + png.len() as u64);
        let big = [0xff, 0xd8, 0xff, 0xff, 0xc0, 0, 17, 8, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(pixels(&big), Some(65535 * 65535));
        assert_eq!(pixels(&[0xff, 0xd8, 0xff, 0xe0, 0, 0, 0xff]), None, "a segment cannot be shorter than its length");
    }
}
