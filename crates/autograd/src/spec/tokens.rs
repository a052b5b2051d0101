//! Sequences of tokens.

use super::{Attr, Attrs, Op, count, sequence};
use crate::error::{Result, shape};
use candlelight_kernels::tokens::patch::check_ids;
use candlelight_kernels::tokens::sequence::check_order;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Adds a table to every sample, such as position embeddings. Inputs x (B, N, D) and a table (N, D) -> (B, N, D).
#[derive(Debug, Clone, Copy)]
pub struct AddTable;

impl Op for AddTable {
    fn name(&self) -> &'static str {
        "add_table"
    }

    fn arity(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let (x, table) = (inputs[0], inputs[1]);
        let per = x.get(1..).unwrap_or(&[]);
        if per.is_empty() || per != &table[table.len().saturating_sub(per.len())..] || count(per) != count(table) {
            return shape("add_table", format!("x {x:?}, table {table:?}: expected a table {per:?}"));
        }
        Ok(x.to_vec())
    }
}

/// Tokens by number. Input x (B, N, D) -> (B, K, D).
#[derive(Debug, Clone)]
pub struct GatherTokens {
    /// The numbers of the tokens of each sample, (B, K), below N.
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
            return shape(
                "gather_tokens",
                format!("{} ids for {b} samples, expected equally many for each", self.ids.len()),
            );
        }
        Ok(vec![b, k, d])
    }
}

/// Puts a token before the others of every sample. Inputs x (B, N, D) and a token of D values -> (B, N + 1, D).
#[derive(Debug, Clone, Copy)]
pub struct PrependToken;

impl Op for PrependToken {
    fn name(&self) -> &'static str {
        "prepend_token"
    }

    fn arity(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let [b, n, d] = sequence("prepend_token", inputs[0])?;
        if count(inputs[1]) != d {
            return shape(
                "prepend_token",
                format!("x {:?}, token {:?}: expected a token of {d} values", inputs[0], inputs[1]),
            );
        }
        Ok(vec![b, n + 1, d])
    }
}

/// MAE's decoder input: tokens back in image order, with mask tokens in the gaps. Inputs x (B, 1 + K, D), a mask token of D values, and
/// positions of (1 + L) D values -> (B, 1 + L, D).
#[derive(Debug, Clone)]
pub struct UnshuffleTokens {
    /// The place of image token j among the shuffled tokens, (B, L); K or more says that the token was removed.
    pub restore: Arc<[u32]>,
}

impl Op for UnshuffleTokens {
    fn name(&self) -> &'static str {
        "unshuffle_tokens"
    }

    fn arity(&self) -> RangeInclusive<usize> {
        3..=3
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let [b, k1, d] = sequence("unshuffle_tokens", inputs[0])?;
        let l = self.restore.len() / b.max(1);
        check_order(&self.restore, b)?;
        if k1 == 0 || count(inputs[1]) != d || count(inputs[2]) != (l + 1) * d {
            let (x, m, p) = (inputs[0], inputs[1], inputs[2]);
            return shape(
                "unshuffle_tokens",
                format!("x {x:?}, mask token {m:?}, positions {p:?}: expected {d} and {} values", (l + 1) * d),
            );
        }
        Ok(vec![b, l + 1, d])
    }
}

/// The mean of the tokens. Input x (B, N, D) -> (B, D).
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
}
