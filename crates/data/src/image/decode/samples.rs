//! From what a file holds to the channels and the bit depth that are asked for.

use crate::error::{Error, Result};
use crate::image::decode::{Decode, fail, kind::Kind};
use crate::image::{Image, luma, luma_of_values};

/// The values of a file, in rows of interleaved channels.
pub(super) enum Values {
    /// 8-bit numbers.
    U8(Vec<u8>),
    /// Numbers scaled to 0 ..= 65535.
    U16(Vec<u16>),
    /// Numbers as they are in the file, and what they are called.
    Real(Vec<f32>, &'static str),
}

/// What the channels mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Model {
    /// One channel, or one and alpha.
    Gray,
    /// Red, green, blue, or these and alpha.
    Rgb,
    /// Amounts of four inks.
    Cmyk,
    /// Bands of no fixed meaning.
    Bands,
}

/// What a file holds.
pub(super) struct Samples {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) channels: usize,
    pub(super) model: Model,
    pub(super) values: Values,
}

impl Samples {
    /// The bits that each value has in the file, 8, 16 or 32.
    pub(super) fn bit_depth(&self) -> u8 {
        match self.values {
            Values::U8(_) => 8,
            Values::U16(_) => 16,
            Values::Real(..) => 32,
        }
    }

    /// The image with the channels and the bit depth of `options`.
    pub(super) fn image(self, kind: Kind, options: &Decode) -> Result<Image> {
        let pick = self.pick(kind, options.channels)?;
        let (w, h, c) = (self.width, self.height, self.channels);
        match (self.values, options.bit_depth) {
            (Values::U8(v), 8) => {
                let (channels, data) = pick.bytes(v, c);
                Image::new(w, h, channels, data)
            }
            (Values::U16(v), 8) => {
                let (channels, data) = pick.bytes(v.iter().map(|v| (v >> 8) as u8).collect(), c);
                Image::new(w, h, channels, data)
            }
            (Values::Real(_, name), depth @ (8 | 16)) => Err(fail(
                kind,
                format!("the values are {name}, which do not fit into {depth} bits: set `bit_depth` to 32"),
            )),
            (Values::U8(v), _) => pick.values(w, h, v.iter().map(|&v| f32::from(v) / 255.0).collect(), c),
            (Values::U16(v), _) => pick.values(w, h, v.iter().map(|&v| f32::from(v) / 65535.0).collect(), c),
            (Values::Real(v, _), _) => pick.values(w, h, v, c),
        }
    }

    /// How the wanted channels come from those of the file.
    fn pick(&self, kind: Kind, wanted: Option<usize>) -> Result<Pick> {
        let (have, want) = (self.channels, wanted.unwrap_or(3));
        Ok(match (self.model, want) {
            (Model::Cmyk, 3) => Pick::RgbOfInks,
            (Model::Cmyk, 1) => Pick::GrayOfInks,
            _ if have == want => Pick::All,
            (Model::Gray, 3) => Pick::Repeat,
            (Model::Gray, 1) => Pick::First(1),
            (Model::Rgb, 3) => Pick::First(3),
            (Model::Rgb, 1) => Pick::Luma,
            _ if wanted.is_none() => {
                return Err(fail(
                    kind,
                    format!(
                        "the picture has {have} channels, and 3 are made of it by default: set `channels` to {have}"
                    ),
                ));
            }
            _ => {
                return Err(fail(
                    kind,
                    format!(
                        "the picture has {have} channels, and `channels` asks for {want}: set it to {have}, or leave out the file"
                    ),
                ));
            }
        })
    }
}

#[derive(Debug, Clone, Copy)]
enum Pick {
    All,
    First(usize),
    Repeat,
    Luma,
    RgbOfInks,
    GrayOfInks,
}

impl Pick {
    /// The number of channels and the bytes, of bytes with `c` channels.
    fn bytes(self, data: Vec<u8>, c: usize) -> (usize, Vec<u8>) {
        match self {
            Pick::All => (c, data),
            Pick::First(n) => (n, data.chunks_exact(c).flat_map(|p| &p[..n]).copied().collect()),
            Pick::Repeat => (3, data.chunks_exact(c).flat_map(|p| [p[0]; 3]).collect()),
            Pick::Luma => (1, data.chunks_exact(c).map(|p| luma([p[0], p[1], p[2]])).collect()),
            Pick::RgbOfInks => (3, data.chunks_exact(c).flat_map(rgb_of_inks).collect()),
            Pick::GrayOfInks => (1, data.chunks_exact(c).map(|p| luma(rgb_of_inks(p))).collect()),
        }
    }

    /// The same for real numbers.
    fn values(self, w: usize, h: usize, v: Vec<f32>, c: usize) -> Result<Image> {
        let inks = |p: &[f32]| [0, 1, 2].map(|k| (1.0 - p[3] - p[k] * (1.0 - p[3])).max(0.0));
        let (channels, values) = match self {
            Pick::All => (c, v),
            Pick::First(n) => (n, v.chunks_exact(c).flat_map(|p| &p[..n]).copied().collect()),
            Pick::Repeat => (3, v.chunks_exact(c).flat_map(|p| [p[0]; 3]).collect()),
            Pick::Luma => (1, v.chunks_exact(c).map(|p| luma_of_values([p[0], p[1], p[2]])).collect()),
            Pick::RgbOfInks => (3, v.chunks_exact(c).flat_map(inks).collect()),
            Pick::GrayOfInks => (1, v.chunks_exact(c).map(|p| luma_of_values(inks(p))).collect()),
        };
        Image::from_values(w, h, channels, values)
    }
}

/// Pillow's conversion of cyan, magenta, yellow and black to red, green and blue.
fn rgb_of_inks(p: &[u8]) -> [u8; 3] {
    let times = |a: u32, b: u32| {
        let t = a * b + 128;
        ((t >> 8) + t) >> 8
    };
    let light = 255 - u32::from(p[3]);
    [0, 1, 2].map(|c| light.saturating_sub(times(u32::from(p[c]), light)) as u8)
}

/// Checks a picture's size before anything is reserved for it.
pub(super) fn check_size(kind: Kind, width: u64, height: u64, options: &Decode) -> Result<(usize, usize)> {
    if width == 0 || height == 0 {
        return Err(fail(kind, format!("the file is damaged: it says that the picture has {width}x{height} pixels")));
    }
    let pixels = width.saturating_mul(height);
    // Beyond 2^40 pixels not even their number could be reckoned with safely.
    let limit = options.limits.pixels.min(1 << 40);
    if pixels > limit {
        return Err(fail(kind, format!("{width}x{height} = {pixels} pixels exceed the limit of {limit} (max_pixels)")));
    }
    Ok((width as usize, height as usize))
}

/// Checks that the values of a picture fit into the memory that its limit allows: 16 bytes per pixel.
pub(super) fn check_memory(kind: Kind, values: u64, bytes_each: u64, options: &Decode) -> Result<()> {
    let (needed, limit) = (values.saturating_mul(bytes_each), options.limits.pixels.saturating_mul(16));
    if needed > limit {
        return Err(Error::Decode(format!(
            "{kind}: {needed} bytes of pixels exceed the limit of {limit}, which is 16 for each pixel of max_pixels"
        )));
    }
    Ok(())
}
