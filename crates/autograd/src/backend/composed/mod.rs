//! Operations composed from candle's own, with forward and backward written out. They run where there is no kernel. Only candle
//! operations that are known to be correct are used, and never candle's autograd. Everything is computed in the type of the inputs, so
//! that results in f64 can check the kernels.

pub(crate) mod act;
pub(crate) mod arithmetic;
pub(crate) mod attention;
pub(crate) mod batch_norm;
pub(crate) mod conv;
pub(crate) mod drop;
pub(crate) mod index;
pub(crate) mod linear;
pub(crate) mod loss;
pub(crate) mod matmul;
pub(crate) mod norm;
pub(crate) mod patch;
pub(crate) mod pool;
pub(crate) mod reduce;
pub(crate) mod shape;
pub(crate) mod tokens;

use crate::error::{Result, shape as wrong};
use candle_core::{DType, Device, Shape, Tensor};
use candlelight_kernels::Precision;

/// A product of contiguous matrices in a precision.
fn product(precision: Precision, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    // Candle refuses products with a dimension of size 0.
    let (rank, dtype) = (a.rank(), a.dtype());
    if a.elem_count() == 0 || b.elem_count() == 0 {
        let mut dims = a.dims().to_vec();
        dims[rank - 1] = b.dim(rank - 1)?;
        return Ok(Tensor::zeros(dims, dtype, a.device())?);
    }
    Ok(match precision {
        Precision::F32 | Precision::Tf32 => a.matmul(b)?,
        Precision::Bf16 => a.to_dtype(DType::BF16)?.matmul(&b.to_dtype(DType::BF16)?)?.to_dtype(dtype)?,
    })
}

/// Numbers as a tensor on the device of `like`, in its type.
fn upload(data: Vec<f32>, dims: impl Into<Shape>, like: &Tensor) -> Result<Tensor> {
    Ok(Tensor::from_vec(data, dims.into(), like.device())?.to_dtype(like.dtype())?)
}

/// Row numbers as a tensor; they are below `rows`, which must fit them.
fn ids(data: Vec<u32>, rows: usize, device: &Device) -> Result<Tensor> {
    if u32::try_from(rows).is_err() {
        return wrong("index", format!("{rows} rows, expected at most {} on this device", u32::MAX));
    }
    let n = data.len();
    Ok(Tensor::from_vec(data, n, device)?)
}

/// Rows of x by number. Candle refuses an empty list of numbers, which is handled here.
fn rows(x: &Tensor, which: &Tensor) -> Result<Tensor> {
    if which.elem_count() == 0 {
        let mut dims = x.dims().to_vec();
        dims[0] = 0;
        return Ok(Tensor::zeros(dims, x.dtype(), x.device())?);
    }
    Ok(x.index_select(which, 0)?)
}

/// The sum of `g` over what was broadcast from `dims`.
fn unbroadcast(g: Tensor, dims: &[usize]) -> Result<Tensor> {
    let mut g = g;
    while g.rank() > dims.len() {
        g = sum(&g, 0)?.squeeze(0)?;
    }
    for (i, &d) in dims.iter().enumerate() {
        if d == 1 && g.dim(i)? != 1 {
            g = sum(&g, i)?;
        }
    }
    Ok(g)
}

/// The sum over one dimension, which stays with size 1; the sum of no values is 0.
fn sum(x: &Tensor, dim: usize) -> Result<Tensor> {
    if x.elem_count() == 0 {
        let mut dims = x.dims().to_vec();
        dims[dim] = 1;
        return Ok(Tensor::zeros(dims, x.dtype(), x.device())?);
    }
    Ok(x.sum_keepdim(dim)?)
}

/// The sum over all rows of (rows, n) -> (n).
fn column_sum(x: &Tensor) -> Result<Tensor> {
    Ok(sum(x, 0)?.squeeze(0)?)
}

/// 1 where a condition holds, else 0, in the type of `like`.
fn mask(condition: &Tensor, like: &Tensor) -> Result<Tensor> {
    Ok(condition.to_dtype(like.dtype())?)
}
