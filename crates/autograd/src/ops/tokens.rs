//! Sequences of tokens.

use super::{Weight, apply, count, sequence};
use crate::backend::Backend;
use crate::error::{Result, shape};
use crate::op::{Attr, Attrs, Done, Inputs, Op};
use crate::tape::Value;
use candle_core::Tensor;
use candlelight_kernels::tokens::patch::check_ids;
use candlelight_kernels::tokens::sequence::check_order;
use std::sync::Arc;

/// Inputs x (B, N, D) and a table of N D values -> (B, N, D): the table is added to every sample.
#[derive(Debug, Clone, Copy)]
pub struct AddTable;

impl Op for AddTable {
    fn name(&self) -> &'static str {
        "add_table"
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let (x, table) = (inputs[0], inputs[1]);
        let per = x.get(1..).unwrap_or(&[]);
        if per.is_empty() || per != &table[table.len().saturating_sub(per.len())..] || count(per) != count(table) {
            return shape("add_table", format!("x {x:?}, table {table:?}"));
        }
        Ok(x.to_vec())
    }

    fn run(&self, backend: &dyn Backend, x: &Inputs<'_>) -> Result<Done> {
        backend.add_table(self, x)
    }
}

/// Rows of x (B, N, D) by number, (B, K) -> (B, K, D).
#[derive(Debug, Clone)]
pub struct GatherTokens {
    /// (B, K): numbers below N.
    pub ids: Arc<[u32]>,
}

impl Op for GatherTokens {
    fn name(&self) -> &'static str {
        "gather_tokens"
    }

    fn attributes(&self) -> Attrs {
        vec![("index", Attr::Ints(self.ids.iter().map(|i| i64::from(*i)).collect()))]
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let [b, n, d] = sequence("gather_tokens", inputs[0])?;
        check_ids("gather_tokens", &self.ids, n)?;
        let k = self.ids.len() / b.max(1);
        if self.ids.len() != b * k {
            return shape("gather_tokens", format!("{} ids for {b} samples", self.ids.len()));
        }
        Ok(vec![b, k, d])
    }

    fn run(&self, backend: &dyn Backend, x: &Inputs<'_>) -> Result<Done> {
        backend.gather_tokens(self, x)
    }
}

/// Inputs x (B, N, D) and a token of D values -> (B, N + 1, D): the token before the others of every sample.
#[derive(Debug, Clone)]
pub struct PrependToken {
    /// (D), added to the token.
    pub pos: Option<Arc<[f32]>>,
}

impl Op for PrependToken {
    fn name(&self) -> &'static str {
        "prepend_token"
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let [b, n, d] = sequence("prepend_token", inputs[0])?;
        if count(inputs[1]) != d || self.pos.as_ref().is_some_and(|p| p.len() != d) {
            return shape("prepend_token", format!("x {:?}, token {:?}", inputs[0], inputs[1]));
        }
        Ok(vec![b, n + 1, d])
    }

    fn run(&self, backend: &dyn Backend, x: &Inputs<'_>) -> Result<Done> {
        backend.prepend_token(self, x)
    }
}

/// MAE's decoder input. Inputs x (B, 1 + K, D), a mask token of D values, positions of (1 + L) D values -> (B, 1 + L, D).
#[derive(Debug, Clone)]
pub struct UnshuffleTokens {
    /// (B, L): where token j is among the shuffled ones; K or more says that it was removed.
    pub restore: Arc<[u32]>,
}

impl Op for UnshuffleTokens {
    fn name(&self) -> &'static str {
        "unshuffle_tokens"
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let [b, k1, d] = sequence("unshuffle_tokens", inputs[0])?;
        let l = self.restore.len() / b.max(1);
        check_order(&self.restore, b)?;
        if k1 == 0 || count(inputs[1]) != d || count(inputs[2]) != (l + 1) * d {
            let (x, m, p) = (inputs[0], inputs[1], inputs[2]);
            return shape("unshuffle_tokens", format!("x {x:?}, mask token {m:?}, positions {p:?}"));
        }
        Ok(vec![b, l + 1, d])
    }

    fn run(&self, backend: &dyn Backend, x: &Inputs<'_>) -> Result<Done> {
        backend.unshuffle_tokens(self, x)
    }
}

/// Input x (B, N, D) -> (B, D): the mean of the tokens.
#[derive(Debug, Clone, Copy)]
pub struct MeanTokens;

impl Op for MeanTokens {
    fn name(&self) -> &'static str {
        "mean_tokens"
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        match sequence("mean_tokens", inputs[0])? {
            [_, 0, _] => shape("mean_tokens", "no tokens"),
            [b, _, d] => Ok(vec![b, d]),
        }
    }

    fn run(&self, backend: &dyn Backend, x: &Inputs<'_>) -> Result<Done> {
        backend.mean_tokens(self, x)
    }
}

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

/// A class token (1, 1, D) before the tokens of x (B, N, D) -> (B, N + 1, D). `pos` (D) is added to it.
///
/// # Errors
/// When the widths differ.
pub fn prepend_token(x: &Value, token: &dyn Weight, pos: Option<&[f32]>) -> Result<Value> {
    apply(&PrependToken { pos: pos.map(Into::into) }, x, &[Some(token)])
}

/// MAE's decoder input: tokens x (B, 1 + K, D) put back in image order by `restore` (B, L), `mask_token` (1, 1, D) where one was
/// removed, fixed positions `pos` (.., 1 + L, D) added -> (B, 1 + L, D).
///
/// # Errors
/// When the shapes do not fit, or `restore` does not name each place once.
pub fn unshuffle_tokens(x: &Value, mask_token: &dyn Weight, restore: &[u32], pos: &Tensor) -> Result<Value> {
    let pos = x.tape().constant(pos);
    apply(&UnshuffleTokens { restore: restore.into() }, x, &[Some(mask_token), Some(&pos)])
}

/// Tokens `from ..` of x (B, N, D) -> (B, N - from, D): drops the class token.
///
/// # Errors
/// When there are fewer tokens.
pub fn drop_tokens(x: &Value, from: usize) -> Result<Value> {
    let [_, n, _] = sequence("drop_tokens", x.dims())?;
    if from > n {
        return shape("drop_tokens", format!("{from} of {n} tokens"));
    }
    select_tokens(x, from, n - from)
}

/// Tokens `from .. from + len` of x (B, N, D).
///
/// # Errors
/// When they are not there.
pub fn select_tokens(x: &Value, from: usize, len: usize) -> Result<Value> {
    sequence("select_tokens", x.dims())?;
    super::narrow(x, 1, from, len)
}

/// Mean over the tokens: (B, N, D) -> (B, D).
///
/// # Errors
/// When there is no token.
pub fn mean_tokens(x: &Value) -> Result<Value> {
    apply(&MeanTokens, x, &[])
}
