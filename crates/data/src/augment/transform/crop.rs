//! Crops and changes of size.

use crate::error::{Error, Result};
use crate::image::{Draw, Filter, Image, Op, PadMode};
use candlelight_kernels::Key;

/// A rectangle: (x, y, width, height).
pub(crate) type Rect = (usize, usize, usize, usize);

/// The crop of `RandomResizedCrop`, from up to ten draws.
pub(super) fn random(w: usize, h: usize, scale: (f64, f64), ratio: (f64, f64), key: Key) -> Rect {
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

/// The crop of `RandomResizedCropOnce`, from one draw.
pub(super) fn random_once(w: usize, h: usize, scale: (f64, f64), ratio: (f64, f64), key: Key) -> Rect {
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

pub(super) fn cut_and_resize(image: Image, c: &Cropped) -> Result<Image> {
    let (x, y, w, h) = c.part;
    Op::Resize { width: c.size.1, height: c.size.0, filter: c.filter }.apply(image.crop(x, y, w, h)?)
}

pub(super) fn shorter_side(image: Image, size: usize, filter: Filter) -> Result<Image> {
    let (w, h) = (image.width, image.height);
    // The longer side truncates, as torchvision's does.
    let long = |long: usize, short: usize| (size as f64 * long as f64 / short as f64) as usize;
    let (width, height) = if w <= h { (size, long(h, w)) } else { (long(w, h), size) };
    Op::Resize { width, height, filter }.apply(image)
}

pub(super) fn keeping_ratio(image: Image, (th, tw): (usize, usize), longest: f64, filter: Filter) -> Result<Image> {
    let (w, h) = (image.width, image.height);
    let (rh, rw) = (h as f64 / th as f64, w as f64 / tw as f64);
    let ratio = rh.max(rw) * longest + rh.min(rw) * (1.0 - longest);
    let side = |n: usize| (n as f64 / ratio).round_ties_even() as usize;
    Op::Resize { width: side(w), height: side(h), filter }.apply(image)
}

/// Checks that the crop fits into the image.
fn check_fits(image: &Image, ch: usize, cw: usize, border: &str) -> Result<()> {
    let (w, h) = (image.width, image.height);
    if w < cw || h < ch {
        return Err(Error::Decode(format!(
            "the image, {w}x{h}{border}, is smaller than the crop, {cw}x{ch}: resize it first"
        )));
    }
    Ok(())
}

pub(super) fn centre(image: Image, (ch, cw): (usize, usize)) -> Result<Image> {
    check_fits(&image, ch, cw, "")?;
    image.crop(middle(image.width, cw), middle(image.height, ch), cw, ch)
}

pub(super) fn at(image: Image, (ch, cw): (usize, usize), y: f64, x: f64) -> Result<Image> {
    check_fits(&image, ch, cw, "")?;
    let at = |left: usize, share: f64| (left as f64 * share.clamp(0.0, 1.0)).round() as usize;
    image.crop(at(image.width - cw, x), at(image.height - ch, y), cw, ch)
}

pub(super) fn centre_square(image: Image) -> Result<Image> {
    let (w, h) = (image.width, image.height);
    let side = w.min(h);
    image.crop((w - side) / 2, (h - side) / 2, side, side)
}

pub(super) fn centre_or_pad(image: Image, (ch, cw): (usize, usize), fill: [u8; 3]) -> Result<Image> {
    let (mw, mh) = (cw.saturating_sub(image.width), ch.saturating_sub(image.height));
    let sides = [mw / 2, mh / 2, mw.div_ceil(2), mh.div_ceil(2)];
    let image = Op::Pad { sides, mode: PadMode::Constant, fill }.apply(image)?;
    image.crop(middle(image.width, cw), middle(image.height, ch), cw, ch)
}

pub(super) fn anywhere(
    image: Image,
    (ch, cw): (usize, usize),
    padding: usize,
    mode: PadMode,
    fill: [u8; 3],
    d: &mut Draw,
) -> Result<Image> {
    let image = Op::Pad { sides: [padding; 4], mode, fill }.apply(image)?;
    check_fits(&image, ch, cw, " with its border")?;
    let y = d.below(image.height - ch + 1);
    let x = d.below(image.width - cw + 1);
    image.crop(x, y, cw, ch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_stay_inside_and_follow_the_ranges() {
        for (w, h) in [(100, 80), (500, 3), (1, 1), (3, 400)] {
            for i in 0..500 {
                for (x, y, cw, ch) in [
                    random(w, h, (0.2, 1.0), (0.75, 4.0 / 3.0), Key::new(i)),
                    random_once(w, h, (0.2, 1.0), (0.75, 4.0 / 3.0), Key::new(i)),
                ] {
                    assert!(cw >= 1 && ch >= 1 && x + cw <= w && y + ch <= h);
                }
                if (w, h) == (100, 80) {
                    let (_, _, cw, ch) = random(w, h, (0.2, 1.0), (0.75, 4.0 / 3.0), Key::new(i));
                    let (area, ratio) = ((cw * ch) as f64 / 8000.0, cw as f64 / ch as f64);
                    assert!((0.19..=1.0).contains(&area) && (0.72..1.38).contains(&ratio), "{area} {ratio}");
                }
            }
        }
    }
}
