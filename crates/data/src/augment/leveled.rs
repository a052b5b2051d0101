//! Operations whose strength is a level.

use crate::image::{Draw, Filter, Image, Op};
use serde::{Deserialize, Serialize};

/// The colour and the interpolation that the geometric operations of a policy use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyHints {
    /// Colour outside the image.
    pub fill: [u8; 3],
    /// Interpolation; `None` draws bilinear or bicubic each time.
    pub filter: Option<Filter>,
}

impl Default for PolicyHints {
    /// timm's values: 128 gray, bilinear or bicubic. Its training pipeline passes the mean colour and the crop's filter
    /// instead.
    fn default() -> Self {
        PolicyHints { fill: [128; 3], filter: None }
    }
}

/// An operation whose strength is a level from 0 to 10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leveled {
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    Posterize,
    PosterizeIncreasing,
    PosterizeOriginal,
    Solarize,
    SolarizeIncreasing,
    SolarizeAdd,
    Color,
    ColorIncreasing,
    Contrast,
    ContrastIncreasing,
    Brightness,
    BrightnessIncreasing,
    Sharpness,
    SharpnessIncreasing,
    ShearX,
    ShearY,
    TranslateXRel,
    TranslateYRel,
    Desaturate,
    GaussianBlur,
    GaussianBlurRand,
}
use Leveled as L;

/// Levels run from 0 to this.
pub(crate) const TOP: f64 = 10.0;

impl Leveled {
    /// The operation at `level`; signs are drawn.
    pub(crate) fn at(self, level: f64, translate: f64, image: &Image, hints: &PolicyHints, d: &mut Draw) -> Op {
        let part = level / TOP;
        let signed = |d: &mut Draw, v: f64| if d.uniform() > 0.5 { -v } else { v };
        let enhance = part * 1.8 + 0.1;
        let posterize = (part * 4.0) as i64;
        let solarize = ((part * 256.0) as i32).min(256);
        let bits = |b: i64| Op::Posterize { bits: b.max(0) as u32 };
        let away = |d: &mut Draw| (1.0 + signed(d, part * 0.9)).max(0.1);
        match self {
            L::AutoContrast => Op::AutoContrast,
            L::Equalize => Op::Equalize,
            L::Invert => Op::Invert,
            L::Posterize => bits(posterize),
            L::PosterizeIncreasing => bits(4 - posterize),
            L::PosterizeOriginal => bits(posterize + 4),
            L::Solarize => Op::Solarize { threshold: solarize },
            L::SolarizeIncreasing => Op::Solarize { threshold: 256 - solarize },
            L::SolarizeAdd => Op::SolarizeAdd { add: ((part * 110.0) as i32).min(128) },
            L::Color => Op::Color { factor: enhance },
            L::Contrast => Op::Contrast { factor: enhance },
            L::Brightness => Op::Brightness { factor: enhance },
            L::Sharpness => Op::Sharpness { factor: enhance },
            L::ColorIncreasing => Op::Color { factor: away(d) },
            L::ContrastIncreasing => Op::Contrast { factor: away(d) },
            L::BrightnessIncreasing => Op::Brightness { factor: away(d) },
            L::SharpnessIncreasing => Op::Sharpness { factor: away(d) },
            L::Desaturate => {
                let level = (0.5 + 0.5 * part).clamp(0.5, 1.0);
                Op::Color { factor: (1.0 - level).clamp(0.0, 1.0) }
            }
            L::GaussianBlur => Op::GaussianBlur { radius: (0.1 + 1.9 * part).clamp(0.1, 2.0) },
            L::GaussianBlurRand => {
                let most = 2.0 * part.clamp(0.0, 1.0);
                Op::GaussianBlur { radius: d.between(0.1, most) }
            }
            L::Rotate => {
                let degrees = signed(d, part * 30.0);
                Op::Rotate { degrees, filter: d.filter(hints.filter), fill: hints.fill }
            }
            L::ShearX | L::ShearY | L::TranslateXRel | L::TranslateYRel => {
                let (w, h) = (image.width as f64, image.height as f64);
                let shift = signed(d, part * if matches!(self, L::ShearX | L::ShearY) { 0.3 } else { translate });
                let matrix = match self {
                    L::ShearX => [1.0, shift, 0.0, 0.0, 1.0, 0.0],
                    L::ShearY => [1.0, 0.0, 0.0, shift, 1.0, 0.0],
                    L::TranslateXRel => [1.0, 0.0, shift * w, 0.0, 1.0, 0.0],
                    _ => [1.0, 0.0, 0.0, 0.0, 1.0, shift * h],
                };
                Op::Affine { matrix, filter: d.filter(hints.filter), fill: hints.fill }
            }
        }
    }
}
