//! Sums and scalings.

use crate::error::Result;
use crate::flow::Grad;
use crate::node::{Done, Inputs};
use crate::tensor::tensor_from;
use candlelight_kernels::elementwise;
use candlelight_kernels::mem::buffer;

/// The sum of two values of equal shape, as in a residual connection.
pub(super) fn add(x: &Inputs) -> Result<Done> {
    let mut y = buffer(x.tensor(0).elem_count());
    elementwise::add(&x.slice("add", 0)?, &x.slice("add", 1)?, &mut y)?;
    Ok(Done::host(tensor_from(y, x.tensor(0).shape())?, |g, b| {
        b.add(1, g.clone())?;
        b.add(0, g)
    }))
}

pub(super) fn scale(factor: f32, x: &Inputs) -> Result<Done> {
    let mut y = x.slice("affine", 0)?.to_vec();
    elementwise::scale(factor, &mut y);
    Ok(Done::host(tensor_from(y, x.tensor(0).shape())?, move |g, b| {
        if !b.wants(0) {
            return Ok(());
        }
        let mut d = g.into_vec();
        elementwise::scale(factor, &mut d);
        b.add(0, Grad::new(d))
    }))
}
