//! Faults on purpose, for tests: the n-th file operation of this crate below a folder fails, so that a test can go through all of them.
//!
//! Nothing fails unless a test arms it. Operations are counted in [`crate::atomic`], [`crate::checkpoints`] and [`crate::run_folder`]:
//! making, writing, syncing, renaming and removing files. A write that fails has written half of its bytes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The one operation.
    Once,
    /// It and all after it, as on a full disk.
    Forever,
}

struct Armed {
    below: PathBuf,
    at: u64,
    fault: Fault,
    seen: u64,
}

static ON: AtomicBool = AtomicBool::new(false);
static ARMED: Mutex<Option<Armed>> = Mutex::new(None);

/// From here on operation number `at`, counted from 0, below a folder fails. There is one such fault at a time in a process.
pub fn arm(below: &Path, at: u64, fault: Fault) {
    *ARMED.lock().unwrap_or_else(PoisonError::into_inner) = Some(Armed { below: below.into(), at, fault, seen: 0 });
    ON.store(true, Ordering::SeqCst);
}

/// Ends it; returns how many operations there were.
pub fn disarm() -> u64 {
    ON.store(false, Ordering::SeqCst);
    ARMED.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(0, |a| a.seen)
}

/// Counts an operation on a file; an error where it has to fail.
pub(crate) fn operation(path: &Path) -> io::Result<()> {
    if !ON.load(Ordering::Relaxed) {
        return Ok(());
    }
    let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(a) = armed.as_mut().filter(|a| path.starts_with(&a.below)) else { return Ok(()) };
    let now = a.seen;
    a.seen += 1;
    match a.fault {
        Fault::Once if now != a.at => Ok(()),
        Fault::Forever if now < a.at => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device (made to fail)")),
    }
}

/// Waits before another attempt; not in a test of faults, which would take long.
pub fn pause(time: Duration) {
    if !ON.load(Ordering::Relaxed) {
        std::thread::sleep(time);
    }
}

/// A file whose writes are counted.
#[derive(Debug)]
pub(crate) struct Counted<'a> {
    pub(crate) file: &'a mut std::fs::File,
    pub(crate) path: &'a Path,
}

impl io::Write for Counted<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if let Err(e) = operation(self.path) {
            self.file.write_all(&buf[..buf.len() / 2])?;
            return Err(e);
        }
        self.file.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl io::Seek for Counted<'_> {
    fn seek(&mut self, pos: io::SeekFrom) -> io::Result<u64> {
        self.file.seek(pos)
    }
}
