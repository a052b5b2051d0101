//! Products of matrices.

use super::{Op, broadcast};
use crate::error::{Result, shape};
use std::ops::RangeInclusive;

/// A product of matrices. Inputs a (.., M, K) and b (.., K, N), whose leading dimensions broadcast -> (.., M, N).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatMul;

impl Op for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn arity(&self) -> RangeInclusive<usize> {
        2..=2
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
}
