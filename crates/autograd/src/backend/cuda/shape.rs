//! Parts of a dimension.

use crate::cuda::{On, kind_of};
use crate::error::Result;
use crate::node::{Done, Inputs};
use candlelight_kernels::cuda::elementwise as kernel;

pub(super) fn narrow(dim: usize, from: usize, len: usize, inputs: &Inputs) -> Result<Done> {
    let x = inputs.tensor(0);
    let (on, kind) = (On::of(x)?, kind_of(x)?);
    let dims = x.dims().to_vec();
    let (rows, behind): (usize, usize) = (dims[..dim].iter().product(), dims[dim + 1..].iter().product());
    let (width, first, n) = (dims[dim] * behind, from * behind, len * behind);
    let y = on.buffer(kind, rows * n)?;
    kernel::columns(&on.gpu, on.hold(x)?.slice(&on)?, y.slice(&on.gpu), rows, width, first, n)?;
    let mut to = dims.clone();
    to[dim] = len;
    Ok(Done::tensor(on.tensor(y, &to), move |g, b| {
        b.give(0, || {
            let d = on.buffer(kind, rows * width)?;
            kernel::spread(&on.gpu, on.hold(&g)?.slice(&on)?, d.slice(&on.gpu), rows, width, first, n)?;
            Ok(on.tensor(d, &dims))
        })
    }))
}
