//! `x w^T + b`, with GELU in the same operation where it follows.

use super::{Weight, apply};
use crate::error::Result;
use crate::spec::{LinearAddOp, LinearOp};
use crate::tape::Value;
use candlelight_kernels::act::gelu::Gelu;

/// `x w^T + b`: x (.., I), w (O, I) or a convolution's (O, C, h, w) with C h w = I, b (O) -> (.., O).
///
/// # Errors
/// When the shapes do not fit.
pub fn linear(x: &Value, w: &dyn Weight, bias: Option<&dyn Weight>) -> Result<Value> {
    apply(&LinearOp { gelu: None }, x, &[Some(w), bias])
}

/// `gelu(x w^T + b)` in one operation: the first half of an MLP.
///
/// # Errors
/// When the shapes do not fit.
pub fn linear_gelu(x: &Value, w: &dyn Weight, bias: &dyn Weight, kind: Gelu) -> Result<Value> {
    apply(&LinearOp { gelu: Some(kind) }, x, &[Some(w), Some(bias)])
}

/// `residual + x w^T + b` in one operation: the end of a residual branch.
///
/// # Errors
/// When the shapes do not fit.
pub fn linear_add(x: &Value, w: &dyn Weight, bias: &dyn Weight, residual: &Value) -> Result<Value> {
    apply(&LinearAddOp, x, &[Some(w), Some(bias), Some(residual)])
}
