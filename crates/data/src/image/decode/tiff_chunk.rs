//! One strip or tile of a TIFF: from its bytes to samples.

use crate::error::Result;
use crate::image::decode::Decode;
use crate::image::decode::jpeg;
use crate::image::decode::samples::Values;
use crate::image::decode::tiff::{Layout, wrong};
use std::io::Read;
use std::ops::Range;

/// How the bytes of strips and tiles are coded.
pub(super) struct Coding<'a> {
    pub(super) compression: u64,
    /// The tables that all JPEG strips share.
    pub(super) tables: Option<&'a [u8]>,
    /// Whether the bits of each byte are in reverse order.
    pub(super) reversed: bool,
    /// The photometric interpretation.
    pub(super) colours: u64,
}

impl Coding<'_> {
    /// The samples of a chunk of `rows` rows with `inner` samples per pixel.
    pub(super) fn decoded(
        &self,
        bytes: &[u8],
        l: &Layout,
        inner: usize,
        rows: usize,
        big: bool,
        options: &Decode,
    ) -> Result<Values> {
        if self.compression == 7 {
            return self.jpeg(bytes, l, inner, rows, options);
        }
        if self.colours == 6 {
            return Err(wrong("a picture in YCbCr colours without JPEG compression: convert it to RGB"));
        }
        let row = (l.chunk.0 * inner * l.bits).div_ceil(8);
        let wanted = row * rows;
        let mirrored: Vec<u8>;
        let bytes = if self.reversed {
            mirrored = bytes.iter().map(|b| b.reverse_bits()).collect();
            &mirrored[..]
        } else {
            bytes
        };
        let mut raw = match self.compression {
            1 => bytes[..bytes.len().min(wanted)].to_vec(),
            5 => lzw(bytes, wanted)?,
            8 | 32946 => inflated(bytes, wanted)?,
            32773 => unpacked(bytes, wanted),
            other => return Err(wrong(unread(other))),
        };
        if raw.len() < wanted {
            return Err(wrong(format!("the file is damaged: {} bytes of pixels where {wanted} are needed", raw.len())));
        }
        raw.truncate(wanted);
        match l.predictor {
            1 => {}
            2 => summed(&mut raw, row, inner, l.bits, big)?,
            3 if l.format == 3 => summed_reals(&mut raw, row, inner, l.bits, big),
            other => return Err(wrong(format!("the predictor {other}: expected 1, 2, or 3 with real numbers"))),
        }
        values(&raw, row, l, inner, big)
    }

    /// JPEG strips leave out the tables that they share, and which colours their channels are.
    fn jpeg(&self, bytes: &[u8], l: &Layout, inner: usize, rows: usize, options: &Decode) -> Result<Values> {
        if l.bits != 8 || !matches!(inner, 1 | 3 | 4) {
            return Err(wrong(format!(
                "JPEG compression of {inner} samples of {} bits: expected 1, 3 or 4 of 8",
                l.bits
            )));
        }
        let mut whole = vec![0xff, 0xd8];
        if let Some(tables) = self.tables {
            let body = tables.strip_prefix(&[0xff, 0xd8]).unwrap_or(tables);
            whole.extend(body.strip_suffix(&[0xff, 0xd9]).unwrap_or(body));
        }
        if inner >= 3 && self.colours != 6 {
            // Adobe's segment that says: the channels are the colours themselves.
            whole.extend(b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0");
        }
        whole.extend(bytes.strip_prefix(&[0xff, 0xd8]).unwrap_or(bytes));
        let (w, h, channels, data) = jpeg::pixels(&whole, options)?;
        if (w, h) != (l.chunk.0, rows) && (w != l.chunk.0 || h < rows) {
            return Err(wrong(format!("a JPEG of {w}x{h} pixels in a part of {}x{rows}", l.chunk.0)));
        }
        if channels != inner {
            return Err(wrong(format!("a JPEG of {channels} channels where {inner} are needed")));
        }
        Ok(Values::U8(data))
    }
}

fn unread(compression: u64) -> String {
    let name = match compression {
        2..=4 | 32771 => "the fax compression CCITT",
        6 => "the old form of JPEG compression",
        34712 => "JPEG 2000 compression",
        34887 => "LERC compression",
        34925 => "LZMA compression",
        50000 => "Zstandard compression",
        50001 => "WebP compression",
        50002 => "JPEG XL compression",
        other => return format!("the unknown compression {other}: store the picture again with LZW or deflate"),
    };
    format!("{name}, which is not read: store the picture again with LZW, deflate or no compression")
}

fn lzw(bytes: &[u8], wanted: usize) -> Result<Vec<u8>> {
    // Files of before 1989 store codes from the lowest bit on; they begin with a clear code in that order.
    let old = matches!(bytes, [0, b, ..] if b & 1 == 1);
    let mut decoder = if old {
        weezl::decode::Decoder::new(weezl::BitOrder::Lsb, 8)
    } else {
        weezl::decode::Decoder::with_tiff_size_switch(weezl::BitOrder::Msb, 8)
    };
    let mut out = vec![0; wanted];
    let (mut from, mut to) = (0, 0);
    while to < wanted {
        let done = decoder.decode_bytes(&bytes[from..], &mut out[to..]);
        (from, to) = (from + done.consumed_in, to + done.consumed_out);
        match done.status {
            Ok(weezl::LzwStatus::Ok) if done.consumed_in + done.consumed_out > 0 => {}
            Ok(_) => break,
            Err(e) => return Err(wrong(format!("the file is damaged: {e}"))),
        }
    }
    out.truncate(to);
    Ok(out)
}

fn inflated(bytes: &[u8], wanted: usize) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let read = flate2::read::ZlibDecoder::new(bytes).take(wanted as u64).read_to_end(&mut out);
    read.map_err(|e| wrong(format!("the file is damaged: {e}")))?;
    Ok(out)
}

/// PackBits: runs of one byte, and bytes as they are.
fn unpacked(bytes: &[u8], wanted: usize) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), bytes);
    while out.len() < wanted {
        let Some((&n, tail)) = rest.split_first() else { break };
        match n as i8 {
            -128 => rest = tail,
            n @ 0.. => {
                let n = (n as usize + 1).min(tail.len());
                out.extend(&tail[..n]);
                rest = &tail[n..];
            }
            n => {
                let Some((&v, tail)) = tail.split_first() else { break };
                out.resize(out.len() + 1 + usize::from(n.unsigned_abs()), v);
                rest = tail;
            }
        }
    }
    out
}

/// Undoes differences to the pixel on the left.
fn summed(raw: &mut [u8], row: usize, inner: usize, bits: usize, big: bool) -> Result<()> {
    let size = match bits {
        8 | 16 | 32 | 64 => bits / 8,
        _ => return Err(wrong(format!("differences of {bits} bits: expected 8, 16, 32 or 64"))),
    };
    let step = size * inner;
    for row in raw.chunks_exact_mut(row) {
        for i in (step..row.len()).step_by(size) {
            // A sum of numbers of several bytes, from the lowest byte on.
            let mut carry = 0u16;
            for k in 0..size {
                let k = if big { size - 1 - k } else { k };
                let sum = u16::from(row[i + k]) + u16::from(row[i + k - step]) + carry;
                row[i + k] = sum as u8;
                carry = sum >> 8;
            }
        }
    }
    Ok(())
}

/// Undoes differences of bytes of real numbers that were sorted by their significance, and puts them into the file's order.
fn summed_reals(raw: &mut [u8], row: usize, inner: usize, bits: usize, big: bool) {
    let size = bits / 8;
    for row in raw.chunks_exact_mut(row) {
        for i in inner..row.len() {
            row[i] = row[i].wrapping_add(row[i - inner]);
        }
        let (sorted, n) = (row.to_vec(), row.len() / size);
        for i in 0..n {
            for k in 0..size {
                row[i * size + if big { k } else { size - 1 - k }] = sorted[k * n + i];
            }
        }
    }
}

/// Numbers from bytes. Integers of up to 8 bits stay as they are; those of 10 to 16 bits are scaled to 0 ..= 65535.
fn values(raw: &[u8], row: usize, l: &Layout, inner: usize, big: bool) -> Result<Values> {
    fn of<const N: usize, T>(raw: &[u8], big: bool, f: impl Fn([u8; N]) -> T) -> Vec<T> {
        let one = |b: &[u8]| {
            let mut bytes = [0; N];
            bytes.copy_from_slice(b);
            if !big {
                bytes.reverse();
            }
            f(bytes)
        };
        raw.chunks_exact(N).map(one).collect()
    }
    Ok(match (l.bits, l.format) {
        (8, _) => Values::U8(raw.to_vec()),
        (16, 1) => Values::U16(of(raw, big, u16::from_be_bytes)),
        (16, _) => Values::Real(of(raw, big, |b| f32::from(i16::from_be_bytes(b))), "signed 16-bit integers"),
        (32, 1) => Values::Real(of(raw, big, |b| u32::from_be_bytes(b) as f32), "32-bit integers"),
        (32, 2) => Values::Real(of(raw, big, |b| i32::from_be_bytes(b) as f32), "signed 32-bit integers"),
        (32, _) => Values::Real(of(raw, big, f32::from_be_bytes), "32-bit real numbers"),
        (64, _) => Values::Real(of(raw, big, |b| f64::from_be_bytes(b) as f32), "64-bit real numbers"),
        (bits, _) => {
            let per_row = l.chunk.0 * inner;
            let number = |row: &[u8], i: usize| {
                (i * bits..(i + 1) * bits).fold(0u16, |v, bit| v << 1 | u16::from(row[bit / 8] >> (7 - bit % 8) & 1))
            };
            let all = raw.chunks_exact(row).flat_map(|row| (0..per_row).map(move |i| number(row, i)));
            if bits < 8 {
                Values::U8(all.map(|v| v as u8).collect())
            } else {
                let most = (1u32 << bits) - 1;
                Values::U16(all.map(|v| ((u32::from(v) * 65535 + most / 2) / most) as u16).collect())
            }
        }
    })
}

/// Room for `n` values of the kind of `like`.
pub(super) fn reserved(like: &Values, n: usize) -> Values {
    match like {
        Values::U8(_) => Values::U8(vec![0; n]),
        Values::U16(_) => Values::U16(vec![0; n]),
        Values::Real(_, name) => Values::Real(vec![0.0; n], name),
    }
}

/// Copies values to the place `to` and every `step` further; none where the kinds differ or the values do not fit.
pub(super) fn put(from: &Values, range: Range<usize>, all: &mut Values, to: usize, step: usize) -> Option<()> {
    fn copy<T: Copy>(from: &[T], to: &mut [T], step: usize) -> Option<()> {
        if step == 1 {
            to.get_mut(..from.len())?.copy_from_slice(from);
        } else {
            to.iter_mut().step_by(step).zip(from).for_each(|(t, f)| *t = *f);
        }
        Some(())
    }
    match (from, all) {
        (Values::U8(f), Values::U8(a)) => copy(f.get(range)?, a.get_mut(to..)?, step),
        (Values::U16(f), Values::U16(a)) => copy(f.get(range)?, a.get_mut(to..)?, step),
        (Values::Real(f, _), Values::Real(a, _)) => copy(f.get(range)?, a.get_mut(to..)?, step),
        _ => None,
    }
}
