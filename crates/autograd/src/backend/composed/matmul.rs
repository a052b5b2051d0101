//! Products of matrices.

use super::{product, unbroadcast};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::MatMul;
use candle_core::Tensor;

pub(crate) fn matmul(_: &MatMul, inputs: &Inputs) -> Result<Done> {
    let (precision, a, c) = (inputs.precision(), inputs.tensor(0).clone(), inputs.tensor(1).clone());
    let wide = |t: &Tensor, lead: &[usize]| -> Result<Tensor> {
        let mut dims = lead.to_vec();
        dims.extend(&t.dims()[t.rank() - 2..]);
        Ok(t.broadcast_as(dims)?.contiguous()?)
    };
    let lead = crate::spec::broadcast("matmul", &a.dims()[..a.rank() - 2], &c.dims()[..c.rank() - 2])?;
    let (left, right) = (wide(&a, &lead)?, wide(&c, &lead)?);
    let y = product(precision, &left, &right)?;
    let (a_dims, c_dims) = (a.dims().to_vec(), c.dims().to_vec());
    Ok(Done::tensor(y, move |g, b| {
        b.give(1, || unbroadcast(product(precision, &left.t()?.contiguous()?, &g)?, &c_dims))?;
        b.give(0, || unbroadcast(product(precision, &g, &right.t()?.contiguous()?)?, &a_dims))
    }))
}
