//! Draws learning rates over a run, as SVG, and prints for each schedule its first, highest and last rate.
//!
//! ```text
//! cargo run --release --example schedules
//! cargo run --release --example schedules -- --sched cosine step --epochs 30 --warmup_epochs 3 --warmup_prefix --output lr.svg
//! ```

use candlelight_cli::chart;
use candlelight_cli::schedules::Args;
use candlelight_cli::{Result, start};
use std::process::ExitCode;

fn run(args: &Args) -> Result<ExitCode> {
    let lines = args.sched.iter().map(|name| args.line(name)).collect::<Result<Vec<_>>>()?;
    println!("{:28} {:>6} {:>11} {:>11} {:>11}", "schedule", "epochs", "first", "highest", "last");
    for line in &lines {
        let rates = || line.points.iter().map(|(_, rate)| *rate);
        let (first, last) = (rates().next().unwrap_or_default(), rates().next_back().unwrap_or_default());
        let highest = rates().fold(f64::MIN, f64::max);
        let epochs = line.points.len() / args.updates;
        println!("{:28} {epochs:>6} {first:>11.3e} {highest:>11.3e} {last:>11.3e}", line.name);
    }
    chart::draw(&args.output, &[("learning rate", "epoch", lines)])?;
    println!("drawn to {}", args.output.display());
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    start(run)
}
