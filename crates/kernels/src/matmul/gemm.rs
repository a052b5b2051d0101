//! Matrix products: f32, and f32 in and out multiplied in bf16.
//!
//! Operands are strided views, so no product ever copies a transpose. Blocks along the inner dimension are 512 wide
//! and added in order whatever the level or the number of threads, so the bits depend on the shape alone.

use crate::base::cpu::{Level, level};
use crate::base::par::Shared;
use crate::error::{Error, Result};
use crate::matmul::bf16;
use crate::matmul::mat::{Epilogue, MatMut, MatRef, Precision};

/// Computes `c = a b`, or `c += a b` when `accumulate`, over all threads.
///
/// # Errors
/// When the shapes do not fit.
pub fn gemm(precision: Precision, a: MatRef, b: MatRef, c: MatMut, accumulate: bool) -> Result<()> {
    gemm_with(precision, a, b, c, accumulate, None)
}

pub(crate) fn gemm_with(
    precision: Precision,
    a: MatRef,
    b: MatRef,
    c: MatMut,
    accumulate: bool,
    epilogue: Option<Epilogue>,
) -> Result<()> {
    check(&a, &b, &c)?;
    match precision {
        Precision::F32 | Precision::Tf32 => panels(a, b, c, accumulate, epilogue),
        Precision::Bf16 => bf16::gemm(a, b, c, accumulate, epilogue),
    }
    Ok(())
}

/// The same product on the calling thread alone: for small products inside a parallel loop.
pub(crate) fn gemm_serial(precision: Precision, a: MatRef, b: MatRef, c: MatMut, accumulate: bool) -> Result<()> {
    check(&a, &b, &c)?;
    match precision {
        Precision::F32 | Precision::Tf32 => block(a, b, c, accumulate),
        Precision::Bf16 => bf16::gemm_serial(a, b, c, accumulate),
    }
    Ok(())
}

fn check(a: &MatRef, b: &MatRef, c: &MatMut) -> Result<()> {
    if a.cols != b.rows || a.rows != c.rows || b.cols != c.cols {
        return Err(Error::Value {
            op: "gemm",
            message: format!("({}, {}) x ({}, {}) -> ({}, {})", a.rows, a.cols, b.rows, b.cols, c.rows, c.cols),
        });
    }
    Ok(())
}

/// Cuts the result into panels, one task each. A product's bits do not depend on the cut, so the cut may follow the
/// number of threads.
fn panels(a: MatRef, b: MatRef, c: MatMut, accumulate: bool, epilogue: Option<Epilogue>) {
    let (m, n, k) = (c.rows, c.cols, a.cols);
    let threads = rayon::current_num_threads();
    let work = m * n * k;
    let tasks = if threads == 1 || work < 1 << 18 { 1 } else { (threads * 2).min(work >> 17).max(1) };
    // The kernel's tile is 4 rows by 96 columns: cut at multiples of it.
    let (by_rows, step) = if m >= n {
        (true, m.div_ceil(tasks).next_multiple_of(4))
    } else {
        (false, n.div_ceil(tasks).next_multiple_of(96))
    };
    let total = if by_rows { m } else { n };
    let dst = Shared(c.ptr);
    crate::base::par::each(total.div_ceil(step.max(1)), |i| {
        let (start, len) = (i * step, step.min(total - i * step));
        let (r0, nr, c0, nc) = if by_rows { (start, len, 0, n) } else { (0, m, start, len) };
        // SAFETY: panels are disjoint row or column ranges of `c`, whose borrow outlives this loop; the sub-views of
        // `a` and `b` stay inside views that were checked.
        unsafe {
            block(
                a.some_rows(r0, nr),
                b.t().some_rows(c0, nc).t(),
                MatMut::from_raw(dst.ptr().add(r0 * c.rs + c0), nr, nc, c.rs),
                accumulate,
            );
            if let Some(f) = epilogue {
                for r in r0..r0 + nr {
                    f(r, c0, std::slice::from_raw_parts_mut(dst.ptr().add(r * c.rs + c0), nc));
                }
            }
        }
    });
}

/// One f32 product on one thread.
fn block(a: MatRef, b: MatRef, c: MatMut, accumulate: bool) {
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    if a.cols == 0 {
        return portable(a, b, c, accumulate);
    }
    match level() {
        #[cfg(target_arch = "x86_64")]
        l @ (Level::Avx2 | Level::Avx512 | Level::Avx512Bf16) => {
            use private_gemm_x86::{Accum, DType, DstKind, IType, InstrSet};
            let null = std::ptr::null();
            let alpha = 1.0f32;
            // SAFETY: shapes were checked against each other, views against their slices; the level is one this CPU has.
            unsafe {
                private_gemm_x86::gemm(
                    DType::F32,
                    IType::U64,
                    if l == Level::Avx2 { InstrSet::Avx256 } else { InstrSet::Avx512 },
                    c.rows,
                    c.cols,
                    a.cols,
                    c.ptr.cast(),
                    c.rs as isize,
                    1,
                    null,
                    null,
                    DstKind::Full,
                    if accumulate { Accum::Add } else { Accum::Replace },
                    a.ptr.cast(),
                    a.rs as isize,
                    a.cs as isize,
                    false,
                    null,
                    0,
                    b.ptr.cast(),
                    b.rs as isize,
                    b.cs as isize,
                    false,
                    (&raw const alpha).cast(),
                    1,
                );
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        _ if std::env::var_os("CANDLELIGHT_CPU").is_none() => {
            // SAFETY: shapes were checked against each other, views against their slices.
            unsafe {
                gemm::gemm(
                    c.rows,
                    c.cols,
                    a.cols,
                    c.ptr,
                    1,
                    c.rs as isize,
                    accumulate,
                    a.ptr,
                    a.cs as isize,
                    a.rs as isize,
                    b.ptr,
                    b.cs as isize,
                    b.rs as isize,
                    1.0,
                    1.0,
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                )
            }
        }
        _ => portable(a, b, c, accumulate),
    }
}

/// Fused multiply-adds in blocks of 512 along the inner dimension: the order the vector kernels use.
fn portable(a: MatRef, b: MatRef, c: MatMut, accumulate: bool) {
    // SAFETY: indices stay inside the views, which were checked against their slices.
    unsafe {
        for i in 0..c.rows {
            for j in 0..c.cols {
                let out = c.ptr.add(i * c.rs + j);
                let mut total = if accumulate { Some(*out) } else { None };
                for k0 in (0..a.cols).step_by(512) {
                    let mut acc = 0.0f32;
                    for k in k0..(k0 + 512).min(a.cols) {
                        acc = (*a.ptr.add(i * a.rs + k * a.cs)).mul_add(*b.ptr.add(k * b.rs + j * b.cs), acc);
                    }
                    total = Some(total.map_or(acc, |t| t + acc));
                }
                *out = total.unwrap_or(0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu::with_level;
    use crate::check::{levels, random};

    /// Products in f64 from operands rounded as `precision` rounds them.
    fn reference(p: Precision, a: MatRef, b: MatRef, c: &[f32], rs: usize, acc: bool) -> Vec<f64> {
        let round = |x: f32| f64::from(if p == Precision::Bf16 { bf16::round_bf16(x) } else { x });
        let mut out = vec![0.0; a.rows * b.cols];
        for i in 0..a.rows {
            for j in 0..b.cols {
                let mut s = if acc { f64::from(c[i * rs + j]) } else { 0.0 };
                for k in 0..a.cols {
                    // SAFETY: inside the views.
                    let (x, y) = unsafe { (*a.ptr.add(i * a.rs + k * a.cs), *b.ptr.add(k * b.rs + j * b.cs)) };
                    s += round(x) * round(y);
                }
                out[i * b.cols + j] = s;
            }
        }
        out
    }

    fn case(p: Precision, m: usize, n: usize, k: usize, ta: bool, tb: bool, pad: usize, acc: bool) -> Vec<f32> {
        let (lda, ldb, ldc) = (if ta { m } else { k } + pad, if tb { k } else { n } + pad, n + pad);
        let a = random("a", if ta { k } else { m } * lda);
        let b = random("b", if tb { n } else { k } * ldb);
        let mut c = random("c", m * ldc);
        let av = if ta { MatRef::new(&a, k, m, lda, 1).unwrap().t() } else { MatRef::new(&a, m, k, lda, 1).unwrap() };
        let bv = if tb { MatRef::new(&b, n, k, ldb, 1).unwrap().t() } else { MatRef::new(&b, k, n, ldb, 1).unwrap() };
        let want = reference(p, av, bv, &c, ldc, acc);
        let before = c.clone();
        gemm(p, av, bv, MatMut::new(&mut c, m, n, ldc).unwrap(), acc).unwrap();
        let scale = (k as f64).sqrt().max(1.0);
        for i in 0..m {
            for j in 0..n {
                let (got, want) = (f64::from(c[i * ldc + j]), want[i * n + j]);
                assert!((got - want).abs() < 2e-6 * scale * 4.0, "{p} {m}x{n}x{k} {ta}{tb} ({i},{j}): {got} {want}");
            }
            assert_eq!(c[i * ldc + n..(i + 1) * ldc], before[i * ldc + n..(i + 1) * ldc], "padding of row {i}");
        }
        c
    }

    #[test]
    fn every_level_agrees_with_f64_and_with_each_other_on_ragged_shapes() {
        let sides = [1, 2, 13, 14, 15, 31, 33, 97];
        let mut cases = vec![(1, 1, 1, 0), (3, 5, 1030, 3), (29, 100, 513, 0), (17, 31, 512, 1)];
        for &m in &sides {
            for &n in &sides {
                cases.push((m, n, 19, (m + n) % 3));
            }
        }
        for p in [Precision::F32, Precision::Bf16] {
            for &(m, n, k, pad) in &cases {
                for (ta, tb, acc) in
                    [(false, false, false), (false, true, true), (true, false, true), (true, true, false)]
                {
                    let results: Vec<_> =
                        levels().map(|l| with_level(l, || case(p, m, n, k, ta, tb, pad, acc))).collect();
                    for r in &results[1..] {
                        assert_eq!(r, &results[0], "{p} {m}x{n}x{k} {ta} {tb} {acc}: levels differ");
                    }
                }
            }
        }
    }

    #[test]
    fn products_of_rows_with_each_other_have_the_bits_of_the_whole_product() {
        for (n, k) in [(1, 3), (17, 40), (128, 64), (129, 200), (300, 70), (515, 33)] {
            for transposed in [false, true] {
                let x = random("x", n * k);
                let (rs, cs) = if transposed { (1, n) } else { (k, 1) };
                let rows = MatRef::new(&x, n, k, rs, cs).unwrap();
                let (mut half, mut whole) = (vec![f32::NAN; n * n], vec![0.0; n * n]);
                let twice = |_: usize, _: usize, row: &mut [f32]| row.iter_mut().for_each(|v| *v *= 2.0);
                bf16::gram(rows, MatMut::row_major(&mut half, n, n).unwrap(), Some(&twice));
                gemm(Precision::Bf16, rows, rows.t(), MatMut::row_major(&mut whole, n, n).unwrap(), false).unwrap();
                let bits = |v: &[f32], by: f32| v.iter().map(|v| (v * by).to_bits()).collect::<Vec<_>>();
                assert!(bits(&half, 1.0) == bits(&whole, 2.0), "{n} {k} {transposed}");
            }
        }
    }

    #[test]
    fn threads_do_not_change_the_bits() {
        for p in [Precision::F32, Precision::Bf16] {
            for (m, n, k) in [(200, 300, 700), (301, 96, 513), (96, 511, 1025)] {
                let run = |threads| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    pool.install(|| case(p, m, n, k, false, true, 0, true))
                };
                let one = run(1);
                for threads in [2, 3, 4, 7] {
                    assert_eq!(one, run(threads), "{p} {m}x{n}x{k} with {threads} threads");
                }
            }
        }
    }

    #[test]
    fn empty_inner_dimension_gives_zeros_and_bad_shapes_an_error() {
        let mut c = vec![3.0; 4];
        let empty = MatRef::row_major(&[], 2, 0).unwrap();
        for p in [Precision::F32, Precision::Bf16] {
            gemm(p, empty, empty.t(), MatMut::row_major(&mut c, 2, 2).unwrap(), false).unwrap();
            assert_eq!(c, [0.0; 4]);
        }
        let x = [0.0; 4];
        let (a, b) = (MatRef::row_major(&x, 2, 2).unwrap(), MatRef::row_major(&x, 1, 2).unwrap());
        assert!(gemm(Precision::F32, a, b, MatMut::row_major(&mut c, 2, 2).unwrap(), false).is_err());
    }
}
