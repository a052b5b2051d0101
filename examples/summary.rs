//! Prints the layers of a model by its name or of a file of weights: shapes, parameters, multiply-adds, memory.
//!
//! ```text
//! cargo run --release --example summary -- resnet50
//! cargo run --release --example summary -- resnet18 --num_classes 200 --input_size 256 --trained head
//! cargo run --release --example summary -- yolov5s-cls.pt --model yolov5s-cls
//! ```

use candlelight_cli::summary::Args;
use candlelight_cli::{Result, start};
use std::process::ExitCode;

fn run(args: &Args) -> Result<ExitCode> {
    println!("{}", args.text(&args.summary()?)?);
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    start(run)
}
