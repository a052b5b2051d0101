//! Operations on images of any number of channels and of real numbers, one channel after the other.

use crate::error::{Error, Result};
use crate::image::Image;
use crate::image::ops::{Op, PadMode, check_size, finite};
use crate::image::resize::{Filter, nearest_places};
use crate::image::warp::{Map, warp_values};
use candlelight_kernels::image::resize::resize_values;

/// Applies an operation to an image that is not one of bytes with 1 or 3 channels.
pub(crate) fn apply(op: &Op, image: Image) -> Result<Image> {
    match op {
        Op::Crop { .. } => op.apply_plain(image),
        Op::FlipHorizontal | Op::FlipVertical if image.values().is_none() => op.apply_plain(image),
        Op::Resize { .. } | Op::ResizeBox { .. } | Op::ResizeOpencv { .. } | Op::Pad { .. }
            if image.values().is_none() =>
        {
            op.apply_plain(image)
        }
        Op::GaussianBlur { .. } if image.values().is_none() => op.apply_plain(image),
        Op::Rotate { .. } | Op::Affine { .. } | Op::Perspective { .. } if image.values().is_none() => {
            each_channel_of_bytes(op, &image)
        }
        Op::FlipHorizontal
        | Op::FlipVertical
        | Op::Resize { .. }
        | Op::ResizeBox { .. }
        | Op::Pad { .. }
        | Op::Rotate { .. }
        | Op::Affine { .. }
        | Op::Perspective { .. } => each_channel_of_values(op, &image),
        _ => Err(refused(&op.name(), &image)),
    }
}

/// The error of an operation that cannot work on this kind of image.
pub(crate) fn refused(name: &str, image: &Image) -> Error {
    Error::Config(format!(
        "{name} works on 8-bit images of 1 or 3 channels, and this one has {}: leave {name} out of the augmentation, or \
         decode with `channels` 3 and `bit_depth` 8",
        image.described()
    ))
}

/// The fill colour of channel `c`.
fn filling(fill: [u8; 3], c: usize) -> u8 {
    fill[c.min(2)]
}

fn each_channel_of_bytes(op: &Op, image: &Image) -> Result<Image> {
    let (c, mut planes) = (image.channels, Vec::with_capacity(image.data.len()));
    let (mut width, mut height) = (image.width, image.height);
    for k in 0..c {
        let plane = Image::new(image.width, image.height, 1, image.channel(k).collect())?;
        let mut op = op.clone();
        if let Op::Rotate { fill, .. } | Op::Affine { fill, .. } | Op::Perspective { fill, .. } = &mut op {
            *fill = [filling(*fill, k); 3];
        }
        let done = op.apply_plain(plane)?;
        (width, height) = (done.width, done.height);
        planes.extend(done.data);
    }
    Ok(Image::from_planes(width, height, c, &planes))
}

/// One channel of real numbers.
struct Plane {
    width: usize,
    height: usize,
    values: Vec<f32>,
}

fn each_channel_of_values(op: &Op, image: &Image) -> Result<Image> {
    let Some(values) = image.values() else { return Err(refused(&op.name(), image)) };
    let c = image.channels;
    let mut done = Vec::with_capacity(c);
    for k in 0..c {
        let values = values.iter().skip(k).step_by(c).copied().collect();
        done.push(on_plane(op, Plane { width: image.width, height: image.height, values }, k)?);
    }
    let (width, height) = done.first().map_or((0, 0), |p| (p.width, p.height));
    let mut out = vec![0.0; width * height * c];
    for (k, plane) in done.iter().enumerate() {
        out.iter_mut().skip(k).step_by(c).zip(&plane.values).for_each(|(o, v)| *o = *v);
    }
    Image::from_values(width, height, c, out)
}

fn on_plane(op: &Op, plane: Plane, k: usize) -> Result<Plane> {
    let Plane { width: w, height: h, values } = plane;
    let warped = |map: &Map, filter: Filter, fill: [u8; 3]| Plane {
        width: w,
        height: h,
        values: warp_values(&values, w, h, map, filter, f32::from(filling(fill, k)) / 255.0),
    };
    match *op {
        Op::FlipVertical => {
            let rows: Vec<&[f32]> = values.chunks_exact(w).rev().collect();
            Ok(Plane { width: w, height: h, values: rows.concat() })
        }
        Op::FlipHorizontal => {
            let mut values = values;
            values.chunks_exact_mut(w).for_each(<[f32]>::reverse);
            Ok(Plane { width: w, height: h, values })
        }
        Op::Resize { width, height, filter } => {
            check_size((w, h), width, height)?;
            if (width, height) == (w, h) {
                return Ok(Plane { width, height, values });
            }
            let values = resized(&values, w, h, [0.0, 0.0, w as f64, h as f64], width, height, filter)?;
            Ok(Plane { width, height, values })
        }
        Op::ResizeBox { window, width, height, filter } => {
            check_size((w, h), width, height)?;
            Ok(Plane { width, height, values: resized(&values, w, h, window, width, height, filter)? })
        }
        Op::Pad { sides, mode, fill } => padded(&values, w, h, sides, mode, f32::from(filling(fill, k)) / 255.0),
        Op::Rotate { degrees, filter, fill } => {
            finite("rotate", &[degrees])?;
            let turn = degrees.rem_euclid(360.0);
            if turn == 0.0 {
                return Ok(Plane { width: w, height: h, values });
            }
            Ok(warped(&Map::rotation(w, h, degrees), filter, fill))
        }
        Op::Affine { matrix, filter, fill } => {
            finite("affine", &matrix)?;
            Ok(warped(&Map::Affine(matrix), filter, fill))
        }
        Op::Perspective { coefficients, filter, fill } => {
            finite("perspective", &coefficients)?;
            Ok(warped(&Map::Perspective(coefficients), filter, fill))
        }
        _ => Err(Error::Config(format!("{} does not work on images of real numbers", op.name()))),
    }
}

/// Pillow's `resize` of an image of mode F.
fn resized(
    values: &[f32],
    w: usize,
    h: usize,
    window: [f64; 4],
    width: usize,
    height: usize,
    filter: Filter,
) -> Result<Vec<f32>> {
    match filter.kernel() {
        Some(filter) => Ok(resize_values(values, w, h, width, height, filter, window)?),
        None => {
            let (xs, ys) = nearest_places(w, h, window, width, height)?;
            Ok(ys.iter().flat_map(|y| xs.iter().map(move |x| values[y * w + x])).collect())
        }
    }
}

/// The channel with a border.
fn padded(values: &[f32], w: usize, h: usize, sides: [usize; 4], mode: PadMode, fill: f32) -> Result<Plane> {
    let (columns, rows) = crate::image::ops::pad_places(w, h, sides, mode)?;
    let mut out = Vec::with_capacity(columns.len() * rows.len());
    for y in &rows {
        for x in &columns {
            out.push(match (x, y) {
                (Some(x), Some(y)) => values[y * w + x],
                _ => fill,
            });
        }
    }
    Ok(Plane { width: columns.len(), height: rows.len(), values: out })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(w: usize, h: usize, c: usize) -> Image {
        Image::new(w, h, c, (0..w * h * c).map(|i| (i * 31 % 256) as u8).collect()).unwrap()
    }

    fn values(image: &Image) -> Image {
        let values = image.data.iter().map(|&v| f32::from(v) / 255.0).collect();
        Image::from_values(image.width, image.height, image.channels, values).unwrap()
    }

    fn geometric() -> Vec<Op> {
        let (filter, fill) = (Filter::Bicubic, [9, 8, 7]);
        vec![
            Op::FlipHorizontal,
            Op::FlipVertical,
            Op::Crop { x: 1, y: 2, width: 5, height: 4 },
            Op::Resize { width: 7, height: 13, filter },
            Op::Resize { width: 7, height: 13, filter: Filter::Nearest },
            Op::ResizeBox { window: [0.5, 1.0, 7.5, 6.0], width: 4, height: 5, filter: Filter::Bilinear },
            Op::Pad { sides: [1, 2, 3, 0], mode: PadMode::Reflect, fill },
            Op::Pad { sides: [1, 2, 3, 0], mode: PadMode::Constant, fill },
            Op::Rotate { degrees: 27.0, filter: Filter::Bilinear, fill },
            Op::Affine { matrix: [1.0, 0.2, 0.5, 0.1, 0.9, 0.0], filter: Filter::Nearest, fill },
            Op::Perspective { coefficients: [1.05, 0.1, -1.0, 0.0, 0.97, 1.0, 0.0004, -0.0003], filter, fill },
        ]
    }

    #[test]
    fn every_channel_of_bytes_goes_the_way_of_gray() {
        for c in [2, 4, 13] {
            let image = bytes(11, 9, c);
            for op in geometric() {
                let done = op.apply(image.clone()).unwrap();
                for k in 0..c {
                    let gray = Image::new(11, 9, 1, image.channel(k).collect()).unwrap();
                    let mut op = op.clone();
                    if let Op::Pad { fill, .. }
                    | Op::Rotate { fill, .. }
                    | Op::Affine { fill, .. }
                    | Op::Perspective { fill, .. } = &mut op
                    {
                        *fill = [filling(*fill, k); 3];
                    }
                    let want = op.apply(gray).unwrap();
                    assert!(done.channel(k).eq(want.data.iter().copied()), "{op:?} channel {k} of {c}");
                }
            }
        }
    }

    #[test]
    fn real_numbers_follow_the_bytes() {
        for c in [1, 3, 5] {
            let image = bytes(11, 9, c);
            for op in geometric() {
                // Bytes are rounded or cut after each pass, so that they may be a few steps away.
                let (wide, narrow) = (op.apply(values(&image)).unwrap(), op.apply(image.clone()));
                let narrow = match c {
                    1 => {
                        let mut op = op.clone();
                        if let Op::Pad { fill, .. }
                        | Op::Rotate { fill, .. }
                        | Op::Affine { fill, .. }
                        | Op::Perspective { fill, .. } = &mut op
                        {
                            *fill = [fill[0]; 3];
                        }
                        op.apply(image.clone()).unwrap()
                    }
                    _ => narrow.unwrap(),
                };
                assert_eq!((wide.width, wide.height, wide.channels), (narrow.width, narrow.height, c));
                for (v, b) in wide.values().unwrap().iter().zip(&narrow.data) {
                    let v = (v * 255.0).clamp(0.0, 255.0);
                    assert!((v - f32::from(*b)).abs() < 2.6, "{op:?}: {v} for {b}");
                }
            }
        }
    }

    #[test]
    fn operations_on_colours_name_themselves_and_the_channels() {
        for op in [Op::Equalize, Op::Color { factor: 0.5 }, Op::Invert] {
            for image in [bytes(4, 4, 13), values(&bytes(4, 4, 3))] {
                let e = op.apply(image.clone()).unwrap_err().to_string();
                assert!(e.contains(&op.name()) && e.contains(&image.described()), "{e}");
            }
        }
    }
}
