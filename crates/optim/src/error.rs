//! Errors of optimizers.

/// The errors of optimizers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An error of candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A setting that is out of range or does not fit the others.
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
    /// An error of the tape.
    #[error(transparent)]
    Autograd(#[from] candlelight_autograd::Error),
    /// An error of a kernel.
    #[error(transparent)]
    Kernel(#[from] candlelight_kernels::Error),
}

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
