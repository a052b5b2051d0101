//! Convolutions.

use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::{Conv2dOp, ConvTranspose2dOp};
use crate::tensor::{CpuSlice, tensor_from};
use candlelight_kernels::mem::buffer;
use candlelight_kernels::{conv as kernel, elementwise};

pub(super) fn conv2d(op: &Conv2dOp, x: &Inputs) -> Result<Done> {
    let c = op.sizes(x.tensor(0).dims(), x.tensor(1).dims())?;
    let (oh, ow, values) = c.sizes()?;
    let precision = x.precision();
    let mut y = buffer(values);
    {
        let bias = x.get(2).map(|b| CpuSlice::new("conv2d", b)).transpose()?;
        kernel::forward(precision, &c, &x.slice("conv2d", 0)?, &x.slice("conv2d", 1)?, bias.as_deref(), &mut y)?;
    }
    let weights = x.tensor(1).elem_count();
    let (xt, wt) = (x.keep(0, 1), x.keep(1, 0));
    Ok(Done::host(tensor_from(y, (c.batch, oh, ow, c.outputs))?, move |g, b| {
        b.accumulate(2, c.outputs, |d, add| elementwise::column_sum(&g, d, add))?;
        if let Some(x) = &xt {
            let x = CpuSlice::new("conv2d", x)?;
            b.accumulate(1, weights, |dw, add| kernel::backward_weight(precision, &c, &x, &g, dw, add))?;
        }
        let Some(w) = &wt else { return Ok(()) };
        b.write(0, c.batch * c.height * c.width * c.inputs, |dx| {
            Ok(kernel::backward_input(precision, &c, &g, &CpuSlice::new("conv2d", w)?, dx)?)
        })
    }))
}

/// A transposed convolution: its forward pass computes the input gradient of a convolution, and its backward pass a convolution.
pub(super) fn conv_transpose2d(op: &ConvTranspose2dOp, x: &Inputs) -> Result<Done> {
    let c = op.adjoint(x.tensor(0).dims(), x.tensor(1).dims())?;
    let precision = x.precision();
    let mut y = buffer(c.batch * c.height * c.width * c.inputs);
    kernel::backward_input(precision, &c, &x.slice("conv_transpose2d", 0)?, &x.slice("conv_transpose2d", 1)?, &mut y)?;
    if let Some(bias) = x.get(2) {
        let bias = CpuSlice::new("conv_transpose2d", bias)?;
        y.chunks_exact_mut(bias.len().max(1)).for_each(|y| y.iter_mut().zip(bias.iter()).for_each(|(y, b)| *y += b));
    }
    let (values, weights) = (x.tensor(0).elem_count(), x.tensor(1).elem_count());
    let (xt, wt) = (x.keep(0, 1), x.keep(1, 0));
    Ok(Done::host(tensor_from(y, (c.batch, c.height, c.width, c.inputs))?, move |g, b| {
        b.accumulate(2, c.inputs, |d, add| elementwise::column_sum(&g, d, add))?;
        if let Some(x) = &xt {
            let x = CpuSlice::new("conv_transpose2d", x)?;
            b.accumulate(1, weights, |dw, add| kernel::backward_weight(precision, &c, &g, &x, dw, add))?;
        }
        let Some(w) = &wt else { return Ok(()) };
        b.write(0, values, |dx| {
            Ok(kernel::forward(precision, &c, &g, &CpuSlice::new("conv_transpose2d", w)?, None, dx)?)
        })
    }))
}
