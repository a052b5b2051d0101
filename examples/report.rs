//! Writes a page on runs, or on a comparison of `finegrained`: curves, figures, the confusion of classes, the worst mistakes as pictures with what
//! the model looked at. It prints the file, which needs nothing else.
//!
//! ```text
//! cargo run --release --example report -- output/finegrained/birds
//! cargo run --release --example report -- output/train/NAME --data DATA --split test
//! ```

use candlelight_cli::report::Args;
use candlelight_cli::{Result, start};
use std::process::ExitCode;

fn run(args: &Args) -> Result<ExitCode> {
    let (path, runs) = args.run()?;
    println!("{}: {runs} {}", path.display(), if runs == 1 { "run" } else { "runs" });
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    start(run)
}
