//! Linear layers.

use super::act::{gelu, gelu_slope};
use super::{column_sum, product};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::{LinearAddOp, LinearOp};
use candlelight_kernels::act::gelu::Gelu;

pub(crate) fn linear(op: &LinearOp, inputs: &Inputs) -> Result<Done> {
    layer(op.gelu, inputs, None)
}

pub(crate) fn linear_add(_: &LinearAddOp, inputs: &Inputs) -> Result<Done> {
    layer(None, inputs, Some(LinearAddOp::RESIDUAL))
}

fn layer(kind: Option<Gelu>, inputs: &Inputs, residual: Option<usize>) -> Result<Done> {
    let precision = inputs.precision();
    let (x_dims, w_dims) = (inputs.tensor(0).dims().to_vec(), inputs.tensor(1).dims().to_vec());
    let (outputs, features) = LinearOp::sizes(&w_dims);
    let rows = inputs.tensor(0).elem_count() / features.max(1);
    let rows = if features == 0 { x_dims[..x_dims.len() - 1].iter().product() } else { rows };
    let x = inputs.tensor(0).reshape((rows, features))?;
    let w = inputs.tensor(1).reshape((outputs, features))?;
    let mut pre = product(precision, &x, &w.t()?.contiguous()?)?;
    if let Some(bias) = inputs.get(2) {
        pre = pre.broadcast_add(bias)?;
    }
    let mut dims = x_dims.clone();
    dims.pop();
    dims.push(outputs);
    let y = match (kind, residual) {
        (Some(kind), _) => gelu(&pre, kind)?,
        (None, Some(i)) => (inputs.tensor(i).reshape((rows, outputs))? + &pre)?,
        (None, None) => pre.clone(),
    };
    let pre = kind.map(|k| (k, pre));
    Ok(Done::tensor(y.reshape(dims)?, move |g, b| {
        if let Some(i) = residual {
            b.give(i, || Ok(g.clone()))?;
        }
        let mut g = g.reshape((rows, outputs))?;
        if let Some((kind, pre)) = pre {
            g = (g * gelu_slope(&pre, kind)?)?;
        }
        b.give(2, || column_sum(&g))?;
        b.give(1, || Ok(product(precision, &g.t()?.contiguous()?, &x)?.reshape(w_dims)?))?;
        b.give(0, || Ok(product(precision, &g, &w)?.reshape(x_dims)?))
    }))
}
