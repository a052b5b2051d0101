//! Entries chosen by numbers or by a condition.

use super::{Weight, apply};
use crate::error::Result;
use crate::spec::{Index, Where};
use crate::tape::{Tape, Value};

/// Rows of a table (V, D) by number, PyTorch's `embedding`: n ids -> (n, D). A row that is read several times gets the sum of the
/// gradients.
///
/// # Errors
/// When a number is past the last row.
pub fn embedding(tape: &Tape, table: &dyn Weight, ids: &[u32]) -> Result<Value> {
    apply(&Index::Select { dim: 0, ids: ids.into() }, &table.on(tape), &[])
}

/// `a` where `condition` is true, else `b`. Both values have the same shape, with one entry per condition.
///
/// # Errors
/// When the shapes differ.
pub fn where_cond(condition: &[bool], a: &Value, b: &Value) -> Result<Value> {
    apply(&Where { condition: condition.into() }, a, &[Some(b)])
}

/// # Entries by number
impl Value {
    /// The entries `ids` of dimension `dim`, in the order of `ids`.
    ///
    /// # Errors
    /// When a number is past the last entry.
    pub fn index_select(&self, dim: i64, ids: &[u32]) -> Result<Value> {
        apply(&Index::Select { dim: self.axis("index_select", dim)?, ids: ids.into() }, self, &[])
    }

    /// PyTorch's `gather`. `ids` has the shape `dims`, which is the shape of this value except in dimension `dim`. The result has that
    /// shape too: each of its entries is read at the same place of this value, with the number in `ids` as the place in dimension `dim`.
    ///
    /// # Errors
    /// When the shapes do not fit or a number is past the last entry.
    pub fn gather(&self, dim: i64, ids: &[u32], dims: &[usize]) -> Result<Value> {
        let op = Index::Gather { dim: self.axis("gather", dim)?, ids: ids.into(), dims: dims.to_vec() };
        apply(&op, self, &[])
    }
}
