//! Layer and group normalisation.

use super::{Weight, apply};
use crate::error::Result;
use crate::spec::{GroupNormOp, LayerNormOp};
use crate::tape::Value;

/// Layer normalisation over the last dimension, J. L. Ba et al., arXiv 1607.06450: x (.., D), gamma and beta (D).
///
/// # Errors
/// When the shapes do not fit.
pub fn layer_norm(x: &Value, gamma: &dyn Weight, beta: &dyn Weight, eps: f64) -> Result<Value> {
    apply(&LayerNormOp { eps }, x, &[Some(gamma), Some(beta)])
}

/// Group normalisation, Y. Wu and K. He, arXiv 1803.08494: x (B, .., C), channels last; gamma and beta (C).
///
/// # Errors
/// When the shapes do not fit or the groups do not divide the channels.
pub fn group_norm(x: &Value, groups: usize, gamma: &dyn Weight, beta: &dyn Weight, eps: f64) -> Result<Value> {
    apply(&GroupNormOp { groups, eps }, x, &[Some(gamma), Some(beta)])
}
