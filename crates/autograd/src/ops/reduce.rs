//! Sums, means, variances and largest values over dimensions; softmax.

use super::apply;
use crate::backend::Backend;
use crate::error::{Result, shape};
use crate::op::{Attr, Attrs, Done, Inputs, Op};
use crate::tape::Value;

/// What a reduction computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// The sum.
    Sum,
    /// The mean.
    Mean,
    /// The variance, over `n - 1` where true (PyTorch's default), else over `n`.
    Var {
        /// Whether it divides by `n - 1`.
        unbiased: bool,
    },
    /// The largest value of one dimension; the first of equals gets the gradient.
    Max,
    /// The smallest value of one dimension; the first of equals gets the gradient.
    Min,
}

/// A reduction over dimensions. Input x (..) -> x without the dimensions, or with 1 in their places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reduce {
    /// What is computed.
    pub kind: Reduction,
    /// Over which dimensions, in ascending order.
    pub dims: Vec<usize>,
    /// Whether they stay, with size 1.
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
        let n: usize = self.dims.iter().map(|d| x.get(*d).copied().unwrap_or(0)).product();
        let least = match self.kind {
            Reduction::Sum => 0,
            Reduction::Var { unbiased: true } => 2,
            _ => 1,
        };
        if n < least {
            return shape(self.name(), format!("{n} values of {x:?} over dimensions {:?}", self.dims));
        }
        if matches!(self.kind, Reduction::Max | Reduction::Min) && self.dims.len() != 1 {
            return shape(self.name(), format!("one dimension expected, found {:?}", self.dims));
        }
        let kept = |(i, d): (usize, &usize)| match self.dims.contains(&i) {
            true => self.keep.then_some(1),
            false => Some(*d),
        };
        Ok(x.iter().enumerate().filter_map(kept).collect())
    }

    fn run(&self, backend: &dyn Backend, x: &Inputs<'_>) -> Result<Done> {
        backend.reduce(self, x)
    }
}

/// Softmax over one dimension, or its logarithm. Input x (..) -> (..).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Softmax {
    /// The dimension.
    pub dim: usize,
    /// The logarithm, computed without the softmax.
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

    fn run(&self, backend: &dyn Backend, x: &Inputs<'_>) -> Result<Done> {
        backend.softmax(self, x)
    }
}

/// # Reductions
///
/// `dims` count from the end where they are negative. An empty list means all dimensions.
impl Value {
    fn reduce(&self, kind: Reduction, dims: &[i64], keep: bool) -> Result<Value> {
        let mut axes: Vec<usize> = match dims {
            [] => (0..self.rank()).collect(),
            _ => dims.iter().map(|d| self.axis("reduce", *d)).collect::<Result<_>>()?,
        };
        axes.sort_unstable();
        if axes.windows(2).any(|w| w[0] == w[1]) {
            return shape("reduce", format!("a dimension is named twice in {dims:?}"));
        }
        apply(&Reduce { kind, dims: axes, keep }, self, &[])
    }

    /// The sum over `dims`, which stay with size 1 where `keep` is true.
    ///
    /// # Errors
    /// When there is no such dimension.
    pub fn sum(&self, dims: &[i64], keep: bool) -> Result<Value> {
        self.reduce(Reduction::Sum, dims, keep)
    }

    /// The mean over `dims`, which stay with size 1 where `keep` is true.
    ///
    /// # Errors
    /// When there is no such dimension, or no value.
    pub fn mean(&self, dims: &[i64], keep: bool) -> Result<Value> {
        self.reduce(Reduction::Mean, dims, keep)
    }

    /// The variance over `dims`, divided by `n - 1` where `unbiased` is true.
    ///
    /// # Errors
    /// When there is no such dimension, or too few values.
    pub fn var(&self, dims: &[i64], unbiased: bool, keep: bool) -> Result<Value> {
        self.reduce(Reduction::Var { unbiased }, dims, keep)
    }

    /// The largest value of dimension `dim`; the first of equals gets the gradient, as from PyTorch's `max(dim)`.
    ///
    /// # Errors
    /// When there is no such dimension, or no value.
    pub fn max(&self, dim: i64, keep: bool) -> Result<Value> {
        self.reduce(Reduction::Max, &[dim], keep)
    }

    /// The smallest value of dimension `dim`; the first of equals gets the gradient.
    ///
    /// # Errors
    /// When there is no such dimension, or no value.
    pub fn min(&self, dim: i64, keep: bool) -> Result<Value> {
        self.reduce(Reduction::Min, &[dim], keep)
    }

    /// The sum of all values, a scalar.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn sum_all(&self) -> Result<Value> {
        self.sum(&[], false)
    }

    /// The mean of all values, a scalar.
    ///
    /// # Errors
    /// When there is no value.
    pub fn mean_all(&self) -> Result<Value> {
        self.mean(&[], false)
    }

    /// `e^x` over its sum along dimension `dim`.
    ///
    /// # Errors
    /// When there is no such dimension.
    pub fn softmax(&self, dim: i64) -> Result<Value> {
        apply(&Softmax { dim: self.axis("softmax", dim)?, log: false }, self, &[])
    }

    /// The logarithm of the softmax along dimension `dim`.
    ///
    /// # Errors
    /// When there is no such dimension.
    pub fn log_softmax(&self, dim: i64) -> Result<Value> {
        apply(&Softmax { dim: self.axis("log_softmax", dim)?, log: true }, self, &[])
    }
}
