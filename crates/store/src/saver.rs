//! One save in flight on a thread of its own.

use crate::error::{Error, Result};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Runs one save at a time on a thread, so that what saves need not stand still. What is being written must not change before
/// [`Saver::wait`] has come back.
#[derive(Debug, Default)]
pub struct Saver<T> {
    running: Option<JoinHandle<Result<T>>>,
}

impl<T: Send + 'static> Saver<T> {
    /// Begins a save. One that is still in flight is waited for first; what came of it is given back.
    pub fn start(&mut self, save: impl FnOnce() -> Result<T> + Send + 'static) -> Option<Result<T>> {
        let before = self.wait();
        let save = Arc::new(Mutex::new(Some(save)));
        let there = save.clone();
        let run = move || match there.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(save) => save(),
            None => Err(Error::Config("the save was begun twice".into())),
        };
        match std::thread::Builder::new().name("save".into()).spawn(run) {
            Ok(handle) => {
                self.running = Some(handle);
                before
            }
            // Without a thread the save is made here.
            Err(_) => {
                let save = save.lock().unwrap_or_else(PoisonError::into_inner).take();
                before.into_iter().chain(save.map(|s| s())).reduce(|a, b| a.and(b))
            }
        }
    }

    /// Waits for the save in flight and tells what came of it; `None` where there is none.
    pub fn wait(&mut self) -> Option<Result<T>> {
        let handle = self.running.take()?;
        Some(handle.join().unwrap_or_else(|_| Err(Error::Config("the thread that saves has panicked".into()))))
    }

    /// Whether a save is in flight that has not ended yet.
    pub fn busy(&self) -> bool {
        self.running.as_ref().is_some_and(|h| !h.is_finished())
    }
}

impl<T> Drop for Saver<T> {
    fn drop(&mut self) {
        if let Some(handle) = self.running.take() {
            // Nobody is left to be told; the file is whole or not there.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_save_runs_at_a_time_and_its_error_comes_with_the_next() {
        let mut saver = Saver::default();
        assert!(saver.wait().is_none());
        assert!(saver.start(|| Err(Error::Config("the disk is full".into()))).is_none());
        let e = saver.start(|| Ok(2)).unwrap().unwrap_err();
        assert!(e.to_string().contains("disk is full"));
        assert_eq!(saver.wait().unwrap().unwrap(), 2);
        assert!(saver.wait().is_none() && !saver.busy());
        saver.start(|| panic!("no"));
        assert!(saver.wait().unwrap().unwrap_err().to_string().contains("panicked"));
    }
}
