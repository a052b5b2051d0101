//! Attention on packed projections.

use super::{apply, sequence};
use crate::backend::Backend;
use crate::error::{Result, shape};
use crate::op::{Attrs, Done, Inputs, Op};
use crate::tape::Value;
use candlelight_kernels::Key;
use candlelight_kernels::attention::Dropout;

/// Input qkv (B, N, 3 H Dh) -> (B, N, H Dh).
#[derive(Debug, Clone, Copy)]
pub struct AttentionOp {
    /// Heads, H.
    pub heads: usize,
    /// Dropout of the probabilities.
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
        let [b, n, width] = sequence("attention", inputs[0])?;
        if self.heads == 0 || width % (3 * self.heads) != 0 {
            return shape("attention", format!("qkv {:?} does not divide into 3 x {} heads", inputs[0], self.heads));
        }
        Ok(vec![b, n, width / 3])
    }

    fn run(&self, backend: &dyn Backend, x: &Inputs<'_>) -> Result<Done> {
        backend.attention(self, x)
    }
}

/// Attention on packed projections: qkv (B, N, 3 H Dh) -> (B, N, H Dh). `dropout` is (key, rate) on the probabilities.
///
/// # Errors
/// When the width does not divide into three times `heads`.
pub fn attention(qkv: &Value, heads: usize, dropout: Option<(Key, f32)>) -> Result<Value> {
    let dropout = dropout.filter(|(_, r)| *r > 0.0).map(|(key, rate)| Dropout { words: key.into_words(), rate });
    apply(&AttentionOp { heads, dropout }, qkv, &[])
}
