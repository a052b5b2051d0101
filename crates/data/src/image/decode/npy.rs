//! NPY: an array of NumPy as a picture.

use crate::error::Result;
use crate::image::decode::kind::Kind;
use crate::image::decode::samples::{Model, Samples, Values, check_memory, check_size};
use crate::image::decode::{Decode, fail};

fn wrong(e: impl std::fmt::Display) -> crate::Error {
    fail(Kind::Npy, e)
}

/// What the header says.
struct Header<'a> {
    kind: &'a str,
    fortran: bool,
    shape: Vec<usize>,
    body: &'a [u8],
}

/// The text behind a key of the header, a dictionary of Python.
fn after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let rest = text.split_once(&format!("'{key}'")).or_else(|| text.split_once(&format!("\"{key}\"")))?.1;
    Some(rest.trim_start().strip_prefix(':')?.trim_start())
}

fn header(bytes: &[u8]) -> Option<Header<'_>> {
    let (start, length): (usize, usize) = match bytes.get(6)? {
        1 => (10, usize::from(u16::from_le_bytes(bytes.get(8..10)?.try_into().ok()?))),
        2 | 3 => (12, u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?) as usize),
        _ => return None,
    };
    let end = start.checked_add(length)?;
    let text = std::str::from_utf8(bytes.get(start..end)?).ok()?;
    let descr = after(text, "descr")?;
    let quote = descr.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let kind = descr[1..].split(quote).next()?;
    let fortran = after(text, "fortran_order")?.starts_with("True");
    let shape = after(text, "shape")?.strip_prefix('(')?.split(')').next()?;
    let shape = shape.split(',').map(str::trim).filter(|s| !s.is_empty()).map(|s| s.parse().ok());
    Some(Header { kind, fortran, shape: shape.collect::<Option<_>>()?, body: &bytes[end..] })
}

/// Decodes an array of shape (height, width), (height, width, channels) or (channels, height, width). Of three axes the
/// smaller one of the first and the last are the channels, unless only one of them has the number that is asked for.
/// Unsigned integers of 8 and 16 bits are fractions of their largest value; other numbers are taken as they are.
pub(super) fn decode(bytes: &[u8], options: &Decode) -> Result<Samples> {
    let h = header(bytes).ok_or_else(|| wrong("the header is damaged or of another version than 1 to 3"))?;
    let (height, width, channels, first) = match h.shape[..] {
        [height, width] => (height, width, 1, false),
        [a, b, c] => {
            let asked = options.channels.filter(|n| (*n == a) != (*n == c));
            let first = match asked {
                Some(n) => n == a,
                None if a == c => {
                    return Err(wrong(format!(
                        "the shape ({a}, {b}, {c}) does not tell which axis are the channels: store (height, width, channels) \
                         with fewer channels than rows"
                    )));
                }
                None => a < c,
            };
            if first { (b, c, a, true) } else { (a, b, c, false) }
        }
        _ => {
            return Err(wrong(format!(
                "the shape {:?}: expected (height, width), (height, width, channels) or (channels, height, width)",
                h.shape
            )));
        }
    };
    let (width, height) = check_size(Kind::Npy, width as u64, height as u64, options)?;
    if !(1..=4096).contains(&channels) {
        return Err(wrong(format!("{channels} channels: expected from 1 to 4096")));
    }
    let n = width * height * channels;
    check_memory(Kind::Npy, n as u64, 4, options)?;
    let (big, name) = (h.kind.starts_with('>'), h.kind.trim_start_matches(['<', '>', '|', '=']));
    let size = match name {
        "u1" | "b1" | "?" => 1,
        "u2" | "i2" => 2,
        "f4" => 4,
        "f8" => 8,
        other => {
            return Err(wrong(format!(
                "numbers of kind {other:?}: expected u1, u2, i2, f4, f8 or b1; use array.astype"
            )));
        }
    };
    let Some(body) = h.body.get(..n * size) else {
        let have = h.body.len();
        return Err(wrong(format!("the file is truncated: {have} bytes of numbers, expected {}", n * size)));
    };
    // From the place of a value in the picture to its place in the file.
    let place = |i: usize| {
        let (p, c) = (i / channels, i % channels);
        let (y, x) = (p / width, p % width);
        match (first, h.fortran) {
            (false, false) => i,
            (true, false) => (c * height + y) * width + x,
            (false, true) => (c * width + x) * height + y,
            (true, true) => (x * height + y) * channels + c,
        }
    };
    fn of<const N: usize, T>(
        body: &[u8],
        big: bool,
        places: impl Iterator<Item = usize>,
        f: impl Fn([u8; N]) -> T,
    ) -> Vec<T> {
        let one = |i: usize| {
            let mut bytes = [0; N];
            bytes.copy_from_slice(&body[i * N..(i + 1) * N]);
            if big {
                bytes.reverse();
            }
            f(bytes)
        };
        places.map(one).collect()
    }
    let places = (0..n).map(place);
    let values = match name {
        "u1" => Values::U8(of(body, big, places, |[v]: [u8; 1]| v)),
        "b1" | "?" => Values::U8(of(body, big, places, |[v]: [u8; 1]| if v > 0 { 255 } else { 0 })),
        "u2" => Values::U16(of(body, big, places, u16::from_le_bytes)),
        "i2" => Values::Real(of(body, big, places, |b| f32::from(i16::from_le_bytes(b))), "signed 16-bit integers"),
        "f4" => Values::Real(of(body, big, places, f32::from_le_bytes), "32-bit real numbers"),
        _ => Values::Real(of(body, big, places, |b| f64::from_le_bytes(b) as f32), "64-bit real numbers"),
    };
    let model = match channels {
        1 => Model::Gray,
        3 => Model::Rgb,
        _ => Model::Bands,
    };
    Ok(Samples { width, height, channels, model, values })
}
