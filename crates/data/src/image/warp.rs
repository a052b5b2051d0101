//! Affine and perspective warps, as Pillow's `transform` does them: each output pixel looks up where it comes from.

use crate::image::Image;
use crate::image::resize::{Filter, walked};

/// From an output position to a source position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Map {
    /// (a, b, c, d, e, f): (a x + b y + c, d x + e y + f).
    Affine([f64; 6]),
    /// Eight coefficients: the affine map of the first six over (g x + h y + 1).
    Perspective([f64; 8]),
}

impl Map {
    /// Rotation about the centre, counter-clockwise, as `Image.rotate` writes it.
    pub(crate) fn rotation(width: usize, height: usize, degrees: f64) -> Map {
        let angle = -(degrees.rem_euclid(360.0)).to_radians();
        // Python's round(v, 15) goes through decimal digits; a product with 1e15 would not give the same.
        let round = |v: f64| format!("{v:.15}").parse().unwrap_or(v);
        let (cos, sin) = (round(angle.cos()), round(angle.sin()));
        let (cx, cy) = (width as f64 / 2.0, height as f64 / 2.0);
        let (a, b, d, e) = (cos, sin, round(-angle.sin()), cos);
        Map::Affine([a, b, a * -cx + b * -cy + 0.0 + cx, d, e, d * -cx + e * -cy + 0.0 + cy])
    }

    fn source(&self, x: usize, y: usize) -> (f64, f64) {
        let (x, y) = (x as f64 + 0.5, y as f64 + 0.5);
        match *self {
            Map::Affine([a, b, c, d, e, f]) => (a * x + b * y + c, d * x + e * y + f),
            Map::Perspective([a, b, c, d, e, f, g, h]) => {
                let w = g * x + h * y + 1.0;
                ((a * x + b * y + c) / w, (d * x + e * y + f) / w)
            }
        }
    }
}

/// The image seen through a map, at the same size; outside the source lies `fill`. Filters other than nearest and bilinear
/// count as bicubic.
pub(crate) fn warp(image: &Image, map: &Map, filter: Filter, fill: [u8; 3]) -> Image {
    let (w, h) = (image.width, image.height);
    let mut out = Image::filled(w, h, image.channels, fill);
    match image.channels {
        1 => warp_into::<1>(image, map, filter, &mut out),
        _ => warp_into::<3>(image, map, filter, &mut out),
    }
    out
}

fn warp_into<const C: usize>(image: &Image, map: &Map, filter: Filter, out: &mut Image) {
    let (w, h) = (image.width, image.height);
    let fixed = if let (Map::Affine(m), Filter::Nearest) = (map, filter) { Some(Fixed::new(m, w, h)) } else { None };
    for y in 0..h {
        for x in 0..w {
            let px: &mut [u8] = &mut out.data[(y * w + x) * C..][..C];
            if let Some(f) = &fixed {
                if let Some((sx, sy)) = f.source(x, y, w, h) {
                    px.copy_from_slice(&image.data[(sy * w + sx) * C..][..C]);
                }
                continue;
            }
            let (sx, sy) = map.source(x, y);
            if !(sx >= 0.0 && sy >= 0.0 && sx < w as f64 && sy < h as f64) {
                continue;
            }
            match filter {
                Filter::Nearest => px.copy_from_slice(&image.data[(sy as usize * w + sx as usize) * C..][..C]),
                Filter::Bilinear => {
                    for (c, o) in px.iter_mut().enumerate() {
                        *o = bilinear(w, h, sx - 0.5, sy - 0.5, |p| f64::from(image.data[p * C + c])) as u8;
                    }
                }
                _ => {
                    for (c, o) in px.iter_mut().enumerate() {
                        let v = bicubic(w, h, sx - 0.5, sy - 0.5, |p| f64::from(image.data[p * C + c]));
                        *o = v.clamp(0.0, 255.0) as u8;
                    }
                }
            }
        }
    }
}

/// Pillow walks an affine map without interpolation step by step, so that rounding adds up: pure scaling and translation in
/// floats, everything else in 16-bit fixed point.
enum Fixed {
    Scaled(Vec<Option<usize>>, Vec<Option<usize>>),
    Sheared([i64; 6]),
}

impl Fixed {
    fn new(&[a, b, c, d, e, f]: &[f64; 6], w: usize, h: usize) -> Fixed {
        if b == 0.0 && d == 0.0 {
            return Fixed::Scaled(walked(c + a * 0.5, a, w, w), walked(f + e * 0.5, e, h, h));
        }
        let fix = |v: f64| (v * 65536.0 + 0.5).floor() as i64;
        Fixed::Sheared([fix(a), fix(b), fix(c + a * 0.5 + b * 0.5), fix(d), fix(e), fix(f + d * 0.5 + e * 0.5)])
    }

    fn source(&self, x: usize, y: usize, w: usize, h: usize) -> Option<(usize, usize)> {
        match self {
            Fixed::Scaled(xs, ys) => xs[x].zip(ys[y]),
            Fixed::Sheared([a, b, c, d, e, f]) => {
                let (x, y) = (x as i64, y as i64);
                let (sx, sy) = ((c + a * x + b * y) >> 16, (f + d * x + e * y) >> 16);
                (sx >= 0 && sy >= 0 && (sx as usize) < w && (sy as usize) < h).then_some((sx as usize, sy as usize))
            }
        }
    }
}

/// The value at (x, y), where `at` gives the value of a pixel by its number.
#[inline(always)]
fn bilinear(w: usize, h: usize, x: f64, y: f64, at: impl Fn(usize) -> f64) -> f64 {
    let (w, h) = (w as i64, h as i64);
    let (fx, fy) = (x.floor(), y.floor());
    let (dx, dy) = (x - fx, y - fy);
    let (x, y) = (fx as i64, fy as i64);
    let at = |x: i64, y: i64| at((y.clamp(0, h - 1) * w + x.clamp(0, w - 1)) as usize);
    let mix = |a: f64, b: f64, d: f64| a + (b - a) * d;
    let above = mix(at(x, y), at(x + 1, y), dx);
    let below = if y + 1 >= 0 && y + 1 < h { mix(at(x, y + 1), at(x + 1, y + 1), dx) } else { above };
    mix(above, below, dy)
}

/// The value at (x, y), where `at` gives the value of a pixel by its number.
#[inline(always)]
fn bicubic(w: usize, h: usize, x: f64, y: f64, at: impl Fn(usize) -> f64) -> f64 {
    let (wide, high) = (w as i64, h as i64);
    let (fx, fy) = (x.floor(), y.floor());
    let (dx, dy) = (x - fx, y - fy);
    let (x, y) = (fx as i64, fy as i64);
    // Catmull-Rom's cousin with a = -1, as Pillow's warps use it.
    let cubic = |v: [f64; 4], d: f64| {
        let p2 = -v[0] + v[2];
        let p3 = 2.0 * (v[0] - v[1]) + v[2] - v[3];
        let p4 = -v[0] + v[1] - v[2] + v[3];
        v[1] + d * (p2 + d * (p3 + d * p4))
    };
    let column = |i: i64| (x + i).clamp(0, wide - 1) as usize;
    let columns = [column(-1), column(0), column(1), column(2)];
    let row = |y: i64| {
        let row = y.clamp(0, high - 1) as usize * w;
        cubic(columns.map(|x| at(row + x)), dx)
    };
    let mut rows = [row(y - 1); 4];
    for i in 1..4 {
        let at = y - 1 + i as i64;
        rows[i] = if at >= 0 && at < high { row(at) } else { rows[i - 1] };
    }
    cubic(rows, dy)
}

/// One channel of real numbers seen through a map, at the same size; outside the source lies `fill`.
pub(crate) fn warp_values(values: &[f32], w: usize, h: usize, map: &Map, filter: Filter, fill: f32) -> Vec<f32> {
    let fixed = if let (Map::Affine(m), Filter::Nearest) = (map, filter) { Some(Fixed::new(m, w, h)) } else { None };
    let mut out = vec![fill; w * h];
    for y in 0..h {
        for x in 0..w {
            let o = &mut out[y * w + x];
            if let Some(f) = &fixed {
                if let Some((sx, sy)) = f.source(x, y, w, h) {
                    *o = values[sy * w + sx];
                }
                continue;
            }
            let (sx, sy) = map.source(x, y);
            if !(sx >= 0.0 && sy >= 0.0 && sx < w as f64 && sy < h as f64) {
                continue;
            }
            let at = |p: usize| f64::from(values[p]);
            *o = match filter {
                Filter::Nearest => values[sy as usize * w + sx as usize],
                Filter::Bilinear => bilinear(w, h, sx - 0.5, sy - 0.5, at) as f32,
                _ => bicubic(w, h, sx - 0.5, sy - 0.5, at) as f32,
            };
        }
    }
    out
}

/// The eight coefficients of the perspective map that takes the corners `to` back to the corners `from`.
pub(crate) fn perspective(from: [(f64, f64); 4], to: [(f64, f64); 4]) -> Option<[f64; 8]> {
    let mut m = [[0.0f64; 9]; 8];
    for (i, (&(x, y), &(u, v))) in to.iter().zip(&from).enumerate() {
        m[2 * i] = [x, y, 1.0, 0.0, 0.0, 0.0, -u * x, -u * y, u];
        m[2 * i + 1] = [0.0, 0.0, 0.0, x, y, 1.0, -v * x, -v * y, v];
    }
    // Gaussian elimination with the largest pivot.
    for k in 0..8 {
        let pivot = (k..8).max_by(|&a, &b| m[a][k].abs().total_cmp(&m[b][k].abs()))?;
        m.swap(k, pivot);
        if m[k][k].abs() < 1e-12 {
            return None;
        }
        for r in 0..8 {
            if r != k {
                let factor = m[r][k] / m[k][k];
                for c in k..9 {
                    m[r][c] -= factor * m[k][c];
                }
            }
        }
    }
    let mut out = [0.0; 8];
    for k in 0..8 {
        out[k] = m[k][8] / m[k][k];
    }
    Some(out)
}
