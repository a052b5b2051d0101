//! Augmentations: each a function of (image, key).

use crate::draw::Draw;
use crate::error::{Error, Result};
use crate::geometry::perspective;
use crate::image::Image;
use crate::ops::{Op, PadMode};
use crate::policy::{Policy, PolicyHints};
use crate::resize::Filter;
use candlelight_kernels::Key;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a crop is resized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Bilinear or bicubic, a coin for each image: timm's `--train-interpolation random`.
    Random,
    /// Always this one.
    #[serde(untagged)]
    Fixed(Filter),
}

impl From<Filter> for Interpolation {
    fn from(f: Filter) -> Self {
        Interpolation::Fixed(f)
    }
}

/// One step from image to image. Sizes are (height, width), ranges (least, most), `p` a probability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs)] // the fields are those of torchvision and timm
pub enum Transform {
    /// torchvision's: up to ten draws of an area and an aspect ratio (width over height), then the largest centred crop
    /// within the ratios; the crop is resized.
    RandomResizedCrop { size: (usize, usize), scale: (f64, f64), ratio: (f64, f64), filter: Interpolation },
    /// MAE's for linear probing: one draw, sides clamped to the image.
    RandomResizedCropOnce { size: (usize, usize), scale: (f64, f64), ratio: (f64, f64), filter: Interpolation },
    /// The shorter side to this length.
    Resize { size: usize, filter: Filter },
    /// Both sides, whatever the aspect ratio: timm's crop mode `squash`.
    ResizeTo { size: (usize, usize), filter: Filter },
    /// Aspect kept, so that the image covers (longest 0) or fits into (longest 1) the size.
    ResizeKeepRatio { size: (usize, usize), longest: f64, filter: Filter },
    /// OpenCV's bilinear without antialiasing.
    ResizeOpencv { size: (usize, usize) },
    /// A crop around the centre; images that are smaller are an error.
    CenterCrop { size: (usize, usize) },
    /// A crop whose place is given by shares of what is left over: (0, 0) the upper left corner, (1, 1) the lower right.
    CropAt { size: (usize, usize), y: f64, x: f64 },
    /// The largest square around the centre.
    CenterSquare,
    /// A crop around the centre, with a border where the image is smaller: timm's crop mode `border`.
    CenterCropOrPad { size: (usize, usize), fill: [u8; 3] },
    /// A crop at a random place, after a border of `padding` pixels on every side.
    RandomCrop { size: (usize, usize), padding: usize, mode: PadMode, fill: [u8; 3] },
    /// Mirrors left and right.
    HorizontalFlip { p: f64 },
    /// Mirrors top and bottom.
    VerticalFlip { p: f64 },
    /// Brightness, contrast and saturation by a factor from 1 - x to 1 + x, hue by a shift from -x to x, in random order.
    ColorJitter { brightness: f64, contrast: f64, saturation: f64, hue: f64, p: f64 },
    /// To gray.
    Grayscale { p: f64 },
    /// Pillow's Gaussian blur.
    GaussianBlur { sigma: (f64, f64), p: f64 },
    /// Adds N(0, std) to every value, std in units of 255.
    GaussianNoise { std: f64, p: f64 },
    /// Squares of one colour, centred anywhere (T. DeVries and G. Taylor, arXiv 1708.04552).
    Cutout { count: usize, length: usize, fill: [u8; 3] },
    /// An operation with fixed parameters.
    Sometimes { op: Op, p: f64 },
    /// Rotation by an angle in degrees.
    RandomRotation { degrees: (f64, f64), filter: Filter, fill: [u8; 3] },
    /// torchvision's: rotation in degrees, shift as a share of the sides, scale, shear in degrees.
    RandomAffine {
        degrees: (f64, f64),
        translate: (f64, f64),
        scale: (f64, f64),
        shear: (f64, f64),
        filter: Filter,
        fill: [u8; 3],
    },
    /// torchvision's: each corner moves inwards by up to half of `distortion`.
    RandomPerspective { distortion: f64, p: f64, filter: Filter, fill: [u8; 3] },
    /// AutoAugment, RandAugment, AugMix or TrivialAugment.
    Policy {
        policy: Policy,
        #[serde(default)]
        hints: PolicyHints,
    },
}

/// A rectangle: (x, y, width, height).
pub(crate) type Rect = (usize, usize, usize, usize);

/// The crop of [`Transform::RandomResizedCrop`].
fn random_crop(w: usize, h: usize, scale: (f64, f64), ratio: (f64, f64), key: Key) -> Rect {
    let mut d = Draw::new(key);
    let area = (w * h) as f64;
    for _ in 0..10 {
        let (cw, ch) = crop_sides(area, scale, ratio, &mut d);
        if cw > 0 && ch > 0 && cw <= w && ch <= h {
            let y = d.below(h - ch + 1);
            let x = d.below(w - cw + 1);
            return (x, y, cw, ch);
        }
    }
    let aspect = w as f64 / h as f64;
    let (cw, ch) = if aspect < ratio.0 {
        (w, (w as f64 / ratio.0).round_ties_even() as usize)
    } else if aspect > ratio.1 {
        ((h as f64 * ratio.1).round_ties_even() as usize, h)
    } else {
        (w, h)
    };
    let (cw, ch) = (cw.clamp(1, w), ch.clamp(1, h));
    ((w - cw) / 2, (h - ch) / 2, cw, ch)
}

fn crop_sides(area: f64, scale: (f64, f64), ratio: (f64, f64), d: &mut Draw) -> (usize, usize) {
    let target = area * d.between(scale.0, scale.1);
    let aspect = d.between(ratio.0.ln(), ratio.1.ln()).exp();
    ((target * aspect).sqrt().round_ties_even() as usize, (target / aspect).sqrt().round_ties_even() as usize)
}

/// The crop of [`Transform::RandomResizedCropOnce`].
fn crop_once(w: usize, h: usize, scale: (f64, f64), ratio: (f64, f64), key: Key) -> Rect {
    let mut d = Draw::new(key);
    let (cw, ch) = crop_sides((w * h) as f64, scale, ratio, &mut d);
    let (cw, ch) = (cw.clamp(1, w), ch.clamp(1, h));
    let y = d.below(h - ch + 1);
    let x = d.below(w - cw + 1);
    (x, y, cw, ch)
}

/// What a random crop comes to for one image: the part, the output size, the filter.
pub(crate) struct Cropped {
    pub(crate) part: Rect,
    pub(crate) size: (usize, usize),
    pub(crate) filter: Filter,
}

/// The offset of a centred part: half the rest, ties to even as Python rounds.
fn middle(outer: usize, inner: usize) -> usize {
    ((outer - inner) as f64 / 2.0).round_ties_even() as usize
}

impl Transform {
    /// The crop of a `w` x `h` image, where the transform is a random crop with resizing.
    pub(crate) fn cropped(&self, w: usize, h: usize, key: Key) -> Option<Cropped> {
        let (Transform::RandomResizedCrop { size, filter, .. } | Transform::RandomResizedCropOnce { size, filter, .. }) =
            self
        else {
            return None;
        };
        let filter = match filter {
            Interpolation::Fixed(f) => *f,
            Interpolation::Random => Draw::new(key.child("filter")).filter(None),
        };
        let part = match *self {
            Transform::RandomResizedCrop { scale, ratio, .. } => random_crop(w, h, scale, ratio, key),
            Transform::RandomResizedCropOnce { scale, ratio, .. } => crop_once(w, h, scale, ratio, key),
            _ => return None,
        };
        Some(Cropped { part, size: *size, filter })
    }

    /// Whether a flip happens, where the transform is a horizontal flip.
    pub(crate) fn flips(&self, key: Key) -> Option<bool> {
        match self {
            Transform::HorizontalFlip { p } => Some(Draw::new(key).uniform() < *p),
            _ => None,
        }
    }

    /// Applies the step with the draws of `key`.
    ///
    /// # Errors
    /// When the image does not fit, such as one smaller than a centre crop.
    pub fn apply(&self, image: Image, key: Key) -> Result<Image> {
        let (w, h) = (image.width, image.height);
        match self {
            Transform::RandomResizedCrop { .. } | Transform::RandomResizedCropOnce { .. } => {
                let Some(c) = self.cropped(w, h, key) else { return Ok(image) };
                let (x, y, cw, ch) = c.part;
                let resize = Op::Resize { width: c.size.1, height: c.size.0, filter: c.filter };
                return resize.apply(image.crop(x, y, cw, ch)?);
            }
            Transform::HorizontalFlip { .. } => {
                return if self.flips(key) == Some(true) { Op::FlipHorizontal.apply(image) } else { Ok(image) };
            }
            Transform::Policy { policy, hints } => return policy.apply(image, hints, key),
            _ => {}
        }
        let noise = key.child("noise");
        let d = &mut Draw::new(key);
        let sometimes = |d: &mut Draw, p: f64| p >= 1.0 || d.uniform() < p;
        match self {
            Transform::RandomResizedCrop { .. }
            | Transform::RandomResizedCropOnce { .. }
            | Transform::HorizontalFlip { .. }
            | Transform::Policy { .. } => Ok(image), // done above
            &Transform::Resize { size, filter } => {
                // The longer side truncates, as torchvision's does.
                let long = |long: usize, short: usize| (size as f64 * long as f64 / short as f64) as usize;
                let (width, height) = if w <= h { (size, long(h, w)) } else { (long(w, h), size) };
                Op::Resize { width, height, filter }.apply(image)
            }
            &Transform::ResizeTo { size: (height, width), filter } => Op::Resize { width, height, filter }.apply(image),
            &Transform::ResizeKeepRatio { size: (th, tw), longest, filter } => {
                let (rh, rw) = (h as f64 / th as f64, w as f64 / tw as f64);
                let ratio = rh.max(rw) * longest + rh.min(rw) * (1.0 - longest);
                let side = |n: usize| (n as f64 / ratio).round_ties_even() as usize;
                Op::Resize { width: side(w), height: side(h), filter }.apply(image)
            }
            &Transform::ResizeOpencv { size: (height, width) } => Op::ResizeOpencv { width, height }.apply(image),
            &Transform::CenterCrop { size: (ch, cw) } => {
                if w < cw || h < ch {
                    return Err(Error::Decode(format!("the image, {w}x{h}, is smaller than the crop, {cw}x{ch}")));
                }
                image.crop(middle(w, cw), middle(h, ch), cw, ch)
            }
            &Transform::CropAt { size: (ch, cw), y, x } => {
                if w < cw || h < ch {
                    return Err(Error::Decode(format!("the image, {w}x{h}, is smaller than the crop, {cw}x{ch}")));
                }
                let at = |left: usize, share: f64| (left as f64 * share.clamp(0.0, 1.0)).round() as usize;
                image.crop(at(w - cw, x), at(h - ch, y), cw, ch)
            }
            Transform::CenterSquare => {
                let side = w.min(h);
                image.crop((w - side) / 2, (h - side) / 2, side, side)
            }
            &Transform::CenterCropOrPad { size: (ch, cw), fill } => {
                let (mw, mh) = (cw.saturating_sub(w), ch.saturating_sub(h));
                let sides = [mw / 2, mh / 2, mw.div_ceil(2), mh.div_ceil(2)];
                let image = Op::Pad { sides, mode: PadMode::Constant, fill }.apply(image)?;
                image.crop(middle(image.width, cw), middle(image.height, ch), cw, ch)
            }
            &Transform::RandomCrop { size: (ch, cw), padding, mode, fill } => {
                let image = Op::Pad { sides: [padding; 4], mode, fill }.apply(image)?;
                let (w, h) = (image.width, image.height);
                if w < cw || h < ch {
                    return Err(Error::Decode(format!(
                        "the image, {w}x{h} with its border, is smaller than the crop, {cw}x{ch}"
                    )));
                }
                let y = d.below(h - ch + 1);
                let x = d.below(w - cw + 1);
                image.crop(x, y, cw, ch)
            }
            &Transform::VerticalFlip { p } => {
                if sometimes(d, p) {
                    Op::FlipVertical.apply(image)
                } else {
                    Ok(image)
                }
            }
            &Transform::ColorJitter { brightness, contrast, saturation, hue, p } => {
                if !sometimes(d, p) {
                    return Ok(image);
                }
                let factor = |d: &mut Draw, x: f64| d.between((1.0 - x).max(0.0), 1.0 + x);
                let mut ops = vec![];
                if brightness > 0.0 {
                    ops.push(Op::Brightness { factor: factor(d, brightness) });
                }
                if contrast > 0.0 {
                    ops.push(Op::Contrast { factor: factor(d, contrast) });
                }
                if saturation > 0.0 {
                    ops.push(Op::Color { factor: factor(d, saturation) });
                }
                if hue > 0.0 {
                    ops.push(Op::Hue { shift: d.between(-hue, hue) });
                }
                for i in (1..ops.len()).rev() {
                    ops.swap(i, d.below(i + 1));
                }
                ops.into_iter().try_fold(image, |image, op| op.apply(image))
            }
            &Transform::Grayscale { p } => {
                if sometimes(d, p) {
                    Op::Grayscale.apply(image)
                } else {
                    Ok(image)
                }
            }
            &Transform::GaussianBlur { sigma, p } => {
                if !sometimes(d, p) {
                    return Ok(image);
                }
                Op::GaussianBlur { radius: d.between(sigma.0, sigma.1) }.apply(image)
            }
            &Transform::GaussianNoise { std, p } => {
                if !sometimes(d, p) {
                    return Ok(image);
                }
                let noise = noise.normal(image.data.len());
                let mut image = image;
                for (v, n) in image.data.iter_mut().zip(noise) {
                    *v = (f32::from(*v) + n * (std * 255.0) as f32).round().clamp(0.0, 255.0) as u8;
                }
                Ok(image)
            }
            &Transform::Cutout { count, length, fill } => {
                let mut image = image;
                let hole = Image::filled(1, 1, image.channels, fill).data;
                for _ in 0..count {
                    let (cy, cx) = (d.below(h), d.below(w));
                    let span = |c: usize, n: usize| c.saturating_sub(length / 2)..(c + length.div_ceil(2)).min(n);
                    for y in span(cy, h) {
                        for x in span(cx, w) {
                            image.data[(y * w + x) * hole.len()..][..hole.len()].copy_from_slice(&hole);
                        }
                    }
                }
                Ok(image)
            }
            Transform::Sometimes { op, p } => {
                if sometimes(d, *p) {
                    op.apply(image)
                } else {
                    Ok(image)
                }
            }
            &Transform::RandomRotation { degrees, filter, fill } => {
                Op::Rotate { degrees: d.between(degrees.0, degrees.1), filter, fill }.apply(image)
            }
            &Transform::RandomAffine { degrees, translate, scale, shear, filter, fill } => {
                let angle = d.between(degrees.0, degrees.1);
                let tx = d.between(-translate.0 * w as f64, translate.0 * w as f64).round_ties_even();
                let ty = d.between(-translate.1 * h as f64, translate.1 * h as f64).round_ties_even();
                let (scale, shear) = (d.between(scale.0, scale.1), d.between(shear.0, shear.1));
                Op::Affine { matrix: inverse_affine(w, h, angle, (tx, ty), scale, (shear, 0.0)), filter, fill }
                    .apply(image)
            }
            &Transform::RandomPerspective { distortion, p, filter, fill } => {
                if !sometimes(d, p) {
                    return Ok(image);
                }
                let most = |n: usize| (distortion * (n / 2) as f64) as usize + 1;
                let (dx, dy) = (most(w), most(h));
                let (right, bottom) = (w - 1, h - 1);
                let mut corner = |far_x: bool, far_y: bool| {
                    let (x, y) = (d.below(dx), d.below(dy));
                    let at =
                        |far: bool, edge: usize, by: usize| if far { edge.saturating_sub(by) } else { by.min(edge) };
                    (at(far_x, right, x) as f64, at(far_y, bottom, y) as f64)
                };
                let to = [corner(false, false), corner(true, false), corner(true, true), corner(false, true)];
                let (r, b) = (right as f64, bottom as f64);
                match perspective([(0.0, 0.0), (r, 0.0), (r, b), (0.0, b)], to) {
                    Some(coefficients) => Op::Perspective { coefficients, filter, fill }.apply(image),
                    None => Ok(image), // corners that met: a degenerate quadrangle shows nothing
                }
            }
        }
    }

    /// Checks ranges that would otherwise fail on the first image.
    ///
    /// # Errors
    /// Names the transform and the value.
    pub fn check(&self) -> Result<()> {
        let fail = |what: &str| Err(Error::Config(format!("{self}: {what}")));
        let value = serde_json::to_value(self).map_err(|e| Error::Config(e.to_string()))?;
        let fields = value.as_object().and_then(|o| o.values().next()).and_then(serde_json::Value::as_object);
        for (name, v) in fields.into_iter().flatten() {
            let numbers: Vec<f64> = match v {
                serde_json::Value::Array(a) => a.iter().filter_map(serde_json::Value::as_f64).collect(),
                v => v.as_f64().into_iter().collect(),
            };
            if v.is_null() || v.as_array().is_some_and(|a| a.iter().any(serde_json::Value::is_null)) {
                return fail(&format!("{name} is not a number"));
            }
            match (name.as_str(), numbers.as_slice()) {
                ("p", &[p]) if !(0.0..=1.0).contains(&p) => return fail("p is not a probability"),
                ("size", n) if n.contains(&0.0) => return fail("a size of 0"),
                ("scale" | "ratio", &[lo, hi]) if !(lo > 0.0 && lo <= hi) => {
                    return fail(&format!("{name} is not a range above 0"));
                }
                ("sigma", &[lo, hi]) if !(lo >= 0.0 && lo <= hi) => return fail("sigma is not a range"),
                ("brightness" | "contrast" | "saturation" | "std", &[x]) if x < 0.0 => {
                    return fail(&format!("{name} is negative"));
                }
                ("hue", &[x]) if !(0.0..=0.5).contains(&x) => return fail("hue is not from 0 to 0.5"),
                ("distortion", &[x]) if !(0.0..=1.0).contains(&x) => return fail("distortion is not from 0 to 1"),
                _ => {}
            }
        }
        Ok(())
    }
}

/// torchvision's inverse affine matrix about the centre.
fn inverse_affine(w: usize, h: usize, angle: f64, (tx, ty): (f64, f64), scale: f64, shear: (f64, f64)) -> [f64; 6] {
    let (rot, sx, sy) = (angle.to_radians(), shear.0.to_radians(), shear.1.to_radians());
    let (cx, cy) = (w as f64 * 0.5, h as f64 * 0.5);
    let a = (rot - sy).cos() / sy.cos();
    let b = -(rot - sy).cos() * sx.tan() / sy.cos() - rot.sin();
    let c = (rot - sy).sin() / sy.cos();
    let d = -(rot - sy).sin() * sx.tan() / sy.cos() + rot.cos();
    let [m0, m1, m3, m4] = [d, -b, -c, a].map(|v| v / scale);
    [m0, m1, m0 * (-cx - tx) + m1 * (-cy - ty) + cx, m3, m4, m3 * (-cx - tx) + m4 * (-cy - ty) + cy]
}

impl fmt::Display for Transform {
    /// `name(field: value, ...)`, as in the serialised form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = serde_json::to_value(self).map_err(|_| fmt::Error)?;
        let (name, fields) = value.as_object().and_then(|o| o.iter().next()).ok_or(fmt::Error)?;
        write!(f, "{name}(")?;
        for (i, (key, v)) in fields.as_object().into_iter().flatten().enumerate() {
            write!(f, "{}{key}: {}", if i > 0 { ", " } else { "" }, v.to_string().replace('"', ""))?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(w: usize, h: usize) -> Image {
        Image::new(w, h, 3, (0..w * h * 3).map(|i| (i * 31 % 256) as u8).collect()).unwrap()
    }

    #[test]
    fn crops_stay_inside_and_follow_the_ranges() {
        for (w, h) in [(100, 80), (500, 3), (1, 1), (3, 400)] {
            for i in 0..500 {
                for (x, y, cw, ch) in [
                    random_crop(w, h, (0.2, 1.0), (0.75, 4.0 / 3.0), Key::new(i)),
                    crop_once(w, h, (0.2, 1.0), (0.75, 4.0 / 3.0), Key::new(i)),
                ] {
                    assert!(cw >= 1 && ch >= 1 && x + cw <= w && y + ch <= h);
                }
                if (w, h) == (100, 80) {
                    let (_, _, cw, ch) = random_crop(w, h, (0.2, 1.0), (0.75, 4.0 / 3.0), Key::new(i));
                    let (area, ratio) = ((cw * ch) as f64 / 8000.0, cw as f64 / ch as f64);
                    assert!((0.19..=1.0).contains(&area) && (0.72..1.38).contains(&ratio), "{area} {ratio}");
                }
            }
        }
    }

    #[test]
    fn the_centre_crop_needs_a_large_enough_image_and_the_other_pads() {
        let t = Transform::CenterCrop { size: (4, 4) };
        assert!(t.apply(image(3, 9), Key::new(0)).unwrap_err().to_string().contains("smaller than the crop"));
        assert_eq!(t.apply(image(4, 4), Key::new(0)).unwrap(), image(4, 4));
        assert_eq!(
            Transform::CenterSquare.apply(image(3, 8), Key::new(0)).unwrap(),
            image(3, 8).crop(0, 2, 3, 3).unwrap()
        );
        for (y, x, at) in [(0.0, 0.0, (0, 0)), (1.0, 0.0, (0, 5)), (0.0, 1.0, (2, 0)), (0.5, 0.5, (1, 3))] {
            let t = Transform::CropAt { size: (3, 1), y, x };
            assert_eq!(t.apply(image(3, 8), Key::new(0)).unwrap(), image(3, 8).crop(at.0, at.1, 1, 3).unwrap());
        }
        let t = Transform::CenterCropOrPad { size: (4, 6), fill: [9, 8, 7] };
        let out = t.apply(image(3, 9), Key::new(0)).unwrap();
        assert_eq!((out.width, out.height, &out.data[..3]), (6, 4, &[9, 8, 7][..]));
    }

    fn every() -> Vec<Transform> {
        let (size, fill, filter) = ((6, 5), [1, 2, 3], Filter::Bilinear);
        let (scale, ratio) = ((0.3, 1.0), (0.75, 1.25));
        vec![
            Transform::RandomResizedCrop { size, scale, ratio, filter: Interpolation::Random },
            Transform::RandomResizedCropOnce { size, scale, ratio, filter: Filter::Bicubic.into() },
            Transform::RandomCrop { size, padding: 2, mode: PadMode::Reflect, fill },
            Transform::HorizontalFlip { p: 0.5 },
            Transform::VerticalFlip { p: 0.5 },
            Transform::ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1, p: 0.8 },
            Transform::Grayscale { p: 0.5 },
            Transform::GaussianBlur { sigma: (0.1, 2.0), p: 0.5 },
            Transform::GaussianNoise { std: 0.1, p: 0.5 },
            Transform::Cutout { count: 1, length: 4, fill },
            Transform::Sometimes { op: Op::Invert, p: 0.5 },
            Transform::RandomRotation { degrees: (-30.0, 30.0), filter, fill },
            Transform::RandomAffine {
                degrees: (-10.0, 10.0),
                translate: (0.1, 0.1),
                scale: (0.9, 1.1),
                shear: (-5.0, 5.0),
                filter,
                fill,
            },
            Transform::RandomPerspective { distortion: 0.5, p: 0.9, filter, fill },
            Transform::Policy { policy: "rand-m9-mstd0.5-inc1".parse().unwrap(), hints: PolicyHints::default() },
        ]
    }

    #[test]
    fn every_transform_repeats_with_its_key_varies_without_and_survives_its_text() {
        for t in every() {
            t.check().unwrap();
            let text = serde_json::to_string(&t).unwrap();
            assert_eq!(serde_json::from_str::<Transform>(&text).unwrap(), t, "{text}");
            assert!(t.to_string().contains('('));
            let run = |i: u64, w: usize, h: usize| t.apply(image(w, h), Key::new(i)).unwrap();
            let outs: Vec<Image> = (0..30).map(|i| run(i, 12, 10)).collect();
            assert_eq!(outs[3], run(3, 12, 10), "{t}");
            assert!(outs.iter().any(|o| o != &outs[0]), "{t} varies");
            for i in 0..20 {
                run(i, 7, 6);
                t.apply(Image::new(9, 8, 1, vec![7; 72]).unwrap(), Key::new(i)).unwrap();
            }
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        for (t, word) in [
            (Transform::HorizontalFlip { p: 1.5 }, "probability"),
            (Transform::Resize { size: 0, filter: Filter::Bicubic }, "size of 0"),
            (
                Transform::RandomResizedCrop {
                    size: (1, 1),
                    scale: (0.0, 1.0),
                    ratio: (1.0, 1.0),
                    filter: Filter::Box.into(),
                },
                "scale",
            ),
            (Transform::GaussianBlur { sigma: (2.0, 1.0), p: 1.0 }, "sigma"),
            (Transform::GaussianNoise { std: f64::NAN, p: 1.0 }, "std"),
        ] {
            let e = t.check().unwrap_err().to_string();
            assert!(e.contains(word), "{e}");
        }
    }
}
