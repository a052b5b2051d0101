//! Layer and group normalisation.

use super::{Attrs, Op};
use crate::error::{Result, shape};
use std::ops::RangeInclusive;

/// Layer normalisation over the last dimension. Inputs x (.., D), gamma (D), beta (D).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerNormOp {
    /// Added to the variance.
    pub eps: f64,
}

impl Op for LayerNormOp {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn attributes(&self) -> Attrs {
        vec![("eps", self.eps.into())]
    }

    fn arity(&self) -> RangeInclusive<usize> {
        3..=3
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let (x, gamma, beta) = (inputs[0], inputs[1], inputs[2]);
        if x.is_empty() || gamma != &x[x.len() - 1..] || beta != gamma {
            return shape(
                "layer_norm",
                format!("x {x:?}, weight {gamma:?}, bias {beta:?}: expected (.., D), (D) and (D)"),
            );
        }
        Ok(x.to_vec())
    }
}

/// Group normalisation: each group of channels of a sample is normalised together. Inputs x (B, .., C), gamma (C), beta (C).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupNormOp {
    /// Number of groups, which must divide the channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
}

impl Op for GroupNormOp {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn attributes(&self) -> Attrs {
        vec![("num_groups", self.groups.into()), ("eps", self.eps.into())]
    }

    fn arity(&self) -> RangeInclusive<usize> {
        3..=3
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let (x, gamma, beta) = (inputs[0], inputs[1], inputs[2]);
        if x.len() < 2 || gamma != &x[x.len() - 1..] || beta != gamma {
            return shape(
                "group_norm",
                format!("x {x:?}, weight {gamma:?}, bias {beta:?}: expected (B, .., C), (C) and (C)"),
            );
        }
        if self.groups == 0 || gamma[0] % self.groups != 0 {
            return shape("group_norm", format!("{} groups do not divide {} channels", self.groups, gamma[0]));
        }
        Ok(x.to_vec())
    }
}
