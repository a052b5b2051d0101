//! Operations on images with every parameter given: what Pillow does, bit for bit. Augmentations draw the parameters.

use crate::error::{Error, Result};
use crate::image::resize::{Filter, resize, resize_box, resize_opencv};
use crate::image::warp::{Map, warp};
use crate::image::{Image, planes};
use serde::{Deserialize, Serialize};

/// An operation with every parameter given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// Stretches each channel to 0..255.
    AutoContrast,
    /// Flattens each channel's histogram.
    Equalize,
    /// Replaces each value v by 255 - v.
    Invert,
    /// Puts the luma into every channel.
    Grayscale,
    /// Keeps the highest bits; 8 or more change nothing.
    Posterize {
        /// How many bits are kept.
        bits: u32,
    },
    /// Inverts values from the threshold on.
    Solarize {
        /// The smallest value that is inverted; 256 changes nothing.
        threshold: i32,
    },
    /// Adds an amount to values below 128.
    SolarizeAdd {
        /// The amount; sums saturate at 0 and 255.
        add: i32,
    },
    /// Changes the saturation: 0 is gray, 1 changes nothing.
    Color {
        /// The factor, at least 0.
        factor: f64,
    },
    /// Changes the contrast about the mean luma: 0 is flat, 1 changes nothing.
    Contrast {
        /// The factor, at least 0.
        factor: f64,
    },
    /// Changes the brightness: 0 is black, 1 changes nothing.
    Brightness {
        /// The factor, at least 0.
        factor: f64,
    },
    /// Changes the sharpness: 0 is smoothed, 1 changes nothing.
    Sharpness {
        /// The factor, at least 0.
        factor: f64,
    },
    /// Turns the hue.
    Hue {
        /// The shift in turns, -0.5 to 0.5.
        shift: f64,
    },
    /// Pillow's Gaussian blur: three box blurs per direction.
    GaussianBlur {
        /// Standard deviation in pixels.
        radius: f64,
    },
    /// Rotates counter-clockwise about the centre.
    Rotate {
        /// The angle in degrees.
        degrees: f64,
        /// Interpolation: nearest, bilinear or bicubic.
        filter: Filter,
        /// Colour outside the image.
        fill: [u8; 3],
    },
    /// Pillow's `transform(AFFINE)`.
    Affine {
        /// The map from output to source: (a x + b y + c, d x + e y + f).
        matrix: [f64; 6],
        /// Interpolation: nearest, bilinear or bicubic.
        filter: Filter,
        /// Colour outside the image.
        fill: [u8; 3],
    },
    /// Pillow's `transform(PERSPECTIVE)`.
    Perspective {
        /// The eight coefficients of the map from output to source.
        coefficients: [f64; 8],
        /// Interpolation: nearest, bilinear or bicubic.
        filter: Filter,
        /// Colour outside the image.
        fill: [u8; 3],
    },
    /// Resizes the image.
    Resize {
        /// Number of columns.
        width: usize,
        /// Number of rows.
        height: usize,
        /// Interpolation.
        filter: Filter,
    },
    /// Resizes a part, with taps that reach outside it: Pillow's `resize(box=...)`.
    ResizeBox {
        /// The part: (left, top, right, bottom).
        window: [f64; 4],
        /// Number of columns.
        width: usize,
        /// Number of rows.
        height: usize,
        /// Interpolation.
        filter: Filter,
    },
    /// Resizes the image as OpenCV's INTER_LINEAR does, without antialiasing.
    ResizeOpencv {
        /// Number of columns.
        width: usize,
        /// Number of rows.
        height: usize,
    },
    /// Cuts out a part.
    Crop {
        /// Left column.
        x: usize,
        /// Top row.
        y: usize,
        /// Number of columns.
        width: usize,
        /// Number of rows.
        height: usize,
    },
    /// Mirrors left and right.
    FlipHorizontal,
    /// Mirrors top and bottom.
    FlipVertical,
    /// Adds a border.
    Pad {
        /// Pixels on each side: (left, top, right, bottom).
        sides: [usize; 4],
        /// What the border is made of.
        mode: PadMode,
        /// The colour of the border in constant mode.
        fill: [u8; 3],
    },
}

/// What a border is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PadMode {
    /// One colour.
    #[default]
    Constant,
    /// The outermost pixel, repeated.
    Edge,
    /// The mirrored image, without repeating the outermost pixel.
    Reflect,
    /// The mirrored image, with the outermost pixel repeated.
    Symmetric,
}

/// Most pixels an operation may make.
const MAX_PIXELS: usize = 1 << 28;

impl Op {
    /// Applies the operation. Crops, resizes, mirrors, borders, rotations and warps accept any number of channels, and
    /// real numbers as well as bytes; the others need bytes with 1 or 3 channels. In an image of real numbers a fill colour is
    /// divided by 255.
    ///
    /// # Errors
    /// When a parameter does not fit the image, or the operation cannot work on images of this kind.
    pub fn apply(&self, image: Image) -> Result<Image> {
        if !image.is_plain() {
            return planes::apply(self, image);
        }
        self.apply_plain(image)
    }

    /// Whether the operation moves pixels and leaves colours alone, so that any number of channels will do.
    pub(crate) fn is_geometric(&self) -> bool {
        matches!(
            self,
            Op::Crop { .. }
                | Op::FlipHorizontal
                | Op::FlipVertical
                | Op::Resize { .. }
                | Op::ResizeBox { .. }
                | Op::ResizeOpencv { .. }
                | Op::Pad { .. }
                | Op::Rotate { .. }
                | Op::Affine { .. }
                | Op::Perspective { .. }
        )
    }

    /// The operation's name, as in the serialised form.
    pub(crate) fn name(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        value["op"].as_str().unwrap_or("operation").to_owned()
    }

    pub(crate) fn apply_plain(&self, image: Image) -> Result<Image> {
        match *self {
            Op::AutoContrast => Ok(per_channel(image, autocontrast)),
            Op::Equalize => Ok(per_channel(image, equalize)),
            Op::Invert => Ok(image.mapped(|v| 255 - v)),
            Op::Grayscale => {
                let gray = image.to_gray();
                Ok(if image.channels == 3 { gray.to_rgb() } else { gray })
            }
            Op::Posterize { bits } if bits >= 8 => Ok(image),
            Op::Posterize { bits } => Ok(image.mapped(|v| v & !((1u16 << (8 - bits)) - 1) as u8)),
            Op::Solarize { threshold } => Ok(image.mapped(|v| if i32::from(v) < threshold { v } else { 255 - v })),
            Op::SolarizeAdd { add } => {
                Ok(image.mapped(|v| if v < 128 { (i32::from(v) + add).clamp(0, 255) as u8 } else { v }))
            }
            Op::Color { factor } => {
                let gray = Op::Grayscale.apply(image.clone())?;
                Ok(blend(&gray, image, factor))
            }
            Op::Contrast { factor } => {
                let gray = image.to_gray();
                let sum: u64 = gray.data.iter().map(|&v| u64::from(v)).sum();
                let mean = (sum as f64 / gray.data.len() as f64 + 0.5) as u8;
                Ok(blend(&Image::filled(image.width, image.height, image.channels, [mean; 3]), image, factor))
            }
            Op::Brightness { factor } => {
                Ok(blend(&Image::filled(image.width, image.height, image.channels, [0; 3]), image, factor))
            }
            Op::Sharpness { factor } => Ok(blend(&smooth(&image), image, factor)),
            Op::Hue { shift } => Ok(turn_hue(image, shift)),
            Op::GaussianBlur { radius } => gaussian_blur(image, radius),
            Op::Rotate { degrees, filter, fill } => {
                finite("rotate", &[degrees])?;
                rotate(image, degrees, filter, fill)
            }
            Op::Affine { matrix, filter, fill } => {
                finite("affine", &matrix)?;
                Ok(warp(&image, &Map::Affine(matrix), filter, fill))
            }
            Op::Perspective { coefficients, filter, fill } => {
                finite("perspective", &coefficients)?;
                Ok(warp(&image, &Map::Perspective(coefficients), filter, fill))
            }
            Op::Resize { width, height, filter } => {
                check_size((image.width, image.height), width, height)?;
                resize(&image, width, height, filter)
            }
            Op::ResizeBox { window, width, height, filter } => {
                check_size((image.width, image.height), width, height)?;
                resize_box(&image, window, width, height, filter)
            }
            Op::ResizeOpencv { width, height } => {
                check_size((image.width, image.height), width, height)?;
                resize_opencv(&image, width, height)
            }
            Op::Crop { x, y, width, height } => image.crop(x, y, width, height),
            Op::FlipHorizontal => Ok(flip_horizontal(image)),
            Op::FlipVertical => {
                let rows: Vec<&[u8]> = image.data.chunks_exact(image.width * image.channels).rev().collect();
                let data = rows.concat();
                Ok(image.with_data(data))
            }
            Op::Pad { sides, mode, fill } => pad(&image, sides, mode, fill),
        }
    }
}

pub(crate) fn finite(name: &str, values: &[f64]) -> Result<()> {
    match values.iter().find(|v| !v.is_finite()) {
        Some(v) => Err(Error::Config(format!("{name}: the parameter {v} is not a finite number"))),
        None => Ok(()),
    }
}

pub(crate) fn check_size((w, h): (usize, usize), width: usize, height: usize) -> Result<()> {
    if width == 0 || height == 0 || width.saturating_mul(height) > MAX_PIXELS {
        return Err(Error::Decode(format!(
            "the image, {w}x{h}, would become {width}x{height}: expected from 1 to {MAX_PIXELS} pixels"
        )));
    }
    Ok(())
}

fn flip_horizontal(mut image: Image) -> Image {
    let (row, c) = (image.width * image.channels, image.channels);
    for row in image.data.chunks_exact_mut(row) {
        if c == 1 {
            row.reverse();
            continue;
        }
        if c == 3 {
            flip_pixels::<3>(row, 3);
        } else {
            flip_pixels::<0>(row, c);
        }
    }
    image
}

/// Mirrors a row of pixels of `c` channels, a number that the compiler knows where `C` is not 0.
#[inline(always)]
fn flip_pixels<const C: usize>(row: &mut [u8], c: usize) {
    let c = if C > 0 { C } else { c };
    let n = row.len() / c;
    for i in 0..n / 2 {
        for k in 0..c {
            row.swap(i * c + k, (n - 1 - i) * c + k);
        }
    }
}

fn per_channel(mut image: Image, table: impl Fn(&[u64; 256]) -> Option<[u8; 256]>) -> Image {
    for c in 0..image.channels {
        let mut histogram = [0u64; 256];
        image.channel(c).for_each(|v| histogram[usize::from(v)] += 1);
        if let Some(lut) = table(&histogram) {
            let channels = image.channels;
            image.data.iter_mut().skip(c).step_by(channels).for_each(|v| *v = lut[usize::from(*v)]);
        }
    }
    image
}

fn autocontrast(h: &[u64; 256]) -> Option<[u8; 256]> {
    let (lo, hi) = (h.iter().position(|&n| n > 0)?, h.iter().rposition(|&n| n > 0)?);
    if hi <= lo {
        return None;
    }
    let scale = 255.0 / (hi - lo) as f64;
    let offset = -(lo as f64) * scale;
    let mut lut = [0; 256];
    lut.iter_mut().enumerate().for_each(|(i, l)| *l = (i as f64 * scale + offset).clamp(0.0, 255.0) as u8);
    Some(lut)
}

fn equalize(h: &[u64; 256]) -> Option<[u8; 256]> {
    if h.iter().filter(|&&n| n > 0).count() <= 1 {
        return None;
    }
    let last = h.iter().rfind(|&&n| n > 0)?;
    let step = (h.iter().sum::<u64>() - last) / 255;
    if step == 0 {
        return None;
    }
    let mut n = step / 2;
    let mut lut = [0; 256];
    for (l, count) in lut.iter_mut().zip(h) {
        *l = (n / step).min(255) as u8;
        n += count;
    }
    Some(lut)
}

/// `a + factor (b - a)` in single precision, truncated; outside [0, 1] also clipped.
pub(crate) fn blend(a: &Image, b: Image, factor: f64) -> Image {
    let alpha = factor as f32;
    if alpha == 0.0 {
        return a.clone();
    }
    if alpha == 1.0 {
        return b;
    }
    let mut out = b;
    for (o, &a) in out.data.iter_mut().zip(&a.data) {
        let v = f32::from(a) + alpha * (f32::from(*o) - f32::from(a));
        *o = v.clamp(0.0, 255.0) as u8;
    }
    out
}

/// Pillow's SMOOTH: a 3 x 3 kernel of ones with 5 in the middle, over 13; the border is kept.
fn smooth(image: &Image) -> Image {
    let (w, h, c) = (image.width, image.height, image.channels);
    let mut out = image.clone();
    if w < 3 || h < 3 {
        return out;
    }
    let (one, five) = (1.0f32 / 13.0, 5.0f32 / 13.0);
    let stride = w * c;
    for y in 1..h - 1 {
        for i in c..stride - c {
            let at = y * stride + i;
            let v = |p: usize| f32::from(image.data[p]);
            let row = |p: usize, middle: f32| v(p - c) * one + v(p) * middle + v(p + c) * one;
            let sum = 0.5 + row(at + stride, one) + row(at, five) + row(at - stride, one);
            out.data[at] = sum.clamp(0.0, 255.0) as u8;
        }
    }
    out
}

fn turn_hue(mut image: Image, shift: f64) -> Image {
    if image.channels != 3 {
        return image;
    }
    let turn = (shift * 255.0) as i64 as u8;
    for p in image.data.chunks_exact_mut(3) {
        let [h, s, v] = to_hsv([p[0], p[1], p[2]]);
        p.copy_from_slice(&from_hsv([h.wrapping_add(turn), s, v]));
    }
    image
}

fn to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (max, min) = (r.max(g).max(b), r.min(g).min(b));
    if max == min {
        return [0, 0, max];
    }
    let spread = f32::from(max - min);
    let s = spread / f32::from(max);
    let part = |v: u8| f32::from(max - v) / spread;
    let (rc, gc, bc) = (part(r), part(g), part(b));
    let h = if r == max {
        bc - gc
    } else if g == max {
        (2.0 + f64::from(rc) - f64::from(bc)) as f32
    } else {
        (4.0 + f64::from(gc) - f64::from(rc)) as f32
    };
    let h = ((f64::from(h) / 6.0 + 1.0) % 1.0) as f32;
    [(f64::from(h) * 255.0) as u8, (f64::from(s) * 255.0) as u8, max]
}

fn from_hsv([h, s, v]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let fh = (f64::from(h) * 6.0 / 255.0) as f32;
    let fs = (f64::from(s) / 255.0) as f32;
    let sector = fh.floor();
    let f = fh - sector;
    let value = f64::from(v);
    let round = |x: f64| x.round().clamp(0.0, 255.0) as u8;
    let p = round(value * (1.0 - f64::from(fs)));
    let q = round(value * (1.0 - f64::from(fs * f)));
    let t = round(value * (1.0 - f64::from(fs) * (1.0 - f64::from(f))));
    match sector as i32 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}

fn gaussian_blur(image: Image, radius: f64) -> Result<Image> {
    if !(0.0..1e4).contains(&radius) {
        return Err(Error::Config(format!("gaussian_blur: the radius {radius} is not at least 0 and below 10000")));
    }
    if radius == 0.0 {
        return Ok(image);
    }
    // Three boxes whose variances add up to the Gaussian's (P. Gwosdek et al., "Theoretical foundations of Gaussian
    // convolution by extended box filtering", 2011), with Pillow's single precision.
    let passes = 3;
    let sigma2 = (radius as f32) * (radius as f32) / passes as f32;
    let l = (12.0 * f64::from(sigma2) + 1.0).sqrt() as f32;
    let whole = ((f64::from(l) - 1.0) / 2.0).floor() as f32;
    let a = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * sigma2);
    let a = a / (6.0 * (sigma2 - (whole + 1.0) * (whole + 1.0)));
    let box_radius = whole + a;
    let c = image.channels;
    let blur_rows = |data: &[u8], width: usize| -> Vec<u8> {
        let mut out = data.to_vec();
        for row in out.chunks_exact_mut(width * c) {
            for k in 0..c {
                let mut line: Vec<u8> = row.iter().skip(k).step_by(c).copied().collect();
                for _ in 0..passes {
                    line = box_blur(&line, box_radius);
                }
                row.iter_mut().skip(k).step_by(c).zip(line).for_each(|(o, v)| *o = v);
            }
        }
        out
    };
    let (w, h) = (image.width, image.height);
    let across = transposed(&blur_rows(&image.data, w), w, h, c);
    Ok(Image { data: transposed(&blur_rows(&across, h), h, w, c), ..image })
}

fn transposed(data: &[u8], width: usize, height: usize, c: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    for x in 0..width {
        for y in 0..height {
            out.extend_from_slice(&data[(y * width + x) * c..][..c]);
        }
    }
    out
}

/// A box of fractional radius over a line whose ends go on for ever.
fn box_blur(line: &[u8], radius: f32) -> Vec<u8> {
    let r = radius as i64;
    let n = line.len() as i64;
    let inner = ((1u32 << 24) as f32 / (radius * 2.0 + 1.0)) as u32;
    let edge = ((1u32 << 24) - (r as u32 * 2 + 1) * inner) / 2;
    let at = |i: i64| u32::from(line[i.clamp(0, n - 1) as usize]);
    let mut sum: u32 = (-r..=r).map(at).sum();
    let mut out = Vec::with_capacity(line.len());
    for i in 0..n {
        let v = sum * inner + (at(i - r - 1) + at(i + r + 1)) * edge;
        out.push((v.wrapping_add(1 << 23) >> 24) as u8);
        sum = sum + at(i + r + 1) - at(i - r);
    }
    out
}

fn rotate(image: Image, degrees: f64, filter: Filter, fill: [u8; 3]) -> Result<Image> {
    let (w, h) = (image.width, image.height);
    let turn = degrees.rem_euclid(360.0);
    if turn == 0.0 {
        return Ok(image);
    }
    if turn == 180.0 {
        return Op::FlipVertical.apply(flip_horizontal(image));
    }
    if (turn == 90.0 || turn == 270.0) && w == h {
        let data = transposed(&image.data, w, h, image.channels);
        let across = image.with_data(data);
        return if turn == 90.0 { Op::FlipVertical.apply(across) } else { Ok(flip_horizontal(across)) };
    }
    Ok(warp(&image, &Map::rotation(w, h, degrees), filter, fill))
}

fn pad(image: &Image, sides: [usize; 4], mode: PadMode, fill: [u8; 3]) -> Result<Image> {
    let (w, c) = (image.width, image.channels);
    let (columns, rows) = pad_places(w, image.height, sides, mode)?;
    let (width, height) = (columns.len(), rows.len());
    let mut out = Image::filled(width, height, c, fill);
    for (y, sy) in rows.iter().enumerate() {
        let Some(sy) = sy else { continue };
        for (x, sx) in columns.iter().enumerate() {
            if let Some(sx) = sx {
                out.data[(y * width + x) * c..][..c].copy_from_slice(&image.data[(sy * w + sx) * c..][..c]);
            }
        }
    }
    Ok(out)
}

/// Where each column and each row of an image of `w` x `h` pixels with a border comes from; none where it is filled.
pub(crate) fn pad_places(
    w: usize,
    h: usize,
    [left, top, right, bottom]: [usize; 4],
    mode: PadMode,
) -> Result<(Places, Places)> {
    let side = |a: usize, b: usize, n: usize| a.checked_add(b)?.checked_add(n);
    let (Some(width), Some(height)) = (side(left, right, w), side(top, bottom, h)) else {
        return Err(Error::Config(format!("pad: a border of {left}, {top}, {right}, {bottom} pixels is too large")));
    };
    check_size((w, h), width, height)?;
    let widest = |n: usize| match mode {
        PadMode::Reflect => n - 1,
        PadMode::Symmetric => n,
        PadMode::Constant | PadMode::Edge => usize::MAX,
    };
    if left.max(right) > widest(w) || top.max(bottom) > widest(h) {
        return Err(Error::Decode(format!(
            "pad: the image, {w}x{h}, is too small to mirror a border of {left}, {top}, {right}, {bottom} pixels"
        )));
    }
    let source = |i: usize, before: usize, n: usize| -> Option<usize> {
        let (at, n) = (i as i64 - before as i64, n as i64);
        if (0..n).contains(&at) {
            return Some(at as usize);
        }
        Some(match mode {
            PadMode::Constant => return None,
            PadMode::Edge => at.clamp(0, n - 1),
            PadMode::Reflect if at < 0 => -at,
            PadMode::Reflect => 2 * (n - 1) - at,
            PadMode::Symmetric if at < 0 => -at - 1,
            PadMode::Symmetric => 2 * n - 1 - at,
        } as usize)
    };
    Ok(((0..width).map(|x| source(x, left, w)).collect(), (0..height).map(|y| source(y, top, h)).collect()))
}

/// For each column or row, where it comes from.
pub(crate) type Places = Vec<Option<usize>>;
