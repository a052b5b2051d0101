//! Changes of shape and order: reshaping, permuting, cutting, joining and padding.

use super::{Attr, Attrs, Op, count};
use crate::error::{Result, shape};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// A change of shape or order. Input x, or several values for a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrange {
    /// The same values in another shape.
    Reshape(Vec<usize>),
    /// The dimensions in another order: dimension i of the result is dimension `order[i]` of x.
    Permute(Vec<usize>),
    /// `len` entries of dimension `dim`, from `from` on.
    Narrow {
        /// The dimension.
        dim: usize,
        /// The first entry.
        from: usize,
        /// Number of entries.
        len: usize,
    },
    /// Zeros before and behind the entries of dimension `dim`.
    Pad {
        /// The dimension.
        dim: usize,
        /// Number of zeros before.
        before: usize,
        /// Number of zeros behind.
        behind: usize,
    },
    /// Entries in other places of a dimension: entry i of the result is entry `from[i]`, or zeros.
    Place {
        /// The dimension.
        dim: usize,
        /// For each entry of the result the entry that it is read from.
        from: Arc<[Option<u32>]>,
    },
    /// Dimensions of size 1, repeated until the shape is this one.
    Expand(Vec<usize>),
    /// Several values, one after the other along this dimension.
    Cat(usize),
}

impl Op for Arrange {
    fn name(&self) -> &'static str {
        match self {
            Arrange::Reshape(_) => "reshape",
            Arrange::Permute(_) => "permute",
            Arrange::Narrow { .. } => "narrow",
            Arrange::Pad { .. } => "pad",
            Arrange::Place { .. } => "place",
            Arrange::Expand(_) => "expand",
            Arrange::Cat(_) => "cat",
        }
    }

    fn attributes(&self) -> Attrs {
        match self {
            Arrange::Reshape(dims) | Arrange::Expand(dims) => vec![("shape", dims.as_slice().into())],
            Arrange::Permute(order) => vec![("dims", order.as_slice().into())],
            Arrange::Narrow { dim, from, len } => {
                vec![("dim", (*dim).into()), ("start", (*from).into()), ("length", (*len).into())]
            }
            Arrange::Pad { dim, before, behind } => {
                vec![("dim", (*dim).into()), ("pad", Attr::Ints(vec![*before as i64, *behind as i64]))]
            }
            Arrange::Place { dim, from } => {
                let ids = from.iter().map(|i| i.map_or(-1, i64::from)).collect();
                vec![("dim", (*dim).into()), ("index", Attr::Ints(ids))]
            }
            Arrange::Cat(dim) => vec![("dim", (*dim).into())],
        }
    }

    fn arity(&self) -> RangeInclusive<usize> {
        1..=if matches!(self, Arrange::Cat(_)) { usize::MAX } else { 1 }
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let x = inputs[0];
        let mut out = x.to_vec();
        match self {
            Arrange::Reshape(dims) if count(dims) == count(x) => out.clone_from(dims),
            Arrange::Permute(order) => {
                let mut seen = order.clone();
                seen.sort_unstable();
                if seen != (0..x.len()).collect::<Vec<_>>() {
                    return shape("permute", format!("{order:?} does not name each dimension of {x:?} once"));
                }
                out = order.iter().map(|i| x[*i]).collect();
            }
            Arrange::Narrow { dim, from, len } => {
                let have = x.get(*dim).copied().unwrap_or(0);
                if *dim >= x.len() || from.checked_add(*len).is_none_or(|end| end > have) {
                    return shape(
                        "narrow",
                        format!("{len} entries from {from} on in dimension {dim} of {x:?}, which has {have}"),
                    );
                }
                out[*dim] = *len;
            }
            Arrange::Pad { dim, before, behind } if *dim < x.len() => out[*dim] += before + behind,
            Arrange::Place { dim, from } => {
                let have = x.get(*dim).copied().unwrap_or(0);
                if *dim >= x.len() || from.iter().flatten().any(|i| *i as usize >= have) {
                    return shape(
                        "place",
                        format!("entries {from:?} of dimension {dim} of {x:?}, expected numbers below {have}"),
                    );
                }
                out[*dim] = from.len();
            }
            Arrange::Expand(dims) => {
                let fits = super::broadcast("expand", x, dims)?;
                if fits != *dims {
                    return shape(
                        "expand",
                        format!("{x:?} does not expand to {dims:?}: only dimensions of size 1 are repeated"),
                    );
                }
                out = fits;
            }
            Arrange::Cat(dim) => {
                let same = |d: &[usize]| d.len() == x.len() && (0..x.len()).all(|i| i == *dim || d[i] == x[i]);
                if *dim >= x.len() || !inputs.iter().all(|d| same(d)) {
                    return shape(
                        "cat",
                        format!("{inputs:?} do not join along dimension {dim}: expected equal sizes in all others"),
                    );
                }
                out[*dim] = inputs.iter().map(|d| d[*dim]).sum();
            }
            Arrange::Reshape(dims) => {
                let (found, expected) = (count(dims), count(x));
                return shape("reshape", format!("{x:?} to {dims:?}: {found} values, expected {expected}"));
            }
            Arrange::Pad { dim, .. } => return shape("pad", format!("x {x:?} has no dimension {dim}")),
        }
        Ok(out)
    }
}
