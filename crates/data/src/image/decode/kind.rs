//! What a file is, by its content alone, and what to do about files that are no pictures.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The kinds of picture files that are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// JPEG, also several of them in one file (MPO), of which the first counts.
    Jpeg,
    /// PNG; of an animated one the picture that plain programs show.
    Png,
    /// GIF, the first frame.
    Gif,
    /// WebP, the first frame.
    WebP,
    /// Windows bitmap.
    Bmp,
    /// TIFF and BigTIFF, the first picture.
    Tiff,
    /// Portable bitmap, graymap, pixmap and arbitrary map: P1 to P7.
    Pnm,
    /// An array of NumPy.
    Npy,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Jpeg => "JPEG",
            Kind::Png => "PNG",
            Kind::Gif => "GIF",
            Kind::WebP => "WebP",
            Kind::Bmp => "BMP",
            Kind::Tiff => "TIFF",
            Kind::Pnm => "PNM",
            Kind::Npy => "NPY",
        })
    }
}

const READ: &str = "JPEG, PNG, WebP, GIF, BMP, TIFF, PNM and NPY are read";

/// The kind of a file, by its first bytes.
///
/// # Errors
/// When the bytes are none of the kinds that are decoded; the message says what they are instead, as far as that is known,
/// and what to do.
pub fn kind(bytes: &[u8]) -> Result<Kind> {
    let pnm = |b: &[u8]| matches!(b, [b'P', b'1'..=b'7', c, ..] if c.is_ascii_whitespace() || *c == b'#');
    Ok(match bytes {
        [0xff, 0xd8, ..] if !bytes.starts_with(&[0xff, 0xd8, 0xff, 0xf7]) => Kind::Jpeg,
        _ if bytes.starts_with(b"\x89PNG\r\n\x1a\n") => Kind::Png,
        _ if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") => Kind::Gif,
        _ if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") => Kind::WebP,
        _ if bytes.starts_with(b"II*\0") || bytes.starts_with(b"MM\0*") => Kind::Tiff,
        _ if bytes.starts_with(b"II+\0") || bytes.starts_with(b"MM\0+") => Kind::Tiff,
        _ if bytes.starts_with(b"\x93NUMPY") => Kind::Npy,
        _ if bytes.starts_with(b"BM") => Kind::Bmp,
        _ if pnm(bytes) => Kind::Pnm,
        _ => return Err(Error::Decode(not_a_picture(bytes))),
    })
}

/// What a file is that is not read, and what to do.
fn not_a_picture(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "the file is empty: copy or download it again".into();
    }
    if bytes.iter().all(|&b| b == 0) {
        return format!("the file is {} zeros: it was copied or downloaded incompletely, fetch it again", bytes.len());
    }
    let convert = |what: &str| format!("{what}: convert it to JPEG or PNG ({READ})");
    let begins = |magic: &[u8]| bytes.starts_with(magic);
    let at = |place: usize, magic: &[u8]| bytes.get(place..).is_some_and(|b| b.starts_with(magic));
    if at(4, b"ftyp") {
        let brands = &bytes[8..bytes.len().min(64)];
        let has = |names: &[&[u8]]| brands.chunks_exact(4).any(|b| names.contains(&b));
        return if has(&[b"avif", b"avis"]) {
            convert("an AVIF picture")
        } else if has(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"]) {
            convert("a HEIC picture")
        } else {
            format!("a video (MP4 or QuickTime), not a picture: take frames out of it ({READ})")
        };
    }
    let binary: [(usize, &[u8], &str); 17] = [
        (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
        (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
        (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
        (0, b"\xff\x0a", "a JPEG XL picture"),
        (0, b"\xff\xd8\xff\xf7", "a JPEG-LS picture"),
        (0, b"8BPS", "a Photoshop document (PSD)"),
        (0, b"%PDF", "a PDF document"),
        (0, b"%!PS", "a PostScript document"),
        (128, b"DICM", "a DICOM file"),
        (0, b"\0\0\x01\0", "an icon (ICO)"),
        (0, b"\x76\x2f\x31\x01", "an OpenEXR picture"),
        (0, b"qoif", "a QOI picture"),
        (0, b"DDS ", "a DirectDraw surface (DDS)"),
        (0, b"#?RADIANCE", "a Radiance picture (HDR)"),
        (0, b"\x89HDF", "an HDF5 file"),
        (0, b"MATLAB 5.0", "a MATLAB file"),
        (0, b"SIMPLE  =", "a FITS file"),
    ];
    if let Some((.., what)) = binary.iter().find(|(place, magic, _)| at(*place, magic)) {
        return convert(what);
    }
    let archives: [(&[u8], &str); 6] = [
        (b"PK\x03\x04", "zip"),
        (b"\x1f\x8b", "gzip"),
        (b"7z\xbc\xaf", "7-Zip"),
        (b"Rar!", "RAR"),
        (b"\xfd7zXZ", "xz"),
        (b"BZh", "bzip2"),
    ];
    if let Some((_, what)) = archives.iter().find(|(magic, _)| begins(magic)) {
        return format!("a {what} archive, not a picture: unpack it ({READ})");
    }
    if begins(b"\0\x05\x16\x07") {
        return "a resource fork that macOS left beside the picture (such files are named ._NAME): delete it".into();
    }
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]).to_ascii_lowercase();
    let head = head.trim_start_matches('\u{feff}').trim_start();
    if head.starts_with("version https://git-lfs") {
        return "a pointer of git-lfs, not the picture: run `git lfs pull`".into();
    }
    if head.starts_with("<!doctype html") || head.starts_with("<html") {
        return "an HTML page, not a picture: the download was answered by a web page, download it again".into();
    }
    if head.contains("<svg") {
        return convert("an SVG drawing");
    }
    let sample = &bytes[..bytes.len().min(256)];
    let text = |b: &u8| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..);
    let letters = sample.iter().filter(|b| b.is_ascii_alphanumeric() || b.is_ascii_whitespace()).count();
    if sample.iter().all(text) && letters * 2 > sample.len() {
        let start: String = head.chars().take(40).map(|c| if c.is_control() { ' ' } else { c }).collect();
        return format!("text, not a picture; it begins with {start:?} ({READ})");
    }
    let start: Vec<String> = bytes.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!(
        "not a picture of a known kind, or its beginning is damaged: {READ}, and the file begins with {}",
        start.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_picture_is_called_by_its_name() {
        let mut dicom = vec![7; 128];
        dicom.extend(b"DICM");
        for (bytes, words) in [
            (&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..], "HEIC"),
            (b"\0\0\0\x18ftypmif1\0\0\0\0avifmif1", "AVIF"),
            (b"\0\0\0\x18ftypisom\0\0\0\0mp42", "video"),
            (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
            (b"\n <!DOCTYPE html><html>", "HTML page"),
            (b"<?xml version=\"1.0\"?><svg xmlns", "SVG"),
            (b"%PDF-1.4", "PDF"),
            (b"\0\x05\x16\x07\0\x02", "macOS"),
            (b"", "empty"),
            (&[0; 50], "50 zeros"),
            (b"path,label\na.png,1\n", "begins with \"path,label"),
            (b"PK\x03\x04", "zip"),
            (b"\xff\x4f\xff\x51", "JPEG 2000"),
            (b"\x01\x02\x03\x04", "01 02 03 04"),
            (&dicom, "DICOM"),
        ] {
            let e = kind(bytes).unwrap_err().to_string();
            assert!(e.contains(words), "{e}");
        }
        assert_eq!(kind(b"P6\n2 2 255\n").unwrap(), Kind::Pnm);
        assert_eq!(kind(b"MM\0*").unwrap(), Kind::Tiff);
    }
}
