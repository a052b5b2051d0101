//! Averages the weights of the best models of a run, as timm's avg_checkpoints. Prints which models went in, with their scores, and where
//! the mean is, which `evaluate` and `predict` take as any checkpoint.
//!
//! ```text
//! cargo run --release --example avg_checkpoints -- output/train/NAME -n 5 --output averaged.safetensors
//! ```

use candlelight_cli::avg_checkpoints::Args;
use candlelight_cli::{Result, start};
use std::process::ExitCode;

fn run(args: &Args) -> Result<ExitCode> {
    let mut sources = args.sources()?;
    for source in &sources {
        let score = source.score.map_or(String::new(), |s| format!("  score {s:.3}"));
        println!("{}{score}", source.path.display());
    }
    args.average(&mut sources)?;
    println!("the mean of {} models is in {}", sources.len(), args.output.display());
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    start(run)
}
