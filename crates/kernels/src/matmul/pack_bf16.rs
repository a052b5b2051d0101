//! Rounding and packing the operands of a bf16 product into words of two neighbours along the inner dimension.

use crate::base::cpu::{Level, level};
use crate::base::simd::simd_fn;
use crate::matmul::mat::MatRef;

/// Rows of the register tile.
pub(crate) const MR: usize = 14;
/// Columns of the register tile: two vectors.
pub(crate) const NR: usize = 32;
/// Pairs in a block of the inner dimension: one packed panel of each side stays in the first-level cache.
pub(crate) const KP: usize = 192;

/// Packs columns (rows of the transposed view `src`) `r0 .. r0 + NR` of the right operand: `dst[p * NR + column]`.
pub(crate) fn pack_cols(src: MatRef, r0: usize, dst: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512Bf16 {
        // SAFETY: `level` says the CPU has AVX512-BF16.
        let done = unsafe { avx512bf16::interleave::<NR>(src, r0, dst) };
        return cols_body(src, r0, done, dst);
    }
    cols_body(src, r0, 0, dst);
}

/// Packs rows `r0 .. r0 + MR` of the left operand pair by pair: `dst[p * MR + r]`.
pub(crate) fn pack_rows_interleaved(src: MatRef, r0: usize, dst: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512Bf16 {
        // SAFETY: as above.
        let done = unsafe { avx512bf16::interleave::<MR>(src, r0, dst) };
        return interleaved_body(src, r0, done, dst);
    }
    interleaved_body(src, r0, 0, dst);
}

/// Packs rows `r0 .. r0 + MR` of the left operand, each contiguous, block by block: `dst[(block * MR + r) * KP + pair]`.
pub(crate) fn pack_rows_contiguous(src: MatRef, r0: usize, dst: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512Bf16 {
        // SAFETY: as above.
        return unsafe { avx512bf16::contiguous(src, r0, dst) };
    }
    contiguous_body(src, r0, dst);
}

simd_fn! {
    /// Rounds to bf16 and back: operands of products that are computed in f32.
    pub(crate) fn round(x: &mut [f32]) {
        for x in x {
            let y = f32::from_bits(bf16_bits(*x) << 16);
            *x = if y.is_subnormal() { 0.0 } else { y };
        }
    }
}

/// bf16 bits of a float, nearest even; denormals become zero, NaN stays NaN.
#[inline(always)]
pub(crate) fn bf16_bits(x: f32) -> u32 {
    let b = if x.is_subnormal() { x.to_bits() & 0x8000_0000 } else { x.to_bits() };
    let rounded = b.wrapping_add(0x7fff + ((b >> 16) & 1)) >> 16;
    let nan = (b >> 16) | 0x40;
    if (b & 0x7fff_ffff) > 0x7f80_0000 { nan } else { rounded }
}

/// Packs rows `r0 .. r0 + W` of a view as one panel of `kp` pairs, those from `start` on: `dst[p * W + r]`.
macro_rules! pack_panel {
    ($name:ident, $w:expr) => {
        simd_fn! {
            fn $name(src: MatRef, r0: usize, start: usize, dst: &mut [u32]) {
                const W: usize = $w;
                let (rows, k) = (W.min(src.rows - r0), src.cols);
                let kp = k.div_ceil(2);
                if rows < W {
                    dst[start * W..].fill(0);
                }
                // SAFETY: rows r0..r0+rows and columns 0..k are inside the view.
                let base = unsafe { src.ptr.add(r0 * src.rs) };
                if src.cs == 1 {
                    // Rows are contiguous: 16 pairs of each row at a time, written out transposed.
                    let mut p = start;
                    while p + 16 <= k / 2 {
                        let mut tile = [[0u32; 16]; W];
                        for r in 0..rows {
                            // SAFETY: 32 elements from column 2 p on.
                            let row = unsafe { &*base.add(r * src.rs + 2 * p).cast::<[[f32; 2]; 16]>() };
                            for i in 0..16 {
                                tile[r][i] = bf16_bits(row[i][0]) | bf16_bits(row[i][1]) << 16;
                            }
                        }
                        let out = &mut dst[p * W..(p + 16) * W];
                        for i in 0..16 {
                            for r in 0..W {
                                out[i * W + r] = tile[r][i];
                            }
                        }
                        p += 16;
                    }
                    for p in p..kp {
                        for r in 0..rows {
                            // SAFETY: columns below k.
                            let at = |c: usize| if c < k { unsafe { *base.add(r * src.rs + c) } } else { 0.0 };
                            dst[p * W + r] = bf16_bits(at(2 * p)) | bf16_bits(at(2 * p + 1)) << 16;
                        }
                    }
                } else if src.rs == 1 && rows == W {
                    for p in start..kp {
                        let out = &mut dst[p * W..(p + 1) * W];
                        // SAFETY: W contiguous rows of columns 2 p and 2 p + 1, where they exist.
                        let lo = unsafe { &*base.add(2 * p * src.cs).cast::<[f32; W]>() };
                        if 2 * p + 1 < k {
                            // SAFETY: as above.
                            let hi = unsafe { &*base.add((2 * p + 1) * src.cs).cast::<[f32; W]>() };
                            for r in 0..W {
                                out[r] = bf16_bits(lo[r]) | bf16_bits(hi[r]) << 16;
                            }
                        } else {
                            for r in 0..W {
                                out[r] = bf16_bits(lo[r]);
                            }
                        }
                    }
                } else {
                    for p in start..kp {
                        for r in 0..rows {
                            // SAFETY: columns below k.
                            let at = |c: usize| if c < k { unsafe { *base.add(r * src.rs + c * src.cs) } } else { 0.0 };
                            dst[p * W + r] = bf16_bits(at(2 * p)) | bf16_bits(at(2 * p + 1)) << 16;
                        }
                    }
                }
            }
        }
    };
}
pack_panel!(interleaved_body, MR);
pack_panel!(cols_body, NR);

simd_fn! {
    /// Packs rows `r0 .. r0 + MR`, each contiguous, block by block: `dst[(block * MR + r) * KP + pair]`.
    fn contiguous_body(src: MatRef, r0: usize, dst: &mut [u32]) {
        let (rows, k) = (MR.min(src.rows - r0), src.cols);
        for (b, block) in dst.chunks_exact_mut(MR * KP).enumerate() {
            let first = 2 * b * KP;
            let pairs = (k.saturating_sub(first) / 2).min(KP);
            for (r, out) in block.chunks_exact_mut(KP).enumerate() {
                if r >= rows {
                    out.fill(0);
                    continue;
                }
                // SAFETY: row r0 + r of the view; columns first .. first + 2 pairs are below k.
                let row = unsafe { std::slice::from_raw_parts(src.ptr.add((r0 + r) * src.rs + first).cast::<[f32; 2]>(), pairs) };
                for (o, v) in out.iter_mut().zip(row) {
                    *o = bf16_bits(v[0]) | bf16_bits(v[1]) << 16;
                }
                if pairs < KP && first + 2 * pairs < k {
                    // SAFETY: the last, odd column.
                    out[pairs] = bf16_bits(unsafe { *src.ptr.add((r0 + r) * src.rs + k - 1) });
                }
            }
        }
    }
}

/// The same words with the CPU's own rounding, which treats denormals and NaN as [`bf16_bits`] does.
#[cfg(target_arch = "x86_64")]
mod avx512bf16 {
    use super::{KP, MR, bf16_bits};
    use crate::matmul::mat::MatRef;
    use std::arch::x86_64::*;

    /// 32 floats as 16 words.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn words(p: *const f32) -> __m512i {
        // SAFETY: the caller has 32 floats there; both types are 64 bytes of plain bits.
        unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(_mm512_loadu_ps(p.add(16)), _mm512_loadu_ps(p))) }
    }

    /// Words (row, 16 pairs) as (pair, 16 rows).
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn transpose(r: &[__m512i; 16]) -> [__m512i; 16] {
        let mut b = [[_mm512_setzero_si512(); 4]; 4]; // b[g][j]: lane l holds rows 4 g .. 4 g + 4 of pair 4 l + j
        for g in 0..4 {
            let (lo, hi) =
                (_mm512_unpacklo_epi32(r[4 * g], r[4 * g + 1]), _mm512_unpackhi_epi32(r[4 * g], r[4 * g + 1]));
            let (lo2, hi2) =
                (_mm512_unpacklo_epi32(r[4 * g + 2], r[4 * g + 3]), _mm512_unpackhi_epi32(r[4 * g + 2], r[4 * g + 3]));
            b[g] = [
                _mm512_unpacklo_epi64(lo, lo2),
                _mm512_unpackhi_epi64(lo, lo2),
                _mm512_unpacklo_epi64(hi, hi2),
                _mm512_unpackhi_epi64(hi, hi2),
            ];
        }
        let mut out = [_mm512_setzero_si512(); 16];
        for j in 0..4 {
            let (x0, x1) =
                (_mm512_shuffle_i32x4::<0x44>(b[0][j], b[1][j]), _mm512_shuffle_i32x4::<0xee>(b[0][j], b[1][j]));
            let (x2, x3) =
                (_mm512_shuffle_i32x4::<0x44>(b[2][j], b[3][j]), _mm512_shuffle_i32x4::<0xee>(b[2][j], b[3][j]));
            out[j] = _mm512_shuffle_i32x4::<0x88>(x0, x2);
            out[4 + j] = _mm512_shuffle_i32x4::<0xdd>(x0, x2);
            out[8 + j] = _mm512_shuffle_i32x4::<0x88>(x1, x3);
            out[12 + j] = _mm512_shuffle_i32x4::<0xdd>(x1, x3);
        }
        out
    }

    /// Packs what whole vectors cover of a panel of W rows, `dst[p * W + r]`; returns the pairs done.
    ///
    /// # Safety
    /// The CPU has AVX512-BF16.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn interleave<const W: usize>(src: MatRef, r0: usize, dst: &mut [u32]) -> usize {
        let (rows, k) = (W.min(src.rows - r0), src.cols);
        let pairs = k / 2;
        assert!(dst.len() >= pairs * W);
        // SAFETY: rows r0 .. r0 + rows and columns 0 .. k are inside the view; every store is inside `dst`.
        unsafe {
            let base = src.ptr.add(r0 * src.rs);
            if src.cs == 1 && W % 16 == 0 {
                let whole = pairs / 16 * 16;
                for p in (0..whole).step_by(16) {
                    for half in (0..W).step_by(16) {
                        let mut tile = [_mm512_setzero_si512(); 16];
                        for (r, t) in tile.iter_mut().enumerate().take(rows.saturating_sub(half)) {
                            *t = words(base.add((half + r) * src.rs + 2 * p));
                        }
                        for (i, v) in transpose(&tile).into_iter().enumerate() {
                            _mm512_storeu_si512(dst.as_mut_ptr().add((p + i) * W + half).cast(), v);
                        }
                    }
                }
                return whole;
            }
            if src.rs == 1 && rows == W {
                for p in 0..pairs {
                    let (lo, hi) = (base.add(2 * p * src.cs), base.add((2 * p + 1) * src.cs));
                    for r in (0..W).step_by(16) {
                        let mask = (((1u32 << (W - r).min(16)) - 1) & 0xffff) as u16;
                        let word = |p: *const f32| -> __m512i {
                            let half: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, p)));
                            _mm512_cvtepu16_epi32(half)
                        };
                        let v = _mm512_or_si512(word(lo.add(r)), _mm512_slli_epi32::<16>(word(hi.add(r))));
                        _mm512_mask_storeu_epi32(dst.as_mut_ptr().add(p * W + r).cast(), mask, v);
                    }
                }
                return pairs;
            }
        }
        0
    }

    /// # Safety
    /// The CPU has AVX512-BF16.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn contiguous(src: MatRef, r0: usize, dst: &mut [u32]) {
        let (rows, k) = (MR.min(src.rows - r0), src.cols);
        for (b, block) in dst.chunks_exact_mut(MR * KP).enumerate() {
            let first = 2 * b * KP;
            let pairs = (k.saturating_sub(first) / 2).min(KP);
            for (r, out) in block.chunks_exact_mut(KP).enumerate() {
                if r >= rows {
                    out.fill(0);
                    continue;
                }
                // SAFETY: row r0 + r of the view; columns first .. first + 2 pairs, and an odd last one, are below k.
                unsafe {
                    let row = src.ptr.add((r0 + r) * src.rs + first);
                    let whole = pairs / 16 * 16;
                    for p in (0..whole).step_by(16) {
                        _mm512_storeu_si512(out.as_mut_ptr().add(p).cast(), words(row.add(2 * p)));
                    }
                    for p in whole..pairs {
                        out[p] = bf16_bits(*row.add(2 * p)) | bf16_bits(*row.add(2 * p + 1)) << 16;
                    }
                    if pairs < KP && first + 2 * pairs < k {
                        out[pairs] = bf16_bits(*row.add(2 * pairs));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu::{detected, with_level};
    use crate::check::random;

    #[test]
    fn every_level_packs_the_same_words_even_of_odd_numbers() {
        let odd =
            [f32::NAN, -f32::NAN, f32::INFINITY, f32::MAX, 1e-40, -1.17e-38, f32::MIN_POSITIVE, -0.0, 1.003_906_2];
        let (rows, cols) = (45, 2 * KP + 39);
        let mut data = random("packed", rows * cols);
        data.iter_mut().step_by(7).zip(odd.iter().cycle()).for_each(|(d, o)| *d = *o);
        data[3] = f32::from_bits(0x7f80_0001);
        let pack = |wide: bool, transposed: bool, r0: usize| {
            let view = if transposed {
                MatRef::new(&data, rows, cols, 1, rows)
            } else {
                MatRef::new(&data, rows, cols, cols, 1)
            }
            .unwrap();
            let kp = cols.div_ceil(2);
            let mut out = vec![7; kp * NR];
            if wide {
                pack_cols(view, r0, &mut out)
            } else {
                pack_rows_interleaved(view, r0, &mut out[..kp * MR])
            }
            let mut blocks = vec![7; kp.next_multiple_of(KP) * MR];
            if !transposed {
                pack_rows_contiguous(view, r0, &mut blocks);
                // Beyond the last pair of a row lies what no product reads.
                blocks.chunks_mut(KP).skip(kp / KP * MR).for_each(|b| b[kp % KP..].fill(0));
            }
            (out, blocks)
        };
        for (wide, r0s) in [(true, [0, 32]), (false, [0, 42])] {
            for transposed in [false, true] {
                for r0 in r0s {
                    let want = with_level(Level::Portable, || pack(wide, transposed, r0));
                    assert!(want == with_level(detected(), || pack(wide, transposed, r0)), "{wide} {transposed} {r0}");
                }
            }
        }
    }
}
