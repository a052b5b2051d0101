//! `x w^T + b`, with GELU in the same operation where it follows.

use super::{Attr, Attrs, Op};
use crate::error::{Result, shape};
use candlelight_kernels::act::gelu::Gelu;

/// Inputs x (.., I), w (O, ..), and b (O) or none.
#[derive(Debug, Clone, Copy)]
pub struct LinearOp {
    /// What follows in the same operation.
    pub gelu: Option<Gelu>,
}

impl LinearOp {
    /// (outputs, inputs) of a weight (O, ..): a convolution's kernel counts as one row per output.
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

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let (x, w) = (inputs[0], inputs[1]);
        let (outputs, features) = Self::sizes(w);
        let mut dims = x.to_vec();
        match dims.last_mut() {
            Some(d) if *d == features && w.len() > 1 => *d = outputs,
            _ => return shape(self.name(), format!("x {x:?} with a weight {w:?}")),
        }
        match inputs.get(2) {
            Some(b) if *b != [outputs] => shape(self.name(), format!("a bias {b:?} with a weight {w:?}")),
            _ => Ok(dims),
        }
    }
}
