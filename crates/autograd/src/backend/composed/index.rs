//! Entries by number or by condition.

use super::ids as upload;
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::{Index, Where};
use candle_core::Tensor;

pub(crate) fn index(op: &Index, inputs: &Inputs) -> Result<Done> {
    let x = inputs.tensor(0);
    let dims = x.dims().to_vec();
    // Both kinds read rows of a flat view; the row numbers are computed from the dimensions.
    let (Index::Select { dim, .. } | Index::Gather { dim, .. }) = op;
    let (before, n, behind): (usize, usize, usize) =
        (dims[..*dim].iter().product(), dims[*dim], dims[dim + 1..].iter().product());
    let (numbers, width, shape) = match op {
        Index::Select { dim, ids } => {
            let of = |b: usize| ids.iter().map(move |i| (b * n) as u32 + i);
            let mut shape = dims.clone();
            shape[*dim] = ids.len();
            ((0..before).flat_map(of).collect::<Vec<u32>>(), behind, shape)
        }
        Index::Gather { dim, ids, dims: shape } => {
            let k = shape[*dim];
            let place = |(at, id): (usize, &u32)| {
                let (b, c) = (at / (k * behind), at % behind);
                ((b * n + *id as usize) * behind + c) as u32
            };
            (ids.iter().enumerate().map(place).collect(), 1, shape.clone())
        }
    };
    let rows = if width == 1 { x.elem_count() } else { before * n };
    let numbers = upload(numbers, rows, x.device())?;
    let y = super::rows(&x.reshape((rows, width))?, &numbers)?.reshape(shape)?;
    Ok(Done::tensor(y, move |g, b| {
        b.give(0, || {
            let zeros = Tensor::zeros((rows, width), g.dtype(), g.device())?;
            let g = g.reshape((numbers.elem_count(), width))?;
            let sum = if g.elem_count() == 0 { zeros } else { zeros.index_add(&numbers, &g, 0)? };
            Ok(sum.reshape(dims)?)
        })
    }))
}

pub(crate) fn choose(op: &Where, inputs: &Inputs) -> Result<Done> {
    let (a, c) = (inputs.tensor(0), inputs.tensor(1));
    let bytes: Vec<u8> = op.condition.iter().map(|b| u8::from(*b)).collect();
    let condition = Tensor::from_vec(bytes, a.shape(), a.device())?;
    let y = condition.where_cond(a, c)?;
    Ok(Done::tensor(y, move |g, b| {
        b.give(1, || Ok(condition.where_cond(&g.zeros_like()?, &g)?))?;
        b.give(0, || Ok(condition.where_cond(&g, &g.zeros_like()?)?))
    }))
}
