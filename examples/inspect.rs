//! Lists what a file of weights holds, and says why it does not fit a model.
//!
//! ```text
//! cargo run --release --example inspect -- yolov5s-cls.pt
//! cargo run --release --example inspect -- checkpoint.pth --tree
//! cargo run --release --example inspect -- checkpoint.pth --model resnet50
//! ```

use candlelight_cli::inspect::Args;
use candlelight_cli::{Result, start};
use std::process::ExitCode;

fn run(args: &Args) -> Result<ExitCode> {
    print!("{}", args.text()?);
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    start(run)
}
