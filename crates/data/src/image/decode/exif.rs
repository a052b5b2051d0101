//! The EXIF orientation of a file, found without decoding its pixels.

use crate::image::decode::kind::{Kind, kind};

/// The EXIF orientation of a picture, 1 to 8, where the file gives one: from the EXIF data of a JPEG, PNG or WebP, or the tag
/// of a TIFF. 1 means that the picture is stored as it is seen; every other number says how to turn or mirror it.
///
/// It reads the file's structure alone and costs next to nothing. A TIFF is always turned by [`decode`](crate::decode), as
/// Pillow does on loading; the others only with [`Decode::orientation`](crate::Decode::orientation).
pub fn orientation(bytes: &[u8]) -> Option<u8> {
    match kind(bytes).ok()? {
        Kind::Jpeg => in_jpeg(bytes),
        Kind::Png => in_png(bytes),
        Kind::WebP => in_webp(bytes),
        Kind::Tiff => in_tiff(bytes),
        Kind::Gif | Kind::Bmp | Kind::Pnm | Kind::Npy => None,
    }
}

fn in_jpeg(bytes: &[u8]) -> Option<u8> {
    let mut at = 2;
    loop {
        let &[0xff, marker] = bytes.get(at..at + 2)? else {
            at += 1;
            continue;
        };
        match marker {
            0xff => at += 1,
            0x00 | 0x01 | 0xd0..=0xd8 => at += 2,
            // The EXIF data stands before the first scan.
            0xd9 | 0xda => return None,
            _ => {
                let length = usize::from(u16::from_be_bytes(bytes.get(at + 2..at + 4)?.try_into().ok()?));
                let body = bytes.get(at + 4..at + 2 + length.max(2))?;
                if marker == 0xe1
                    && let Some(exif) = body.strip_prefix(b"Exif\0\0")
                {
                    return in_tiff(exif);
                }
                at += 2 + length.max(2);
            }
        }
    }
}

fn in_png(bytes: &[u8]) -> Option<u8> {
    let mut at = 8;
    loop {
        let length = u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize;
        let name = bytes.get(at + 4..at + 8)?;
        if name == b"eXIf" {
            return in_tiff(without_name(bytes.get(at + 8..at.checked_add(8)?.checked_add(length)?)?));
        }
        if name == b"IEND" {
            return None;
        }
        at = at.checked_add(12)?.checked_add(length)?;
    }
}

fn in_webp(bytes: &[u8]) -> Option<u8> {
    let mut at = 12;
    loop {
        let length = u32::from_le_bytes(bytes.get(at + 4..at + 8)?.try_into().ok()?) as usize;
        if bytes.get(at..at + 4)? == b"EXIF" {
            return in_tiff(without_name(bytes.get(at + 8..at.checked_add(8)?.checked_add(length)?)?));
        }
        at = at.checked_add(8)?.checked_add(length)?.checked_add(length & 1)?;
    }
}

fn without_name(exif: &[u8]) -> &[u8] {
    exif.strip_prefix(b"Exif\0\0").unwrap_or(exif)
}

/// The orientation tag of the first directory.
pub(super) fn in_tiff(tiff: &[u8]) -> Option<u8> {
    let big = match tiff.get(..2)? {
        b"II" => false,
        b"MM" => true,
        _ => return None,
    };
    let number = |at: usize, n: usize| -> Option<u64> {
        let bytes = tiff.get(at..at.checked_add(n)?)?.iter();
        let fold = |a: u64, b: &u8| a << 8 | u64::from(*b);
        Some(if big { bytes.fold(0, fold) } else { bytes.rev().fold(0, fold) })
    };
    let wide = number(2, 2)? == 43;
    let (offset, count, entry) = if wide { (8, 8, 20) } else { (4, 2, 12) };
    let directory = usize::try_from(number(offset, if wide { 8 } else { 4 })?).ok()?;
    let entries = number(directory, count)?.min(65_536) as usize;
    for i in 0..entries {
        let at = directory.checked_add(count)?.checked_add(i * entry)?;
        if number(at, 2)? == 0x0112 {
            // The number lies at the beginning of the value's place, whatever the byte order.
            let value = number(at + if wide { 12 } else { 8 }, if number(at + 2, 2)? == 3 { 2 } else { 4 })?;
            return u8::try_from(value).ok().filter(|v| (1..=8).contains(v));
        }
    }
    None
}
