//! Sums and multiples.

use crate::cuda::{On, kind_of};
use crate::error::Result;
use crate::node::{Done, Inputs};
use candle_core::Tensor;
use candlelight_kernels::cuda::{Kind, elementwise as kernel};

/// The sum of two values of one shape; in bf16 where one of them is.
pub(super) fn add(inputs: &Inputs) -> Result<Done> {
    let (a, c) = (inputs.tensor(0), inputs.tensor(1));
    let on = On::of(a)?;
    let kind = if kind_of(a)? == Kind::Bf16 || kind_of(c)? == Kind::Bf16 { Kind::Bf16 } else { Kind::F32 };
    let y = on.buffer(kind, a.elem_count())?;
    kernel::add(&on.gpu, on.hold(a)?.slice(&on)?, on.hold(c)?.slice(&on)?, y.slice(&on.gpu))?;
    Ok(Done::tensor(on.tensor(y, a.dims()), move |g, b| {
        b.give(1, || Ok(g.clone()))?;
        b.give(0, || Ok(g))
    }))
}

pub(super) fn scale(factor: f32, inputs: &Inputs) -> Result<Done> {
    let on = On::of(inputs.tensor(0))?;
    let y = scaled(&on, factor, inputs.tensor(0))?;
    Ok(Done::tensor(y, move |g, b| b.give(0, || scaled(&on, factor, &g))))
}

pub(super) fn scaled(on: &On, factor: f32, x: &Tensor) -> Result<Tensor> {
    let y = on.buffer(kind_of(x)?, x.elem_count())?;
    kernel::scale(&on.gpu, factor, on.hold(x)?.slice(on)?, y.slice(&on.gpu))?;
    Ok(on.tensor(y, x.dims()))
}
