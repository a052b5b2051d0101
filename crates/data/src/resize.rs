//! Pillow's antialiased resize, bit for bit: horizontal pass, then vertical, u8 between them, 22-bit fixed-point weights.

use crate::dataset::Image;
use serde::{Deserialize, Serialize};

/// An interpolation filter, stretched by the scale when shrinking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Triangle, support 1.
    Bilinear,
    /// Cubic with a = -0.5, support 2.
    #[default]
    Bicubic,
}

const BITS: u32 = 22;

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Filter::Bilinear => (1.0 - x).max(0.0),
            Filter::Bicubic => {
                const A: f64 = -0.5;
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
        }
    }
}

/// For each output position: the first input position and its fixed-point weights.
struct Taps {
    first: Vec<usize>,
    weights: Vec<i32>,
    counts: Vec<usize>,
    width: usize,
}

fn taps(filter: Filter, input: usize, output: usize) -> Taps {
    let scale = input as f64 / output as f64;
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    let width = support.ceil() as usize * 2 + 1;
    let mut t = Taps { first: vec![], weights: vec![0; output * width], counts: vec![], width };
    let mut row = vec![0.0; width];
    for o in 0..output {
        let center = (o as f64 + 0.5) * scale;
        let first = ((center - support + 0.5) as i64).max(0) as usize;
        let last = ((center + support + 0.5) as usize).min(input);
        let n = last - first;
        let mut total = 0.0;
        for (i, w) in row[..n].iter_mut().enumerate() {
            *w = filter.weight(((i + first) as f64 - center + 0.5) * (1.0 / stretch));
            total += *w;
        }
        for (w, out) in row[..n].iter().zip(&mut t.weights[o * width..]) {
            let w = if total != 0.0 { w / total } else { *w } * f64::from(1u32 << BITS);
            *out = (w + 0.5f64.copysign(w)) as i32;
        }
        t.first.push(first);
        t.counts.push(n);
    }
    t
}

fn clip(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

fn horizontal<const C: usize>(src: &[u8], width: usize, rows: usize, t: &Taps) -> Vec<u8> {
    let out_width = t.first.len();
    let mut out = vec![0; rows * out_width * C];
    for (src, out) in src.chunks_exact(width * C).zip(out.chunks_exact_mut(out_width * C)) {
        for (o, px) in out.chunks_exact_mut(C).enumerate() {
            let mut acc = [1i32 << (BITS - 1); C];
            let weights = &t.weights[o * t.width..o * t.width + t.counts[o]];
            for (w, p) in weights.iter().zip(src[t.first[o] * C..].chunks_exact(C)) {
                for c in 0..C {
                    acc[c] += i32::from(p[c]) * w;
                }
            }
            for c in 0..C {
                px[c] = clip(acc[c]);
            }
        }
    }
    out
}

fn vertical(src: &[u8], stride: usize, t: &Taps) -> Vec<u8> {
    let mut out = vec![0; t.first.len() * stride];
    let mut acc = vec![0i32; stride];
    for (o, out) in out.chunks_exact_mut(stride).enumerate() {
        acc.fill(1 << (BITS - 1));
        for (i, w) in t.weights[o * t.width..o * t.width + t.counts[o]].iter().enumerate() {
            let row = &src[(t.first[o] + i) * stride..][..stride];
            for (a, p) in acc.iter_mut().zip(row) {
                *a += i32::from(*p) * w;
            }
        }
        for (o, a) in out.iter_mut().zip(&acc) {
            *o = clip(*a);
        }
    }
    out
}

/// Resizes; sides of 0 count as 1.
pub fn resize(image: &Image, width: usize, height: usize, filter: Filter) -> Image {
    let (width, height) = (width.max(1), height.max(1));
    let mut data = None;
    if width != image.width {
        let t = taps(filter, image.width, width);
        data = Some(match image.channels {
            1 => horizontal::<1>(&image.data, image.width, image.height, &t),
            3 => horizontal::<3>(&image.data, image.width, image.height, &t),
            c => interleaved(&image.data, image.width, image.height, c, &t),
        });
    }
    if height != image.height {
        let src = data.as_deref().unwrap_or(&image.data);
        data = Some(vertical(src, width * image.channels, &taps(filter, image.height, height)));
    }
    Image { width, height, channels: image.channels, data: data.unwrap_or_else(|| image.data.clone()) }
}

/// Any number of channels, one at a time.
fn interleaved(src: &[u8], width: usize, rows: usize, channels: usize, t: &Taps) -> Vec<u8> {
    let mut out = vec![0; rows * t.first.len() * channels];
    for c in 0..channels {
        let plane: Vec<u8> = src.iter().skip(c).step_by(channels).copied().collect();
        for (o, v) in out.iter_mut().skip(c).step_by(channels).zip(horizontal::<1>(&plane, width, rows, t)) {
            *o = v;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_size_is_the_same_image_and_flat_stays_flat() {
        let image = Image::new(5, 4, 3, (0..60).collect()).unwrap();
        assert_eq!(resize(&image, 5, 4, Filter::Bicubic), image);
        let flat = Image::new(7, 3, 1, vec![200; 21]).unwrap();
        for (w, h) in [(1, 1), (20, 2), (3, 50)] {
            for f in [Filter::Bilinear, Filter::Bicubic] {
                assert!(resize(&flat, w, h, f).data.iter().all(|&v| v == 200));
            }
        }
    }

    #[test]
    fn any_number_of_channels_agrees_with_one_at_a_time() {
        let data: Vec<u8> = (0..4 * 6 * 3).map(|i| (i * 37 % 251) as u8).collect();
        let image = Image::new(6, 4, 3, data.clone()).unwrap();
        let t = taps(Filter::Bicubic, 6, 4);
        assert_eq!(resize(&image, 4, 4, Filter::Bicubic).data, interleaved(&data, 6, 4, 3, &t));
    }
}
