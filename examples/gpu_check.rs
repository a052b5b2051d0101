//! Whether a GPU computes what the CPU computes, and how fast: a table of operations, training steps and times. Exits with 0 only if all is right.
//!
//! ```text
//! cargo run --release --features cuda --example gpu_check
//! ```

use candlelight_cli::gpu_check::{Args, Row, copy_bandwidth, operations, speeds, steps, twice};
use candlelight_cli::{Result, device, start};
use std::process::ExitCode;

fn show(title: &str, rows: &[Row]) -> usize {
    println!("{title}: the norm of the difference divided by the norm of what is right");
    for r in rows {
        println!("  {:<60} {:>9.1e}  {}", r.name, r.error, if r.right() { "" } else { "WRONG" });
    }
    rows.iter().filter(|r| !r.right()).count()
}

fn run(args: &Args) -> Result<ExitCode> {
    let (device, seed) = (device(Some(args.device.as_deref().unwrap_or("cuda:0")))?, args.seed());
    println!("seed {seed}");
    let mut wrong = show("operations", &operations(&device, args.small, seed)?);
    wrong += show("training steps", &steps(&device, args.small, seed)?);
    wrong += show("determinism", &twice(&device, args.small, seed)?);
    if !args.small {
        let copy = copy_bandwidth(&device)?;
        println!("times in bf16 at 256 images; a copy moves {:.2} TB/s", copy / 1e12);
        for s in speeds(&device)? {
            let (us, rate) = (s.seconds * 1e6, s.bytes / s.seconds);
            let tera = s.flops / s.seconds / 1e12;
            println!("  {:<50} {us:>7.0} us  {:>5.0} % of a copy  {tera:>4.0} TFLOP/s", s.name, rate / copy * 100.0);
        }
    }
    println!("{}", if wrong == 0 { "all is right".into() } else { format!("{wrong} comparisons are wrong") });
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn main() -> ExitCode {
    start(run)
}
