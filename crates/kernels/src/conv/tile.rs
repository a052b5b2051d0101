//! The f32 product behind convolutions: operands are read where they lie, so that no patches are gathered.
//!
//! Every result is one chain of fused multiply-adds in the order of the inner dimension, so all levels and all ways of cutting
//! give the same bits.

use crate::base::cpu::{Level, level};
use crate::base::simd::simd_fn;

/// Columns of a panel at most: two vectors.
pub(crate) const COLUMNS: usize = 32;

/// Steps of the inner dimension that lie at regular distances: where they start in both operands, and how many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    pub(crate) a: usize,
    pub(crate) b: usize,
    pub(crate) steps: usize,
}

/// Row r, step s of a stretch is `a[stretch.a + r * row + s * step]`; the columns of step s begin at `b[stretch.b + s * ldb]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) row: usize,
    pub(crate) step: usize,
    pub(crate) ldb: usize,
}

/// The place that a product is written to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out {
    pub(crate) ptr: *mut f32,
    /// The distance between its rows, in values.
    pub(crate) ld: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Whether the sums start from the values that are there, instead of from 0.
    pub(crate) add: bool,
}

/// The product of `out.rows` rows with a panel of `out.cols` columns over all stretches.
///
/// # Safety
/// `out` must be valid for reads and writes and touched by nobody else.
pub(crate) unsafe fn product(stretches: &[Stretch], l: Layout, a: &[f32], b: &[f32], out: Out) {
    assert!(out.cols <= COLUMNS, "a panel of {} columns", out.cols);
    if out.rows == 0 || out.cols == 0 {
        return;
    }
    for s in stretches.iter().filter(|s| s.steps > 0) {
        let last_a = s.a + (out.rows - 1) * l.row + (s.steps - 1) * l.step;
        let last_b = s.b + (s.steps - 1) * l.ldb + out.cols;
        assert!(last_a < a.len() && last_b <= b.len(), "a stretch reaches over its operands");
    }
    let mut r = 0;
    while r < out.rows {
        let left = out.rows - r;
        // SAFETY: rows `r ..` of what the caller gives.
        let part = |rows: usize| unsafe { Out { ptr: out.ptr.add(r * out.ld), rows, ..out } };
        let a = &a[r * l.row..];
        let sizes: &[usize] = if out.cols <= 16 { &[16, 14, 8, 7, 4, 2, 1] } else { &[14, 8, 7, 4, 2, 1] };
        let rows = sizes.iter().copied().find(|n| *n <= left).unwrap_or(1);
        #[cfg(target_arch = "x86_64")]
        if matches!(level(), Level::Avx512 | Level::Avx512Bf16) {
            // SAFETY: `level` says the CPU has AVX-512; the stretches were checked against the operands.
            unsafe {
                match (out.cols <= 16, rows) {
                    (true, 16) => tile::<16, 1>(stretches, l, a, b, part(16)),
                    (true, 14) => tile::<14, 1>(stretches, l, a, b, part(14)),
                    (true, 8) => tile::<8, 1>(stretches, l, a, b, part(8)),
                    (true, 7) => tile::<7, 1>(stretches, l, a, b, part(7)),
                    (true, 4) => tile::<4, 1>(stretches, l, a, b, part(4)),
                    (true, 2) => tile::<2, 1>(stretches, l, a, b, part(2)),
                    (true, _) => tile::<1, 1>(stretches, l, a, b, part(1)),
                    (false, 14) => tile::<14, 2>(stretches, l, a, b, part(14)),
                    (false, 8) => tile::<8, 2>(stretches, l, a, b, part(8)),
                    (false, 7) => tile::<7, 2>(stretches, l, a, b, part(7)),
                    (false, 4) => tile::<4, 2>(stretches, l, a, b, part(4)),
                    (false, 2) => tile::<2, 2>(stretches, l, a, b, part(2)),
                    (false, _) => tile::<1, 2>(stretches, l, a, b, part(1)),
                }
            }
            r += rows;
            continue;
        }
        #[cfg(target_arch = "x86_64")]
        if level() == Level::Avx2 {
            let rows = [6, 4, 2, 1].into_iter().find(|n| *n <= left).unwrap_or(1);
            // SAFETY: `level` says the CPU has AVX2 and FMA; the stretches were checked against the operands.
            unsafe {
                match rows {
                    6 => halves::<6>(stretches, l, a, b, part(6)),
                    4 => halves::<4>(stretches, l, a, b, part(4)),
                    2 => halves::<2>(stretches, l, a, b, part(2)),
                    _ => halves::<1>(stretches, l, a, b, part(1)),
                }
            }
            r += rows;
            continue;
        }
        rows_any(stretches, l, a, b, part(rows));
        r += rows;
    }
}

/// A panel in halves of 16 columns: 6 rows of two vectors each are what 16 registers hold.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn halves<const R: usize>(stretches: &[Stretch], l: Layout, a: &[f32], b: &[f32], out: Out) {
    for from in (0..out.cols).step_by(16) {
        let cols = (out.cols - from).min(16);
        // SAFETY: columns `from ..` of what the caller gives.
        unsafe {
            let out = Out { ptr: out.ptr.add(from), cols, ..out };
            if cols == 16 {
                tile_256::<R, true>(stretches, l, a, &b[from..], out);
            } else {
                tile_256::<R, false>(stretches, l, a, &b[from..], out);
            }
        }
    }
}

/// R rows of at most 16 columns; `WHOLE` where there are exactly 16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_256<const R: usize, const WHOLE: bool>(
    stretches: &[Stretch],
    l: Layout,
    a: &[f32],
    b: &[f32],
    out: Out,
) {
    use std::arch::x86_64::{
        __m256, __m256i, _mm256_broadcast_ss, _mm256_cmpgt_epi32, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_maskload_ps,
        _mm256_maskstore_ps, _mm256_set1_epi32, _mm256_setr_epi32, _mm256_setzero_ps, _mm256_storeu_ps,
    };
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let mask = |v: usize| _mm256_cmpgt_epi32(_mm256_set1_epi32(out.cols as i32 - 8 * v as i32), lanes);
    let masks: [__m256i; 2] = [mask(0), mask(1)];
    // SAFETY of the three: the mask keeps a vector inside the columns that the callers of `product` own, or that `b` has.
    let load = |p: *const f32, v: usize| -> __m256 {
        unsafe {
            if WHOLE { _mm256_loadu_ps(p.add(8 * v)) } else { _mm256_maskload_ps(p.wrapping_add(8 * v), masks[v]) }
        }
    };
    let store = |p: *mut f32, v: usize, x: __m256| unsafe {
        if WHOLE {
            _mm256_storeu_ps(p.add(8 * v), x);
        } else {
            _mm256_maskstore_ps(p.wrapping_add(8 * v), masks[v], x);
        }
    };
    let mut acc = [[_mm256_setzero_ps(); 2]; R];
    // SAFETY: R rows of `out.cols` columns are the caller's; the stretches were checked against both operands.
    unsafe {
        if out.add {
            for r in 0..R {
                for v in 0..2 {
                    acc[r][v] = load(out.ptr.add(r * out.ld), v);
                }
            }
        }
        for s in stretches {
            let (mut pa, mut pb) = (a.as_ptr().add(s.a), b.as_ptr().wrapping_add(s.b));
            for _ in 0..s.steps {
                let bv = [load(pb, 0), load(pb, 1)];
                for r in 0..R {
                    let x = _mm256_broadcast_ss(&*pa.add(r * l.row));
                    for v in 0..2 {
                        acc[r][v] = _mm256_fmadd_ps(x, bv[v], acc[r][v]);
                    }
                }
                pa = pa.wrapping_add(l.step);
                pb = pb.wrapping_add(l.ldb);
            }
        }
        for r in 0..R {
            for v in 0..2 {
                store(out.ptr.add(r * out.ld), v, acc[r][v]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn tile<const R: usize, const V: usize>(stretches: &[Stretch], l: Layout, a: &[f32], b: &[f32], out: Out) {
    use std::arch::x86_64::{
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps,
        _mm512_setzero_ps, _mm512_storeu_ps,
    };
    let tail = out.cols - 16 * (V - 1);
    let mask = ((1u32 << tail) - 1) as u16;
    let mut acc = [[_mm512_setzero_ps(); V]; R];
    // SAFETY: R rows of `out.cols` columns are the caller's; the mask keeps the last vector inside them and inside `b`; the stretches
    // were checked against both operands.
    unsafe {
        if out.add {
            for r in 0..R {
                for v in 0..V {
                    let p = out.ptr.add(r * out.ld + 16 * v);
                    acc[r][v] = if v + 1 == V { _mm512_maskz_loadu_ps(mask, p) } else { _mm512_loadu_ps(p) };
                }
            }
        }
        for s in stretches {
            let (mut pa, mut pb) = (a.as_ptr().add(s.a), b.as_ptr().add(s.b));
            for _ in 0..s.steps {
                let mut bv = [_mm512_setzero_ps(); V];
                for v in 0..V {
                    let p = pb.add(16 * v);
                    bv[v] = if v + 1 == V { _mm512_maskz_loadu_ps(mask, p) } else { _mm512_loadu_ps(p) };
                }
                for r in 0..R {
                    let x = _mm512_set1_ps(*pa.add(r * l.row));
                    for v in 0..V {
                        acc[r][v] = _mm512_fmadd_ps(x, bv[v], acc[r][v]);
                    }
                }
                pa = pa.wrapping_add(l.step);
                pb = pb.wrapping_add(l.ldb);
            }
        }
        for r in 0..R {
            for v in 0..V {
                let p = out.ptr.add(r * out.ld + 16 * v);
                if v + 1 == V {
                    _mm512_mask_storeu_ps(p, mask, acc[r][v]);
                } else {
                    _mm512_storeu_ps(p, acc[r][v]);
                }
            }
        }
    }
}

simd_fn! {
    /// The same sums, two rows at a time.
    fn rows_any(stretches: &[Stretch], l: Layout, a: &[f32], b: &[f32], out: Out) {
        for r0 in (0..out.rows).step_by(2) {
            let second = usize::from(r0 + 1 < out.rows);
            let mut acc = [[0.0f32; COLUMNS]; 2];
            for (r, acc) in acc.iter_mut().enumerate().take(1 + second) {
                if out.add {
                    for (c, v) in acc.iter_mut().enumerate().take(out.cols) {
                        // SAFETY: inside what the caller of `product` gives.
                        *v = unsafe { *out.ptr.add((r0 + r) * out.ld + c) };
                    }
                }
            }
            for s in stretches {
                for i in 0..s.steps {
                    let at = s.a + r0 * l.row + i * l.step;
                    let x = [a[at], a[at + second * l.row]];
                    let columns = &b[s.b + i * l.ldb..];
                    let mut bv = [0.0f32; COLUMNS];
                    if let Some(whole) = columns.first_chunk::<COLUMNS>().filter(|_| out.cols == COLUMNS) {
                        bv = *whole;
                    } else {
                        bv[..out.cols].copy_from_slice(&columns[..out.cols]);
                    }
                    for r in 0..2 {
                        for c in 0..COLUMNS {
                            acc[r][c] = x[r].mul_add(bv[c], acc[r][c]);
                        }
                    }
                }
            }
            for (r, acc) in acc.iter().enumerate().take(1 + second) {
                for (c, v) in acc.iter().enumerate().take(out.cols) {
                    // SAFETY: as above.
                    unsafe { *out.ptr.add((r0 + r) * out.ld + c) = *v };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu::with_level;
    use crate::check::{levels, random};

    #[test]
    fn every_level_gives_the_bits_of_the_plain_chain() {
        let l = Layout { row: 3, step: 2, ldb: 40 };
        let stretches = [Stretch { a: 1, b: 5, steps: 9 }, Stretch { a: 7, b: 100, steps: 4 }];
        let (a, b) = (random("a", 200), random("b", 500));
        for rows in [1, 2, 3, 7, 13, 14, 16, 31] {
            for cols in [1, 15, 16, 17, 31, 32] {
                for add in [false, true] {
                    let start = random("c", rows * 33);
                    let mut want = start.clone();
                    for r in 0..rows {
                        for c in 0..cols {
                            let mut v = if add { start[r * 33 + c] } else { 0.0 };
                            for s in &stretches {
                                for i in 0..s.steps {
                                    v = a[s.a + r * l.row + i * l.step].mul_add(b[s.b + i * l.ldb + c], v);
                                }
                            }
                            want[r * 33 + c] = v;
                        }
                    }
                    for lv in levels() {
                        let got = with_level(lv, || {
                            let mut got = start.clone();
                            let out = Out { ptr: got.as_mut_ptr(), ld: 33, rows, cols, add };
                            // SAFETY: `got` has so many rows, and nobody else touches it.
                            unsafe { product(&stretches, l, &a, &b, out) };
                            got
                        });
                        assert!(got == want, "{rows} x {cols} {add}");
                    }
                }
            }
        }
    }
}
