//! JPEG.

use crate::error::Result;
use crate::image::decode::kind::Kind;
use crate::image::decode::samples::{Model, Samples, Values, check_size};
use crate::image::decode::{Decode, fail};
use libjpeg_turbo_rs::common::types::DecodeLimits;
use libjpeg_turbo_rs::{Decoder, JpegError, PixelFormat};

/// What following the markers of a JPEG shows.
#[derive(Debug, Default, PartialEq, Eq)]
struct Markers {
    /// Columns and rows, from the frame's header.
    size: Option<(u64, u64)>,
    /// Where the first picture ends: the place behind its end marker.
    end: Option<usize>,
}

/// Follows the markers to the end of the first picture. Thumbnails lie inside segments whose length is known, and further
/// pictures, videos and padding lie behind the end, so that neither is taken for this picture.
fn markers(bytes: &[u8]) -> Markers {
    let mut found = Markers::default();
    let mut at = 2;
    let pair = |at: usize| bytes.get(at..at + 2).map(|b| u64::from(b[0]) << 8 | u64::from(b[1]));
    while let Some(&[first, marker]) = bytes.get(at..at + 2) {
        if first != 0xff || marker == 0xff {
            at += 1;
            continue;
        }
        match marker {
            0x00 | 0x01 | 0xd0..=0xd8 => at += 2,
            0xd9 => {
                found.end = Some(at + 2);
                return found;
            }
            _ => {
                let Some(length) = pair(at + 2).filter(|&n| n >= 2) else { return found };
                let frame = matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc);
                if frame && found.size.is_none() {
                    found.size = pair(at + 7).zip(pair(at + 5));
                }
                at += 2 + length as usize;
                if marker == 0xda {
                    // In a scan, 0xff is followed by 0 or by the number of a restart.
                    while let Some(place) = next_mark(bytes, at) {
                        at = place;
                        match bytes.get(at + 1) {
                            Some(0x00 | 0xd0..=0xd7) => at += 2,
                            Some(0xff) => at += 1,
                            _ => break,
                        }
                    }
                }
            }
        }
    }
    found
}

/// The place of the next byte 0xff from `at` on. Pieces without one are passed over quickly.
fn next_mark(bytes: &[u8], at: usize) -> Option<usize> {
    let (i, piece) = bytes.get(at..)?.chunks(32).enumerate().find(|(_, piece)| piece.contains(&0xff))?;
    Some(at + i * 32 + piece.iter().position(|&b| b == 0xff)?)
}

/// Decodes the first picture of a file.
///
/// A picture ends with an end marker; one without it is cut, and is an error unless `truncated` is set. A progressive picture
/// whose last scans were left out, but which has its end marker, is what its scans show; Pillow smooths the blocks of such a
/// picture, so that its pixels differ there.
pub(super) fn decode(bytes: &[u8], options: &Decode) -> Result<Samples> {
    let found = markers(bytes);
    let whole = found.end.is_some() || {
        // Segments that cannot be followed: the last end marker must come after the last scan.
        let last = |marker: u8| bytes.windows(2).rposition(|w| w == [0xff, marker]);
        bytes.ends_with(&[0xff, 0xd9]) || last(0xd9) >= last(0xda).max(Some(0))
    };
    if let Some((width, height)) = found.size.filter(|&(w, h)| w > 0 && h > 0) {
        check_size(Kind::Jpeg, width, height, options)?;
    }
    let cut = || fail(Kind::Jpeg, "the file is truncated, it has no end marker: copy or download it again");
    let (width, height, channels, data) = match pixels(&bytes[..found.end.unwrap_or(bytes.len())], options) {
        Err(_) if !whole && !options.truncated => return Err(cut()),
        decoded => decoded?,
    };
    if !options.truncated && !whole {
        return Err(cut());
    }
    let model = match channels {
        1 => Model::Gray,
        4 => Model::Cmyk,
        _ => Model::Rgb,
    };
    // Inks are stored as 255 minus their amount, by Adobe's convention, which Pillow assumes.
    let data = if channels == 4 { data.into_iter().map(|v| 255 - v).collect() } else { data };
    Ok(Samples { width, height, channels, model, values: Values::U8(data) })
}

/// Width, height, channels (1, 3 or 4) and pixels; inks are as they are stored.
pub(super) fn pixels(bytes: &[u8], options: &Decode) -> Result<(usize, usize, usize, Vec<u8>)> {
    let limit = options.limits.pixels;
    let strict =
        DecodeLimits { max_pixels: limit, max_memory: Some(limit.saturating_mul(16)), ..DecodeLimits::default() };
    let decoder = Decoder::new_with_limits(bytes, strict).map_err(|e| fail(Kind::Jpeg, e))?;
    let (channels, format) = match decoder.header().components.len() {
        1 => (1, PixelFormat::Grayscale),
        4 => (4, PixelFormat::Cmyk),
        _ => (3, PixelFormat::Rgb),
    };
    let decoder = decoder.with_output_format(format).with_lenient(options.truncated);
    let image = decoder.decode_image().map_err(|e| match e {
        JpegError::UnexpectedEof => {
            fail(Kind::Jpeg, "the file is damaged, its pixels end before its end marker: copy or download it again")
        }
        e => fail(Kind::Jpeg, e),
    })?;
    Ok((image.width, image.height, channels, image.data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::decode::tests::sample_jpeg;

    #[test]
    fn the_end_of_the_first_picture_counts() {
        let plain = sample_jpeg(40, 30);
        let want = crate::decode(&plain, &Decode::default()).unwrap();
        assert_eq!(markers(&plain), Markers { size: Some((40, 30)), end: Some(plain.len()) });
        let noise: Vec<u8> = (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for trailer in [
            vec![0; 1000],
            noise.clone(),
            [b"MotionPhoto_Data".to_vec(), vec![0xff, 0xda, 0, 8, 1, 2, 3]].concat(),
            plain[..plain.len() / 2].to_vec(),
            [plain.clone(), plain.clone()].concat(),
        ] {
            let bytes = [plain.clone(), trailer].concat();
            assert_eq!(crate::decode(&bytes, &Decode::default()).unwrap(), want);
        }
        // What is cut stays cut, whatever follows.
        for cut in [plain.len() / 2, plain.len() - 2] {
            let bytes = [plain[..cut].to_vec(), noise.iter().map(|b| b & 0x7f).collect()].concat();
            assert!(crate::decode(&bytes, &Decode::default()).is_err(), "cut at {cut}");
        }
    }
}
