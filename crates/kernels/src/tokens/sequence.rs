//! Rows of a token sequence: gather, scatter, class token, and the decoder's un-shuffle with mask tokens.

use crate::error::{Error, Result, expect_len};
use crate::tokens::patch::check_ids;
use rayon::prelude::*;

/// Takes rows by index, `out[b, k] = x[b, ids[b, k]]`: x (B, N, D), ids (B, K) -> (B, K, D).
///
/// # Errors
/// When the lengths do not fit or an id is past the last row.
pub fn gather(x: &[f32], ids: &[u32], batch: usize, width: usize, out: &mut [f32]) -> Result<()> {
    let (n, k) = (x.len() / (batch * width).max(1), ids.len() / batch.max(1));
    expect_len("token gather", "x", x.len(), batch * n * width)?;
    expect_len("token gather", "out", out.len(), batch * k * width)?;
    check_ids("token gather", ids, n)?;
    out.par_chunks_mut(width.max(1)).enumerate().with_min_len(64).for_each(|(row, out)| {
        let from = row / k * n + ids[row] as usize;
        out.copy_from_slice(&x[from * width..(from + 1) * width]);
    });
    Ok(())
}

/// Computes the gradient of [`gather`]: rows are added where they came from, and zero elsewhere.
///
/// # Errors
/// When the lengths do not fit or an id is past the last row.
pub fn scatter_add(d: &[f32], ids: &[u32], batch: usize, width: usize, out: &mut [f32]) -> Result<()> {
    let (n, k) = (out.len() / (batch * width).max(1), ids.len() / batch.max(1));
    expect_len("token scatter", "d", d.len(), batch * k * width)?;
    expect_len("token scatter", "out", out.len(), batch * n * width)?;
    check_ids("token scatter", ids, n)?;
    out.par_chunks_mut((n * width).max(1)).enumerate().for_each(|(b, out)| {
        out.fill(0.0);
        for (i, d) in d[b * k * width..(b + 1) * k * width].chunks_exact(width).enumerate() {
            let to = ids[b * k + i] as usize * width;
            out[to..to + width].iter_mut().zip(d).for_each(|(o, d)| *o += d);
        }
    });
    Ok(())
}

/// Computes `out[b] = [first, x[b]]`: a class token (D) before every sample's tokens (B, N, D) -> (B, N + 1, D).
///
/// # Errors
/// When the lengths do not fit.
pub fn prepend(first: &[f32], x: &[f32], batch: usize, out: &mut [f32]) -> Result<()> {
    let (width, per) = (first.len(), x.len() / batch.max(1));
    expect_len("prepend", "x", x.len(), batch * per)?;
    expect_len("prepend", "out", out.len(), batch * (per + width))?;
    // The loop runs over numbers, so that a sample without tokens still gets its class token.
    out.par_chunks_mut((per + width).max(1)).enumerate().for_each(|(b, out)| {
        out[..width].copy_from_slice(first);
        out[width..].copy_from_slice(&x[b * per..(b + 1) * per]);
    });
    Ok(())
}

/// Checks that `restore` (B, L) orders the L tokens of every sample: each place occurs once.
///
/// # Errors
/// When a place is missing or occurs twice.
pub fn check_order(restore: &[u32], batch: usize) -> Result<()> {
    let l = restore.len() / batch.max(1);
    expect_len("unshuffle", "restore", restore.len(), batch * l)?;
    check_ids("unshuffle", restore, l)?;
    let mut seen = vec![usize::MAX; l];
    for (b, row) in restore.chunks_exact(l.max(1)).enumerate() {
        for &place in row {
            if std::mem::replace(&mut seen[place as usize], b) == b {
                let message = format!("sample {b} restores two tokens from place {place}");
                return Err(Error::Value { op: "unshuffle", message });
            }
        }
    }
    Ok(())
}

/// Builds MAE's decoder input: x (B, 1 + K, D) in shuffled order, `restore` (B, L) says where image token j is in it (K or more:
/// it was masked), pos (1 + L, D) is added -> (B, 1 + L, D).
///
/// # Errors
/// When the lengths do not fit or `restore` is no order.
pub fn unshuffle(
    x: &[f32],
    mask_token: &[f32],
    restore: &[u32],
    pos: &[f32],
    batch: usize,
    out: &mut [f32],
) -> Result<()> {
    let (width, l) = (mask_token.len(), restore.len() / batch.max(1));
    let k1 = x.len() / (batch * width).max(1);
    check_order(restore, batch)?;
    expect_len("unshuffle", "x", x.len(), batch * k1 * width)?;
    expect_len("unshuffle", "pos", pos.len(), (l + 1) * width)?;
    expect_len("unshuffle", "out", out.len(), batch * (l + 1) * width)?;
    out.par_chunks_mut(width.max(1)).enumerate().with_min_len(64).for_each(|(row, out)| {
        let (b, j) = (row / (l + 1), row % (l + 1));
        let from = if j == 0 { 0 } else { restore[b * l + j - 1] as usize + 1 };
        let src = if from < k1 { &x[(b * k1 + from) * width..][..width] } else { mask_token };
        for ((o, s), p) in out.iter_mut().zip(src).zip(&pos[j * width..]) {
            *o = s + p;
        }
    });
    Ok(())
}

/// Computes the gradients of [`unshuffle`]: `dx` is written (rows no token came from are zero); `dmask` is written, or added to.
///
/// # Errors
/// When the lengths do not fit.
pub fn unshuffle_backward(
    d: &[f32],
    restore: &[u32],
    batch: usize,
    dx: &mut [f32],
    dmask: &mut [f32],
    accumulate: bool,
) -> Result<()> {
    let (width, l) = (dmask.len(), restore.len() / batch.max(1));
    let k1 = dx.len() / (batch * width).max(1);
    expect_len("unshuffle backward", "d", d.len(), batch * (l + 1) * width)?;
    expect_len("unshuffle backward", "dx", dx.len(), batch * k1 * width)?;
    let mut partial = vec![0.0; batch * width];
    dx.par_chunks_mut((k1 * width).max(1))
        .zip(d.par_chunks(((l + 1) * width).max(1)))
        .zip(partial.par_chunks_mut(width.max(1)))
        .enumerate()
        .for_each(|(b, ((dx, d), dmask))| {
            let restore = &restore[b * l..(b + 1) * l];
            dx.fill(0.0);
            for (j, d) in d.chunks_exact(width).enumerate() {
                let from = if j == 0 { 0 } else { restore[j - 1] as usize + 1 };
                let to = if from < k1 { &mut dx[from * width..(from + 1) * width] } else { &mut *dmask };
                to.iter_mut().zip(d).for_each(|(o, d)| *o += d);
            }
        });
    crate::base::par::fold_rows(&partial, dmask, accumulate);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, dot64, f64s, finite_difference, random};

    #[test]
    fn gather_and_scatter_are_adjoint() {
        let (b, n, k, w) = (2, 5, 3, 4);
        let ids = [4, 0, 4, 1, 2, 3]; // a repeated row sums
        let (x, d) = (random("x", b * n * w), random("d", b * k * w));
        let (mut y, mut dx) = (vec![0.0; d.len()], vec![9.0; x.len()]);
        gather(&x, &ids, b, w, &mut y).unwrap();
        assert_eq!(y[..w], x[4 * w..5 * w]);
        scatter_add(&d, &ids, b, w, &mut dx).unwrap();
        let lhs = dot64(&f64s(&y), &d);
        assert!((lhs - dot64(&f64s(&x), &dx)).abs() < 1e-5 * lhs.abs().max(1.0));
        assert!(gather(&x, &[5, 0, 0, 0, 0, 0], b, w, &mut y).is_err());
    }

    #[test]
    fn unshuffle_restores_the_order_and_its_gradient_is_exact() {
        let (b, l, k1, w) = (2, 4, 3, 3);
        let restore = [2u32, 0, 3, 1, 0, 1, 2, 3];
        let (x, mask, pos) = (random("x", b * k1 * w), random("m", w), random("p", (l + 1) * w));
        let run = |x: &[f64], mask: &[f64]| {
            let mut out = vec![0.0; b * (l + 1) * w];
            for bb in 0..b {
                for j in 0..=l {
                    let from = if j == 0 { 0 } else { restore[bb * l + j - 1] as usize + 1 };
                    for c in 0..w {
                        let v = if from < k1 { x[(bb * k1 + from) * w + c] } else { mask[c] };
                        out[(bb * (l + 1) + j) * w + c] = v + f64::from(pos[j * w + c]);
                    }
                }
            }
            out
        };
        let mut y = vec![0.0; b * (l + 1) * w];
        unshuffle(&x, &mask, &restore, &pos, b, &mut y).unwrap();
        close("y", &y, &run(&f64s(&x), &f64s(&mask)), 1e-6);
        let d = random("d", y.len());
        let (mut dx, mut dm) = (vec![0.0; x.len()], vec![0.0; w]);
        unshuffle_backward(&d, &restore, b, &mut dx, &mut dm, false).unwrap();
        close("dx", &dx, &finite_difference(&x, |x| dot64(&run(x, &f64s(&mask)), &d)), 1e-6);
        close("dmask", &dm, &finite_difference(&mask, |m| dot64(&run(&f64s(&x), m), &d)), 1e-6);
    }

    #[test]
    fn the_class_token_comes_first() {
        let mut out = vec![0.0; 8];
        prepend(&[9.0, 8.0], &[1.0, 2.0, 3.0, 4.0], 2, &mut out).unwrap();
        assert_eq!(out, [9.0, 8.0, 1.0, 2.0, 9.0, 8.0, 3.0, 4.0]);
    }

    #[test]
    fn nothing_is_left_unwritten_without_tokens_or_patches() {
        let mut out = [f32::NAN; 4];
        prepend(&[9.0, 8.0], &[], 2, &mut out).unwrap();
        assert_eq!(out, [9.0, 8.0, 9.0, 8.0]);
        let (mut dx, mut dm) = ([f32::NAN; 4], [f32::NAN; 2]);
        unshuffle_backward(&[1.0, 2.0, 3.0, 4.0], &[], 2, &mut dx, &mut dm, false).unwrap();
        assert_eq!((dx, dm), ([1.0, 2.0, 3.0, 4.0], [0.0, 0.0]));
    }

    #[test]
    fn an_order_names_each_place_once() {
        let (x, mut out) = ([0.0; 4], [0.0; 6]);
        for (restore, word) in [([0, 0], "two tokens"), ([0, 2], "index 2")] {
            let e = unshuffle(&x, &[0.0; 2], &restore, &[0.0; 6], 1, &mut out).unwrap_err().to_string();
            assert!(e.contains(word), "{e}");
        }
    }
}
