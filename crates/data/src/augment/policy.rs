//! Augmentation policies by the strings timm takes: AutoAugment, RandAugment, AugMix, and torchvision's TrivialAugment.
//!
//! E. Cubuk et al., arXiv 1805.09501 and 1909.13719; D. Hendrycks et al., arXiv 1912.02781; S. Müller and F. Hutter, arXiv
//! 2103.10158; H. Touvron et al. (3-Augment), arXiv 2204.07118.

use crate::augment::leveled::{Leveled, PolicyHints, TOP};
use crate::augment::policy_tables::{AUGMIX, AUTO, SubPolicy, rand_set};
use crate::error::{Error, Result};
use crate::image::{Draw, Image, Op, blend, refused};
use candlelight_kernels::Key;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How a level varies from draw to draw.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Noise {
    /// Standard deviation; where it is infinite, levels are drawn uniformly from 0 to the level.
    std: f64,
    /// Largest level.
    max: f64,
    /// Largest shift as a share of the side.
    translate: f64,
}

impl Noise {
    fn level(&self, level: f64, d: &mut Draw) -> f64 {
        let level = if self.std == f64::INFINITY {
            d.uniform() * level
        } else if self.std > 0.0 {
            level + self.std * d.normal()
        } else {
            level
        };
        level.clamp(0.0, self.max)
    }
}

/// A policy, parsed from its string; it prints as that string.
///
/// ```
/// use candlelight_data::Policy;
/// let p: Policy = "rand-m9-mstd0.5-inc1".parse()?;
/// assert_eq!(p.to_string(), "rand-m9-mstd0.5-inc1");
/// let e = "rand-m9-quack2".parse::<Policy>().unwrap_err().to_string();
/// assert!(e.contains("quack2") && e.contains("mstd"));
/// # Ok::<(), candlelight_data::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Policy {
    text: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Auto { subs: &'static [SubPolicy], noise: Noise },
    Rand { level: f64, layers: usize, prob: f64, noise: Noise, set: Vec<(Leveled, f64)> },
    AugMix { level: f64, width: usize, depth: Option<usize>, alpha: f64, blended: bool, noise: Noise },
    Trivial,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Policy> for String {
    fn from(p: Policy) -> String {
        p.text
    }
}

impl TryFrom<String> for Policy {
    type Error = Error;
    fn try_from(s: String) -> Result<Policy> {
        s.parse()
    }
}

/// `KEYVALUE` sections of a policy string.
struct Sections<'a> {
    text: &'a str,
    allowed: &'a str,
    left: Vec<&'a str>,
}

impl<'a> Sections<'a> {
    fn fail<T>(&self, part: &str, why: &str) -> Result<T> {
        let Sections { text, allowed, .. } = self;
        Err(Error::Config(format!("augmentation \"{text}\": `{part}` {why}; allowed: {allowed}")))
    }

    /// Calls `f` with each (key, value); `f` says whether it knew the key.
    fn each(&mut self, mut f: impl FnMut(&str, f64) -> Result<bool, String>) -> Result<()> {
        while !self.left.is_empty() {
            let part = self.left.remove(0);
            let digits = part.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(part.len());
            let (key, value) = part.split_at(digits);
            // `d-1` was split at its sign.
            let minus = value.is_empty() && key == "d" && self.left.first() == Some(&"1");
            let value = if minus { self.left.remove(0) } else { value };
            let Some(v) = value.parse::<f64>().ok().filter(|v| v.is_finite()) else {
                return self.fail(part, "has no number");
            };
            match f(key, if minus { -v } else { v }) {
                Ok(true) => {}
                Ok(false) => return self.fail(part, "is not known"),
                Err(why) => return self.fail(part, &why),
            }
        }
        Ok(())
    }
}

fn whole(v: f64, least: usize, most: usize) -> Result<usize, String> {
    if v.fract() == 0.0 && v >= least as f64 && v <= most as f64 {
        Ok(v as usize)
    } else {
        Err(format!("is not a whole number from {least} to {most}"))
    }
}

fn within(v: f64, least: f64, most: f64) -> Result<f64, String> {
    if (least..=most).contains(&v) { Ok(v) } else { Err(format!("is not from {least} to {most}")) }
}

impl FromStr for Policy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Policy> {
        const NAMES: &str = "original, originalr, v0, v0r, 3a (each with -mstdX), rand-..., augmix-..., trivial";
        let mut parts = text.split('-');
        let name = parts.next().unwrap_or_default();
        let mut s = Sections { text, allowed: NAMES, left: parts.collect() };
        let mut noise = Noise { std: 0.0, max: TOP, translate: 0.45 };
        let spread = |v: f64| if v > 100.0 { f64::INFINITY } else { v };
        let kind = match name {
            "rand" => {
                s.allowed = "mLEVEL, nLAYERS, pPROB, mstdSTD, mmaxLEVEL, inc0, inc1, tweights, t3a, t3aw";
                let (mut level, mut layers, mut prob, mut increasing, mut set) = (TOP, 2, 0.5, false, "");
                let named = s.left.iter().position(|p| p.starts_with('t'));
                if let Some(i) = named {
                    let part = s.left.remove(i);
                    set = &part[1..];
                    if set.is_empty() || rand_set(set, true).is_none() {
                        return s.fail(part, "names no set of operations");
                    }
                }
                s.each(|key, v| {
                    match key {
                        "m" => level = within(v, 0.0, 100.0)?,
                        "n" => layers = whole(v, 0, 100)?,
                        "p" => prob = within(v, 0.0, 1.0)?,
                        "mstd" => noise.std = spread(v),
                        "mmax" => noise.max = whole(v, 1, 100)? as f64,
                        "inc" => increasing = whole(v, 0, 1)? == 1,
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?;
                let set = rand_set(set, increasing).unwrap_or_default();
                if set.iter().all(|(_, w)| *w > 0.0) && layers > set.len() {
                    return s.fail(&format!("n{layers}"), "asks for more layers than the weighted set has operations");
                }
                Kind::Rand { level, layers, prob, noise, set }
            }
            "augmix" => {
                s.allowed = "mLEVEL, wWIDTH, dDEPTH (d-1: 1 to 3), aALPHA, b0, b1, mstdSTD";
                let (mut level, mut width, mut depth, mut alpha, mut blended) = (3.0, 3, None, 1.0, false);
                (noise.std, noise.translate) = (f64::INFINITY, 0.3);
                s.each(|key, v| {
                    match key {
                        "m" => level = within(v, 0.0, 100.0)?,
                        "w" => width = whole(v, 1, 100)?,
                        "d" if v <= 0.0 => depth = None,
                        "d" => depth = Some(whole(v, 1, 100)?),
                        "a" if v > 0.0 => alpha = within(v, 0.0, 1e6)?,
                        "a" => return Err("is not above 0".into()),
                        "b" => blended = whole(v, 0, 1)? == 1,
                        "mstd" => noise.std = v,
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?;
                Kind::AugMix { level, width, depth, alpha, blended, noise }
            }
            "trivial" if s.left.is_empty() => Kind::Trivial,
            _ => {
                let Some((_, subs)) = AUTO.iter().find(|(n, _)| *n == name) else {
                    return s.fail(name, "is no policy");
                };
                s.allowed = "mstdSTD";
                s.each(|key, v| {
                    noise.std = v;
                    Ok(key == "mstd")
                })?;
                Kind::Auto { subs, noise }
            }
        };
        Ok(Policy { text: text.into(), kind })
    }
}

impl Policy {
    /// Augments an image.
    ///
    /// # Errors
    /// When an operation does not fit the image, or the image is not one of bytes with 1 or 3 channels.
    pub fn apply(&self, image: Image, hints: &PolicyHints, key: Key) -> Result<Image> {
        if !image.is_plain() {
            return Err(refused(&format!("policy {self}"), &image));
        }
        let d = &mut Draw::new(key);
        match &self.kind {
            Kind::Auto { subs, noise } => {
                let sub = subs[d.below(subs.len())];
                sub.iter().try_fold(image, |image, &(op, p, level)| step(op, p, level, noise, image, hints, d))
            }
            Kind::Rand { level, layers, prob, noise, set } => {
                let chosen = choose(set, *layers, d);
                chosen.into_iter().try_fold(image, |image, op| step(op, *prob, *level, noise, image, hints, d))
            }
            Kind::AugMix { level, width, depth, alpha, blended, noise } => {
                let weights = d.dirichlet(*alpha, *width)?;
                let m = d.beta(*alpha, *alpha)? as f32;
                let chain = |d: &mut Draw| {
                    let n = depth.unwrap_or_else(|| 1 + d.below(3));
                    let ops: Vec<Leveled> = (0..n).map(|_| AUGMIX[d.below(AUGMIX.len())]).collect();
                    ops.into_iter().try_fold(image.clone(), |im, op| step(op, 1.0, *level, noise, im, hints, d))
                };
                if *blended {
                    // The blending factors that give the same weights, one picture at a time, last chain first.
                    let (mut left, mut factors) = (1.0f64, vec![]);
                    for w in weights.iter().rev() {
                        let alpha = if left > 0.0 { w * f64::from(m) / left } else { 0.0 };
                        left *= 1.0 - alpha;
                        factors.push(alpha);
                    }
                    let mut out = image.clone();
                    for factor in factors.into_iter().rev() {
                        out = blend(&out, chain(d)?, factor);
                    }
                    return Ok(out);
                }
                let mut mixed = vec![0.0f32; image.data.len()];
                for w in weights {
                    for (m, v) in mixed.iter_mut().zip(chain(d)?.data) {
                        *m += w as f32 * f32::from(v);
                    }
                }
                let data = mixed.into_iter().map(|v| v.clamp(0.0, 255.0) as u8).collect();
                let mixed = Image::new(image.width, image.height, image.channels, data)?;
                Ok(blend(&image, mixed, f64::from(m)))
            }
            Kind::Trivial => trivial(image, hints, d),
        }
    }
}

fn step(
    op: Leveled,
    p: f64,
    level: f64,
    noise: &Noise,
    image: Image,
    hints: &PolicyHints,
    d: &mut Draw,
) -> Result<Image> {
    if p < 1.0 && d.uniform() >= p {
        return Ok(image);
    }
    let level = noise.level(level, d);
    op.at(level, noise.translate, &image, hints, d).apply(image)
}

/// Chooses `n` operations with replacement or, where they are weighted, without.
fn choose(set: &[(Leveled, f64)], n: usize, d: &mut Draw) -> Vec<Leveled> {
    if set.iter().any(|(_, w)| *w == 0.0) {
        return (0..n).map(|_| set[d.below(set.len())].0).collect();
    }
    let mut left = set.to_vec();
    let mut out = Vec::with_capacity(n);
    while out.len() < n && !left.is_empty() {
        let mut at = d.uniform() * left.iter().map(|(_, w)| w).sum::<f64>();
        let i = left.iter().position(|(_, w)| {
            at -= w;
            at < 0.0
        });
        out.push(left.remove(i.unwrap_or(left.len() - 1)).0);
    }
    out
}

/// TrivialAugment's wide space: one operation with one of 31 strengths.
fn trivial(image: Image, hints: &PolicyHints, d: &mut Draw) -> Result<Image> {
    let op = d.below(14);
    let bin = d.below(31);
    let part = bin as f64 / 30.0;
    let signed = |d: &mut Draw, v: f64| if d.below(2) == 1 { -v } else { v };
    let affine =
        |matrix: [f64; 6], d: &mut Draw| Op::Affine { matrix, filter: d.filter(hints.filter), fill: hints.fill };
    let op = match op {
        0 => return Ok(image),
        1 => affine([1.0, signed(d, part * 0.99), 0.0, 0.0, 1.0, 0.0], d),
        2 => affine([1.0, 0.0, 0.0, signed(d, part * 0.99), 1.0, 0.0], d),
        3 => affine([1.0, 0.0, -signed(d, part * 32.0).trunc(), 0.0, 1.0, 0.0], d),
        4 => affine([1.0, 0.0, 0.0, 0.0, 1.0, -signed(d, part * 32.0).trunc()], d),
        5 => Op::Rotate { degrees: signed(d, part * 135.0), filter: d.filter(hints.filter), fill: hints.fill },
        6 => Op::Brightness { factor: 1.0 + signed(d, part * 0.99) },
        7 => Op::Color { factor: 1.0 + signed(d, part * 0.99) },
        8 => Op::Contrast { factor: 1.0 + signed(d, part * 0.99) },
        9 => Op::Sharpness { factor: 1.0 + signed(d, part * 0.99) },
        10 => Op::Posterize { bits: 8 - (bin as f64 / 5.0).round_ties_even() as u32 },
        11 => Op::Solarize { threshold: (255.0 * (1.0 - part)).ceil() as i32 },
        12 => Op::AutoContrast,
        _ => Op::Equalize,
    };
    op.apply(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::leveled::Leveled as L;

    fn picture() -> Image {
        Image::new(24, 16, 3, (0..24 * 16 * 3).map(|i| (i * 37 % 256) as u8).collect()).unwrap()
    }

    #[test]
    fn levels_are_timms() {
        let d = &mut Draw::new(Key::new(0));
        let levels = [0.0, 1.0, 2.5, 5.0, 7.4, 7.5, 9.0, 10.0];
        let mut value = |op: Leveled| {
            levels.map(|l| match op.at(l, 0.45, &picture(), &PolicyHints::default(), d) {
                Op::Posterize { bits } => bits as i32,
                Op::Solarize { threshold } => threshold,
                Op::SolarizeAdd { add } => add,
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(value(L::PosterizeIncreasing), [4, 4, 3, 2, 2, 1, 1, 0]);
        assert_eq!(value(L::SolarizeIncreasing), [256, 231, 192, 128, 67, 64, 26, 0]);
        assert_eq!(value(L::SolarizeAdd), [0, 11, 27, 55, 81, 82, 99, 110]);
        assert_eq!(value(L::Posterize), [0, 0, 1, 2, 2, 3, 3, 4]);
        assert_eq!(value(L::PosterizeOriginal), [4, 4, 5, 6, 6, 7, 7, 8]);
    }

    #[test]
    fn augmix_shifts_less_far_than_the_others() {
        let shift = |text: &str| match text.parse::<Policy>().unwrap().kind {
            Kind::AugMix { noise, .. } | Kind::Rand { noise, .. } => {
                match L::TranslateXRel.at(
                    10.0,
                    noise.translate,
                    &picture(),
                    &PolicyHints::default(),
                    &mut Draw::new(Key::new(0)),
                ) {
                    Op::Affine { matrix, .. } => matrix[2].abs() / 24.0,
                    other => panic!("{other:?}"),
                }
            }
            other => panic!("{other:?}"),
        };
        assert!((shift("augmix-m3") - 0.3).abs() < 1e-12 && (shift("rand-m9") - 0.45).abs() < 1e-12);
    }

    #[test]
    fn every_policy_runs_and_repeats_with_its_key() {
        for text in [
            "original",
            "originalr-mstd0.5",
            "v0",
            "v0r",
            "3a",
            "rand-m9-mstd0.5-inc1",
            "rand-m7.5-n3-p0.8-mmax20-mstd101",
            "rand-tweights-n4",
            "rand-t3a",
            "rand-m6-t3aw-inc1",
            "augmix-m3-w3-d-1-a1",
            "augmix-m5-w4-d2-b1",
            "trivial",
        ] {
            let p: Policy = text.parse().unwrap();
            assert_eq!(serde_json::from_str::<Policy>(&serde_json::to_string(&p).unwrap()).unwrap(), p);
            let run = |i: u64| p.apply(picture(), &PolicyHints::default(), Key::new(i)).unwrap();
            let outs: Vec<Image> = (0..40).map(run).collect();
            assert_eq!(outs[7], run(7));
            assert!(outs.iter().filter(|o| **o != picture()).count() > 5, "{text} changes pictures");
            assert!(outs.iter().any(|o| *o != outs[0]), "{text} varies");
        }
    }

    #[test]
    fn what_is_not_understood_is_shown_with_what_is_allowed() {
        for (text, part, allowed) in [
            ("rand-m9-quack2", "`quack2`", "mstd"),
            ("rand-m9-inc2", "`inc2`", "inc1"),
            ("rand-minc", "`minc`", "inc0"),
            ("rand-p2", "`p2`", "pPROB"),
            ("rand-n1.5", "`n1.5`", "nLAYERS"),
            ("rand-tbest", "`tbest`", "tweights"),
            ("rand-tweights-n16", "`n16`", "tweights"),
            ("augmix-w0", "`w0`", "wWIDTH"),
            ("augmix-a0", "`a0`", "aALPHA"),
            ("v1", "`v1`", "v0r"),
            ("original-m9", "`m9`", "mstd"),
            ("", "``", "original"),
            ("randm9", "`randm9`", "rand-"),
        ] {
            let e = text.parse::<Policy>().unwrap_err().to_string();
            assert!(e.contains(part) && e.contains(allowed), "{e}");
        }
    }

    #[test]
    fn weighted_choices_do_not_repeat_and_follow_their_weights() {
        let set = rand_set("weights", true).unwrap();
        let mut rotations = 0;
        for i in 0..2000 {
            let ops = choose(&set, 3, &mut Draw::new(Key::new(i)));
            assert!(ops.iter().enumerate().all(|(i, op)| !ops[..i].contains(op)));
            rotations += usize::from(ops[0] == L::Rotate);
        }
        let share = rotations as f64 / 2000.0;
        assert!((share - 3.0 / 9.85).abs() < 0.03, "{share}");
    }
}
