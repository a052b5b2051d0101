//! `y = x w^T + b`, with GELU fused where an MLP wants it.

use crate::act::gelu::{self, Gelu};
use crate::base::elementwise::column_sum;
use crate::base::mem::buffer;
use crate::base::simd::simd_fn;
use crate::error::{Result, expect_len};
use crate::matmul::gemm::{gemm, gemm_with};
use crate::matmul::mat::{Epilogue, MatMut, MatRef, Precision};

simd_fn! {
    fn bias_row(bias: &[f32], y: &mut [f32]) {
        for (y, b) in y.iter_mut().zip(bias) {
            *y += b;
        }
    }
}

/// Computes `y = x w^T + b`: x (rows, inputs), w (outputs, inputs), bias (outputs) -> y (rows, outputs).
///
/// # Errors
/// When the lengths do not fit.
pub fn forward(
    precision: Precision,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    inputs: usize,
    y: &mut [f32],
) -> Result<()> {
    let outputs = w.len() / inputs.max(1);
    expect_len("linear", "w", w.len(), outputs * inputs)?;
    let rows = y.len() / outputs.max(1);
    expect_len("linear", "y", y.len(), rows * outputs)?;
    expect_len("linear", "x", x.len(), rows * inputs)?;
    if let Some(b) = bias {
        expect_len("linear", "bias", b.len(), outputs)?;
    }
    let add = |_: usize, c0: usize, part: &mut [f32]| {
        if let Some(b) = bias {
            bias_row(&b[c0..c0 + part.len()], part);
        }
    };
    gemm_with(
        precision,
        MatRef::row_major(x, rows, inputs)?,
        MatRef::row_major(w, outputs, inputs)?.t(),
        MatMut::row_major(y, rows, outputs)?,
        false,
        bias.map(|_| &add as Epilogue),
    )
}

/// [`forward`] followed by GELU while the rows are in cache: `pre = x w^T + b`, `act = gelu(pre)`.
///
/// # Errors
/// When the lengths do not fit.
pub fn forward_gelu(
    precision: Precision,
    kind: Gelu,
    x: &[f32],
    w: &[f32],
    bias: &[f32],
    inputs: usize,
    pre: &mut [f32],
    act: &mut [f32],
) -> Result<()> {
    let outputs = bias.len();
    let rows = pre.len() / outputs.max(1);
    expect_len("linear gelu", "w", w.len(), outputs * inputs)?;
    expect_len("linear gelu", "x", x.len(), rows * inputs)?;
    expect_len("linear gelu", "pre", pre.len(), rows * outputs)?;
    expect_len("linear gelu", "act", act.len(), pre.len())?;
    let out = crate::base::par::Shared(act.as_mut_ptr());
    let activate = if kind == Gelu::Erf { gelu::erf_fwd } else { gelu::tanh_fwd };
    let epilogue = move |r: usize, c0: usize, part: &mut [f32]| {
        bias_row(&bias[c0..c0 + part.len()], part);
        // SAFETY: the product hands out each part of its result once, so the same parts of `act` are disjoint too.
        let act = unsafe { std::slice::from_raw_parts_mut(out.ptr().add(r * outputs + c0), part.len()) };
        activate(part, act);
    };
    gemm_with(
        precision,
        MatRef::row_major(x, rows, inputs)?,
        MatRef::row_major(w, outputs, inputs)?.t(),
        MatMut::row_major(pre, rows, outputs)?,
        false,
        Some(&epilogue),
    )
}

/// Computes `dx = dy w`, the gradient of the input.
///
/// # Errors
/// When the lengths do not fit.
pub fn backward_input(precision: Precision, dy: &[f32], w: &[f32], inputs: usize, dx: &mut [f32]) -> Result<()> {
    let (rows, outputs) = (dx.len() / inputs.max(1), w.len() / inputs.max(1));
    expect_len("linear backward", "dy", dy.len(), rows * outputs)?;
    expect_len("linear backward", "dx", dx.len(), rows * inputs)?;
    gemm(
        precision,
        MatRef::row_major(dy, rows, outputs)?,
        MatRef::row_major(w, outputs, inputs)?,
        MatMut::row_major(dx, rows, inputs)?,
        false,
    )
}

/// Computes `dw = dy^T x`, the gradient of the weights, or adds it when `accumulate`.
///
/// # Errors
/// When the lengths do not fit.
pub fn backward_weight(
    precision: Precision,
    dy: &[f32],
    x: &[f32],
    inputs: usize,
    dw: &mut [f32],
    accumulate: bool,
) -> Result<()> {
    let (rows, outputs) = (x.len() / inputs.max(1), dw.len() / inputs.max(1));
    expect_len("linear backward", "dy", dy.len(), rows * outputs)?;
    expect_len("linear backward", "x", x.len(), rows * inputs)?;
    gemm(
        precision,
        MatRef::row_major(dy, rows, outputs)?.t(),
        MatRef::row_major(x, rows, inputs)?,
        MatMut::row_major(dw, outputs, inputs)?,
        accumulate,
    )
}

/// Computes `db`, the column sums of `dy`, or adds them when `accumulate`.
///
/// # Errors
/// When the lengths do not fit.
pub fn backward_bias(dy: &[f32], db: &mut [f32], accumulate: bool) -> Result<()> {
    column_sum(dy, db, accumulate)
}

/// Computes the gradient that reaches `pre` of [`forward_gelu`], in a new buffer.
///
/// # Errors
/// When the lengths differ.
pub fn backward_gelu(kind: Gelu, pre: &[f32], dact: &[f32]) -> Result<Vec<f32>> {
    let mut d = buffer(pre.len());
    gelu::backward(kind, pre, dact, &mut d)?;
    Ok(d)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, dot64, erf64, f64s, finite_difference, random};

    fn reference(x: &[f64], w: &[f64], b: &[f64], gelu: bool) -> Vec<f64> {
        let inputs = w.len() / b.len();
        let act = |v: f64| if gelu { 0.5 * v * (1.0 + erf64(v / 2f64.sqrt())) } else { v };
        x.chunks(inputs)
            .flat_map(|x| {
                w.chunks(inputs)
                    .zip(b)
                    .map(|(w, b)| act(w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + b))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn values_and_gradients_agree_with_f64() {
        for gelu in [false, true] {
            let (rows, inputs, outputs) = (5, 7, 3);
            let (x, w, b, dy) = (
                random("x", rows * inputs),
                random("w", outputs * inputs),
                random("b", outputs),
                random("dy", rows * outputs),
            );
            let (x64, w64, b64) = (f64s(&x), f64s(&w), f64s(&b));
            let p = Precision::F32;
            let (mut y, mut act) = (vec![0.0; rows * outputs], vec![0.0; rows * outputs]);
            let g = if gelu {
                forward_gelu(p, Gelu::Erf, &x, &w, &b, inputs, &mut y, &mut act).unwrap();
                close("act", &act, &reference(&x64, &w64, &b64, true), 1e-6);
                backward_gelu(Gelu::Erf, &y, &dy).unwrap()
            } else {
                forward(p, &x, &w, Some(&b), inputs, &mut y).unwrap();
                close("y", &y, &reference(&x64, &w64, &b64, false), 1e-6);
                dy.clone()
            };
            let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; w.len()], vec![0.0; b.len()]);
            backward_input(p, &g, &w, inputs, &mut dx).unwrap();
            backward_weight(p, &g, &x, inputs, &mut dw, false).unwrap();
            backward_bias(&g, &mut db, false).unwrap();
            close("dx", &dx, &finite_difference(&x, |x| dot64(&reference(x, &w64, &b64, gelu), &dy)), 1e-5);
            close("dw", &dw, &finite_difference(&w, |w| dot64(&reference(&x64, w, &b64, gelu), &dy)), 1e-5);
            close("db", &db, &finite_difference(&b, |b| dot64(&reference(&x64, &w64, b, gelu), &dy)), 1e-5);
        }
    }

    #[test]
    fn lengths_are_checked() {
        assert!(forward(Precision::F32, &[0.0; 6], &[0.0; 6], None, 3, &mut [0.0; 5]).is_err());
        assert!(forward(Precision::F32, &[0.0; 6], &[0.0; 6], Some(&[0.0]), 3, &mut [0.0; 4]).is_err());
    }
}
