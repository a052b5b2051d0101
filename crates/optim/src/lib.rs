#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod adamw;
mod rules;

pub use adamw::{AdamW, AdamWConfig, CandleAdamW};
pub use rules::{Group, Rule, assign, mae_rules};

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
