#![doc = include_str!("../README.md")]
#![warn(missing_docs)]
#![forbid(unsafe_code)]

pub mod avg_checkpoints;
pub mod chart;
pub mod common;
mod config;
pub mod data;
mod device;
pub mod draw;
pub mod ensemble;
pub mod evaluate;
pub mod explain;
pub mod export;
mod features;
pub mod finegrained;
pub mod gpu_check;
pub mod inspect;
pub mod inspect_data;
pub mod lr_find;
pub mod mae_finetune;
pub mod mae_linprobe;
pub mod mae_pretrain;
pub mod mae_visualize;
pub mod pack;
pub mod predict;
pub mod prepare;
mod progress;
pub mod prune;
pub mod report;
pub mod runs;
pub mod sched;
pub mod schedules;
mod start;
pub mod summary;
pub mod train;
pub mod watch;
pub mod weights;

pub use device::{device, device_name};
pub use progress::Progress;
pub use start::{Result, fail, log, parse, start};

use std::path::PathBuf;

/// The folder of the images that come with the repository.
pub fn shipped_data() -> PathBuf {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/data");
    path.canonicalize().unwrap_or(path)
}

/// Parses a value from the name that configurations write for it.
///
/// # Errors
/// When it is none; the error lists those that are.
pub fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> std::result::Result<T, String> {
    serde_json::from_value(text.into()).map_err(|e| e.to_string())
}

/// An image size as one number where it is square, else as `HEIGHTxWIDTH`.
pub(crate) fn shown_size((h, w): (usize, usize)) -> String {
    if h == w { h.to_string() } else { format!("{h}x{w}") }
}

/// A path that no earlier run has: NAME, NAME2, NAME3, ...
pub(crate) fn numbered(first: &std::path::Path) -> PathBuf {
    let mut path = first.to_path_buf();
    let name = first.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    for n in 2.. {
        if !path.exists() {
            break;
        }
        path = first.with_file_name(format!("{name}{n}"));
    }
    path
}

/// Logs what a library guessed or chose, one line each.
pub fn say(notes: &[String]) {
    notes.iter().for_each(|n| tracing::info!("{n}"));
}
