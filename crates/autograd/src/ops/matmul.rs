//! Products of matrices.

use super::apply;
use crate::error::Result;
use crate::spec::MatMul;
use crate::tape::Value;

impl Value {
    /// The product of matrices (.., M, K) and (.., K, N); leading dimensions broadcast.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn matmul(&self, other: &Value) -> Result<Value> {
        apply(&MatMul, self, &[Some(other)])
    }
}
