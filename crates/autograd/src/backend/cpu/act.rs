//! Activations.

use crate::error::Result;
use crate::flow::Grad;
use crate::node::{Done, Inputs};
use crate::tensor::{CpuSlice, tensor_from};
use candlelight_kernels::act::gelu::{self as kernel, Gelu};
use candlelight_kernels::act::{relu, silu};
use candlelight_kernels::mem::buffer;

pub(super) fn relu(x: &Inputs) -> Result<Done> {
    let mut y = x.slice("relu", 0)?.to_vec();
    relu::relu(&mut y);
    let y = tensor_from(y, x.tensor(0).shape())?;
    let kept = y.clone();
    Ok(Done::host(y, move |g, b| {
        if !b.wants(0) {
            return Ok(());
        }
        let mut d = g.into_vec();
        relu::relu_backward(&CpuSlice::new("relu", &kept)?, &mut d)?;
        b.add(0, Grad::new(d))
    }))
}

pub(super) fn gelu(kind: Gelu, x: &Inputs) -> Result<Done> {
    let mut y = buffer(x.tensor(0).elem_count());
    kernel::forward(kind, &x.slice("gelu", 0)?, &mut y)?;
    let kept = x.tensor(0).clone();
    Ok(Done::host(tensor_from(y, kept.shape())?, move |g, b| {
        b.write(0, g.len(), |d| Ok(kernel::backward(kind, &CpuSlice::new("gelu", &kept)?, &g, d)?))
    }))
}

pub(super) fn silu(x: &Inputs) -> Result<Done> {
    let mut y = buffer(x.tensor(0).elem_count());
    silu::forward(&x.slice("silu", 0)?, &mut y)?;
    let kept = x.tensor(0).clone();
    Ok(Done::host(tensor_from(y, kept.shape())?, move |g, b| {
        b.write(0, g.len(), |d| Ok(silu::backward(&CpuSlice::new("silu", &kept)?, &g, d)?))
    }))
}
