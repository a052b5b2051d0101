//! Handles SIGINT and SIGTERM: the run finishes the step in progress and saves. A second signal ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Remembers which signal arrived.
#[derive(Debug, Clone, Default)]
pub struct Signals(Arc<AtomicUsize>);

impl Signals {
    /// Catches both signals for the rest of the process.
    ///
    /// # Errors
    /// The errors of the system.
    pub fn install() -> std::io::Result<Self> {
        let signals = Signals::default();
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            let armed = Arc::new(AtomicBool::new(false));
            // Order matters: the first signal finds `armed` false, sets it, and only the second ends the process.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, armed.clone())?;
            signal_hook::flag::register(signal, armed)?;
            signal_hook::flag::register_usize(signal, signals.0.clone(), signal as usize)?;
        }
        Ok(signals)
    }

    /// The number of the signal that arrived, if one did.
    pub fn caught(&self) -> Option<i32> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            s => Some(s as i32),
        }
    }
}
