//! Sums, means, variances and largest values over dimensions; softmax.

use super::apply;
use crate::error::{Result, shape};
use crate::spec::{Reduce, Reduction, Softmax};
use crate::tape::Value;

/// # Reductions
///
/// Negative numbers in `dims` count from the end: -1 is the last dimension. An empty list means all dimensions.
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

    /// The largest value along dimension `dim`. Where several are equal, the first gets the gradient, as with PyTorch's `max(dim)`.
    ///
    /// # Errors
    /// When there is no such dimension, or no value.
    pub fn max(&self, dim: i64, keep: bool) -> Result<Value> {
        self.reduce(Reduction::Max, &[dim], keep)
    }

    /// The smallest value along dimension `dim`. Where several are equal, the first gets the gradient.
    ///
    /// # Errors
    /// When there is no such dimension, or no value.
    pub fn min(&self, dim: i64, keep: bool) -> Result<Value> {
        self.reduce(Reduction::Min, &[dim], keep)
    }

    /// The sum of all values, a scalar.
    ///
    /// # Errors
    /// The errors of the backend.
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

    /// The softmax along dimension `dim`: `e^x` divided by its sum.
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
