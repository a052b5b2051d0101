//! Draws what a model looks at: Grad-CAM and its kin, attention rollouts, occlusion, integrated gradients. Prints a line per image and method,
//! and writes overlays, a sheet and the maps as JSON into runs/explain.
//!
//! ```text
//! cargo run --release --example explain -- --weights output/train/NAME/best.safetensors --source photos/
//! cargo run --release --example explain -- --model resnet50 --pretrained --source cat.jpg --method gradcam,layercam,occlusion --judge
//! ```

use candlelight_cli::explain::{Args, Found};
use candlelight_cli::{Result, device, start};
use std::process::ExitCode;

fn run(args: &Args) -> Result<ExitCode> {
    let predictor = args.predictor(&device(args.device.as_deref())?)?;
    let (sources, mut written) = (args.sources()?, args.written()?);
    let (mut all, mut failed, n) = (Vec::<Found>::new(), 0, sources.len());
    for (i, (path, source)) in sources.into_iter().enumerate() {
        let (seen, found) = match args.run(&predictor, &path, source)? {
            Ok(found) => found,
            Err(e) => {
                failed += 1;
                tracing::error!("image {}/{n} {}: {e}", i + 1, path.display());
                continue;
            }
        };
        for f in &found {
            let judged = f.faithful.as_ref().map_or(String::new(), |j| {
                format!(", deletion {:.3} (lower is better), insertion {:.3} (higher)", j.deletion, j.insertion)
            });
            let (p, method) = (f.explanation.probability, f.method.name());
            println!("image {}/{n} {}: {} {p:.2}, {method}{judged}", i + 1, path.display(), f.name);
        }
        written.add(&path, seen, &found)?;
        all.extend(found);
    }
    written.finish(&args.methods(), &all)?;
    println!("Results saved to {}", written.folder.display());
    if failed > 0 {
        println!("{failed} of {n} images could not be read");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    start(run)
}
