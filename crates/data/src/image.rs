//! An 8-bit image and the views the kernels read.

use crate::error::{Error, Result};
use candlelight_kernels::resize::View;

/// An 8-bit image, rows of interleaved channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 (gray) or 3 (RGB).
    pub channels: usize,
    /// height x width x channels.
    pub data: Vec<u8>,
}

impl Image {
    /// Checks that the bytes fill the image.
    ///
    /// # Errors
    /// When they do not.
    pub fn new(width: usize, height: usize, channels: usize, data: Vec<u8>) -> Result<Self> {
        let wanted = width.checked_mul(height).and_then(|n| n.checked_mul(channels));
        if width == 0 || height == 0 || !matches!(channels, 1 | 3) || wanted != Some(data.len()) {
            return Err(Error::Decode(format!("{} bytes for a {width}x{height}x{channels} image", data.len())));
        }
        Ok(Image { width, height, channels, data })
    }

    /// One colour everywhere; a gray image takes the colour's luma.
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

    /// Three equal channels from one; an RGB image as it is.
    #[must_use]
    pub fn to_rgb(self) -> Image {
        match self.channels {
            1 => Image { channels: 3, data: self.data.iter().flat_map(|&v| [v; 3]).collect(), ..self },
            _ => self,
        }
    }

    /// The part at (x, y).
    ///
    /// # Errors
    /// When it is not inside the image.
    pub fn crop(&self, x: usize, y: usize, width: usize, height: usize) -> Result<Image> {
        let inside = width > 0
            && height > 0
            && x.checked_add(width).is_some_and(|r| r <= self.width)
            && y.checked_add(height).is_some_and(|b| b <= self.height);
        if !inside {
            let (w, h) = (self.width, self.height);
            return Err(Error::Config(format!("a crop {width}x{height} at ({x}, {y}) of an image {w}x{h}")));
        }
        let c = self.channels;
        let rows = self.data.chunks_exact(self.width * c).skip(y).take(height);
        let data = rows.flat_map(|row| &row[x * c..(x + width) * c]).copied().collect();
        Ok(Image { width, height, channels: c, data })
    }

    /// From channels one after the other.
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

    /// What the resize kernel reads.
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

    /// Values of one channel.
    pub(crate) fn channel(&self, c: usize) -> impl Iterator<Item = u8> + '_ {
        self.data.iter().skip(c).step_by(self.channels).copied()
    }
}

/// ITU-R 601 luma in 16-bit fixed point, as Pillow computes it.
pub(crate) fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}
