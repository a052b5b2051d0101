//! Activations.

use crate::cuda::{On, dtype_of, kind_of};
use crate::error::Result;
use crate::node::{Done, Inputs};
use candlelight_kernels::act::gelu::Gelu;
use candlelight_kernels::cuda::act::{self as kernel, Pointwise};

pub(super) fn gelu(which: Gelu, inputs: &Inputs) -> Result<Done> {
    let x = inputs.tensor(0).clone();
    let (on, kind) = (On::of(&x)?, kind_of(&x)?);
    let y = on.buffer(kind, x.elem_count())?;
    kernel::forward(&on.gpu, which, on.hold(&x)?.slice(&on)?, y.slice(&on.gpu))?;
    let dims = x.dims().to_vec();
    Ok(Done::tensor(on.tensor(y, &dims), move |g, b| {
        b.give(0, || {
            let d = on.buffer(kind, x.elem_count())?;
            let g = on.cast(&g, kind)?;
            kernel::backward(&on.gpu, which, on.hold(&x)?.slice(&on)?, on.hold(&g)?.slice(&on)?, d.slice(&on.gpu))?;
            debug_assert_eq!(dtype_of(kind), x.dtype());
            Ok(on.tensor(d, &dims))
        })
    }))
}

pub(super) fn pointwise(f: Pointwise, inputs: &Inputs) -> Result<Done> {
    let x = inputs.tensor(0).clone();
    let (on, kind) = (On::of(&x)?, kind_of(&x)?);
    let y = on.buffer(kind, x.elem_count())?;
    kernel::pointwise(&on.gpu, f, on.hold(&x)?.slice(&on)?, None, y.slice(&on.gpu))?;
    let dims = x.dims().to_vec();
    Ok(Done::tensor(on.tensor(y, &dims), move |g, b| {
        b.give(0, || {
            let d = on.buffer(kind, x.elem_count())?;
            let (x, g) = (on.hold(&x)?, on.hold(&g)?);
            kernel::pointwise(&on.gpu, f, x.slice(&on)?, Some(g.slice(&on)?), d.slice(&on.gpu))?;
            Ok(on.tensor(d, &dims))
        })
    }))
}
