//! Images: the 8-bit image itself, decoding and encoding, and operations on its pixels as Pillow does them.

pub(crate) mod decode;
mod encode;
mod ops;
mod random;
mod resize;
mod warp;

pub use decode::{Decode, Limits, decode};
pub use encode::{encode_jpeg, encode_png};
pub(crate) use ops::blend;
pub use ops::{Op, PadMode};
pub(crate) use random::Draw;
pub use resize::{Filter, resize, resize_box, resize_opencv};
pub(crate) use warp::perspective;

use crate::error::{Error, Result};
use candlelight_kernels::image::resize::View;

/// An 8-bit image in rows of interleaved channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Number of columns.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// Number of channels: 1 (gray) or 3 (RGB).
    pub channels: usize,
    /// The values, height x width x channels.
    pub data: Vec<u8>,
}

impl Image {
    /// Makes an image of bytes.
    ///
    /// # Errors
    /// When the bytes do not fill the image, a side is 0, or there are not 1 or 3 channels.
    pub fn new(width: usize, height: usize, channels: usize, data: Vec<u8>) -> Result<Self> {
        let wanted = width.checked_mul(height).and_then(|n| n.checked_mul(channels));
        if width == 0 || height == 0 || !matches!(channels, 1 | 3) || wanted != Some(data.len()) {
            return Err(Error::Decode(format!(
                "{} bytes do not make an image of {width}x{height} with {channels} channels: expected 1 or 3 channels \
                 and one byte per pixel and channel",
                data.len()
            )));
        }
        Ok(Image { width, height, channels, data })
    }

    /// An image of one colour; a gray image takes the colour's luma.
    pub fn filled(width: usize, height: usize, channels: usize, color: [u8; 3]) -> Self {
        let n = width * height;
        let data = if channels == 3 { color.repeat(n) } else { vec![luma(color); n] };
        Image { width, height, channels, data }
    }

    /// Pillow's `convert("L")`.
    #[must_use]
    pub fn to_gray(&self) -> Image {
        let data = match self.channels {
            1 => self.data.clone(),
            _ => self.data.chunks_exact(3).map(|p| luma([p[0], p[1], p[2]])).collect(),
        };
        Image { channels: 1, data, ..*self }
    }

    /// Three equal channels made of one; an RGB image stays as it is.
    #[must_use]
    pub fn to_rgb(self) -> Image {
        match self.channels {
            1 => Image { channels: 3, data: self.data.iter().flat_map(|&v| [v; 3]).collect(), ..self },
            _ => self,
        }
    }

    /// The part whose upper left corner is (x, y).
    ///
    /// # Errors
    /// When the part does not lie inside the image.
    pub fn crop(&self, x: usize, y: usize, width: usize, height: usize) -> Result<Image> {
        let inside = width > 0
            && height > 0
            && x.checked_add(width).is_some_and(|r| r <= self.width)
            && y.checked_add(height).is_some_and(|b| b <= self.height);
        if !inside {
            let (w, h) = (self.width, self.height);
            return Err(Error::Config(format!(
                "the crop of {width}x{height} at ({x}, {y}) does not lie inside the image of {w}x{h}"
            )));
        }
        let c = self.channels;
        let rows = self.data.chunks_exact(self.width * c).skip(y).take(height);
        let data = rows.flat_map(|row| &row[x * c..(x + width) * c]).copied().collect();
        Ok(Image { width, height, channels: c, data })
    }

    /// An image made of channels that lie one after the other.
    pub(crate) fn from_planes(width: usize, height: usize, channels: usize, planes: &[u8]) -> Image {
        let n = width * height;
        if channels == 1 {
            return Image { width, height, channels, data: planes.to_vec() };
        }
        let mut data = vec![0; n * channels];
        for (i, p) in data.chunks_exact_mut(channels).enumerate() {
            for c in 0..channels {
                p[c] = planes[c * n + i];
            }
        }
        Image { width, height, channels, data }
    }

    /// The view that the resize kernel reads.
    pub(crate) fn view(&self) -> Result<View<'_>> {
        Ok(View::new(&self.data, self.width, self.height, self.channels, self.width * self.channels)?)
    }

    /// The same image with every value looked up.
    #[must_use]
    pub(crate) fn mapped(mut self, table: impl Fn(u8) -> u8) -> Image {
        let mut lut = [0u8; 256];
        lut.iter_mut().zip(0..=255).for_each(|(l, v)| *l = table(v));
        self.data.iter_mut().for_each(|v| *v = lut[usize::from(*v)]);
        self
    }

    /// The values of one channel.
    pub(crate) fn channel(&self, c: usize) -> impl Iterator<Item = u8> + '_ {
        self.data.iter().skip(c).step_by(self.channels).copied()
    }
}

/// ITU-R 601 luma in 16-bit fixed point, as Pillow computes it.
pub(crate) fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}
