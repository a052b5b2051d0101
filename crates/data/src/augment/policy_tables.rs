//! The tables of published policies.

use crate::augment::leveled::{Leveled, Leveled as L};

/// The steps of a sub-policy: (operation, probability, level).
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

/// The sub-policies of each AutoAugment policy, by its name.
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

/// The operations AugMix draws from.
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
