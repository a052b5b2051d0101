//! Images: the image itself, decoding and encoding, and operations on its pixels as Pillow does them.

pub(crate) mod decode;
mod encode;
mod ops;
mod planes;
mod random;
mod resize;
mod warp;

pub use decode::{Decode, Kind, Limits, decode, kind, orientation};
pub(crate) use decode::{Facts, decode_with_facts};
pub use encode::{encode_jpeg, encode_png};
pub(crate) use ops::blend;
pub use ops::{Op, PadMode};
pub(crate) use planes::refused;
pub(crate) use random::Draw;
pub use resize::{Filter, resize, resize_box, resize_opencv};
pub(crate) use warp::perspective;

use crate::error::{Error, Result};
use candlelight_kernels::image::resize::View;

/// An image in rows of interleaved channels, of 8-bit values or of real numbers.
///
/// Most images hold bytes in `data`. An image that was decoded with a bit depth of 16 or 32 holds real numbers instead, which
/// [`Image::values`] gives, and its `data` is empty. Bytes with 1 or 3 channels are what every operation accepts; other
/// images can be cropped, resized, mirrored, padded, rotated and warped, and operations on colours refuse them by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Number of columns.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// Number of channels: 1 (gray), 3 (RGB), or any other number of bands.
    pub channels: usize,
    /// The 8-bit values, height x width x channels; empty where the image holds real numbers.
    pub data: Vec<u8>,
    /// The real numbers, height x width x channels, all finite.
    wide: Option<Vec<f32>>,
}

/// Real numbers in images are finite, so that equality is what it should be.
impl Eq for Image {}

impl Image {
    /// Makes an image of bytes.
    ///
    /// # Errors
    /// When the bytes do not fill the image, or a side or the number of channels is 0.
    pub fn new(width: usize, height: usize, channels: usize, data: Vec<u8>) -> Result<Self> {
        check_filled(width, height, channels, data.len(), "bytes")?;
        Ok(Image { width, height, channels, data, wide: None })
    }

    /// Makes an image of real numbers, height x width x channels.
    ///
    /// # Errors
    /// When the values do not fill the image, a side or the number of channels is 0, or a value is not finite.
    pub fn from_values(width: usize, height: usize, channels: usize, values: Vec<f32>) -> Result<Self> {
        check_filled(width, height, channels, values.len(), "values")?;
        let strange = values.iter().filter(|v| !v.is_finite()).count();
        if strange > 0 {
            return Err(Error::Decode(format!(
                "{strange} of {} values are not finite numbers: replace what stands for missing data before training",
                values.len()
            )));
        }
        Ok(Image { width, height, channels, data: Vec::new(), wide: Some(values) })
    }

    /// The real numbers, height x width x channels, of an image that was decoded with a bit depth of 16 or 32; none for bytes.
    pub fn values(&self) -> Option<&[f32]> {
        self.wide.as_deref()
    }

    /// True for bytes with 1 or 3 channels, which every operation accepts.
    pub(crate) fn is_plain(&self) -> bool {
        self.wide.is_none() && matches!(self.channels, 1 | 3)
    }

    /// What the image is, for messages: `13 channels of bytes`.
    pub(crate) fn described(&self) -> String {
        let of = if self.wide.is_some() { "real numbers" } else { "bytes" };
        format!("{} channel{} of {of}", self.channels, if self.channels == 1 { "" } else { "s" })
    }

    /// An image of bytes in one colour; a gray image takes the colour's luma, and channels after the third take its last part.
    pub fn filled(width: usize, height: usize, channels: usize, color: [u8; 3]) -> Self {
        let n = width * height;
        let data = match channels {
            1 => vec![luma(color); n],
            3 => color.repeat(n),
            _ => (0..channels).map(|c| color[c.min(2)]).collect::<Vec<u8>>().repeat(n),
        };
        Image { width, height, channels, data, wide: None }
    }

    /// Something to look at: 8-bit RGB. Bytes of three or more channels show the first three and others the first one. Real
    /// numbers are stretched so that the least of the shown ones is black and the largest is white.
    #[must_use]
    pub fn preview(&self) -> Image {
        let shown = if self.channels >= 3 { [0, 1, 2] } else { [0; 3] };
        let data = match &self.wide {
            None => self.data.chunks_exact(self.channels).flat_map(|p| shown.map(|c| p[c])).collect(),
            Some(values) => {
                let used = || values.chunks_exact(self.channels).flat_map(|p| shown.map(|c| p[c]));
                let (lo, hi) = used().fold((f32::MAX, f32::MIN), |(lo, hi), v| (lo.min(v), hi.max(v)));
                let scale = if hi > lo { 255.0 / (f64::from(hi) - f64::from(lo)) } else { 0.0 };
                used().map(|v| ((f64::from(v) - f64::from(lo)) * scale).round().clamp(0.0, 255.0) as u8).collect()
            }
        };
        Image { width: self.width, height: self.height, channels: 3, data, wide: None }
    }

    /// The same image with other bytes.
    pub(crate) fn with_data(self, data: Vec<u8>) -> Image {
        Image { data, ..self }
    }

    /// Pillow's `convert("L")` of an RGB image; of other numbers of channels the first one.
    #[must_use]
    pub fn to_gray(&self) -> Image {
        let c = self.channels;
        let data = match c {
            1 => self.data.clone(),
            3 => self.data.chunks_exact(3).map(|p| luma([p[0], p[1], p[2]])).collect(),
            _ => self.data.iter().step_by(c).copied().collect(),
        };
        let wide = self.wide.as_ref().map(|values| match c {
            3 => values.chunks_exact(3).map(|p| luma_of_values([p[0], p[1], p[2]])).collect(),
            _ => values.iter().step_by(c).copied().collect(),
        });
        Image { width: self.width, height: self.height, channels: 1, data, wide }
    }

    /// Three equal channels made of one; an image of more channels stays as it is.
    #[must_use]
    pub fn to_rgb(self) -> Image {
        match self.channels {
            1 => Image {
                channels: 3,
                data: self.data.iter().flat_map(|&v| [v; 3]).collect(),
                wide: self.wide.map(|values| values.iter().flat_map(|&v| [v; 3]).collect()),
                ..self
            },
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
        let (c, columns) = (self.channels, x * self.channels..(x + width) * self.channels);
        let rows = self.data.chunks_exact(self.width * c).skip(y).take(height);
        let data = rows.flat_map(|row| &row[columns.clone()]).copied().collect();
        let wide = self.wide.as_ref().map(|values| {
            let rows = values.chunks_exact(self.width * c).skip(y).take(height);
            rows.flat_map(|row| &row[columns.clone()]).copied().collect()
        });
        Ok(Image { width, height, channels: c, data, wide })
    }

    /// Columns as rows.
    pub(crate) fn transposed(&self) -> Image {
        fn across<T: Copy>(v: &[T], w: usize, h: usize, c: usize) -> Vec<T> {
            let places = (0..w).flat_map(|x| (0..h).map(move |y| y * w + x));
            places.flat_map(|p| &v[p * c..(p + 1) * c]).copied().collect()
        }
        let (w, h, c) = (self.width, self.height, self.channels);
        let data = if self.wide.is_some() { Vec::new() } else { across(&self.data, w, h, c) };
        Image { width: h, height: w, channels: c, data, wide: self.wide.as_ref().map(|v| across(v, w, h, c)) }
    }

    /// An image made of channels that lie one after the other.
    pub(crate) fn from_planes(width: usize, height: usize, channels: usize, planes: &[u8]) -> Image {
        let n = width * height;
        if channels == 1 {
            return Image { width, height, channels, data: planes.to_vec(), wide: None };
        }
        let mut data = vec![0; n * channels];
        for (i, p) in data.chunks_exact_mut(channels).enumerate() {
            for c in 0..channels {
                p[c] = planes[c * n + i];
            }
        }
        Image { width, height, channels, data, wide: None }
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

fn check_filled(width: usize, height: usize, channels: usize, n: usize, what: &str) -> Result<()> {
    let wanted = width.checked_mul(height).and_then(|n| n.checked_mul(channels));
    if width == 0 || height == 0 || channels == 0 || wanted != Some(n) {
        return Err(Error::Decode(format!(
            "{n} {what} do not make an image of {width}x{height} with {channels} channels: expected at least 1 row, column \
             and channel, and one value per pixel and channel"
        )));
    }
    Ok(())
}

/// ITU-R 601 luma of real numbers.
pub(crate) fn luma_of_values([r, g, b]: [f32; 3]) -> f32 {
    (f64::from(r) * 0.299 + f64::from(g) * 0.587 + f64::from(b) * 0.114) as f32
}

/// ITU-R 601 luma in 16-bit fixed point, as Pillow computes it.
pub(crate) fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}
