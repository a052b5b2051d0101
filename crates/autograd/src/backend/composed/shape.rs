//! Shapes and orders.

use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::Arrange;
use candle_core::Tensor;

pub(crate) fn arrange(op: &Arrange, inputs: &Inputs) -> Result<Done> {
    let x = inputs.tensor(0);
    let dims = x.dims().to_vec();
    Ok(match op.clone() {
        Arrange::Reshape(to) => Done::tensor(x.reshape(to)?, move |g, b| b.give(0, || Ok(g.reshape(dims)?))),
        Arrange::Permute(order) => {
            let mut back = vec![0; order.len()];
            order.iter().enumerate().for_each(|(i, o)| back[*o] = i);
            Done::tensor(x.permute(order)?.contiguous()?, move |g, b| b.give(0, || Ok(g.permute(back)?)))
        }
        Arrange::Narrow { dim, from, len } => {
            let behind = dims[dim] - from - len;
            let y = x.narrow(dim, from, len)?.contiguous()?;
            Done::tensor(y, move |g, b| b.give(0, || pad(&g, dim, from, behind)))
        }
        Arrange::Pad { dim, before, behind } => {
            let y = pad(x, dim, before, behind)?;
            Done::tensor(y, move |g, b| b.give(0, || Ok(g.narrow(dim, before, dims[dim])?)))
        }
        Arrange::Place { dim, from } => {
            let have = dims[dim];
            // Zeros behind the entries are what the places without an entry read.
            let ids = from.iter().map(|i| i.unwrap_or(have as u32)).collect::<Vec<_>>();
            let ids = Tensor::from_vec(ids, from.len(), x.device())?;
            let y = pad(x, dim, 0, 1)?.index_select(&ids, dim)?;
            Done::tensor(y, move |g, b| {
                b.give(0, || {
                    let mut padded = dims.clone();
                    padded[dim] += 1;
                    let zeros = Tensor::zeros(padded, g.dtype(), g.device())?;
                    Ok(zeros.index_add(&ids, &g, dim)?.narrow(dim, 0, have)?)
                })
            })
        }
        Arrange::Expand(to) => {
            let y = x.broadcast_as(to)?.contiguous()?;
            Done::tensor(y, move |g, b| b.give(0, || super::unbroadcast(g, &dims)))
        }
        Arrange::Cat(dim) => {
            let tensors: Vec<&Tensor> = (0..inputs.len()).map(|i| inputs.tensor(i)).collect();
            let lens: Vec<usize> = tensors.iter().map(|t| t.dims()[dim]).collect();
            let y = Tensor::cat(&tensors, dim)?;
            Done::tensor(y.contiguous()?, move |g, b| {
                let mut end = g.dim(dim)?;
                for (i, len) in lens.iter().enumerate().rev() {
                    end -= len;
                    b.give(i, || Ok(g.narrow(dim, end, *len)?))?;
                }
                Ok(())
            })
        }
    })
}

/// Zeros before and behind.
pub(super) fn pad(x: &Tensor, dim: usize, before: usize, behind: usize) -> Result<Tensor> {
    let zeros = |n: usize| {
        let mut dims = x.dims().to_vec();
        dims[dim] = n;
        Tensor::zeros(dims, x.dtype(), x.device())
    };
    Ok(match (before, behind) {
        (0, 0) => x.clone(),
        (0, n) => Tensor::cat(&[x, &zeros(n)?], dim)?,
        (n, 0) => Tensor::cat(&[&zeros(n)?, x], dim)?,
        (m, n) => Tensor::cat(&[&zeros(m)?, x, &zeros(n)?], dim)?,
    })
}
