//! Arithmetic.

use super::{mask, unbroadcast};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::{Binary, Unary};
use candle_core::Tensor;

pub(crate) fn unary(op: &Unary, x: &Inputs) -> Result<Done> {
    let (op, x) = (*op, x.tensor(0).clone());
    let y = match op {
        Unary::Affine { factor, term } => x.affine(factor, term)?,
        Unary::Pow(exponent) => x.powf(exponent)?,
        Unary::Exp => x.exp()?,
        Unary::Log => x.log()?,
        Unary::Sqrt => x.sqrt()?,
        Unary::Abs => x.abs()?,
        Unary::Clamp { min, max } => x.clamp(min, max)?,
    };
    let kept = if matches!(op, Unary::Exp | Unary::Sqrt) { y.clone() } else { x };
    Ok(Done::tensor(y, move |g, b| {
        b.give(0, || {
            Ok(match op {
                Unary::Affine { factor, .. } => (g * factor)?,
                Unary::Pow(0.0) => g.zeros_like()?,
                Unary::Pow(exponent) => (g * (kept.powf(exponent - 1.0)? * exponent)?)?,
                Unary::Exp => (g * &kept)?,
                Unary::Log => (g / &kept)?,
                Unary::Sqrt => ((g / &kept)? * 0.5)?,
                Unary::Abs => {
                    let sign = (mask(&kept.gt(0.0)?, &kept)? - mask(&kept.lt(0.0)?, &kept)?)?;
                    (g * sign)?
                }
                Unary::Clamp { min, max } => {
                    let inside = (mask(&kept.gt(min)?, &kept)? * mask(&kept.lt(max)?, &kept)?)?;
                    (g * inside)?
                }
            })
        })
    }))
}

pub(crate) fn binary(op: &Binary, inputs: &Inputs) -> Result<Done> {
    let (op, a, c) = (*op, inputs.tensor(0).clone(), inputs.tensor(1).clone());
    let y = match op {
        Binary::Add => a.broadcast_add(&c)?,
        Binary::Sub => a.broadcast_sub(&c)?,
        Binary::Mul => a.broadcast_mul(&c)?,
        Binary::Div => a.broadcast_div(&c)?,
        Binary::Maximum => a.broadcast_maximum(&c)?,
        Binary::Minimum => a.broadcast_minimum(&c)?,
    };
    let (left, right) = (a.dims().to_vec(), c.dims().to_vec());
    // Sums need neither input in the backward pass.
    let kept = (!matches!(op, Binary::Add | Binary::Sub)).then_some((a, c));
    Ok(Done::tensor(y, move |g, b| {
        let Some((x, z)) = kept else {
            let second = if op == Binary::Sub { g.neg()? } else { g.clone() };
            b.give(1, || unbroadcast(second, &right))?;
            return b.give(0, || unbroadcast(g, &left));
        };
        let (first, second) = match op {
            Binary::Mul => (g.broadcast_mul(&z)?, g.broadcast_mul(&x)?),
            Binary::Div => {
                let first = g.broadcast_div(&z)?;
                let second = first.broadcast_mul(&x)?.broadcast_div(&z)?.neg()?;
                (first, second)
            }
            _ => {
                let share = share(op, &x, &z, g.dims())?;
                ((&g * &share)?, (&g * share.affine(-1.0, 1.0)?)?)
            }
        };
        b.give(1, || unbroadcast(second, &right))?;
        b.give(0, || unbroadcast(first, &left))
    }))
}

/// The first input's share of the gradient of the larger or smaller: all, nothing, or half of it.
fn share(op: Binary, a: &Tensor, c: &Tensor, dims: &[usize]) -> Result<Tensor> {
    let (a, c) = (a.broadcast_as(dims)?.contiguous()?, c.broadcast_as(dims)?.contiguous()?);
    let wins = if op == Binary::Maximum { a.gt(&c)? } else { a.lt(&c)? };
    Ok((mask(&wins, &a)? + (mask(&a.eq(&c)?, &a)? * 0.5)?)?)
}
