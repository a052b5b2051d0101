//! Attention on packed projections.

use super::{Attrs, Op, sequence};
use crate::error::{Result, shape};
use candlelight_kernels::attention::Dropout;
use candlelight_kernels::drop::dropout::check_rate;

/// Attention on packed projections. Input qkv (B, N, 3 H Dh) -> (B, N, H Dh).
#[derive(Debug, Clone, Copy)]
pub struct AttentionOp {
    /// Number of heads, H.
    pub heads: usize,
    /// Dropout of the attention probabilities, in training.
    pub dropout: Option<Dropout>,
}

impl Op for AttentionOp {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn attributes(&self) -> Attrs {
        vec![("num_heads", self.heads.into())]
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        if let Some(dropout) = &self.dropout {
            check_rate(dropout.rate)?;
        }
        let [b, n, width] = sequence("attention", inputs[0])?;
        if self.heads == 0 || width % (3 * self.heads) != 0 {
            return shape(
                "attention",
                format!("qkv {:?}: the width {width} does not divide into 3 x {} heads", inputs[0], self.heads),
            );
        }
        Ok(vec![b, n, width / 3])
    }
}
