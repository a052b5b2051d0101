//! Rotations, affine maps and changes of perspective with drawn parameters.

use crate::error::Result;
use crate::image::{Draw, Filter, Image, Op, perspective as map_of_corners};

pub(super) fn rotation(
    image: Image,
    degrees: (f64, f64),
    filter: Filter,
    fill: [u8; 3],
    d: &mut Draw,
) -> Result<Image> {
    Op::Rotate { degrees: d.between(degrees.0, degrees.1), filter, fill }.apply(image)
}

pub(super) fn affine(
    image: Image,
    degrees: (f64, f64),
    translate: (f64, f64),
    scale: (f64, f64),
    shear: (f64, f64),
    filter: Filter,
    fill: [u8; 3],
    d: &mut Draw,
) -> Result<Image> {
    let (w, h) = (image.width, image.height);
    let angle = d.between(degrees.0, degrees.1);
    let tx = d.between(-translate.0 * w as f64, translate.0 * w as f64).round_ties_even();
    let ty = d.between(-translate.1 * h as f64, translate.1 * h as f64).round_ties_even();
    let (scale, shear) = (d.between(scale.0, scale.1), d.between(shear.0, shear.1));
    Op::Affine { matrix: inverse_affine(w, h, angle, (tx, ty), scale, (shear, 0.0)), filter, fill }.apply(image)
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

pub(super) fn perspective(image: Image, distortion: f64, filter: Filter, fill: [u8; 3], d: &mut Draw) -> Result<Image> {
    let (w, h) = (image.width, image.height);
    let most = |n: usize| (distortion * (n / 2) as f64) as usize + 1;
    let (dx, dy) = (most(w), most(h));
    let (right, bottom) = (w - 1, h - 1);
    let mut corner = |far_x: bool, far_y: bool| {
        let (x, y) = (d.below(dx), d.below(dy));
        let at = |far: bool, edge: usize, by: usize| if far { edge.saturating_sub(by) } else { by.min(edge) };
        (at(far_x, right, x) as f64, at(far_y, bottom, y) as f64)
    };
    let to = [corner(false, false), corner(true, false), corner(true, true), corner(false, true)];
    let (r, b) = (right as f64, bottom as f64);
    match map_of_corners([(0.0, 0.0), (r, 0.0), (r, b), (0.0, b)], to) {
        Some(coefficients) => Op::Perspective { coefficients, filter, fill }.apply(image),
        None => Ok(image), // corners that met: a degenerate quadrangle shows nothing
    }
}
