//! Products of matrices.

use super::apply;
use super::arithmetic::broadcast;
use crate::backend::Backend;
use crate::error::{Result, shape};
use crate::op::{Done, Inputs, Op};
use crate::tape::Value;

/// Inputs a (.., M, K) and b (.., K, N), whose leading dimensions broadcast -> (.., M, N).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatMul;

impl Op for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        match (inputs[0], inputs[1]) {
            ([left @ .., m, k], [right @ .., l, n]) if k == l => {
                let mut out = broadcast("matmul", left, right)?;
                out.extend([*m, *n]);
                Ok(out)
            }
            (a, b) => shape("matmul", format!("{a:?} with {b:?}, expected (.., M, K) with (.., K, N)")),
        }
    }

    fn run(&self, backend: &dyn Backend, x: &Inputs<'_>) -> Result<Done> {
        backend.matmul(self, x)
    }
}

impl Value {
    /// The product of matrices (.., M, K) and (.., K, N); leading dimensions broadcast.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn matmul(&self, other: &Value) -> Result<Value> {
        apply(&MatMul, self, &[Some(other)])
    }
}
