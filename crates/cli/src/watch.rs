//! The flags of `watch`.

use clap::Parser;
use std::path::PathBuf;

/// Watch training runs on a page in the browser: curves, images per second, pictures, the time left.
#[derive(Parser, Debug)]
#[command(name = "watch", version, rename_all = "snake_case")]
pub struct Args {
    /// Folders of runs, or folders that hold some; all of them are in the same charts
    #[arg(default_value = "output_dir")]
    pub output_dirs: Vec<PathBuf>,
    /// The port of 127.0.0.1 that serves the page; 0 takes a free one
    #[arg(long, default_value_t = 8765)]
    pub port: u16,
    /// Write the page to this file instead of serving it
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}
