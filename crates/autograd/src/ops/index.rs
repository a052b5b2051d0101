//! Entries chosen by numbers or by a condition.

use super::{Weight, apply, count};
use crate::backend::Backend;
use crate::error::{Result, shape};
use crate::op::{Attr, Attrs, Done, Inputs, Op};
use crate::tape::{Tape, Value};
use candlelight_kernels::tokens::patch::check_ids;
use std::sync::Arc;

/// Entries by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Index {
    /// Entries `ids` of dimension `dim`, in their order. Input x (.., N, ..) -> (.., ids, ..).
    Select {
        /// The dimension.
        dim: usize,
        /// Numbers below its size.
        ids: Arc<[u32]>,
    },
    /// PyTorch's `gather`: the result at i takes dimension `dim` from `ids` at i. Input x, all dimensions but `dim` as in `dims`.
    Gather {
        /// The dimension.
        dim: usize,
        /// Numbers below its size, of shape `dims`.
        ids: Arc<[u32]>,
        /// Shape of `ids` and of the result.
        dims: Vec<usize>,
    },
}

impl Op for Index {
    fn name(&self) -> &'static str {
        if matches!(self, Index::Select { .. }) { "index_select" } else { "gather" }
    }

    fn attributes(&self) -> Attrs {
        let (Index::Select { dim, ids } | Index::Gather { dim, ids, .. }) = self;
        vec![("dim", (*dim).into()), ("index", Attr::Ints(ids.iter().map(|i| i64::from(*i)).collect()))]
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let x = inputs[0];
        let (Index::Select { dim, ids } | Index::Gather { dim, ids, .. }) = self;
        let Some(n) = x.get(*dim) else { return shape(self.name(), format!("dimension {dim} of {x:?}")) };
        check_ids(self.name(), ids, *n)?;
        let mut out = x.to_vec();
        match self {
            Index::Select { ids, .. } => out[*dim] = ids.len(),
            Index::Gather { ids, dims, .. } => {
                let same = dims.len() == x.len() && (0..x.len()).all(|i| i == *dim || dims[i] == x[i]);
                if !same || ids.len() != count(dims) {
                    return shape("gather", format!("{} ids of shape {dims:?} for {x:?}", ids.len()));
                }
                out.clone_from(dims);
            }
        }
        Ok(out)
    }

    fn run(&self, backend: &dyn Backend, x: &Inputs<'_>) -> Result<Done> {
        backend.index(self, x)
    }
}

/// One of two values, entry by entry. Inputs a and b of one shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Where {
    /// Where the first is taken, in the order of the entries.
    pub condition: Arc<[bool]>,
}

impl Op for Where {
    fn name(&self) -> &'static str {
        "where"
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        if inputs[0] != inputs[1] || count(inputs[0]) != self.condition.len() {
            let n = self.condition.len();
            return shape("where", format!("{n} conditions for values {:?} and {:?}", inputs[0], inputs[1]));
        }
        Ok(inputs[0].to_vec())
    }

    fn run(&self, backend: &dyn Backend, x: &Inputs<'_>) -> Result<Done> {
        backend.choose(self, x)
    }
}

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
