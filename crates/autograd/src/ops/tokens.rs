//! Sequences of tokens.

use super::{Weight, apply};
use crate::error::{Result, shape};
use crate::spec::{AddTable, GatherTokens, MeanTokens, PrependToken, UnshuffleTokens, sequence};
use crate::tape::Value;
use candle_core::Tensor;

/// Adds one table (N, D) to every sample of x (B, N, D): position embeddings, learnable or not.
///
/// # Errors
/// When the shapes do not fit.
pub fn add_table(x: &Value, table: &dyn Weight) -> Result<Value> {
    apply(&AddTable, x, &[Some(table)])
}

/// Rows `ids` (B, K) of x (B, N, D) -> (B, K, D).
///
/// # Errors
/// When an id is past the last row.
pub fn gather_tokens(x: &Value, ids: &[u32]) -> Result<Value> {
    apply(&GatherTokens { ids: ids.into() }, x, &[])
}

/// Puts a class token (1, 1, D) before the tokens of x: (B, N, D) -> (B, N + 1, D).
///
/// # Errors
/// When the widths differ.
pub fn prepend_token(x: &Value, token: &dyn Weight) -> Result<Value> {
    apply(&PrependToken, x, &[Some(token)])
}

/// MAE's decoder input: `restore` (B, L) puts the tokens of x (B, 1 + K, D) back into image order, `mask_token` (1, 1, D) fills the
/// places of removed tokens, and fixed positions `pos` (.., 1 + L, D) are added -> (B, 1 + L, D).
///
/// # Errors
/// When the shapes do not fit, or `restore` does not name each place once.
pub fn unshuffle_tokens(x: &Value, mask_token: &dyn Weight, restore: &[u32], pos: &Tensor) -> Result<Value> {
    let pos = x.tape().constant(pos);
    apply(&UnshuffleTokens { restore: restore.into() }, x, &[Some(mask_token), Some(&pos)])
}

/// The tokens from number `from` on: x (B, N, D) -> (B, N - from, D). With `from` = 1 this drops the class token.
///
/// # Errors
/// When there are fewer tokens.
pub fn drop_tokens(x: &Value, from: usize) -> Result<Value> {
    let [_, n, _] = sequence("drop_tokens", x.dims())?;
    if from > n {
        return shape("drop_tokens", format!("cannot drop {from} of {n} tokens"));
    }
    select_tokens(x, from, n - from)
}

/// The tokens `from .. from + len`: x (B, N, D) -> (B, len, D).
///
/// # Errors
/// When they are not there.
pub fn select_tokens(x: &Value, from: usize, len: usize) -> Result<Value> {
    sequence("select_tokens", x.dims())?;
    super::narrow(x, 1, from, len)
}

/// The mean over the tokens: x (B, N, D) -> (B, D).
///
/// # Errors
/// When there is no token.
pub fn mean_tokens(x: &Value) -> Result<Value> {
    apply(&MeanTokens, x, &[])
}
