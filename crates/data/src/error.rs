//! The errors of this crate.

use std::path::PathBuf;

/// What can go wrong with data.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder that cannot be used.
    #[error("{}: {message}", .path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A file or folder that the system could not read or write. Unlike [`Error::File`], it keeps the system's error,
    /// whose kind tells whether another try may help.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// Bytes or pixels that cannot become the image that is wanted.
    #[error("{0}")]
    Decode(String),
    /// Labels that are missing or doubtful where they are needed.
    #[error("{0}")]
    Labels(String),
    /// A setting that is out of range or does not fit the data.
    #[error("{0}")]
    Config(String),
    /// An error of a kernel.
    #[error(transparent)]
    Kernel(#[from] candlelight_kernels::Error),
    /// Too many samples could not be read.
    #[error(
        "{bad} of {total} samples cannot be read, more than the {allowed} allowed by max_bad; the first one: {first}"
    )]
    TooManyBad {
        /// Unreadable samples so far.
        bad: usize,
        /// Samples of the data set.
        total: usize,
        /// Samples that may be unreadable.
        allowed: usize,
        /// Name and error of the first unreadable sample.
        first: String,
    },
}

/// Numbers of the system's errors that a network drive gives and that pass: an interrupted call, an input/output error, a
/// resource that is busy or not there just now, a stale handle of a file that was moved on the server, a time-out.
#[cfg(target_os = "linux")]
const PASSING: [i32; 6] = [4, 5, 11, 16, 116, 110];
#[cfg(not(target_os = "linux"))]
const PASSING: [i32; 6] = [4, 5, 35, 16, 70, 60];

impl Error {
    /// Whether reading the same file again may go well: the error is an interruption, a time-out, or one that network
    /// drives give in passing (EIO, EAGAIN, EBUSY, ESTALE). An [`Error::File`] is judged by the number of the system's
    /// error that its message ends with.
    pub fn is_transient(&self) -> bool {
        use std::io::ErrorKind::{Interrupted, ResourceBusy, StaleNetworkFileHandle, TimedOut, WouldBlock};
        match self {
            Error::Io { source, .. } => {
                matches!(source.kind(), Interrupted | ResourceBusy | StaleNetworkFileHandle | TimedOut | WouldBlock)
                    || source.raw_os_error().is_some_and(|n| PASSING.contains(&n))
            }
            Error::File { message, .. } => {
                let number = message.rsplit_once("(os error ").and_then(|(_, end)| end.strip_suffix(')'));
                number.and_then(|n| n.parse().ok()).is_some_and(|n: i32| PASSING.contains(&n))
            }
            _ => false,
        }
    }
}

/// The data crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) fn file(path: impl Into<PathBuf>, message: impl std::fmt::Display) -> Error {
    Error::File { path: path.into(), message: message.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_pass_are_told_from_those_that_stay() {
        let io = |n: i32| std::io::Error::from_raw_os_error(n);
        for n in PASSING {
            assert!(file("a.jpg", io(n)).is_transient(), "{n}");
            assert!(Error::Io { path: "a.jpg".into(), source: io(n) }.is_transient(), "{n}");
        }
        let timed_out = std::io::Error::from(std::io::ErrorKind::TimedOut);
        assert!(Error::Io { path: "a.jpg".into(), source: timed_out }.is_transient());
        for e in [file("a.jpg", io(2)), file("a.jpg", "is not a picture (os error 5) of mine")] {
            assert!(!e.is_transient(), "{e}");
        }
        assert!(!Error::Io { path: "a.jpg".into(), source: io(13) }.is_transient());
        assert!(!Error::Decode("JPEG: Input/output error (os error 5)".into()).is_transient());
    }
}
