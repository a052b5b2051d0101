//! Single augmentations, each a function of an image and a key.

mod color;
mod crop;
mod geometric;
mod named;

use crate::augment::leveled::PolicyHints;
use crate::augment::policy::Policy;
use crate::error::{Error, Result};
use crate::image::{Draw, Filter, Image, Op, PadMode, refused};
use candlelight_kernels::Key;
use crop::Cropped;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a crop is resized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Bilinear or bicubic, drawn for each image, as timm's random training interpolation.
    Random,
    /// Always this filter.
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
    /// torchvision's random crop: up to ten draws of an area and an aspect ratio (width over height), then the largest
    /// centred crop within the ratios; the crop is resized.
    RandomResizedCrop { size: (usize, usize), scale: (f64, f64), ratio: (f64, f64), filter: Interpolation },
    /// MAE's random crop for linear probing: one draw, with sides clamped to the image; the crop is resized.
    RandomResizedCropOnce { size: (usize, usize), scale: (f64, f64), ratio: (f64, f64), filter: Interpolation },
    /// Resizes the shorter side to this length and keeps the aspect ratio.
    Resize { size: usize, filter: Filter },
    /// Resizes both sides, whatever the aspect ratio: timm's crop mode `squash`.
    ResizeTo { size: (usize, usize), filter: Filter },
    /// Resizes with the aspect ratio kept, so that the image covers (longest 0) or fits into (longest 1) the size.
    ResizeKeepRatio { size: (usize, usize), longest: f64, filter: Filter },
    /// Resizes with OpenCV's bilinear interpolation, without antialiasing.
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
    /// Turns the image gray.
    Grayscale { p: f64 },
    /// Pillow's Gaussian blur, with a drawn standard deviation.
    GaussianBlur { sigma: (f64, f64), p: f64 },
    /// Adds a draw from N(0, std) to every value; std is in units of 255.
    GaussianNoise { std: f64, p: f64 },
    /// Paints squares of one colour that are centred anywhere (T. DeVries and G. Taylor, arXiv 1708.04552).
    Cutout { count: usize, length: usize, fill: [u8; 3] },
    /// Applies an operation with fixed parameters.
    Sometimes { op: Op, p: f64 },
    /// Rotates by a drawn angle in degrees.
    RandomRotation { degrees: (f64, f64), filter: Filter, fill: [u8; 3] },
    /// torchvision's affine map: rotation in degrees, shift as a share of the sides, scale, shear in degrees.
    RandomAffine {
        degrees: (f64, f64),
        translate: (f64, f64),
        scale: (f64, f64),
        shear: (f64, f64),
        filter: Filter,
        fill: [u8; 3],
    },
    /// torchvision's change of perspective: each corner moves inwards by up to half of `distortion`.
    RandomPerspective { distortion: f64, p: f64, filter: Filter, fill: [u8; 3] },
    /// AutoAugment, RandAugment, AugMix or TrivialAugment.
    Policy {
        policy: Policy,
        #[serde(default)]
        hints: PolicyHints,
    },
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
            Transform::RandomResizedCrop { scale, ratio, .. } => crop::random(w, h, scale, ratio, key),
            Transform::RandomResizedCropOnce { scale, ratio, .. } => crop::random_once(w, h, scale, ratio, key),
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

    /// Whether the step can work on any number of channels and on real numbers: it moves pixels and leaves colours alone.
    pub(crate) fn is_geometric(&self) -> bool {
        match self {
            Transform::ColorJitter { .. }
            | Transform::Grayscale { .. }
            | Transform::GaussianBlur { .. }
            | Transform::GaussianNoise { .. }
            | Transform::Cutout { .. }
            | Transform::Policy { .. } => false,
            Transform::Sometimes { op, .. } => op.is_geometric(),
            _ => true,
        }
    }

    /// Applies the step with the draws of `key`. Crops, changes of size, mirrors, rotations and warps accept any number of
    /// channels and real numbers; steps that change colours accept bytes with 1 or 3 channels.
    ///
    /// # Errors
    /// When the image does not fit, such as one smaller than a centre crop, or has channels that the step cannot work on.
    pub fn apply(&self, image: Image, key: Key) -> Result<Image> {
        if !image.is_plain() && !self.is_geometric() {
            let name = match self {
                Transform::Sometimes { op, .. } => op.name(),
                _ => self.to_string().split('(').next().unwrap_or_default().to_owned(),
            };
            return Err(refused(&name, &image));
        }
        match self {
            Transform::RandomResizedCrop { .. } | Transform::RandomResizedCropOnce { .. } => {
                match self.cropped(image.width, image.height, key) {
                    Some(cropped) => crop::cut_and_resize(image, &cropped),
                    None => Ok(image),
                }
            }
            &Transform::Resize { size, filter } => crop::shorter_side(image, size, filter),
            &Transform::ResizeTo { size: (height, width), filter } => Op::Resize { width, height, filter }.apply(image),
            &Transform::ResizeKeepRatio { size, longest, filter } => crop::keeping_ratio(image, size, longest, filter),
            &Transform::ResizeOpencv { size: (height, width) } => Op::ResizeOpencv { width, height }.apply(image),
            &Transform::CenterCrop { size } => crop::centre(image, size),
            &Transform::CropAt { size, y, x } => crop::at(image, size, y, x),
            Transform::CenterSquare => crop::centre_square(image),
            &Transform::CenterCropOrPad { size, fill } => crop::centre_or_pad(image, size, fill),
            &Transform::RandomCrop { size, padding, mode, fill } => {
                crop::anywhere(image, size, padding, mode, fill, &mut Draw::new(key))
            }
            Transform::HorizontalFlip { .. } => match self.flips(key) {
                Some(true) => Op::FlipHorizontal.apply(image),
                _ => Ok(image),
            },
            &Transform::VerticalFlip { p } => sometimes(p, key, image, |image, _| Op::FlipVertical.apply(image)),
            &Transform::ColorJitter { brightness, contrast, saturation, hue, p } => {
                sometimes(p, key, image, |image, d| color::jitter(image, brightness, contrast, saturation, hue, d))
            }
            &Transform::Grayscale { p } => sometimes(p, key, image, |image, _| Op::Grayscale.apply(image)),
            &Transform::GaussianBlur { sigma, p } => sometimes(p, key, image, |image, d| color::blur(image, sigma, d)),
            &Transform::GaussianNoise { std, p } => {
                let noise = key.child("noise");
                sometimes(p, key, image, |image, _| Ok(color::noise(image, std, noise)))
            }
            &Transform::Cutout { count, length, fill } => {
                Ok(color::cutout(image, count, length, fill, &mut Draw::new(key)))
            }
            Transform::Sometimes { op, p } => sometimes(*p, key, image, |image, _| op.apply(image)),
            &Transform::RandomRotation { degrees, filter, fill } => {
                geometric::rotation(image, degrees, filter, fill, &mut Draw::new(key))
            }
            &Transform::RandomAffine { degrees, translate, scale, shear, filter, fill } => {
                geometric::affine(image, degrees, translate, scale, shear, filter, fill, &mut Draw::new(key))
            }
            &Transform::RandomPerspective { distortion, p, filter, fill } => {
                sometimes(p, key, image, |image, d| geometric::perspective(image, distortion, filter, fill, d))
            }
            Transform::Policy { policy, hints } => policy.apply(image, hints, key),
        }
    }

    /// Checks ranges that would otherwise fail on the first image.
    ///
    /// # Errors
    /// Names the transform with its values, and the field that is wrong.
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
                ("p", &[p]) if !(0.0..=1.0).contains(&p) => return fail("p is not a probability from 0 to 1"),
                ("size", n) if n.contains(&0.0) => return fail("a size of 0, expected at least 1"),
                ("scale" | "ratio", &[lo, hi]) if !(lo > 0.0 && lo <= hi) => {
                    return fail(&format!("{name} is not a range above 0"));
                }
                ("sigma", &[lo, hi]) if !(lo >= 0.0 && lo <= hi) => return fail("sigma is not a range from 0 on"),
                ("brightness" | "contrast" | "saturation" | "std", &[x]) if x < 0.0 => {
                    return fail(&format!("{name} is negative, expected 0 or more"));
                }
                ("hue", &[x]) if !(0.0..=0.5).contains(&x) => return fail("hue is not from 0 to 0.5"),
                ("distortion", &[x]) if !(0.0..=1.0).contains(&x) => return fail("distortion is not from 0 to 1"),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Applies `change` with probability `p`; it goes on drawing where the decision stopped.
fn sometimes(p: f64, key: Key, image: Image, change: impl FnOnce(Image, &mut Draw) -> Result<Image>) -> Result<Image> {
    let mut d = Draw::new(key);
    if p >= 1.0 || d.uniform() < p { change(image, &mut d) } else { Ok(image) }
}

impl fmt::Display for Transform {
    /// `name(field: value, ...)`, as in the serialised form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = serde_json::to_value(self).map_err(|_| fmt::Error)?;
        // One without settings is a name alone.
        if let Some(name) = value.as_str() {
            return write!(f, "{name}()");
        }
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
    fn transforms_with_and_without_settings_are_shown() {
        assert_eq!(Transform::CenterSquare.to_string(), "center_square()");
        assert_eq!(Transform::CenterCrop { size: (4, 5) }.to_string(), "center_crop(size: [4,5])");
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
