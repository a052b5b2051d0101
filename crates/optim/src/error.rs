//! Errors of optimizers.

/// What can go wrong in an optimizer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// From candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A setting that makes no sense.
    #[error("{0}")]
    Config(String),
    /// A parameter that no rule covers.
    #[error("no parameter group for {0}: end the rules with one that matches everything")]
    Uncovered(String),
    /// Saved state that does not fit.
    #[error("optimizer state: {0}")]
    State(String),
    /// A gradient that is not finite; nothing was changed.
    #[error("the norm of the gradients is {norm}, not a finite number: the update was not made")]
    NonFinite {
        /// The norm.
        norm: f64,
    },
    /// From the tape.
    #[error(transparent)]
    Autograd(#[from] candlelight_autograd::Error),
    /// From a kernel.
    #[error(transparent)]
    Kernel(#[from] candlelight_kernels::Error),
}

/// The optimizers' result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
