//! What can go wrong in a kernel: the caller's shapes or the caller's environment.

/// The errors of kernels.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A slice or a dimension does not fit the others.
    #[error("{op}: {what} has {found} elements, expected {expected}")]
    Len {
        /// The name of the kernel.
        op: &'static str,
        /// The name of the argument.
        what: &'static str,
        /// The length that the other arguments imply.
        expected: usize,
        /// The length that was given.
        found: usize,
    },
    /// A value outside its range.
    #[error("{op}: {message}")]
    Value {
        /// The name of the kernel.
        op: &'static str,
        /// What was expected and found.
        message: String,
    },
    /// The memory of a device is full.
    #[error("the memory of {device} is full: no {bytes} bytes more")]
    Full {
        /// The device, such as `cuda:0`.
        device: String,
        /// The bytes that were asked for.
        bytes: usize,
    },
    /// A device that is not there, or cannot do what is asked.
    #[error("{device}: {message}")]
    Device {
        /// The device, such as `cuda:0`.
        device: String,
        /// What is wrong, and what to do.
        message: String,
    },
}

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) fn expect_len(op: &'static str, what: &'static str, found: usize, expected: usize) -> Result<()> {
    if found == expected { Ok(()) } else { Err(Error::Len { op, what, expected, found }) }
}
