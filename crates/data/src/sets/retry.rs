//! Reading files over networks: an error that passes is tried again before it counts.

use crate::error::{Result, file};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

/// How often an operation is tried.
const TRIES: u32 = 3;

/// Whether an error may be gone a moment later: interrupted calls, time-outs, and what network file systems report while they recover.
pub(crate) fn passes(e: &io::Error) -> bool {
    // EIO, EAGAIN, EBUSY, ESTALE, ETIMEDOUT, EREMOTEIO on Linux.
    let code = cfg!(target_os = "linux") && matches!(e.raw_os_error(), Some(5 | 11 | 16 | 110 | 116 | 121));
    code || matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Runs `f` until it works, three times at most, with 20 and 80 milliseconds between.
pub(crate) fn retried<T>(mut f: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut pause = Duration::from_millis(20);
    for _ in 1..TRIES {
        match f() {
            Err(e) if passes(&e) => std::thread::sleep(pause),
            done => return done,
        }
        pause *= 4;
    }
    f()
}

/// A file's bytes.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    retried(|| std::fs::read(path)).map_err(|e| file(path, e))
}

/// A file's bytes, unless they are more than `most`. The file is opened once and asked for its size through its handle.
pub(crate) fn read_below(path: &Path, most: u64) -> Result<Vec<u8>> {
    let read = || -> io::Result<Result<Vec<u8>, u64>> {
        let mut f = File::open(path)?;
        let size = f.metadata()?.len();
        if size > most {
            return Ok(Err(size));
        }
        let mut bytes = Vec::with_capacity(size as usize);
        // A file that grows meanwhile must not exceed the limit either.
        io::Read::read_to_end(&mut io::Read::take(&mut f, most), &mut bytes)?;
        Ok(Ok(bytes))
    };
    match retried(read).map_err(|e| file(path, e))? {
        Ok(bytes) => Ok(bytes),
        Err(size) => {
            Err(file(path, format!("the file has {size} bytes, which exceed the limit of {most} (max_bytes)")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_pass_are_tried_again_and_others_are_not() {
        let mut left = 2;
        let flaky = || {
            if left == 0 {
                return Ok(7);
            }
            left -= 1;
            Err(io::Error::from(ErrorKind::TimedOut))
        };
        assert_eq!(retried(flaky).unwrap(), 7);
        let mut calls = 0;
        let missing: io::Result<()> = retried(|| {
            calls += 1;
            Err(ErrorKind::NotFound.into())
        });
        assert!(missing.is_err() && calls == 1);
        let mut calls = 0;
        let broken: io::Result<()> = retried(|| {
            calls += 1;
            Err(ErrorKind::TimedOut.into())
        });
        assert!(broken.is_err() && calls == 3);
    }
}
