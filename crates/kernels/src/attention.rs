//! Softmax attention on packed projections, without transposed copies.
//!
//! qkv is (B, N, 3, H, Dh) as the fused projection writes it; the output is (B, N, H, Dh) as the next one reads it. Each
//! (sample, head) is one task: products on strided views, the (N, N) scores in a scratch buffer that stays in cache. Only
//! the log of each row's sum is kept; the backward pass computes the probabilities again.

use crate::base::mem::scratch;
use crate::base::par::{Shared, each};
use crate::base::simd::{LANES, dot, exp, fold, fold_max, simd_fn};
use crate::drop::dropout::{check_rate, keep4};
use crate::error::{Error, Result, expect_len};
use crate::matmul::gemm::gemm_serial;
use crate::matmul::{MatMut, MatRef, Precision};

/// The sizes of an attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dims {
    /// The number of samples.
    pub batch: usize,
    /// The number of tokens of a sample.
    pub tokens: usize,
    /// The number of heads.
    pub heads: usize,
    /// The width of a head.
    pub head_dim: usize,
    /// Factor on the scores, `head_dim^-0.5` as a rule.
    pub scale: f32,
    /// Precision of the products.
    pub precision: Precision,
}

/// Dropout on the probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// The key's words.
    pub words: [u32; 2],
    /// Share of the probabilities that are dropped, in [0, 1).
    pub rate: f32,
}

simd_fn! {
    /// Rows of scores to probabilities; `lse[i] = max + ln(sum)`.
    fn softmax_rows(scale: f32, n: usize, s: &mut [f32], lse: &mut [f32]) {
        for (row, lse) in s.chunks_exact_mut(n).zip(lse) {
            let mut top = [f32::NEG_INFINITY; LANES];
            let mut chunks = row.chunks_exact(LANES);
            for c in &mut chunks {
                for i in 0..LANES {
                    top[i] = if c[i] > top[i] { c[i] } else { top[i] };
                }
            }
            for (t, v) in top.iter_mut().zip(chunks.remainder()) {
                *t = if *v > *t { *v } else { *t };
            }
            let m = fold_max(top) * scale;
            let mut acc = [0.0; LANES];
            let mut chunks = row.chunks_exact_mut(LANES);
            for c in &mut chunks {
                for i in 0..LANES {
                    c[i] = exp(c[i].mul_add(scale, -m));
                    acc[i] += c[i];
                }
            }
            for (a, v) in acc.iter_mut().zip(chunks.into_remainder()) {
                *v = exp(v.mul_add(scale, -m));
                *a += *v;
            }
            let sum = fold(acc);
            let inv = 1.0 / sum;
            for v in row.iter_mut() {
                *v *= inv;
            }
            // ln through f64: once per row, and the same bits everywhere.
            *lse = m + f64::from(sum).ln() as f32;
        }
    }
}

simd_fn! {
    /// The probabilities again, from the scores and the saved log-sums.
    fn probabilities(scale: f32, n: usize, s: &mut [f32], lse: &[f32]) {
        for (row, l) in s.chunks_exact_mut(n).zip(lse) {
            for v in row {
                *v = exp(v.mul_add(scale, -l));
            }
        }
    }
}

simd_fn! {
    /// dp becomes the gradient of the scaled scores: `scale p (dp - sum(p dp))`.
    fn softmax_backward_rows(scale: f32, n: usize, p: &[f32], dp: &mut [f32]) {
        for (p, dp) in p.chunks_exact(n).zip(dp.chunks_exact_mut(n)) {
            let delta = dot(p, dp);
            for (d, p) in dp.iter_mut().zip(p) {
                *d = p * (*d - delta) * scale;
            }
        }
    }
}

/// Multiplies the (N, N) block of one head by its dropout mask.
fn drop_block(d: Dropout, task: usize, p: &mut [f32]) {
    let first = (task as u64) * (p.len() as u64).div_ceil(4);
    for (i, four) in p.chunks_mut(4).enumerate() {
        for (v, k) in four.iter_mut().zip(keep4(d.words, first + i as u64, d.rate)) {
            *v *= k;
        }
    }
}

/// The factors by which dropout multiplies the probabilities, (B H, N, N), for implementations of attention on other devices.
///
/// # Errors
/// When the length does not fit or the rate is outside [0, 1).
pub fn dropout_mask(words: [u32; 2], rate: f32, heads: usize, tokens: usize, mask: &mut [f32]) -> Result<()> {
    check_rate(rate)?;
    expect_len("dropout_mask", "mask", mask.len(), heads * tokens * tokens)?;
    mask.fill(1.0);
    for (task, block) in mask.chunks_exact_mut((tokens * tokens).max(1)).enumerate() {
        drop_block(Dropout { words, rate }, task, block);
    }
    Ok(())
}

fn check(op: &'static str, d: &Dims, dropout: Option<Dropout>, qkv: usize, lse: usize) -> Result<()> {
    let product = |of: &[usize]| of.iter().try_fold(1usize, |n, v| n.checked_mul(*v));
    // Sizes whose product overflows would pass as small ones, and rows would then be written outside the buffers.
    let (Some(all), Some(rows)) =
        (product(&[d.batch, d.tokens, 3, d.heads, d.head_dim]), product(&[d.batch, d.heads, d.tokens]))
    else {
        return Err(Error::Value { op, message: format!("sizes that no memory holds: {d:?}") });
    };
    expect_len(op, "qkv", qkv, all)?;
    expect_len(op, "lse", lse, rows)?;
    if d.tokens == 0 {
        return Err(Error::Value { op, message: "no tokens".into() });
    }
    dropout.map_or(Ok(()), |x| check_rate(x.rate))
}

/// q, k, v of one (sample, head) as views.
fn views<'a>(qkv: &'a [f32], d: &Dims, b: usize, h: usize) -> Result<[MatRef<'a>; 3]> {
    let (rs, width) = (3 * d.heads * d.head_dim, d.heads * d.head_dim);
    let sample = &qkv[b * d.tokens * rs..(b + 1) * d.tokens * rs];
    let part = |i: usize| MatRef::new(&sample[i * width + h * d.head_dim..], d.tokens, d.head_dim, rs, 1);
    Ok([part(0)?, part(1)?, part(2)?])
}

/// Computes `out = softmax(scale q k^T) v`; `lse` (B, H, N) is what [`backward`] needs.
///
/// # Errors
/// When the lengths do not fit.
pub fn forward(d: &Dims, qkv: &[f32], dropout: Option<Dropout>, out: &mut [f32], lse: &mut [f32]) -> Result<()> {
    check("attention", d, dropout, qkv.len(), lse.len())?;
    let (n, width) = (d.tokens, d.heads * d.head_dim);
    expect_len("attention", "out", out.len(), d.batch * n * width)?;
    let (out, lse) = (Shared(out.as_mut_ptr()), Shared(lse.as_mut_ptr()));
    run(d.batch * d.heads, |task| {
        let (b, h) = (task / d.heads, task % d.heads);
        let [q, k, v] = views(qkv, d, b, h)?;
        // SAFETY: each task owns the log-sums and the output columns of its own sample and head.
        let (lse, o) = unsafe {
            (
                std::slice::from_raw_parts_mut(lse.ptr().add(task * n), n),
                MatMut::from_raw(out.ptr().add(b * n * width + h * d.head_dim), n, d.head_dim, width),
            )
        };
        scratch(n * n, |s| {
            gemm_serial(d.precision, q, k.t(), MatMut::row_major(s, n, n)?, false)?;
            softmax_rows(d.scale, n, s, lse);
            if let Some(x) = dropout {
                drop_block(x, task, s);
            }
            gemm_serial(d.precision, MatRef::row_major(s, n, n)?, v, o, false)
        })
    })
}

/// Computes the gradient of [`forward`] with respect to the packed projections.
///
/// # Errors
/// When the lengths do not fit.
pub fn backward(
    d: &Dims,
    qkv: &[f32],
    lse: &[f32],
    dropout: Option<Dropout>,
    dout: &[f32],
    dqkv: &mut [f32],
) -> Result<()> {
    check("attention backward", d, dropout, qkv.len(), lse.len())?;
    let (n, width) = (d.tokens, d.heads * d.head_dim);
    expect_len("attention backward", "dout", dout.len(), d.batch * n * width)?;
    expect_len("attention backward", "dqkv", dqkv.len(), qkv.len())?;
    let dqkv = Shared(dqkv.as_mut_ptr());
    run(d.batch * d.heads, |task| {
        let (b, h) = (task / d.heads, task % d.heads);
        let [q, k, v] = views(qkv, d, b, h)?;
        let g = MatRef::new(&dout[b * n * width + h * d.head_dim..], n, d.head_dim, width, 1)?;
        // SAFETY: each task owns the gradient columns of its own sample and head.
        let part = |i: usize| unsafe {
            let at = b * n * 3 * width + i * width + h * d.head_dim;
            MatMut::from_raw(dqkv.ptr().add(at), n, d.head_dim, 3 * width)
        };
        scratch(n * n, |p| {
            scratch(n * n, |ds| {
                gemm_serial(d.precision, q, k.t(), MatMut::row_major(p, n, n)?, false)?;
                probabilities(d.scale, n, p, &lse[task * n..(task + 1) * n]);
                gemm_serial(d.precision, g, v.t(), MatMut::row_major(ds, n, n)?, false)?;
                if let Some(x) = dropout {
                    drop_block(x, task, ds);
                    scratch(n * n, |pd| {
                        pd.copy_from_slice(p);
                        drop_block(x, task, pd);
                        gemm_serial(d.precision, MatRef::row_major(pd, n, n)?.t(), g, part(2), false)
                    })?;
                } else {
                    gemm_serial(d.precision, MatRef::row_major(p, n, n)?.t(), g, part(2), false)?;
                }
                softmax_backward_rows(d.scale, n, p, ds);
                let ds = MatRef::row_major(ds, n, n)?;
                gemm_serial(d.precision, ds, k, part(0), false)?;
                gemm_serial(d.precision, ds.t(), q, part(1), false)
            })
        })
    })
}

/// Runs every task and returns the first error.
fn run(tasks: usize, f: impl Fn(usize) -> Result<()> + Sync + Send) -> Result<()> {
    let failed = std::sync::Mutex::new(None);
    each(tasks, |i| {
        if let Err(e) = f(i) {
            failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(e);
        }
    });
    failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu::with_level;
    use crate::check::{close, dot64, f64s, finite_difference, levels, random};

    fn reference(d: &Dims, qkv: &[f64], dropout: Option<Dropout>) -> Vec<f64> {
        let (n, width) = (d.tokens, d.heads * d.head_dim);
        let mut out = vec![0.0; d.batch * n * width];
        let at = |b: usize, i: usize, part: usize, h: usize, c: usize| {
            qkv[((b * n + i) * 3 + part) * width + h * d.head_dim + c]
        };
        for b in 0..d.batch {
            for h in 0..d.heads {
                let mut mask = vec![1.0f32; n * n];
                if let Some(x) = dropout {
                    drop_block(x, b * d.heads + h, &mut mask);
                }
                for i in 0..n {
                    let s: Vec<f64> = (0..n)
                        .map(|j| {
                            f64::from(d.scale)
                                * (0..d.head_dim).map(|c| at(b, i, 0, h, c) * at(b, j, 1, h, c)).sum::<f64>()
                        })
                        .collect();
                    let sum: f64 = s.iter().map(|s| s.exp()).sum();
                    for c in 0..d.head_dim {
                        out[(b * n + i) * width + h * d.head_dim + c] =
                            (0..n).map(|j| s[j].exp() / sum * f64::from(mask[i * n + j]) * at(b, j, 2, h, c)).sum();
                    }
                }
            }
        }
        out
    }

    #[test]
    fn values_and_gradients_agree_with_f64_at_every_level() {
        for (batch, tokens, heads, head_dim, rate) in
            [(1, 1, 1, 1, 0.0), (2, 5, 3, 4, 0.0), (1, 18, 2, 3, 0.0), (2, 7, 2, 4, 0.3)]
        {
            let d =
                Dims { batch, tokens, heads, head_dim, scale: (head_dim as f32).powf(-0.5), precision: Precision::F32 };
            let dropout = (rate > 0.0).then(|| Dropout { words: crate::Key::new(9).into_words(), rate });
            let qkv = random("qkv", batch * tokens * 3 * heads * head_dim);
            let dout = random("dout", batch * tokens * heads * head_dim);
            let runs: Vec<_> = levels()
                .map(|l| {
                    with_level(l, || {
                        let (mut out, mut lse, mut dqkv) =
                            (vec![0.0; dout.len()], vec![0.0; batch * heads * tokens], vec![f32::NAN; qkv.len()]);
                        forward(&d, &qkv, dropout, &mut out, &mut lse).unwrap();
                        backward(&d, &qkv, &lse, dropout, &dout, &mut dqkv).unwrap();
                        (out, dqkv)
                    })
                })
                .collect();
            close("out", &runs[0].0, &reference(&d, &f64s(&qkv), dropout), 2e-6);
            let fd = finite_difference(&qkv, |x| dot64(&reference(&d, x, dropout), &dout));
            close("dqkv", &runs[0].1, &fd, 1e-5);
            assert!(runs.iter().all(|r| r == &runs[0]), "levels differ");
        }
    }

    #[test]
    fn bf16_products_stay_close_to_f32() {
        let mut d =
            Dims { batch: 2, tokens: 50, heads: 2, head_dim: 32, scale: 32f32.powf(-0.5), precision: Precision::F32 };
        let qkv = random("qkv", 2 * 50 * 3 * 64);
        let run = |d: &Dims| {
            let (mut out, mut lse) = (vec![0.0; 2 * 50 * 64], vec![0.0; 2 * 2 * 50]);
            forward(d, &qkv, None, &mut out, &mut lse).unwrap();
            out
        };
        let exact = run(&d);
        d.precision = Precision::Bf16;
        close("bf16", &run(&d), &f64s(&exact), 2e-2);
    }

    #[test]
    fn lengths_are_checked() {
        let d = Dims { batch: 1, tokens: 2, heads: 1, head_dim: 2, scale: 1.0, precision: Precision::F32 };
        assert!(forward(&d, &[0.0; 11], None, &mut [0.0; 4], &mut [0.0; 2]).is_err());
        let wraps = Dims { batch: 1 << 32, tokens: 1 << 31, heads: 2, ..d };
        let e = forward(&wraps, &[], None, &mut [], &mut []).unwrap_err().to_string();
        assert!(e.contains("no memory holds"), "{e}");
        let bad = Some(Dropout { words: [0; 2], rate: 1.5 });
        assert!(forward(&d, &[0.0; 12], bad, &mut [0.0; 4], &mut [0.0; 2]).is_err());
    }
}
