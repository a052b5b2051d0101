#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod adamw;
mod ema;
mod rules;
mod sgd;

pub use adamw::{AdamW, AdamWConfig, CandleAdamW};
pub use ema::Ema;
pub use rules::{Group, Rule, assign, layer_decay_mae, layer_decay_timm, mae_rules};
pub use sgd::{Sgd, SgdKind};

use candle_core::Tensor;
use candlelight_autograd::Gradients;
use std::collections::HashMap;

/// What every optimizer does. Its learning rate comes with each step, from a schedule.
pub trait Optimizer {
    /// Updates done so far.
    fn updates(&self) -> u64;

    /// One update of every parameter; a group's `lr_scale` multiplies `lr`.
    ///
    /// # Errors
    /// When a gradient is missing; then nothing is changed.
    fn step(&mut self, grads: &Gradients, lr: f64) -> Result<()>;

    /// The state by name, for a checkpoint.
    ///
    /// # Errors
    /// Those of candle.
    fn state(&self) -> Result<Vec<(String, Tensor)>>;

    /// Takes over saved state and the number of updates.
    ///
    /// # Errors
    /// When something is missing or of another shape; then nothing is changed.
    fn load_state(&mut self, state: &HashMap<String, Tensor>, updates: u64) -> Result<()>;
}

/// Refuses a step that would leave a parameter out.
fn check_present<'a>(grads: &Gradients, mut names: impl Iterator<Item = &'a str>) -> Result<()> {
    let missing = grads.missing();
    match names.find(|n| missing.iter().any(|m| m == n)) {
        Some(n) => Err(candlelight_autograd::Error::NoGradient { names: vec![n.into()] }.into()),
        None => Ok(()),
    }
}

/// What can go wrong in an optimizer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// From candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A setting that makes no sense.
    #[error("{0}")]
    Config(String),
    /// A parameter no rule covers.
    #[error("no parameter group for {0}: end the rules with one that matches everything")]
    Uncovered(String),
    /// Saved state that does not fit.
    #[error("optimizer state: {0}")]
    State(String),
    /// From the tape.
    #[error(transparent)]
    Autograd(#[from] candlelight_autograd::Error),
    /// From a kernel.
    #[error(transparent)]
    Kernel(#[from] candlelight_kernels::Error),
}

/// The optimizers' result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
