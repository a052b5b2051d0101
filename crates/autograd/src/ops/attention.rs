//! Attention on packed projections.

use super::apply;
use crate::error::Result;
use crate::spec::AttentionOp;
use crate::tape::Value;
use candlelight_kernels::Key;
use candlelight_kernels::attention::Dropout;

/// Attention on packed projections: qkv (B, N, 3 H Dh) -> (B, N, H Dh). `dropout` is (key, rate) on the probabilities.
///
/// # Errors
/// When the width does not divide into three times `heads`.
pub fn attention(qkv: &Value, heads: usize, dropout: Option<(Key, f32)>) -> Result<Value> {
    let dropout = dropout.filter(|(_, r)| *r != 0.0).map(|(key, rate)| Dropout { words: key.into_words(), rate });
    apply(&AttentionOp { heads, dropout }, qkv, &[])
}
