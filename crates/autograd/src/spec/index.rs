//! Entries chosen by numbers or by a condition.

use super::{Attr, Attrs, Op, count};
use crate::error::{Result, shape};
use candlelight_kernels::tokens::patch::check_ids;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Entries by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Index {
    /// The entries `ids` of dimension `dim`, in the order of `ids`. Input x (.., N, ..) -> (.., ids, ..).
    Select {
        /// The dimension.
        dim: usize,
        /// Numbers below its size.
        ids: Arc<[u32]>,
    },
    /// PyTorch's `gather`: each entry of the result is read at the same place of x, with the number in `ids` as the place in dimension
    /// `dim`. Input x has the shape `dims` except in dimension `dim`.
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
        let Some(n) = x.get(*dim) else { return shape(self.name(), format!("x {x:?} has no dimension {dim}")) };
        check_ids(self.name(), ids, *n)?;
        let mut out = x.to_vec();
        match self {
            Index::Select { ids, .. } => out[*dim] = ids.len(),
            Index::Gather { ids, dims, .. } => {
                let same = dims.len() == x.len() && (0..x.len()).all(|i| i == *dim || dims[i] == x[i]);
                if !same || ids.len() != count(dims) {
                    return shape(
                        "gather",
                        format!(
                            "{} ids of shape {dims:?} for x {x:?}, expected the shape of x except in dimension {dim}",
                            ids.len()
                        ),
                    );
                }
                out.clone_from(dims);
            }
        }
        Ok(out)
    }
}

/// One of two values, entry by entry. Inputs a and b of one shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Where {
    /// One condition per entry, in the order of the entries: true takes a, false takes b.
    pub condition: Arc<[bool]>,
}

impl Op for Where {
    fn name(&self) -> &'static str {
        "where"
    }

    fn arity(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        if inputs[0] != inputs[1] || count(inputs[0]) != self.condition.len() {
            let n = self.condition.len();
            return shape(
                "where",
                format!(
                    "{n} conditions for values {:?} and {:?}, expected the same shape and one condition per entry",
                    inputs[0], inputs[1]
                ),
            );
        }
        Ok(inputs[0].to_vec())
    }
}
