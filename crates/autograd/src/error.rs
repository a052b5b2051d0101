//! Errors of the tape.

/// What can go wrong while recording, in the backward pass, or with parameters.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that makes no sense.
    #[error("{0}")]
    Config(String),
    /// A shape does not fit an operation.
    #[error("{op}: {message}")]
    Shape {
        /// Name of the operation.
        op: &'static str,
        /// What was expected and found.
        message: String,
    },
    /// A parameter that should train got no gradient.
    #[error("no gradient for {}: the loss does not depend on {}; freeze what should not train", list(.names), if .names.len() == 1 { "it" } else { "them" })]
    NoGradient {
        /// Names of the parameters.
        names: Vec<String>,
    },
    /// A parameter is missing or has another shape.
    #[error("parameter {name}: {message}")]
    Param {
        /// State-dict name of the parameter.
        name: String,
        /// What was expected and found.
        message: String,
    },
    /// The memory of a device is full.
    #[error("{device}: no memory for {what}; {used_mb} of {total_mb} MB are in use")]
    Memory {
        /// The device, such as `cuda:0`.
        device: String,
        /// What was being computed.
        what: String,
        /// The megabytes in use, of all programs, at that moment.
        used_mb: u64,
        /// All megabytes of the device.
        total_mb: u64,
    },
    /// An error of another process, or of the connection to it.
    #[error(transparent)]
    Dist(#[from] candlelight_dist::Error),
    /// An error of a kernel.
    #[error(transparent)]
    Kernel(#[from] candlelight_kernels::Error),
    /// An error of candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

fn list(names: &[String]) -> String {
    let shown = names.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 5 { format!("{shown} and {} more", names.len() - 5) } else { shown }
}

impl From<Error> for candle_core::Error {
    fn from(e: Error) -> Self {
        match e {
            Error::Candle(e) => e,
            other => candle_core::Error::wrap(other),
        }
    }
}

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) fn shape<T>(op: &'static str, message: impl Into<String>) -> Result<T> {
    Err(Error::Shape { op, message: message.into() })
}
