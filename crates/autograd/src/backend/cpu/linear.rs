//! Linear layers.

use crate::error::Result;
use crate::flow::Grad;
use crate::node::{Done, Inputs};
use crate::spec::LinearOp;
use crate::tensor::{CpuSlice, tensor_from};
use candlelight_kernels::act::gelu::Gelu;
use candlelight_kernels::elementwise::axpy;
use candlelight_kernels::matmul::linear as kernel;
use candlelight_kernels::mem::buffer;

/// The layer, with GELU behind it, or added to input `residual`.
pub(super) fn linear(kind: Option<Gelu>, inputs: &Inputs, residual: Option<usize>) -> Result<Done> {
    let precision = inputs.precision();
    let (x, w) = (inputs.tensor(0), inputs.tensor(1));
    let (outputs, features) = LinearOp::sizes(w.dims());
    let mut dims = x.dims().to_vec();
    dims.pop();
    let rows: usize = dims.iter().product();
    dims.push(outputs);
    let mut y = buffer(rows * outputs);
    let pre = {
        let (xs, ws) = (inputs.slice("linear", 0)?, inputs.slice("linear", 1)?);
        let bias = inputs.get(2).map(|b| CpuSlice::new("linear", b)).transpose()?;
        match (kind, bias) {
            (Some(kind), Some(bias)) => {
                let mut pre = buffer(rows * outputs);
                kernel::forward_gelu(precision, kind, &xs, &ws, &bias, features, &mut pre, &mut y)?;
                Some((kind, pre))
            }
            (Some(kind), None) => {
                let mut pre = buffer(rows * outputs);
                kernel::forward(precision, &xs, &ws, None, features, &mut pre)?;
                candlelight_kernels::act::gelu::forward(kind, &pre, &mut y)?;
                Some((kind, pre))
            }
            (None, bias) => {
                kernel::forward(precision, &xs, &ws, bias.as_deref(), features, &mut y)?;
                None
            }
        }
    };
    if let Some(i) = residual {
        axpy(1.0, &inputs.slice("linear_add", i)?, &mut y)?;
    }
    let (xt, wt) = (inputs.keep(0, 1), inputs.keep(1, 0));
    Ok(Done::host(tensor_from(y, dims)?, move |g, b| {
        if let Some(i) = residual {
            b.add(i, g.clone())?;
        }
        let g = match pre {
            Some((kind, pre)) => Grad::new(kernel::backward_gelu(kind, &pre, &g)?),
            None => g,
        };
        b.accumulate(2, outputs, |db, add| kernel::backward_bias(&g, db, add))?;
        if let Some(x) = &xt {
            let x = CpuSlice::new("linear", x)?;
            b.accumulate(1, outputs * features, |dw, add| {
                kernel::backward_weight(precision, &g, &x, features, dw, add)
            })?;
        }
        let Some(w) = &wt else { return Ok(()) };
        b.write(0, rows * features, |dx| {
            Ok(kernel::backward_input(precision, &g, &CpuSlice::new("linear", w)?, features, dx)?)
        })
    }))
}
