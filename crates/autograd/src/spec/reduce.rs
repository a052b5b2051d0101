//! Sums, means, variances and largest values over dimensions; softmax.

use super::{Attr, Attrs, Op};
use crate::error::{Result, shape};

/// What a reduction computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// The sum.
    Sum,
    /// The mean.
    Mean,
    /// The variance of n values.
    Var {
        /// True divides by `n - 1`, PyTorch's default, false by `n`.
        unbiased: bool,
    },
    /// The largest value along one dimension; where several are equal, the first gets the gradient.
    Max,
    /// The smallest value along one dimension; where several are equal, the first gets the gradient.
    Min,
}

/// A reduction over dimensions. Input x (..) -> x without the dimensions, or with 1 in their places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reduce {
    /// What the reduction computes.
    pub kind: Reduction,
    /// The dimensions it runs over, in ascending order.
    pub dims: Vec<usize>,
    /// Whether these dimensions stay, with size 1.
    pub keep: bool,
}

impl Op for Reduce {
    fn name(&self) -> &'static str {
        match self.kind {
            Reduction::Sum => "sum",
            Reduction::Mean => "mean",
            Reduction::Var { .. } => "var",
            Reduction::Max => "max",
            Reduction::Min => "min",
        }
    }

    fn attributes(&self) -> Attrs {
        vec![("dims", self.dims.as_slice().into()), ("keepdim", self.keep.into())]
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let x = inputs[0];
        let ascending = self.dims.windows(2).all(|d| d[0] < d[1]);
        if !ascending || self.dims.last().is_some_and(|d| *d >= x.len()) {
            let message = format!("dimensions {:?} of x {x:?}, expected dimensions of x in ascending order", self.dims);
            return shape(self.name(), message);
        }
        let n: usize = self.dims.iter().map(|d| x[*d]).product();
        let least = match self.kind {
            Reduction::Sum => 0,
            Reduction::Var { unbiased: true } => 2,
            _ => 1,
        };
        if n < least {
            return shape(
                self.name(),
                format!("{n} values of {x:?} over dimensions {:?}, expected at least {least}", self.dims),
            );
        }
        if matches!(self.kind, Reduction::Max | Reduction::Min) && self.dims.len() != 1 {
            return shape(self.name(), format!("expected one dimension, found {:?}", self.dims));
        }
        let kept = |(i, d): (usize, &usize)| match self.dims.contains(&i) {
            true => self.keep.then_some(1),
            false => Some(*d),
        };
        Ok(x.iter().enumerate().filter_map(kept).collect())
    }
}

/// Softmax over one dimension, or its logarithm. Input x (..) -> (..).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Softmax {
    /// The dimension along which values sum to 1.
    pub dim: usize,
    /// Whether the result is the logarithm of the softmax, computed directly rather than from the softmax.
    pub log: bool,
}

impl Op for Softmax {
    fn name(&self) -> &'static str {
        if self.log { "log_softmax" } else { "softmax" }
    }

    fn attributes(&self) -> Attrs {
        vec![("dim", Attr::Int(self.dim as i64))]
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        match inputs[0].get(self.dim) {
            Some(0) | None => shape(self.name(), format!("no entries in dimension {} of {:?}", self.dim, inputs[0])),
            Some(_) => Ok(inputs[0].to_vec()),
        }
    }
}
