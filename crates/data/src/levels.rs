//! Operations by level, and the tables of published policies.

use crate::draw::Draw;
use crate::image::Image;
use crate::ops::Op;
use crate::policy::PolicyHints;

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

/// Two steps a sub-policy: (operation, probability, level).
pub(crate) type SubPolicy = &'static [(Leveled, f64, f64)];

macro_rules! table {
    ($posterize:ident; $($sub:tt),* $(,)?) => { &[$(table!(@ $posterize $sub)),*] };
    (@ $p:ident [$(($op:tt, $prob:literal, $level:literal)),*]) => { &[$((table!(# $p $op), $prob, $level as f64)),*] };
    (# $p:ident Pos) => { L::$p };
    (# $p:ident $op:ident) => { L::$op };
}

macro_rules! original {
    ($p:ident) => {
        table!($p;
            [(Pos, 0.4, 8), (Rotate, 0.6, 9)], [(Solarize, 0.6, 5), (AutoContrast, 0.6, 5)],
            [(Equalize, 0.8, 8), (Equalize, 0.6, 3)], [(Pos, 0.6, 7), (Pos, 0.6, 6)],
            [(Equalize, 0.4, 7), (Solarize, 0.2, 4)], [(Equalize, 0.4, 4), (Rotate, 0.8, 8)],
            [(Solarize, 0.6, 3), (Equalize, 0.6, 7)], [(Pos, 0.8, 5), (Equalize, 1.0, 2)],
            [(Rotate, 0.2, 3), (Solarize, 0.6, 8)], [(Equalize, 0.6, 8), (Pos, 0.4, 6)],
            [(Rotate, 0.8, 8), (Color, 0.4, 0)], [(Rotate, 0.4, 9), (Equalize, 0.6, 2)],
            [(Equalize, 0.0, 7), (Equalize, 0.8, 8)], [(Invert, 0.6, 4), (Equalize, 1.0, 8)],
            [(Color, 0.6, 4), (Contrast, 1.0, 8)], [(Rotate, 0.8, 8), (Color, 1.0, 2)],
            [(Color, 0.8, 8), (Solarize, 0.8, 7)], [(Sharpness, 0.4, 7), (Invert, 0.6, 8)],
            [(ShearX, 0.6, 5), (Equalize, 1.0, 9)], [(Color, 0.4, 0), (Equalize, 0.6, 3)],
            [(Equalize, 0.4, 7), (Solarize, 0.2, 4)], [(Solarize, 0.6, 5), (AutoContrast, 0.6, 5)],
            [(Invert, 0.6, 4), (Equalize, 1.0, 8)], [(Color, 0.6, 4), (Contrast, 1.0, 8)],
            [(Equalize, 0.8, 8), (Equalize, 0.6, 3)])
    };
}

macro_rules! v0 {
    ($p:ident) => {
        table!($p;
            [(Equalize, 0.8, 1), (ShearY, 0.8, 4)], [(Color, 0.4, 9), (Equalize, 0.6, 3)],
            [(Color, 0.4, 1), (Rotate, 0.6, 8)], [(Solarize, 0.8, 3), (Equalize, 0.4, 7)],
            [(Solarize, 0.4, 2), (Solarize, 0.6, 2)], [(Color, 0.2, 0), (Equalize, 0.8, 8)],
            [(Equalize, 0.4, 8), (SolarizeAdd, 0.8, 3)], [(ShearX, 0.2, 9), (Rotate, 0.6, 8)],
            [(Color, 0.6, 1), (Equalize, 1.0, 2)], [(Invert, 0.4, 9), (Rotate, 0.6, 0)],
            [(Equalize, 1.0, 9), (ShearY, 0.6, 3)], [(Color, 0.4, 7), (Equalize, 0.6, 0)],
            [(Pos, 0.4, 6), (AutoContrast, 0.4, 7)], [(Solarize, 0.6, 8), (Color, 0.6, 9)],
            [(Solarize, 0.2, 4), (Rotate, 0.8, 9)], [(Rotate, 1.0, 7), (TranslateYRel, 0.8, 9)],
            [(ShearX, 0.0, 0), (Solarize, 0.8, 4)], [(ShearY, 0.8, 0), (Color, 0.6, 4)],
            [(Color, 1.0, 0), (Rotate, 0.6, 2)], [(Equalize, 0.8, 4), (Equalize, 0.0, 8)],
            [(Equalize, 1.0, 4), (AutoContrast, 0.6, 2)], [(ShearY, 0.4, 7), (SolarizeAdd, 0.6, 7)],
            [(Pos, 0.8, 2), (Solarize, 0.6, 10)], [(Solarize, 0.6, 8), (Equalize, 0.6, 1)],
            [(Color, 0.8, 6), (Rotate, 0.4, 5)])
    };
}

pub(crate) const AUTO: [(&str, &[SubPolicy]); 5] = [
    ("original", original!(PosterizeOriginal)),
    ("originalr", original!(PosterizeIncreasing)),
    ("v0", v0!(Posterize)),
    ("v0r", v0!(PosterizeIncreasing)),
    ("3a", &[&[(L::Solarize, 1.0, 5.0)], &[(L::Desaturate, 1.0, 10.0)], &[(L::GaussianBlurRand, 1.0, 10.0)]]),
];

/// timm's sets of operations with their weights; equal weights are drawn with replacement.
pub(crate) fn rand_set(name: &str, increasing: bool) -> Option<Vec<(Leveled, f64)>> {
    let even = |ops: &[Leveled]| Some(ops.iter().map(|&op| (op, 0.0)).collect());
    match (name, increasing) {
        ("", false) => even(&[
            L::AutoContrast,
            L::Equalize,
            L::Invert,
            L::Rotate,
            L::Posterize,
            L::Solarize,
            L::SolarizeAdd,
            L::Color,
            L::Contrast,
            L::Brightness,
            L::Sharpness,
            L::ShearX,
            L::ShearY,
            L::TranslateXRel,
            L::TranslateYRel,
        ]),
        ("", true) => even(&[
            L::AutoContrast,
            L::Equalize,
            L::Invert,
            L::Rotate,
            L::PosterizeIncreasing,
            L::SolarizeIncreasing,
            L::SolarizeAdd,
            L::ColorIncreasing,
            L::ContrastIncreasing,
            L::BrightnessIncreasing,
            L::SharpnessIncreasing,
            L::ShearX,
            L::ShearY,
            L::TranslateXRel,
            L::TranslateYRel,
        ]),
        ("3a", _) => even(&[L::SolarizeIncreasing, L::Desaturate, L::GaussianBlur]),
        ("3aw", _) => Some(vec![
            (L::SolarizeIncreasing, 6.0),
            (L::Desaturate, 6.0),
            (L::GaussianBlur, 6.0),
            (L::Rotate, 3.0),
            (L::ShearX, 2.0),
            (L::ShearY, 2.0),
            (L::PosterizeIncreasing, 1.0),
            (L::AutoContrast, 1.0),
            (L::ColorIncreasing, 1.0),
            (L::SharpnessIncreasing, 1.0),
            (L::ContrastIncreasing, 1.0),
            (L::BrightnessIncreasing, 1.0),
            (L::Equalize, 1.0),
            (L::Invert, 1.0),
        ]),
        ("weights", _) => Some(vec![
            (L::Rotate, 3.0),
            (L::ShearX, 2.0),
            (L::ShearY, 2.0),
            (L::TranslateXRel, 1.0),
            (L::TranslateYRel, 1.0),
            (L::ColorIncreasing, 0.25),
            (L::SharpnessIncreasing, 0.25),
            (L::AutoContrast, 0.25),
            (L::SolarizeIncreasing, 0.05),
            (L::SolarizeAdd, 0.05),
            (L::ContrastIncreasing, 0.05),
            (L::BrightnessIncreasing, 0.05),
            (L::Equalize, 0.05),
            (L::PosterizeIncreasing, 0.05),
            (L::Invert, 0.05),
        ]),
        _ => None,
    }
}

pub(crate) const AUGMIX: [Leveled; 13] = [
    L::AutoContrast,
    L::ColorIncreasing,
    L::ContrastIncreasing,
    L::BrightnessIncreasing,
    L::SharpnessIncreasing,
    L::Equalize,
    L::Rotate,
    L::PosterizeIncreasing,
    L::SolarizeIncreasing,
    L::ShearX,
    L::ShearY,
    L::TranslateXRel,
    L::TranslateYRel,
];
