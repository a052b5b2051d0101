//! Products with bf16 operands: f32 in, rounded while packing, f32 sums, f32 out.
//!
//! Both operands are packed as words of two bf16 that are neighbours along the inner dimension: the right one as
//! `(panel, pair, column)`, the left one as `(panel, block, row, pair)` where its rows are contiguous in memory (packing is
//! then a plain conversion) and as `(panel, pair, row)` where its columns are (`pack_bf16`). One dot product instruction does two
//! multiply-adds per lane, odd member first, denormals flushed; the portable body does the same two fused operations, so all
//! levels give the same bits.

use crate::base::cpu::{Level, level};
use crate::base::par::{Shared, each};
use crate::base::simd::simd_fn;
use crate::matmul::mat::{Epilogue, MatMut, MatRef};
use crate::matmul::pack_bf16::{KP, MR, NR, pack_cols, pack_rows_contiguous, pack_rows_interleaved};
use std::cell::RefCell;

/// Row panels a task works through with one packed column panel in cache, at most.
const PANELS: usize = 16;
/// Words of its row panels that stay in the second-level cache.
const ROW_WORDS: usize = 128 << 10;
/// Floats of a cache line: rows that are mirrored together.
const LINE: usize = 16;

#[cfg(test)]
pub(crate) fn round_bf16(x: f32) -> f32 {
    let y = f32::from_bits(crate::matmul::pack_bf16::bf16_bits(x) << 16);
    if y.is_subnormal() { 0.0 } else { y }
}

thread_local! {
    static PACK_A: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static PACK_B: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// Borrows a thread's packing buffer, or a fresh one when an outer call on this thread holds it.
fn with_words<R>(
    cell: &'static std::thread::LocalKey<RefCell<Vec<u32>>>,
    n: usize,
    f: impl FnOnce(&mut [u32]) -> R,
) -> R {
    let mut v = cell.take();
    if v.len() < n {
        v = vec![0; n];
    }
    let r = f(&mut v[..n]);
    cell.set(v);
    r
}

/// Packs one panel of the left operand; `contiguous` says which layout.
fn pack_rows(src: MatRef, r0: usize, contiguous: bool, dst: &mut [u32]) {
    if contiguous { pack_rows_contiguous(src, r0, dst) } else { pack_rows_interleaved(src, r0, dst) }
}

/// Words of a panel of the left operand: whole blocks.
fn row_panel_words(kp: usize) -> usize {
    kp.next_multiple_of(KP) * MR
}

type Tile = [[f32; NR]; MR];

/// The part of `c` that one tile goes to.
struct Place<'a> {
    c: &'a MatMut<'a>,
    row: usize,
    rows: usize,
    col: usize,
    cols: usize,
    /// Whether the tile is added.
    add: bool,
}

impl Place<'_> {
    fn put(&self, t: &Tile) {
        for (r, t) in t.iter().enumerate().take(self.rows) {
            let at = (self.row + r) * self.c.rs + self.col;
            // SAFETY: the tile's part of `c`, which this task alone writes.
            let out = unsafe { std::slice::from_raw_parts_mut(self.c.ptr.add(at), self.cols) };
            if self.add {
                for (o, v) in out.iter_mut().zip(t) {
                    *o += v;
                }
            } else {
                out.copy_from_slice(&t[..self.cols]);
            }
        }
    }
}

/// `a b` over one block of `pairs` into its place; word (row r, pair p) of a is `a[r * ROW + p * PAIR]`, of b `b[p * NR + column]`.
fn tile<const ROW: usize, const PAIR: usize>(pairs: usize, a: &[u32], b: &[u32], place: &Place<'_>) {
    debug_assert!(pairs == 0 || (a.len() > (MR - 1) * ROW + (pairs - 1) * PAIR && b.len() >= pairs * NR));
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512Bf16 {
        let &Place { c, row, rows, col, cols, add } = place;
        if rows == MR && cols == NR {
            // SAFETY: `level` says the CPU has AVX512-BF16; both panels hold `pairs` pairs; the place is a whole tile inside `c`
            // that this task alone writes.
            unsafe { tile_avx512bf16::<ROW, PAIR>(pairs, a, b, c.ptr.add(row * c.rs + col), c.rs, add) };
        } else {
            let mut t: Tile = [[0.0; NR]; MR];
            // SAFETY: as above; the tile goes to `t`.
            unsafe { tile_avx512bf16::<ROW, PAIR>(pairs, a, b, t.as_mut_ptr().cast(), NR, false) };
            place.put(&t);
        }
        return;
    }
    let mut t: Tile = [[0.0; NR]; MR];
    tile_fma(ROW, PAIR, pairs, a, b, &mut t);
    place.put(&t);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile_avx512bf16<const ROW: usize, const PAIR: usize>(
    pairs: usize,
    a: &[u32],
    b: &[u32],
    out: *mut f32,
    rs: usize,
    add: bool,
) {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32,
        _mm512_setzero_ps, _mm512_storeu_ps,
    };
    let mut acc = [[_mm512_setzero_ps(); 2]; MR];
    let (mut pa, mut pb) = (a.as_ptr(), b.as_ptr());
    let bh = |v: __m512i| -> __m512bh {
        // SAFETY: both are 64 bytes of plain bits.
        unsafe { std::mem::transmute(v) }
    };
    for _ in 0..pairs {
        // SAFETY: the loop stays inside both panels.
        unsafe {
            let b0 = bh(_mm512_loadu_si512(pb.cast()));
            let b1 = bh(_mm512_loadu_si512(pb.add(16).cast()));
            for r in 0..MR {
                let x = bh(_mm512_set1_epi32((*pa.add(r * ROW)).cast_signed()));
                acc[r][0] = _mm512_dpbf16_ps(acc[r][0], x, b0);
                acc[r][1] = _mm512_dpbf16_ps(acc[r][1], x, b1);
            }
            pa = pa.add(PAIR);
            pb = pb.add(NR);
        }
    }
    for r in 0..MR {
        for half in 0..2 {
            // SAFETY: the caller gives MR rows of two vectors.
            unsafe {
                let p = out.add(r * rs + 16 * half);
                let v = if add { _mm512_add_ps(_mm512_loadu_ps(p), acc[r][half]) } else { acc[r][half] };
                _mm512_storeu_ps(p, v);
            }
        }
    }
}

simd_fn! {
    /// The same sums with fused multiply-adds: odd member, then even; denormal operands and results are zero.
    fn tile_fma(row: usize, pair: usize, pairs: usize, a: &[u32], b: &[u32], out: &mut Tile) {
        let flush = |x: f32| if (x.to_bits() & 0x7f80_0000) == 0 { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x };
        // Two rows at a time keep their sums in registers.
        for r0 in (0..MR).step_by(2) {
            let mut acc = [[0.0f32; NR]; 2];
            for (p, pb) in b.chunks_exact(NR).take(pairs).enumerate() {
                for r in 0..2 {
                    let w = a[(r0 + r) * row + p * pair];
                    let (even, odd) = (flush(f32::from_bits(w << 16)), flush(f32::from_bits(w & 0xffff_0000)));
                    for j in 0..NR {
                        let (be, bo) = (flush(f32::from_bits(pb[j] << 16)), flush(f32::from_bits(pb[j] & 0xffff_0000)));
                        let s = flush(odd.mul_add(bo, acc[r][j]));
                        acc[r][j] = flush(even.mul_add(be, s));
                    }
                }
            }
            out[r0] = acc[0];
            out[r0 + 1] = acc[1];
        }
    }
}

/// Prefetches the part of `c` that a tile goes to, so that it arrives while the tile is computed.
#[inline(always)]
fn prefetch(place: &Place<'_>) {
    #[cfg(target_arch = "x86_64")]
    for r in place.row..place.row + place.rows {
        // SAFETY: prefetching reads nothing; the address is inside `c`.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let p = place.c.ptr.add(r * place.c.rs + place.col).cast::<i8>();
            _mm_prefetch::<_MM_HINT_T0>(p);
            _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(64));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Multiplies row panels `panels` of packed `a` with the column panels of packed `b` from `first_column_panel` on into `c`.
fn multiply(
    a: &[u32],
    contiguous: bool,
    b: &[u32],
    kp: usize,
    panels: std::ops::Range<usize>,
    first_column_panel: usize,
    c: &MatMut,
    accumulate: bool,
) {
    let (aw, bw) = (row_panel_words(kp), kp * NR);
    // All of the inner dimension before the next columns: the sums under way stay in cache.
    for jp in first_column_panel..c.cols.div_ceil(NR) {
        for k0 in (0..kp.max(1)).step_by(KP) {
            let k1 = (k0 + KP).min(kp);
            let pb = &b[jp * bw + k0 * NR..jp * bw + k1 * NR];
            for ip in panels.clone() {
                let (row, col) = (ip * MR, jp * NR);
                let (rows, cols) = (MR.min(c.rows - row), NR.min(c.cols - col));
                let place = Place { c, row, rows, col, cols, add: accumulate || k0 > 0 };
                prefetch(&place);
                let at = (ip - panels.start) * aw;
                let pa = &a[at + k0 * MR..at + aw];
                if contiguous {
                    tile::<KP, 1>(k1 - k0, pa, pb, &place);
                } else {
                    tile::<1, MR>(k1 - k0, pa, pb, &place);
                }
            }
        }
    }
}

/// The product over all threads.
pub(crate) fn gemm(a: MatRef, b: MatRef, c: MatMut, accumulate: bool, epilogue: Option<Epilogue>) {
    product(a, b, c, accumulate, epilogue, false);
}

/// The products of all rows of `a` with each other into the square matrix `c`. Only those on and above the diagonal are computed: the
/// others have the same bits. The epilogue sees a row from a column at or before the diagonal on.
pub(crate) fn gram(a: MatRef, c: MatMut, epilogue: Option<Epilogue>) {
    let (dst, n, rs) = (Shared(c.ptr), c.rows, c.rs);
    product(a, a.t(), c, false, epilogue, true);
    each(n.div_ceil(LINE), |i| {
        // SAFETY: elements below the diagonal are written, each by one task, and those above it read, where nothing is written any more.
        mirror(&unsafe { MatMut::from_raw(dst.ptr(), n, n, rs) }, i * LINE);
    });
}

simd_fn! {
    /// Writes what lies left of the diagonal in up to [`LINE`] rows from `first` on from what lies above it.
    fn mirror(c: &MatMut, first: usize) {
        let (n, rs) = (c.rows, c.rs);
        let whole = if n - first < LINE { 0 } else { first };
        for column in (0..whole).step_by(LINE) {
            let mut tile = [[0.0f32; LINE]; LINE];
            for (i, line) in tile.iter_mut().enumerate() {
                // SAFETY: LINE elements above the diagonal.
                *line = unsafe { *c.ptr.add((column + i) * rs + first).cast() };
            }
            for r in 0..LINE {
                let line: [f32; LINE] = std::array::from_fn(|i| tile[i][r]);
                // SAFETY: LINE elements left of the diagonal.
                unsafe { *c.ptr.add((first + r) * rs + column).cast() = line };
            }
        }
        for row in first..n.min(first + LINE) {
            for column in whole..row {
                // SAFETY: an element left of the diagonal, and the one above it.
                unsafe { *c.ptr.add(row * rs + column) = *c.ptr.add(column * rs + row) };
            }
        }
    }
}

/// The product: `b` packed once, then one task per group of row panels; with `upper`, each from the diagonal on.
fn product(a: MatRef, b: MatRef, c: MatMut, accumulate: bool, epilogue: Option<Epilogue>, upper: bool) {
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    let kp = a.cols.div_ceil(2);
    let (row_panels, col_panels) = (c.rows.div_ceil(MR), c.cols.div_ceil(NR));
    let bt = b.t();
    let contiguous = a.cs == 1;
    with_words(&PACK_B, col_panels * kp * NR, |pb| {
        use rayon::prelude::*;
        if a.cols > 0 {
            pb.par_chunks_mut(kp * NR).enumerate().for_each(|(j, dst)| pack_cols(bt, j * NR, dst));
        }
        let fit = (ROW_WORDS / row_panel_words(kp).max(1)).clamp(PANELS / 4, PANELS);
        // Groups of an upper triangle differ in size: more of them.
        let groups = rayon::current_num_threads() * if upper { 8 } else { 2 };
        let group = fit.min(row_panels.div_ceil(groups)).max(1);
        let dst = Shared(c.ptr);
        let (rows, cols, rs) = (c.rows, c.cols, c.rs);
        let pb = &*pb;
        each(row_panels.div_ceil(group), |g| {
            let panels = g * group..((g + 1) * group).min(row_panels);
            let first = if upper { panels.start * MR / NR } else { 0 };
            with_words(&PACK_A, panels.len() * row_panel_words(kp), |pa| {
                if a.cols > 0 {
                    for (ip, d) in panels.clone().zip(pa.chunks_mut(row_panel_words(kp))) {
                        pack_rows(a, ip * MR, contiguous, d);
                    }
                }
                // SAFETY: groups are disjoint rows of `c`, whose borrow outlives the loop.
                let c = unsafe { MatMut::from_raw(dst.ptr(), rows, cols, rs) };
                multiply(pa, contiguous, pb, kp, panels.clone(), first, &c, accumulate);
            });
            if let Some(f) = epilogue {
                let c0 = first * NR;
                for r in panels.start * MR..(panels.end * MR).min(rows) {
                    // SAFETY: as above.
                    f(r, c0, unsafe { std::slice::from_raw_parts_mut(dst.ptr().add(r * rs + c0), cols - c0) });
                }
            }
        });
    });
}

/// The product on the calling thread.
pub(crate) fn gemm_serial(a: MatRef, b: MatRef, c: MatMut, accumulate: bool) {
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    let kp = a.cols.div_ceil(2);
    let (row_panels, col_panels) = (c.rows.div_ceil(MR), c.cols.div_ceil(NR));
    let contiguous = a.cs == 1;
    with_words(&PACK_B, col_panels * kp * NR, |pb| {
        with_words(&PACK_A, row_panels * row_panel_words(kp), |pa| {
            if a.cols > 0 {
                for (j, d) in pb.chunks_mut(kp * NR).enumerate() {
                    pack_cols(b.t(), j * NR, d);
                }
                for (i, d) in pa.chunks_mut(row_panel_words(kp)).enumerate() {
                    pack_rows(a, i * MR, contiguous, d);
                }
            }
            multiply(pa, contiguous, pb, kp, 0..row_panels, 0, &c, accumulate);
        });
    });
}
