//! Entries chosen by numbers or by a condition.

use super::{Weight, apply};
use crate::error::Result;
use crate::spec::{Index, Where};
use crate::tape::{Tape, Value};

/// Rows of a table (V, D) by number: ids -> (ids, D). The gradient of a row that is read twice is the sum.
///
/// # Errors
/// When a number is past the last row.
pub fn embedding(tape: &Tape, table: &dyn Weight, ids: &[u32]) -> Result<Value> {
    apply(&Index::Select { dim: 0, ids: ids.into() }, &table.on(tape), &[])
}

/// `a` where `condition` is true, else `b`; the values have one shape, of as many entries as there are conditions.
///
/// # Errors
/// When the shapes differ.
pub fn where_cond(condition: &[bool], a: &Value, b: &Value) -> Result<Value> {
    apply(&Where { condition: condition.into() }, a, &[Some(b)])
}

/// # Entries by number
impl Value {
    /// Entries `ids` of dimension `dim`, in their order.
    ///
    /// # Errors
    /// When a number is past the last entry.
    pub fn index_select(&self, dim: i64, ids: &[u32]) -> Result<Value> {
        apply(&Index::Select { dim: self.axis("index_select", dim)?, ids: ids.into() }, self, &[])
    }

    /// PyTorch's `gather`: entry i of the result takes dimension `dim` from entry i of `ids`, which have the shape `dims`: that of
    /// this value but for dimension `dim`.
    ///
    /// # Errors
    /// When the shapes do not fit or a number is past the last entry.
    pub fn gather(&self, dim: i64, ids: &[u32], dims: &[usize]) -> Result<Value> {
        let op = Index::Gather { dim: self.axis("gather", dim)?, ids: ids.into(), dims: dims.to_vec() };
        apply(&op, self, &[])
    }
}
