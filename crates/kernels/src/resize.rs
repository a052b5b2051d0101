//! Pillow's antialiased resize, bit for bit: a horizontal pass, then a vertical one, bytes between them, weights of 22
//! fractional bits. The result is planar, ready for a channels-first batch.
//!
//! With AVX-512 VNNI a weight is split into three signed bytes, whose dot products with four pixels are exact; every path
//! gives the same bytes.

use crate::cpu::{Level, level};
use crate::error::{Error, Result, expect_len};
use crate::simd::simd_fn;
use std::cell::RefCell;

/// An interpolation filter; when shrinking it is stretched by the scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// The mean of the pixels covered, support 0.5.
    Box,
    /// Triangle, support 1.
    Bilinear,
    /// Hamming-windowed sinc, support 1.
    Hamming,
    /// Cubic with a = -0.5, support 2.
    Bicubic,
    /// Lanczos-windowed sinc, support 3.
    Lanczos,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Box => 0.5,
            Filter::Bilinear | Filter::Hamming => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        fn sinc(x: f64) -> f64 {
            let x = x * std::f64::consts::PI;
            if x == 0.0 { 1.0 } else { x.sin() / x }
        }
        let signed = x;
        let x = x.abs();
        match self {
            // Half open, so that a pixel on the border counts once.
            Filter::Box => f64::from(signed > -0.5 && signed <= 0.5),
            Filter::Bilinear => (1.0 - x).max(0.0),
            Filter::Hamming if x == 0.0 => 1.0,
            Filter::Hamming if x >= 1.0 => 0.0,
            Filter::Hamming => {
                let x = x * std::f64::consts::PI;
                x.sin() / x * (0.54 + 0.46 * x.cos())
            }
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
            Filter::Lanczos if (-3.0..3.0).contains(&signed) => sinc(signed) * sinc(signed / 3.0),
            Filter::Lanczos => 0.0,
        }
    }
}

/// Bytes of interleaved channels, rows `stride` apart: an image or a part of one.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    data: &'a [u8],
    width: usize,
    height: usize,
    channels: usize,
    stride: usize,
}

impl<'a> View<'a> {
    /// A view whose rows start at the beginning of `data` and every `stride` bytes.
    ///
    /// # Errors
    /// When the bytes do not hold it, or a side is 0.
    pub fn new(data: &'a [u8], width: usize, height: usize, channels: usize, stride: usize) -> Result<Self> {
        let needed =
            width.checked_mul(channels).and_then(|row| stride.checked_mul(height.max(1) - 1)?.checked_add(row));
        let fits = needed.is_some_and(|n| n <= data.len()) && (stride >= width * channels || height == 1);
        if width == 0 || height == 0 || channels == 0 || !fits {
            let message = format!("{width}x{height}x{channels} with rows {stride} apart in {} bytes", data.len());
            return Err(Error::Value { op: "resize", message });
        }
        Ok(View { data, width, height, channels, stride })
    }

    /// The part at (x, y) of width x height.
    ///
    /// # Errors
    /// When it is not inside the view.
    pub fn crop(&self, x: usize, y: usize, width: usize, height: usize) -> Result<View<'a>> {
        if width == 0 || height == 0 || x + width > self.width || y + height > self.height {
            let message = format!("a crop {width}x{height} at ({x}, {y}) of {}x{}", self.width, self.height);
            return Err(Error::Value { op: "crop", message });
        }
        let data = &self.data[y * self.stride + x * self.channels..];
        Ok(View { data, width, height, ..*self })
    }
}

const BITS: u32 = 22;

/// For each output position: the first input position and its fixed-point weights.
struct Taps {
    first: Vec<usize>,
    counts: Vec<usize>,
    /// `width` a position, zero beyond its count.
    weights: Vec<i32>,
    width: usize,
}

impl Taps {
    /// Weights for `output` positions spread over `from .. to` of `input` pixels.
    fn new(filter: Filter, input: usize, from: f64, to: f64, output: usize) -> Taps {
        let scale = (to - from) / output as f64;
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let width = (support.ceil() as usize * 2 + 1).next_multiple_of(4);
        let mut t = Taps { first: vec![], counts: vec![], weights: vec![0; output * width], width };
        let mut row = vec![0.0; width];
        for o in 0..output {
            let center = from + (o as f64 + 0.5) * scale;
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

    fn reverse(&mut self) {
        self.first.reverse();
        self.counts.reverse();
        let rows: Vec<&[i32]> = self.weights.chunks_exact(self.width).rev().collect();
        self.weights = rows.concat();
    }

    fn row(&self, o: usize) -> (usize, &[i32]) {
        (self.first[o], &self.weights[o * self.width..][..self.counts[o]])
    }
}

thread_local! {
    static BETWEEN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Resizes `src` to `width` x `height` and writes it channel by channel to `out` (C, height, width).
///
/// `window` is Pillow's `box`: the part (left, top, right, bottom) of `src` that is resized, in fractions of pixels; taps
/// reach outside it but not outside `src`. `flip` mirrors left and right.
///
/// # Errors
/// When `out` has another length or the window is not inside `src`.
pub fn resize(
    src: &View<'_>,
    width: usize,
    height: usize,
    filter: Filter,
    window: Option<[f64; 4]>,
    flip: bool,
    out: &mut [u8],
) -> Result<()> {
    let (sw, sh) = (src.width as f64, src.height as f64);
    let [left, top, right, bottom] = window.unwrap_or([0.0, 0.0, sw, sh]);
    if !(left >= 0.0 && top >= 0.0 && left < right && top < bottom && right <= sw && bottom <= sh) {
        let message = format!("a window ({left}, {top}, {right}, {bottom}) of {sw}x{sh}");
        return Err(Error::Value { op: "resize", message });
    }
    if width == 0 || height == 0 {
        return Err(Error::Value { op: "resize", message: format!("to {width}x{height}") });
    }
    expect_len("resize", "out", out.len(), width * height * src.channels)?;
    let horizontal = width != src.width || left != 0.0 || right != sw;
    let vertical = height != src.height || top != 0.0 || bottom != sh;
    let rows = vertical.then(|| Taps::new(filter, src.height, top, bottom, height));
    let (y0, y1) = rows.as_ref().map_or((0, src.height), |t| {
        let last = t.first.len() - 1;
        (t.first[0], t.first[last] + t.counts[last])
    });
    // Whole vectors may be written past the end of a row.
    let stride = width.next_multiple_of(64) + 64;
    let mut between = BETWEEN.take();
    between.resize((src.channels * (y1 - y0) * stride).max(between.len()), 0);
    let plane = (y1 - y0) * stride;
    if horizontal {
        let mut t = Taps::new(filter, src.width, left, right, width);
        if flip {
            t.reverse();
        }
        pass_horizontal(src, y0, y1, &t, &mut between, stride, plane);
    } else {
        for c in 0..src.channels {
            for y in y0..y1 {
                let from = &src.data[y * src.stride..][..width * src.channels];
                let pixels = from.iter().skip(c).step_by(src.channels);
                let to = &mut between[c * plane + (y - y0) * stride..][..width];
                if flip {
                    to.iter_mut().rev().zip(pixels).for_each(|(t, p)| *t = *p);
                } else {
                    to.iter_mut().zip(pixels).for_each(|(t, p)| *t = *p);
                }
            }
        }
    }
    for (c, out) in out.chunks_exact_mut(width * height).enumerate() {
        let plane = &between[c * plane..(c + 1) * plane];
        match &rows {
            Some(t) => pass_vertical(plane, stride, y0, t, width, out),
            None => out
                .chunks_exact_mut(width)
                .zip(plane.chunks_exact(stride))
                .for_each(|(o, p)| o.copy_from_slice(&p[..width])),
        }
    }
    BETWEEN.set(between);
    Ok(())
}

#[inline(always)]
fn clip(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

fn pass_horizontal(src: &View<'_>, y0: usize, y1: usize, t: &Taps, out: &mut [u8], stride: usize, plane: usize) {
    #[cfg(target_arch = "x86_64")]
    if level() >= Level::Avx512 && vnni::available() {
        if let Some(groups) = vnni::Groups::new(t, src.channels) {
            for y in y0..y1 {
                let row = &src.data[y * src.stride..];
                let at = (y - y0) * stride;
                // SAFETY: `available` saw the instructions.
                unsafe { vnni::horizontal(row, src.channels, t.first.len(), &groups, &mut out[at..], plane) };
            }
            return;
        }
    }
    for y in y0..y1 {
        let row = &src.data[y * src.stride..][..src.width * src.channels];
        horizontal_row(row, src.channels, t, &mut out[(y - y0) * stride..], plane);
    }
}

simd_fn! {
    fn horizontal_row(row: &[u8], channels: usize, t: &Taps, out: &mut [u8], plane: usize) {
        for o in 0..t.first.len() {
            let (first, weights) = t.row(o);
            if channels == 3 {
                let mut acc = [1i32 << (BITS - 1); 3];
                for (w, p) in weights.iter().zip(row[first * 3..].chunks_exact(3)) {
                    for c in 0..3 {
                        acc[c] = acc[c].wrapping_add(i32::from(p[c]) * w);
                    }
                }
                for c in 0..3 {
                    out[c * plane + o] = clip(acc[c]);
                }
            } else {
                for c in 0..channels {
                    let mut acc = 1i32 << (BITS - 1);
                    for (w, p) in weights.iter().zip(row[first * channels + c..].iter().step_by(channels)) {
                        acc = acc.wrapping_add(i32::from(*p) * w);
                    }
                    out[c * plane + o] = clip(acc);
                }
            }
        }
    }
}

fn pass_vertical(plane: &[u8], stride: usize, y0: usize, t: &Taps, width: usize, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if level() >= Level::Avx512 && vnni::available() {
        for (o, out) in out.chunks_exact_mut(width).enumerate() {
            let (first, weights) = t.row(o);
            // SAFETY: `available` saw the instructions.
            unsafe { vnni::vertical(&plane[(first - y0) * stride..], stride, weights, out) };
        }
        return;
    }
    for (o, out) in out.chunks_exact_mut(width).enumerate() {
        let (first, weights) = t.row(o);
        vertical_row(&plane[(first - y0) * stride..], stride, weights, out);
    }
}

simd_fn! {
    fn vertical_row(rows: &[u8], stride: usize, weights: &[i32], out: &mut [u8]) {
        const BLOCK: usize = 32;
        for (b, out) in out.chunks_mut(BLOCK).enumerate() {
            let mut acc = [1i32 << (BITS - 1); BLOCK];
            for (w, row) in weights.iter().zip(rows.chunks(stride)) {
                // Rows are padded to whole blocks.
                let p = &row[b * BLOCK..(b + 1) * BLOCK];
                for j in 0..BLOCK {
                    acc[j] = acc[j].wrapping_add(i32::from(p[j]) * w);
                }
            }
            for (o, a) in out.iter_mut().zip(acc) {
                *o = clip(a);
            }
        }
    }
}

/// Four pixels times four weights an instruction.
#[cfg(target_arch = "x86_64")]
mod vnni {
    use super::{BITS, Taps};
    use std::arch::x86_64::*;

    pub(super) fn available() -> bool {
        is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vbmi")
    }

    /// A weight as three signed bytes, lowest first: `d0 + 2^8 d1 + 2^16 d2`.
    #[inline(always)]
    fn digits(w: i32) -> [i8; 3] {
        let d0 = w as i8;
        let rest = (w - i32::from(d0)) >> 8;
        let d1 = rest as i8;
        [d0, d1, ((rest - i32::from(d1)) >> 8) as i8]
    }

    /// Output positions taken together: the bytes each of them picks from 128 that are loaded, and their weights four taps
    /// at a time.
    pub(super) struct Groups {
        /// Positions a group.
        size: usize,
        steps: usize,
        first: Vec<usize>,
        index: Vec<[u8; 64]>,
        weights: Vec<[[i8; 64]; 3]>,
    }

    impl Groups {
        /// `None` where so few positions fit into a group that it does not pay.
        pub(super) fn new(t: &Taps, channels: usize) -> Option<Groups> {
            let n = t.first.len();
            let reach = |size: usize| {
                let spread = |o: &[usize]| o.iter().max().zip(o.iter().min()).map_or(0, |(a, b)| a - b);
                (t.first.chunks(size).map(spread).max().unwrap_or(0) + 4) * channels
            };
            let size = [16, 8, 4].into_iter().find(|&s| reach(s) <= 128)?;
            let steps = t.width / 4;
            let mut g = Groups { size, steps, first: vec![], index: vec![], weights: vec![] };
            for positions in t.first.chunks(size).enumerate().map(|(i, c)| i * size..i * size + c.len()) {
                let base = positions.clone().map(|o| t.first[o]).min().unwrap_or(0);
                let mut index = [0u8; 64];
                for (lane, o) in positions.clone().enumerate() {
                    for k in 0..4 {
                        index[lane * 4 + k] = ((t.first[o] - base + k) * channels) as u8;
                    }
                }
                g.first.push(base);
                g.index.push(index);
                for step in 0..steps {
                    let mut w = [[0i8; 64]; 3];
                    for (lane, o) in positions.clone().enumerate() {
                        for k in 0..4 {
                            let d = digits(t.weights[o * t.width + step * 4 + k]);
                            for i in 0..3 {
                                w[i][lane * 4 + k] = d[i];
                            }
                        }
                    }
                    g.weights.push(w);
                }
            }
            debug_assert_eq!(g.first.len(), n.div_ceil(size));
            Some(g)
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn combine(acc: [__m512i; 3]) -> __m512i {
        let high = _mm512_slli_epi32::<8>(_mm512_add_epi32(acc[1], _mm512_slli_epi32::<8>(acc[2])));
        let sum = _mm512_add_epi32(_mm512_add_epi32(acc[0], high), _mm512_set1_epi32(1 << (BITS - 1)));
        _mm512_max_epi32(_mm512_srai_epi32::<BITS>(sum), _mm512_setzero_si512())
    }

    /// One row of every channel; `out` is the row of the first plane, the others lie `plane` bytes on.
    ///
    /// # Safety
    /// The CPU has AVX-512 F, BW, VBMI and VNNI.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
    pub(super) unsafe fn horizontal(row: &[u8], channels: usize, n: usize, g: &Groups, out: &mut [u8], plane: usize) {
        assert!(out.len() >= (channels - 1) * plane + n.next_multiple_of(64) + 64);
        for (i, base) in g.first.iter().enumerate() {
            // SAFETY: an array of 64 bytes.
            let index = unsafe { _mm512_loadu_si512(g.index[i].as_ptr().cast()) };
            for c0 in (0..channels).step_by(3) {
                let count = (channels - c0).min(3);
                let mut acc = [[_mm512_setzero_si512(); 3]; 3];
                for step in 0..g.steps {
                    let at = (base + 4 * step) * channels;
                    let left = row.len().saturating_sub(at);
                    // Bytes past the end are not read; their weights are zero.
                    let mask = |from: usize| match left.saturating_sub(from) {
                        0 => 0,
                        n if n >= 64 => u64::MAX,
                        n => (1u64 << n) - 1,
                    };
                    // SAFETY: the masks keep the loads inside the row, the tables are arrays of 64 bytes.
                    unsafe {
                        let p = row.as_ptr().wrapping_add(at).cast();
                        let lo = _mm512_maskz_loadu_epi8(mask(0), p);
                        let hi = _mm512_maskz_loadu_epi8(mask(64), p.wrapping_add(64));
                        let w = &g.weights[i * g.steps + step];
                        let w = [0, 1, 2].map(|d| _mm512_loadu_si512(w[d].as_ptr().cast()));
                        for c in 0..count {
                            let pick = _mm512_add_epi8(index, _mm512_set1_epi8((c0 + c) as i8));
                            let four = _mm512_permutex2var_epi8(lo, pick, hi);
                            for d in 0..3 {
                                acc[c][d] = _mm512_dpbusd_epi32(acc[c][d], four, w[d]);
                            }
                        }
                    }
                }
                for (c, acc) in acc.into_iter().enumerate().take(count) {
                    let bytes = _mm512_cvtusepi32_epi8(combine(acc));
                    // SAFETY: 16 bytes from a position below `n`; rows are padded by 64, as asserted.
                    unsafe { _mm_storeu_si128(out.as_mut_ptr().add((c0 + c) * plane + i * g.size).cast(), bytes) };
                }
            }
        }
    }

    /// One output row of a plane from the rows its taps name.
    ///
    /// # Safety
    /// The CPU has AVX-512 F, BW and VNNI.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) unsafe fn vertical(rows: &[u8], stride: usize, weights: &[i32], out: &mut [u8]) {
        let n = weights.len();
        assert!(stride >= out.len().next_multiple_of(64) && rows.len() >= n * stride && n > 0);
        for x in (0..out.len()).step_by(64) {
            let mut acc = [[_mm512_setzero_si512(); 3]; 4];
            for (step, weights) in weights.chunks(4).enumerate() {
                let mut w = [[0i8; 4]; 3];
                for (k, v) in weights.iter().enumerate() {
                    let d = digits(*v);
                    for i in 0..3 {
                        w[i][k] = d[i];
                    }
                }
                let w = w.map(|w| _mm512_set1_epi32(i32::from_le_bytes(w.map(i8::cast_unsigned))));
                // SAFETY: a row below `n`, 64 bytes inside its stride. Rows past the last tap have zero weights.
                let load = |k: usize| unsafe {
                    _mm512_loadu_si512(rows.as_ptr().add((step * 4 + k).min(n - 1) * stride + x).cast())
                };
                let (a, b, c, d) = (load(0), load(1), load(2), load(3));
                let (ab, ab2) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
                let (cd, cd2) = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
                let four = [
                    _mm512_unpacklo_epi16(ab, cd),
                    _mm512_unpackhi_epi16(ab, cd),
                    _mm512_unpacklo_epi16(ab2, cd2),
                    _mm512_unpackhi_epi16(ab2, cd2),
                ];
                for q in 0..4 {
                    for i in 0..3 {
                        acc[q][i] = _mm512_dpbusd_epi32(acc[q][i], four[q], w[i]);
                    }
                }
            }
            let v = acc.map(|a| combine(a));
            // Packing undoes the order in which unpacking took the columns.
            let bytes = _mm512_packus_epi16(_mm512_packus_epi32(v[0], v[1]), _mm512_packus_epi32(v[2], v[3]));
            let left = out.len() - x;
            let mask = if left >= 64 { u64::MAX } else { (1u64 << left) - 1 };
            // SAFETY: the mask ends with the row.
            unsafe { _mm512_mask_storeu_epi8(out.as_mut_ptr().add(x).cast(), mask, bytes) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{detected, with_level};
    use proptest::prelude::*;

    fn run(
        data: &[u8],
        w: usize,
        h: usize,
        c: usize,
        to: (usize, usize),
        f: Filter,
        window: Option<[f64; 4]>,
        flip: bool,
    ) -> Vec<u8> {
        let mut out = vec![0; to.0 * to.1 * c];
        resize(&View::new(data, w, h, c, w * c).unwrap(), to.0, to.1, f, window, flip, &mut out).unwrap();
        out
    }

    const FILTERS: [Filter; 5] = [Filter::Box, Filter::Bilinear, Filter::Hamming, Filter::Bicubic, Filter::Lanczos];

    proptest! {
        #[test]
        fn every_level_gives_the_same_bytes(
            w in 1usize..150, h in 1usize..40, c in 1usize..5, to in (1usize..100, 1usize..40),
            f in 0usize..5, flip: bool, inner in (0.0f64..0.4, 0.6f64..1.0), windowed: bool, seed: u64,
        ) {
            let data: Vec<u8> = crate::Key::new(seed).uniform(w * h * c).iter().map(|u| (u * 256.0) as u8).collect();
            let (x0, x1) = (inner.0 * w as f64, inner.1 * w as f64);
            let (y0, y1) = (inner.0 * h as f64, inner.1 * h as f64);
            let window = windowed.then_some([x0, y0, x1, y1]);
            let want = with_level(Level::Portable, || run(&data, w, h, c, to, FILTERS[f], window, flip));
            for level in Level::ALL.into_iter().filter(|&l| l <= detected()) {
                let got = with_level(level, || run(&data, w, h, c, to, FILTERS[f], window, flip));
                prop_assert_eq!(&got, &want, "{}", level.name());
            }
            // A flip is the plain result, mirrored.
            let mut mirrored = run(&data, w, h, c, to, FILTERS[f], window, !flip);
            mirrored.chunks_exact_mut(to.0).for_each(<[u8]>::reverse);
            prop_assert_eq!(mirrored, want);
        }
    }

    #[test]
    fn flat_stays_flat_and_the_same_size_is_the_same_image() {
        for f in FILTERS {
            for to in [(1, 1), (20, 2), (3, 50)] {
                assert!(run(&[200; 21], 7, 3, 1, to, f, None, false).iter().all(|&v| v == 200), "{f:?} {to:?}");
            }
        }
        let data: Vec<u8> = (0..60).collect();
        let planar: Vec<u8> = (0..3).flat_map(|c| data.iter().skip(c).step_by(3)).copied().collect();
        assert_eq!(run(&data, 5, 4, 3, (5, 4), Filter::Bicubic, None, false), planar);
    }

    #[test]
    fn impossible_windows_and_views_are_refused() {
        assert!(View::new(&[0; 11], 2, 2, 3, 6).is_err());
        assert!(View::new(&[0; 12], 0, 2, 3, 6).is_err());
        let v = View::new(&[0; 12], 2, 2, 3, 6).unwrap();
        assert!(v.crop(1, 1, 2, 1).is_err());
        for bad in [[0.0, 0.0, 3.0, 1.0], [1.0, 0.0, 1.0, 1.0], [-0.1, 0.0, 1.0, 1.0], [f64::NAN, 0.0, 1.0, 1.0]] {
            assert!(resize(&v, 1, 1, Filter::Bicubic, Some(bad), false, &mut [0; 3]).is_err());
        }
        assert!(resize(&v, 1, 0, Filter::Bicubic, None, false, &mut []).is_err());
        assert!(resize(&v, 1, 1, Filter::Bicubic, None, false, &mut [0; 4]).is_err());
    }
}
