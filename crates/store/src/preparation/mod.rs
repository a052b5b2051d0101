//! How a model's images are prepared, and where each setting comes from.

mod beside;
mod display;
mod known;
mod processor;
mod timm;
mod transformers;

pub use beside::Found;

use serde::{Deserialize, Serialize};

/// How images are prepared for a model, and what its classes are called. Nothing is filled in silently: what is not known is `None`, and
/// each setting says where it comes from. `Display` writes it as a line for the log.
///
/// The preparation of an image is: decode to `channels` channels; resize with `interpolation` as `crop_mode` says, so that the crop keeps
/// the share `crop_pct` of each side; crop the centre of `size`; bring the pixels to 0..1; subtract `mean` and divide by `std`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Preparation {
    /// Height and width of the image that the model sees, in pixels.
    pub size: Option<Setting<(usize, usize)>>,
    /// The number of channels, such as 3 for RGB.
    pub channels: Option<Setting<usize>>,
    /// The mean that is subtracted from each channel, for pixels from 0 to 1.
    pub mean: Option<Setting<Vec<f32>>>,
    /// The standard deviation that each channel is divided by, for pixels from 0 to 1.
    pub std: Option<Setting<Vec<f32>>>,
    /// The share of the resized image's side that the crop keeps, in (0, 1]: 0.875 resizes to 256 for a crop of 224.
    pub crop_pct: Option<Setting<f64>>,
    /// How the image is fitted to the crop.
    pub crop_mode: Option<Setting<CropMode>>,
    /// The filter of the resize.
    pub interpolation: Option<Setting<Interpolation>>,
    /// The size at which the makers of the weights evaluate them, where it differs from that of training.
    pub test_size: Option<Setting<(usize, usize)>>,
    /// The share that the crop keeps at `test_size`.
    pub test_crop_pct: Option<Setting<f64>>,
    /// The names of the classes, in the order of the model's outputs.
    pub classes: Option<Setting<Vec<String>>>,
}

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Where it comes from.
    pub origin: Origin,
}

impl<T> Setting<T> {
    /// A value with its origin.
    pub fn new(value: T, origin: Origin) -> Self {
        Setting { value, origin }
    }
}

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A flag of the program's user, such as `--mean`.
    Flag(String),
    /// The record of one of our own checkpoints.
    Record,
    /// A file beside the weights, such as `config.json`.
    File(String),
    /// What a library knows of published weights.
    Table {
        /// The library, such as timm.
        library: String,
        /// Its name for the weights or, for transformers, for the image processor.
        name: String,
    },
    /// A split of the data, such as `train`, whose classes a model was trained on.
    Split(String),
    /// Nothing says so; it is what most models of this kind want.
    Assumed,
}

/// How an image is fitted to the crop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CropMode {
    /// The short side is resized and the centre is cut out.
    Center,
    /// Both sides are resized, so that the image's shape is not kept, and the centre is cut out.
    Squash,
    /// The long side is resized, and a border fills the rest.
    Border,
}

/// The filter of a resize.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Pillow's nearest neighbour.
    Nearest,
    /// Pillow's box filter.
    Box,
    /// Pillow's triangle filter, which averages over all pixels where it makes an image smaller.
    Bilinear,
    /// Pillow's Hamming window.
    Hamming,
    /// Pillow's cubic filter.
    Bicubic,
    /// Pillow's Lanczos window over three pixels.
    Lanczos,
    /// OpenCV's bilinear interpolation, which looks at four pixels, however much smaller the image becomes.
    OpencvBilinear,
}

/// ImageNet's means per channel, RGB.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// ImageNet's standard deviations per channel, RGB.
const STD: [f32; 3] = [0.229, 0.224, 0.225];

impl Preparation {
    /// These settings, with those that are not known taken from `other`. One mean for all channels is written out for each as soon as their
    /// number is known.
    pub fn or(self, other: Preparation) -> Preparation {
        // The test size and its crop belong together, as do mean and deviation: halves of two descriptions would fit neither.
        let (test_size, test_crop_pct) = match self.test_size.is_some() || self.test_crop_pct.is_some() {
            true => (self.test_size, self.test_crop_pct),
            // A size that was given goes before one that others evaluate at.
            false if self.size.is_some() => (None, None),
            false => (other.test_size, other.test_crop_pct),
        };
        let (mean, std) = match (self.mean, self.std) {
            (None, None) => (other.mean, other.std),
            (mean, std) => {
                (mean.clone().or_else(|| fitting(&std, other.mean)), std.or_else(|| fitting(&mean, other.std)))
            }
        };
        let mut all = Preparation {
            size: self.size.or(other.size),
            channels: self.channels.or(other.channels),
            mean,
            std,
            crop_pct: self.crop_pct.or(other.crop_pct),
            crop_mode: self.crop_mode.or(other.crop_mode),
            interpolation: self.interpolation.or(other.interpolation),
            test_size,
            test_crop_pct,
            classes: self.classes.or(other.classes),
        };
        all.spread();
        all
    }

    /// Writes out a mean or deviation that is one for all channels.
    fn spread(&mut self) {
        let Some(channels) = self.channels.as_ref().map(|c| c.value) else { return };
        for list in [&mut self.mean, &mut self.std].into_iter().flatten().filter(|l| l.value.len() == 1) {
            list.value = vec![list.value[0]; channels];
        }
    }

    /// What is assumed where nothing is known: ImageNet's statistics for RGB and their mean over the channels for other images, a bicubic
    /// resize, and a centre crop that keeps 0.875 of the side up to 224 pixels and all of it above.
    ///
    /// ```
    /// use candlelight_store::Preparation;
    /// let line = Preparation::assumed((224, 224), 3).to_string();
    /// assert!(line.contains("assumed"), "{line}");
    /// ```
    pub fn assumed(size: (usize, usize), channels: usize) -> Preparation {
        fn assumed<T>(value: T) -> Option<Setting<T>> {
            Some(Setting::new(value, Origin::Assumed))
        }
        let rgb = channels == 3;
        Preparation {
            size: assumed(size),
            channels: assumed(channels),
            mean: assumed(if rgb { MEAN.to_vec() } else { vec![0.449; channels] }),
            std: assumed(if rgb { STD.to_vec() } else { vec![0.226; channels] }),
            crop_pct: assumed(if size.0.max(size.1) <= 224 { 0.875 } else { 1.0 }),
            crop_mode: assumed(CropMode::Center),
            interpolation: assumed(Interpolation::Bicubic),
            ..Preparation::default()
        }
    }

    /// Height and width that the image is resized to before the crop of `size`, as timm computes them: `floor(size / crop_pct)`. `None`
    /// where the size or the share is not known.
    pub fn resized(&self) -> Option<(usize, usize)> {
        let (size, pct) = (self.size.as_ref()?.value, self.crop_pct.as_ref()?.value);
        let side = |n: usize| (n as f64 / pct) as usize;
        Some((side(size.0), side(size.1)))
    }

    /// The settings of the size at which the makers of the weights evaluate them, if they have one of their own.
    pub fn at_test_size(mut self) -> Preparation {
        if let Some(size) = self.test_size.take() {
            self.size = Some(size);
        }
        if let Some(pct) = self.test_crop_pct.take() {
            self.crop_pct = Some(pct);
        }
        self
    }

    /// Checks that the settings can be meant and fit one another. One mean for all channels is written out for each.
    ///
    /// # Errors
    /// Names the setting, what was found and what is expected.
    pub fn checked(mut self) -> Result<Preparation, String> {
        let channels = self.channels.as_ref().map(|c| c.value);
        if channels == Some(0) {
            return Err("channels: expected at least 1, found 0".into());
        }
        for size in [&self.size, &self.test_size].into_iter().flatten() {
            let (h, w) = size.value;
            if h == 0 || w == 0 || h.max(w) > 1 << 16 {
                return Err(format!("size: expected a height and a width from 1 to 65536 pixels, found {h} x {w}"));
            }
        }
        for pct in [&self.crop_pct, &self.test_crop_pct].into_iter().flatten() {
            if !(pct.value > 0.0 && pct.value <= 1.0) {
                return Err(format!("crop_pct: expected a share above 0 and up to 1, found {}", pct.value));
            }
        }
        self.spread();
        for (name, list) in [("mean", &self.mean), ("std", &self.std)] {
            let Some(list) = list else { continue };
            if channels.is_some_and(|c| c != list.value.len()) {
                let (found, c) = (list.value.len(), channels.unwrap_or(0));
                return Err(format!("{name}: expected one value for each of the {c} channels, found {found}"));
            }
            // Beyond 1 the pixels were meant from 0 to 255, and no scale is certain then.
            let fits = |v: &f32| if name == "mean" { (0.0..=1.0).contains(v) } else { *v > 0.0 && *v <= 1.0 };
            if let Some(v) = list.value.iter().find(|v| !fits(v)) {
                let range = if name == "mean" { "from 0 to 1" } else { "above 0 and up to 1" };
                return Err(format!("{name}: expected values {range}, for pixels from 0 to 1, found {v}"));
            }
        }
        match (&self.mean, &self.std) {
            (Some(mean), Some(std)) if mean.value.len() != std.value.len() => {
                let (m, s) = (mean.value.len(), std.value.len());
                Err(format!("mean and std: expected as many of one as of the other, found {m} and {s}"))
            }
            _ => Ok(self),
        }
    }
}

/// The other list of a pair, if it has as many values.
fn fitting(one: &Option<Setting<Vec<f32>>>, other: Option<Setting<Vec<f32>>>) -> Option<Setting<Vec<f32>>> {
    other.filter(|o| one.as_ref().is_some_and(|s| s.value.len() == o.value.len()))
}

impl std::str::FromStr for CropMode {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        serde_json::from_value(s.into()).map_err(|_| format!("`{s}`: expected center, squash or border"))
    }
}

impl std::str::FromStr for Interpolation {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let expected = "nearest, box, bilinear, hamming, bicubic, lanczos or opencv_bilinear";
        serde_json::from_value(s.into()).map_err(|_| format!("`{s}`: expected {expected}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag<T>(value: T) -> Option<Setting<T>> {
        Some(Setting::new(value, Origin::Flag("--x".into())))
    }

    #[test]
    fn what_is_given_goes_before_what_is_known_and_pairs_stay_together() {
        let given = Preparation { size: flag((96, 64)), std: flag(vec![0.25; 3]), ..Preparation::default() };
        let known = Preparation { test_size: flag((288, 288)), ..Preparation::assumed((224, 224), 3) };
        let all = given.clone().or(known);
        assert_eq!((all.size.clone().unwrap().value, all.test_size.clone()), ((96, 64), None));
        assert_eq!(all.mean.as_ref().unwrap().value, MEAN, "a mean of as many channels completes the pair");
        let gray = given.or(Preparation::assumed((28, 28), 1));
        assert_eq!((gray.mean, gray.std.unwrap().value.len()), (None, 3));
        assert_eq!(all.resized(), Some((109, 73)));
    }

    #[test]
    fn settings_that_cannot_be_meant_are_told() {
        let wrong = |p: Preparation| p.checked().unwrap_err();
        let p = || Preparation::assumed((224, 224), 3);
        assert!(wrong(Preparation { mean: flag(vec![123.675, 116.28, 103.53]), ..p() }).contains("found 123.675"));
        assert!(wrong(Preparation { std: flag(vec![0.2; 2]), ..p() }).contains("found 2"));
        assert!(wrong(Preparation { std: flag(vec![0.0; 3]), ..p() }).contains("std"));
        assert!(wrong(Preparation { crop_pct: flag(1.2), ..p() }).contains("crop_pct"));
        assert!(wrong(Preparation { size: flag((0, 5)), ..p() }).contains("0 x 5"));
        let one = Preparation { mean: flag(vec![0.5]), ..p() }.checked().unwrap();
        assert_eq!(one.mean.unwrap().value, [0.5; 3]);
    }

    #[test]
    fn a_preparation_survives_its_record() {
        let p = Preparation {
            classes: flag(vec!["cat".into()]),
            crop_pct: flag(224.0 / 242.0),
            ..Preparation::assumed((5, 7), 2)
        };
        let back: Preparation = serde_json::from_str(&serde_json::to_string(&p).unwrap()).unwrap();
        assert_eq!(back, p);
        assert_eq!(serde_json::from_str::<Preparation>("{}").unwrap(), Preparation::default());
        assert_eq!("opencv_bilinear".parse(), Ok(Interpolation::OpencvBilinear));
        assert!("cubic".parse::<Interpolation>().unwrap_err().contains("bicubic"));
    }
}
