//! `x w^T + b`, with GELU in the same operation where it follows.

use super::{Attr, Attrs, Op};
use crate::error::{Result, shape};
use candlelight_kernels::act::gelu::Gelu;
use std::ops::RangeInclusive;

/// A linear layer. Inputs x (.., I), w (O, ..) with I values per output, and b (O) or none -> (.., O).
#[derive(Debug, Clone, Copy)]
pub struct LinearOp {
    /// The GELU that follows in the same operation, if one does.
    pub gelu: Option<Gelu>,
}

impl LinearOp {
    /// Numbers of (outputs, inputs) of a weight (O, ..): each kernel of a convolution's weight counts as one row.
    pub fn sizes(w: &[usize]) -> (usize, usize) {
        (w.first().copied().unwrap_or(1), w.iter().skip(1).product())
    }
}

impl Op for LinearOp {
    fn name(&self) -> &'static str {
        if self.gelu.is_some() { "linear_gelu" } else { "linear" }
    }

    fn attributes(&self) -> Attrs {
        self.gelu.map(|g| ("gelu", Attr::Text(format!("{g:?}").to_lowercase()))).into_iter().collect()
    }

    fn arity(&self) -> RangeInclusive<usize> {
        2..=3
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let (x, w) = (inputs[0], inputs[1]);
        let (outputs, features) = Self::sizes(w);
        let mut dims = x.to_vec();
        match dims.last_mut() {
            Some(d) if *d == features && w.len() > 1 && outputs * features > 0 => *d = outputs,
            _ if w.len() < 2 || outputs * features == 0 => {
                return shape(self.name(), format!("a weight {w:?}, expected (O, I), both at least 1"));
            }
            _ => return shape(self.name(), format!("x {x:?} with a weight {w:?}: expected x (.., {features})")),
        }
        match inputs.get(2) {
            Some(b) if *b != [outputs] => {
                shape(self.name(), format!("a bias {b:?} with a weight {w:?}: expected a bias ({outputs})"))
            }
            _ => Ok(dims),
        }
    }
}

/// A linear layer whose result is added to a residual. Inputs x (.., I), w (O, ..) with I values per output, b (O) and the residual (.., O).
#[derive(Debug, Clone, Copy)]
pub struct LinearAddOp;

impl LinearAddOp {
    /// The number of the residual among the inputs.
    pub const RESIDUAL: usize = 3;
}

impl Op for LinearAddOp {
    fn name(&self) -> &'static str {
        "linear_add"
    }

    fn arity(&self) -> RangeInclusive<usize> {
        4..=4
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let dims = LinearOp { gelu: None }.shape(&inputs[..Self::RESIDUAL])?;
        if inputs[Self::RESIDUAL] == dims.as_slice() {
            return Ok(dims);
        }
        shape(self.name(), format!("a residual {:?}, expected {dims:?}", inputs[Self::RESIDUAL]))
    }
}
