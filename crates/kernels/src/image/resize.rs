//! Pillow's antialiased resize, bit for bit: a horizontal pass, then a vertical one, bytes between them, weights of 22
//! fractional bits. The result is planar, ready for a channels-first batch.
//!
//! With AVX-512 VNNI a weight is split into three signed bytes, whose dot products with four pixels are exact; every path
//! gives the same bytes.

use crate::base::cpu::{Level, level};
use crate::base::simd::simd_fn;
use crate::error::{Error, Result, expect_len};
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
            // The interval is half open, so that a pixel on its border counts only once.
            Filter::Box => f64::from(signed > -0.5 && signed <= 0.5),
            Filter::Bilinear => (1.0 - x).max(0.0),
            Filter::Hamming if x == 0.0 => 1.0,
            Filter::Hamming if x >= 1.0 => 0.0,
            Filter::Hamming => {
                let x = x * std::f64::consts::PI;
                // Pillow writes both numbers in single precision.
                x.sin() / x * (f64::from(0.54f32) + f64::from(0.46f32) * x.cos())
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
    /// `width` weights per position, zero beyond its count.
    weights: Vec<i32>,
    width: usize,
}

impl Taps {
    /// Weights for `output` positions spread over `from .. to` of `input` pixels; Pillow keeps these in single precision.
    fn new(filter: Filter, input: usize, from: f32, to: f32, output: usize) -> Taps {
        let scale = f64::from(to - from) / output as f64;
        let from = f64::from(from);
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
    let (sw, sh) = (src.width as f32, src.height as f32);
    let [left, top, right, bottom] = window.map_or([0.0, 0.0, sw, sh], |w| w.map(|v| v as f32));
    if !(left >= 0.0 && top >= 0.0 && left < right && top < bottom && right <= sw && bottom <= sh) {
        let message = format!("a window ({left}, {top}, {right}, {bottom}) of {sw}x{sh}");
        return Err(Error::Value { op: "resize", message });
    }
    if width == 0 || height == 0 {
        return Err(Error::Value { op: "resize", message: format!("to {width}x{height}") });
    }
    let c = src.channels;
    expect_len("resize", "out", out.len(), width * height * c)?;
    let columns = (width != src.width || left != 0.0 || right != sw).then(|| {
        let mut t = Taps::new(filter, src.width, left, right, width);
        if flip {
            t.reverse();
        }
        t
    });
    let rows = (height != src.height || top != 0.0 || bottom != sh)
        .then(|| Taps::new(filter, src.height, top, bottom, height));
    let mut between = BETWEEN.take();
    match &rows {
        None => pass_horizontal(src, columns.as_ref(), flip, width, 0..src.height, out),
        // Bytes between the passes round, so their order shows. Pillow goes down first where that drops many more rows than
        // going across drops columns.
        Some(t) if src.height > height && (src.height - height) as i64 > (src.width as i64 - width as i64) * 2 => {
            let row = src.width * c;
            between.resize((row * height).max(between.len()), 0);
            pass_vertical(src.data, src.stride, 0, t, row, &mut between[..row * height]);
            let half = View { data: &between, width: src.width, height, channels: c, stride: row };
            pass_horizontal(&half, columns.as_ref(), flip, width, 0..height, out);
        }
        Some(t) => {
            let last = t.first.len() - 1;
            let used = t.first[0]..t.first[last] + t.counts[last];
            let plane = used.len() * width;
            between.resize((c * plane).max(between.len()), 0);
            pass_horizontal(src, columns.as_ref(), flip, width, used.clone(), &mut between[..c * plane]);
            for (out, plane) in out.chunks_exact_mut(width * height).zip(between.chunks_exact(plane)) {
                pass_vertical(plane, width, used.start, t, width, out);
            }
        }
    }
    BETWEEN.set(between);
    Ok(())
}

/// For each output position: the first input position and its weights, which sum to 1.
fn real_taps(filter: Filter, input: usize, from: f32, to: f32, output: usize) -> Vec<(usize, Vec<f64>)> {
    let scale = f64::from(to - from) / output as f64;
    let from = f64::from(from);
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    let one = |o: usize| {
        let center = from + (o as f64 + 0.5) * scale;
        let first = ((center - support + 0.5) as i64).max(0) as usize;
        let last = ((center + support + 0.5) as usize).min(input);
        let weight = |i: usize| filter.weight((i as f64 - center + 0.5) * (1.0 / stretch));
        let mut weights: Vec<f64> = (first..last).map(weight).collect();
        let total: f64 = weights.iter().sum();
        if total != 0.0 {
            weights.iter_mut().for_each(|w| *w /= total);
        }
        (first, weights)
    };
    (0..output).map(one).collect()
}

/// Resizes one channel of real numbers, `w` x `h`, to `width` x `height`, as Pillow resizes images of mode F: sums in f64,
/// f32 between the passes. `window` is Pillow's `box`, as for [`resize`].
///
/// # Errors
/// When `src` has another length, a side is 0, or the window is not inside `src`.
pub fn resize_values(
    src: &[f32],
    w: usize,
    h: usize,
    width: usize,
    height: usize,
    filter: Filter,
    window: [f64; 4],
) -> Result<Vec<f32>> {
    expect_len("resize", "src", src.len(), w.saturating_mul(h))?;
    let [left, top, right, bottom] = window.map(|v| v as f32);
    let (sw, sh) = (w as f32, h as f32);
    if !(left >= 0.0 && top >= 0.0 && left < right && top < bottom && right <= sw && bottom <= sh) {
        let message = format!("a window ({left}, {top}, {right}, {bottom}) of {sw}x{sh}");
        return Err(Error::Value { op: "resize", message });
    }
    if width == 0 || height == 0 {
        return Err(Error::Value { op: "resize", message: format!("to {width}x{height}") });
    }
    let across = |src: &[f32], w: usize| -> Vec<f32> {
        if width == w && left == 0.0 && right == sw {
            return src.to_vec();
        }
        let taps = real_taps(filter, w, left, right, width);
        let dot = |row: &[f32], (first, weights): &(usize, Vec<f64>)| {
            weights.iter().zip(&row[*first..]).map(|(w, v)| w * f64::from(*v)).sum::<f64>() as f32
        };
        src.chunks_exact(w).flat_map(|row| taps.iter().map(move |t| dot(row, t))).collect()
    };
    let down = |src: &[f32], w: usize| -> Vec<f32> {
        if height == h && top == 0.0 && bottom == sh {
            return src.to_vec();
        }
        let mut out = Vec::with_capacity(height * w);
        let mut sums = vec![0.0f64; w];
        for (first, weights) in real_taps(filter, h, top, bottom, height) {
            sums.fill(0.0);
            for (weight, row) in weights.iter().zip(src[first * w..].chunks_exact(w)) {
                sums.iter_mut().zip(row).for_each(|(s, v)| *s += weight * f64::from(*v));
            }
            out.extend(sums.iter().map(|s| *s as f32));
        }
        out
    };
    // The order of the passes is that of bytes, which follows Pillow's.
    if h > height && (h - height) as i64 > (w as i64 - width as i64) * 2 {
        Ok(across(&down(src, w), w))
    } else {
        Ok(down(&across(src, w), width))
    }
}

#[inline(always)]
fn clip(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// Rows `ys` of `src` across to `width`, one channel after the other in `out`; without taps they are only copied.
fn pass_horizontal(
    src: &View<'_>,
    taps: Option<&Taps>,
    flip: bool,
    width: usize,
    ys: std::ops::Range<usize>,
    out: &mut [u8],
) {
    let (c, plane) = (src.channels, ys.len() * width);
    let rows = ys.clone().map(|y| &src.data[y * src.stride..][..src.width * c]);
    let Some(t) = taps else {
        for (y, row) in rows.enumerate() {
            for k in 0..c {
                let pixels = row.iter().skip(k).step_by(c);
                let to = &mut out[k * plane + y * width..][..width];
                if flip {
                    to.iter_mut().rev().zip(pixels).for_each(|(t, p)| *t = *p);
                } else {
                    to.iter_mut().zip(pixels).for_each(|(t, p)| *t = *p);
                }
            }
        }
        return;
    };
    #[cfg(target_arch = "x86_64")]
    if level() >= Level::Avx512
        && vnni::available()
        && let Some(groups) = vnni::Groups::new(t, c)
    {
        for (i, y) in ys.enumerate() {
            // Bytes behind the row may be read; they are multiplied by zero.
            let row = &src.data[y * src.stride..];
            // SAFETY: `available` saw the instructions.
            unsafe { vnni::horizontal(row, c, width, &groups, &mut out[i * width..], plane) };
        }
        return;
    }
    for (y, row) in rows.enumerate() {
        horizontal_row(row, c, t, &mut out[y * width..], plane);
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

/// Rows of `width` bytes, `stride` apart, down to as many as there are taps; row 0 of `plane` is row `y0` for them.
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
                let p = &row[b * BLOCK..b * BLOCK + out.len()];
                if let Ok(p) = <&[u8; BLOCK]>::try_from(p) {
                    for j in 0..BLOCK {
                        acc[j] = acc[j].wrapping_add(i32::from(p[j]) * w);
                    }
                } else {
                    for (a, p) in acc.iter_mut().zip(p) {
                        *a = a.wrapping_add(i32::from(*p) * w);
                    }
                }
            }
            for (o, a) in out.iter_mut().zip(acc) {
                *o = clip(a);
            }
        }
    }
}

/// Four pixels times four weights per instruction.
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
        /// Positions per group.
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
        assert!(out.len() >= (channels - 1) * plane + n);
        for (i, base) in g.first.iter().enumerate() {
            // SAFETY: an array of 64 bytes.
            let index = unsafe { _mm512_loadu_si512(g.index[i].as_ptr().cast()) };
            for c0 in (0..channels).step_by(3) {
                let count = (channels - c0).min(3);
                let mut acc = [[_mm512_setzero_si512(); 3]; 3];
                for step in 0..g.steps {
                    let at = (base + 4 * step) * channels;
                    // SAFETY: the loads stay inside the slice, the tables are arrays of 64 bytes.
                    unsafe {
                        let p = row.as_ptr().wrapping_add(at);
                        let (lo, hi) = if at + 128 <= row.len() {
                            (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(64).cast()))
                        } else {
                            // Bytes past the end are not read; their weights are zero.
                            let left = row.len().saturating_sub(at);
                            let mask = |n: usize| if n >= 64 { u64::MAX } else { (1u64 << n) - 1 };
                            let (near, far) = (mask(left), mask(left.saturating_sub(64)));
                            let far_p = p.wrapping_add(64).cast();
                            (_mm512_maskz_loadu_epi8(near, p.cast()), _mm512_maskz_loadu_epi8(far, far_p))
                        };
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
                let count_out = g.size.min(n - i * g.size);
                let mask = ((1u32 << count_out) - 1) as u16;
                for (c, acc) in acc.into_iter().enumerate().take(count) {
                    let bytes = _mm512_cvtusepi32_epi8(combine(acc));
                    // SAFETY: the mask ends with the group and the row, whose `n` bytes are there as asserted.
                    unsafe {
                        let to = out.as_mut_ptr().add((c0 + c) * plane + i * g.size);
                        if count_out == 16 {
                            _mm_storeu_si128(to.cast(), bytes);
                        } else {
                            _mm_mask_storeu_epi8(to.cast(), mask, bytes);
                        }
                    }
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
        assert!(stride >= out.len() && n > 0 && rows.len() >= (n - 1) * stride + out.len());
        for x in (0..out.len()).step_by(64) {
            let left = out.len() - x;
            let mask = if left >= 64 { u64::MAX } else { (1u64 << left) - 1 };
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
                // SAFETY: a row below `n`; the mask ends with it. Rows past the last tap have zero weights.
                let load = |k: usize| unsafe {
                    let row = (step * 4 + k).min(n - 1) * stride;
                    _mm512_maskz_loadu_epi8(mask, rows.as_ptr().add(row + x).cast())
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
            // SAFETY: the mask ends with the row.
            unsafe { _mm512_mask_storeu_epi8(out.as_mut_ptr().add(x).cast(), mask, bytes) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu::{detected, with_level};
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
