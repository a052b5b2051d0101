//! Signals. SIGINT, SIGTERM and SIGHUP stop a run after the step in progress, and it is saved; a second one ends the process at once.
//! SIGUSR1 saves the run, which goes on; schedulers such as Slurm send it before the time is up.

use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Remembers which signal arrived.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    stop: Arc<AtomicUsize>,
    save: Arc<AtomicBool>,
}

impl Signals {
    /// Catches the signals for the rest of the process.
    ///
    /// # Errors
    /// The errors of the system.
    pub fn install() -> std::io::Result<Self> {
        use signal_hook::consts;
        let signals = Signals::default();
        #[cfg(unix)]
        let stopping = [consts::SIGINT, consts::SIGTERM, consts::SIGHUP];
        #[cfg(not(unix))]
        let stopping = [consts::SIGINT, consts::SIGTERM];
        // Ctrl-C and then a closed terminal are two signals of two kinds: any second one ends the process.
        let armed = Arc::new(AtomicBool::new(false));
        for signal in stopping {
            // Order matters: the first signal finds `armed` false, sets it, and only the second ends the process.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, armed.clone())?;
            signal_hook::flag::register(signal, armed.clone())?;
            signal_hook::flag::register_usize(signal, signals.stop.clone(), signal as usize)?;
        }
        #[cfg(unix)]
        signal_hook::flag::register(consts::SIGUSR1, signals.save.clone())?;
        Ok(signals)
    }

    /// The number of the signal that asks to stop, if one arrived.
    pub fn caught(&self) -> Option<i32> {
        match self.stop.load(Ordering::Relaxed) {
            0 => None,
            s => Some(s as i32),
        }
    }

    /// Whether a save was asked for since the last call.
    pub fn take_save(&self) -> bool {
        self.save.swap(false, Ordering::Relaxed)
    }

    /// An error where a signal waits to be answered, so that what takes long ends.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn check(&self) -> Result<()> {
        match self.caught().is_some() || self.save.load(Ordering::Relaxed) {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }

    /// Asks to stop as the signal of this number does.
    pub fn stop(&self, signal: i32) {
        self.stop.store(usize::try_from(signal).unwrap_or(0), Ordering::Relaxed);
    }

    /// Asks for a save as SIGUSR1 does.
    pub fn save(&self) {
        self.save.store(true, Ordering::Relaxed);
    }
}
