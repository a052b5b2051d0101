//! PNM: the portable bitmap, graymap and pixmap, as text or as bytes, and the arbitrary map.

use crate::error::Result;
use crate::image::decode::kind::Kind;
use crate::image::decode::samples::{Model, Samples, Values, check_memory, check_size};
use crate::image::decode::{Decode, fail};

fn wrong(e: impl std::fmt::Display) -> crate::Error {
    fail(Kind::Pnm, e)
}

/// Words between white space and comments.
struct Words<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Words<'a> {
    fn skip(&mut self) {
        while let Some(b) = self.bytes.get(self.at) {
            if *b == b'#' {
                while self.bytes.get(self.at).is_some_and(|b| !matches!(b, b'\n' | b'\r')) {
                    self.at += 1;
                }
            } else if b.is_ascii_whitespace() {
                self.at += 1;
            } else {
                return;
            }
        }
    }

    fn word(&mut self) -> Result<&'a str> {
        self.skip();
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(|b| !b.is_ascii_whitespace() && *b != b'#') {
            self.at += 1;
        }
        if start == self.at {
            return Err(wrong("the file is truncated: it ends before its last number"));
        }
        std::str::from_utf8(&self.bytes[start..self.at]).map_err(|_| wrong("the header is damaged"))
    }

    fn number(&mut self) -> Result<u64> {
        let word = self.word()?;
        word.parse()
            .map_err(|_| wrong(format!("{:?} where a number is needed", word.chars().take(20).collect::<String>())))
    }
}

/// Decodes a picture. Values of up to 8 bits are scaled to 0 ..= 255, wider ones to 0 ..= 65535; those of wide pixmaps (P3,
/// P6) become 8-bit values as in Pillow where 8 bits are asked for.
pub(super) fn decode(bytes: &[u8], options: &Decode) -> Result<Samples> {
    let variant = bytes.get(1).copied().unwrap_or(b'0');
    let mut words = Words { bytes, at: 2 };
    let (width, height, depth, most) = if variant == b'7' {
        arbitrary_header(&mut words)?
    } else {
        let (w, h) = (words.number()?, words.number()?);
        let most = if matches!(variant, b'1' | b'4') { 1 } else { words.number()? };
        (w, h, if matches!(variant, b'3' | b'6') { 3 } else { 1 }, most)
    };
    let (width, height) = check_size(Kind::Pnm, width, height, options)?;
    if !(1..=65535).contains(&most) || !(1..=4096).contains(&depth) {
        return Err(wrong(format!(
            "{depth} channels of values up to {most}: expected 1 to 4096 channels and values up to at least 1 and at most 65535"
        )));
    }
    let depth = depth as usize;
    check_memory(Kind::Pnm, (width * height * depth) as u64, 2, options)?;
    let n = width * height * depth;
    let short =
        |have: usize, need: usize| wrong(format!("the file is truncated: {have} bytes of pixels, expected {need}"));
    // One white space separates the header from bytes.
    let body = bytes.get(words.at + 1..).unwrap_or_default();
    let stored: Vec<u16> = match variant {
        b'1' => {
            // Bits need no space between them.
            let mut bits = Vec::new();
            while bits.len() < n {
                words.skip();
                match words.bytes.get(words.at) {
                    Some(b'0') => bits.push(1),
                    Some(b'1') => bits.push(0),
                    Some(_) => return Err(wrong("a bit that is neither 0 nor 1")),
                    None => return Err(short(bits.len(), n)),
                }
                words.at += 1;
            }
            bits
        }
        b'2' | b'3' => {
            // A number takes at least two bytes, but for the last one.
            if bytes.len().saturating_sub(words.at) < n.saturating_mul(2).saturating_sub(1) {
                return Err(short(bytes.len().saturating_sub(words.at), n.saturating_mul(2)));
            }
            let mut numbers = Vec::with_capacity(n);
            for _ in 0..n {
                let v = words.number()?;
                if v > most {
                    return Err(wrong(format!("the value {v} exceeds the largest one that the header allows, {most}")));
                }
                numbers.push(v as u16);
            }
            numbers
        }
        b'4' => {
            let row = width.div_ceil(8);
            let Some(body) = body.get(..row * height) else { return Err(short(body.len(), row * height)) };
            let bits =
                |row: &'_ [u8]| -> Vec<u16> { (0..width).map(|x| u16::from(!row[x / 8] >> (7 - x % 8) & 1)).collect() };
            body.chunks_exact(row).flat_map(bits).collect()
        }
        _ if most < 256 => {
            let Some(body) = body.get(..n) else { return Err(short(body.len(), n)) };
            if most == 255 {
                return Ok(samples(width, height, depth, Values::U8(body.to_vec())));
            }
            body.iter().map(|&v| u16::from(v)).collect()
        }
        _ => {
            let Some(body) = body.get(..n * 2) else { return Err(short(body.len(), n * 2)) };
            body.chunks_exact(2).map(|b| u16::from_be_bytes([b[0], b[1]])).collect()
        }
    };
    let narrow = most < 256 || (matches!(variant, b'3' | b'6') && options.bit_depth == 8);
    let scaled = |to: u32| {
        let half_even = move |v: u16| {
            let (v, most) = (u64::from(v), most);
            let (whole, rest) = (v * u64::from(to) / most, v * u64::from(to) % most);
            let up = rest * 2 > most || (rest * 2 == most && whole % 2 == 1);
            (whole + u64::from(up)).min(u64::from(to)) as u16
        };
        stored.iter().map(move |&v| half_even(v))
    };
    let values = if narrow {
        Values::U8(scaled(255).map(|v| v as u8).collect())
    } else if most == 65535 {
        Values::U16(stored)
    } else {
        Values::U16(scaled(65535).collect())
    };
    Ok(samples(width, height, depth, values))
}

fn samples(width: usize, height: usize, channels: usize, values: Values) -> Samples {
    let model = match channels {
        1 | 2 => Model::Gray,
        3 | 4 => Model::Rgb,
        _ => Model::Bands,
    };
    Samples { width, height, channels, model, values }
}

/// The lines of an arbitrary map's header, up to ENDHDR.
fn arbitrary_header(words: &mut Words<'_>) -> Result<(u64, u64, u64, u64)> {
    let [mut width, mut height, mut depth, mut most] = [0; 4];
    loop {
        match words.word()? {
            "ENDHDR" => return Ok((width, height, depth, most)),
            "WIDTH" => width = words.number()?,
            "HEIGHT" => height = words.number()?,
            "DEPTH" => depth = words.number()?,
            "MAXVAL" => most = words.number()?,
            "TUPLTYPE" => {
                words.word()?;
            }
            other => return Err(wrong(format!("the header has {:?}", other.chars().take(20).collect::<String>()))),
        }
    }
}
