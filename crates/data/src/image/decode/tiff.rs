//! TIFF and BigTIFF: the first picture, in strips or tiles, with any number of samples per pixel.
//!
//! The layout is that of "TIFF Revision 6.0" (Adobe, 1992) and its supplements. This is our own reader because the picture's
//! samples are wanted as they are stored, whatever their number.

use crate::error::Result;
use crate::image::decode::exif;
use crate::image::decode::kind::Kind;
use crate::image::decode::samples::{Model, Samples, Values, check_memory, check_size};
use crate::image::decode::tiff_chunk::{self, Coding};
use crate::image::decode::{Decode, fail};
use std::collections::BTreeMap;
use std::fmt::Display;

/// Most entries of a directory, and most numbers of one entry that is not a table of chunks.
const MOST_ENTRIES: u64 = 4096;

pub(super) fn wrong(e: impl Display) -> crate::Error {
    fail(Kind::Tiff, e)
}

/// The numbers of a file in its byte order.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a> {
    pub(super) all: &'a [u8],
    pub(super) big: bool,
}

impl<'a> Bytes<'a> {
    fn slice(&self, at: u64, n: u64) -> Option<&'a [u8]> {
        self.all.get(usize::try_from(at).ok()?..usize::try_from(at.checked_add(n)?).ok()?)
    }

    fn number(&self, at: u64, n: u64) -> Option<u64> {
        let bytes = self.slice(at, n)?.iter();
        let fold = |a: u64, b: &u8| a << 8 | u64::from(*b);
        Some(if self.big { bytes.fold(0, fold) } else { bytes.rev().fold(0, fold) })
    }
}

/// The tags of the first directory; of a value's bytes only the numbers are kept.
struct Tags<'a> {
    file: Bytes<'a>,
    /// For each tag: bytes per number, how many numbers, where they are.
    entries: BTreeMap<u64, (u64, u64, u64)>,
}

impl<'a> Tags<'a> {
    fn read(all: &'a [u8]) -> Option<Tags<'a>> {
        let file = Bytes { all, big: all.starts_with(b"MM") };
        let wide = file.number(2, 2)? == 43;
        let (directory, count, length, place) =
            if wide { (file.number(8, 8)?, 8, 20, 12) } else { (file.number(4, 4)?, 2, 12, 8) };
        let n = file.number(directory, count)?.min(MOST_ENTRIES);
        let mut entries = BTreeMap::new();
        for i in 0..n {
            let at = directory.checked_add(count + i * length)?;
            let Some(tag) = file.number(at, 2) else { break };
            let size: u64 = match file.number(at + 2, 2)? {
                1 | 2 | 6 | 7 => 1,
                3 | 8 => 2,
                4 | 9 | 11 | 13 => 4,
                5 | 10 | 12 | 16 | 17 | 18 => 8,
                _ => continue,
            };
            let many = file.number(at + 4, if wide { 8 } else { 4 })?;
            let room = if wide { 8 } else { 4 };
            let inside = size.checked_mul(many).is_some_and(|b| b <= room);
            let at = if inside { at + place } else { file.number(at + place, room)? };
            entries.entry(tag).or_insert((size, many, at));
        }
        Some(Tags { file, entries })
    }

    /// The numbers of a tag; none where the tag is missing.
    fn numbers(&self, tag: u64) -> Result<Option<Vec<u64>>> {
        let Some(&(size, many, at)) = self.entries.get(&tag) else { return Ok(None) };
        let bytes = size.checked_mul(many).and_then(|n| self.file.slice(at, n));
        if bytes.is_none() {
            return Err(wrong(format!("the file is truncated: the values of tag {tag} lie behind its end")));
        }
        Ok(Some((0..many).filter_map(|i| self.file.number(at + i * size, size)).collect()))
    }

    fn number(&self, tag: u64, default: u64) -> Result<u64> {
        Ok(self.numbers(tag)?.and_then(|n| n.first().copied()).unwrap_or(default))
    }

    fn bytes(&self, tag: u64) -> Option<&'a [u8]> {
        let &(size, many, at) = self.entries.get(&tag)?;
        self.file.slice(at, size.checked_mul(many)?)
    }
}

/// How the samples of a picture lie in a file.
pub(super) struct Layout {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Samples per pixel.
    pub(super) samples: usize,
    /// Bits per sample.
    pub(super) bits: usize,
    /// 1: unsigned, 2: signed, 3: real.
    pub(super) format: u64,
    /// 1: none, 2: differences of numbers, 3: differences of the bytes of real numbers.
    pub(super) predictor: u64,
    /// Columns and rows of a strip or tile.
    pub(super) chunk: (usize, usize),
    tiled: bool,
    planar: bool,
    big: bool,
}

/// Decodes the first picture of a file, turned as its orientation tag says, as Pillow turns it on loading.
pub(super) fn decode(bytes: &[u8], options: &Decode) -> Result<Samples> {
    let tags =
        Tags::read(bytes).ok_or_else(|| wrong("the file is truncated or damaged: its directory cannot be read"))?;
    let (width, height) = check_size(Kind::Tiff, tags.number(256, 0)?, tags.number(257, 0)?, options)?;
    let samples = tags.number(277, 1)?;
    if samples == 0 || samples > 4096 {
        return Err(wrong(format!("{samples} samples per pixel; expected from 1 to 4096")));
    }
    let bits = tags.numbers(258)?.unwrap_or(vec![1]);
    let formats = tags.numbers(339)?.unwrap_or(vec![1]);
    if bits.is_empty() || bits.iter().any(|b| *b != bits[0]) || formats.iter().any(|f| *f != formats[0]) {
        return Err(wrong(format!("samples of different kinds ({bits:?} bits) in one picture: expected one kind")));
    }
    // What nobody declared is unsigned; 4 says the same.
    let format = match formats.first() {
        Some(&f @ (2 | 3)) => f,
        _ => 1,
    };
    let bits = match (bits[0], format) {
        (b @ (1 | 2 | 4 | 8 | 10 | 12 | 14 | 16 | 32), 1) | (b @ (16 | 32), 2) | (b @ (32 | 64), 3) => b as usize,
        (b, _) => {
            let what = ["unsigned", "signed", "real"][format as usize - 1];
            return Err(wrong(format!(
                "{what} samples of {b} bits: expected 1, 2, 4, 8, 10, 12, 14, 16 or 32 unsigned, 16 or 32 signed, or 32 or 64 \
                 real"
            )));
        }
    };
    let tiled = tags.entries.contains_key(&324);
    let chunk = if tiled {
        (tags.number(322, 0)?, tags.number(323, 0)?)
    } else {
        (width as u64, tags.number(278, u64::MAX)?.min(height as u64))
    };
    if chunk.0 == 0 || chunk.1 == 0 || chunk.0 > 1 << 20 || chunk.1 > 1 << 20 {
        return Err(wrong(format!(
            "strips or tiles of {}x{} pixels: expected from 1 to 1048576 a side",
            chunk.0, chunk.1
        )));
    }
    let layout = Layout {
        width,
        height,
        samples: samples as usize,
        bits,
        format,
        predictor: tags.number(317, 1)?,
        chunk: (chunk.0 as usize, chunk.1 as usize),
        tiled,
        planar: tags.number(284, 1)? == 2 && samples > 1,
        big: tags.file.big,
    };
    let pixels = (width * height) as u64;
    check_memory(Kind::Tiff, pixels.saturating_mul(samples), bits.div_ceil(8) as u64, options)?;
    // A tile that is much larger than the picture would be a bomb of its own.
    let chunk_samples = (chunk.0 * chunk.1).saturating_mul(if layout.planar { 1 } else { samples });
    check_memory(Kind::Tiff, chunk_samples, bits.div_ceil(8) as u64, options)?;
    let photometric = tags.number(262, 1)?;
    let coding = Coding {
        compression: tags.number(259, 1)?,
        tables: tags.bytes(347),
        reversed: tags.number(266, 1)? == 2,
        colours: photometric,
    };
    let stored = assembled(&tags, &layout, &coding, options)?;
    let extra = tags.number(338, 0)?;
    let picture = meaning(&tags, &layout, photometric, extra, stored)?;
    Ok(turned(picture, exif::in_tiff(bytes).unwrap_or(1)))
}

/// All strips or tiles put together: rows of interleaved samples.
fn assembled(tags: &Tags<'_>, l: &Layout, coding: &Coding<'_>, options: &Decode) -> Result<Values> {
    let (offsets, counts) = if l.tiled { (324, 325) } else { (273, 279) };
    let offsets = tags.numbers(offsets)?.ok_or_else(|| wrong("the file does not say where its pixels are"))?;
    let counts = tags.numbers(counts)?.unwrap_or_default();
    let (cw, ch) = l.chunk;
    let (across, down) = (l.width.div_ceil(cw), l.height.div_ceil(ch));
    let planes = if l.planar { l.samples } else { 1 };
    if offsets.len() < across * down * planes {
        let kind = if l.tiled { "tiles" } else { "strips" };
        return Err(wrong(format!("{} {kind}, but the picture needs {}", offsets.len(), across * down * planes)));
    }
    let inner = l.samples / planes;
    let mut all = Values::U8(Vec::new());
    for (i, &offset) in offsets[..across * down * planes].iter().enumerate() {
        let (plane, place) = (i / (across * down), i % (across * down));
        let (x0, y0) = (place % across * cw, place / across * ch);
        // The last strip has only the rows that are left; tiles are always whole.
        let rows = if l.tiled { ch } else { ch.min(l.height - y0) };
        let rest = (tags.file.all.len() as u64).saturating_sub(offset);
        let count = counts.get(i).copied().unwrap_or(rest);
        let bytes = tags.file.slice(offset, count).ok_or_else(|| {
            wrong(format!(
                "the file is truncated: part {i} of its pixels lies behind its end; copy or download it again"
            ))
        })?;
        let values = coding.decoded(bytes, l, inner, rows, l.big, options).map_err(|e| {
            if e.to_string().contains("part ") { e } else { wrong(format!("part {i} of the pixels: {e}")) }
        })?;
        if i == 0 {
            all = tiff_chunk::reserved(&values, l.width * l.height * l.samples);
        }
        let (w, h) = (cw.min(l.width - x0), rows.min(l.height - y0));
        for y in 0..h {
            let from = y * cw * inner..(y * cw + w) * inner;
            let to = ((y0 + y) * l.width + x0) * l.samples + plane;
            tiff_chunk::put(&values, from, &mut all, to, if l.planar { l.samples } else { 1 })
                .ok_or_else(|| wrong(format!("part {i} of the pixels is of another kind than the first")))?;
        }
    }
    Ok(all)
}

/// Gives stored samples their meaning: inverted gray, palettes, alpha that was multiplied in.
fn meaning(tags: &Tags<'_>, l: &Layout, photometric: u64, extra: u64, mut values: Values) -> Result<Samples> {
    let of = |model, channels, values| Samples { width: l.width, height: l.height, channels, model, values };
    let c = l.samples;
    if photometric == 3 {
        let colours = tags.numbers(320)?.ok_or_else(|| wrong("a picture of palette colours without its palette"))?;
        let n = colours.len() / 3;
        let Values::U8(places) = values else {
            return Err(wrong(format!("a palette of {} bits: expected at most 8", l.bits)));
        };
        let colour = |i: usize, k: usize| colours.get(k * n + i).map_or(0, |v| (v >> 8) as u8);
        let table: Vec<[u8; 3]> =
            (0..256).map(|i| if i < n { [0, 1, 2].map(|k| colour(i, k)) } else { [0; 3] }).collect();
        let data = places.iter().step_by(c).flat_map(|&p| table[usize::from(p)]).collect();
        return Ok(of(Model::Rgb, 3, Values::U8(data)));
    }
    if let (Values::U8(v), true) = (&mut values, l.bits < 8) {
        let most = (1u16 << l.bits) - 1;
        v.iter_mut().for_each(|v| *v = (u16::from(*v) * 255 / most) as u8);
    }
    if photometric == 0 {
        match &mut values {
            Values::U8(v) => v.iter_mut().for_each(|v| *v = 255 - *v),
            Values::U16(v) => v.iter_mut().for_each(|v| *v = 65535 - *v),
            Values::Real(..) => return Err(wrong("real numbers of which 0 is white: expected that 0 is black")),
        }
    }
    let model = match (photometric, c) {
        (0 | 1, 1) => Model::Gray,
        (0 | 1, 2) if extra == 1 || extra == 2 => Model::Gray,
        (2 | 6, 3) => Model::Rgb,
        (2, 4) => Model::Rgb,
        (5, 4) => Model::Cmyk,
        (8..=10, _) => return Err(wrong("a picture in CIE L*a*b* colours: convert it to RGB")),
        _ => Model::Bands,
    };
    if photometric == 2
        && c == 4
        && extra == 1
        && let Values::U8(v) = &mut values
    {
        for p in v.chunks_exact_mut(4) {
            let alpha = u32::from(p[3]);
            p[..3].iter_mut().for_each(|v| *v = (u32::from(*v) * 255).checked_div(alpha).unwrap_or(0).min(255) as u8);
        }
    }
    Ok(of(model, c, values))
}

/// The picture as its orientation says it is seen.
fn turned(s: Samples, orientation: u8) -> Samples {
    if orientation <= 1 {
        return s;
    }
    let (w, h, c) = (s.width, s.height, s.channels);
    let (width, height) = if orientation >= 5 { (h, w) } else { (w, h) };
    let source = |x: usize, y: usize| match orientation {
        2 => (w - 1 - x, y),
        3 => (w - 1 - x, h - 1 - y),
        4 => (x, h - 1 - y),
        5 => (y, x),
        6 => (y, h - 1 - x),
        7 => (w - 1 - y, h - 1 - x),
        _ => (w - 1 - y, x),
    };
    let places = || (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    fn moved<T: Copy>(v: &[T], c: usize, places: impl Iterator<Item = usize>) -> Vec<T> {
        places.flat_map(|p| &v[p * c..(p + 1) * c]).copied().collect()
    }
    let from = || {
        places().map(|(x, y)| {
            let (sx, sy) = source(x, y);
            sy * w + sx
        })
    };
    let values = match &s.values {
        Values::U8(v) => Values::U8(moved(v, c, from())),
        Values::U16(v) => Values::U16(moved(v, c, from())),
        Values::Real(v, name) => Values::Real(moved(v, c, from()), name),
    };
    Samples { width, height, values, ..s }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A gray TIFF of 2 x 2 pixels with these tags besides, or instead.
    fn tiny(tags: &[(u16, u16, u32)], big: bool) -> Vec<u8> {
        let mut all: BTreeMap<u16, (u16, u32)> = BTreeMap::from([
            (256, (3, 2)),
            (257, (3, 2)),
            (258, (3, 8)),
            (259, (3, 1)),
            (262, (3, 1)),
            (273, (4, 0)),
            (279, (4, 4)),
        ]);
        all.extend(tags.iter().map(|&(tag, kind, v)| (tag, (kind, v))));
        let at = 8 + 2 + all.len() as u32 * 12 + 4;
        let (two, four) = (
            |v: u16| if big { v.to_be_bytes() } else { v.to_le_bytes() },
            |v: u32| if big { v.to_be_bytes() } else { v.to_le_bytes() },
        );
        let mut out = if big { b"MM".to_vec() } else { b"II".to_vec() };
        out.extend(two(42));
        out.extend(four(8));
        out.extend(two(all.len() as u16));
        for (tag, (kind, v)) in all {
            out.extend(two(tag));
            out.extend(two(kind));
            out.extend(four(1));
            let v = if tag == 273 { at } else { v };
            if kind == 3 {
                out.extend(two(v as u16));
                out.extend([0; 2]);
            } else {
                out.extend(four(v));
            }
        }
        out.extend(four(0));
        out.extend([1, 2, 3, 4]);
        out
    }

    #[test]
    fn both_byte_orders_are_read_and_what_is_not_read_is_named() {
        let options = Decode { channels: Some(1), ..Decode::default() };
        for big in [false, true] {
            let bytes = tiny(&[], big);
            assert_eq!(crate::decode(&bytes, &options).unwrap().data, [1, 2, 3, 4]);
            for cut in 0..bytes.len() {
                assert!(crate::decode(&bytes[..cut], &options).is_err(), "cut at {cut}");
            }
            // Turned by a quarter, as Pillow turns on loading.
            let turned = crate::decode(&tiny(&[(274, 3, 6)], big), &options).unwrap();
            assert_eq!(turned.data, [3, 1, 4, 2]);
        }
        for (tags, words) in [
            (&[(259, 3, 4)][..], "CCITT"),
            (&[(259, 3, 50000)], "Zstandard"),
            (&[(258, 3, 7)], "7 bits"),
            (&[(262, 3, 8)], "L*a*b*"),
            (&[(256, 4, 1 << 30), (257, 4, 1 << 30)], "max_pixels"),
            (&[(256, 3, 0)], "0x2"),
            (&[(277, 3, 0)], "0 samples"),
            (&[(278, 4, 1)], "1 strips, but the picture needs 2"),
            (&[(317, 3, 9)], "predictor 9"),
            (&[(279, 4, 3)], "damaged"),
            (&[(258, 3, 32), (339, 3, 3), (257, 3, 1), (256, 3, 1)], "bit_depth"),
        ] {
            let e = crate::decode(&tiny(tags, true), &options).unwrap_err().to_string();
            assert!(e.starts_with("TIFF: ") && e.contains(words), "{e}");
        }
    }
}
