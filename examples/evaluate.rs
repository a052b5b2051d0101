//! Top-1, top-5, loss, precision, recall and F1 of a classifier on a labelled data set, which it prints.
//!
//! ```text
//! cargo run --release --example evaluate -- IMAGENET --model vit_base_patch16 --weights mae_finetuned_vit_base.pth --split val
//! ```

use candlelight::engine::Verdict;
use candlelight_cli::evaluate::Args;
use candlelight_cli::{Result, device, runs, start};
use std::process::ExitCode;

fn run(args: &Args) -> Result<ExitCode> {
    let (on, device) = (&args.on, device(args.on.device.as_deref())?);
    let trained = args.from.load(on.size(), on.pos_interpolation, &device)?;
    let judged = on.data(&trained, args.style.is_some())?;
    let (metrics, real) = args.evaluate(&trained, &judged)?;
    if judged.loader.bad_samples() > 0 {
        println!("{} images could not be read and were left out", judged.loader.bad_samples());
    }
    runs::print(&Verdict::Classes(metrics.scores()));
    if let Some(real) = real {
        let (top1, top5, samples) = real.scores();
        println!("reassessed labels: top1 {top1:.3}, top5 {top5:.3} on {samples} images");
    }
    args.write(&metrics, &judged.data)?;
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    start(run)
}
